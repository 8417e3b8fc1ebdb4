"""A critic of answers: the reward that is to be expected before each token."""

from __future__ import annotations

from typing import NamedTuple

import jax
import optax

from metarl.finetune import terms
from metarl.finetune.batch import Batch
from metarl.finetune.policies import SequencePolicy, answer_logits
from metarl.types import Array, Key, Params, PyTree


class TokenCritic(NamedTuple):
    """Learns the value of each token's prefix, for credit that needs `batch.value`."""

    network: SequencePolicy  # with one output in place of logits
    optimizer: optax.GradientTransformation

    def init(self, key: Key) -> tuple[Params, PyTree]:
        """The state of a newborn critic: its parameters and its optimizer's state."""
        params = self.network.init(key)
        return params, self.optimizer.init(params)

    def value(self, params: Params, batch: Batch) -> Array:
        """Expected reward [B, T] before each token of the answers."""
        return answer_logits(self.network, params, batch.prompts, batch.answers)[..., 0]

    def update(self, state: tuple[Params, PyTree], batch: Batch, target: Array) -> tuple[Params, PyTree]:
        """The state after one step toward the returns `target` [B, T], by squared error."""
        params, opt_state = state

        def loss(params: Params) -> Array:
            return terms.token_mean(optax.squared_error(self.value(params, batch), target) / 2, batch.mask)

        moves, opt_state = self.optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, moves), opt_state
