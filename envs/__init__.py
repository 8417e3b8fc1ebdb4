"""Environments as distributions of levels: `make("gridworld/small")`, `make("CartPole-v1")`, ...

Other environments need no registration: `metarl.constant_levels` accepts any environment with the interface of gymnax,
and `metarl.Levels` any function that draws levels.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from envs import (
    bandit,
    bayesian_optimisation,
    brax,
    craftax,
    errands,
    gridworld,
    jumanji,
    mdp,
    suites,
    tables,
    tokens,
    xminigrid,
)
from envs.trial import TrialParams, trials
from metarl import checks
from metarl.checks import COUNT
from metarl.evaluation.suites import Adaptation, Entry
from metarl.types import Key, Level, Levels


def _varied_cartpole() -> Levels:
    from envs import gymnax  # takes seconds

    return gymnax.varied_cartpole()


_OURS: dict[str, Callable[[], Levels]] = {
    "cartpole/varied": _varied_cartpole,
    "bandit/bernoulli": partial(bandit.distribution, "bernoulli"),
    "bandit/five": partial(bandit.distribution, "bernoulli", num_arms=5, max_steps=1),  # as RL² is tested on
    "bandit/gaussian": partial(bandit.distribution, "gaussian"),
    "bayesian_optimisation/1d": bayesian_optimisation.distribution,
    "bayesian_optimisation/2d": partial(bayesian_optimisation.distribution, dimensions=2),
    "errands/three": errands.distribution,
    "errands/six": partial(errands.distribution, length=6),
    "mdp/random": mdp.distribution,
    "mdp/noisy": partial(mdp.distribution, reward_noise=1.0),
    "table/chain": tables.chain,
    "table/four_rooms": tables.four_rooms,
    "table/line_key": tables.line_key,
    **{f"gridworld/{name}": partial(gridworld.distribution, name) for name in gridworld.names()},
    **{f"tokens/{name}": partial(tokens.distribution, name) for name in tokens.names()},
    "tokens/general_points": partial(tokens.distribution, "general_points", tries=5),
}
# Their packages come with the extra `envs`, and are imported when one of them is made.
_OF_THE_EXTRA: dict[str, Callable[[], Levels]] = {
    f"{package.__name__.rpartition('.')[2]}/{name}": partial(package.make, name)
    for package in (brax, craftax, jumanji, xminigrid)
    for name in package.NAMES
}
# Of gymnax 1.0: known without its import, which takes a second. `names` has those of the version that is installed.
_OF_GYMNAX = (
    *("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"),
    *(f"{name}-MinAtar" for name in ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")),
    *(f"{name}-bsuite" for name in ("Catch", "DeepSea", "MemoryChain", "UmbrellaChain", "DiscountingChain")),
    *("MNISTBandit-bsuite", "SimpleBandit-bsuite"),
    *(f"{name}-misc" for name in ("FourRooms", "MetaMaze", "PointRobot", "BernoulliBandit", "GaussianBandit")),
    *("Reacher-misc", "Swimmer-misc", "Pong-misc", "FrozenLake-misc"),
)


def names() -> tuple[str, ...]:
    """Every name that `make` accepts without an extra: ours, then those of gymnax, whose import takes seconds."""
    from envs import gymnax

    return (*_OURS, *gymnax.names())


def extra_names() -> tuple[str, ...]:
    """Every name that `make` accepts with the extra `envs`: of brax, craftax, jumanji and xminigrid."""
    return tuple(_OF_THE_EXTRA)


def check(others: Collection[str] = (), **fields: str | Sequence[str]) -> None:
    """Raises ValueError for the first field with a name that is in none of `names()`, `extra_names()` and `others`.

    The message has the closest known names.
    """
    for field, value in fields.items():
        for name in (value,) if isinstance(value, str) else value:
            if name not in (*_OURS, *_OF_THE_EXTRA, *_OF_GYMNAX, *others) and name not in names():
                raise ValueError(f"unknown {field} {name!r}; {_alike(name, others)}")


def _alike(name: str, others: Collection[str]) -> str:
    # Case and the part before the slash are ignored: "Small" is close to "gridworld/small".
    tails: dict[str, str] = {known.rpartition("/")[2].lower(): known for known in (*others, *names(), *_OF_THE_EXTRA)}
    close = difflib.get_close_matches(name.rpartition("/")[2].lower(), tails, n=5)
    known_by = "envs.names() and envs.extra_names() list all of them"
    return f"did you mean {', '.join(tails[x] for x in close)}?" if close else known_by


def make(name: str, horizon: int | tuple[int, int] | None = None) -> Levels:
    """The levels called `name`, with lifetimes of `horizon` agent updates (None: their own; 1000 for other packages).

    With a pair of horizons, lifetimes are log-uniform between both, with both ends included.
    Raises ValueError for an unknown name, with the closest known ones, and for a horizon below 1, and ImportError for
    one of `extra_names()` without the extra.
    """
    if horizon is None:
        return _make(name)
    shortest, longest = horizon if isinstance(horizon, tuple) else (horizon, horizon)
    for end in (shortest, longest):
        checks.within(int, COUNT, horizon=end)
    if shortest > longest:
        raise ValueError(f"horizon must be one number of agent updates, or a pair in increasing order, got {horizon}")
    return _with_horizon(_make(name), shortest, longest)


def suite(name: str) -> dict[str, Entry]:
    """The suite called `name` (one of `envs.suites.names()`), or in the TOML file `name`: {environment: entry}.

    Raises ValueError for an unknown name, with the closest known ones, and for a file that is not a suite.
    """
    return suites.load(suites.path(name), make)


def adaptation(name: str) -> dict[str, Adaptation]:
    """The suite of tasks to adapt to called `name` (`envs/suites/adaptation/*.toml`), or in the TOML file `name`.

    By the names of the distributions that are trained on. Raises ValueError as `suite` does.
    """
    return suites.load_adaptation(suites.path(name, suites.ADAPTATION), make)


def _make(name: str) -> Levels:
    check(environment=name)
    if maker := _OURS.get(name) or _OF_THE_EXTRA.get(name):
        return maker()
    from envs import gymnax

    return gymnax.make(name)


def _with_horizon(levels: Levels, shortest: int, longest: int) -> Levels:
    def sample(key: Key) -> Level:
        if shortest == longest:
            return levels.sample(key)._replace(horizon=jnp.int32(longest))
        horizon_key = jax.random.fold_in(key, 0)  # the level of a key does not depend on `horizon`
        drawn = jnp.exp(jax.random.uniform(horizon_key, minval=jnp.log(shortest), maxval=jnp.log(longest + 1.0)))
        return levels.sample(key)._replace(horizon=jnp.clip(jnp.floor(drawn), shortest, longest).astype(jnp.int32))

    return levels._replace(sample=sample)
