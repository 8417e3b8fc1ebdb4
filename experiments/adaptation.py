"""One table for all ways of adapting: by memory, from a learned initialisation, by a learned rule, or from scratch.

python -m experiments.adaptation                                        # bandits and a hidden goal, some minutes
python -m experiments.adaptation --preset full --directory runs/ways    # all methods and distributions; 17 CPU hours
python -m experiments.adaptation --preset full --directory runs/ways --resume
python -m experiments.adaptation --suite mine.toml --methods rl2 maml ppo

Every method is meta-trained with the same number of environment steps on the same distribution, and then meets the same
new tasks for the same number of steps, those of parallel environments together. The tasks are drawn with held-out keys,
or belong to distributions that are structurally new. Learners that follow gradients multiply their updates by one of 7
factors, the best on tasks of training. Meta-training runs are those of experiments.rl2, maml, lpg and
learned_optimizer, in directories of their own.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

import envs
from experiments import cli, launch, learned_optimizer, lpg, maml, rl2
from metarl import checks, plot
from metarl.checks import COUNT, SEED, SEVERAL
from metarl.evaluation import tables
from metarl.evaluation.adaptation import curves, draw_tasks, learn_tasks, over_seeds, play_tasks
from metarl.evaluation.baselines import baseline, untuned
from metarl.evaluation.families import TABULAR, Family, family
from metarl.evaluation.held_out import HELD_OUT
from metarl.evaluation.statistics import Interval, aggregates
from metarl.evaluation.suites import BINS, Adaptation
from metarl.rules import Learner, build
from metarl.run.files import circumstances, write_json
from metarl.run.options import flatten, replace
from metarl.strategies import Strategy
from metarl.types import MetaParams, PyTree

Name = Literal["rl2", "rl2_transformer", "maml", "lpg_initial", "lpg", "open", "a2c", "ppo"]
OPTIMUM, LAST = "optimum", BINS // 5
MEMORY = 100  # steps that a transformer attends to at most, and of a rollout of RL²
K = 5  # updates that a meta-gradient flows through
CHUNK = 10


@dataclasses.dataclass(frozen=True)
class Config:
    """All ways of adapting, on the same new tasks."""

    directory: str = ""
    """Where the files and runs go (default: a new folder under runs/)."""
    resume: bool = False
    """Go on with what is not finished in the directory."""
    seed: Annotated[int, SEED] = 0
    """First seed of meta-training."""
    suite: str = "quick"
    """The tasks: the name of a file in envs/suites/adaptation (quick, ml, full), or the path of a TOML file."""
    methods: tuple[Name, ...] = ("rl2", "maml", "a2c", "ppo")
    """Ways of adapting. Classical learners of these tasks and the optimum come with them, where they are known."""
    num_seeds: Annotated[int, SEVERAL] = 2
    """Seeds of meta-training, from `seed` on."""
    training_steps: Annotated[int, COUNT] = 400_000
    """Environment steps of each meta-training."""
    test_tasks: Annotated[int, SEVERAL] = 100
    """New tasks of each distribution to be tested on; learners are tuned on as many of training."""
    task_batch: Annotated[int, COUNT] = 100
    """Tasks that are played side by side."""

    def __post_init__(self) -> None:
        checks.fields(self)
        checks.within(int, SEED, **{"seed + num_seeds - 1": self.seed + self.num_seeds - 1})
        if not self.methods:
            raise ValueError("methods must have at least one value")

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.num_seeds)

    def run(self, steps: int) -> dict[str, int]:
        """The options of a run whose meta-steps take this many environment steps."""
        count = max(1, self.training_steps // steps)
        chunk = min(CHUNK, count)
        return {"seed": self.seed, "steps": count - count % chunk, "chunk": chunk}


PRESETS = {
    "quick": Config(),
    "full": Config(
        suite="full",
        methods=("rl2", "rl2_transformer", "maml", "lpg_initial", "lpg", "open", "a2c", "ppo"),
        num_seeds=5,
        training_steps=5_000_000,
        test_tasks=200,
    ),
}


# --- the methods: how each is meta-trained, and what of it adapts -------------------------------------------------


class Place(NamedTuple):
    """Where a method is trained."""

    name: str  # of the distribution
    tasks: Adaptation
    directory: Path

    @property
    def kind(self) -> Family:
        return family(self.name, self.tasks.levels.environment)

    @property
    def experience(self) -> dict[str, int]:
        """Of learners that follow gradients."""
        return {"num_envs": self.tasks.num_envs, "rollout_length": self.tasks.rollout_length}

    @property
    def agents(self) -> dict[str, Any]:
        """The options of a run of these learners, whose lives are as long as a task."""
        updates = self.tasks.updates
        return {"levels": self.name, "longest_life": updates, "shortest_life": updates, **self.experience}


class Trained(NamedTuple):
    """What adapts: strategies, one per seed, or a learner with the meta-parameters of each seed."""

    players: Sequence[Strategy] | tuple[Learner, Sequence[MetaParams]]
    env_steps: float  # of the meta-training of each seed


Method = Callable[[Config, Place], Trained]


def in_context(options: Callable[[Config, Place], rl2.Config], config: Config, place: Place) -> Trained:
    """Agents that learn in their memory: those of all seeds are trained in one run."""
    own = options(config, place)
    state, log, _ = launch.run(rl2.EXPERIMENT._replace(report=None), launch.placed(own, place.directory))
    return Trained(list(rl2.strategies_of(own, state.agents.params).values()), log["env_steps"][-1] / config.num_seeds)


def meta_learned(
    experiment: launch.Experiment, options: Callable[[Config, Place], Any], config: Config, place: Place
) -> Trained:
    """Learners whose initialisation, rule or optimizer is learned, in one run for each seed."""
    own, found = options(config, place), []
    for seed in config.seeds:
        placed = launch.placed(replace(own, seed=seed), place.directory / f"seed-{seed}")
        state, log, _ = launch.run(experiment._replace(report=None), placed)
        found.append(state.params)
    assert experiment.recipe is not None
    return Trained((build(experiment.recipe(own)), found), log["env_steps"][-1])


def of_rl2(network: Literal["gru", "transformer"], config: Config, place: Place) -> rl2.Config:
    tasks, num_envs, length = place.tasks, 32, min(place.tasks.steps, MEMORY)
    return replace(
        rl2.Config(),
        levels=place.name,
        trial_steps=tasks.steps,
        reward_scale=tasks.reward_scale,
        episode_discount=tasks.episode_discount,
        num_seeds=config.num_seeds,
        network=network,
        window=length if network == "transformer" else 0,
        num_envs=num_envs,
        rollout_length=length,
        **config.run(num_envs * length),
    )


def of_maml(config: Config, place: Place) -> maml.Config:
    preset = maml.PRESETS["gridworld" if place.kind is TABULAR else "cartpole"]
    run = config.run(25 * (K + 1) * place.tasks.num_envs * place.tasks.rollout_length)
    options = {"levels": place.name, "adaptation_rate": place.tasks.maml_rate, **place.experience, **run}
    return replace(preset, updates=K, num_lifetimes=25, **options)


def of_lpg(learned_initial: bool, config: Config, place: Place) -> lpg.Config:
    run = config.run(32 * (K + 1) * place.tasks.num_envs * place.tasks.rollout_length)
    return replace(lpg.Config(), updates=K, learned_initial=learned_initial, **place.agents, **run)


def of_open(config: Config, place: Place) -> learned_optimizer.Config:
    preset = learned_optimizer.PRESETS["gridworld"]
    scale = preset.learned.scale if place.kind is TABULAR else learned_optimizer.Optimizer().scale
    run = config.run(2 * 16 * place.tasks.steps)  # both members of 16 pairs
    return replace(preset, num_pairs=16, scale=scale, epochs=4, minibatches=1, **place.agents, **run)


def from_scratch(objective: str, config: Config, place: Place) -> Trained:
    """A2C or PPO, which nothing has trained before."""
    recipe = baseline(objective, place.kind, untuned(place.kind))
    passes = {"epochs": 4, "minibatches": 1} if objective == "ppo" else {}
    learner = build({**recipe, "experience": {**place.experience, **passes}})
    newborn = learner.inner_loop(place.tasks.levels.environment).init_meta(jax.random.key(config.seed))
    return Trained((learner, [newborn]), 0.0)


METHODS: dict[Name, Method] = {
    "rl2": partial(in_context, partial(of_rl2, "gru")),
    "rl2_transformer": partial(in_context, partial(of_rl2, "transformer")),
    "maml": partial(meta_learned, maml.EXPERIMENT, of_maml),
    "lpg_initial": partial(meta_learned, lpg.EXPERIMENT, partial(of_lpg, True)),
    "lpg": partial(meta_learned, lpg.EXPERIMENT, partial(of_lpg, False)),
    "open": partial(meta_learned, learned_optimizer.EXPERIMENT, of_open),
    "a2c": partial(from_scratch, "a2c"),
    "ppo": partial(from_scratch, "ppo"),
}


# --- the comparison ---------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """What one method earned on the new tasks of a distribution."""

    curves: np.ndarray  # [seeds, n, BINS] mean returns of the episodes that ended in each part of a task
    env_steps: float = 0.0  # of meta-training
    factors: Sequence[float] = ()  # on the updates of each seed's learners


def contest(config: Config, name: str, tasks: Adaptation, directory: Path) -> dict[str, Found]:
    """Trains all methods on a distribution, and lets them meet the same new tasks: [tests * test_tasks] in all."""
    env, keys = tasks.levels.environment, jax.random.split(jax.random.key(HELD_OUT), len(tasks.test))
    drawn = [draw_tasks(x, key, config.test_tasks).problem for x, key in zip(tasks.test.values(), keys, strict=True)]
    new: PyTree = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drawn)
    count, key = config.test_tasks * len(drawn), jax.random.key(HELD_OUT - 1)
    known = draw_tasks(tasks.levels, jax.random.key(config.seed), count).problem

    def play(players: Mapping[str, Strategy]) -> dict[str, np.ndarray]:
        played = play_tasks(env, players, new, key, tasks.steps, config.task_batch)
        return {name: curves(x.ended) for name, x in played.items()}

    found: dict[str, Found] = {}
    for method in config.methods:
        place = Place(name, tasks, directory / name.replace("/", "-") / method)
        players, env_steps = METHODS[method](config, place)
        if isinstance(players, tuple):
            learner, params = players
            learned = learn_tasks(env, learner, params, known, new, key, tasks.updates, config.task_batch)
            found[method] = Found(learned.curves, env_steps, learned.factors)
        else:
            seeds = play({str(i): strategy for i, strategy in enumerate(players)})
            found[method] = Found(np.stack(list(seeds.values())), env_steps)
    classical = rl2.Tasks(levels=name, trial_steps=tasks.steps).classical()
    found |= {name: Found(x[None]) for name, x in play(classical).items()}
    if best := tasks.levels.optimal_return:
        values = np.asarray(jax.jit(partial(jax.lax.map, best, batch_size=config.task_batch))(new))
        found[OPTIMUM] = Found(np.tile(values[None, :, None], BINS))
    return found


def report(name: str, tasks: Adaptation, found: Mapping[str, Found]) -> dict[str, Any]:
    """Prints the table of a distribution, and returns it, JSON-able."""
    rows: dict[str, dict[str, Any]] = {}
    for method, (values, env_steps, _) in found.items():
        row: dict[str, Interval | str] = {"whole task": over_seeds(values.mean(-1))}
        row["last fifth"] = over_seeds(values[..., -LAST:].mean(-1))
        others = {x: y.curves for x, y in found.items() if x not in (method, OPTIMUM)}
        best = max(others, key=lambda x: others[x].mean(), default=None)
        lead = None if best is None or method == OPTIMUM else over_seeds((values - others[best]).mean(-1))
        row["lead on the best other"] = lead or "-"
        if OPTIMUM in found:
            row["success"] = success(values, found[OPTIMUM].curves, len(tasks.test))
        rows[method] = row | {"training steps": f"{env_steps:.3g}"}
    tables.show(rows, f"{name}: return of episodes in {tasks.steps} steps on new tasks")
    plain = {x: {y: z._asdict() if isinstance(z, Interval) else z for y, z in row.items()} for x, row in rows.items()}
    return {
        "table": plain,
        "seeds": {method: x.curves.mean((1, 2)).tolist() for method, x in found.items()},
        "factors": {method: list(x.factors) for method, x in found.items() if x.factors},
    }


def success(values: np.ndarray, optimum: np.ndarray, tests: int) -> Interval:
    """How often the mean return in the last fifth of a task is above half of the optimum.

    Success rates are per seed and test distribution, and their summary is the interquartile mean, with an interval over
    seeds; of a method without seeds, the share of all tasks with the exact interval of a binomial.
    """
    solved = values[..., -LAST:].mean(-1) > 0.5 * optimum[..., 0]  # [seeds, n]
    if len(solved) == 1:
        return Interval(solved.mean(), *scipy.stats.binomtest(solved.sum(), solved.size).proportion_ci())
    return aggregates(solved.reshape(len(solved), tests, -1).mean(-1))["iqm"]


def draw(suite: Mapping[str, Adaptation], found: Mapping[str, Mapping[str, Found]], directory: Path) -> None:
    """`adaptation.png`: the return of episodes over the steps of a task, a panel per distribution."""

    def band(steps: int, values: np.ndarray) -> tuple[Any, ...]:
        x = (np.arange(BINS) + 0.5) * steps / BINS
        return x, *np.array([over_seeds(values[..., i]) for i in range(BINS)]).T

    panels = {x: {y: band(suite[x].steps, z.curves) for y, z in methods.items()} for x, methods in found.items()}
    figure = plot.sample_efficiency(panels, "environment steps on a new task", "return of episodes")
    plot.save(figure, directory / "adaptation.png")


def main(argv: list[str] | None = None) -> None:
    config = cli.parse(Config, PRESETS, argv)
    with cli.clean_exit():
        suite = envs.adaptation(config.suite)
        with cli.directory_of_runs(config, "adaptation") as directory:
            found, tables_of = {}, {}
            for name, tasks in suite.items():
                found[name] = contest(config, name, tasks, directory)
                tables_of[name] = report(name, tasks, found[name])
                draw(suite, found, directory)
                write_json(directory / "results.json", {"config": flatten(config), "on": tables_of, **circumstances()})
            print(f"results in {directory}", file=sys.stderr)


if __name__ == "__main__":
    main()
