"""What tests of commands share: options as arguments, failures in one line, and the files of runs."""

import json
from itertools import count

import jax
import numpy as np
import pytest

import metarl
from experiments import launch
from metarl.evaluation import held_out
from metarl.run import checkpoint

PNG = b"\x89PNG\r\n\x1a\n"


def words(**options):
    """Options as a command line has them: `words(num_envs=2, temporal=True)` is `--num-envs 2 --temporal`."""
    found = []
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{option}" if value else f"--no-{option}")
        else:
            found += [f"--{option}", *map(str, value if isinstance(value, tuple) else [value])]
    return found


def one_line(capsys, call, code=2):
    """The message that `call` ends with, which is one line, and nothing else is printed."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        call()
    message = capsys.readouterr().err.strip()
    assert stopped.value.code == code, message
    assert message.startswith("error: ") and len(message.splitlines()) == 1, message
    return message


def columns(directory):
    """The metrics of a run by name, [steps]."""
    header, *rows = (directory / "metrics.csv").read_text().splitlines()
    return dict(zip(header.split(","), np.array([row.split(",") for row in rows], float).T, strict=True))


def restored(experiment, config, directory):
    """The state of the run of `config` in its newest checkpoint."""
    template = jax.eval_shape(experiment.make(config).init, jax.random.key(0))
    fingerprint = {**launch.what_is_trained(config), "seed": config.run.seed}
    return checkpoint.restore(str(directory), template, fingerprint)[1]


def returns_are_noise(patch):
    """Reports on held-out levels train no agents, which tests of `Judge` do: each program has random returns."""
    programs = count()

    def final_returns(inner, meta_params, levels, key, *, num_seeds, placement=None):
        lived = 0.1 * jax.numpy.sqrt(levels.horizon) + sum(x.mean() for x in jax.tree.leaves(meta_params))
        noise = jax.random.normal(jax.random.fold_in(key, next(programs)), (num_seeds, len(levels.horizon)))
        return lived + 0.01 * noise

    patch.setattr(held_out, "final_returns", final_returns)


def assert_rule_is(rule, params, recipe):
    """A loaded rule has these meta-parameters, and the recipe as a file has it."""
    jax.tree.map(np.testing.assert_array_equal, rule.params, params)
    assert rule.card["recipe"] == json.loads(json.dumps(recipe))


def assert_agents_are_alike(one, other, levels):
    """Both pairs of an inner loop and its meta-parameters train the same agent in two updates."""
    level_key, key = jax.random.split(jax.random.key(3))
    level = levels.sample(level_key)._replace(horizon=np.int32(4))
    live = jax.jit(metarl.train_agent, static_argnums=(0, 4))
    agents = [live(inner, params, level, key, 2)[0].params for inner, params in (one, other)]
    newborn = jax.jit(one[0].init)(key, level).params
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), agents[0], newborn)
    assert max(jax.tree.leaves(moved)) > 0.0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *agents)
