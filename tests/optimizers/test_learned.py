"""Learned optimizers: what they see, what they do with it, and where they serve."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import envs
import metarl
from metarl import networks, objectives, optimizers
from metarl.optimizers import per_parameter, schedules
from metarl.optimizers.mlp import adafac
from metarl.optimizers.open import DECAYS, GROUPS, features
from metarl.rl import rollout as acting
from metarl.types import Layer, Progress

FAMILY = {
    "open": optimizers.open_rl(),
    "open feed-forward": optimizers.open_rl(hidden=0),
    "no features": optimizers.no_features(),
    "adafac": optimizers.adafac(),
}
EVERYBODY = {**FAMILY, "schedule": optimizers.schedule()}


def some(optimizer, seed=0, scale=0.5):
    """Meta-parameters that do something."""

    @jax.jit
    def moved(key):
        born = optimizer.init(key)
        return jax.tree.map(lambda p: p + scale * jax.random.normal(jax.random.key(p.size), p.shape), born)

    return moved(jax.random.key(seed))


def zeros(optimizer):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(optimizer.init, jax.random.key(0)))


# A network of two inputs, two hidden neurons and one output, by hand.
PARAMS = {
    "policy": {
        "Dense_0": {"kernel": jnp.array([[0.5, -1.0], [2.0, 0.0]]), "bias": jnp.array([0.0, 0.1])},
        "Dense_1": {"kernel": jnp.array([[1.0], [-0.5]]), "bias": jnp.array([0.2])},
    }
}
LAYERS = {
    "policy": {
        "Dense_0": Layer(jnp.float32(0.0), jnp.array([1.5, 0.5]), jnp.float32(1.0)),
        "Dense_1": Layer(jnp.float32(1.0), jnp.array([1.0]), jnp.float32(1.0)),
    }
}


def gradients(seed=0, params=PARAMS):
    keys = iter(jax.random.split(jax.random.key(seed), len(jax.tree.leaves(params))))
    return jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape), params)


KNOWN = {"progress": Progress(jnp.int32(30), jnp.int32(120)), "epoch_progress": 0.75, "layers": LAYERS}


def test_the_features_of_a_hand_worked_network():
    """Two gradients of the first layer's kernel: momenta, signs and magnitudes, and what is the same for all."""
    first, second = np.array([[0.3, -0.2], [0.0, 1.0]]), np.array([[0.1, 0.4], [-2.0, 0.0]])
    kernel, layer = PARAMS["policy"]["Dense_0"]["kernel"], LAYERS["policy"]["Dense_0"]
    memory = jnp.zeros((6, 2, 2))
    for gradient in (first, second):
        memory = per_parameter.momenta(jnp.array(DECAYS), memory, jnp.array(gradient))
    moment = per_parameter.Moment(jnp.int32(1), jnp.float32(0.25), jnp.float32(0.75))
    found = features(per_parameter.Tensor(jnp.array(second), kernel, memory, layer), moment)
    assert found.shape == (4, 19)
    rows = []
    for i in range(2):
        for j in range(2):
            decays = np.array([0.1, 0.5, 0.9, 0.99, 0.999, 0.9999])
            m, g = decays * (1 - decays) * first[i, j] + (1 - decays) * second[i, j], second[i, j]
            sizes = np.log(abs(np.append(m, g)) + 1e-13)
            rows.append([float(kernel[i, j]), *np.sign(m), *sizes[:6], np.sign(g), sizes[6]])
    own = np.array(rows)
    np.testing.assert_allclose(found[:, :15], own / np.sqrt((own**2).mean(0)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[:, 15:18], np.tile([0.25, 0.0, 0.75], (4, 1)))
    np.testing.assert_allclose(found[:, 18], [1.5, 0.5, 1.5, 0.5])  # of the neuron that a weight leads to


def test_open_follows_its_formula():
    """Clipped gradients, one network on all parameters, exploration of what acts, and a mean of zero."""
    optimizer = optimizers.open_rl()
    meta, gradient = some(optimizer), gradients()
    transform = optimizer.transform(meta)
    key = jax.random.key(3)
    moves, after = jax.jit(lambda g: transform.update(g, transform.init(PARAMS), PARAMS, key=key, **KNOWN))(gradient)
    clipped = jax.tree.map(lambda g: g * min(1.0, 0.5 / float(optax.tree.norm(gradient))), gradient)
    moment = per_parameter.Moment(jnp.int32(0), jnp.float32(0.25), jnp.float32(0.75))
    x = []
    for name, layer in LAYERS["policy"].items():
        for part in ("bias", "kernel"):
            g = clipped["policy"][name][part]
            memory = jnp.stack([(1 - d) * g for d in DECAYS])
            param = PARAMS["policy"][name][part]
            x.append(features(per_parameter.Tensor(g, param, memory, layer), moment))
    network = per_parameter.UpdateNetwork(8, 16, 3)
    hidden, out = network.apply({"params": meta}, jnp.zeros((9, 8)), jnp.concatenate(x))
    u = 1e-3 * out[:, 0] * jnp.exp(1e-3 * out[:, 1]) + 1e-3 * out[:, 2] * jax.random.normal(key, (9,))
    found = jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(moves)])
    np.testing.assert_allclose(found, -(u - u.mean()), rtol=1e-3, atol=1e-7)
    assert abs(float(found.mean())) < 1e-9 < float(jnp.abs(found).max())
    np.testing.assert_allclose(after.hidden, hidden, rtol=1e-3, atol=1e-4)
    count = sum(x.size for x in jax.tree.leaves(meta))
    assert 1_000 < count < 1_400  # about 1,200 in the paper


@pytest.mark.parametrize("name", FAMILY)
def test_zero_and_newborn_meta_parameters_leave_parameters_alone(name):
    optimizer = FAMILY[name]

    @jax.jit
    def moved(meta):
        transform = optimizer.transform(meta)
        return transform.update(gradients(), transform.init(PARAMS), PARAMS, key=jax.random.key(0), **KNOWN)[0]

    for meta in (zeros(optimizer), jax.jit(optimizer.init)(jax.random.key(0))):
        moves = moved(meta)
        assert all((x == 0).all() for x in jax.tree.leaves(moves))


def two_moves(optimizer, meta, params, extra=KNOWN, change=lambda x: x):
    """The second of two updates."""
    transform = optimizer.transform(meta)
    state = transform.init(params)
    for seed in (0, 1):
        moves, state = transform.update(change(gradients(seed)), state, params, **extra)
    return moves


@pytest.mark.parametrize("name", FAMILY)
def test_the_order_of_parameters_does_not_matter(name):
    """Neurons in another order are updated in that order; tensors under other names as they were."""
    optimizer = FAMILY[name]
    meta = some(optimizer)
    moves = two_moves(optimizer, meta, PARAMS)

    def swapped(tree):
        tree = jax.tree.map(lambda x: x, tree)
        tree["policy"]["Dense_0"] = jax.tree.map(lambda x: x[..., ::-1], tree["policy"]["Dense_0"])
        return tree

    first = LAYERS["policy"]["Dense_0"]
    other = {
        **KNOWN,
        "layers": {"policy": {**LAYERS["policy"], "Dense_0": first._replace(dormancy=first.dormancy[::-1])}},
    }
    found = two_moves(optimizer, meta, swapped(PARAMS), other, swapped)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-8), swapped(moves), found)

    def renamed(tree):
        return {"policy": {"z": tree["policy"]["Dense_0"], "a": tree["policy"]["Dense_1"]}}

    found = two_moves(optimizer, meta, renamed(PARAMS), {**KNOWN, "layers": renamed(LAYERS)}, renamed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-8), renamed(moves), found)


@pytest.mark.parametrize("name", EVERYBODY)
def test_they_serve_in_any_optax_loop(name):
    """In a chain, behind a mask (its padding changes nothing), under jit, vmap and scan, and with no extras at all."""
    optimizer = EVERYBODY[name]
    meta = some(optimizer)
    plain = optimizer.transform(meta)
    alone = {"policy": {"Dense_0": PARAMS["policy"]["Dense_0"]}}
    lone = {"policy": {"Dense_0": gradients()["policy"]["Dense_0"]}}
    expected, _ = plain.update(lone, plain.init(alone), alone, **KNOWN)
    mask = {"policy": {"Dense_0": True, "Dense_1": False}}
    masked = optax.masked(plain, mask)
    found, _ = masked.update(gradients(), masked.init(PARAMS), PARAMS, **KNOWN)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-8)  # noqa: E731
    jax.tree.map(close, expected["policy"]["Dense_0"], found["policy"]["Dense_0"])
    jax.tree.map(close, gradients()["policy"]["Dense_1"], found["policy"]["Dense_1"])

    chain = optax.chain(plain, optax.scale(2.0))
    doubled, _ = chain.update(lone, chain.init(alone), alone, **KNOWN)
    jax.tree.map(lambda a, b: close(2 * a, b), expected, doubled)

    def lifetime(params, seed):
        def step(carry, key):
            params, state = carry
            moves, state = plain.update(jax.tree.map(jnp.sin, params), state, params)
            return (optax.apply_updates(params, moves), state), None

        return jax.lax.scan(step, (params, plain.init(params)), jnp.arange(3))[0][0]

    scaled = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), PARAMS)
    many = jax.jit(jax.vmap(lifetime, (0, None)))(scaled, 0)
    once = lifetime(PARAMS, 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-6), many, once)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(PARAMS), strict=True))


def test_only_what_acts_explores():
    optimizer = optimizers.open_rl()
    params, layers = ({**x, "value": x["policy"]} for x in (PARAMS, LAYERS))
    layers["value"] = jax.tree.map(
        lambda x: x._replace(actor=jnp.float32(0.0)), layers["value"], is_leaf=lambda x: isinstance(x, Layer)
    )
    transform = optimizer.transform(some(optimizer))

    def moves(**extra):
        gradient = gradients(params=params)
        found, _ = transform.update(gradient, transform.init(params), params, **{**KNOWN, "layers": layers, **extra})
        return {name: np.concatenate([x.reshape(-1) for x in jax.tree.leaves(part)]) for name, part in found.items()}

    calm, *noisy = moves(), moves(key=jax.random.key(1)), moves(key=jax.random.key(2))
    for other in noisy:
        shift = other["value"] - calm["value"]  # the common mean alone
        np.testing.assert_allclose(shift, shift[0], rtol=1e-3, atol=1e-9)
        assert np.std(other["policy"] - calm["policy"]) > 1e-6
    assert (noisy[0]["policy"] != noisy[1]["policy"]).all()


def chosen(without):
    """The features that OPEN sees without some groups."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "metarl.optimizers.open.per_parameter", lambda features, **options: seen.append(features.of_tensor)
        )
        optimizers.open_rl(without=without)
    return seen[0]


@pytest.mark.parametrize("group", [*GROUPS, "noise"])
def test_a_group_of_features_can_be_left_out(group):
    """Then it does not matter what it says."""
    other = Progress(jnp.int32(90), jnp.int32(120))
    deeper = jax.tree.map(lambda x: x._replace(depth=x.depth + 0.3), LAYERS, is_leaf=lambda x: isinstance(x, Layer))
    asleep = jax.tree.map(lambda x: x._replace(dormancy=x.dormancy**2), LAYERS, is_leaf=lambda x: isinstance(x, Layer))
    changes = {
        "progress": {"progress": other},
        "epoch": {"epoch_progress": 0.1},
        "layer": {"layers": deeper},
        "dormancy": {"layers": asleep},
        "noise": {"key": jax.random.key(1)},
    }
    whole, less = optimizers.open_rl(hidden=0), optimizers.open_rl(hidden=0, without=[group])
    kernel, layer = PARAMS["policy"]["Dense_0"]["kernel"], LAYERS["policy"]["Dense_0"]
    memory = jnp.arange(24.0).reshape(6, 2, 2) - 7.5
    tensor = per_parameter.Tensor(gradients()["policy"]["Dense_0"]["kernel"], kernel, memory, layer)
    moment, first = per_parameter.Moment(jnp.int32(1), jnp.float32(0.25), jnp.float32(0.75)), 0
    for name, count in GROUPS.items():
        left = set(range(first, first + count)) if name == group else set()
        first += count
        if left:
            kept = [i for i in range(19) if i not in left]
            np.testing.assert_array_equal(chosen([group])(tensor, moment), features(tensor, moment)[:, kept])
    sizes = [sum(x.size for x in jax.tree.leaves(o.init(jax.random.key(0)))) for o in (whole, less)]
    assert sizes[0] - sizes[1] == (17 if group == "noise" else 16 * GROUPS[group])
    for optimizer, same in ((whole, False), (less, True)):
        if group in changes:
            meta = some(optimizer)
            a, b = (two_moves(optimizer, meta, PARAMS, {**KNOWN, **extra}) for extra in ({}, changes[group]))
            assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), a, b)) == same


def test_the_accumulators_of_adafac():
    """Its 39 features of a matrix after one gradient: what Adam and Adafactor make of it."""
    g, p = np.array([[1.0, -2.0, 0.5], [0.1, 0.3, -4.0]]), np.arange(6.0).reshape(2, 3) / 7
    seen = []

    def spy(features, **options):
        memory = features.accumulate(features.start(jnp.array(p)), jnp.array(g), jnp.int32(0))
        tensor = per_parameter.Tensor(jnp.array(g), jnp.array(p), memory, per_parameter.ORDINARY)
        moment = per_parameter.Moment(jnp.int32(10), jnp.float32(0), jnp.float32(0))
        seen.append((features.of_tensor(tensor, moment), features.num))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metarl.optimizers.mlp.per_parameter", spy)
        adafac()
    (found, count), keep = seen[0], np.array([0.1, 0.01, 0.001])
    m, v = [k * g for k in keep], 0.001 * g**2
    rows = [np.broadcast_to(k * (g**2).mean(1, keepdims=True), g.shape) for k in keep]
    cols = [np.broadcast_to(k * (g**2).mean(0, keepdims=True), g.shape) for k in keep]
    # Adafactor: V = rows cols / mean(rows)
    root = [np.sqrt(r * c / r[:, 0].mean()) for r, c in zip(rows, cols, strict=True)]
    own = [
        g,
        p,
        *m,
        v,
        *(x / np.sqrt(v + 1e-6) for x in m),
        1 / np.sqrt(v + 1e-6),
        *(g / x for x in root),
        *rows,
        *cols,
    ]
    own += [1 / np.sqrt(x) for x in rows + cols] + [x / y for x, y in zip(m, root, strict=True)]
    own = np.stack([x.reshape(-1) for x in own], 1)
    times = np.tanh(10 / np.array([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5]) - 1)
    assert found.shape == (6, count) == (6, 39)
    np.testing.assert_allclose(found[:, :28], own / np.sqrt((own**2).mean(0) + 1e-8), rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(found[:, 28:], np.tile(times, (6, 1)), rtol=1e-5)


# --- schedules ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("learned", "plain"),
    [
        (
            optimizers.schedule(0.01, 0.9, 0.5),
            optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.01, eps_root=0.0)),
        ),
        (optimizers.schedule(0.1, 0.0, None, knots=1, direction="sgd"), optax.sgd(0.1)),
    ],
)
def test_a_newborn_schedule_is_the_optimizer_that_it_starts_as(learned, plain):
    transform = learned.transform(learned.init(jax.random.key(0)))
    state, reference, params = transform.init(PARAMS), plain.init(PARAMS), PARAMS
    for seed in range(4):
        moves, state = transform.update(gradients(seed), state, params)
        expected, reference = plain.update(gradients(seed), reference, params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), moves, expected)


def test_a_schedule_is_linear_between_its_knots():
    optimizer = optimizers.schedule(0.1, 0.0, None, knots=3, direction="sgd")
    meta = {"learning_rate": jnp.log(jnp.array([1.0, 3.0, 0.5]))}
    np.testing.assert_allclose(schedules.readable(meta, 0.1, 0.0, None)["learning_rate"], [0.1, 0.3, 0.05], rtol=1e-5)
    transform = optimizer.transform(meta)
    for step, rate in ((0, 0.1), (25, 0.2), (50, 0.3), (75, 0.175), (100, 0.05)):
        progress = Progress(jnp.int32(step), jnp.int32(100))
        moves, _ = transform.update(gradients(), transform.init(PARAMS), PARAMS, progress=progress)
        jax.tree.map(lambda a, g, r=rate: np.testing.assert_allclose(a, -r * g, rtol=1e-4), moves, gradients())


# --- agents -------------------------------------------------------------------------------------------------

GRID, MINATAR = envs.make("gridworld/small"), envs.make("Breakout-MinAtar")


def agents(levels, network, optimizer, objective=None, **options):
    return metarl.rl_inner_loop(
        levels.env,
        network,
        objective or objectives.ppo(),
        optimizer,
        metarl.Experience(4, 4, **options),
        max_episode_steps=4,
        num_eval_episodes=2,
    )


def born(inner, levels, seed=0):
    return jax.jit(lambda key: inner.init(key, levels.sample(jax.random.key(1))))(jax.random.key(seed))


@pytest.mark.parametrize(
    ("levels", "network"),
    [
        (GRID, networks.tabular),
        (GRID, networks.mlp((4,))),
        (GRID, networks.gru(4)),
        (MINATAR, networks.minatar_conv(2, 4)),
    ],
    ids=["tabular", "mlp", "gru", "conv"],
)
def test_features_come_from_every_kind_of_agent(levels, network):
    """Depth, dormancy and who acts of every tensor of parameters, though nothing knows their names."""
    seen = []

    class Spy:
        init = staticmethod(lambda params: ())

        @staticmethod
        def update(updates, state, params, *, progress, epoch_progress, layers, key):
            seen.append({"layers": layers, "params": params, "epoch": epoch_progress})
            return updates, state

    spy = metarl.LearnedOptimizer(
        lambda key: (), lambda meta: optax.GradientTransformationExtraArgs(Spy.init, Spy.update)
    )
    inner = agents(levels, network, spy, epochs=2, minibatches=2)
    jax.eval_shape(
        inner.step, {"objective": (), "optimizer": ()}, jax.eval_shape(lambda: born(inner, levels)), jax.random.key(0)
    )
    layers, params = seen[-1]["layers"], seen[-1]["params"]
    found = per_parameter.layers_of(layers, params)
    assert not any(layer is per_parameter.ORDINARY for layer in found)
    for tensor, layer in zip(jax.tree.leaves(params), found, strict=True):
        assert layer.dormancy.shape == tensor.shape[-1:] and layer.depth.shape == layer.actor.shape == ()


def test_what_agents_tell_is_what_their_neurons_do():
    inner = agents(GRID, networks.mlp((4,)), optax.sgd(0.1))
    lifetime = born(inner, GRID)
    model = acting.model(GRID.env, networks.mlp((4,)), {"value": 1})
    actors, level = lifetime.actors, lifetime.level

    @jax.jit
    def told(params):
        _, data = acting.rollout(GRID.env, model, params, actors, level.problem, jax.random.key(0), 4)
        return data, acting.layers(model, params, data)

    data, layers = told(lifetime.params)
    inputs = np.asarray(jax.nn.one_hot(data.obs, GRID.env.observation_space(GRID.env.default_params).n)).reshape(16, -1)
    for name, actor in (("policy", 1.0), ("value", 0.0)):
        first, second = (lifetime.params[name][f"Dense_{i}"] for i in range(2))
        hidden = np.tanh(inputs @ first["kernel"] + first["bias"])
        output = hidden @ second["kernel"] + second["bias"]
        for layer, depth, x in ((layers[name]["Dense_0"], 0.0, hidden), (layers[name]["Dense_1"], 1.0, output)):
            size = np.abs(x).mean(0)
            np.testing.assert_allclose(layer.dormancy, size / size.mean(), rtol=1e-4)
            assert layer.depth == depth and layer.actor == actor


def both(**options):
    """LPG and a learned optimizer at once."""
    return agents(GRID, networks.mlp((4,)), optimizers.open_rl(), objectives.lpg(bins=4, hidden=4), **options)


def test_objective_and_optimizer_are_learned_together():
    """What an agent becomes depends on the meta-parameters of both."""
    inner = both()
    meta = {"objective": inner.init_meta(jax.random.key(0))["objective"], "optimizer": some(optimizers.open_rl())}
    assert jax.tree.structure(meta) == jax.tree.structure(inner.init_meta(jax.random.key(0)))
    lifetime, step = born(inner, GRID), jax.jit(inner.step)

    def kernel(meta):
        return step(meta, lifetime, jax.random.key(0)).lifetime.params["policy"]["Dense_0"]["kernel"]

    for part in meta:
        other = {**meta, part: jax.tree.map(lambda x: 1.5 * x, meta[part])}
        assert (kernel(other) != kernel(meta)).any()


def test_a_fixed_objective_is_the_learned_one_as_it_is():
    """An agent becomes what it becomes under the same parameters, and there is nothing left to learn in it."""
    params = both().init_meta(jax.random.key(0))["objective"]
    frozen = objectives.fixed(objectives.lpg(bins=4, hidden=4), params)
    inners = [agents(GRID, networks.mlp((4,)), optax.sgd(0.1), x) for x in (objectives.lpg(bins=4, hidden=4), frozen)]
    metas = [{"objective": params, "optimizer": ()}, inners[1].init_meta(jax.random.key(1))]
    assert metas[1] == {"objective": (), "optimizer": ()}
    lifetime = born(inners[0], GRID)
    free, fixed = (jax.jit(i.step)(m, lifetime, jax.random.key(0)) for i, m in zip(inners, metas, strict=True))
    jax.tree.map(np.testing.assert_array_equal, free.lifetime.params, fixed.lifetime.params)
    assert free.objective != 0.0 and fixed.objective == 0.0  # nothing is left to regularise


def test_an_agents_noise_is_its_own():
    """Two agents with one meta-optimizer, the same parameters and data, and other keys."""
    inner = agents(GRID, networks.mlp((4,)), optimizers.open_rl(), epochs=2, minibatches=2)
    meta = {"optimizer": some(optimizers.open_rl())}  # as it is loaded: files leave out what is not learned
    lifetime, step = born(inner, GRID), jax.jit(inner.step)
    one, same, other = (step(meta, lifetime, jax.random.key(k)).lifetime.params for k in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    kernels = [x["policy"]["Dense_0"]["kernel"] for x in (one, other, lifetime.params)]
    assert (kernels[0] != kernels[1]).any() and (kernels[0] != kernels[2]).any()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: optimizers.open_rl(without=["colour"]), r"without\[0\] must be one of .* got 'colour'"),
        (lambda: optimizers.open_rl(hidden=-1), "hidden must be at least 0, got -1"),
        (lambda: optimizers.open_rl(scale=0.0), "scale must be above 0, got 0.0"),
        (lambda: optimizers.adafac(width=0), "width must be at least 1, got 0"),
        (lambda: optimizers.adafac(max_norm=0.0), "max_norm must be above 0 or None, got 0.0"),
        (lambda: optimizers.no_features(decay=1.0), "decay must be below 1, got 1.0"),
        (lambda: optimizers.schedule(knots=0), "knots must be at least 1, got 0"),
        (lambda: optimizers.schedule(0.0), "learning_rate must be above 0, got 0.0"),
        (lambda: optimizers.schedule(momentum=1.0), "momentum must be below 1, got 1.0"),
        (lambda: optimizers.schedule(max_norm=-1.0), "max_norm must be above 0 or None, got -1.0"),
        (lambda: optimizers.schedule(direction="up"), "direction must be one of adam, sgd, got 'up'"),
        (lambda: both(minibatches=0), "minibatches must be at least 1"),
    ],
)
def test_bad_arguments_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_parameters_are_needed():
    transform = FAMILY["open"].transform(zeros(FAMILY["open"]))
    with pytest.raises(ValueError, match="params"):
        transform.update(gradients(), transform.init(PARAMS))
