"""Sweeps in stages, of agents whose returns are a formula."""

import math

import numpy as np
import pytest

from metarl.evaluation.baselines import BASELINES, baseline, grid, grid_of_rules, refined
from metarl.evaluation.families import CLASSIC, TABULAR
from metarl.evaluation.staged import Size, contenders, staged
from metarl.evaluation.trials import Settings
from metarl.rules import build

FIRST = [Settings(rate) for rate in (1.0, 2.0, 3.0)]
SIZE = Size(num_seeds=3, final_seeds=5, finalists=2)


def refine(chosen):
    return [chosen._replace(gae_lambda=x) for x in (0.5, 0.95)]


class Players:
    """The best rate is 2, and the best lambda 0.5; one seed in three is better than the others for all settings."""

    def __init__(self):
        self.jobs = []

    def __call__(self, jobs):
        self.jobs.append(list(jobs))
        return [float(seed % 3 == 0) - (x.learning_rate - 2.0) ** 2 - x.gae_lambda / 10 for x, seed in jobs]


def test_a_sweep_refines_the_best_and_gives_contenders_more_seeds():
    play = Players()
    *_, found = staged(FIRST, refine, play, {}, SIZE)
    best = FIRST[1]._replace(gae_lambda=0.5)
    first, second, final = play.jobs
    assert first == [(x, seed) for x in FIRST for seed in range(3)]
    assert second == [(best, seed) for seed in range(3)]  # lambda 0.95 was in the first stage
    assert final == [(best, 3), (best, 4)]  # the others are behind by more than the noise, which is none
    assert list(found) == [*FIRST, best] and [len(x) for x in found.values()] == [3, 3, 3, 5]
    assert max(found, key=lambda x: np.mean(found[x][:3])) == best


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_a_stopped_sweep_goes_on_and_finds_the_same(stages):
    whole = list(staged(FIRST, refine, Players(), {}, SIZE))
    again = Players()
    resumed = list(staged(FIRST, refine, again, whole[stages - 1], SIZE))
    assert resumed[-1] == whole[-1] and len(again.jobs) == 3 - stages


def test_a_sweep_in_which_all_diverge_ends():
    (found,) = staged(FIRST, refine, lambda jobs: [math.nan] * len(jobs), {}, SIZE)
    assert list(found) == FIRST


def test_contenders_are_within_two_standard_errors_of_the_paired_difference():
    """By hand: `far` is behind by 1, 1, 1.3, 0.7 (standard error 0.12), `close` by 2, 0, 1, -1 (0.65)."""
    best, far, close, lost = (Settings(rate) for rate in (1.0, 2.0, 3.0, 4.0))
    returns = {
        far: (9.0, -1.0, 3.7, 6.3),
        best: (10.0, 0.0, 5.0, 7.0),
        close: (8.0, 0.0, 4.0, 8.0),
        lost: (99.0, 99.0, 99.0, math.nan),
    }
    assert contenders(returns, 4) == [best, close] and contenders(returns, 1) == [best]
    even = {far: (1.0, 2.0), best: (1.0, 2.0)}  # no difference, and no noise
    assert set(contenders(even, 4)) == {best, far}


@pytest.mark.parametrize("kind", [CLASSIC, TABULAR])
def test_baselines_are_swept_over_rates_discounts_lambdas_and_entropies(kind):
    first = grid(kind)
    assert (
        len(set(first)) == 12 and {x.gae_lambda for x in first} == {0.95} and {x.entropy_coef for x in first} == {0.01}
    )
    second = refined(kind, first[4])
    rates = sorted({x.learning_rate for x in first})
    scaled = [x for x in second if x.reward_scale != 1.0]  # of networks alone: tables are for returns of order 1
    assert len(scaled) == (0 if kind is TABULAR else 6) and len(set(second) - set(first) - set(scaled)) == 24
    assert {x.learning_rate for x in second} == set(rates[1:4])
    assert {(x.gae_lambda, x.entropy_coef) for x in second} == {
        (a, b) for a in (0.8, 0.95, 1.0) for b in (0.0, 0.01, 0.1)
    }
    assert {x.learning_rate for x in refined(kind, first[-1])} == set(rates[-2:])
    assert {x.discount for x in second} == {first[4].discount}
    of_rules = grid_of_rules(kind)
    assert len(set(of_rules)) == (12 if kind is TABULAR else 36) and {x[1:4] for x in of_rules} == {(None, None, None)}
    assert {x.reward_scale for x in of_rules} == {x.reward_scale for x in second}


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_have_the_settings_and_the_optimizer_of_their_family(name):
    recipe = baseline(name, TABULAR, Settings(0.3, 0.9, 0.8, 0.1, 0.5))
    objective = {"discount": 0.9, "gae_lambda": 0.8, "entropy_coef": 0.1}
    assert objective.items() <= recipe["objective"].items()
    assert recipe["optimizer"] == {**TABULAR.a2c, "learning_rate": 0.3}
    assert build(recipe).experience == BASELINES[name].experience._replace(reward_scale=0.5)
