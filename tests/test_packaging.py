"""What the package promises by its files: dependencies point one way, imports are cheap, versions agree."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LAYERS = {"metarl": {"metarl"}, "envs": {"envs", "metarl"}, "experiments": {"experiments", "envs", "metarl"}}


def imports(path):
    """The absolute names that a file imports anywhere, functions included."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            yield from (f"{module}.{alias.name}" for alias in node.names)


# what environments import beyond the nouns: tasks of data come with their networks, suites with their judges
OF_ENVIRONMENTS = {
    "envs/__init__.py": ("metarl.evaluation.suites.",),
    "envs/suites/__init__.py": ("metarl.evaluation.",),
    "envs/tasks.py": ("metarl.rl.networks.",),
    "envs/trial.py": ("metarl.interface", "metarl.rl.rollout.", "metarl.strategies."),
}
FILES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dependencies_point_one_way(path):
    layer = path.relative_to(ROOT).parts[0]
    ours = [name for name in imports(path) if name.split(".")[0] in LAYERS]
    assert not [name for name in ours if name.split(".")[0] not in LAYERS[layer]]
    if layer == "envs":
        allowed = (
            "metarl.checks",
            "metarl.tree.",
            "metarl.types.",
            *OF_ENVIRONMENTS.get(str(path.relative_to(ROOT)), ()),
        )
        assert not [name for name in ours if name.startswith("metarl") and not name.startswith(allowed)]
    if layer == "metarl":
        assert not [name for name in imports(path) if name.split(".")[0] == "gymnax"]


def test_importing_metarl_is_cheap():
    code = "import sys, metarl; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    modules = output.split()
    loaded = {name.split(".")[0] for name in modules}
    assert not loaded & {"gymnax", "distrax", "matplotlib", "envs", "experiments", "tensorboardX", "wandb"}
    assert "orbax.checkpoint" not in modules


def test_versions_agree():
    import metarl

    assert metarl.__version__ == PROJECT["version"]
    assert f"version: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_dependency_has_a_floor_and_a_checked_version():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    checked = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    for requirement in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]:
        match = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement)
        assert match, f"{requirement} is no floor"
        name, floor = match.groups()
        assert [int(part) for part in floor.split(".")] <= [int(part) for part in checked[name].split(".")]
    assert "tfp-nightly" in checked


def test_only_our_packages_are_distributed():
    from setuptools import find_packages

    find = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    found = find_packages(str(ROOT), include=find["include"])
    assert {name.split(".")[0] for name in found} == set(LAYERS)
    folders = {
        str(p.parent.relative_to(ROOT)).replace("/", ".") for layer in LAYERS for p in (ROOT / layer).rglob("*.py")
    }
    assert set(found) == folders, "a folder with code has no __init__.py"


def test_committed_files_name_no_machine():
    """Absolute paths of somebody's machine do not belong in a distribution."""
    pattern = re.compile(r"(?<![\w.])/(home|root|work|Users|tmp)/\w")
    for path in [*FILES, ROOT / "pyproject.toml", ROOT / ".ci" / "run", ROOT / "constraints.txt"]:
        assert not pattern.search(path.read_text()), path


def test_imports_do_not_start_jax():
    """Whoever imports may still say how many devices there are (`parallel.one_device_per_core`)."""
    code = (
        "import importlib, pkgutil, experiments\n"
        "for module in pkgutil.iter_modules(experiments.__path__):\n"
        "    importlib.import_module(f'experiments.{module.name}')\n"
        "import jax\n"
        "jax.config.update('jax_num_cpu_devices', 3)\n"
        "print(len(jax.devices('cpu')))"
    )
    environment = {name: x for name, x in os.environ.items() if name not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert found.stdout.split()[-1:] == ["3"], found.stderr
