"""Weight controllers: how much of each training step is imitation of demonstrations, and how much is reward.

Each function in the second part returns a `Controller`. Its hyperparameters may be arrays, so a controller vmaps and
sweeps; what it remembers is its state. Only `amft` has a meta-parameter, the weight itself, which an `Estimator` moves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from metarl.checks import COUNT, COUNT_OR_ZERO, NOT_NEGATIVE, SHARE, checked
from metarl.types import Array, MetaParams, Progress, PyTree


class Signals(NamedTuple):
    """What a controller sees of a training step. Leaves ()."""

    progress: Progress
    entropy: Array  # of the policy on its own answers, nats per token
    success: Array  # share of its own answers that are correct
    imitation_loss: Array  # cross-entropy of the demonstrations, nats per token
    failures: Array  # int32, failed problems that `sources.failures` has gathered since the last step of imitation


class Weights(NamedTuple):
    """A step follows the gradient of `imitation * L_imitation + reward * L_reward`. Leaves ()."""

    imitation: Array
    reward: Array


class Controller(NamedTuple):
    """Decides weights. Pure functions."""

    init_meta: Callable[[], MetaParams]  # () unless a meta-gradient decides
    init: Callable[[], PyTree]  # state
    weights: Callable[[MetaParams, PyTree, Signals], Weights]  # of each gradient step
    # at the end of a training step: the next state, and what is added to the meta-objective ()
    update: Callable[[MetaParams, PyTree, Signals], tuple[PyTree, Array]]
    needs_failures: bool = False  # it waits for `Signals.failures`, which only `sources.failures` counts


def mixture(imitation: Array | float) -> Weights:
    """Weights that sum to one. At 0 and 1 a step is one of pure reward and of pure imitation."""
    imitation = jnp.asarray(imitation, float)
    return Weights(imitation, 1.0 - imitation)


def elapsed(progress: Progress) -> Array:
    """The share () of the training that is over, from 0 to 1."""
    return progress.step / progress.horizon


@checked
def switch(share: Annotated[Array | float, SHARE]) -> Callable[[Array], Array]:
    """For `schedule`: imitation for the first `share` of the training, then reward alone."""
    return lambda x: (x < share).astype(jnp.float32)


@checked
def cosine(first: Annotated[Array | float, SHARE], last: Annotated[Array | float, SHARE]) -> Callable[[Array], Array]:
    """For `schedule`: from `first` to `last` along half a period of a cosine."""
    return lambda x: last + (first - last) * 0.5 * (1.0 + jnp.cos(jnp.pi * x))


# --- controllers ----------------------------------------------------------------------------------------------


@checked
def constant(imitation: Annotated[Array | float, SHARE]) -> Controller:
    """The same weight at every step: 1 is supervised fine-tuning, 0 reinforcement learning alone."""
    return _memoryless(lambda signals: mixture(imitation))


def schedule(imitation: Callable[[Array], Array]) -> Controller:
    """The weight is a function of the share of the training that is over: `switch(0.5)`, `cosine(0.9, 0.1)`."""
    return _memoryless(lambda signals: mixture(imitation(elapsed(signals.progress))))


@checked
def srft_of_amft(
    imitation: Annotated[Array | float, NOT_NEGATIVE] = 0.5, reward: Annotated[Array | float, NOT_NEGATIVE] = 0.1
) -> Controller:
    """Entropy-aware weights: `imitation * exp(-H)` and `reward * exp(-H)`, with the policy's entropy H.

    These are the weights of the configuration of SRFT that AMFT's authors compare with. Their ratio is constant, so an
    optimizer that normalises the size of gradients, as Adam does, hardly notices the entropy.
    """

    def weights(signals: Signals) -> Weights:
        trust = jnp.exp(-jax.lax.stop_gradient(signals.entropy))
        return Weights(imitation * trust, reward * trust)

    return _memoryless(weights)


@checked
def success_gate(failures: Annotated[int, COUNT]) -> Controller:
    """ReLIFT: reward alone, except for a step of imitation whenever `failures` failed problems have gathered.

    The demonstrations must come from `sources.failures`, which gathers them.
    """
    gate = _memoryless(lambda signals: mixture((signals.failures >= failures).astype(jnp.float32)))
    return gate._replace(needs_failures=True)


@checked
def entropy_servo(
    initial: Annotated[Array | float, SHARE] = 0.5,
    rate: Annotated[Array | float, NOT_NEGATIVE] = 0.05,
    target: Annotated[Array | float, NOT_NEGATIVE] | None = None,
    warm_up: Annotated[Array | int, COUNT_OR_ZERO] = 0,
    sign: Array | float = 1.0,
    low: Annotated[Array | float, SHARE] = 0.05,
    high: Annotated[Array | float, SHARE] = 0.95,
) -> Controller:
    """AMFT's entropy term alone: `mu <- clip(mu + sign rate (H* - H), low, high)`, after `warm_up` steps of imitation.

    H* is `target`, or if None the entropy after the warm-up. The sign of the paper's equation is +1; its prose says -1.
    """
    _check_bounds(initial, low, high)

    def update(meta: MetaParams, state: tuple[Array, Array], signals: Signals) -> tuple[PyTree, Array]:
        mu, aim = state
        warming = signals.progress.step < warm_up
        aim = _aim(aim, signals, warm_up, target)
        moved = jnp.clip(mu + sign * rate * (aim - signals.entropy), low, high)
        return (jnp.where(warming, mu, moved), aim), jnp.zeros(())

    def weights(meta: MetaParams, state: tuple[Array, Array], signals: Signals) -> Weights:
        return mixture(jnp.where(signals.progress.step < warm_up, 1.0, state[0]))

    return Controller(lambda: (), lambda: (jnp.float32(initial), _first_aim(target)), weights, update)


@checked
def dual_ascent(
    limit: Annotated[Array | float, NOT_NEGATIVE],
    rate: Annotated[Array | float, NOT_NEGATIVE] = 0.05,
    initial: Annotated[Array | float, NOT_NEGATIVE] = 1.0,
) -> Controller:
    """Reward under the constraint `L_imitation <= limit` (nats per token), by ascent of the multiplier.

    `lambda <- max(lambda + rate (L_imitation - limit), 0)`; the weights are `lambda / (1 + lambda)` and
    `1 / (1 + lambda)`, which is the Lagrangian's gradient up to a step size (as in constrained RLHF).
    """

    def update(meta: MetaParams, multiplier: Array, signals: Signals) -> tuple[PyTree, Array]:
        return jnp.maximum(multiplier + rate * (signals.imitation_loss - limit), 0.0), jnp.zeros(())

    def weights(meta: MetaParams, multiplier: Array, signals: Signals) -> Weights:
        return mixture(multiplier / (1.0 + multiplier))

    return Controller(lambda: (), lambda: jnp.float32(initial), weights, update)


@checked
def amft(
    initial: Annotated[Array | float, SHARE] = 0.5,
    *,
    entropy_rate: Annotated[Array | float, NOT_NEGATIVE] = 1.0,
    target: Annotated[Array | float, NOT_NEGATIVE] | None = None,
    warm_up: Annotated[Array | int, COUNT_OR_ZERO] = 0,
    sign: Array | float = 1.0,
    low: Annotated[Array | float, SHARE] = 0.05,
    high: Annotated[Array | float, SHARE] = 0.95,
    natural: bool = False,
) -> Controller:
    """AMFT (arXiv 2508.06944, eq. 3-6): a meta-gradient and an entropy term move the weight of imitation.

    The weight is `mu = low + (high - low) sigmoid(m)` with the meta-parameter m. Two terms of the meta-objective move
    m. One is minus the utility of the updated policy, which the inner loop's `loss` measures (in some steps only:
    `metarl.meta.alternate`). The other is the entropy term `-sign entropy_rate (H* - H) mu`, added in every step (an
    `entropy_rate` of 0 turns it off). For the first `warm_up` steps the policy imitates and m stays. H*
    is `target`, or if None the entropy after the warm-up.

    By the sigmoid a meta-gradient moves the weight less, the nearer it is to a bound: by `(mu' / m')^2` of what it
    would move a weight that were free. With `natural` the derivative of the weight by m is taken to be 1, so that m
    moves as far everywhere, and a weight near 0 is multiplied by as much as one near 1/2.

    The paper was withdrawn by its authors (version 3, October 2025), and its public code has the sign of the
    meta-gradient wrong. This is the idea, from its equations. The sign of the entropy term in the equation is +1; in
    the prose it is -1.
    """
    _check_bounds(initial, low, high)

    def mu(meta: MetaParams) -> Array:
        weight = low + (high - low) * jax.nn.sigmoid(meta["logit"])
        if not natural:
            return weight
        return jax.lax.stop_gradient(weight - meta["logit"]) + meta["logit"]

    def init_meta() -> MetaParams:
        share = (jnp.float32(initial) - low) / (high - low)
        return {"logit": jnp.log(share) - jnp.log1p(-share)}

    def weights(meta: MetaParams, aim: Array, signals: Signals) -> Weights:
        return mixture(jnp.where(signals.progress.step < warm_up, 1.0, mu(meta)))

    def update(meta: MetaParams, aim: Array, signals: Signals) -> tuple[PyTree, Array]:
        warming = signals.progress.step < warm_up
        aim = _aim(aim, signals, warm_up, target)
        pull = sign * entropy_rate * jax.lax.stop_gradient(aim - signals.entropy)
        return aim, jnp.where(warming, 0.0, -pull * mu(meta))

    return Controller(init_meta, lambda: _first_aim(target), weights, update)


def _memoryless(weights: Callable[[Signals], Weights]) -> Controller:
    return Controller(
        init_meta=lambda: (),
        init=lambda: (),
        weights=lambda meta, state, signals: weights(signals),
        update=lambda meta, state, signals: ((), jnp.zeros(())),
    )


def _first_aim(target: Array | float | None) -> Array:
    return jnp.float32(jnp.nan if target is None else target)


def _aim(aim: Array, signals: Signals, warm_up: Array | int, target: Array | float | None) -> Array:
    """H*: given, or the entropy of the policy that the warm-up leaves."""
    if target is not None:
        return aim
    return jax.lax.stop_gradient(jnp.where(signals.progress.step <= warm_up, signals.entropy, aim))


def _check_bounds(initial: Array | float, low: Array | float, high: Array | float) -> None:
    if all(isinstance(x, int | float) for x in (initial, low, high)) and not low < initial < high:
        raise ValueError(f"initial must lie between low and high, got {low}, {initial} and {high}")
