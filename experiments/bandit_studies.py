"""Studies of `experiments.mechanisms` on bandits: softmax policies over single actions, which need no network.

An answer is one action, so `d = log(pi / ref)` is exact, and a study of thousands of rounds takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metarl.finetune import SequencePolicy, preferences, terms
from metarl.finetune.combinations import combined
from metarl.types import Array, Key

Rows = dict[str, dict[str, np.ndarray]]  # of each method, what was measured of each seed [n]
Claims = dict[str, tuple[np.ndarray, str]]  # differences [n], and what a positive one would show


def descended(loss: Callable[[Array], Array], start: Array, steps: int) -> Array:
    """Where Adam is after `steps` steps down a `loss`."""
    optimizer = optax.adam(0.05)

    def step(carry: tuple[Array, optax.OptState], _: None) -> tuple[tuple[Array, optax.OptState], None]:
        x, state = carry
        moves, state = optimizer.update(jax.grad(loss)(x), state, x)
        return (optax.apply_updates(x, moves), state), None

    (x, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=steps)
    return x


# --- optimism about what has not been seen ------------------------------------------------------------------------

ARMS, ROUNDS, PAIRS, BETA = 50, 3, 128, 0.1


class Explored(NamedTuple):
    """What three rounds of preferences led to."""

    regret: Array  # () of the last policy
    coverage: Array  # () arms that were compared at least once
    entropy: Array  # () of the last policy


def preference_rounds(alpha: Array, key: Key) -> Explored:
    """Three rounds: pairs from the policy, noisy preferences by utility, DPO plus `alpha` times optimism.

    The reference of each round is the policy that the round began with (SELM); the first one likes bad arms.
    """
    utility_key, key = jax.random.split(key)
    utility = jax.random.uniform(utility_key, (ARMS,), minval=0.0, maxval=4.0)

    def one_round(carry: tuple[Array, Array], key: Key) -> tuple[tuple[Array, Array], None]:
        logits, seen = carry
        ref = jax.nn.log_softmax(logits)
        pair_key, label_key, reference_key = jax.random.split(key, 3)
        first, second = jax.random.categorical(pair_key, ref, shape=(2, PAIRS))
        prefers = jax.random.bernoulli(label_key, jax.nn.sigmoid(utility[first] - utility[second]))
        chosen, rejected = jnp.where(prefers, first, second), jnp.where(prefers, second, first)
        given = jax.random.categorical(reference_key, ref, shape=(PAIRS,))

        def loss(logits: Array) -> Array:
            d = jax.nn.log_softmax(logits) - ref
            return preferences.optimistic_preference(d[chosen], d[rejected], d[given], BETA, alpha).mean()

        logits = descended(loss, logits, 100)
        return (logits, seen.at[first].set(True).at[second].set(True)), None

    start = (-1.5 * utility, jnp.zeros(ARMS, bool))
    (logits, seen), _ = jax.lax.scan(one_round, start, jax.random.split(key, ROUNDS))
    pi = jax.nn.softmax(logits)
    return Explored(utility.max() - pi @ utility, seen.sum(), -terms.entropy_bonus(logits))


def optimism(keys: Key) -> tuple[Rows, Claims]:
    """SELM against DPO on a bandit of 50 arms whose reference policy likes bad arms."""
    run = jax.jit(jax.vmap(preference_rounds, (None, 0)))
    rows: Rows = {}
    for alpha in (0.0, 0.01, 0.03, 0.1, 0.3):
        found = run(jnp.float32(alpha), keys)
        rows[f"SELM, alpha {alpha:g}" if alpha else "DPO"] = {
            "arms compared": np.asarray(found.coverage, float),
            "regret": np.asarray(found.regret),
            "entropy": np.asarray(found.entropy),
        }
    dpo, selm = rows["DPO"], rows["SELM, alpha 0.03"]
    return rows, {
        "SELM (alpha 0.03) compares more arms than DPO": (selm["arms compared"] - dpo["arms compared"], "arms"),
        "and its regret is lower": (dpo["regret"] - selm["regret"], "regret"),
    }


# --- negative gradients and on-policy answers ---------------------------------------------------------------------

ACTIONS, GROUPS, SIZE, STEPS = 100, 16, 8, 300


def group_loss(method: str, log_pi: Array, ref: Array, actions: Array, reward: Array) -> Array:
    """The loss () of the answers [G] of one group under a policy with log-probabilities [ACTIONS]."""
    log_prob, d = log_pi[actions], (log_pi - ref)[actions]
    best, worst = reward.argmax(), reward.argmin()
    if method == "best-of-N":
        return -log_prob[best]
    if method == "RWR":
        return terms.reinforce(log_prob, jax.nn.softmax(reward / 0.1)).sum()
    if method == "DPO":
        return jnp.where(reward[best] > reward[worst], terms.direct_preference(d[best], d[worst], 0.1), 0.0)
    return terms.copg(d, reward, 0.02).sum() / 0.02  # contrastive policy gradient, which needs no on-policy answers


METHODS = {"best-of-N": "likelihood", "RWR": "likelihood", "DPO": "contrast", "CoPG": "contrast"}


def bandit_run(method: str, on_policy: Array, peak: Array, key: Key) -> Array:
    """The mean reward () of a policy after training; the reward has its peak at the action `peak`."""
    place = jnp.arange(ACTIONS)
    reward = jnp.exp(-jnp.square((place - peak) / 10.0))
    ref = jax.nn.log_softmax(-jnp.square((place - 30) / 12.0) / 2.0)
    optimizer = optax.adam(0.03)

    def step(carry: tuple[Array, optax.OptState], key: Key) -> tuple[tuple[Array, optax.OptState], None]:
        logits, state = carry
        actions = jax.random.categorical(key, jnp.where(on_policy, logits, ref), shape=(GROUPS, SIZE))

        def loss(logits: Array) -> Array:
            of_group = partial(group_loss, method, jax.nn.log_softmax(logits), ref)
            return jax.vmap(of_group)(actions, reward[actions]).mean()

        moves, state = optimizer.update(jax.grad(loss)(logits), state, logits)
        return (optax.apply_updates(logits, moves), state), None

    (logits, _), _ = jax.lax.scan(step, (ref, optimizer.init(ref)), jax.random.split(key, STEPS))
    return jax.nn.softmax(logits) @ reward


def negative_gradients(keys: Key) -> tuple[Rows, Claims]:
    """Tajwar et al. 2024, arXiv 2404.14367: what helps depends on whether the reference already likes good actions."""
    peaks = {"peak within reach": 40.0, "peak far away": 70.0}
    rows: Rows = {}
    for method, kind in METHODS.items():
        run = jax.jit(jax.vmap(partial(bandit_run, method), (None, None, 0)))
        for on_policy in (False, True):
            found = {name: np.asarray(run(jnp.bool_(on_policy), peak, keys)) for name, peak in peaks.items()}
            rows[f"{method} ({kind}), {'own answers' if on_policy else 'answers of the reference'}"] = found
    return rows, _verdicts(rows)


def _verdicts(rows: Mapping[str, Mapping[str, np.ndarray]]) -> Claims:
    """Methods of one kind against those of another, for each place of the peak."""

    def mean(word: str, column: str) -> np.ndarray:
        return np.mean([row[column] for name, row in rows.items() if word in name], 0)

    claims: Claims = {}
    for column in next(iter(rows.values())):
        own = mean("own answers", column) - mean("of the reference", column)
        contrast = mean("contrast", column) - mean("likelihood", column)
        claims[f"{column}: own answers beat those of the reference"] = (own, "reward")
        claims[f"{column}: contrast beats likelihood"] = (contrast, "reward")
    return claims


# --- noisy preferences --------------------------------------------------------------------------------------------


class Preferred(NamedTuple):
    """What a fixed set of preferences led to."""

    ordered: Array  # () share of all pairs of arms that the policy puts in the right order
    regret: Array  # ()
    divergence: Array  # () from the reference


def unsure_preferences(confidence: Array, noise: float, key: Key) -> Preferred:
    """DPO on pairs, some of which are labelled the wrong way round.

    A fixed set of 256 pairs of a uniform reference, by utility; a share `noise` of the labels is flipped.
    """
    utility_key, pair_key, noise_key = jax.random.split(key, 3)
    utility = jax.random.uniform(utility_key, (ARMS,), minval=0.0, maxval=4.0)
    first, second = jax.random.randint(pair_key, (2, 256), 0, ARMS)
    prefers = (utility[first] > utility[second]) ^ jax.random.bernoulli(noise_key, noise, (256,))
    chosen, rejected = jnp.where(prefers, first, second), jnp.where(prefers, second, first)
    ref = jax.nn.log_softmax(jnp.zeros(ARMS))

    def loss(logits: Array) -> Array:
        d = jax.nn.log_softmax(logits) - ref
        return terms.direct_preference(d[chosen], d[rejected], 1.0, confidence).mean()

    logits = descended(loss, jnp.zeros(ARMS), 2000)
    pi = jax.nn.softmax(logits)
    divergence = (pi * (jax.nn.log_softmax(logits) - ref)).sum()
    return Preferred(preferences.consistency(logits, utility), utility.max() - pi @ utility, divergence)


def confidence(keys: Key) -> tuple[Rows, Claims]:
    """CREAM's smoothed DPO on preferences of which a fifth is wrong."""
    run = jax.jit(jax.vmap(lambda c, key: unsure_preferences(c, 0.2, key), (None, 0)))
    rows: Rows = {}
    for c in (1.0, 0.9, 0.8, 0.65):
        found = run(jnp.float32(c), keys)
        rows[f"confidence {c:g}" if c < 1.0 else "DPO"] = {
            "pairs in order": np.asarray(found.ordered),
            "regret": np.asarray(found.regret),
            "divergence": np.asarray(found.divergence),
        }
    dpo, smoothed = rows["DPO"], rows["confidence 0.8"]
    return rows, {
        "with confidence 0.8 the policy stays closer": (dpo["divergence"] - smoothed["divergence"], "nats"),
        "it orders the arms better": (smoothed["pairs in order"] - dpo["pairs in order"], "of all pairs"),
        "its regret is lower": (dpo["regret"] - smoothed["regret"], "regret"),
    }


# --- guidance -----------------------------------------------------------------------------------------------------


def guided(w: Array, key: Key) -> tuple[Array, Array, Array]:
    """Reward () and divergence () of a guided policy, and its distance () from one that is tuned with beta / w.

    Both are tuned by contrastive policy gradient on answers of the reference, the guided one with beta 0.4.
    """
    reward_key, ref_key, key = jax.random.split(key, 3)
    reward = jax.random.uniform(reward_key, (ARMS,))
    ref = jax.nn.log_softmax(jax.random.normal(ref_key, (ARMS,)))
    actions = jax.random.categorical(key, ref, shape=(64, 16))

    def tuned(beta: Array) -> Array:
        def loss(logits: Array) -> Array:
            d = jax.nn.log_softmax(logits) - ref
            return jax.vmap(lambda a: terms.copg(d[a], reward[a], beta).sum())(actions).mean()

        return jax.nn.log_softmax(descended(loss, ref, 1000))

    one = SequencePolicy(ARMS, lambda key: (), lambda logits, tokens: logits[None], _unused, _unused)
    guide = combined((one, one), (1.0 - w, w))
    pi = jax.nn.softmax(guide.apply((ref, tuned(jnp.float32(0.4))), jnp.zeros(1, jnp.int32))[0])
    distance = jnp.abs(pi - jnp.exp(tuned(0.4 / w))).sum() / 2
    return pi @ reward, (pi * (jnp.log(pi) - ref)).sum(), distance


def _unused(*arguments: Any) -> Any:
    raise NotImplementedError("this policy is only read")


def guidance(keys: Key) -> tuple[Rows, Claims]:
    """RLG: one tuned policy stands for all strengths of its divergence penalty."""
    run = jax.jit(jax.vmap(guided, (None, 0)))
    rows: Rows = {}
    for w in (0.5, 1.0, 2.0, 4.0):
        reward, divergence, distance = run(jnp.float32(w), keys)
        rows[f"w {w:g}"] = {
            "reward": np.asarray(reward),
            "divergence": np.asarray(divergence),
            "distance from tuning with beta / w": np.asarray(distance),
        }
    distance = rows["w 4"]["distance from tuning with beta / w"]
    return rows, {
        "more guidance, more reward": (rows["w 4"]["reward"] - rows["w 1"]["reward"], "reward"),
        "at w 4 less than 5 % of the probability is elsewhere": (0.05 - distance, "of the probability, to spare"),
    }


STUDIES: dict[str, Callable[[Key], tuple[Rows, Claims]]] = {
    "optimism": optimism,
    "confidence": confidence,
    "guidance": guidance,
    "negative_gradients": negative_gradients,
}
