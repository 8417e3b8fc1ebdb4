"""Train agents that learn by memory (RL², Duan et al. 2016), and compare them with classical learners on new tasks.

python -m experiments.rl2                        # bandits with 5 arms and 10 pulls, two minutes on a laptop CPU
python -m experiments.rl2 --preset bandits       # 100 pulls
python -m experiments.rl2 --preset mdps          # tabular Markov decision processes, 10 episodes; learns from BEB
python -m experiments.rl2 --preset gridworld     # a goal that is not shown
python -m experiments.rl2 --imitate gittins      # learn from what Gittins indices would do, instead of from reward

A trial is one task: some pulls of a bandit, or several episodes. The agent sees its last action, reward and the end of
an episode, and its memory lasts for the whole trial. PPO maximises the return of trials. The report is on tasks that
were never trained on, the same for all learners. `agent.safetensors` is the agent of the best seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import jax
import numpy as np

import envs
import metarl
from envs.trial import Trials
from experiments import agent, launch, parts
from experiments.agent import side_by_side
from metarl import checks, curricula, estimators, plot, strategies
from metarl.checks import COUNT, COUNT_OR_ZERO, SHARE, WIDTH
from metarl.evaluation.adaptation import Played, draw_tasks, per_episode, play_tasks
from metarl.evaluation.held_out import HELD_OUT
from metarl.evaluation.statistics import over_runs
from metarl.inner.in_context import sequence_levels
from metarl.meta import InnerLoop, Meta
from metarl.rl.rollout import model
from metarl.rules import Part, Recipe, build, build_part
from metarl.run.checkpoint import Log
from metarl.run.options import replace
from metarl.saved_agents import AGENT_FILE
from metarl.strategies import Strategy
from metarl.strategies.gittins import MAX_PULLS
from metarl.strategies.mdps import Process
from metarl.strategies.tuned import bandit_strategies, mdp_strategies
from metarl.types import Levels, Params, PyTree

Teacher = Literal[
    "nobody",
    "random",
    "greedy",
    "epsilon_greedy",
    "gittins",
    "thompson",
    "voting_thompson",
    "optimistic_thompson",
    "ucb1",
    "psrl",
    "opsrl",
    "ucrl2",
    "beb",
]


@dataclasses.dataclass(frozen=True)
class Tasks:
    """What is learned to be learned."""

    levels: str = "bandit/bernoulli"
    """Distribution of tasks: any name that envs.make accepts. An episode of a bandit is one pull."""
    arms: Annotated[int, COUNT] = 5
    """Arms of a bandit (only bandits have them)."""
    trial_steps: Annotated[int, COUNT] = 10
    """Environment steps on each task: pulls of a bandit."""
    episode_discount: Annotated[float, SHARE] = 0.97
    """Weight of the next step's reward where an episode ends (0: each episode is learned by itself)."""
    show_time: bool = False
    """Whether agents see which share of a trial is over."""
    switch_after: Annotated[int, COUNT_OR_ZERO] = 0
    """Episodes after which training goes on with another task within the trial (0: never). In the report tasks stay."""

    def __post_init__(self) -> None:
        checks.fields(self)
        envs.check(levels=self.levels)
        if not self.bandit:
            parts.refuse_inert(self, ("arms",), f"with levels {self.levels}")
        if self.levels == "bandit/bernoulli" and self.trial_steps > MAX_PULLS:
            raise ValueError(f"trial_steps must be at most {MAX_PULLS} for Gittins' index, got {self.trial_steps}")

    @property
    def bandit(self) -> bool:
        """Whether `arms` says how many arms there are."""
        return self.levels in ("bandit/bernoulli", "bandit/gaussian")

    def make(self) -> Levels:
        """The tasks themselves."""
        if not self.bandit:
            return envs.make(self.levels)
        kind: Any = self.levels.removeprefix("bandit/")
        return envs.bandit.distribution(kind, num_arms=self.arms, max_steps=1)

    def trials(self) -> Levels:
        """Trials on these tasks."""
        switch_after = self.switch_after or None
        return envs.trials(self.make(), steps=self.trial_steps, share=self.show_time, switch_after=switch_after)

    def classical(self) -> dict[str, Strategy]:
        """Learners that know what kind of tasks these are."""
        env: Any = self.make().environment
        if self.levels in ("bandit/bernoulli", "bandit/five"):
            return bandit_strategies(env.num_arms, self.trial_steps)
        if self.levels == "mdp/noisy":
            process = Process(env.num_states, env.num_actions, int(env.default_params.max_steps))
            return mdp_strategies(process, max(1, self.trial_steps // process.episode_length))
        return {"random": strategies.random(env.action_space(env.default_params))}


@dataclasses.dataclass(frozen=True)
class Learners:
    """The agents."""

    num_seeds: Annotated[int, COUNT] = 1
    """Agents, each with its own seed."""
    network: Literal["gru", "lstm", "transformer"] = "gru"
    """What they remember with."""
    width: Annotated[int, WIDTH] = 64
    """Width of the network."""
    window: Annotated[int, COUNT_OR_ZERO] = 0
    """Steps that a transformer attends to (0: the whole trial, 1: no memory)."""
    layers: Annotated[int, COUNT] = 2
    """Layers of a transformer."""
    heads: Annotated[int, COUNT] = 4
    """Attention heads of a transformer."""
    start_from: str = ""
    """An agent to begin with the parameters of: a file, the directory of a run, or a shipped one's name."""
    imitate: Teacher = "nobody"
    """A classical learner of such tasks whose actions are predicted; nothing is learned from reward then."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.network != "transformer":
            parts.refuse_inert(self, ("window", "layers", "heads"), f"with network {self.network}")
        if self.imitate != "nobody":
            parts.refuse_inert(self, ("num_seeds", "start_from"), "with imitate")

    def network_for(self, trial_steps: int) -> Part:
        """The network, for trials of this many steps."""
        if self.network != "transformer":
            return {"name": self.network, "size": self.width}
        sizes = {"width": self.width, "layers": self.layers, "heads": self.heads}
        return {"name": "transformer", "window": self.window or trial_steps, **sizes}


@dataclasses.dataclass(frozen=True)
class NewTasks:
    """The report at the end, on tasks that are never trained on."""

    held_out_tasks: Annotated[int, COUNT_OR_ZERO] = 1000
    """Tasks of the report (0: no report)."""
    held_out_batch: Annotated[int, COUNT] = 100
    """Tasks that are played side by side."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.held_out_tasks == 1:
            raise ValueError("held_out_tasks must be 0 or at least 2, got 1")


RULE = agent.Rule(learning_rate=3e-3, gae_lambda=0.95, entropy_coef=0.003)
PASSES = parts.Passes(epochs=4, minibatches=4)
AGENTS = parts.Agents(num_envs=512, rollout_length=10, reward_scale=0.05)


@dataclasses.dataclass(frozen=True)
class Config:
    """RL²: PPO agents with a memory, in trials."""

    run: parts.Run = parts.Run(steps=150)
    sweep: parts.Sweep = parts.Sweep()
    tasks: Tasks = Tasks()
    learners: Learners = Learners()
    agents: parts.Agents = AGENTS
    passes: parts.Passes = PASSES
    rule: agent.Rule = RULE
    new_tasks: NewTasks = NewTasks()

    def __post_init__(self) -> None:
        if self.learners.window > self.tasks.trial_steps:
            steps = self.tasks.trial_steps
            raise ValueError(f"window must be at most trial_steps = {steps}, got {self.learners.window}")
        if self.learners.imitate != "nobody":
            of_rewards = [name for name in vars(RULE) if name not in ("learning_rate", "max_gradient_norm")]
            parts.refuse_inert(self.rule, of_rewards, "with imitate", RULE)
            parts.refuse_inert(self.passes, vars(PASSES), "with imitate", PASSES)
            parts.refuse_inert(self.tasks, ("switch_after", "episode_discount"), "with imitate")
            parts.refuse_inert(self.agents, ("rollout_length", "reward_scale"), "with imitate", AGENTS)


CHOICE_TASKS = 200  # on which the best of several seeds is chosen
LONG = replace(Config(), steps=300, trial_steps=100, num_envs=128, rollout_length=100)
PRESETS = {
    "quick": Config(),
    "bandits": LONG,
    "mdps": replace(
        Config(),
        trial_steps=100,
        levels="mdp/noisy",
        imitate="beb",
        network="transformer",
        width=64,
        layers=3,
        heads=4,
        num_envs=64,
        steps=3500,
        learning_rate=1e-3,
    ),
    "gridworld": replace(LONG, levels="gridworld/hidden_goal", reward_scale=1.0),
}


def recipe(config: Config) -> Recipe:
    """The agents."""
    return {
        "objective": {**config.rule.recipe(), "episode_discount": config.tasks.episode_discount},
        "optimizer": config.rule.optimizer(),
        "network": config.learners.network_for(config.tasks.trial_steps),
        "policy": {"name": "by_action_space"},
        "experience": {**vars(config.agents), **vars(config.passes)},
    }


def trials(config: Config) -> Trials:
    """The environment of the agents."""
    return cast(Trials, config.tasks.trials().environment)


def inner_loop(config: Config) -> InnerLoop:
    """How an agent learns."""
    learner = build(recipe(config))
    if config.learners.start_from:
        learner = learner._replace(initial=metarl.load_agent(config.learners.start_from).params)
    return learner.inner_loop(trials(config))


def make(config: Config) -> Meta:
    """Agents of all seeds side by side, or one that learns by imitation.

    Raises FileNotFoundError or ValueError for a `start_from` that is no such agent.
    """
    if config.learners.imitate != "nobody":
        return imitation(config)
    return side_by_side(inner_loop(config), config.tasks.trials(), config.learners.num_seeds)


def imitation(config: Config) -> Meta:
    """A learner in context that predicts the actions of a classical learner, in `num_envs` trials at a time."""
    about = recipe(config)
    teachers = config.tasks.classical()
    checks.one_of(teachers, imitate=config.learners.imitate)
    sequences = trials(config).demonstrations(teachers[config.learners.imitate])
    network = build_part("network", about["network"])
    inner = metarl.in_context_inner_loop(sequences, network, tokens="shifted")
    curriculum = curricula.uniform(sequence_levels(sequences))
    optimizer = build_part("optimizer", about["optimizer"])
    return metarl.compose(inner, estimators.backprop(1), optimizer, curriculum, config.agents.num_envs)


def agents_of(config: Config, state: Any) -> Params:
    """The parameters of the trained agents, leaves [seeds, ...]."""
    if config.learners.imitate == "nobody":
        return state.agents.params
    newborn = jax.jit(inner_loop(config).init)(jax.random.key(0), config.tasks.trials().sample(jax.random.key(0)))
    return jax.tree.map(lambda x: x[None], {**newborn.params, "policy": state.params["logits"]})


def report(config: Config, state: Any, log: Log, directory: Path) -> launch.Report:
    """The sum of rewards on each new task: mean over tasks and seeds; draws the return of each episode."""
    params = agents_of(config, state)
    save_best(config, params, directory)
    if not config.new_tasks.held_out_tasks:
        return {}
    played = play_new_tasks(config, {**config.tasks.classical(), **strategies_of(config, params)})
    draw(played, optimum(config), directory)
    return rows(played)


def strategies_of(config: Config, params: Params) -> dict[str, Strategy]:
    """The agents of all seeds, "rl2-0" and so on, of their parameters (leaves [seeds, ...])."""
    about, env = recipe(config), trials(config)
    outputs = build_part("objective", about["objective"]).outputs
    agent_model = model(env, build_part("network", about["network"]), outputs)
    seeds = range(config.learners.num_seeds)
    return {f"rl2-{i}": env.strategy(agent_model, jax.tree.map(lambda x, i=i: x[i], params)) for i in seeds}


def play_new_tasks(config: Config, players: Mapping[str, Strategy]) -> dict[str, Played]:
    """What all of them earn on the held-out tasks, each of which stays for a whole trial."""
    env, key = config.tasks.make().environment, jax.random.key(HELD_OUT - 1)
    return play_tasks(env, players, problems(config), key, config.tasks.trial_steps, config.new_tasks.held_out_batch)


def problems(config: Config) -> PyTree:
    """The held-out tasks, leaves [n, ...]."""
    return draw_tasks(config.tasks.make(), jax.random.key(HELD_OUT), config.new_tasks.held_out_tasks).problem


def optimum(config: Config) -> float | None:
    """Mean return of an episode of the best policies for the held-out tasks, if it is known."""
    best = config.tasks.make().optimal_return
    return None if best is None else float(jax.jit(partial(jax.lax.map, best))(problems(config)).mean())


def rows(played: dict[str, Played]) -> launch.Report:
    """A row per learner. That of RL² is the mean over seeds on each task, with the means of its worst and best seed."""
    totals = {name: x.total for name, x in played.items()}
    seeds = np.stack([totals.pop(name) for name in played if name.startswith("rl2-")])
    table = {name: over_runs(total)._asdict() for name, total in totals.items()}
    means = seeds.mean(1)
    return {**table, "rl2": {**over_runs(seeds.mean(0))._asdict(), "worst": means.min(), "best": means.max()}}


def draw(played: dict[str, Played], optimum: float | None, directory: Path) -> None:
    """The return of each episode of a trial."""
    curves = {name: np.array([x.mean for x in per_episode(each)]) for name, each in played.items()}
    lines = {name: (np.arange(1, len(y) + 1), y) for name, y in curves.items()}
    plot.save(plot.lines(lines, "episode of the trial", "return", reference=optimum), directory / "episodes.png")


def save_best(config: Config, params: Params, directory: Path) -> None:
    """Saves the agent that earns most on new training tasks, of parameters with leaves [seeds, ...]."""
    tasks, players = config.tasks.make(), strategies_of(config, params)
    task_key, play_key = jax.random.split(jax.random.key(config.run.seed))
    problems = draw_tasks(tasks, task_key, CHOICE_TASKS).problem
    played = play_tasks(tasks.environment, players, problems, play_key, config.tasks.trial_steps)
    best = int(np.argmax([x.total.mean() for x in played.values()]))
    about, card = recipe(config), launch.origin(EXPERIMENT, config)
    outputs = build_part("objective", about["objective"]).outputs
    one = jax.tree.map(lambda x: x[best], params)
    metarl.save_agent(directory / AGENT_FILE, one, trials(config), about["network"], outputs, card)


EXPERIMENT = launch.Experiment(
    "rl2",
    make,
    curves=("episode_return", "policy_entropy", "value_loss", "accuracy", "meta_loss"),
    report=report,
    score="sum of rewards on new tasks",
)


def main(argv: list[str] | None = None) -> None:
    launch.main(EXPERIMENT, Config, PRESETS, argv)


if __name__ == "__main__":
    main()
