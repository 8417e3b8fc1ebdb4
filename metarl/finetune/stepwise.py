"""Stepwise judges: from which token on an answer can no longer become right.

GLoRe's stepwise outcome reward model (Havrilla et al. 2024, arXiv 2402.10963) learns whether a prefix can still be
completed correctly: a prefix is good if the policy completes it correctly at least once in several tries. An outcome
reward model learns, of the same prefixes, whether *this* answer was right, and so says little of where it went wrong.
"""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from metarl.checks import COUNT, checked
from metarl.finetune.batch import Batch
from metarl.finetune.policies import Prefix, SequencePolicy
from metarl.finetune.reward_models import RewardModel
from metarl.finetune.sampling import answered
from metarl.tree import repeated
from metarl.types import Array, Key, Params, TokenTask


@checked
def completable(
    policy: SequencePolicy,
    params: Params,
    task: TokenTask,
    batch: Batch,
    key: Key,
    tries: Annotated[int, COUNT] = 8,
) -> Array:
    """Whether the policy completed the answer up to and with each token correctly in any of `tries`, [B, T] bool.

    The answer itself is one more try, and a prefix is good if a longer one of the same answer is: the paper's
    "positive propagation". Raises ValueError if `tries` is below 1.
    """
    answers = batch.answers
    rows, length = answers.shape

    def one_length(length: Array, key: Key) -> Array:
        prefix = Prefix(jnp.repeat(answers, tries, 0), jnp.full(rows * tries, length))
        problems = repeated(batch.problem, tries)
        found = answered(policy, params, task, problems, key, prefix=prefix).correct
        return found.reshape(rows, tries).any(1)

    good = jax.vmap(one_length)(jnp.arange(1, length + 1), jax.random.split(key, length)).T
    good = good | batch.correct[:, None]
    return jnp.flip(jax.lax.cummax(jnp.flip(good.astype(jnp.int32), 1), axis=1), 1) > 0


def outcomes(batch: Batch) -> Array:
    """Whether the answer that each token is part of was correct, [B, T] bool: labels of an outcome reward model."""
    return jnp.broadcast_to(batch.correct[:, None], batch.answers.shape)


def token_loss(model: RewardModel, params: Params, batch: Batch, labels: Array) -> Array:
    """Logistic losses [B, T] of the scores after each token, as logits of `labels` [B, T]; reduce over the mask."""
    return optax.sigmoid_binary_cross_entropy(token_scores(model, params, batch), labels.astype(jnp.float32))


def token_scores(model: RewardModel, params: Params, batch: Batch) -> Array:
    """The score [B, T] after each token of the answers."""
    return model.read(params, batch.prompts, batch.answers)[:, batch.prompts.shape[1] :, 0]
