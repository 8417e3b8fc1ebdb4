"""The parts of configurations: what they refuse, and what they make."""

import re
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import one_line
from quadratic import levels, quadratic

import envs
from experiments import learned_optimizer, lpg, lpo, parts, ta_lpg
from experiments.agent import Rule as AgentRule
from metarl import estimators
from metarl.curricula.replay import ReplayState
from metarl.estimators.pes import PESState
from metarl.rules import build

REFUSED = [
    (parts.Run, {"steps": 0}, "steps must be at least 1, got 0"),
    (parts.Run, {"keep": 0}, "keep must be at least 1, got 0"),
    (parts.Run, {"seed": -1}, "seed must be at least 0, got -1"),
    (parts.Run, {"resume": True}, "resume needs the directory of the run"),
    (parts.Run, {"distributed": True}, "distributed needs the directory of the run"),
    (parts.Sweep, {"sweep": ("x=1",), "sweep_seeds": 0}, "sweep_seeds must be at least 1, got 0"),
    (parts.Sweep, {"sweep": ("x=1",), "sweep_batch": -1}, "sweep_batch must be at least 0, got -1"),
    (parts.Distribution, {"longest_life": -1}, "longest_life must be at least 0, got -1"),
    (parts.Distribution, {"shortest_life": 4}, "shortest_life needs longest_life, got 4 without it"),
    (parts.Distribution, {"shortest_life": 13, "longest_life": 12}, "at most longest_life = 12, got 13"),
    (parts.Agents, {"num_envs": 0}, "num_envs must be at least 1, got 0"),
    (parts.Passes, {"minibatches": 0}, "minibatches must be at least 1, got 0"),
    (parts.Agents, {"rollout_length": -1}, "rollout_length must be at least 1, got -1"),
    (parts.Backprop, {"updates": 0}, "updates must be at least 1, got 0"),
    (parts.Backprop, {"batch_size": 3}, "batch_size must divide num_lifetimes = 32, got 3"),
    (parts.Backprop, {"devices": 3}, "devices must divide num_lifetimes = 32, got 3"),
    (parts.Backprop, {"devices": 8, "batch_size": 8}, "devices must divide num_lifetimes = 32 / batch_size = 8, got 8"),
    (parts.Evolution, {"num_pairs": 0}, "num_pairs must be at least 1, got 0"),
    (parts.Evolution, {"sigma": float("nan")}, "sigma must be a number, not NaN, got nan"),
    (parts.Evolution, {"measure_every": -1}, "measure_every must be at least 0, got -1"),
    (parts.Evolution, {"estimator": "pes"}, "estimator pes needs truncation"),
    (parts.Evolution, {"devices": 3}, "devices must divide num_pairs = 16, got 3"),
    (parts.ClippedAdam, {"learning_rate": float("inf")}, "learning_rate must be at most 100000, got inf"),
    (parts.DecayedAdam, {"learning_rate_decay": 1.1}, "learning_rate_decay must be at most 1, got 1.1"),
    (parts.Replay, {"score": "regret", "capacity": 0}, "capacity must be at least 1, got 0"),
    (parts.Replay, {"score": "regret", "capacity": 8}, "warm_up must be at most capacity = 8, got 32"),
    (parts.Replay, {"score": "regret", "staleness": -0.1}, "staleness must be at least 0, got -0.1"),
    (parts.Replay, {"score": "regret", "replay_probability": float("nan")}, "must be a number, not NaN, got nan"),
    (parts.HeldOut, {"held_out_levels": 1}, "held_out_levels must be at least 2, got 1"),
    (parts.HeldOut, {"held_out_horizons": (5, 0)}, "held_out_horizons[1] must be at least 1, got 0"),
]
# An option that would change nothing.
INERT = [
    (parts.Sweep, {"sweep_seeds": 3}, "sweep_seeds has no effect without sweep"),
    (parts.Sweep, {"sweep_by": "fitness"}, "sweep_by has no effect without sweep"),
    (parts.Sweep, {"sweep_batch": 2}, "sweep_batch has no effect without sweep"),
    (parts.Evolution, {"estimator": "pes", "truncation": 5, "shaping": "none"}, "shaping has no effect with estimator"),
    (parts.Evolution, {"estimator": "pes", "truncation": 5, "measure_every": 5}, "measure_every has no effect with"),
    (parts.Evolution, {"estimator": "pes", "truncation": 5, "common_tasks": False}, "common_tasks has no effect with"),
    (parts.Evolution, {"num_pairs": 1, "common_tasks": False}, "without common_tasks num_pairs must be at least 2"),
    (parts.Replay, {"capacity": 10}, "capacity has no effect with score uniform"),
    (parts.Replay, {"replay_probability": 0.2}, "replay_probability has no effect with score uniform"),
    (parts.Replay, {"prioritisation": "proportional"}, "prioritisation has no effect with score uniform"),
    (parts.Replay, {"temperature": 0.2}, "temperature has no effect with score uniform"),
    (parts.Replay, {"staleness": 0.2}, "staleness has no effect with score uniform"),
    (parts.Replay, {"warm_up": 2}, "warm_up has no effect with score uniform"),
    (parts.Replay, {"mutation_probability": 0.2}, "mutation_probability has no effect with score uniform"),
    (parts.Replay, {"score_batch": 2}, "score_batch has no effect with score uniform"),
    (parts.Replay, {"score": "frozen", "temperature": 0.2}, "temperature has no effect with score frozen"),
    (parts.Replay, {"score": "frozen", "level_set": "x", "capacity": 2}, "capacity has no effect with level_set"),
    (parts.Replay, {"level_set": "x"}, "level_set has no effect with score uniform"),
    (parts.Replay, {"score": "regret", "level_set": "x"}, "level_set has no effect with score regret"),
    (parts.Replay, {"score": "regret", "success_share": 0.9}, "success_share has no effect with score regret"),
    (parts.Replay, {"score": "maxmc", "score_batch": 2}, "score_batch has no effect with score maxmc"),
    (AgentRule, {"objective": "a2c", "clip": 0.1}, "clip has no effect with objective a2c"),
    (AgentRule, {"objective": "dpo", "clip": 0.1}, "clip has no effect with objective dpo"),
    (learned_optimizer.Optimizer, {"optimizer": "open_feedforward", "hidden": 4}, "hidden has no effect with"),
    (learned_optimizer.Optimizer, {"optimizer": "adafac", "without": ("noise",)}, "without has no effect with"),
    (learned_optimizer.Optimizer, {"optimizer": "schedule", "width": 4}, "width has no effect with optimizer schedule"),
    (learned_optimizer.AgentRule, {"rule": "runs/x"}, "rule has no effect with objective ppo"),
    (learned_optimizer.AgentRule, {"rule_hidden": 4}, "rule_hidden has no effect with objective ppo"),
    (learned_optimizer.AgentRule, {"temporal": True}, "temporal has no effect with objective ppo"),
    (learned_optimizer.AgentRule, {"objective": "lpg", "rule": "x", "temporal": True}, "temporal has no effect with a"),
    (learned_optimizer.AgentRule, {"objective": "lpg", "rule": "x", "entropy_coef": 0.1}, "entropy_coef has no effect"),
]


@pytest.mark.parametrize(("part", "options", "says"), REFUSED + INERT)
def test_what_is_out_of_range_or_changes_nothing_is_refused(part, options, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        part(**options)


@pytest.mark.parametrize(
    ("main", "arguments", "says"),
    [
        (lpg.main, "--score uniform --capacity 10", "capacity has no effect with score uniform"),
        (lpg.main, "--sweep-seeds 3", "sweep_seeds has no effect without sweep"),
        (ta_lpg.main, "--estimator pes --shaping none --truncation 5", "shaping has no effect with estimator pes"),
        (lpo.main, "--longest-life 0 --shortest-life 0", "evolution over whole lifetimes needs longest_life"),
        (learned_optimizer.main, "--num-envs 4", "num_envs has no effect on supervised/digits, which have no agents"),
        (learned_optimizer.main, "--entropy-coef 0", "entropy_coef has no effect on supervised/digits"),
        (learned_optimizer.main, "--epochs 1", "epochs has no effect on supervised/digits"),
        (learned_optimizer.main, "--eval-episodes 2", "eval_episodes has no effect on supervised/digits"),
        (
            learned_optimizer.main,
            "--preset gridworld --objective lpg --rule ta-lpg-gridworld --epochs 1",
            "epochs has no effect with a rule, which takes one step per rollout",
        ),
        (learned_optimizer.main, "--held-out-horizons 4", "held_out_horizons has no effect here"),
        (lpo.main, "--start scratch --clip 0.3", "clip has no effect with start scratch"),
        (
            ta_lpg.main,
            "--learning-rate-decay 1 --last-learning-rate 1e-4",
            "last_learning_rate has no effect with learning_rate_decay 1",
        ),
        (ta_lpg.main, "--held-out-seeds 0 --held-out-levels 4", "held_out_levels has no effect without held_out_seeds"),
        (lpg.main, "--held-out-seeds=0 --held_out_batch=4", "held_out_batch has no effect without held_out_seeds"),
        (lpg.main, "--sweep learning_rate=1 --held-out-seeds 4", "held_out_seeds has no effect in a sweep"),
    ],
)
def test_inert_options_are_one_line_on_the_command_line(main, arguments, says, capsys):
    message = one_line(capsys, lambda: main(arguments.split()))
    assert says in message and re.search("leave it (at|out)|needs longest_life", message)


# --- what parts make ----------------------------------------------------------------------------------------


def test_lifetimes_are_those_of_the_options():
    horizon = lambda part: jax.vmap(part.make().sample)(jax.random.split(jax.random.key(0), 50)).horizon  # noqa: E731
    own = horizon(parts.Distribution("mdp/random"))
    assert parts.Distribution("mdp/random").lifetimes is None
    assert len(set(own.tolist())) == 1 and own[0] == envs.make("mdp/random").sample(jax.random.key(0)).horizon
    assert set(horizon(parts.Distribution("mdp/random", longest_life=7)).tolist()) == {7}
    many = horizon(parts.Distribution("mdp/random", longest_life=7, shortest_life=2))
    assert many.min() == 2 and many.max() == 7


def test_lifetimes_are_log_uniform():
    draw = jax.jit(lambda keys: jax.vmap(envs.make("mdp/random", (10, 250)).sample)(keys).horizon)
    horizons = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    assert horizons.min() == 10 and horizons.max() == 250
    assert np.mean(horizons <= 50) == pytest.approx(np.log(51 / 10) / np.log(251 / 10), abs=0.03)
    assert jax.jit(envs.make("mdp/random", (7, 7)).sample)(jax.random.key(0)).horizon == 7
    with pytest.raises(ValueError, match=r"or a pair in increasing order, got \(9, 3\)"):
        envs.make("mdp/random", (9, 3))


@pytest.mark.parametrize(
    ("decay", "last", "expected"),
    [(0.5, 0.3, [0.8, 0.4, 0.3, 0.3]), (1.0, 1e-5, [0.8] * 4), (0.5, 0.9, [0.8] * 4)],
)
def test_the_learning_rate_falls_to_its_last_and_never_rises(decay, last, expected):
    part = parts.DecayedAdam(learning_rate=0.8, learning_rate_decay=decay, last_learning_rate=last)
    np.testing.assert_allclose([float(part.at(step)) for step in range(4)], expected, rtol=1e-6)
    optimizer, params = part.make(4), jnp.zeros(2)
    state = optimizer.init(params)
    for rate in expected:
        updates, state = optimizer.update(jnp.array([3.0, -3.0]), state, params)
        np.testing.assert_allclose(updates, [-rate, rate], rtol=1e-4)  # Adam's step on a constant gradient


@pytest.mark.parametrize(
    ("warm_up", "last", "expected"),
    [
        (0, 0.0, [0.8, 0.6, 0.2]),  # 0.8 times (1 + cos) / 2 of 0, 60 and 120 degrees
        (0, 0.4, [0.8, 0.7, 0.5]),
        (0, 1.0, [0.8, 0.8, 0.8]),  # it does not rise
        (1, 0.0, [0.4, 0.6, 0.2]),
        (3, 0.8, [0.2, 0.4, 0.6]),
    ],
)
def test_learning_rate_warms_up_and_falls_to_the_end_of_the_run(warm_up, last, expected):
    part = parts.ClippedAdam(learning_rate=0.8, learning_rate_warm_up=warm_up, last_learning_rate=last)
    np.testing.assert_allclose([float(part.at(step, 3)) for step in range(3)], expected, rtol=1e-6)
    assert float(part.at(9, 3)) == pytest.approx(min(last, 0.8))  # a run that goes on for longer than it said
    optimizer, params = part.make(3), jnp.zeros(2)
    state = optimizer.init(params)
    for rate in expected:
        updates, state = optimizer.update(jnp.array([0.03, -0.04]), state, params)
        np.testing.assert_allclose(updates, [-rate, rate], rtol=1e-4)  # Adam's step on a constant gradient


def test_meta_gradients_are_clipped_by_their_norm():
    optimizer = parts.ClippedAdam(learning_rate=0.1, max_gradient_norm=0.5).make(10)
    params = jnp.zeros(2)
    _, state = optimizer.update(jnp.array([30.0, 40.0]), optimizer.init(params), params)
    np.testing.assert_allclose(state[1][0].mu, [0.03, 0.04], rtol=1e-5)  # 0.1 of [0.3, 0.4]


def test_estimators_are_of_their_kind():
    assert parts.Backprop().make().needs == "loss" and not parts.Backprop().make().mixed
    assert parts.Backprop(mixed=True).make().mixed
    assert parts.Evolution().make(10).needs == "fitness"
    lifetimes = jax.vmap(quadratic().init)(
        keys := jax.random.split(jax.random.key(0), 4), jax.vmap(levels(9).sample)(keys)
    )
    pes = parts.Evolution(estimator="pes", truncation=2, num_pairs=4).make(10)
    assert isinstance(pes.init({"rate": jnp.float32(0.1)}, lifetimes), PESState)
    for part in (parts.Backprop(devices=2), parts.Evolution(devices=2)):
        with pytest.raises(ValueError, match="devices must be at most 1, as many as are available, got 2"):
            part.make() if isinstance(part, parts.Backprop) else part.make(10)


def test_evolution_needs_the_length_of_a_life_or_a_truncation(monkeypatch):
    seen = []
    monkeypatch.setattr(estimators, "es", lambda steps, **options: seen.append((steps, options)))
    parts.Evolution(shaping="none", measure_every=3, sigma=0.2).make(12)
    parts.Evolution(truncation=4, common_tasks=False).make(12)
    assert [steps for steps, _ in seen] == [12, 4]
    assert seen[0][1]["measure_every"] == 3 and seen[0][1]["shaping"] == "none" and seen[0][1]["sigma"] == 0.2
    assert seen[1][1]["measure_every"] is None
    assert seen[0][1]["common_tasks"] and not seen[1][1]["common_tasks"]


SMALL = {
    "objective": {"name": "a2c"},
    "optimizer": {"name": "adam", "learning_rate": 0.1},
    "network": {"name": "tabular"},
    "experience": {"num_envs": 2, "rollout_length": 2},
}


@pytest.mark.parametrize("score", get_args(parts.ScoreName))
def test_every_score_makes_a_curriculum(score):
    """Of replay, but for those that have nothing to replay; values are asked of the agents' critic."""
    gridworlds = envs.make("gridworld/small")
    antagonist = build(SMALL).inner_loop(gridworlds.environment)
    part = parts.Replay(score=score)
    if part.needs_critic:
        with pytest.raises(ValueError, match=f"score {score} needs agents with a critic"):
            part.make(gridworlds, antagonist)
    if score == "learnability":
        with pytest.raises(ValueError, match="learnability needs agents that play single episodes"):
            part.make(gridworlds, antagonist)
    curriculum = part.make(gridworlds, antagonist, judge=lambda *arguments: None, player=antagonist)
    state = jax.eval_shape(lambda key: curriculum.init(key, 4), jax.random.key(0))
    assert isinstance(state, ReplayState) == (score not in ("uniform", "frozen"))
    if score not in ("uniform", "frozen"):
        assert state.buffer.score.shape == (1000,)


def test_what_levels_do_not_have_is_refused():
    cartpole, mdps = envs.make("CartPole-v1"), envs.make("mdp/random")
    antagonist = build(SMALL).inner_loop(mdps.environment)
    with pytest.raises(ValueError, match="optimal"):
        parts.Replay(score="optimal").make(cartpole, antagonist)
    with pytest.raises(ValueError, match="success_share has no effect on levels whose optimal return is not known"):
        parts.Replay(score="learnability", success_share=0.9).make(cartpole, player=antagonist)
    with pytest.raises(ValueError, match="mutat"):
        parts.Replay(score="random", mutation_probability=0.5).make(mdps, antagonist)
