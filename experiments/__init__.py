"""Experiments: one file each, run from the repository's root as `python -m experiments.NAME --help`."""

import importlib.util
import signal
import sys
from pathlib import Path

if sys.argv[:1] == ["-m"]:  # `python -m experiments.NAME` is importing: libraries swallow an exception of Ctrl-C there
    signal.signal(signal.SIGINT, signal.SIG_DFL)

_ours = Path(__file__).resolve().parent.parent / "envs"
_spec = importlib.util.find_spec("envs")
_places = list(_spec.submodule_search_locations or [_spec.origin or ""]) if _spec else ["nothing"]
if Path(_places[0]).resolve() != _ours:
    raise ImportError(
        f"`import envs` finds {_places[0]}, not metarl's own {_ours}: another package or folder of that name comes "
        "first. Run from the root of the metarl repository, or uninstall the other package."
    )
