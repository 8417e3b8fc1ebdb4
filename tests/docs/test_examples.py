"""The code of the README, of "Getting started" and of the how-tos runs as written, from top to bottom of each page."""

import importlib.util
import sys

import pytest
from pages import DOCS, README, blocks, name

SHOWN = [README, *(path for path in DOCS if path.parent.name == "how-to" or path.stem == "getting-started")]


@pytest.mark.parametrize("path", [path for path in SHOWN if blocks(path, "python")], ids=name)
def test_every_block_runs(path, tmp_path, monkeypatch):
    """As one module in a file, because options of command lines are read from the source of their class."""
    file = tmp_path / "page.py"
    file.write_text("\n\n".join(blocks(path, "python")))
    spec = importlib.util.spec_from_file_location("page", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "page", module)
    monkeypatch.chdir(tmp_path)
    spec.loader.exec_module(module)


def test_the_pages_have_code():
    assert sum(len(blocks(path, "python")) for path in SHOWN) > 20
