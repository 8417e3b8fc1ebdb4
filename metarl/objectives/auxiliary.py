"""Auxiliary losses of actor-critics: `ppo(auxiliary=histogram())`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from metarl import interface
from metarl.checks import NOT_NEGATIVE, SEVERAL, Bound, checked
from metarl.objectives.actor_critic import Auxiliary
from metarl.rl.rollout import PerAction, Rollout
from metarl.types import Array, Metrics

BARS = Bound(SEVERAL.low, 2**12)


@checked
def histogram(
    bars: Annotated[int, BARS] = 32,
    low: float = -3.0,
    high: float = 3.0,
    coef: Annotated[Array | float, NOT_NEGATIVE] = 1.0,
) -> Auxiliary:
    """Predicts a number for every action: `coef` times the mean cross-entropy of histograms of `bars` equal bars.

    The numbers are the rollout's `labels` [T, E, A]: an environment gives them as `info["labels"]` [A], and no network
    sees them. Numbers below `low` or above `high` count for the outermost bars. It is the likelihood of a transformer
    neural process (Müller et al. 2021, arXiv 2112.10510) in NAP (Maraval et al. 2023, arXiv 2305.15930).

    Raises ValueError if `low` is not below `high`; in a loss, without labels [T, E, A].
    """
    if not low < high:
        raise ValueError(f"low must be below high = {high}, got {low}")

    def loss(outputs: Mapping[str, Array], rollout: Rollout) -> tuple[Array, Metrics]:
        logits, labels = outputs["bars"], rollout.labels
        if not isinstance(labels, jax.Array) or labels.shape != logits.shape[:-1]:
            raise ValueError(
                "a histogram loss needs an environment whose info has 'labels', a number for each of its "
                f"{logits.shape[-2]} actions; the rollout has {interface.shown(labels)}"
            )
        bar = jnp.clip(jnp.floor((labels - low) / (high - low) * bars), 0, bars - 1).astype(jnp.int32)
        value = optax.softmax_cross_entropy_with_integer_labels(logits, bar).mean()
        return coef * value, {"histogram_loss": value}

    return Auxiliary({"bars": PerAction(bars)}, loss)
