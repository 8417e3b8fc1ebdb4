"""Every public function and class of metarl and envs is on an API page, with a docstring."""

import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys

import pytest
from pages import ROOT

import envs
import metarl

sys.path.append(str(ROOT / "docs"))
generate = importlib.import_module("generate")
docstrings = importlib.import_module("docstrings")

MODULES = sorted(
    found.name
    for package in (metarl, envs)
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not any(part.startswith("_") for part in found.name.split("."))
)


def public(module):
    """The functions and classes that `module` defines for others."""
    for name, value in vars(importlib.import_module(module)).items():
        defined = inspect.isfunction(value) or inspect.isclass(value)
        if defined and not name.startswith("_") and value.__module__ == module:
            yield name, value


def test_every_module_is_on_a_page():
    documented = re.findall(r"automodule:: (\S+)\n   :members:", "\n".join(generate.api_pages().values()))
    assert sorted(documented) == sorted(["metarl", "envs", *MODULES])


@pytest.mark.parametrize("module", ["envs", *MODULES])
def test_every_public_name_has_a_docstring(module):
    """A name without one would not be on the page."""
    silent = [name for name, value in public(module) if not vars(value).get("__doc__", value.__doc__)]
    assert not silent


def test_every_cited_paper_is_in_the_table():
    table = generate.papers()
    assert "[2007.08794]" in table and "`metarl/objectives/lpg.py`" in table and "Oh et al. 2020" in table


def test_docstrings_become_what_sphinx_reads():
    text = ["The mean of `a | b`, |c| and *d*.", "- one", "- two", "", "    x = f(y)"]
    assert docstrings.as_rst(text) == [
        *("The mean of \\ ``a | b``\\ , \\|c\\| and \\*d\\*.", "", "- one", "", "- two", ""),
        *("::", "", "    x = f(y)", ""),
    ]


def test_namedtuples_show_their_fields():
    assert docstrings.fields(metarl.Level).startswith("    problem: PyTree  #")
