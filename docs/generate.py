"""The pages that are made from the sources at every build: API, papers, shipped rules, environments, notebooks.

So a new file needs no line here. What is made is not committed.
"""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("metarl", "envs")  # what has API pages
ARXIV = re.compile(r"arXiv:?\s+(\d{4}\.\d{4,5})")
NAMES = r"([A-Z][\w'-]+(?: (?:et\s+al\.|and [A-Z][\w'-]+))?)"
AUTHORS = re.compile(rf"{NAMES},?\s+\(?(\d{{4}}),?(?: \"[^\"]*\")?\s+\(?arXiv:?\s+(\d{{4}}\.\d{{4,5}})")
NUMBER = r"(-?[\d.]+)"
ROW = re.compile(rf"^\| ([^|]+) \| {NUMBER} \[{NUMBER}, {NUMBER}\] \|$", re.MULTILINE)
CURVE = re.compile(r"^Curve of (\w+): (.*)$", re.MULTILINE)


def everything(docs: Path) -> None:
    """Writes all of it below `docs`."""
    for name, text in api_pages().items():
        write(docs / "api" / f"{name}.md", text)
    generated = docs / "generated"
    write(generated / "papers.md", papers())
    write(generated / "rules.md", rules(generated / "rules"))
    write(generated / "environments.md", environments(generated / "environments"))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        write(docs / "gallery" / notebook.name, notebook.read_text())


def write(path: Path, text: str) -> None:
    """Writes a file if its text is new, so that Sphinx reads only pages that changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


# API


def modules() -> Iterator[str]:
    """The public modules and packages of `PACKAGES`, in their order, found by file and not imported."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if not any(part.startswith("_") for part in name.split(".")):
                yield name


def api_pages() -> dict[str, str]:
    """One page per package, with a section per module, and an index."""
    pages: dict[str, list[str]] = defaultdict(list)
    for module in modules():
        pages[module if _is_package(module) else module.rpartition(".")[0]].append(module)
    texts = {package: _api_page(package, names) for package, names in pages.items()}
    rows = "\n".join(f"| [`{package}`]({package}.md) | {_first_line(package)} |" for package in sorted(pages))
    tree = "\n".join(sorted(pages))
    texts["index"] = (
        "# API\n\nOne page per package, one section per module. The names that `import metarl` gives are in "
        f"[`metarl`](metarl.md).\n\n| package | what it is |\n|---|---|\n{rows}\n\n"
        f"```{{toctree}}\n:hidden:\n\n{tree}\n```\n"
    )
    return texts


def _api_page(package: str, names: list[str]) -> str:
    sections = [f"# `{package}`"]
    if package == "metarl":
        sections.append(_short_names())
    for name in names:
        if name != package:
            sections.append(f"## `{name}`")
        sections.append(f"```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n   :ignore-module-all:\n```")
    return "\n\n".join(sections) + "\n"


def _short_names() -> str:
    rows = []
    for node in ast.parse((ROOT / "metarl" / "__init__.py").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            rows += [f"| `metarl.{alias.name}` | `{node.module}` |" for alias in node.names]
    return "| name | where it is described |\n|---|---|\n" + "\n".join(rows)


def _is_package(module: str) -> bool:
    return (ROOT / Path(*module.split("."))).is_dir()


def _first_line(module: str) -> str:
    path = ROOT / Path(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(source.read_text())) or "").split("\n")[0]


# Papers


def papers() -> str:
    """A table of the papers that the sources cite by their numbers at arXiv, and of what cites them."""
    citing: dict[str, dict[str, None]] = defaultdict(dict)
    authors: dict[str, str] = {}
    for package in (*PACKAGES, "experiments"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for name, text in citations(path):
                for number in ARXIV.findall(text):
                    citing[number][name] = None
                for names, year, number in AUTHORS.findall(" ".join(text.split())):
                    authors.setdefault(number, f"{names} {year}")
    rows = (
        f"| {authors.get(number, '')} | [{number}](https://arxiv.org/abs/{number}) | {'; '.join(citing[number])} |"
        for number in sorted(citing)
    )
    return "| paper | arXiv | where |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def citations(path: Path) -> Iterator[tuple[str, str]]:
    """What of a file has a docstring, and that docstring; the file itself, and all its text, if no docstring cites."""
    text, file = path.read_text(), f"`{path.relative_to(ROOT)}`"
    cited: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            docstring = ast.get_docstring(node) or ""
            cited |= set(ARXIV.findall(docstring))
            yield file if isinstance(node, ast.Module) else f"`{node.name}` in {file}", docstring
    if set(ARXIV.findall(text)) - cited:
        yield file, text


# Shipped rules


def rules(pictures: Path) -> str:
    """The card of every shipped rule and agent, with its learning curve and its evaluation as a picture."""
    sections, place = [], ROOT / "metarl" / "pretrained"
    for path in (*sorted(place.glob("*.md")), *sorted(place.glob("agents/*.md"))):
        card = path.read_text()
        _draw(pictures / f"{path.stem}.png", card, lambda target, card=card: draw_card(target, card))
        title, _, body = card.partition("\n")
        body = CURVE.sub("", body).strip()
        picture = f"![Meta-training and evaluation of {path.stem}](generated/rules/{path.stem}.png)"
        sections.append(f"#{title}\n\n{picture}\n\n{body}")
    return "\n\n".join(sections) + "\n"


def draw_card(path: Path, card: str) -> None:
    """The curves of a card beside the intervals of its evaluation."""
    from metarl import plot

    curves = CURVE.findall(card)
    figure, axes = plot.panels(len(curves) + 1, size=(4.2, 2.9))
    for axis, (name, numbers) in zip(axes, curves, strict=False):
        values = [float(x) for x in numbers.split(",")]
        axis.plot([(i + 0.5) / len(values) for i in range(len(values))], values, color=plot.BLUE)
        axis.set(xlabel="share of the meta-training", ylabel=name.replace("_", " "))
    rows = {name: tuple(map(float, numbers)) for name, *numbers in ROW.findall(card) if " minus " not in name}
    plot.intervals(rows, "held-out score", axis=axes[-1])
    plot.save(figure, path)


# Environments


def environments(pictures: Path) -> str:
    """A table of what `envs.make` knows by name, and pictures of some levels with their best returns."""
    import envs

    shown = ("gridworld/small", "gridworld/large", "gridworld/dense", "gridworld/longer", "gridworld/mazes")
    _draw(pictures / "levels.png", json.dumps(shown), lambda path: draw_levels(path, shown))
    ours = [name for name in envs.names() if "/" in name]
    rows = []
    for name in ours:
        levels = envs.make(name)
        env = levels.environment
        params = env.default_params
        spaces = [_space(space(params)) for space in (env.observation_space, env.action_space)]
        known = "exact" if levels.optimal_return else "-"
        rows.append(f"| `{name}` | {spaces[0]} | {spaces[1]} | {known} |")
    picture = "![Levels of some gridworlds, with the best expected return](generated/environments/levels.png)"
    table = "| name | observation | action | best return |\n|---|---|---|---|\n" + "\n".join(rows)
    return f"{picture}\n\n{table}\n"


def draw_levels(path: Path, names: tuple[str, ...]) -> None:
    """One level of each of `names`, with its best expected return."""
    import jax

    import envs
    from metarl import plot

    images = {}
    for name in names:
        levels = envs.make(name)
        problem = levels.sample(jax.random.key(0)).problem
        best = jax.jit(levels.optimal_return)(problem)
        images[f"{name}\nbest return {best:.2f}"] = levels.render(problem, None)
    plot.save(plot.pictures(images), path)


def _space(space: object) -> str:
    if hasattr(space, "n"):
        return f"one of {space.n}"
    return f"array {list(space.shape)}"


def _draw(path: Path, source: str, draw: Callable[[Path], None]) -> None:
    """Draws a picture if it is not there, or if `source`, what it is made of, has changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    note = path.with_suffix(".source")
    if not path.is_file() or not note.is_file() or note.read_text() != source:
        draw(path)
        note.write_text(source)
