"""The experiment that meta-trains optimisers of functions: its report, its arms, and that agents learn to search."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from commands import PNG, columns, one_line, restored, words

import metarl
from experiments import cli, nap
from metarl.run.options import replace

OPTIONS = {
    **{"candidates": 8, "evaluations": 3, "functions": 4, "num_envs": 4, "width": 4, "layers": 1, "epochs": 1},
    **{"minibatches": 1, "bars": 4, "steps": 2, "chunk": 2, "held_out_functions": 3},
}
TINY = replace(nap.PRESETS["quick"], **OPTIONS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory and the results of a small run from the command line's entry."""
    directory = tmp_path_factory.mktemp("nap") / "run"
    nap.main(words(**OPTIONS, directory=directory))
    return directory, json.loads((directory / "results.json").read_text())


def test_a_run_compares_both_arms_with_random_search_and_gp_ei(finished):
    directory, results = finished
    names = ["random", "GP-EI", "NAP without histogram", "NAP"]
    report = results["report"]
    assert list(report) == [*names, *(f"NAP minus {name}" for name in names[:-1])]
    regret = json.loads((directory / "regret.json").read_text())
    for name, row in report.items():
        assert row["low"] <= row["mean"] <= row["high"] and len(regret[name]) == 3
        assert regret[name][-1]["mean"] == pytest.approx(row["mean"])
    for name in names:
        means = [x["mean"] for x in regret[name]]
        assert means == sorted(means, reverse=True) and means[-1] >= 0.0
    difference = report["NAP"]["mean"] - report["GP-EI"]["mean"]
    assert report["NAP minus GP-EI"]["mean"] == pytest.approx(difference, abs=1e-5)
    assert (directory / "regret.png").read_bytes().startswith(PNG)
    log = columns(directory)
    assert {*nap.EXPERIMENT.curves, "lifetime_loss"} <= set(log)
    assert (log["agent_updates"][-1], log["env_steps"][-1]) == (2 * 2 * 2, 2 * 2 * 2 * 4 * 3)


def test_the_saved_agent_plays_on(finished):
    agent = metarl.load_agent(finished[0] / "agent.safetensors")
    levels = TINY.problems.make(1)
    play = jax.jit(lambda key: agent.play(levels.environment, key, levels.sample(key).problem))
    episodes = play(jax.random.key(0))
    assert (episodes.length == 3).all() and episodes.finished.all()


def test_arms_differ_by_the_histogram_alone(finished):
    """The agents of both arms learn from the same seeds; those without it never follow a gradient of its output."""
    agents = restored(nap.EXPERIMENT, TINY, finished[0]).agents
    moments = optax.tree.get(agents.opt_state, "mu")
    for leaf in jax.tree.leaves(moments["bars"]):
        assert not leaf[0].any() and leaf[1].any()
    kernel = agents.params["known"]["kernel"]  # [arms, seeds, ...]
    assert (kernel[0] != kernel[1]).any() and (kernel[:, 0] != kernel[:, 1]).any()
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[0], x[1]), agents.level)


def test_regrets_of_random_orders_are_those_of_the_hypergeometric_maximum():
    """After one of two evaluations of (0, 1), a half; after both, none."""
    values = jnp.tile(jnp.array([0.0, 1.0]), (200, 1))
    found = jax.jit(lambda key: nap.random_regrets(values, 2, key))(jax.random.key(0))
    assert found.shape == (nap.ORDERS, 200, 2)
    assert float(found[..., 0].mean()) == pytest.approx(0.5, abs=0.05) and not found[..., 1].any()


def test_differences_are_paired():
    """Function by function; seed by seed between arms, and less the mean of a method's own runs elsewhere."""
    plain, own = np.arange(12.0).reshape(2, 3, 2), np.arange(12.0).reshape(2, 3, 2) + 1.0
    found = nap.differences({"random": plain[:, :, :] * 2, "GP-EI": plain[:1], "plain": plain, "NAP": own})
    np.testing.assert_array_equal(found["NAP minus plain"], np.ones((2, 3, 2)))
    np.testing.assert_array_equal(found["NAP minus GP-EI"][0], np.ones((3, 2)))
    assert {x.shape for x in found.values()} == {(2, 3, 2)}


@pytest.mark.parametrize("preset", nap.PRESETS)
def test_presets_are_valid(preset):
    assert cli.parse(nap.Config, nap.PRESETS, ["--preset", preset]) == nap.PRESETS[preset]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"candidates": 1}, "candidates must be at least 2, got 1"),
        ({"evaluations": 9}, "evaluations must be at most candidates = 8, got 9"),
        ({"dimensions": 2}, "candidates must be a number to the power of dimensions = 2, got 8"),
        ({"shortest": 0.7}, "shortest must be at most longest = 0.5, got 0.7"),
        ({"width": 5}, "heads must divide width = 5, got 2"),
        ({"arms": ("plain", "plain")}, "arms must have different values"),
        ({"arms": ("plain",)}, "bars has no effect without the arm histogram: leave it at 32, got 4"),
        ({"minibatches": 5}, "minibatches must divide num_envs * rollout_length = 12, got 5"),
        ({"held_out_functions": 1}, "held_out_functions must be at least 2, got 1"),
        ({"num_seeds": 1}, "num_seeds must be at least 2, got 1"),
    ],
)
def test_bad_input_is_one_clear_line(options, says, capsys):
    assert says in one_line(capsys, lambda: nap.main(words(**{**OPTIONS, **options})))


@pytest.mark.parametrize("arms", [(), ("plain", "plain"), "plain"])
def test_arms_are_different_ones(arms):
    with pytest.raises(ValueError, match="arms must be"):
        replace(TINY, arms=arms)


@pytest.mark.slow
def test_agents_learn_to_search():
    """On smooth functions of 16 candidates, far better than random orders: about a minute."""
    config = replace(
        nap.PRESETS["quick"],
        **{"candidates": 16, "evaluations": 5, "functions": 1024, "shortest": 0.2, "width": 16, "layers": 1},
        **{"arms": ("histogram",), "steps": 150, "num_envs": 64, "epochs": 4, "learning_rate": 3e-3},
        held_out_functions=256,
    )
    state, log = metarl.train(nap.make(config), seed=0, steps=config.run.steps)
    assert log["histogram_loss_histogram"][-1].mean() < 0.8 * log["histogram_loss_histogram"][0].mean()
    found = nap.regrets(config, state)
    assert found["NAP"][..., -1].mean() < 0.6 * found["random"][..., -1].mean()
