"""Sweeps in stages: a grid, another one around its best, and a run-off of all that noise does not tell from the best.

Every setting is tried with the same seeds 0, 1, ..., so that settings are compared seed by seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from metarl.evaluation.trials import Settings

Returns = Mapping[Settings, tuple[float, ...]]  # final returns of the agents of seeds 0, 1, ...
Play = Callable[[Sequence[tuple[Settings, int]]], Sequence[float]]  # final returns of agents with settings and seeds


class Size(NamedTuple):
    """How much a sweep tries."""

    num_seeds: int  # per setting
    final_seeds: int  # of each finalist, the first ones included
    finalists: int  # at most


def staged(
    first: Sequence[Settings], refine: Callable[[Settings], Sequence[Settings]], play: Play, known: Returns, size: Size
) -> Iterator[Returns]:
    """What is known after each stage of a sweep; what was known before is not played again.

    The stages are: the settings `first`; `refine` of the best of them; and the `contenders` among both, with more
    seeds. The sweep ends with the first stage if all of its settings diverge.
    """
    found = dict(known)

    def extend(settings: Sequence[Settings], seeds: int) -> Returns:
        jobs = [(x, seed) for x in settings for seed in range(len(found.get(x, ())), seeds)]
        for (x, _), value in zip(jobs, play(jobs) if jobs else (), strict=True):
            found[x] = (*found.get(x, ()), value)
        return dict(found)

    def best(settings: Sequence[Settings], most: int) -> list[Settings]:
        return contenders({x: found[x][: size.num_seeds] for x in settings}, most)

    yield extend(first, size.num_seeds)
    if chosen := best(first, 1):
        both = list(dict.fromkeys([*first, *refine(chosen[0])]))
        yield extend(both, size.num_seeds)
        yield extend(best(both, size.finalists), size.final_seeds)


def contenders(returns: Returns, most: int) -> list[Settings]:
    """The settings that are within the noise of the best one, the best first, and at most so many.

    Within the noise is what is behind by at most two standard errors of the mean paired difference, over the same
    seeds. All settings need as many seeds, 2 or more. Settings with which an agent diverged are left out.
    """
    finite = {x: np.asarray(values) for x, values in returns.items() if np.isfinite(values).all()}
    ranked = sorted(finite, key=lambda x: -finite[x].mean())

    def is_close(x: Settings) -> bool:
        behind = finite[ranked[0]] - finite[x]
        return bool(behind.mean() <= 2.0 * behind.std(ddof=1) / len(behind) ** 0.5)

    return [x for x in ranked if is_close(x)][:most]
