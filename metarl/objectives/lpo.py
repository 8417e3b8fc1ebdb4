"""Mirror learning: a drift replaces PPO's clipping. It is learned (LPO), or a closed form of what was learned.

The policy loss is `-mean(rho A - f(rho, A))` with `rho = pi(a|s) / pi_old(a|s)`. If the drift f is nowhere negative,
and its value and gradient are 0 at rho = 1, the update has PPO's guarantees (Lu et al. 2022, arXiv 2210.05639).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, Unpack

import jax
import jax.numpy as jnp

from metarl.checks import POSITIVE, WIDTH, checked
from metarl.formulas import formula
from metarl.objectives.actor_critic import ActorCriticOptions, actor_critic
from metarl.objectives.temporal import temporal_features
from metarl.rl.objective import Objective
from metarl.types import Array, Key, MetaParams, Progress

Start = Literal["ppo", "scratch"]
DRIFT_VARIABLES = ("r", "l", "A", "n")  # of the formulas of `mirror`
ROUNDING = 1e-6  # of log rho, where the policy is that which acted


@checked
def lpo(
    clip: Annotated[Array | float, POSITIVE] = 0.2,
    temporal: bool = False,
    start: Start = "ppo",
    hidden: Annotated[int, WIDTH] = 128,
    **options: Unpack[ActorCriticOptions],
) -> Objective:
    """Learned policy optimisation (Lu et al. 2022, arXiv 2210.05639): PPO with `lpo_drift` in place of its clipping.

    With `start="ppo"` the network's initial output is zero, and every update is PPO's; compiled, the two losses are
    fused differently, so the last bits differ. There the meta-gradient is zero, because the network's output is in the
    dead zone of the drift: meta-train by evolution, which perturbs it. With `start="scratch"` the network is the whole
    drift, and `clip` is ignored. `temporal` adds the agent's age to the network's inputs (Jackson et al. 2024, arXiv
    2402.05828). The other options are those of `ppo`.

    Raises ValueError for an unknown `start` or `hidden` below 1.
    """

    def init(key: Key) -> MetaParams:
        hidden_key, output_key = jax.random.split(key)
        kernel = jax.nn.initializers.lecun_normal()
        output = jnp.zeros((hidden, 1)) if start == "ppo" else kernel(output_key, (hidden, 1))
        return {"hidden": kernel(hidden_key, (16 if temporal else 8, hidden)), "output": output}

    def policy_loss(
        meta_params: MetaParams, log_prob: Array, old_log_prob: Array, advantage: Array, progress: Progress
    ) -> Array:
        log_ratio, ratio = _ratio(log_prob - old_log_prob)
        gain, base = _ppo_part(start, ratio, advantage, clip)
        return _learned_part(meta_params, log_ratio, ratio, advantage, progress, base) - gain

    return actor_critic(policy_loss, init, **options)


def lpo_drift(
    meta_params: MetaParams,
    log_ratio: Array,
    advantage: Array,
    progress: Progress,
    start: Start = "ppo",
    clip: Array | float = 0.2,
) -> Array:
    """LPO's drift `f = relu(base + shrink(net(x)))` [...] of log rho and A [...].

    `base` is PPO's drift `relu((rho - clip(rho, 1 - clip, 1 + clip)) A)`, or 0 from scratch. `net` is a tanh network
    without biases, of one hidden layer, on `x = [l, l^2, 1 - rho, (1 - rho)^2] ++ A [l, l^2, 1 - rho, (1 - rho)^2]`
    with `l = log rho`. A temporal one, recognised by its 16 inputs, also gets `(n / N) x`. `meta_params` are
    `{"hidden": [8 or 16, hidden], "output": [hidden, 1]}`. log rho is clipped to [-20, 20] against overflow.

    `shrink(u) = u - clip(u, -1e-4, 1e-4)`. From scratch, f is the paper's `relu(net(x) - 1e-4)`, whose value and
    gradient vanish around rho = 1. Added to PPO's drift, a constant -1e-4 would lower that drift even where the
    network's output is 0, and `shrink` does not.
    """
    log_ratio, ratio = _ratio(log_ratio)
    _, base = _ppo_part(start, ratio, advantage, clip)
    return base + _learned_part(meta_params, log_ratio, ratio, advantage, progress, base)


def _ratio(log_ratio: Array) -> tuple[Array, Array]:
    """log rho clipped to [-20, 20], and rho."""
    log_ratio = jnp.clip(log_ratio, -20.0, 20.0)
    return log_ratio, jnp.exp(log_ratio)


def _ppo_part(start: Start, ratio: Array, advantage: Array, clip: Array | float) -> tuple[Array, Array]:
    """`rho A - base`, written as in PPO so that it rounds as there, and the drift `base`."""
    gain = ratio * advantage
    if start == "scratch":
        return gain, jnp.zeros_like(gain)
    clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
    return jnp.minimum(gain, clipped * advantage), jax.nn.relu((ratio - clipped) * advantage)


def _learned_part(
    meta_params: MetaParams, log_ratio: Array, ratio: Array, advantage: Array, progress: Progress, base: Array
) -> Array:
    """`relu(base + shrink(net(x))) - base`, whose gradient is exactly 0 while the network's output is."""
    x = jnp.stack([log_ratio, log_ratio**2, 1.0 - ratio, (1.0 - ratio) ** 2], axis=-1)
    x = jnp.concatenate([x, advantage[..., None] * x], axis=-1)
    if meta_params["hidden"].shape[0] == 16:
        x = jnp.concatenate([x, temporal_features(progress)[0] * x], axis=-1)
    u = (jnp.tanh(x @ meta_params["hidden"]) @ meta_params["output"])[..., 0]
    return jnp.maximum(u - jnp.clip(u, -1e-4, 1e-4), -base)


@checked
def mirror(drift: str, **options: Unpack[ActorCriticOptions]) -> Objective:
    """Mirror learning (Kuba et al. 2022, arXiv 2201.02373) with a drift that is a formula, such as a distilled one.

    `drift` is a `metarl.formulas.formula` of `r = rho - 1`, `l = log rho`, `A`, and the agent's age `n` from 0 to 1.
    What it says below 0 counts as 0, and so does all that it says where rho is 1, with a gradient of 0: without this,
    mirror learning has no guarantees. log rho is clipped to [-20, 20] against overflow. The other options are those
    of `ppo`.

    Raises ValueError for a text that is no such formula.
    """
    values = formula(drift, DRIFT_VARIABLES)

    def policy_loss(
        meta_params: MetaParams, log_prob: Array, old_log_prob: Array, advantage: Array, progress: Progress
    ) -> Array:
        log_ratio, ratio = _ratio(log_prob - old_log_prob)
        age = temporal_features(progress)[0]
        return mirror_drift(values, log_ratio, advantage, age) - ratio * advantage

    return actor_critic(policy_loss, **options)


def mirror_drift(values: Callable[..., Array], log_ratio: Array, advantage: Array, age: Array) -> Array:
    """The drift [...] of `mirror`, whose formula of `DRIFT_VARIABLES` is `values`; all arguments are [...]."""
    drift = jax.nn.relu(values(r=jnp.exp(log_ratio) - 1.0, l=log_ratio, A=advantage, n=age))
    return jnp.where(jnp.abs(log_ratio) > ROUNDING, drift, 0.0)


@checked
def dpo(
    alpha: Annotated[Array | float, POSITIVE] = 2.0,
    beta: Annotated[Array | float, POSITIVE] = 0.6,
    **options: Unpack[ActorCriticOptions],
) -> Objective:
    """Discovered policy optimisation (Lu et al. 2022, arXiv 2210.05639): PPO with `dpo_drift`.

    The other options are those of `ppo`.

    Raises ValueError if `alpha` or `beta` is a number that is not within `metarl.checks.POSITIVE`.
    """

    def policy_loss(
        meta_params: MetaParams, log_prob: Array, old_log_prob: Array, advantage: Array, progress: Progress
    ) -> Array:
        log_ratio, ratio = _ratio(log_prob - old_log_prob)
        return dpo_drift(log_ratio, advantage, alpha, beta) - ratio * advantage

    return actor_critic(policy_loss, **options)


def dpo_drift(log_ratio: Array, advantage: Array, alpha: Array | float = 2.0, beta: Array | float = 0.6) -> Array:
    """DPO's drift [...] of log rho and A [...], log rho clipped to [-20, 20].

    `relu((rho - 1) A - alpha tanh((rho - 1) A / alpha))` where A >= 0 and
    `relu(log(rho) A - beta tanh(log(rho) A / beta))` where A < 0
    """
    log_ratio, ratio = _ratio(log_ratio)
    u = jnp.where(advantage >= 0.0, ratio - 1.0, log_ratio) * advantage
    scale = jnp.where(advantage >= 0.0, alpha, beta)
    return jax.nn.relu(u - scale * jnp.tanh(u / scale))
