"""What agents are made of: each network against the same function written out by hand."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from metarl.gradients import forward_over_reverse, reverse_over_reverse
from metarl.rl.networks import action_model, gru, minatar_conv, mlp, policy_head, tabular, transformer
from metarl.rl.networks.network import convolution
from metarl.types import Box, Discrete

OUTPUTS = {"policy": 3, "value": 1, "y": 4}
PER_ACTION = {"policy": 3, "z": (3, 4), "q": (3, 5)}
FLAT, BOARD = Box(-1.0, 1.0, (6,)), Box(0.0, 1.0, (10, 10, 4))
FIRST, LATER = jnp.bool_(True), jnp.bool_(False)
KINDS = {
    "tabular": (tabular, Discrete(7)),
    "mlp": (mlp((8, 8)), FLAT),
    "mlp on indices": (mlp((8,)), Discrete(7)),
    "conv": (minatar_conv(2, 8), BOARD),
    "gru": (gru(8), FLAT),
    "transformer": (transformer(4, layers=1, width=8, heads=2), FLAT),
}


def some_obs(space, key):
    return space.sample(key) if hasattr(space, "n") else jax.random.normal(key, space.shape)


@pytest.fixture(scope="module", params=KINDS)
def network(request):
    factory, space = KINDS[request.param]
    net = factory(space, OUTPUTS)
    return net, jax.jit(net.init)(jax.random.key(0)), some_obs(space, jax.random.key(1))


def test_outputs_have_their_sizes_and_the_policy_is_nearly_uniform_at_birth(network):
    net, params, obs = network
    outputs, carry = jax.jit(net.apply)(params, obs, FIRST, net.carry)
    assert {name: x.shape for name, x in outputs.items()} == {name: (size,) for name, size in OUTPUTS.items()}
    assert jax.tree.map(jnp.shape, carry) == jax.tree.map(jnp.shape, net.carry)
    assert np.ptp(jax.nn.softmax(outputs["policy"])) < 0.05


def test_outputs_share_no_parameters(network):
    net, params, obs = network
    assert set(params) == set(OUTPUTS)

    def sums(params):
        return {name: x.sum() for name, x in net.apply(params, obs, FIRST, net.carry)[0].items()}

    for name, gradient in jax.jit(jax.jacrev(sums))(params).items():
        reached = {k: any(bool((x != 0).any()) for x in jax.tree.leaves(g)) for k, g in gradient.items()}
        assert reached == {k: k == name for k in OUTPUTS}


SHARED = {
    "action model": (action_model((8,), 4), FLAT),
    "action model on indices": (action_model((), 4), Discrete(7)),
    "action model on boards": (action_model((8,), 4, channels=2), BOARD),
}


@pytest.mark.parametrize("name", [*KINDS, *SHARED])
def test_an_output_may_have_numbers_for_each_action(name):
    factory, space = {**KINDS, **SHARED}[name]
    net, obs = factory(space, PER_ACTION), some_obs(space, jax.random.key(1))
    outputs, _ = jax.jit(lambda key: net.apply(net.init(key), obs, FIRST, net.carry))(jax.random.key(0))
    shapes = {name: x.shape for name, x in outputs.items()}
    assert shapes == {"policy": (3,), "z": (3, 4), "q": (3, 5)}
    assert np.ptp(jax.nn.softmax(outputs["policy"])) < 0.1


def test_an_action_model_looks_one_action_ahead():
    """By hand: the torso, the root, one step of an LSTM that reads a one-hot action, and a head."""
    net = action_model((5, 6), 2)(FLAT, PER_ACTION)
    params = jax.tree.map(lambda x: np.asarray(x) + 0.1, jax.jit(net.init)(jax.random.key(0)))
    obs = 0.3 * np.arange(6.0, dtype=np.float32)
    outputs, _ = jax.jit(net.apply)(params, obs, FIRST, ())
    torso = dense(params["torso_1"], np.maximum(dense(params["torso_0"], obs), 0.0))
    np.testing.assert_allclose(outputs["policy"], dense(params["policy"], torso), rtol=1e-5)
    cell = dense(params["root"], torso)
    for action in range(3):
        enter, candidate, forget, leave = np.split(
            dense(params["lstm"], np.tanh(cell)) + params["lstm_action"][action], 4
        )
        after = expit(forget + 1.0) * cell + expit(enter) * np.tanh(candidate)
        state = expit(leave) * np.tanh(after)
        for name in ("z", "q"):
            wanted = dense(params[name], np.maximum(dense(params[f"{name}_hidden"], state), 0.0))
            np.testing.assert_allclose(outputs[name][action], wanted, rtol=1e-5)


def test_a_table_is_the_product_with_a_one_hot_vector():
    net = tabular(Discrete(7), OUTPUTS)
    keys = dict(zip(OUTPUTS, jax.random.split(jax.random.key(0), 3), strict=True))
    params = {name: jax.random.normal(keys[name], x.shape) for name, x in net.init(jax.random.key(1)).items()}
    for obs in range(7):
        outputs, _ = net.apply(params, jnp.int32(obs), FIRST, net.carry)
        for name in OUTPUTS:
            np.testing.assert_array_equal(outputs[name], np.eye(7, dtype=np.float32)[obs] @ params[name])


def test_newborn_agents_need_no_matrix_decomposition(network):
    """Two batched ones in a program, as orthogonal kernels need them, can block jaxlib's CPU thread pool for ever."""
    net, _, _ = network
    program = jax.jit(jax.vmap(net.init)).lower(jax.random.split(jax.random.key(0), 4)).as_text().lower()
    assert "lapack" not in program and "qr" not in program.replace("sqrt", "")


def dense(params, x):
    return x @ params["kernel"] + params["bias"]


def test_an_mlp_sees_observations_as_they_are():
    net = mlp((8, 8))(FLAT, OUTPUTS)
    params, obs = net.init(jax.random.key(0)), 100.0 * jnp.arange(6.0)
    outputs, _ = net.apply(params, obs, FIRST, net.carry)
    for name in OUTPUTS:
        first, second, last = params[name].values()
        np.testing.assert_allclose(
            outputs[name], dense(last, jnp.tanh(dense(second, jnp.tanh(dense(first, obs))))), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("dtype", [jnp.float32, bool])
def test_a_convolution_sees_zeros_and_ones_as_zeros_and_ones(dtype):
    """MinAtar's boards are binary planes: divided by 255, as images are, they would hardly be seen."""
    net = minatar_conv(2, 8)(BOARD, {"policy": 3})
    params = net.init(jax.random.key(0))["policy"]
    board = jax.random.bernoulli(jax.random.key(1), 0.2, BOARD.shape)
    outputs, _ = net.apply({"policy": params}, board.astype(dtype), FIRST, net.carry)
    x, kernel = np.asarray(board, np.float32), params["Conv_0"]["kernel"]
    windows = np.array([[x[i : i + 3, j : j + 3] for j in range(8)] for i in range(8)])
    hidden = jax.nn.relu(jnp.einsum("ijabc,abco->ijo", windows, kernel) + params["Conv_0"]["bias"])
    hidden = jax.nn.relu(dense(params["Dense_0"], hidden.reshape(-1)))
    np.testing.assert_allclose(outputs["policy"], dense(params["Dense_1"], hidden), atol=1e-6)


def test_a_recurrent_network_remembers_within_an_episode_only():
    net = gru(8)(FLAT, OUTPUTS)
    params, obs = net.init(jax.random.key(0)), jnp.ones(6)
    apply = jax.jit(net.apply)
    _, memory = apply(params, -obs, FIRST, net.carry)
    fresh, _ = apply(params, obs, FIRST, net.carry)
    forgotten, _ = apply(params, obs, FIRST, memory)
    remembered, _ = apply(params, obs, LATER, memory)
    unmarked, _ = apply(params, obs, LATER, net.carry)
    for name in OUTPUTS:
        np.testing.assert_array_equal(forgotten[name], fresh[name])
        np.testing.assert_array_equal(unmarked[name], fresh[name])
        assert (remembered[name] != fresh[name]).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tabular(FLAT, OUTPUTS), "tabular network needs a Discrete observation space, got Box"),
        (lambda: policy_head(Box(-1.0, 1.0, (2, 2))), "Discrete or a one-dimensional Box, got Box"),
        (lambda: policy_head(Box(-1.0, 1.0, ())), "Discrete or a one-dimensional Box, got Box"),
        (lambda: policy_head("left"), "Discrete or a one-dimensional Box, got 'left'"),
    ],
)
def test_spaces_that_do_not_fit_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_discrete_policy_is_a_softmax():
    head = policy_head(Discrete(3))
    policy = head.distribution(jnp.log(jnp.array([1.0, 2.0, 5.0])))
    assert head.size == 3
    np.testing.assert_allclose(policy.log_prob(jnp.arange(3)), np.log([1 / 8, 2 / 8, 5 / 8]), rtol=1e-5)


def test_a_continuous_policy_is_a_gaussian_with_clipped_actions():
    head = policy_head(Box(-1.0, 2.0, (2,)))
    assert head.size == 4
    policy = head.distribution(jnp.array([0.5, -0.5, np.log(2.0), -50.0]))  # deviations 2 and exp(-5), the least
    z = np.array([(1.5 - 0.5) / 2.0, 0.01 / np.exp(-5.0)])
    expected = -0.5 * z**2 - np.log([2.0, np.exp(-5.0)]) - 0.5 * np.log(2 * np.pi)
    assert float(policy.log_prob(jnp.array([1.5, -0.49]))) == pytest.approx(expected.sum(), rel=1e-4)
    np.testing.assert_array_equal(head.clip(jnp.array([-3.0, 3.0])), [-1.0, 2.0])


def boards_and_kernels(count, shape=(7, 9, 3)):
    layer, keys = convolution(5), jax.random.split(jax.random.key(0), count)
    return layer, jax.vmap(lambda key: layer.init(key, jnp.zeros(shape)))(keys), jax.random.normal(keys[0], (6, *shape))


def outputs_of(layer):
    return lambda params, boards: jnp.tanh(jax.vmap(partial(layer.apply, params))(boards))


def loss_of(layer):
    return lambda params, boards: jnp.square(outputs_of(layer)(params, boards)).sum()


def meta_gradient(order):
    """Of the loss after a step down the gradient of another, by the way `order` of `metarl.gradients`."""

    def of(layer):
        loss = loss_of(layer)

        def after(params, boards):
            gradient, _ = order(lambda p: (loss(p, boards), ()))(params)
            return loss(jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient), boards)

        return jax.grad(after, argnums=(0, 1))

    return of


WAYS = {
    "values": outputs_of,
    "gradients": lambda layer: jax.grad(loss_of(layer), argnums=(0, 1)),
    "reverse over reverse": meta_gradient(reverse_over_reverse),
    "forward over reverse": meta_gradient(forward_over_reverse),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_convolution_is_that_of_flax_whatever_it_is_computed_by(way):
    """Boards that are not square, and a kernel for each of three agents."""
    layer, params, boards = boards_and_kernels(3)
    plain = nn.Conv(5, (3, 3), padding="VALID", kernel_init=layer.kernel_init)
    np.testing.assert_array_equal(
        plain.init(jax.random.split(jax.random.key(0), 3)[1], boards[0])["params"]["kernel"],
        params["params"]["kernel"][1],
    )
    found, wanted = (jax.jit(jax.vmap(WAYS[way](x), (0, None)))(params, boards) for x in (layer, plain))
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * float(jnp.abs(y).max()))


def test_a_convolution_is_left_to_xla_on_accelerators():
    layer, params, boards = boards_and_kernels(1)
    apply = jax.jit(jax.vmap(layer.apply, (0, None)))
    programs = {p: apply.trace(params, boards).lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda")}
    assert ["stablehlo.convolution" in programs[p] for p in ("cpu", "cuda")] == [False, True]
