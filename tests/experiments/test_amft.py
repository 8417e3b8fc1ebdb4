"""The comparison of weight controllers as a user runs it, and runs side by side."""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import words
from finetuning import bag

import metarl
from envs import tokens
from experiments import amft, amft_arms, amft_report
from metarl.finetune import finetune
from metarl.run import checkpoint
from metarl.run.options import flatten, replace
from metarl.run.sweep import side_by_side
from metarl.types import Level

TINY = {
    **{"steps": 4, "num_seeds": 2, "num_prompts": 4, "chunk": 2, "copies": (0.0, 0.9), "flips": (0.0, 0.2)},
    **{"group_size": 2, "num_demonstrations": 4, "width": 8, "eval_every": 2, "eval_problems": 8},
}
OF_AMFT = {"num_validation": 2, "warm_up": 1, "meta_every": 2}
SETTINGS = ["copies 0, flips 0", "copies 0.9, flips 0.2"]


def run(directory, **options):
    amft.main(words(**{**TINY, **options}, directory=directory))


@pytest.fixture(scope="module", autouse=True)
def fast_policy():
    """A policy that compiles fast instead of the GRU."""

    def policy(num_tokens, width, outputs=None):
        return bag(num_tokens, width, outputs or num_tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amft_arms.policies, "gru", policy)
        yield


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("amft") / "run"


@pytest.fixture(scope="module")
def before(directory):
    """The results of one arm, and when its last file was written."""
    run(directory, arms="sft")
    return json.loads((directory / "amft.json").read_text()), (directory / "sft" / "checkpoints").stat().st_mtime_ns


@pytest.fixture(scope="module")
def finished(directory, before):
    """The directory of two arms, the second of which has joined."""
    run(directory, arms=("sft", "amft"), resume=True, **OF_AMFT)
    return directory


def test_a_comparison_leaves_a_run_per_arm_tables_and_figures(finished):
    results = json.loads((finished / "amft.json").read_text())
    success = results["success"]
    assert list(success) == ["all problems", "all problems, sampled"]
    for question, of_arms in success.items():
        assert list(of_arms) == ["base", "sft", "amft"] == list(results["intervals"][question])
        assert all(np.shape(x) == (2, 2) for x in of_arms.values())  # settings, seeds
        for arm, row in results["intervals"][question].items():
            assert list(row) == SETTINGS
            means = [x["mean"] for x in row.values()]
            assert means == pytest.approx(np.mean(of_arms[arm], 1), abs=1e-6)
    assert np.ptp(success["all problems"]["base"], 0).max() == 0  # the same policies begin in every setting
    ends = results["at the end"]["imitation_weight"]
    assert all(x["mean"] == 1.0 for x in ends["sft"].values())
    assert all(0.05 <= x["mean"] <= 1.0 for x in ends["amft"].values())  # its warm-up imitates
    assert results["best fixed weight"] == dict.fromkeys(SETTINGS, "sft")
    assert "the best single fixed weight is that of sft, with a mean regret of 0.000" in results["verdict"]
    assert all(x["mean"] == 0.0 for x in results["regret"]["sft"].values())
    for name in ("sft", "amft"):
        assert {"metrics.csv", "results.json", "checkpoints", "curves.png"} <= {
            x.name for x in (finished / name).iterdir()
        }
    for figure in ("amft.png", "weights.png"):
        assert (finished / figure).read_bytes().startswith(b"\x89PNG")


def test_all_arms_draw_as_many_answers_in_every_step(finished):
    """Validation, in every other step here, is paid for with answers of that step."""
    drawn = {}
    for arm in ("sft", "amft"):
        state, log = checkpoint_of(finished / arm)
        drawn[arm] = np.asarray(log["env_steps"])
        assert drawn[arm].shape == (4, 4)  # steps, runs
        np.testing.assert_array_equal(drawn[arm], np.outer([1, 2, 3, 4], [4 * 2 * 5] * 4))  # since the beginning
    measured = np.asarray(log["utility_gradient_norm"]) > 0.0
    assert not measured[1::2].any()


def checkpoint_of(directory):
    config = replace(amft.Config(), **TINY, **OF_AMFT)
    start = amft.newborn(config)
    template = jax.eval_shape(amft.tuned(config, directory.name, start).init, jax.random.key(0))
    _, state, log = checkpoint.restore(directory, template)
    return state, log


def test_another_arm_joins_a_finished_comparison(before, finished, capsys):
    alone, written = before
    after = json.loads((finished / "amft.json").read_text())
    assert set(alone["success"]["all problems"]) == {"base", "sft"}
    for question, of_arms in alone["success"].items():
        assert all(after["success"][question][name] == x for name, x in of_arms.items())
    assert written == (finished / "sft" / "checkpoints").stat().st_mtime_ns
    with pytest.raises(SystemExit) as stopped:
        run(finished, **OF_AMFT)
    assert stopped.value.code == 2 and "give resume" in capsys.readouterr().err
    config = replace(amft.Config(), **TINY, arms=("sft",), directory=str(finished), resume=True)
    with pytest.raises(ValueError, match="a run of 4 steps: it cannot become one of 6"):
        amft.part(config, finished, "sft", amft.tuned(config, "sft", amft.newborn(config)), 6)


@pytest.mark.slow
@pytest.mark.parametrize(("arm", "tokens_drawn"), [("amft_ahead", 4 * 2 * 5), ("amft_pairs", 2 * 1 * 2 * 5)])
def test_some_weights_move_after_several_steps_only(arm, tokens_drawn, tmp_path):
    """Four training steps are two meta-steps; a pair of policies has 1 problem each, and room for what measures it."""
    run(tmp_path / "run", arms=arm, look_ahead=2)
    config = replace(amft.Config(), **TINY, arms=(arm,), look_ahead=2)
    template = jax.eval_shape(amft.tuned(config, arm, amft.newborn(config)).init, jax.random.key(0))
    _, state, log = checkpoint.restore(tmp_path / "run" / arm, template)
    assert (state.lifetimes.step == 4).all() and (state.step == 2).all()
    np.testing.assert_array_equal(np.asarray(log["env_steps"]), np.outer([2, 4], [tokens_drawn] * 4))
    moved = state.params["logit"] != 0.0  # it began at a weight of one half
    assert moved.any() or arm == "amft_pairs"  # whose members solve none of so few problems


SMALL = replace(
    amft.Config(),
    **{"num_seeds": 2, "num_prompts": 4, "num_validation": 2, "group_size": 2, "num_demonstrations": 4},
    **{"copies": (0.5,), "flips": (0.1,), "width": 4, "eval_problems": 4},
)


@pytest.mark.parametrize("arm", [arm for arm in amft.ARMS if arm not in (*amft_arms.FIXED, "amft")])  # they run above
def test_every_arm_makes_a_step(arm):
    learner, task = amft.policy(SMALL), tokens.Imperfect(amft.tasks(SMALL).train, 0.5, 0.1)
    x = amft.ARMS[arm](SMALL, task)
    parts = x.data, x.credit, x.controller, x.update
    inner = finetune(learner, learner.init, *parts, losses=x.losses, utility=x.utility)

    def first(key):
        start, meta_params = inner.init(key, Level((), jnp.int32(10))), inner.init_meta(key)
        return start, inner.step(meta_params, start, key)

    def after(meta_params):
        start, key = inner.init(jax.random.key(0), Level((), jnp.int32(10))), jax.random.key(0)
        return inner.loss(meta_params, inner.step(meta_params, start, key).lifetime, key).objective

    start, update = jax.eval_shape(first, jax.random.key(0))
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), tuning) for tuning in (start, update.lifetime)]
    assert shapes[0] == shapes[1] and update.metrics["imitation_weight"].shape == ()
    assert (inner.loss is not metarl.meta.no_loss) == arm.startswith("amft")
    if arm.startswith("amft"):
        assert jax.eval_shape(lambda: jax.grad(after)(inner.init_meta(jax.random.key(0))))["logit"].shape == ()
    assert (x.between is not None) == (arm in amft_arms.VALIDATED)
    if arm in ("relift", "prefix_rft", "srft"):  # their steps have parts of their own
        _, update = jax.jit(first)(jax.random.key(0))
        assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(update.lifetime.params))
        weight = 0.5 if arm == "srft" else 1.0
        assert jnp.isfinite(update.metrics["reward_loss"]) and update.metrics["reward_weight"] == weight


@pytest.mark.parametrize("task", ["sorting", "countdown", "general_points"])
def test_all_problems_of_a_comparison_are_of_one_size(task):
    place = amft.tasks(replace(amft.Config(), task=task))
    everything = [place.base, place.train, *place.questions.values()]
    assert len({(x.num_tokens, x.end, x.prompt_length, x.answer_length) for x in everything}) == 1
    if task == "sorting":  # holds out nothing
        return
    first = 1 if task == "countdown" else 3  # what comes before the numbers and cards
    trained, base, held_out = (
        {(*row[:first], *sorted(row[first:])) for row in prompts(jax.random.split(jax.random.key(0), 256)).tolist()}
        for x in (place.train, place.base, place.questions["held out"])
        for prompts in [jax.jit(jax.vmap(lambda key, x=x: x.prompt(x.sample(key))))]
    )
    assert not held_out & (trained | base)


# success [settings, seeds] of three fixed weights and an adaptive one
TABLE = {
    "rl": np.array([[0.2, 0.4], [0.8, 1.0]]),
    "fixed_02": np.array([[0.5, 0.7], [0.6, 0.8]]),
    "sft": np.array([[0.9, 0.7], [0.1, 0.3]]),
    "amft": np.array([[0.8, 0.8], [0.7, 0.9]]),
    "dual": np.array([[0.0, 0.0], [0.0, 0.0]]),
}


def test_the_regret_is_to_the_best_fixed_weight_of_each_setting_with_the_same_seed():
    assert amft_report.best_fixed(TABLE) == ["sft", "rl"]
    regret = amft_report.regrets(TABLE)
    np.testing.assert_allclose(regret["amft"], [[0.1, -0.1], [0.1, 0.1]], atol=1e-12)
    np.testing.assert_allclose(regret["fixed_02"], [[0.4, 0.0], [0.2, 0.2]], atol=1e-12)
    assert [regret[arm].mean() for arm in ("rl", "fixed_02", "sft")] == pytest.approx([0.25, 0.2, 0.35])
    assert amft_report.best_single(regret) == "fixed_02"
    config = replace(amft.Config(), copies=(0.0, 0.9), flips=(0.0, 0.0))
    row = amft_report.by_setting(config, regret, mean=True)["amft"]
    assert list(row) == ["copies 0, flips 0", "copies 0.9, flips 0", "mean"]
    assert [x.mean for x in row.values()] == pytest.approx([0.0, 0.1, 0.05])
    # seed by seed 0.1 - 0.3 and 0.0 - 0.1: -0.15 with a deviation of 0.0707, whose t-quantile of one degree is 12.706
    half = 12.706 * np.std([-0.2, -0.1], ddof=1) / np.sqrt(2)
    low, high = -0.15 - half, -0.15 + half
    says = amft_report.verdict(TABLE)
    assert "that of fixed_02, with a mean regret of 0.200" in says
    assert f"amft: -0.150 [{low:+.3f}, {high:+.3f}] more regret" in says and "dual" not in says
    assert amft_report.verdict({"amft": TABLE["amft"]}) == "" == amft_report.verdict({"sft": TABLE["sft"]})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"arms": ("rl", "rl")}, "arms must have different values, got rl 2 times"),
        ({"arms": "magic"}, "magic"),
        ({"arms": ()}, "arms must name at least one"),
        ({"arms": "rl", "servo_rate": 0.1}, "servo_rate has no effect without one of the arms servo"),
        ({"arms": "rl", "sweep": "meta_rate=1,2"}, "meta_rate has no effect without one of the arms amft"),
        ({"arms": "amft_ahead", "look_ahead": 3}, "look_ahead must divide steps = 4, got 3"),
        (
            {"arms": "amft_pairs", "look_ahead": 2, "sweep": "pairs_rate=1,2"},
            "sweep must leave out the arms ['amft_pairs'], whose meta-steps have several steps",
        ),
        ({"arms": "amft_pairs", "look_ahead": 2, "num_prompts": 2}, "num_prompts must be at least 4"),
        ({"num_seeds": 1}, "num_seeds must be at least 2, got 1"),
        ({"group_size": 1}, "group_size must be at least 2, got 1"),
        ({"num_validation": 4, "arms": "amft"}, "num_validation must be below num_prompts = 4, got 4"),
        ({"copies": (0.0, 0.5, 0.9)}, "copies and flips must have an entry for each setting"),
        ({"base_batch": 8}, "base_batch has no effect without base_steps"),
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
    assert {arm for arms in amft_arms.OPTIONS_OF for arm in arms} <= set(amft.ARMS)
    options = [option for own in amft_arms.OPTIONS_OF.values() for option in own]
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
    for field, values in (("width", "3,4"), ("num_seeds", "3,4"), ("task", "countdown,general_points")):
        with pytest.raises(SystemExit):
            run(tmp_path / "run", sweep=f"{field}={values}", arms="sft")
        assert f"sweep must leave ['{field}'] alone" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
