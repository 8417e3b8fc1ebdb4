"""The code of the README, of "Getting started" and of the how-tos runs as written, from top to bottom of each page."""

import pytest
from pages import DOCS, README, blocks, name

SHOWN = [README, *(path for path in DOCS if path.parent.name == "how-to" or path.stem == "getting-started")]


@pytest.mark.parametrize("path", [path for path in SHOWN if blocks(path, "python")], ids=name)
def test_every_block_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    for i, code in enumerate(blocks(path, "python")):
        exec(compile(code, f"{name(path)}, block {i + 1}", "exec"), names)


def test_the_pages_have_code():
    assert sum(len(blocks(path, "python")) for path in SHOWN) > 20
