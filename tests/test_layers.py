"""Dependencies point down the layers of the library, without circles, and nobody asks what environment it has."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# lower layers first: each imports only from its own and from those before it
LAYERS = (
    *(
        "checks",
        "types",
        "interface",
        "tree",
        "formulas",
        "gradients",
        "meta",
        "parallel",
        "rl",
        "strategies",
        "optimizers",
        "rewards",
    ),
    *("objectives", "inner", "estimators", "curricula", "active", "populations", "finetune", "run", "pretrained"),
    *("plot", "saved_levels", "rules", "saved_agents", "distil", "evaluation"),
)
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "metarl").rglob("*.py"))
}


def imports(node: ast.AST, inside_function: bool, in_functions: bool) -> Iterator[str]:
    """Modules of metarl that `node` imports in functions, or outside of them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if inside_function == in_functions:
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names if alias.name in FILES)
            if isinstance(child, ast.ImportFrom) and child.module in FILES:
                names = (f"{child.module}.{alias.name}" for alias in child.names)
                yield from (name if name in FILES else str(child.module) for name in names)
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports(child, inside_function or is_function, in_functions)


def graph(in_functions: bool) -> dict[str, set[str]]:
    return {
        name: set(imports(ast.parse(path.read_text()), False, in_functions)) - {name} for name, path in FILES.items()
    }


def layer(module: str) -> int:
    """The place of a module; of the package itself, which imports all, the last."""
    _, _, rest = module.partition(".")
    return LAYERS.index(rest.split(".")[0]) if rest else len(LAYERS)


@pytest.mark.parametrize("in_functions", [False, True], ids=["modules", "functions"])
def test_no_layer_imports_a_higher_one(in_functions):
    for module, imported in graph(in_functions).items():
        higher = {name for name in imported if layer(name) > layer(module)}
        if in_functions:
            higher -= {"metarl"}  # for its version
        assert not higher, f"{module} imports {higher}"


def test_there_are_no_circles():
    edges, finished = graph(in_functions=False), set()

    def visit(module, path):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in finished:
            for following in sorted(edges[module]):
                visit(following, [*path, module])
            finished.add(module)

    for module in edges:
        visit(module, [])


def test_the_seam_knows_no_reinforcement_learning():
    imported = graph(in_functions=False)["metarl.meta"] | graph(in_functions=True)["metarl.meta"]
    assert imported == {"metarl.checks", "metarl.interface", "metarl.tree", "metarl.types"}


def environments() -> set[str]:
    """The classes of `envs` that reset and step."""
    found = set()
    for path in (ROOT / "envs").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                methods = {child.name for child in node.body if isinstance(child, ast.FunctionDef)}
                found |= {node.name} if {"reset", "step"} <= methods else set()
    return found


OTHERS = [*FILES.values(), *sorted((ROOT / "experiments").rglob("*.py"))]


def test_levels_say_what_is_known_of_them():
    """No code outside `envs` looks at the class of an environment to find an optimum, a mutation or a picture."""
    classes = environments()
    assert {"Gridworld", "MDP", "Bandit"} <= classes
    for path in OTHERS:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                asked = {part.strip("(), ") for part in ast.unparse(node.args[1]).replace("|", ",").split(",")}
                names = {name.split(".")[-1] for name in asked}
                assert not names & {*classes, "Environment"}, f"{path}: {ast.unparse(node)}"


def test_levels_without_an_environment_need_no_excuse():
    for path in OTHERS:
        for line in path.read_text().splitlines():
            assert "type: ignore" not in line or "Levels(" not in line and ".env" not in line, f"{path}: {line}"
