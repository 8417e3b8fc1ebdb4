"""Meta-train agents that optimise unknown functions (NAP: Maraval et al. 2023), against random search and GP-EI.

python -m experiments.nap                          # about 2 minutes on a laptop CPU
python -m experiments.nap --preset 1d              # about 7 minutes
python -m experiments.nap --preset 2d --arms histogram

A transformer sees the evaluations so far and chooses the next candidate. It learns by PPO on functions of a Gaussian
process, and in the arm `histogram` it also predicts the values of all candidates. The arms learn from the same seeds
and functions, side by side in one program. The report has the simple regret after each evaluation, on functions that no
agent was trained on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np

import metarl
from envs import bayesian_optimisation
from envs.bayesian_optimisation import DIMENSIONS, JITTER, BayesianOptimisation, simple_regret
from experiments import agent, launch, parts
from experiments.agent import State
from metarl import checks, plot
from metarl.checks import COUNT, NOT_NEGATIVE, POSITIVE, SEVERAL, SHARE, WIDTH
from metarl.evaluation.gp_ei import gp_ei
from metarl.evaluation.held_out import HELD_OUT
from metarl.evaluation.scales import normalised_return
from metarl.evaluation.statistics import Interval
from metarl.inner.rl import Experience, rl_inner_loop
from metarl.meta import InnerLoop, Meta
from metarl.objectives import histogram, ppo
from metarl.objectives.auxiliary import BARS
from metarl.rl.rollout import model, reset, rollout
from metarl.rules import Part, build_part
from metarl.run.checkpoint import Log
from metarl.run.files import write_json
from metarl.run.options import replace
from metarl.saved_agents import AGENT_FILE
from metarl.types import Array, Key, Levels, Metrics, Params

ArmName = Literal["plain", "histogram"]
NAMES: Mapping[str, str] = {"plain": "NAP without histogram", "histogram": "NAP"}  # of the arms in the report
ORDERS = 16  # random searches on each function


@dataclasses.dataclass(frozen=True)
class Functions:
    """What is optimised."""

    dimensions: Annotated[int, DIMENSIONS] = 1
    """Of the functions' domain."""
    candidates: Annotated[int, SEVERAL] = 64
    """Points of the domain that can be evaluated, on a regular grid."""
    evaluations: Annotated[int, COUNT] = 12
    """Evaluations of each function."""
    functions: Annotated[int, COUNT] = 4096
    """Functions that each agent is trained on."""
    shortest: Annotated[float, POSITIVE] = 0.05
    """Length scales are log-uniform, from here ..."""
    longest: Annotated[float, POSITIVE] = 0.5
    """... to here. The domain has length 1."""
    least_regret: Annotated[float, POSITIVE] = 1e-2
    """The reward is the negative logarithm of the regret, or of this where the regret is less."""

    def __post_init__(self) -> None:
        checks.fields(self)
        self.make(1)

    def make(self, functions: int | None = None) -> Levels:
        """Levels of so many functions (None: as many as agents are trained on)."""
        return bayesian_optimisation.distribution(
            self.dimensions,
            self.candidates,
            self.evaluations,
            functions or self.functions,
            self.shortest,
            self.longest,
            self.least_regret,
        )


@dataclasses.dataclass(frozen=True)
class Population:
    """The agents."""

    arms: tuple[ArmName, ...] = ("plain", "histogram")
    """What agents minimise: PPO's loss, or PPO's and that of a histogram of every candidate's value."""
    num_seeds: Annotated[int, SEVERAL] = 2
    """Agents of each arm, each with its own seed and functions."""
    num_envs: Annotated[int, COUNT] = 32
    """Functions that an agent searches between two updates."""
    width: Annotated[int, WIDTH] = 32
    """Of the transformer's tokens."""
    layers: Annotated[int, COUNT] = 2
    """Of the transformer."""
    heads: Annotated[int, COUNT] = 2
    """Attention heads of each layer."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise ValueError(f"arms must be different ones of plain and histogram, at least one, got {self.arms}")
        build_part("network", self.network())

    def network(self) -> Part:
        return {"name": "neural_process", "width": self.width, "layers": self.layers, "heads": self.heads}


@dataclasses.dataclass(frozen=True)
class Rule:
    """What agents minimise."""

    discount: Annotated[float, SHARE] = 0.98
    """Weight of the next evaluation's reward."""
    gae_lambda: Annotated[float, SHARE] = 0.98
    """Weight of the next evaluation's advantage."""
    clip: Annotated[float, POSITIVE] = 0.15
    """How far PPO's probability ratio may move."""
    value_coef: Annotated[float, NOT_NEGATIVE] = 2.0
    """Weight of half the squared error of the value."""
    entropy_coef: Annotated[float, NOT_NEGATIVE] = 0.01
    """Weight of the policy's entropy."""
    histogram_coef: Annotated[float, POSITIVE] = 1.0
    """Weight of the histogram's loss (arm histogram)."""
    bars: Annotated[int, BARS] = 32
    """Bars of the histogram, between values of -3 and 3 (arm histogram)."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The report at the end."""

    held_out_functions: Annotated[int, SEVERAL] = 128
    """Functions that no agent was trained on."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class Config:
    """Agents that optimise unknown functions."""

    run: parts.Run = parts.Run(steps=200)
    problems: Functions = Functions()
    population: Population = Population()
    passes: parts.Passes = parts.Passes(epochs=2, minibatches=4)
    rule: Rule = Rule()
    optimizer: parts.ClippedAdam = parts.ClippedAdam(learning_rate=3e-3)
    held_out: HeldOut = HeldOut()

    def __post_init__(self) -> None:
        if "histogram" not in self.population.arms:
            parts.refuse_inert(self.rule, ("histogram_coef", "bars"), "without the arm histogram")


PRESETS = {
    "quick": replace(Config(), steps=100, held_out_functions=64),
    "1d": replace(Config(), num_seeds=3),
    "2d": replace(Config(), num_seeds=3, dimensions=2, shortest=0.1, longest=0.6),
}


def inner_loop(config: Config, levels: Levels, histogram_coef: Array | float) -> InnerLoop:
    """How an agent learns, with this weight of the histogram's loss. One rollout is one episode of each environment."""
    rule, population, passes = config.rule, config.population, config.passes
    objective = ppo(
        rule.clip,
        discount=rule.discount,
        gae_lambda=rule.gae_lambda,
        value_coef=rule.value_coef,
        entropy_coef=rule.entropy_coef,
        auxiliary=histogram(rule.bars, coef=histogram_coef),
    )
    gradient_steps = config.run.steps * passes.epochs * passes.minibatches
    return rl_inner_loop(
        levels.environment,
        build_part("network", population.network()),
        objective,
        config.optimizer.make(gradient_steps),
        Experience(population.num_envs, config.problems.evaluations, passes.epochs, passes.minibatches),
    )


def make(config: Config) -> Meta:
    """All agents as one run, with state [arms, seeds, ...]. Arms differ in the weight of the histogram's loss alone."""
    levels, arms = config.problems.make(), config.population.arms
    coefs = jnp.array([config.rule.histogram_coef if arm == "histogram" else 0.0 for arm in arms])

    def population(coef: Array) -> Meta:
        return agent.side_by_side(inner_loop(config, levels, coef), levels, config.population.num_seeds)

    def init(key: Key) -> State:
        return jax.vmap(lambda coef: population(coef).init(key))(coefs)

    def step(state: State, key: Key) -> tuple[State, Metrics]:
        state, metrics = jax.vmap(lambda coef, state: population(coef).step(state, key))(coefs, state)
        counts = {name: metrics.pop(name).sum() for name in ("agent_updates", "env_steps")}
        watched = metrics.pop("lifetime_loss")
        of_arms = {f"{name}_{arm}": x[i] for name, x in metrics.items() for i, arm in enumerate(arms)}
        return state, {**of_arms, **counts, "lifetime_loss": watched}

    return Meta(init, step)


def agents_regrets(config: Config, params: Params, values: Array, key: Key) -> Array:
    """Simple regrets [agents, M, T] of agents, whose parameters are `params` [agents, ...], on functions [M, N]."""
    env = config.problems.make(1).environment
    agents = model(env, build_part("network", config.population.network()), {"value": 1})
    steps = config.problems.evaluations

    def search(params: Params, values: Array, key: Key) -> Array:
        reset_key, key = jax.random.split(key)
        problem = bayesian_optimisation.Problem(values[None])
        _, data = rollout(env, agents, params, reset(env, agents, problem, reset_key, 1), problem, key, steps)
        return simple_regret(values, data.action[:, 0])

    keys = jax.random.split(key, len(values))
    return jax.lax.map(lambda params: jax.vmap(partial(search, params))(values, keys), params)


def random_regrets(values: Array, steps: int, key: Key) -> Array:
    """Simple regrets [ORDERS, M, T] of evaluating candidates of functions `values` [M, N] in random orders."""

    def search(key: Key, values: Array) -> Array:
        return simple_regret(values, jax.random.permutation(key, values.size)[:steps])

    keys = jax.random.split(key, (ORDERS, len(values)))
    return jax.vmap(jax.vmap(search), (0, None))(keys, values)


def gp_ei_regrets(config: Config, values: Array) -> Array:
    """Simple regrets [1, M, T] of GP-EI on functions [M, N]; it knows the range of the length scales."""
    functions = config.problems
    points = np.asarray(cast(BayesianOptimisation, functions.make(1).environment).points)
    scales = (functions.shortest, functions.longest)
    chosen = [gp_ei(points, each, functions.evaluations, scales, JITTER) for each in np.asarray(values)]
    return jax.vmap(simple_regret)(values, jnp.array(chosen))[None]


def regrets(config: Config, state: State) -> dict[str, np.ndarray]:
    """Simple regrets [runs, M, T] of every method on the same held-out functions."""
    function_keys = jax.random.split(jax.random.key(HELD_OUT), config.held_out.held_out_functions)
    values = jax.vmap(config.problems.make(1).sample)(function_keys).problem.values[:, 0]
    random_key, agent_key = jax.random.split(jax.random.key(HELD_OUT - 1))
    arms = {name: x for name, x in state.agents.params.items() if name != "bars"}
    played = jax.jit(jax.vmap(lambda params: agents_regrets(config, params, values, agent_key)))(arms)
    found = {
        "random": random_regrets(values, config.problems.evaluations, random_key),
        "GP-EI": gp_ei_regrets(config, values),
        **{NAMES[arm]: x for arm, x in zip(config.population.arms, played, strict=True)},
    }
    return {name: np.asarray(x) for name, x in found.items()}


def differences(regrets: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The last method's regrets less those of each other [runs, M, T], function by function.

    Between arms seed by seed; a method with other runs counts by its mean over them.
    """
    *others, last = regrets
    own = regrets[last]
    return {
        f"{last} minus {name}": own - (x if len(x) == len(own) else x.mean(0, keepdims=True))
        for name, x in ((name, regrets[name]) for name in others)
    }


def intervals(regrets: np.ndarray) -> list[Interval]:
    """Mean and 95 % interval after each evaluation of `regrets` [runs, M, T], over other runs and functions."""
    zero, one = np.zeros(regrets.shape[1]), np.ones(regrets.shape[1])
    return [normalised_return(x, zero, one) for x in np.moveaxis(regrets, 2, 0)]


def report(config: Config, state: State, log: Log, directory: Path) -> launch.Report:
    """Simple regrets after the last evaluation, and how they differ; saves the first agent of the last arm.

    `regret.json` and `regret.png` have the regrets after each evaluation.
    """
    found = regrets(config, state)
    curves = {name: intervals(x) for name, x in found.items()}
    between = {name: intervals(x) for name, x in differences(found).items()}
    everything = {name: [x._asdict() for x in row] for name, row in {**curves, **between}.items()}
    write_json(directory / "regret.json", everything)
    evaluations = np.arange(1, config.problems.evaluations + 1)
    bands = {name: (evaluations, *np.array(row).T) for name, row in curves.items()}
    figure = plot.sample_efficiency({f"{config.problems.dimensions}-D": bands}, "evaluations", "simple regret")
    plot.save(figure, directory / "regret.png")
    save_agent(config, state, directory)
    return {name: row[-1] for name, row in everything.items()}


def save_agent(config: Config, state: State, directory: Path) -> None:
    """Writes the first agent of the last arm, without its histogram, as `agent.safetensors` for `metarl.load_agent`."""
    params = {name: jax.tree.map(lambda x: x[-1, 0], x) for name, x in state.agents.params.items() if name != "bars"}
    metarl.save_agent(
        directory / AGENT_FILE,
        params,
        config.problems.make(1).environment,
        config.population.network(),
        {"value": 1},
        launch.origin(EXPERIMENT, config),
    )


EXPERIMENT = launch.Experiment(
    "nap",
    make,
    curves=tuple(f"{name}_{arm}" for name in ("episode_return", "policy_entropy", "histogram_loss") for arm in NAMES),
    report=report,
    score="simple regret on held-out functions",
)


def main(argv: list[str] | None = None) -> None:
    launch.main(EXPERIMENT, Config, PRESETS, argv)


if __name__ == "__main__":
    main()
