"""OPEN: a learned optimizer for reinforcement learning (Goldie et al. 2024, arXiv 2407.07082)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

import jax.numpy as jnp

from metarl import checks
from metarl.checks import COUNT_OR_ZERO, POSITIVE, WIDTH, checked
from metarl.optimizers.learned import LearnedOptimizer
from metarl.optimizers.per_parameter import Features, Moment, Tensor, columns, momenta, normalised, per_parameter
from metarl.types import Array

Group = Literal["parameter", "momenta", "gradient", "progress", "layer", "epoch", "dormancy", "noise"]

DECAYS = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
# the groups of the 19 features, in order, with their numbers of features
GROUPS: dict[Group, int] = {
    "parameter": 1,
    "momenta": 2 * len(DECAYS),
    "gradient": 2,
    "progress": 1,
    "layer": 1,
    "epoch": 1,
    "dormancy": 1,
}


@checked
def open_rl(
    hidden: Annotated[int, COUNT_OR_ZERO] = 8,
    width: Annotated[int, WIDTH] = 16,
    *,
    without: Sequence[Group] = (),
    scale: Annotated[float, POSITIVE] = 1e-3,
    max_norm: Annotated[float, POSITIVE] | None = 0.5,
) -> LearnedOptimizer:
    """OPEN (section 5 of the paper): a recurrent network (feed-forward with `hidden=0`) that sees the 19 `features`.

    It adds exploration noise of learned size to the parameters of the policy's layers. `without` leaves out groups of
    features, or the noise.

    Raises ValueError for an unknown group, and as `per_parameter` does.
    """
    checks.one_of(get_args(Group), **{f"without[{i}]": group for i, group in enumerate(without)})
    kept = [name not in without for name, count in GROUPS.items() for _ in range(count)]

    def chosen(tensor: Tensor, moment: Moment) -> Array:
        return features(tensor, moment)[:, jnp.array(kept).nonzero(size=sum(kept))[0]]

    own = Features(
        num=sum(kept),
        of_tensor=chosen,
        start=lambda param: jnp.zeros((len(DECAYS), *param.shape)),
        accumulate=lambda memory, gradient, updates: momenta(jnp.array(DECAYS), memory, gradient),
    )
    return per_parameter(
        own,
        hidden=hidden,
        width=width,
        scale=scale,
        explores="noise" not in without,
        centred=True,
        max_norm=max_norm,
    )


def features(tensor: Tensor, moment: Moment) -> Array:
    """The 19 features [size, 19] of a tensor's parameters, in the order of `GROUPS`.

    First the parameter, and signs and log-magnitudes of six momenta and of the gradient: each of these 15 is divided by
    its root mean square over the tensor. Then the progress of the training, the depth of the layer, the progress of the
    passes over the batch, and the dormancy of the neuron (neurons are the tensor's last axis).
    """
    own = normalised(columns(tensor.param, *_sign_and_size(tensor.memory), *_sign_and_size(tensor.gradient)))
    dormancy = jnp.broadcast_to(tensor.layer.dormancy, tensor.param.shape).reshape(-1)
    common = [moment.progress, tensor.layer.depth, moment.epoch, dormancy]
    return jnp.concatenate([own, *(jnp.broadcast_to(x, len(own))[:, None] for x in common)], axis=1)


def _sign_and_size(x: Array) -> tuple[Array, Array]:
    return jnp.sign(x), jnp.log(jnp.abs(x) + 1e-13)
