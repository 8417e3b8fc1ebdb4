"""An experiment that diverges says so, ends with code 3, and goes on from its last good checkpoint."""

import importlib
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import words

from experiments import ablation, learned_optimizer
from metarl.run import checkpoint
from metarl.run import train as loop

COMMON = {"chunk": 2, "checkpoint_every": 2, "steps": 6}
SIZE = {"num_envs": 2, "rollout_length": 4, "hidden": 4}
QUIET = {"held_out_seeds": 0}
OPTIMIZER = {"levels": "supervised/quadratic", "num_pairs": 2, "width": 4, "shortest_life": 4, "longest_life": 4}
JUDGED = {"tuning_levels": 2, "tuning_seeds": 1, "held_out_levels": 2, "held_out_seeds": 1}
AMFT = {
    **{"base_steps": 6, "base_batch": 4, "num_seeds": 2, "num_prompts": 4, "group_size": 2},
    **{"num_demonstrations": 4, "network": "gru", "width": 8, "eval_every": 2, "eval_problems": 8},
}
# experiment: its options, and the folder of its first run; the others go by `launch`, as `lpg` does
RUNS = {
    "lpg": ({**SIZE, **QUIET, "levels": "mdp/random", "num_lifetimes": 2, "updates": 1}, ""),
    "agent": ({"env": "mdp/random", "num_seeds": 2, "num_envs": 2, "rollout_length": 4, "eval_episodes": 2}, ""),
    "amft": ({**AMFT, "arms": ("fixed_02",)}, "base"),
    "ablation": ({**OPTIMIZER, **JUDGED, "hidden": 2}, "open"),
}


def poisoned(compile_, since):
    """The host loop's `_compile`, whose program meets a state of NaN after meta-step `since`."""

    def lost(x):
        return jnp.full_like(x, jnp.nan) if jnp.issubdtype(x.dtype, jnp.inexact) else x

    def make(*args):
        run = compile_(*args)
        return lambda state, done, count: run(jax.tree.map(lost, state) if done >= since else state, done, count)

    return make


@pytest.mark.parametrize("name", [x if x == "agent" else pytest.param(x, marks=pytest.mark.slow) for x in RUNS])
def test_the_last_good_checkpoint_is_kept_and_goes_on(name, tmp_path, monkeypatch, capsys):
    main = importlib.import_module(f"experiments.{name}").main
    options, folder = RUNS[name]
    monkeypatch.setattr(learned_optimizer, "PLAIN", {x: learned_optimizer.PLAIN[x] for x in ("adam", "sgd")})
    monkeypatch.setattr(ablation, "Group", Literal["noise"])  # not for digits: whole OPEN alone
    argv = words(**COMMON, **options, directory=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_compile", poisoned(loop._compile, since=4))
        with pytest.raises(SystemExit) as stopped:
            main(argv)
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert stopped.value.code == 3 and "last good checkpoint: meta-step 4 in" in message, message
    assert checkpoint.steps(tmp_path / folder) == [2, 4]
    main([*argv, "--resume"])
    assert checkpoint.steps(tmp_path / folder)[-1] == 6
    log = checkpoint._load_log(tmp_path / folder / "log", 6)
    assert all(np.isfinite(log[x]).all() for x in log if "loss" in x)
