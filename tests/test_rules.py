"""Recipes and learned rules: built, saved, loaded and used in one's own code."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import envs
import metarl
from envs import mdp
from metarl import networks, objectives, optimizers, rules
from metarl.pretrained import load_params, save_params

AGENT = {"network": {"name": "tabular"}, "experience": {"num_envs": 2, "rollout_length": 3}}
SGD = {"optimizer": {"name": "sgd", "learning_rate": 1.0}}
LPG = {"objective": {"name": "lpg", "bins": 4, "hidden": 4}, **SGD, **AGENT}
OPEN = {"optimizer": {"name": "open_rl", "hidden": 2, "width": 4, "without": ("noise",)}}


def born(recipe, seed=0):
    learner = rules.build(recipe)
    parts = {kind: part for kind in recipe if hasattr(part := getattr(learner, kind, None), "init")}
    learned = {kind: part for kind, part in parts.items() if not hasattr(part, "update")}
    return {kind: jax.jit(part.init)(jax.random.key(seed)) for kind, part in learned.items()}


def test_a_saved_rule_trains_agents_as_it_did(tmp_path):
    """LPG's agents, with the objective as it was learned, with the one that is loaded, and with the whole learner."""
    params = born(LPG)
    metarl.save_rule(tmp_path / "rule.safetensors", {**params, "optimizer": ()}, LPG, {"seed": 3})
    rule = metarl.load_rule(tmp_path / "rule.safetensors")
    assert rule.optimizer is None and rule.card["seed"] == 3 and rule.card["recipe"] == LPG
    levels = envs.make("mdp/random", horizon=5)
    level, key = levels.sample(jax.random.key(1)), jax.random.key(2)

    def train(inner, params):
        return jax.jit(lambda: metarl.train_agent(inner, params, level, key, 3)[0].params)()

    def agent(objective):
        return metarl.rl_inner_loop(
            levels.environment, networks.tabular, objective, optax.sgd(1.0), metarl.Experience(2, 3)
        )

    before = train(agent(objectives.lpg(bins=4, hidden=4)), {**params, "optimizer": ()})
    for after in (train(agent(rule.objective), {}), train(rule.inner_loop(levels.environment), {})):
        jax.tree.map(np.testing.assert_array_equal, before, after)
    learned = train(rule.learner.inner_loop(levels.environment), rule.params)
    jax.tree.map(np.testing.assert_array_equal, before, learned)


def test_a_saved_optimizer_is_one_of_optax(tmp_path):
    params = jax.tree.map(lambda x: x + 0.1, born(OPEN))
    metarl.save_rule(tmp_path / "rule.safetensors", params, OPEN)
    rule = metarl.load_rule(str(tmp_path))  # the directory of a run
    weights = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3)}
    made = optimizers.open_rl(2, 4, without=("noise",)).transform(params["optimizer"])
    moves = [
        jax.jit(lambda t=t: t.update(weights, t.init(weights), weights)[0])()
        for t in (optax.chain(rule.optimizer), optax.chain(made))
    ]
    jax.tree.map(np.testing.assert_array_equal, *moves)
    assert rule.objective is None and float(jnp.abs(moves[0]["w"]).max()) > 0.0
    with pytest.raises(ValueError, match="this learner has an optimizer only"):
        rule.inner_loop(envs.make("mdp/random").environment)


def test_optimizers_of_recipes_are_those_of_optax():
    """But for derivatives: clipped Adam and SGD, and one optimizer for each output."""
    params = {"policy": jnp.array([3.0, -4.0]), "y": jnp.array([0.1])}
    adam = {"name": "adam", "learning_rate": 0.1, "max_norm": 0.5, "eps": 1e-5}
    sgd = {"name": "sgd", "learning_rate": 2.0}
    expected = optax.partition(
        {"policy": optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1, eps=1e-5)), "y": optax.sgd(2.0)},
        lambda params: {name: name for name in params},
    )
    ours = rules.build_part("optimizer", {"name": "per_output", "policy": adam, "y": sgd})
    moves = [t.update(params, t.init(params), params)[0] for t in (ours, expected)]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), *moves)


def test_a_learned_initialisation_is_in_the_file_and_belongs_to_its_recipe(tmp_path):
    """Of agents it comes with their network; of supervised tasks it is `params["initial"]`."""
    recipe = {"objective": {"name": "a2c"}, "initial": {"name": "learned"}, **SGD, **AGENT}
    start = {"policy": jnp.full((7, 2), 0.5), "value": jnp.ones((7, 1))}
    metarl.save_rule(tmp_path / "rule.safetensors", {"initial": start}, recipe)
    rule = metarl.load_rule(tmp_path)
    assert rule.objective is None and rule.optimizer is None and rule.learner.initial == "learned"
    env = mdp.MDP(7, 2)
    assert rule.inner_loop(env).init_meta(jax.random.key(0)) == {"objective": (), "optimizer": ()}
    newborn = rule.inner_loop(env).init(jax.random.key(1), metarl.constant_levels(env, 1).sample(jax.random.key(0)))
    jax.tree.map(np.testing.assert_array_equal, newborn.params, start)
    says = r"does not fit the network tabular of these agents: it has \(7, 2\) at \['policy'\], wanted \(7, 3\)"
    with pytest.raises(ValueError, match=says):
        rule.inner_loop(mdp.MDP(7, 3))

    for path, params, parts in (("a", {"initial": start}, {**SGD}), ("b", {}, {**SGD, "initial": {"name": "learned"}})):
        with pytest.raises(ValueError, match="the parameters have (a|no) learned initialisation, and their recipe has"):
            metarl.save_rule(tmp_path / path, params, parts)
    metarl.save_rule(tmp_path / "c", {"initial": {"x": jnp.ones(2)}}, {**SGD, "initial": {"name": "learned"}})
    assert metarl.load_rule(tmp_path / "c").params["initial"]["x"].tolist() == [1.0, 1.0]


def test_every_component_is_named_once_and_the_only_one_of_its_kind_needs_no_name():
    for kind, components in rules.COMPONENTS.items():
        assert list(components) == sorted(components), kind
    assert rules.build_part("experience", AGENT["experience"]) == metarl.Experience(2, 3)
    assert rules.build_part("policy", {})(envs.make("mdp/random").environment.action_space(None)).size > 1


@pytest.mark.parametrize("name", rules.shipped())
def test_what_is_shipped_loads_and_has_a_card(name):
    rule = metarl.load_rule(name)
    card = (rules._SHIPPED / f"{name}.md").read_text()
    assert rule.card["content_hash"][:16] in card and f"python -m experiments.{rule.card['experiment']} " in card
    assert json.dumps(rule.card["recipe"]) in card
    assert "Licence: Apache-2.0" in card and "Training data: " in card
    assert rule.objective or rule.optimizer or "initial" in rule.params
    if rule.learner.network is not None:  # of agents
        levels = envs.make(rule.card["config"]["levels"])
        assert not jax.tree.leaves(rule.inner_loop(levels.environment).init_meta(jax.random.key(0)))


def test_a_file_of_an_old_version_is_converted(tmp_path):
    path, old = tmp_path / "rule.safetensors", {"objective": LPG["objective"]}
    save_params(path, born(LPG), {"recipe": old, "seed": 3})
    with pytest.raises(ValueError, match=r"no optimizer, network, experience; metarl.rules.convert\(path, recipe\)"):
        metarl.load_rule(path)
    rules.convert(path, {**SGD, **AGENT})
    rule = metarl.load_rule(path)
    assert rule.card["recipe"] == LPG and rule.card["seed"] == 3
    jax.tree.map(np.testing.assert_array_equal, load_params(path)[0], born(LPG))


@pytest.mark.parametrize(
    ("act", "error", "says"),
    [
        (lambda d: metarl.load_rule("nothing-like-it"), FileNotFoundError, "no rule at 'nothing-like-it', and none is"),
        (lambda d: metarl.load_rule("lpg-gridwold"), FileNotFoundError, "did you mean lpg-gridworld"),
        (lambda d: metarl.load_rule(d), FileNotFoundError, "no run has finished there"),
        (lambda d: metarl.load_rule(save_params(d / "x", {"a": jnp.ones(1)}, {}) or d / "x"), ValueError, "no recipe"),
        (lambda d: metarl.save_rule(d / "x", born(LPG), {**LPG, "colour": {}}), ValueError, "initial, got 'colour'"),
        (lambda d: rules.build_part("objective", {"name": "lpq"}), ValueError, "got 'lpq'"),
        (lambda d: rules.build_part("objective", {"name": "lpg", "bin": 4}), ValueError, "'bin'"),
        (
            lambda d: rules.build_part("network", {}),
            ValueError,
            "one of action_model, gru, lstm, minatar_conv, mlp, neural_process, tabular, transformer, got None",
        ),
        (lambda d: rules.build({}), ValueError, "this one has no objective, optimizer, network, experience"),
        (lambda d: metarl.save_rule(d / "x", born(LPG), OPEN), ValueError, "not those of its recipe"),
    ],
)
def test_what_cannot_be_is_refused(act, error, says, tmp_path):
    with pytest.raises(error, match=says):
        act(tmp_path)
