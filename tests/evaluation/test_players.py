"""Who trains the agents of a meta-test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
import metarl
from metarl.evaluation import players
from metarl.evaluation.baselines import BASELINES
from metarl.evaluation.families import TABULAR
from metarl.evaluation.players import player, resolved
from metarl.evaluation.suites import Entry
from metarl.evaluation.trials import Settings, Tuned
from metarl.pretrained import save_params
from metarl.rules import build, save_rule
from metarl.types import Box, Level

MDP = envs.make("mdp/random")
TUNED = Tuned(Settings(0.3, 0.9, 0.8, 0.1), 1.0, 2, 12)
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
            "no rule at 'missing/run'.*; rules are a2c, a2c-16x20, ppo, ppo-16x20, random, shipped",
        ),
    ],
)
def test_what_is_no_rule_is_named(rules, error, says):
    with pytest.raises(error, match=says):
        resolved(rules)


def test_a_foreign_file_is_named_with_what_would_do(tmp_path):
    save_params(tmp_path / "rule.safetensors", {"a": jnp.ones(1)}, {})
    with pytest.raises(ValueError, match="no recipe.*rules are a2c, .*random, shipped ones .*ta-lpg-gridworld"):
        resolved({"mine": tmp_path})
    (tmp_path / "text").write_text("not a rule")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        resolved({"mine": tmp_path / "text"})


def test_what_is_learned_takes_the_place_of_ppos_own_part_and_lpg_keeps_its_experience():
    drift, optimizer, lpg = (
        player("mine", metarl.load_rule(name), "mdp/random", ENTRY)
        for name in ("ta-lpo-cartpole", "open-gridworld", "ta-lpg-gridworld")
    )
    ppo = BASELINES["ppo"].experience
    assert drift.experience == optimizer.experience == ppo and lpg.experience == metarl.Experience(8, 20)
    assert drift.recipe["objective"]["name"] == "lpo" and drift.recipe["optimizer"]["learning_rate"] == 0.3
    assert optimizer.recipe["objective"]["discount"] == 0.9 and optimizer.recipe["optimizer"]["name"] == "open_rl"
    assert lpg.recipe["optimizer"] == metarl.load_rule("ta-lpg-gridworld").card["recipe"]["optimizer"]
    assert all(not jax.tree.leaves(x.inner.init_meta(jax.random.key(0))) for x in (drift, optimizer, lpg))
    assert [x.tried for x in (drift, optimizer, lpg)] == [12, 12, 1]  # PPO's settings were chosen, and are theirs


def test_a_learned_initialisation_comes_with_agents_of_its_own_network(tmp_path):
    """Not in PPO's agents, nor in those of the environment's family; where its network has other shapes, an error."""
    recipe = {
        "objective": {"name": "a2c"},
        "optimizer": {"name": "sgd", "learning_rate": 2.0},
        "network": {"name": "mlp", "sizes": [3]},
        "experience": {"num_envs": 2, "rollout_length": 5},
        "initial": {"name": "learned"},
    }
    params = build(recipe).inner_loop(MDP.env).init_meta(jax.random.key(0))
    save_rule(tmp_path / "rule.safetensors", params, recipe)
    rule = metarl.load_rule(tmp_path)
    found = player("mine", rule, "mdp/random", ENTRY)
    assert found.recipe == recipe and found.experience == metarl.Experience(2, 5) and found.tried == 1
    newborn = found.inner.init(jax.random.key(1), MDP.sample(jax.random.key(2)))
    jax.tree.map(np.testing.assert_array_equal, newborn.params, params["initial"])
    with pytest.raises(ValueError, match="mine cannot train agents in bandit/bernoulli: the initialisation does not"):
        player("mine", rule, "bandit/bernoulli", Entry(envs.make("bandit/bernoulli"), 640, 2, {}))


def test_baselines_are_tuned_where_there_are_settings_and_learners_keep_their_parts():
    ppo, a2c = (player(name, name, "mdp/random", ENTRY) for name in ("ppo", "a2c-16x20"))
    objective = {"name": "ppo", "discount": 0.9, "gae_lambda": 0.8, "entropy_coef": 0.1, "normalise_advantage": True}
    assert ppo.recipe["objective"] == objective and ppo.tried == 12
    assert a2c.experience == metarl.Experience(16, 20) and a2c.tried == 1
    assert a2c.recipe["optimizer"]["learning_rate"] == TABULAR.learning_rate
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


def test_the_reference_is_the_best_baseline_that_is_tuned(capsys):
    assert players.reference("mdp/random", Entry(MDP, 640)) == "ppo"
    assert capsys.readouterr().err == "mdp/random: no baseline is tuned for these env_steps\n"
    better, rule = TUNED._replace(mean=2.0), TUNED._replace(mean=3.0)
    assert players.reference("mdp/random", Entry(MDP, 640, 2, {"ppo": TUNED, "a2c-16x20": better, "0a": rule})) == (
        "a2c-16x20"
    )
    assert not capsys.readouterr().err


def test_a_tuned_rule_has_a_factor_on_all_learning_rates_and_its_sweep_is_for_its_agents_alone():
    rule, name = metarl.load_rule("lpg-gridworld"), "mdp/random"
    key = players.key(rule, name, ENTRY)
    entry = Entry(MDP, 640, 2, {key: Tuned(Settings(0.5, None, None, None), 1.0, 2, 5)})
    found = player("mine", rule, name, entry)
    optimizer = rule.card["recipe"]["optimizer"]
    plain = {x: optimizer[x]["learning_rate"] for x in ("policy", "y")}
    assert {x: found.recipe["optimizer"][x]["learning_rate"] for x in plain} == {x: r / 2 for x, r in plain.items()}
    assert found.tried == 5 and found.recipe["optimizer"]["y"]["max_norm"] == optimizer["y"]["max_norm"]
    assert players.key(rule, name, entry) == key  # the sweep that has tuned it stays its own
    card = {**rule.card, "content_hash": "other"}
    recipe = {**rule.card, "recipe": {**rule.card["recipe"], "experience": {"num_envs": 2, "rollout_length": 2}}}
    for other in (rule._replace(card=card), rule._replace(card=recipe)):
        assert players.key(other, name, entry) != key and player("mine", other, name, entry).tried == 1
    with pytest.raises(ValueError, match="its optimizer is learned, and has no learning rate"):
        players.agents(metarl.load_rule("open-gridworld"), name, entry, Settings())


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
