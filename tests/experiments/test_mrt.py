"""The comparison of MRT with the outcome alone: what is equal between arms, its measures, and a whole run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import words
from finetuning import bag

from experiments import mrt
from metarl.finetune import Prover
from metarl.run.options import replace

TINY = {
    **{"steps": 4, "base_steps": 2, "base_batch": 2, "num_seeds": 2, "num_problems": 3, "group_size": 2, "chunk": 2},
    **{"shortest": 2, "longest": 2, "tries": 2, "width": 4, "held_out_problems": 8},
}


@pytest.mark.parametrize("forks", [1, 2])
def test_arms_draw_as_many_tokens(forks):
    config = replace(mrt.Config(), num_problems=100, forks=forks)
    drawn = {name: recipe(config).answers.tokens_drawn for name, recipe in mrt.ARMS.items()}
    assert drawn["grpo"] == 100 * 8 * 3 * 6 and drawn["grpo"] == drawn["length"] == drawn["star"] == drawn["mrt_own"]
    one = 8 * (3 * 6 + forks * 3 * 6)
    proven = {drawn[name] for name in ("mrt", "mrt_regret", "mrt_to_go", "mrt_end", "mrt_end_regret", "mrt_star")}
    assert len(proven) == 1 and drawn["grpo"] - one < proven.pop() <= drawn["grpo"]
    assert mrt.sampling(replace(config, num_problems=1), Prover(2)).num_problems == 1


def test_a_step_has_the_shapes_of_the_study():
    config = replace(mrt.Config(), **TINY, arms=("mrt_star",))
    meta, key = mrt.make(config), jax.random.key(0)
    study = jax.eval_shape(meta.init, key)
    after, metrics = jax.eval_shape(meta.step, study, key)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), (study, after))
    assert shapes[0] == shapes[1] and set(study.arms) == {"mrt_star"}
    assert all(x.shape == (2,) for x in metrics.values()) and "success_mrt_star" in metrics


def test_measures_by_hand():
    found = mrt.measures(np.array([[0.2, 0.4, 0.6, 0.8], [0.0, 1.0, 1.0, 1.0]]), 2)
    expected = {
        "regret": [0.7, 0.5],
        "regret over twice the tries": [0.5, 0.25],
        "first try": [0.2, 0.0],
        "last try": [0.4, 1.0],
        "twice the tries": [0.8, 1.0],
    }
    assert {name: x.tolist() for name, x in found.items()} == {name: pytest.approx(x) for name, x in expected.items()}


@pytest.mark.slow
def test_the_base_policies_come_first_and_arms_begin_from_them():
    config = replace(mrt.Config(), **TINY, arms=("grpo",))
    meta = mrt.make(config)
    step = jax.jit(meta.step)
    study = jax.jit(meta.init)(jax.random.key(0))
    states = [study]
    for i in range(3):
        study, metrics = step(study, jax.random.key(i))
        states.append(study)
        assert (metrics["tokens_grpo"] == (i > 1) * (3 * 2 * 2 * 3)).all() and jnp.isfinite(
            metrics["cross_entropy"]
        ).all() == (i < 2)

    def moved(x, y):
        return any((a != b).any() for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))

    for before, after in zip(states[:2], states[1:3], strict=True):
        assert moved(before.base.params, after.base.params) and not moved(after.base.params, after.arms["grpo"].params)
    assert not moved(states[2].base.params, states[3].base.params)
    embedding = states[2].base.params["embedding"]["embedding"]
    assert (embedding[0] != embedding[1]).any()  # seeds differ


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ()}, "arms must be different, and at least one"),
        ({"arms": ("grpo", "grpo")}, "arms must be different"),
        ({"base_steps": 400}, "base_steps must be below steps = 400, got 400"),
        ({"shortest": 6}, "shortest must be at most longest = 5, got 6"),
        ({"arms": ("grpo", "mrt"), "cost": 0.2}, "cost has no effect without one of the arms length"),
        ({"arms": ("grpo", "length"), "alpha": 2.0}, "alpha has no effect"),
        ({"arms": ("mrt_own",), "forks": 2}, "forks has no effect"),
        ({"forks": 2, "prover_temperature": 0.0}, "forks must be 1 at temperature 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        replace(mrt.Config(), **options)


@pytest.mark.slow
def test_a_run_leaves_a_table_and_resumes(tmp_path):
    directory = tmp_path / "run"
    arms = ("grpo", "length", "mrt_own", "mrt_star")
    mrt.main(words(**TINY, arms=arms, directory=directory))
    results = json.loads((directory / "results.json").read_text())["report"]
    assert {f"{name}, regret, {how}" for name in ("base", *arms) for how in ("sampled", "greedy")} <= set(results)
    curves = json.loads((directory / "success_by_try.json").read_text())
    success = np.array(curves["success"]["mrt_star"]["sampled"])
    assert success.shape == (2, 4) and (np.diff(success) >= 0).all()
    lead = results["mrt_star minus grpo, last try, sampled"]["mean"]
    assert lead == pytest.approx((success - np.array(curves["success"]["grpo"]["sampled"]))[:, 1].mean(), abs=1e-6)
    compared = {name.split(",")[0] for name in results if " minus " in name}
    assert compared == {*(f"{name} minus grpo" for name in arms[1:]), "mrt_own minus length"}
    assert (directory / "success_by_try.png").read_bytes().startswith(b"\x89PNG")
    mrt.main(words(**TINY, arms=arms, directory=directory, resume=True))  # a finished run: its report again
    assert json.loads((directory / "results.json").read_text())["report"] == results


@pytest.mark.slow
@pytest.mark.parametrize("name", mrt.ARMS)
def test_every_arm_makes_a_step(name, monkeypatch):
    """With a policy that compiles fast."""
    config = replace(mrt.Config(), **TINY)
    num_tokens = mrt.task_of(config).num_tokens
    policy = bag(num_tokens, 4, num_tokens)
    monkeypatch.setattr(mrt, "policy_of", lambda config: policy)
    inner = mrt.arm_loop(config, name, policy.init)
    start = inner.init(jax.random.key(0), mrt.Level((), jnp.int32(3)))
    update = jax.jit(inner.step)((), start, jax.random.key(1))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(update.lifetime.params))
