"""Which reward do tabular learners learn best from? Designed, learned and shaped rewards of sparse processes.

python -m experiments.rewards                  # a chain in half a minute
python -m experiments.rewards --preset full    # all processes, both learners, 30 seeds: 5.5 minutes of CPU time

The designs are the process's own reward (`original`), the potential of the optimal value (`potential`), ExpRD and
ExpAdaRD (Devidze et al. 2021 and after), a count bonus (`explob`), LIRPG-like shaping (`selfrs`), both of them together
(`explors`, Devidze et al. 2022), the same with the bonus of the next state, as in the published code (`explors_next`),
or with the critic that equation 2 prints (`explors_printed`), and the ranking of episodes (`sors`, Memarian et al.
2021). `potential`, `exprd` and `expadard` know the process. The learners are REINFORCE and Q-learning with tables.

The measure is the expected discounted return of an episode of the process itself, exactly, as a share of the best: its
mean over training, and its last value. Seeds are the same for all designs, and differences are within seeds.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from envs import tables as processes
from experiments import cli, parts
from metarl import checks, plot
from metarl.checks import COUNT, SEED, SEVERAL
from metarl.evaluation import tables as printed
from metarl.evaluation.statistics import Interval, over_points, over_runs, verdict
from metarl.rewards.learners import Learner, q_learning, reinforce
from metarl.rewards.programs import expadard, exprd
from metarl.rewards.shaping import Shaping, explors, sors
from metarl.rewards.tables import Tables, best_return, expected_return, plan, shaped_by
from metarl.rewards.training import Life, begin, live
from metarl.run.files import circumstances, write_json
from metarl.run.options import flatten
from metarl.tree import copies
from metarl.types import Array, Key, Levels

ProcessName = Literal["chain_15", "chain_15_distractor", "chain_20", "chain_20_distractor", "four_rooms", "line_key"]
DesignName = Literal[
    "original",
    "potential",
    "exprd",
    "expadard",
    "explob",
    "selfrs",
    "explors",
    "explors_next",
    "explors_printed",
    "sors",
]
LearnerName = Literal["reinforce", "q_learning"]
DISCOUNT = 0.99
EPISODES = 100  # between two measurements
RATE = 0.01  # of R_phi
RELEVANT = 0.01  # share of the best return; intervals within ±0.01 count as no difference
EXPLORING = 0.3  # share of random actions in what ExpAdaRD takes for the learner's policy
# The bound of R_phi's entries. That of Q-learning is the one of the published code, in which REINFORCE has none.
LIMITS: Mapping[LearnerName, float] = {"reinforce": 1e9, "q_learning": 0.01}
LEARNERS: Mapping[LearnerName, Callable[[Tables], Learner]] = {"reinforce": reinforce, "q_learning": q_learning}


class Setting(NamedTuple):
    """A process, and how its rewards are laid out in a picture."""

    levels: Levels
    picture: Callable[[np.ndarray], np.ndarray]  # rewards [S, A] -> [rows, columns]
    axes: tuple[str, str]
    patience: int = 1  # how many times as long learners learn here


class Given(NamedTuple):
    """What `explors` is told of a design. Leaves [N, ...] of N learners."""

    reward: Array  # [S, A], its base
    rate: Array
    bonus: Array
    extrinsic: Array  # bool
    ahead: Array  # bool


class Design(NamedTuple):
    """A design that is a case of `explors`."""

    base: Literal["process", "potential", "exprd", "expadard"] = "process"
    rate: float = 0.0
    bonus: float = 0.0
    extrinsic: bool = True
    ahead: bool = False


DESIGNS: Mapping[str, Design] = {
    "original": Design(),
    "potential": Design("potential"),
    "exprd": Design("exprd"),
    "expadard": Design("expadard"),
    "explob": Design(bonus=1.0),
    "selfrs": Design(rate=RATE),
    "explors": Design(rate=RATE, bonus=1.0),
    "explors_next": Design(rate=RATE, bonus=1.0, ahead=True),
    "explors_printed": Design(rate=RATE, bonus=1.0, extrinsic=False),
}


def _rows_of_actions(rewards: np.ndarray) -> np.ndarray:
    """[A, cells] of the chain and of the line, whose states with the key are rows of their own above the others."""
    actions = rewards.shape[1]
    cells = rewards[:-1].reshape(-1, (len(rewards) - 1) // (2 if actions == 3 else 1), actions)
    return cells.transpose(0, 2, 1).reshape(-1, cells.shape[1])


def _rooms_of_actions(rewards: np.ndarray) -> np.ndarray:
    """[14, 14]: four copies of the rooms, one per action: left and down below, up and right above."""
    up, left, down, right = rewards[:-1].T.reshape(4, processes.ROOMS_SIDE, processes.ROOMS_SIDE)
    return np.block([[left, down], [up, right]])


def _chain(right: int, distractor: float, patience: int = 1) -> Setting:
    levels = processes.chain(right, distractor=distractor)
    return Setting(levels, _rows_of_actions, ("state", "left, right"), patience)


SETTINGS: Mapping[str, Callable[[], Setting]] = {
    "chain_15": partial(_chain, 15, 0.0),
    "chain_15_distractor": partial(_chain, 15, 0.01),
    "chain_20": partial(_chain, 20, 0.0, patience=3),
    "chain_20_distractor": partial(_chain, 20, 0.01, patience=3),
    "four_rooms": lambda: Setting(processes.four_rooms(), _rooms_of_actions, ("left | down", "left | up"), patience=3),
    "line_key": lambda: Setting(
        processes.line_key(), _rows_of_actions, ("cell", "left, right, pick; with the key"), patience=3
    ),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Tabular learners of REINFORCE and Q-learning with rewards of several designs."""

    directory: str = ""
    """Where the files go (default: a new folder under runs/)."""
    seed: Annotated[int, SEED] = 0
    """Seed of everything random."""
    processes: tuple[ProcessName, ...] = ("chain_15",)
    """The processes."""
    designs: tuple[DesignName, ...] = get_args(DesignName)
    """The designs of rewards."""
    learners: tuple[LearnerName, ...] = ("reinforce",)
    """The learners."""
    num_seeds: Annotated[int, SEVERAL] = 30
    """Learners of each design, side by side."""
    points: Annotated[int, COUNT] = 40
    """Measurements, each before 100 episodes; three times as many where learning takes longer. One more ends them."""
    q_points: Annotated[int, COUNT] = 20
    """The same of Q-learning, which needs fewer."""
    revise_every: Annotated[int, COUNT] = 5
    """Measurements between two rewards of expadard; it divides the numbers of measurements and is less."""

    def __post_init__(self) -> None:
        checks.fields(self)
        for name in ("processes", "designs", "learners"):
            if not getattr(self, name):
                raise ValueError(f"{name} must have at least one value")
        if "q_learning" not in self.learners:
            parts.refuse_inert(self, ("q_points",), "without q_learning")
        if "reinforce" not in self.learners:
            parts.refuse_inert(self, ("points",), "without reinforce")
        if "expadard" not in self.designs:
            parts.refuse_inert(self, ("revise_every",), "without expadard")
        for learner in self.learners:
            if self.measurements(learner) % self.chunk(learner):
                raise ValueError(f"revise_every must divide {self.measurements(learner)}, got {self.revise_every}")
            if "expadard" in self.designs and self.revise_every == self.measurements(learner):
                raise ValueError(
                    f"revise_every must be below {self.revise_every}: no reward would be revised for {learner}"
                )

    def measurements(self, learner: LearnerName) -> int:
        return self.points if learner == "reinforce" else self.q_points

    def chunk(self, learner: LearnerName) -> int:
        """Measurements in which no reward is revised."""
        return self.revise_every if "expadard" in self.designs else self.measurements(learner)


PRESETS = {
    "quick": Config(designs=("original", "exprd", "selfrs", "explors"), num_seeds=10),
    "full": Config(processes=get_args(ProcessName), learners=get_args(LearnerName)),
}


class Family(NamedTuple):
    """Designs whose learners live side by side in one program."""

    names: tuple[str, ...]
    shaping: Callable[[float, Tables, Any], Shaping]  # (limit of R_phi, tables, what it is given) -> the design
    given: Any  # leaves [N, ...] of N learners, those of the first design first
    reward: Callable[[Any, Any], Array]  # (what was given, state) [N, ...] -> [N, S, A], without bonuses


class Found(NamedTuple):
    """What learners of one kind did in one process."""

    worth: dict[str, np.ndarray]  # design -> [seeds, points], as a share of the best
    rewards: dict[str, np.ndarray]  # design -> [S, A] at the end, mean over seeds, without bonuses


@functools.cache
def program(learner: LearnerName, shaping: Callable[..., Shaping], length: int) -> Any:
    """A compiled function for episodes of `length` steps.

    `((transition, reward, start, discount), what `shaping` is given [N], lives [N], keys [N, points]) -> lives, worth`
    with worth [N, points + 1], before the episodes of each point and after the last.
    """

    def one(numbers: Any, given: Any, life: Life, keys: Key) -> tuple[Life, Array]:
        transition, reward, start, discount = numbers
        tables = Tables(transition, reward, start, discount, length)
        shaped, learns = shaping(LIMITS[learner], tables, given), LEARNERS[learner](tables)
        # one key a point, so that what happens in it does not depend on how many are done at once
        life, worth = jax.lax.scan(lambda life, key: live(tables, learns, shaped, life, key, 1, EPISODES), life, keys)
        return life, jnp.append(worth, expected_return(tables, learns.policy(life.table)))

    # of level 1 they compile in two thirds of the time, and run as fast
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(jax.vmap(one, (None, 0, 0, 0)), compiler_options=options)


def _explors(limit: float, tables: Tables, given: Given) -> Shaping:
    told = given._asdict()
    return explors(tables._replace(reward=told.pop("reward")), limit=limit, **told)


def _sors(limit: float, tables: Tables, given: Array) -> Shaping:
    return sors(tables, given, limit)


def train(config: Config, setting: Setting, learner: LearnerName) -> Found:
    """All designs of `config` in one process, with the same keys for each."""
    problem = setting.levels.sample(jax.random.key(0)).problem
    tables = Tables(problem.transition, problem.reward, problem.start, DISCOUNT, int(problem.max_steps))
    known = plan(tables)
    revise = expadard(tables, known)
    bases = {
        "process": np.asarray(tables.reward),
        "potential": shaped_by(tables, known.value),
        "exprd": exprd(tables, known),
        "expadard": revise(np.full(known.best.shape, 1.0 / known.best.shape[1])),
    }
    seeds, chunk = config.num_seeds, config.chunk(learner)
    calls = config.measurements(learner) * setting.patience // chunk
    cases: dict[str, Design] = {name: DESIGNS[name] for name in config.designs if name in DESIGNS}
    families: list[Family] = []
    if cases:
        given = Given(
            jnp.repeat(jnp.stack([jnp.asarray(bases[x.base], jnp.float32) for x in cases.values()]), seeds, 0),
            *(jnp.repeat(jnp.array([getattr(x, y) for x in cases.values()]), seeds) for y in Given._fields[1:]),
        )
        families.append(Family(tuple(cases), _explors, given, lambda given, state: given.reward + state.phi))
    if "sors" in config.designs:
        families.append(Family(("sors",), _sors, jnp.full(seeds, RATE), lambda given, phi: tables.reward + phi))

    worth: dict[str, np.ndarray] = {}
    rewards: dict[str, np.ndarray] = {}
    for names, shaping, told, rewards_of in families:
        given = told
        step = program(learner, shaping, tables.length)
        states = shaping(1.0, tables, jax.tree.map(lambda x: x[0], given))
        count = len(names) * seeds
        lives = copies(begin(tables, states), count)
        curves = []
        for call in range(calls):
            points = call * chunk + jnp.arange(chunk)
            keys = jnp.tile(jax.vmap(partial(_keys, config.seed, seeds), out_axes=1)(points), (len(names), 1))
            lives, found = step(tables[:4], given, lives, keys)
            curves.append(np.asarray(found)[:, :chunk] if call + 1 < calls else np.asarray(found))
            if "expadard" in names and call + 1 < calls:
                given = given._replace(reward=_revised(given.reward, lives, names, learner, tables, revise))
        shares = np.concatenate(curves, 1).reshape(len(names), seeds, -1) / float(best_return(tables))
        worth |= dict(zip(names, shares, strict=True))
        learned = np.asarray(rewards_of(given, lives.shaping))
        means = learned.reshape(len(names), seeds, *known.best.shape).mean(1)
        rewards |= dict(zip(names, means, strict=True))
    return Found({x: worth[x] for x in config.designs}, {x: rewards[x] for x in config.designs})


def _keys(seed: int, seeds: int, point: Array) -> Key:
    """[seeds], of one measurement: the same whichever designs are compared, and however often rewards are revised."""
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), point), seeds)


def _revised(
    reward: Array, lives: Life, names: tuple[str, ...], learner: LearnerName, tables: Tables, revise: Any
) -> Array:
    """The rewards of all learners, after those of expadard have followed their policies."""
    new = np.array(reward)
    size = len(new) // len(names)
    first = names.index("expadard") * size
    policies = np.asarray(jax.vmap(LEARNERS[learner](tables).policy)(lives.table[first : first + size]), np.float64)
    for i, policy in enumerate(policies):
        new[first + i] = revise((1 - EXPLORING) * policy + EXPLORING / policy.shape[1])
    return jnp.asarray(new)


def report(config: Config, learner: LearnerName, found: Mapping[str, Found], directory: Path) -> dict[str, Any]:
    """Prints and draws what the learners of one kind did in all processes."""
    measures = {"mean over training": lambda x: x.mean(1), "at the end": lambda x: x[:, -1]}
    results: dict[str, Any] = {}
    for measure, of in measures.items():
        rows: dict[str, dict[str, Interval]] = {design: {} for design in config.designs}
        for process, each in found.items():
            for design, worth in each.worth.items():
                rows[design][process] = over_runs(of(worth))
        printed.show(rows, f"{learner}: return as a share of the best, {measure},", "reward")
        results[measure] = {x: {y: z._asdict() for y, z in row.items()} for x, row in rows.items()}
    if "explors" in config.designs and len(config.designs) > 1:
        results["explors minus"] = _advantages(config, learner, found)
    curves = {
        process: {
            design: (EPISODES * np.arange(worth.shape[1]), *over_points(worth)) for design, worth in each.worth.items()
        }
        for process, each in found.items()
    }
    plot.save(plot.sample_efficiency(curves, "episodes", "share of the best"), directory / f"{learner}-curves.png")
    for process, each in found.items():
        plot.save(_picture(SETTINGS[process](), each.rewards), directory / f"{learner}-{process}.png")
    return results


def _advantages(config: Config, learner: str, found: Mapping[str, Found]) -> dict[str, dict[str, Any]]:
    """How much better explors is than each other design, within seeds, by the mean over training."""
    rows: dict[str, dict[str, str]] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for other in config.designs:
        if other == "explors":
            continue
        rows[other], numbers[other] = {}, {}
        for process, each in found.items():
            gain = over_runs((each.worth["explors"] - each.worth[other]).mean(1))
            said = verdict(gain, RELEVANT)
            rows[other][process] = f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] {said}"
            numbers[other][process] = {**gain._asdict(), "verdict": said}
    printed.show(rows, f"{learner}: explors minus", "reward")
    return numbers


def _picture(setting: Setting, rewards: Mapping[str, np.ndarray]) -> Any:
    """One panel for each design: its rewards, each as a share of its largest."""
    shown = {name: setting.picture(x / max(np.abs(x).max(), 1e-9)) for name, x in rewards.items() if name != "explob"}
    shown = shown or {name: setting.picture(x) for name, x in rewards.items()}
    rows, columns = next(iter(shown.values())).shape
    figure = plot.surfaces(
        shown, np.arange(columns), np.arange(rows), *setting.axes, "reward, as a share of the largest", line=False
    )
    for axis in figure.axes[: len(shown)]:
        axis.set_yticks([])  # rows are actions, which the label names
    return figure


def main(argv: list[str] | None = None) -> None:
    config = cli.parse(Config, PRESETS, argv)
    with cli.clean_exit(), cli.directory_of_runs(config, "rewards") as directory:
        results: dict[str, Any] = {}
        for learner in config.learners:
            found: dict[str, Found] = {name: train(config, SETTINGS[name](), learner) for name in config.processes}
            results[learner] = report(config, learner, found, directory)
            write_json(directory / "results.json", {"config": flatten(config), "on": results, **circumstances()})
        print(f"results in {directory}", file=sys.stderr)


if __name__ == "__main__":
    main()
