"""Networks with a memory: reading T steps at once is calling them T times, also where episodes end in between."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl.rl.networks import gru, lstm, transformer
from metarl.types import Box

SPACE = Box(-1.0, 1.0, (5,))
OUTPUTS = {"policy": 3, "q": (3, 2)}
T = 9  # longer than the windows
KINDS = {
    "gru": gru(6),
    "lstm": lstm(6),
    "transformer": transformer(4, layers=2, width=8, heads=2),
    "shared transformer": transformer(16, layers=1, width=8, heads=2, shared=True),  # and of a window longer than T
}
ENDS = {"no end": (), "first": (0,), "middle": (4,), "often": (2, 3, 7)}


def stepwise(network, params, obs, first, next_obs, carry):
    """`Network.unroll` by calls of `Network.apply`, one after the other."""

    def step(carry, x):
        obs, first, next_obs = x
        outputs, carry = network.apply(params, obs, first, carry)
        next_outputs, _ = network.apply(params, next_obs, jnp.bool_(False), carry)
        return carry, (outputs, next_outputs)

    carry, (outputs, next_outputs) = jax.lax.scan(step, carry, (obs, first, next_obs))
    return outputs, next_outputs, carry


@pytest.fixture(scope="module", params=KINDS)
def read(request):
    """A network with parameters of order one, what it saw, and two compiled ways to read it."""
    network = KINDS[request.param](SPACE, OUTPUTS)

    @jax.jit
    def start():
        leaves, tree = jax.tree.flatten(network.init(jax.random.key(0)))
        keys = jax.random.split(jax.random.key(1), len(leaves))
        noisy = [x + 0.3 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
        return jax.tree.unflatten(tree, noisy)

    obs, next_obs = jax.random.normal(jax.random.key(2), (2, T, *SPACE.shape))
    ways = {
        way: jax.jit(f) for way, f in {"at once": network.unroll, "stepwise": lambda *x: stepwise(network, *x)}.items()
    }
    return network, start(), obs, next_obs, ways


def assert_equal(one, other):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), one, other)


@pytest.mark.parametrize("ends", ENDS)
def test_reading_steps_at_once_is_reading_them_one_by_one(read, ends):
    """Twice in a row: the second time with what is remembered of the first. Results and memory are equal."""
    network, params, obs, next_obs, ways = read
    first = jnp.zeros(T, bool).at[jnp.array(ENDS[ends], int)].set(True)
    carries = dict.fromkeys(ways, network.carry)
    for inputs in (obs, next_obs), (-next_obs, obs):
        found = {way: f(params, inputs[0], first, inputs[1], carries[way]) for way, f in ways.items()}
        assert_equal(*found.values())
        carries = {way: x[2] for way, x in found.items()}
    assert {name: x.shape for name, x in found["at once"][1].items()} == {"policy": (T, 3), "q": (T, 3, 2)}


def test_nothing_is_remembered_across_the_start_of_an_episode(read):
    network, params, obs, next_obs, ways = read
    first = jnp.zeros(T, bool).at[4].set(True)
    one, other = (ways["at once"](params, x, first, next_obs, network.carry) for x in (obs, obs.at[:4].add(1.0)))
    for a, b in zip(jax.tree.leaves(one[:2]), jax.tree.leaves(other[:2]), strict=True):
        np.testing.assert_allclose(a[4:], b[4:], atol=1e-6)
        assert (jnp.abs(a[:4] - b[:4]).max(range(1, a.ndim)) > 1e-3).all()
    # within an episode, the next step and the one that follows it see what came before
    unbroken = jnp.zeros(T, bool)
    one, other = (ways["at once"](params, x, unbroken, next_obs, network.carry) for x in (obs, obs.at[3].add(1.0)))
    for i, later in ((0, 4), (1, 3)):
        assert (jnp.abs(one[i]["policy"] - other[i]["policy"])[later] > 1e-4).any()
        np.testing.assert_allclose(one[i]["policy"][:3], other[i]["policy"][:3], atol=1e-6)  # causal


def test_gradients_reach_every_parameter_and_are_finite(read):
    network, params, obs, next_obs, ways = read
    first = jnp.zeros(T, bool).at[4].set(True)

    def loss(params):
        return sum(
            jnp.square(x).mean()
            for x in jax.tree.leaves(network.unroll(params, obs, first, next_obs, network.carry)[:2])
        )

    for path, x in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert jnp.isfinite(x).all() and (x != 0.0).any(), path


def test_what_follows_costs_nothing_where_it_is_not_used(read):
    """XLA removes the computation of `next_outputs`."""
    network, params, obs, next_obs, _ = read
    args = params, obs, jnp.zeros(T, bool), next_obs, network.carry
    flops = {
        kept: jax.jit(lambda *x, kept=kept: network.unroll(*x)[:kept]).lower(*args).compile().cost_analysis()["flops"]
        for kept in (1, 2)
    }
    assert flops[1] < 0.75 * flops[2]


def test_a_window_bounds_the_memory():
    """Two layers of windows of 3 see 2 * 2 steps back, and a window of 1 sees none: it makes a feed-forward network."""
    for window, back in ((3, 4), (1, 0)):
        network = transformer(window, layers=2, width=8, heads=2)(SPACE, {"y": 4})
        params, obs = jax.jit(network.init)(jax.random.key(0)), jax.random.normal(jax.random.key(1), (T, *SPACE.shape))
        never = jnp.zeros(T, bool)
        y = jax.jit(lambda obs: stepwise(network, params, obs, never, obs, network.carry)[0]["y"])  # noqa: B023
        moved = (jnp.abs(y(obs) - y(obs.at[2].add(1.0))) > 1e-6).any(-1)
        assert moved.tolist() == [2 <= t <= 2 + back for t in range(T)]
        assert bool(jax.tree.leaves(network.carry)) == bool(network.unroll) == (window > 1)


def test_a_transformer_does_not_know_how_long_ago_its_stream_began():
    """Its positions are relative, so that a long life is no other than a short one."""
    network = transformer(4, layers=1, width=8, heads=2)(SPACE, {"y": 4})
    params, obs = jax.jit(network.init)(jax.random.key(0)), jax.random.normal(jax.random.key(1), (T, *SPACE.shape))
    twice = jnp.concatenate([obs, obs])
    y, _, _ = jax.jit(network.unroll)(params, twice, jnp.zeros(2 * T, bool), twice, network.carry)
    np.testing.assert_allclose(y["y"][4:T], y["y"][T + 4 :], atol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: transformer(0), "window must be at least 1, got 0"),
        (
            lambda: transformer(4, width=12, heads=4),
            r"width must be a multiple of 2 \* heads, got width=12 and heads=4",
        ),
        (lambda: lstm(0), "size must be at least 1, got 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
