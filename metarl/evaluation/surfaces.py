"""What a learned objective computes, as surfaces: policy targets of a single step (LPG, DiscoRL), and LPO's drift."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import jax
import jax.numpy as jnp

from metarl import plot
from metarl.objectives.disco_network import Seen, meta_network, newborn, seen_of
from metarl.objectives.disco_values import Moments, Outputs, Steps, Values
from metarl.objectives.lpg import LPGInputs, LPGNetwork, LPGTargets, embedding, lpg_context
from metarl.objectives.lpo import Start, lpo_drift
from metarl.types import Array, MetaParams, Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 101  # of each axis; odd, so that zero is one of them


class Surface(NamedTuple):
    """Values over a grid."""

    x: Array  # [columns]
    y: Array  # [rows]
    values: Array  # [rows, columns]


def lpg_surface(meta_params: MetaParams, progress: Progress, discount: float | None = None) -> Surface:
    """The policy target pi_hat of a single step, over its reward (x) and the change of the embedded prediction (y).

    The predictions y_t and y_{t+1} enter the meta-network only through a learned scalar phi, so the vertical axis is
    `phi(y_{t+1}) - phi(y_t)`: y_t is uniform, and y_{t+1} moves in a straight line from the bin (all its mass there)
    of the lowest phi to that of the highest. The step does not end an episode, nothing is known of what follows it,
    and pi(a|s) = 0.5. `meta_params` and `discount` are those of `objectives.lpg`; a blind rule ignores `progress`.
    """
    hidden, bins = meta_params["y_hat"]["kernel"].shape
    phi = embedding(meta_params, jnp.eye(bins))
    path = jnp.linspace(jnp.eye(bins)[phi.argmin()], jnp.eye(bins)[phi.argmax()], POINTS)  # [rows, bins]
    uniform = jnp.full(bins, 1.0 / bins)
    change = embedding(meta_params, path) - embedding(meta_params, uniform)
    order = change.argsort()  # phi is not linear along the path, nor need it rise all the way
    rewards, shape = jnp.linspace(-1.0, 1.0, POINTS), (POINTS, POINTS)
    if (discount is None) is _sees_discount(meta_params):
        wanted = "a number" if discount is None else "None"
        raise ValueError(f"discount must be {wanted} for these meta-parameters, got {discount}")
    seen = lpg_context(discount, progress if _sees_time(meta_params) else None)
    # every point of the grid is one environment of a rollout of one step
    no = jnp.zeros((1, POINTS * POINTS), bool)
    inputs = LPGInputs(
        reward=jnp.broadcast_to(rewards, shape).reshape(no.shape),
        terminated=no,
        done=no,
        prob=jnp.full(no.shape, 0.5),
        y=jnp.broadcast_to(uniform, (*no.shape, bins)),
        y_next=jnp.broadcast_to(path[order][:, None], (*shape, bins)).reshape(*no.shape, bins),
        context=jnp.broadcast_to(seen, (*no.shape, seen.size)),
    )
    targets = cast(LPGTargets, LPGNetwork(bins, hidden).apply({"params": meta_params}, inputs))
    return Surface(rewards, change[order], targets.pi_hat.reshape(shape))


def lpo_surface(meta_params: MetaParams, progress: Progress, start: Start = "ppo", clip: float = 0.2) -> Surface:
    """LPO's drift f(rho, A) over the ratio rho from 1/2 to 2 (x) and the advantage A from -3 to 3 (y)."""
    log_ratio, advantage = jnp.linspace(-jnp.log(2.0), jnp.log(2.0), POINTS), jnp.linspace(-3.0, 3.0, POINTS)
    log_ratios, advantages = jnp.meshgrid(log_ratio, advantage)  # [rows, columns] each
    return Surface(jnp.exp(log_ratio), advantage, lpo_drift(meta_params, log_ratios, advantages, progress, start, clip))


def disco_surface(meta_params: MetaParams) -> Surface:
    """How far DiscoRL's policy target moves an action: pi_hat(a) - pi(a) over pi(a) (x) and its advantage (y).

    Every point of the grid is a step of its own, with two actions, no reward and no end of an episode. Predictions are
    uniform, values of states are 0, advantages are not normalised, and the target network is the agent's. The lifetime
    has had one update on all steps without advantages: before the first one, the state of the lifetime is 0, and with
    it all targets but their biases. `meta_params` are those of `objectives.disco`.
    """
    prob, advantage = jnp.linspace(0.02, 0.98, POINTS), jnp.linspace(-2.0, 2.0, POINTS)
    probs, advantages = (x.reshape(1, -1) for x in jnp.meshgrid(prob, advantage))
    nothing, no = jnp.zeros_like(probs), jnp.zeros(probs.shape, bool)
    policy = jnp.stack([probs, 1.0 - probs], axis=-1)
    bins = meta_params["y_hat"]["bias"].size
    y, z = jnp.zeros((*probs.shape, bins)), jnp.zeros((*policy.shape, bins))
    said = Outputs(policy=jnp.log(policy), y=y, z=z, next_policy=nothing, q=nothing)  # the last two are not looked at
    as_they_are = Moments(mean=jnp.zeros(()), square=jnp.ones(()), decay=jnp.zeros(()))
    first = jnp.zeros(probs.shape, int)
    steps = Steps(behaviour=said.policy, action=first, reward=nothing, terminated=no, done=no)

    def seen(advantage: Array) -> Seen:
        of_actions = jnp.stack([advantage, nothing], axis=-1)
        values = Values(
            value=nothing,
            next_value=nothing,
            target_action_value=of_actions,
            returns=advantage,
            advantage=advantage,
            action_advantage=of_actions,
        )
        return seen_of(steps, values, as_they_are, said, said, said, said)

    state = newborn(meta_params["lifetime"]["lstm"]["bias"].size // 4)
    _, state = meta_network(meta_params, state, seen(nothing))
    targets, _ = meta_network(meta_params, state, seen(advantages))
    change = jax.nn.softmax(targets.policy)[..., 0] - probs
    return Surface(prob, advantage, change.reshape(POINTS, POINTS))


def draw_disco(meta_params: MetaParams) -> Figure:
    """`disco_surface` in colour."""
    found = disco_surface(meta_params)
    label = r"$\hat\pi(a) - \pi(a)$"
    return plot.surfaces({"second update": found.values}, found.x, found.y, r"$\pi(a|s)$", "advantage of $a$", label)


def draw_lpg(meta_params: MetaParams, longest_life: int, discount: float | None = None) -> Figure:
    """`lpg_surface` at several ages of an agent that lives `longest_life` updates; at any age, of a blind rule."""
    ages = _ages(longest_life, _sees_time(meta_params))
    found = {name: lpg_surface(meta_params, progress, discount) for name, progress in ages.items()}
    first = next(iter(found.values()))
    x_label = "reward"
    y_label = r"$\phi(y_{t+1}) - \phi(y_t)$, uniform $y_t$"
    label = r"$\hat\pi$ of a step with $\pi(a|s) = 0.5$"
    return plot.surfaces({name: x.values for name, x in found.items()}, first.x, first.y, x_label, y_label, label)


def draw_lpo(meta_params: MetaParams, longest_life: int, start: Start = "ppo", clip: float = 0.2) -> Figure:
    """PPO's drift, and `lpo_surface` at several ages of an agent that lives `longest_life` updates.

    `meta_params`, `start` and `clip` are those of `objectives.lpo`.
    """
    silent = jax.tree.map(jnp.zeros_like, meta_params)  # a network that adds nothing to PPO's drift
    ages = _ages(longest_life, meta_params["hidden"].shape[0] == 16)
    ppo = lpo_surface(silent, next(iter(ages.values())), "ppo", clip)
    panels = {"PPO": ppo.values}
    for name, progress in ages.items():
        panels[name] = lpo_surface(meta_params, progress, start, clip).values
    return plot.surfaces(panels, ppo.x, ppo.y, r"ratio $\rho$", "advantage A", r"drift $f(\rho, A)$")


def _sees_time(meta_params: MetaParams) -> bool:
    """Whether an LPG sees the agent's age: two inputs more than reward, end, pi, phi of two predictions, discount."""
    return meta_params["input_kernel"].shape[0] >= 7


def _sees_discount(meta_params: MetaParams) -> bool:
    """Whether an LPG sees the discount, which is one input, where age and horizon are two."""
    return meta_params["input_kernel"].shape[0] % 2 == 0


def _ages(longest_life: int, temporal: bool) -> dict[str, Progress]:
    """The panels' names, and what they show: an agent at birth, halfway and at its end; one panel for a blind rule."""
    horizon = jnp.int32(longest_life)
    if not temporal:
        return {"at any age": Progress(jnp.int32(0), horizon)}
    return {f"n/N = {age:g}, N = {horizon}": Progress(age * horizon, horizon) for age in (0.0, 0.5, 1.0)}
