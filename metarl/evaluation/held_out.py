"""Reports on held-out levels: how agents do that a rule has trained on levels it never saw."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from metarl import plot
from metarl.checks import COUNT, SEVERAL, checked
from metarl.evaluation import tables
from metarl.evaluation.measure import final_returns
from metarl.evaluation.scales import check_finite, cvar_return, diverged_as_random, normalised_return, on_scale
from metarl.evaluation.statistics import Interval, over_runs
from metarl.meta import InnerLoop
from metarl.parallel import Placement, dividing
from metarl.run.files import write_json
from metarl.types import Array, Key, Level, Levels, MetaParams

SCORE = "normalised return on held-out levels"
HELD_OUT = 2**31 - 1  # draws the held-out levels; training draws its own from split keys, so they never meet

Trained = Callable[[Key], MetaParams]  # the meta-parameters for one evaluation seed
ALPHAS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # shares of the levels, the worst for a rule

Said = TypeVar("Said")
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


class Measured(NamedTuple):
    """Returns of agents on the same held-out levels, and the ends of their scale."""

    players: tuple[str, ...]  # the names that were asked for
    returns: dict[str, dict[Any, Array]]  # by name and horizon, [players, seeds, n]; the last is the plain agent's
    zero: Array  # [n]
    one: Array  # [n]
    random: Array  # [seeds, n], of the random policy
    optimal: Array | None  # [1, n], where it is known


def measure(
    judge: Judge, players: Mapping[str, Sequence[Player]], horizons: Sequence[int | None] = (None,)
) -> Measured:
    """Returns of agents of all `players`, and of the plain agent, after each of `horizons` updates.

    `players` maps a name to one player or to several of its kind, such as the rules of several meta-training seeds. A
    horizon of None is that of each level. Raises ValueError for None beside other horizons.
    """
    if None in horizons and len(horizons) > 1:
        raise ValueError(f"horizons must be numbers of updates or None alone, got {horizons}")

    def returns(kind: Sequence[Player], horizon: int | None) -> Array:
        levels = judge.levels if horizon is None else judge.living(horizon)
        return jnp.stack([judge.returns(play, levels) for play in kind])

    everyone = {**players, **{name: [player] for name, player in judge.plain.items()}}
    found = {name: {h: returns(kind, h) for h in horizons} for name, kind in everyone.items()}
    longest = horizons[0] if None in horizons else max(cast(Sequence[int], horizons))
    zero, one = judge.scale(list(found.values())[-1][longest][0])
    return Measured(tuple(players), found, zero, one, judge.random, judge.optimal)


def held_out_report(measured: Measured) -> dict[str, dict[str, float]]:
    """Normalised final returns `{name: {mean, low, high, return}}` of single players, with 95 % intervals.

    Also of the random policy and, where it is known, of the optimal one. Raises ValueError for several horizons, or
    several players of a name.
    """
    results = {}
    for name, row in measured.returns.items():
        if [len(kind) for kind in row.values()] != [1]:
            raise ValueError(f"a report on single players needs one at one horizon, got {jax.tree.map(jnp.shape, row)}")
        (results[name],) = (kind[0] for kind in row.values())
    results["random"] = measured.random
    if measured.optimal is not None:
        results["optimal"] = measured.optimal
    return {
        name: {**normalised_return(x, measured.zero, measured.one)._asdict(), "return": float(x.mean())}
        for name, x in results.items()
    }


def horizon_report(measured: Measured) -> dict[str, dict[int, Interval]]:
    """Normalised final returns `{name: {horizon: interval}}`.

    The intervals say what other evaluation seeds and levels would give, or, of several players, what other players of
    their kind would give on these levels. The first name's differences from others of equally many players are reported
    too, player by player, on the same levels, seeds and scale.
    """
    zero, one = measured.zero, measured.one

    def interval(returns: Array, minus: Array | None = None) -> Interval:
        low, high = (zero, one) if minus is None else (0.0 * zero, one - zero)
        own = returns if minus is None else returns - minus
        if len(own) == 1:
            return normalised_return(own[0], low, high)
        return over_runs(on_scale(own.mean((1, 2)), low.mean(), high.mean()))

    return _with_differences(measured, interval)


def worst_report(measured: Measured, alphas: Sequence[float] = ALPHAS) -> dict[str, dict[Any, dict[float, Interval]]]:
    """Normalised final returns `{name: {horizon: {alpha: interval}}}` on the worst share alpha of levels.

    See `metarl.evaluation.scales.cvar_return`; where the optimum is known, the worst levels are those farthest from it.
    Names and intervals are those of `horizon_report`. Raises ValueError for fewer than two evaluation seeds, and for
    alphas that are not above 0 and at most 1.
    """
    optimal = None if measured.optimal is None else measured.optimal[0]

    of = partial(cvar_return, zero=measured.zero, one=measured.one, alphas=alphas, optimal=optimal)

    def intervals(returns: Array, minus: Array | None = None) -> dict[float, Interval]:
        others = [None] * len(returns) if minus is None else list(minus)
        if len(returns) == 1:
            return of(returns[0], minus=others[0])
        found = [of(x, minus=y, resamples=1) for x, y in zip(returns, others, strict=True)]  # for their means alone
        return {alpha: over_runs([each[alpha].mean for each in found]) for alpha in alphas}

    return _with_differences(measured, intervals)


def _with_differences(measured: Measured, summarise: Callable[..., Said]) -> dict[str, dict[Any, Said]]:
    """A summary of each name's returns [players, seeds, n], and of the first's beside those of others."""
    rows = {name: {h: summarise(x) for h, x in row.items()} for name, row in measured.returns.items()}
    for second in measured.players[1:]:
        first = measured.players[0]
        pairs = {h: (x, measured.returns[second][h]) for h, x in measured.returns[first].items()}
        if all(len(x) == len(y) for x, y in pairs.values()):
            rows[f"{first} minus {second}"] = {h: summarise(*pair) for h, pair in pairs.items()}
    return rows


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


def write_worst_report(report: Mapping[str, Mapping[str, Mapping[float, Interval]]], directory: Path) -> None:
    """Prints returns on the worst levels and leaves them in `directory`: `worst.json` and `worst.png`.

    `report` is title -> {name: {alpha: interval}}; a title says where agents lived, or how long.
    """
    write_json(
        directory / "worst.json",
        {
            title: {name: {alpha: x._asdict() for alpha, x in row.items()} for name, row in rows.items()}
            for title, rows in report.items()
        },
    )
    panels: dict[str, dict[str, Any]] = {}
    for title, rows in report.items():
        shares = {name: {f"worst {alpha:.3g}": x for alpha, x in row.items()} for name, row in rows.items()}
        tables.show(shares, f"{SCORE}, on the worst share of them: {title}")
        for name, row in rows.items():
            panel = f"{title}: differences" if " minus " in name else title
            panels.setdefault(panel, {})[name] = (list(row), *np.array(list(row.values())).T)
    plot.save(plot.sample_efficiency(panels, "worst share of levels", SCORE), directory / "worst.png")
