"""An actor-critic, written as the weights of LPG's network: where its meta-training can begin."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logit

from metarl.types import Array, MetaParams

UNITS = 5  # of the GRU, which hold A, -A, V, -V and how probable the action is
_SMALL = 0.1  # A_t enters its unit times this, where tanh is nearly linear
_PROBABLE = 0.3  # the probability enters its unit times this
_OPEN = 6.0  # the bias of a gate that is 1 up to 0.3 %
_REWARD, _PROB, _Y, _Y_NEXT, _AGE = 0, 2, 3, 4, 6  # rows of the input kernel


class ActorCritic(NamedTuple):
    """The numbers of an actor-critic that holds back probable actions."""

    discount: Array | float
    gae_lambda: Array | float
    caution: Array | float = 0.0
    limit: Array | tuple[float, ...] = (0.0, 1.0, 0.0)  # [3] the limit is their product with (1, age, log10(N) - 2)
    blame: Array | float = 1.0  # factor on advantages below 0


def born_coordinates(temporal: bool) -> MetaParams:
    """The coordinates of a start, as `at_coordinates` takes them: zeros."""
    numbers = {name: jnp.zeros(()) for name in ("discount", "gae_lambda", "caution", "blame")}
    return {**numbers, "limit": jnp.zeros(3 if temporal else 1)}


def at_coordinates(coordinates: MetaParams, start: ActorCritic) -> ActorCritic:
    """The actor-critic at some coordinates, which are 0 for `start`: one unit of each is a large change.

    They add to log odds (`discount`, `gae_lambda`), to a logarithm (`blame`), or to the number itself (`caution`,
    `limit`).
    """
    limit = jnp.asarray(start.limit).at[: coordinates["limit"].size].add(coordinates["limit"])
    return ActorCritic(
        discount=jax.nn.sigmoid(logit(start.discount) + coordinates["discount"]),
        gae_lambda=jax.nn.sigmoid(logit(start.gae_lambda) + coordinates["gae_lambda"]),
        caution=start.caution + coordinates["caution"],
        limit=limit,
        blame=start.blame * jnp.exp(coordinates["blame"]),
    )


def actor_critic_weights(params: MetaParams, numbers: ActorCritic, largest_value: float) -> MetaParams:
    """Weights of an `LPGNetwork` whose targets are those of an actor-critic with a categorical value.

    The value that y predicts is V(y) = sum_i y_i v_i, with v evenly spaced from -`largest_value` to `largest_value`, so
    it is 0 at birth. Generalised advantage estimation (Schulman et al. 2015, arXiv 1506.02438, eq. 16) is a recurrence
    backwards in time, as the GRU is:
    `A_t = r_t + discount V(y_{t+1}) - V(y_t) + discount gae_lambda A_{t+1}`. y_hat is a discretised normal
    distribution around the return G_t = A_t + V(y_t), of the spacing of v as its deviation. Agents minimise
    KL(y || y_hat), so their y tends to such a distribution around the mean of G. All of this holds while the units are
    in the linear part of tanh: for advantages and values that are not far above 1 and `largest_value`, and for limits
    between -1 and 2.

    pi_hat is `A_t - caution max(pi(a_t|s_t) - limit, 0)`, with `blame A_t` if A_t is below 0. The second term keeps the
    policy from being sure: in expectation it follows the gradient of `-caution / 2 sum_a max(pi(a|s) - limit, 0)^2`. By
    default the limit is the age, which goes from 0 to 1 in the agent's life, so the term ends; a rule that does not see
    age and horizon knows the constant part of the limit only.

    `params` are those of the network at birth, of at least `UNITS` units and discount and age as its only context. The
    other units, of the GRU and of phi, stay as they are, but nothing listens to them yet.
    """
    hidden, bins = params["y_hat"]["kernel"].shape
    temporal = params["input_kernel"].shape[0] > _AGE
    values = jnp.linspace(-largest_value, largest_value, bins)
    variance = jnp.square(values[1] - values[0])
    sign, advantage, value, probable = jnp.array([1.0, -1.0]), jnp.arange(2), jnp.arange(2, 4), 4
    discount, decay = numbers.discount, numbers.discount * numbers.gae_lambda / jax.nn.sigmoid(_OPEN)
    limit = jnp.asarray(numbers.limit)
    slight = 0.25 / largest_value  # V enters its unit times this
    candidate = 2 * hidden  # the columns of the gates are reset, update, candidate

    own = (jnp.arange(3)[:, None] * hidden + jnp.arange(UNITS)).ravel()
    kernel = params["input_kernel"].at[:, own].set(0.0)
    kernel = kernel.at[_REWARD, candidate + advantage].set(_SMALL * sign)
    kernel = kernel.at[_Y_NEXT, candidate + advantage].set(_SMALL * discount * sign)
    kernel = kernel.at[_Y, candidate + advantage].set(-_SMALL * sign)
    kernel = kernel.at[_Y, candidate + value].set(slight * sign)
    kernel = kernel.at[_PROB, candidate + probable].set(_PROBABLE)
    if temporal:
        kernel = kernel.at[_AGE : _AGE + 2, candidate + probable].set(-_PROBABLE * limit[1:])
    recurrent = params["recurrent_kernel"].at[:, own].set(0.0).at[advantage, candidate + advantage].set(decay)
    gates = jnp.repeat(jnp.array([_OPEN, -_OPEN, 0.0]), UNITS).at[2 * UNITS + probable].set(-_PROBABLE * limit[0])

    # phi(y) = V(y): one relu holds V(y) + largest_value, which is never negative
    born, listens = params["embed_hidden"], jnp.zeros_like(params["embed"]["kernel"])
    embed_hidden = {**born, "kernel": born["kernel"].at[:, 0].set(values + largest_value)}
    embed = {"kernel": listens.at[0].set(1.0), "bias": jnp.full_like(params["embed"]["bias"], -largest_value)}

    # the heads read relu(state), so a number is the difference of two units
    size = jnp.concatenate([sign / _SMALL, sign / slight])
    pi_hat = jnp.array([1.0 / _SMALL, -numbers.blame / _SMALL, 0.0, 0.0, -numbers.caution / _PROBABLE])
    heads = {name: jnp.zeros_like(params[name]["kernel"]) for name in ("pi_hat", "y_hat")}
    return {
        **params,
        "embed_hidden": embed_hidden,
        "embed": embed,
        "input_kernel": kernel,
        "input_bias": params["input_bias"].at[own].set(gates),
        "recurrent_kernel": recurrent,
        "pi_hat": {**params["pi_hat"], "kernel": heads["pi_hat"].at[:UNITS, 0].set(pi_hat)},
        "y_hat": {
            "kernel": heads["y_hat"].at[: len(size)].set(size[:, None] * values / variance),
            "bias": -jnp.square(values) / (2.0 * variance),
        },
    }
