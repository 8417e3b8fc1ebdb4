"""Every notebook runs as written, at smoke size, and each committed `.ipynb` was made from its `.py`."""

import ast
import base64
import re
from pathlib import Path

import jupytext
import pytest
from matplotlib.figure import Figure

PLACE = Path(__file__).parents[2] / "notebooks"
NAMES = sorted(path.stem for path in PLACE.glob("*.py"))


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_every_notebook_is_a_pair_and_listed():
    assert NAMES == sorted(path.stem for path in PLACE.glob("*.ipynb"))
    assert NAMES == sorted(re.findall(r"^\| \[(\w+)\]\(\1\.ipynb\)", (PLACE / "README.md").read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_was_made_from_the_source(name):
    made = jupytext.read(PLACE / f"{name}.ipynb")
    assert cells(made) == cells(jupytext.read(PLACE / f"{name}.py"))
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # from top to bottom, once
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    images = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert images and all(base64.b64decode(image).startswith(b"\x89PNG") for image in images)
    text = (PLACE / f"{name}.ipynb").read_text()
    assert len(text) < 500_000
    assert not re.search(r"[\"' (=](/tmp|/home|/root|/work|/Users|/opt)/", text)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_cell_runs_as_written(name, monkeypatch):
    """In this process, so that notebooks share compiled programs; with a kernel for each, they would not."""
    monkeypatch.setenv("METARL_SMOKE", "1")
    names: dict = {"__name__": "__main__"}
    for i, cell in enumerate(jupytext.read(PLACE / f"{name}.py").cells):
        if cell.cell_type == "code":
            shown = run(cell.source, f"{name}.py, cell {i}", names)
            if isinstance(shown, Figure):
                assert shown._repr_png_()  # what Jupyter displays


def run(source, file, names):
    """Runs a cell. Returns what Jupyter would display: the value of the last line, if that is an expression."""
    *body, last = ast.parse(source).body
    shown = last.value if isinstance(last, ast.Expr) else None
    exec(compile(ast.Module(body if shown else [*body, last], []), file, "exec"), names)
    return shown and eval(compile(ast.Expression(shown), file, "eval"), names)
