"""Sphinx configuration: `python -m sphinx -W docs docs/_build` builds the site without a network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import docstrings  # noqa: E402
import generate  # noqa: E402

import metarl  # noqa: E402

project = "metarl"
author = "The metarl contributors"
copyright = author
release = metarl.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
if os.environ.get("METARL_DOCS_INTERSPHINX"):  # links into other projects' pages; downloads their lists of names
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "jax": ("https://docs.jax.dev/en/latest", None),
        "optax": ("https://optax.readthedocs.io/en/latest", None),
    }
exclude_patterns = ["_build", "generated", "jupyter_execute"]
suppress_warnings = ["ref.python"]  # a type in a signature that two modules define, such as Targets

html_theme = "sphinx_book_theme"
html_title = "metarl"
html_static_path = ["_static"]
html_theme_options = {"show_toc_level": 2, "use_download_button": False}

nb_execution_mode = "off"  # the notebooks show their committed outputs
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"

generate.everything(HERE)


def setup(app):
    app.connect("autodoc-process-docstring", docstrings.process)
    app.connect("autodoc-skip-member", docstrings.skip)
