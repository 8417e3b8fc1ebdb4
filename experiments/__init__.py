"""Experiments: one file each, run from the repository's root as `python -m experiments.NAME --help`."""

import importlib.util
from pathlib import Path

_ours = Path(__file__).resolve().parent.parent / "envs"
_spec = importlib.util.find_spec("envs")
_places = list(_spec.submodule_search_locations or [_spec.origin or ""]) if _spec else ["nothing"]
if Path(_places[0]).resolve() != _ours:
    raise ImportError(
        f"`import envs` finds {_places[0]}, not metarl's own {_ours}: another package or folder of that name comes "
        "first. Run from the root of the metarl repository, or uninstall the other package."
    )
