"""Reports on held-out levels: how agents do that a rule has trained on levels it never saw."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp

from metarl import plot
from metarl.checks import COUNT, SEVERAL, checked
from metarl.evaluation import tables
from metarl.evaluation.measure import final_returns
from metarl.evaluation.scales import check_finite, diverged_as_random, normalised_return, on_scale
from metarl.evaluation.statistics import Interval, over_runs
from metarl.meta import InnerLoop
from metarl.parallel import Placement, dividing
from metarl.run.files import write_json
from metarl.types import Array, Key, Level, Levels, MetaParams

SCORE = "normalised return on held-out levels"
HELD_OUT = 2**31 - 1  # draws the held-out levels; training draws its own from split keys, so they never meet

Trained = Callable[[Key], MetaParams]  # the meta-parameters for one evaluation seed
Player = Callable[[Level], Array]  # returns [seeds, n] of the agents that one rule has trained on n levels


class Judge:
    """What all reports on one distribution of levels share: the levels, a plain agent, and the scale from 0 to 1.

    The uniformly random policy scores 0; the optimal one scores 1 where it is known, else the plain agent after the
    longest life that is asked for. `plain` is the plain agent's name and inner loop. Each rule trains one agent per
    seed (`num_seeds`) and held-out level (`num_levels`); `batch_size` agents live side by side on each device.

    Raises ValueError if there are fewer than 2 levels or 1 seed, or if rewards of newborn agents are not finite.
    """

    @checked
    def __init__(
        self,
        levels: Levels,
        plain: tuple[str, InnerLoop],
        *,
        num_levels: Annotated[int, SEVERAL],
        num_seeds: Annotated[int, COUNT],
        batch_size: Annotated[int, COUNT],
    ):
        keys = jax.random.split(jax.random.key(HELD_OUT), num_levels)
        self.levels, self.num_seeds = jax.vmap(levels.sample)(keys), num_seeds
        self.placement = Placement(dividing(num_levels), batch_size)
        self.plain = self.players(plain[1], {plain[0]: plain[1].init_meta})
        # A newborn agent's policy is as good as uniform (and a Gaussian of unit deviation for continuous actions).
        self.random = self.plain[plain[0]](self.living(0))
        check_finite(self.random, "the held-out levels")
        optimum = levels.optimal_return
        self.optimal = jax.lax.map(optimum, self.levels.problem, batch_size=64)[None] if optimum else None

    def players(self, inner: InnerLoop, rules: Mapping[str, Trained]) -> dict[str, Player]:
        """One compiled program for all `rules` of `inner` and all lifetimes."""
        one_seed = jax.jit(partial(final_returns, inner, num_seeds=1, placement=self.placement))
        keys = jax.random.split(jax.random.key(HELD_OUT - 1), (self.num_seeds, 2))

        def play(rule: Trained, levels: Level) -> Array:
            # one at a time: programs on several devices that run at once may wait for each other for ever
            return jnp.concatenate(
                [jax.block_until_ready(one_seed(rule(rule_key), levels=levels, key=key)) for rule_key, key in keys]
            )

        return {name: partial(play, rule) for name, rule in rules.items()}

    def returns(self, play: Player, levels: Level) -> Array:
        """Returns [seeds, n] of `play` on `levels`; an agent that diverged counts as random, with a warning."""
        returns = play(levels)
        if lost := int((~jnp.isfinite(returns)).sum()):
            print(f"{lost} of {returns.size} agents diverged: they count as random", file=sys.stderr)
        return jnp.asarray(diverged_as_random(returns, self.random.mean(0)))

    def living(self, horizon: int) -> Level:
        """The held-out levels for agents that live `horizon` updates."""
        return self.levels._replace(horizon=jnp.full_like(self.levels.horizon, horizon))

    def scale(self, best: Array) -> tuple[Array, Array]:
        """What scores 0 and 1 on each level [n]; warns and leaves returns as they are if 1 would not be above 0."""
        zero, one = self.random.mean(0), (best if self.optimal is None else self.optimal).mean(0)
        if (one - zero).mean() > 0:
            return zero, one
        print("the reference is not above random: the report has plain returns, not normalised ones", file=sys.stderr)
        return jnp.zeros_like(zero), jnp.ones_like(one)


def held_out_report(judge: Judge, players: Mapping[str, Player]) -> dict[str, dict[str, float]]:
    """Normalised final returns `{name: {mean, low, high, return}}` on held-out levels, with 95 % intervals.

    Of the agents of `players`, of the plain agent, of the random policy and, where it is known, of the optimal one.
    """
    results = {name: judge.returns(play, judge.levels) for name, play in {**players, **judge.plain}.items()}
    best = list(results.values())[-1]
    results["random"] = judge.random
    if judge.optimal is not None:
        results["optimal"] = judge.optimal
    zero, one = judge.scale(best)
    return {
        name: {**normalised_return(value, zero, one)._asdict(), "return": float(value.mean())}
        for name, value in results.items()
    }


def horizon_report(
    judge: Judge, players: Mapping[str, Sequence[Player]], horizons: Sequence[int]
) -> dict[str, dict[int, Interval]]:
    """Normalised final returns `{name: {horizon: interval}}` on held-out levels, the same for every horizon.

    `players` maps a name to one player or to several of its kind, such as the rules of several meta-training seeds.
    The intervals say what other evaluation seeds and levels would give, or, of several players, what other players of
    their kind would give on these levels. The first name's differences from others of equally many players are reported
    too, player by player, on the same levels, seeds and scale.
    """

    def returns(players: Sequence[Player], horizon: int) -> Array:
        return jnp.stack([judge.returns(play, judge.living(horizon)) for play in players])  # [players, seeds, n]

    everyone = {**players, **{name: [player] for name, player in judge.plain.items()}}
    results = {name: {h: returns(kind, h) for h in horizons} for name, kind in everyone.items()}
    zero, one = judge.scale(list(results.values())[-1][max(horizons)][0])

    def interval(returns: Array, zero: Array, one: Array) -> Interval:
        if len(returns) == 1:
            return normalised_return(returns[0], zero, one)
        return over_runs(on_scale(returns.mean((1, 2)), zero.mean(), one.mean()))

    report = {name: {h: interval(x, zero, one) for h, x in row.items()} for name, row in results.items()}
    first, *others = players
    for second in others:
        if len(players[first]) == len(players[second]):
            report[f"{first} minus {second}"] = {
                h: interval(results[first][h] - results[second][h], 0.0 * zero, one - zero) for h in horizons
            }
    return report


def write_horizon_report(
    report: Mapping[str, Mapping[int, Interval]], directory: Path, trained: tuple[int, int] | None = None
) -> None:
    """Prints what `horizon_report` found and leaves it in `directory`: `horizons.json` and `horizons.png`.

    The JSON is name -> {horizon: {mean, low, high}}. The range of lifetimes `trained` is shaded in the figure.
    """
    rows = {name: {h: interval._asdict() for h, interval in row.items()} for name, row in report.items()}
    write_json(directory / "horizons.json", rows)
    tables.show(report, SCORE, "lifetime")
    plot.save(plot.over_horizons(report, SCORE, trained), directory / "horizons.png")
