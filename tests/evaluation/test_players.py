"""Who trains the agents of a meta-test."""

import jax
import jax.numpy as jnp
import pytest

import envs
import metarl
from metarl.evaluation import players
from metarl.evaluation.baselines import GEOMETRIES, Settings, Trial
from metarl.evaluation.families import TABULAR
from metarl.evaluation.players import player, resolved
from metarl.evaluation.suites import Entry
from metarl.pretrained import save_params
from metarl.rules import build
from metarl.types import Box, Level

MDP = envs.make("mdp/random")
TUNED = Trial("mdp/random", 640, "ppo", Settings(2, 4, 2, 2, 0.3, 0.9), 1.0, 0.0, 2)
ENTRY = Entry(MDP, 640, 2, {"ppo": TUNED})


def test_rules_are_loaded_and_built_ins_stay_names():
    found = resolved({"a2c": "a2c", "fast": "ppo", "mine": "open-gridworld"})
    assert found["fast"] == "ppo" and found["mine"].optimizer is not None


@pytest.mark.parametrize(
    ("rules", "error", "says"),
    [
        ({}, ValueError, "rules must name at least one"),
        ({"ppo": "a2c"}, ValueError, "the label 'ppo' is that of a built-in rule"),
        (
            {"x": "missing/run"},
            FileNotFoundError,
            "no rule at 'missing/run'.*; rules are a2c, ppo, random, shipped ones",
        ),
    ],
)
def test_what_is_no_rule_is_named(rules, error, says):
    with pytest.raises(error, match=says):
        resolved(rules)


def test_a_foreign_file_is_named_with_what_would_do(tmp_path):
    save_params(tmp_path / "rule.safetensors", {"a": jnp.ones(1)}, {})
    with pytest.raises(ValueError, match="no recipe.*rules are a2c, ppo, random, shipped ones .*ta-lpg-gridworld"):
        resolved({"mine": tmp_path})
    (tmp_path / "text").write_text("not a rule")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        resolved({"mine": tmp_path / "text"})


def test_what_is_learned_takes_the_place_of_ppos_own_part_and_lpg_keeps_its_experience():
    tuned = TUNED.settings.experience
    drift, optimizer, lpg = (
        player("mine", metarl.load_rule(name), "mdp/random", ENTRY)
        for name in ("ta-lpo-cartpole", "open-gridworld", "ta-lpg-gridworld")
    )
    assert drift.experience == optimizer.experience == tuned and lpg.experience == metarl.Experience(8, 20)
    assert drift.recipe["objective"]["name"] == "lpo" and drift.recipe["optimizer"]["learning_rate"] == 0.3
    assert optimizer.recipe["objective"]["discount"] == 0.9 and optimizer.recipe["optimizer"]["name"] == "open_rl"
    assert lpg.recipe["optimizer"] == TABULAR.optimizer
    for found in (drift, optimizer, lpg):
        assert not jax.tree.leaves(found.inner.init_meta(jax.random.key(0)))


def test_baselines_are_tuned_where_there_are_settings_and_learners_keep_their_parts(capsys):
    assert player("ppo", "ppo", "mdp/random", ENTRY).experience == TUNED.settings.experience
    assert player("a2c", "a2c", "mdp/random", ENTRY).experience == GEOMETRIES["a2c"][0].experience
    learner = build(
        {
            "objective": {"name": "a2c"},
            "optimizer": {"name": "sgd", "learning_rate": 1.0},
            "network": {"name": "mlp"},
            "experience": {"num_envs": 2, "rollout_length": 3},
        }
    )
    mine = player("mine", learner, "mdp/random", ENTRY)
    level = MDP.sample(jax.random.key(0))
    assert not hasattr(mine.inner.init(jax.random.key(0), level).params["policy"], "ndim")  # dense layers, no table
    assert players.reference("mdp/random", ENTRY) == "ppo"
    assert "mdp/random: a2c not tuned for these env_steps" in capsys.readouterr().err


def test_an_environment_that_a_rule_cannot_handle_is_named():
    class Boards(type(MDP.env)):
        def action_space(self, params=None):
            return Box(0.0, 1.0, (2, 2), jnp.float32)

        def step(self, key, state, action, params):
            return super().step(key, state, jnp.int32(0), params)

    entry = Entry(MDP._replace(env=Boards()), 640)
    with pytest.raises(ValueError, match="lpg cannot train agents in boards: .*one-dimensional Box.*; rules are"):
        player("lpg", metarl.load_rule("ta-lpg-gridworld"), "boards", entry)


def test_the_random_policy_is_uniform():
    bandit = envs.make("bandit/bernoulli").env  # arms that pay 0.1, 0.2, ... 1 a hundred times: 55 on average
    level = Level(jax.tree.map(lambda x: jnp.asarray(x)[None], bandit.default_params), jnp.ones(1, jnp.int32))
    found = jax.jit(lambda: players.random_returns(bandit, level, jax.random.split(jax.random.key(0), 1), 64))()
    assert float(found[0]) == pytest.approx(55.0, abs=2.5)
    box = Box(-2.0, 2.0, (1,), jnp.float32)
    actions, _ = players._Uniform(box, 500).sample_and_log_prob(seed=jax.random.key(1))
    assert actions.shape == (500, 1) and abs(actions.mean()) < 0.3 and float(jnp.abs(actions).max()) <= 2.0
    assert float(actions.std()) == pytest.approx(4.0 / 12**0.5, rel=0.1)
