"""The comparison of weight controllers as a user runs it, and runs side by side."""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import words

import metarl
from experiments import amft
from metarl.run.options import flatten, replace
from metarl.run.sweep import side_by_side

TINY = {
    **{"steps": 4, "base_steps": 4, "base_batch": 4, "num_seeds": 2, "num_prompts": 4, "chunk": 2},
    **{"group_size": 2, "num_demonstrations": 4, "network": "gru", "width": 8, "eval_every": 2, "eval_problems": 8},
}
OF_AMFT = {"num_validation": 2, "warm_up": 1}


def run(directory, **options):
    amft.main(words(**{**TINY, **options}, directory=directory))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("amft") / "run"
    run(directory, arms=("sft", "amft"), **OF_AMFT)
    return directory


def test_a_comparison_leaves_a_run_per_arm_a_table_and_a_figure(finished):
    results = json.loads((finished / "amft.json").read_text())
    assert set(results["intervals"]) == {"base", "sft", "amft"}
    for row in results["intervals"].values():
        assert list(row) == ["held out", "other targets", "four numbers", "held out, sampled"]
        assert all(x["low"] <= x["mean"] <= x["high"] for x in row.values())
    assert all(len(x) == 2 for row in results["success"].values() for x in row.values())
    ends, lead = results["at the end"], results["amft minus"]
    assert ends["sft"]["imitation_weight"]["mean"] == 1.0
    assert 0.05 <= ends["amft"]["imitation_weight"]["mean"] <= 1.0  # its warm-up imitates
    assert set(lead) == {"base", "sft"} and results["steps to 0.6 held out"] == {"sft": [None] * 2, "amft": [None] * 2}
    differences = np.subtract(results["success"]["amft"]["held out"], results["success"]["sft"]["held out"])
    assert lead["sft"]["held out"]["mean"] == pytest.approx(differences.mean(), abs=1e-6)
    for name in ("base", "sft", "amft"):
        assert {"metrics.csv", "results.json", "checkpoints", "curves.png"} <= {
            x.name for x in (finished / name).iterdir()
        }
    assert (finished / "amft.png").read_bytes().startswith(b"\x89PNG")


def test_another_arm_joins_a_finished_comparison(finished, capsys):
    before = json.loads((finished / "amft.json").read_text())
    times = {name: (finished / name / "checkpoints").stat().st_mtime_ns for name in ("base", "sft", "amft")}
    run(finished, arms=("sft", "amft", "rl_critic"), resume=True, **OF_AMFT)
    after = json.loads((finished / "amft.json").read_text())
    assert set(after["success"]) == {"base", "sft", "amft", "rl_critic"}
    assert after["at the end"]["rl_critic"]["imitation_weight"]["mean"] == 0.0
    assert after["at the end"]["rl_critic"]["reward_weight"]["mean"] == 1.0
    for name in before["success"]:
        assert before["success"][name] == after["success"][name]
    assert times == {name: (finished / name / "checkpoints").stat().st_mtime_ns for name in times}
    for options, says in ((OF_AMFT, "give resume"), ({"arms": "sft", "steps": 6, "resume": True}, "a run of 4 steps")):
        with pytest.raises(SystemExit) as stopped:
            run(finished, **options)
        assert stopped.value.code == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize("arm", amft.ARMS)
def test_every_arm_makes_a_step(arm):
    config = replace(
        amft.Config(),
        **{"num_seeds": 2, "num_prompts": 4, "num_validation": 2, "group_size": 2, "num_demonstrations": 4},
        **{"network": "gru", "width": 4, "eval_problems": 4},
    )
    policy = amft.policy(config)
    start = jax.eval_shape(jax.vmap(policy.init), jax.random.split(jax.random.key(0), 2))
    meta = amft.tuned(config, arm, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), start))
    state = jax.eval_shape(meta.init, jax.random.key(0))
    after, metrics = jax.eval_shape(meta.step, state, jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert metrics["held_out"].shape == (2,) and metrics["imitation_weight"].shape == (2,)
    assert ("logit" in state.params) == arm.startswith("amft")
    if arm in ("relift", "prefix_rft"):  # those whose step has parts of its own, as that of rl_critic, which runs above

        @jax.jit
        def first(key):
            meta = amft.tuned(config, arm, jax.vmap(policy.init)(jax.random.split(key, 2)))
            return meta.step(meta.init(key), jax.random.key(1))

        after, metrics = first(jax.random.key(0))
        assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(after.lifetimes.params))
        assert jnp.isfinite(metrics["reward_loss"]).all() and (metrics["reward_weight"] == 1.0).all()


@pytest.mark.parametrize("task", ["countdown", "general_points"])
def test_all_problems_of_a_comparison_are_of_one_size(task):
    place = amft.tasks(replace(amft.Config(), task=task))
    everything = [place.base, place.train, *place.questions.values()]
    assert len({(x.num_tokens, x.end, x.prompt_length, x.answer_length) for x in everything}) == 1
    first = 1 if task == "countdown" else 3  # what comes before the numbers and cards
    trained, base, held_out = (
        {(*row[:first], *sorted(row[first:])) for row in jax.vmap(x.prompt)(problems).tolist()}
        for x in (place.train, place.base, place.questions["held out"])
        for problems in [jax.vmap(x.sample)(jax.random.split(jax.random.key(0), 256))]
    )
    assert not held_out & (trained | base)


def test_the_steps_to_the_goal_are_counted_by_seed():
    nan = np.nan
    log = {"held_out": np.array([[nan, nan], [0.1, 0.7], [nan, nan], [0.6, 0.2], [nan, nan], [0.9, 0.9]])}
    assert amft.steps_to_goal(log) == [4, 2]
    assert amft.steps_to_goal({"held_out": np.full((3, 2), nan)}) == [None, None]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"arms": ("rl", "rl")}, "arms must have different values, got rl 2 times"),
        ({"arms": "magic"}, "magic"),
        ({"arms": ()}, "arms must name at least one"),
        ({"arms": "rl", "servo_rate": 0.1}, "servo_rate has no effect without one of the arms servo"),
        ({"arms": "rl", "sweep": "meta_rate=1,2"}, "meta_rate has no effect without one of the arms amft"),
        ({"num_seeds": 1}, "num_seeds must be at least 2, got 1"),
        ({"group_size": 1}, "group_size must be at least 2, got 1"),
        ({"num_validation": 4}, "num_validation must be below num_prompts = 4, got 4"),
        ({"initial_weight": 0.99}, "initial_weight must be below 0.95, got 0.99"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"task": "chess"}, "chess"),
    ],
)
def test_bad_input_is_one_clear_line(options, says, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / "run", **options)
    message = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and says in message and len(message.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_arms_and_options_that_belong_together_exist():
    assert {arm for arms in amft.OPTIONS_OF for arm in arms} <= set(amft.ARMS)
    options = [option for own in amft.OPTIONS_OF.values() for option in own]
    assert set(options) <= set(flatten(amft.Config())) and len(set(options)) == len(options)


# --- runs side by side --------------------------------------------------------------------------------------


class State(NamedTuple):
    step: jax.Array
    params: jax.Array


def quadratic(rate):
    """A lifetime whose parameter follows its gradient at `rate`."""

    def init(key):
        return State(jnp.int32(0), jax.random.normal(key))

    def step(state, key):
        return state._replace(step=state.step + 1, params=state.params * (1.0 - rate)), {"meta_loss": state.params**2}

    return metarl.Meta(init, step)


def test_runs_side_by_side_are_the_single_ones(tmp_path):
    rates = jnp.array([0.1, 0.2, 0.5])
    state, log = metarl.train(side_by_side(quadratic, rates), seed=0, steps=6, chunk=2)
    assert state.step == 6 and state.params.shape == (3,) and log["meta_loss"].shape == (6, 3)
    np.testing.assert_allclose(log["meta_loss"][1] / log["meta_loss"][0], (1 - rates) ** 2, rtol=1e-5)
    metarl.train(side_by_side(quadratic, rates), seed=0, steps=3, chunk=2, directory=tmp_path)
    again, _ = metarl.train(side_by_side(quadratic, rates), seed=0, steps=6, chunk=2, directory=tmp_path, resume=True)
    np.testing.assert_array_equal(state.params, again.params)
    with pytest.raises(ValueError, match="at least one leaf"):
        side_by_side(quadratic, ())


def test_a_sweep_may_not_change_what_the_base_policies_are_made_from(tmp_path, capsys):
    for field in ("base_steps", "width", "num_seeds"):
        with pytest.raises(SystemExit):
            run(tmp_path / "run", sweep=f"{field}=2,4", arms="sft")
        assert f"sweep must leave ['{field}'] alone" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
