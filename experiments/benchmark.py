"""How fast it is: everything that is compared is timed side by side in one process, and printed as JSON.

python -m experiments.benchmark lpg
python -m experiments.benchmark lpg --num-lifetimes 512 --num-envs 64
python -m experiments.benchmark es
python -m experiments.benchmark groove
python -m experiments.benchmark tokens --batch 256
python -m experiments.benchmark optimizers
python -m experiments.benchmark sweep
python -m experiments.benchmark metagradients --hidden 256
python -m experiments.benchmark memory --num-envs 64
python -m experiments.benchmark trials
python -m experiments.benchmark agents --levels CartPole-v1 --num-envs 4 --minibatches 4 --target 200
"""

from __future__ import annotations

import dataclasses
import json
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax

import envs
import metarl
from experiments import agent, cli, groove, lpg, meta_training, parts, plain_ppo
from metarl import checks, curricula, estimators, networks, objectives, optimizers
from metarl.checks import COUNT, COUNT_OR_ZERO, RATE, SEVERAL, WIDTH, Bound
from metarl.estimators.population import live
from metarl.evaluation.families import family
from metarl.finetune import policies
from metarl.inner.rl import Agent, Experience, rl_inner_loop
from metarl.meta import Estimator, InnerLoop, Meta, MetaState
from metarl.parallel import Placement, dividing, one_device_per_core
from metarl.rl import rollout
from metarl.rules import build, build_part
from metarl.run.files import circumstances
from metarl.run.options import replace, with_values
from metarl.run.sweep import side_by_side
from metarl.types import Array, Key, Levels, MetaParams, Progress

RETURN = Bound(-1e9, 1e9)
CLOCKS = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}
TIMES = tuple(f"{which}_{unit}" for unit in CLOCKS for which in ("min", "median"))
LearnedObjective = Literal["lpg", "lpo", "disco"]


@dataclasses.dataclass(frozen=True)
class LPG:
    """One meta-step of LPG against rollouts alone and against the arithmetic of its meta-network alone."""

    levels: tuple[str, ...] = ("gridworld/small", "gridworld/all_shortlife")
    """Distributions of levels, one benchmark each."""
    num_lifetimes: Annotated[int, COUNT] = 16
    """Agents that live side by side."""
    num_envs: Annotated[int, COUNT] = 16
    """Environments of each agent."""
    rollout_length: Annotated[int, COUNT] = 20
    """Environment steps between two agent updates."""
    updates: Annotated[int, COUNT] = 5
    """Agent updates that the meta-gradient flows through (K)."""
    hidden: Annotated[int, WIDTH] = 256
    """Width of the meta-network's GRU."""
    meta_steps: Annotated[int, COUNT] = 5
    """Meta-steps in one compiled call."""
    repeats: Annotated[int, COUNT] = 10
    """Timed calls of each program, taken in turns."""

    def __post_init__(self) -> None:
        checks.fields(self)
        envs.check(levels=self.levels)


@dataclasses.dataclass(frozen=True)
class ES:
    """One step of evolution strategies on LPG against the same lifetimes without it, and against forward arithmetic."""

    levels: tuple[str, ...] = ("gridworld/small", "gridworld/all_vrandlife")
    """Distributions of levels, one benchmark each, with their own lifetimes."""
    num_pairs: Annotated[int, COUNT] = 8
    """Antithetic pairs: half the population."""
    num_envs: Annotated[int, COUNT] = 16
    """Environments of each agent."""
    rollout_length: Annotated[int, COUNT] = 20
    """Environment steps between two agent updates."""
    hidden: Annotated[int, WIDTH] = 256
    """Width of the meta-network's GRU."""
    batch_size: Annotated[int, COUNT] = 1
    """Pairs that live at a time on each device."""
    rank: Annotated[int, COUNT_OR_ZERO] = 0
    """Rank of the perturbations of matrices (0: normal noise); with one, normal noise is timed beside it."""
    devices: Annotated[int, COUNT_OR_ZERO] = 0
    """Devices that pairs are sharded over (0: all that divide their number); on CPU, each core is one."""
    repeats: Annotated[int, COUNT] = 3
    """Timed calls of each program, taken in turns."""

    def __post_init__(self) -> None:
        checks.fields(self)
        envs.check(levels=self.levels)


@dataclasses.dataclass(frozen=True)
class GROOVE:
    """One meta-step of LPG on levels that a score asks for again, against domain randomisation."""

    levels: tuple[str, ...] = (groove.PRESETS["quick"].distribution.levels,)
    """Distributions of levels, one benchmark each."""
    scores: tuple[parts.ScoreName, ...] = ("regret", "optimal", "pvl", "maxmc")
    """Scores to time."""
    num_lifetimes: Annotated[int, COUNT] = groove.PRESETS["quick"].estimator.num_lifetimes
    """Agents that live side by side."""
    num_envs: Annotated[int, COUNT] = groove.PRESETS["quick"].agents.num_envs
    """Environments of each agent."""
    rollout_length: Annotated[int, COUNT] = groove.PRESETS["quick"].agents.rollout_length
    """Environment steps between two agent updates."""
    hidden: Annotated[int, WIDTH] = groove.PRESETS["quick"].rule.hidden
    """Width of the meta-network's GRU."""
    meta_steps: Annotated[int, COUNT] = 50
    """Meta-steps in one compiled call: lifetimes that end together should weigh as much as they do in a run."""
    repeats: Annotated[int, COUNT] = 3
    """Timed calls of each program, taken in turns."""

    def __post_init__(self) -> None:
        checks.fields(self)
        envs.check(levels=self.levels)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Answers drawn through a policy's cache against reading everything so far again for every token."""

    policies: tuple[Literal["transformer", "gru"], ...] = ("transformer", "gru")
    """Sequence policies, one benchmark each."""
    batch: Annotated[int, COUNT] = 64
    """Answers that are drawn side by side."""
    length: Annotated[int, COUNT] = 64
    """Tokens of an answer."""
    prompt_length: Annotated[int, COUNT] = 8
    """Tokens of a prompt."""
    num_tokens: Annotated[int, COUNT] = 32
    """Size of the vocabulary."""
    width: Annotated[int, WIDTH] = 64
    """Width of the policies."""
    layers: Annotated[int, COUNT] = 2
    """Layers of the transformer."""
    repeats: Annotated[int, COUNT] = 5
    """Timed calls of each program, taken in turns."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class Optimizers:
    """One PPO update of an agent that follows a learned optimizer, against the same with Adam."""

    levels: tuple[str, ...] = ("CartPole-v1",)
    """Distributions of levels, one benchmark each."""
    sizes: tuple[Annotated[int, COUNT], ...] = (64, 64)
    """Hidden layers of the agent's networks."""
    num_envs: Annotated[int, COUNT] = 64
    """Environments of the agent."""
    rollout_length: Annotated[int, COUNT] = 128
    """Environment steps between two agent updates."""
    epochs: Annotated[int, COUNT] = 4
    """Passes over each rollout."""
    minibatches: Annotated[int, COUNT] = 8
    """Parts that each pass is cut into, with an update for each."""
    repeats: Annotated[int, COUNT] = 10
    """Timed calls of each program, taken in turns."""

    def __post_init__(self) -> None:
        checks.fields(self)
        envs.check(levels=self.levels)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Meta-steps of LPG with many members of a sweep at once, against those of one run."""

    levels: tuple[str, ...] = ("gridworld/small",)
    """Distributions of levels, one benchmark each."""
    members: tuple[Annotated[int, COUNT], ...] = (1, 4, 16, 64)
    """How many runs go side by side, with a program for each number. The first is what the others are compared with."""
    sweep_batch: Annotated[int, COUNT_OR_ZERO] = 1
    """Members that go side by side at a time on each device (0: all)."""
    num_lifetimes: Annotated[int, COUNT] = 32
    """Agents of each run."""
    meta_steps: Annotated[int, COUNT] = 1
    """Meta-steps in one compiled call."""
    repeats: Annotated[int, COUNT] = 5
    """Timed calls of each program, taken in turns."""

    def __post_init__(self) -> None:
        checks.fields(self)
        envs.check(levels=self.levels)
        if not self.members:
            raise ValueError("members must have at least one number")


@dataclasses.dataclass(frozen=True)
class MetaGradients:
    """A meta-step with each way to compute the meta-gradient by backpropagation, and the memory that it takes."""

    objectives: tuple[LearnedObjective, ...] = ("lpg",)
    """Learned objectives, one benchmark each."""
    levels: str = "gridworld/small"
    """Distribution of levels: any name that envs.make accepts."""
    agent_width: Annotated[int, COUNT_OR_ZERO] = 0
    """Width of the hidden layers of the agents' networks (0: the network of their family of environments)."""
    agent_layers: Annotated[int, COUNT] = 2
    """How many hidden layers of `agent_width` they have."""
    hidden: Annotated[int, WIDTH] = lpg.PRESETS["quick"].rule.hidden
    """Width of the meta-network."""
    num_lifetimes: Annotated[int, COUNT] = lpg.PRESETS["quick"].estimator.num_lifetimes
    """Agents that live side by side."""
    num_envs: Annotated[int, COUNT] = lpg.PRESETS["quick"].agents.num_envs
    """Environments of each agent."""
    rollout_length: Annotated[int, COUNT] = lpg.PRESETS["quick"].agents.rollout_length
    """Environment steps between two agent updates."""
    updates: Annotated[int, COUNT] = lpg.PRESETS["quick"].estimator.updates
    """Agent updates that the meta-gradient flows through (K)."""
    repeats: Annotated[int, COUNT] = 5
    """Timed calls of each program, taken in turns."""

    def __post_init__(self) -> None:
        checks.fields(self)
        envs.check(levels=self.levels)
        if not self.agent_width:
            parts.refuse_inert(self, ("agent_layers",), "without agent_width")


@dataclasses.dataclass(frozen=True)
class Memory:
    """An A2C update of an agent with a memory, whose network reads the rollout at once, or step by step."""

    networks: tuple[Literal["transformer", "gru", "lstm"], ...] = ("transformer", "gru", "lstm")
    """Networks with a memory, one benchmark each."""
    num_envs: Annotated[int, COUNT] = 16
    """Environments of the agent (CartPole)."""
    rollout_length: Annotated[int, COUNT] = 100
    """Environment steps of the rollout."""
    width: Annotated[int, WIDTH] = 64
    """Width of the networks."""
    window: Annotated[int, SEVERAL] = 100
    """Steps that the transformer sees."""
    repeats: Annotated[int, COUNT] = 10
    """Timed calls of each program, taken in turns."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if "transformer" not in self.networks:
            parts.refuse_inert(self, ("window",), "without the transformer")


@dataclasses.dataclass(frozen=True)
class Trials:
    """PPO updates of an agent with a memory in trials, against the same agent in the episodes themselves."""

    levels: tuple[str, ...] = ("bandit/bernoulli", "mdp/random", "gridworld/small")
    """Distributions of tasks, one benchmark each."""
    episodes: Annotated[int, COUNT] = 5
    """Episodes of a trial."""
    num_envs: Annotated[int, COUNT] = 64
    """Environments of the agent."""
    rollout_length: Annotated[int, COUNT] = 100
    """Environment steps between two updates."""
    epochs: Annotated[int, COUNT] = 4
    """Passes over each rollout."""
    width: Annotated[int, WIDTH] = 64
    """Width of the agent's GRUs."""
    repeats: Annotated[int, COUNT] = 10
    """Timed calls of each program, taken in turns."""

    def __post_init__(self) -> None:
        checks.fields(self)
        envs.check(levels=self.levels)


@dataclasses.dataclass(frozen=True)
class Agents:
    """PPO agents against a plain PPO in one file (`experiments/plain_ppo.py`) with the same settings and networks."""

    levels: tuple[str, ...] = ("Breakout-MinAtar",)
    """Environments with discrete actions and one level, one benchmark each."""
    network: Literal["mlp", "minatar_conv"] = "mlp"
    """The agents' networks."""
    num_seeds: tuple[Annotated[int, COUNT], ...] = (1, 4, 16)
    """How many agents learn side by side, with two programs for each number."""
    num_envs: Annotated[int, COUNT] = 64
    """Environments of each agent."""
    rollout_length: Annotated[int, COUNT] = 128
    """Environment steps between two updates."""
    epochs: Annotated[int, COUNT] = 4
    """Passes over each rollout."""
    minibatches: Annotated[int, COUNT] = 8
    """Parts that each pass is cut into, with a gradient step for each."""
    learning_rate: Annotated[float, RATE] = 1e-3
    """Adam's learning rate."""
    target: Annotated[float, RETURN] = 5.0
    """Mean return over the agents, of episodes that ended in the last rollout, at which a time is taken."""
    repeats: Annotated[int, COUNT] = 10
    """Timed updates of each program, taken in turns."""

    def __post_init__(self) -> None:
        checks.fields(self)
        envs.check(levels=self.levels)
        if not self.num_seeds:
            raise ValueError("num_seeds must have at least one number")
        if len(set(self.num_seeds)) < len(self.num_seeds):
            raise ValueError(f"num_seeds must be different, got {self.num_seeds}")


def time_side_by_side(
    programs: dict[str, tuple[Callable[..., Any], Any]],
    repeats: int,
    watch: Callable[[str, Any], None] = lambda name, result: None,
) -> dict[str, dict[str, Any]]:
    """Seconds of each program `name: (function, argument)`: to compile, and min and median of `repeats` runs.

    `min_cpu_seconds` and `median_cpu_seconds` are of all threads of this process: on a machine that others use, too,
    they say more than the time that passes.
    `temporary_mib` is the memory in MiB that a program takes beside its argument and result, as the compiler plans it.
    The runs take turns, so that what slows the machine down for a while slows all of them. A function's
    result is its next argument. `watch` sees the name and the result of each run, also of a first that is not timed.
    """
    compiled, arguments, results = {}, {}, {}
    for name, (function, argument) in programs.items():
        start = time.perf_counter()
        compiled[name] = jax.jit(function).lower(argument).compile()
        results[name] = {"compile_seconds": time.perf_counter() - start}
        planned = compiled[name].memory_analysis()  # None where the compiler does not say
        results[name]["temporary_mib"] = planned.temp_size_in_bytes / 2**20 if planned else float("nan")
        arguments[name] = jax.block_until_ready(compiled[name](argument))
        watch(name, arguments[name])
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, function in compiled.items():
            started = {unit: clock() for unit, clock in CLOCKS.items()}
            arguments[name] = jax.block_until_ready(function(arguments[name]))
            taken[name].append({unit: clock() - started[unit] for unit, clock in CLOCKS.items()})
            watch(name, arguments[name])
    for name, runs in taken.items():
        for unit in CLOCKS:
            of = [run[unit] for run in runs]
            results[name] |= {f"min_{unit}": min(of), f"median_{unit}": statistics.median(of)}
    return results


def products(rows: int, hidden: int, steps: int) -> tuple[Callable[..., Any], Any]:
    """The matrix products of `steps` steps of a GRU of width `hidden` on `rows` sequences, forwards and backwards."""
    keys = jax.random.split(jax.random.key(0), 3)
    kernel = jax.random.normal(keys[0], (hidden, 3 * hidden)) / hidden**0.5
    state, gradient = jax.random.normal(keys[1], (rows, hidden)), jax.random.normal(keys[2], (rows, 3 * hidden))

    def run(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        def step(carry: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
            state, gradient, total = carry
            gates = state @ kernel  # forwards
            flowing = gradient @ kernel.T  # backwards to the state
            total = total + state.T @ gradient  # backwards to the kernel
            return (0.5 * (gates[:, :hidden] + flowing), gates, total), None  # of order one for ever

        return jax.lax.scan(step, carry, None, steps)[0]

    return run, (state, gradient, jnp.zeros_like(kernel))


def forward_products(rows: int, hidden: int, steps: int) -> tuple[Callable[..., Any], Any]:
    """The matrix products of `steps` steps of one GRU of width `hidden` on `rows` sequences, forwards only."""
    keys = jax.random.split(jax.random.key(0))
    # orthogonal, so that the state is of order one for ever
    kernel = jnp.concatenate([jax.random.orthogonal(key, hidden) for key in jax.random.split(keys[0], 3)], 1)

    def run(state: Array) -> Array:
        return jax.lax.fori_loop(0, steps, lambda _, state: (state @ kernel)[:, :hidden], state)

    return run, jax.random.normal(keys[1], (rows, hidden))


def meta_steps(meta: Meta, count: int, state: MetaState) -> MetaState:
    """`count` meta-steps from `state`."""

    def step(state: MetaState, _: None) -> tuple[MetaState, None]:
        return meta.step(state, jax.random.fold_in(jax.random.key(0), state.step))[0], None

    return jax.lax.scan(step, state, None, count)[0]


def benchmark_lpg(config: LPG, name: str) -> dict[str, Any]:
    """Times of one distribution of levels; environment steps are those of all lifetimes."""
    levels = envs.make(name)
    settings = {k: getattr(config, k) for k in ("num_lifetimes", "num_envs", "rollout_length", "updates", "hidden")}
    meta = lpg.EXPERIMENT.make(replace(lpg.Config(), levels=name, **settings))
    env = levels.environment
    agent = rollout.model(env, build_part("network", family(name, env).network), {"y": 8})
    length = config.rollout_length * (config.updates + 1)  # the last rollout judges the updated agent
    key = jax.random.key(0)

    def act(act_once: Callable[[rollout.Actors, Any, Key], rollout.Actors], carry: Any) -> Any:
        """Nothing but acting, for as many steps as `meta_steps` takes."""

        def step(carry: Any, _: None) -> tuple[Any, None]:
            actors, problems, key = carry
            key, step_key = jax.random.split(key)
            keys = jax.random.split(step_key, (config.num_lifetimes, config.num_envs + 1))
            actors = jax.vmap(act_once)(actors, problems, keys)
            return (actors, problems, key), None

        return jax.lax.scan(step, carry, None, config.meta_steps * length)[0]

    def with_policy(actors: rollout.Actors, problem: Any, keys: Key) -> rollout.Actors:
        return rollout.act(env, agent, params, actors, problem, keys)[0]

    def at_random(actors: rollout.Actors, problem: Any, keys: Key) -> rollout.Actors:
        actions = jax.vmap(env.action_space(problem).sample)(keys[1:])
        obs, state, *_ = jax.vmap(env.step, (0, 0, 0, None))(keys[1:], actors.state, actions, problem)
        return actors._replace(obs=obs, state=state)

    params = agent.network.init(key)
    start = jax.jit(meta.init)(key)
    acting = (start.lifetimes.actors, start.lifetimes.level.problem, key)
    rows, steps = config.num_lifetimes * config.num_envs, config.rollout_length * config.updates * config.meta_steps
    times = time_side_by_side(
        {
            "meta_step": (partial(meta_steps, meta, config.meta_steps), start),
            "environments": (partial(act, at_random), acting),
            "environments_and_policy": (partial(act, with_policy), acting),
            "meta_network_products": products(rows, config.hidden, steps),
        },
        config.repeats,
    )
    for program, result in times.items():
        for which in TIMES:
            result[which] /= config.meta_steps
        if program != "meta_network_products":
            result["env_steps_per_second"] = rows * length / result["min_seconds"]

    def ratio(of: str, to: str) -> float:
        return times[of]["min_seconds"] / times[to]["min_seconds"]

    return {
        "levels": name,
        **times,
        "ratios": {
            "meta_step / meta_network_products": ratio("meta_step", "meta_network_products"),
            "meta_step / environments_and_policy": ratio("meta_step", "environments_and_policy"),
            "environments_and_policy / environments": ratio("environments_and_policy", "environments"),
        },
        "peak_memory_mib": _peak_memory(),
    }


def benchmark_es(config: ES, name: str) -> dict[str, Any]:
    """Times of one distribution of levels: every member of the population lives one whole lifetime."""
    levels = envs.make(name)
    settings = {
        k: getattr(config, k) for k in ("num_pairs", "num_envs", "rollout_length", "hidden", "batch_size", "rank")
    }
    key = jax.random.key(0)
    drawn = jax.vmap(levels.sample)(jax.random.split(key, config.num_pairs))
    longest = int(drawn.horizon.max())
    run = replace(lpg.EvolutionConfig(), levels=name, longest_life=longest, devices=config.devices, **settings)
    inner = meta_training.inner_loop(lpg.OBJECTIVES, run, levels)
    meta_params = inner.init_meta(key)
    newborn = jax.jit(jax.vmap(inner.init))(jax.random.split(key, config.num_pairs), drawn)
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), newborn)

    def population(estimator: Estimator) -> tuple[Callable[[Any], Any], tuple[Any, Any, Key]]:
        """What an estimate takes: the population, its gradient, and the choice between members."""

        def estimated(state: tuple[Any, Any, Key]) -> tuple[Any, Any, Key]:
            estimate, _, key = state
            key, now = jax.random.split(key)
            _, estimate, kept, _ = estimator.estimate(inner, meta_params, estimate, newborn, now)
            return estimate, kept, key

        return estimated, (estimator.init(meta_params, newborn), newborn, key)

    def plain(placement: Placement) -> Callable[[Key], Key]:
        """As many lifetimes, all under the same meta-parameters."""

        def lives(key: Key) -> Key:
            def one(meta_params: MetaParams, x: tuple[Any, Key]) -> Array:
                return live(inner, meta_params, *x, longest).fitness

            keys = jax.random.split(key, 2 * config.num_pairs)
            fitness = placement.balanced_map(one, meta_params, (twice, keys), twice.level.horizon)
            return _depends_on(key, fitness)

        return lives

    devices = dividing(config.num_pairs, config.devices)
    members, updates = 2 * config.num_pairs, 2 * int(drawn.horizon.sum())
    full = replace(run, rank=0).estimator.make(longest)
    normal_noise = {"population_of_normal_noise": population(full)} if config.rank else {}
    products = forward_products(members * config.num_envs, config.hidden, config.rollout_length * updates // members)
    times = time_side_by_side(
        {
            "population": population(run.estimator.make(longest)),
            **normal_noise,
            "plain_lifetimes": (plain(Placement(devices, 2 * config.batch_size)), key),
            "plain_lifetimes_in_one_batch": (plain(Placement()), key),
            "forward_products": products,
        },
        config.repeats,
    )
    flop = 2 * updates * config.num_envs * config.rollout_length * 3 * config.hidden**2
    others = ("plain_lifetimes", "plain_lifetimes_in_one_batch", "forward_products", *normal_noise)
    return {
        "levels": name,
        "agent_updates": updates,
        "longest_life": longest,
        "devices": len(devices or [None]),
        **times,
        "recurrence_gflop": flop / 1e9,
        "gflop_per_second": flop / 1e9 / times["population"]["min_seconds"],
        "ratios": {
            f"population / {other}": times["population"]["min_seconds"] / times[other]["min_seconds"]
            for other in others
        },
        "peak_memory_mib": _peak_memory(),
    }


def benchmark_groove(config: GROOVE, name: str) -> dict[str, Any]:
    """Times of one distribution of levels, per meta-step."""
    settings = {k: getattr(config, k) for k in ("num_lifetimes", "num_envs", "rollout_length", "hidden")}
    programs: dict[str, tuple[Callable[..., Any], Any]] = {}
    for score in ("uniform", *config.scores):
        meta = groove.EXPERIMENT.make(replace(lpg.Config(), levels=name, score=score, **settings))
        programs[score] = partial(meta_steps, meta, config.meta_steps), jax.jit(meta.init)(jax.random.key(0))
    times = time_side_by_side(programs, config.repeats)
    for result in times.values():
        for which in TIMES:
            result[which] /= config.meta_steps
    ratios = {
        f"{score} / uniform": times[score]["min_seconds"] / times["uniform"]["min_seconds"] for score in config.scores
    }
    return {"levels": name, **times, "ratios": ratios, "peak_memory_mib": _peak_memory()}


def benchmark_tokens(config: Tokens, name: str) -> dict[str, Any]:
    """Times of one policy."""
    if name == "transformer":
        longest = config.prompt_length + config.length
        policy = policies.transformer(config.num_tokens, config.width, config.layers, max_length=longest)
    else:
        policy = policies.gru(config.num_tokens, config.width)
    prompts = jax.random.randint(jax.random.key(1), (config.batch, config.prompt_length), 0, config.num_tokens)

    def cached(state: tuple[Any, Key]) -> tuple[Any, Key]:
        params, key = state
        answers = policies.sample(policy, params, prompts, key, config.length, end=0)
        return params, _depends_on(key, answers.log_prob + answers.entropy)

    def recomputed(state: tuple[Any, Key]) -> tuple[Any, Key]:
        """What one writes first: a pass over prompt and answer, as long as they will ever be, for every token."""
        params, key = state

        def step(tokens: Array, x: tuple[Array, Key]) -> tuple[Array, Array]:
            i, key = x
            logits = jax.vmap(policy.apply, (None, 0))(params, tokens)[:, i - 1]
            drawn = jax.random.categorical(key, logits)
            log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), drawn[:, None], axis=1)
            return tokens.at[:, i].set(drawn), log_prob

        tokens = jnp.pad(prompts, ((0, 0), (0, config.length)))
        places = config.prompt_length + jnp.arange(config.length)
        log_prob = jax.lax.scan(step, tokens, (places, jax.random.split(key, config.length)))[1]
        return params, _depends_on(key, log_prob)

    start = (jax.jit(policy.init)(jax.random.key(0)), jax.random.key(2))
    times = time_side_by_side({"cached": (cached, start), "recomputed": (recomputed, start)}, config.repeats)
    for result in times.values():
        result["tokens_per_second"] = config.batch * config.length / result["min_seconds"]
    ratio = times["cached"]["tokens_per_second"] / times["recomputed"]["tokens_per_second"]
    return {
        "policy": name,
        "parameters": sum(x.size for x in jax.tree.leaves(start[0])),
        **times,
        "ratios": {"tokens per second, cached / recomputed": ratio},
        "peak_memory_mib": _peak_memory(),
    }


def _depends_on(key: Key, values: Array) -> Key:
    """A key that cannot be had without `values`: what is not used is not computed."""
    return jax.random.fold_in(key, (1e6 * values.sum()).astype(jnp.int32))


def benchmark_optimizers(config: Optimizers, name: str) -> dict[str, Any]:
    """Times of one environment's agents."""
    levels, key = envs.make(name), jax.random.key(0)
    kinds: dict[str, Any] = {
        "adam": optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-3)),
        "schedule": optimizers.schedule(),
        "no_features": optimizers.no_features(),
        "adafac": optimizers.adafac(),
        "open_feedforward": optimizers.open_rl(hidden=0),
        "open": optimizers.open_rl(),
    }
    programs: dict[str, tuple[Callable[..., Any], Any]] = {}
    count = 0
    for kind, optimizer in kinds.items():
        experience = Experience(config.num_envs, config.rollout_length, config.epochs, config.minibatches)
        inner = rl_inner_loop(levels.environment, networks.mlp(config.sizes), objectives.ppo(), optimizer, experience)
        meta_params = jax.jit(inner.init_meta)(key)

        def update(state: tuple[Any, Any, Key], inner: InnerLoop = inner) -> tuple[Any, Any, Key]:
            meta_params, lifetime, key = state
            lifetime = inner.step(meta_params, lifetime, key).lifetime
            return meta_params, lifetime, jax.random.fold_in(key, lifetime.step)

        lifetime = jax.jit(inner.init)(key, levels.sample(key))
        programs[kind], count = (
            (update, (meta_params, lifetime, key)),
            sum(x.size for x in jax.tree.leaves(lifetime.params)),
        )
    times = time_side_by_side(programs, config.repeats)
    adam = times["adam"]["min_seconds"]
    return {
        "levels": name,
        "parameters": count,
        "updates": config.epochs * config.minibatches,
        **times,
        "ratios": {
            f"PPO with {kind} / with adam": times[kind]["min_seconds"] / adam for kind in kinds if kind != "adam"
        },
        "peak_memory_mib": _peak_memory(),
    }


def benchmark_sweep(config: Sweep, name: str) -> dict[str, Any]:
    """Times of one distribution of levels; each member has a learning rate of its own."""
    run = replace(lpg.PRESETS["quick"], levels=name, num_lifetimes=config.num_lifetimes)
    programs: dict[str, tuple[Callable[..., Any], Any]] = {}
    for count in config.members:
        meta = side_by_side(
            lambda rate: lpg.EXPERIMENT.make(with_values(run, {"learning_rate": rate})),
            jnp.full(count, run.optimizer.learning_rate),
            Placement(dividing(count), config.sweep_batch or None),
        )

        def steps(state: MetaState, meta: Meta = meta) -> MetaState:
            def step(i: Array, state: MetaState) -> MetaState:
                return meta.step(state, jax.random.fold_in(jax.random.key(1), state.step))[0]

            return jax.lax.fori_loop(0, config.meta_steps, step, state)

        programs[f"{count} members"] = (steps, jax.jit(meta.init)(jax.random.key(0)))
    times = time_side_by_side(programs, config.repeats)
    per_update = run.estimator.num_lifetimes * run.agents.num_envs * run.agents.rollout_length
    one = per_update * (run.estimator.updates + 1) * config.meta_steps
    first = config.members[0]
    speed = {count: count * one / times[f"{count} members"]["min_seconds"] for count in config.members}
    return {
        "levels": name,
        **times,
        "environment steps per second": {f"{count} members": x for count, x in speed.items()},
        "ratios": {f"throughput of {n} members / of {first}": speed[n] / speed[first] for n in config.members[1:]},
        "peak_memory_mib": _peak_memory(),
    }


def benchmark_metagradients(config: MetaGradients, name: str) -> dict[str, Any]:
    """Times and memory of one learned objective; its agents follow Adam."""
    levels = envs.make(config.levels)
    kind, sizes = family(config.levels, levels.environment), (config.agent_width,) * config.agent_layers
    learner = build(
        {
            "objective": {"name": name, "hidden": config.hidden},
            "optimizer": {"name": "adam", "learning_rate": kind.learning_rate, "max_norm": 0.5},
            "network": {"name": "mlp", "sizes": sizes} if any(sizes) else kind.network,
            "experience": {"num_envs": config.num_envs, "rollout_length": config.rollout_length},
        }
    )
    inner = learner.inner_loop(levels.environment, critic=metarl.Critic(build_part("optimizer", kind.critic)))
    ways = {"plain": (False, False), "remat": (True, False), "mixed": (False, True), "both": (True, True)}
    programs: dict[str, tuple[Callable[..., Any], Any]] = {}
    for way, (remat, mixed) in ways.items():
        estimator = estimators.backprop(config.updates, remat=remat, mixed=mixed)
        meta = metarl.compose(inner, estimator, optax.adam(1e-3), curricula.uniform(levels), config.num_lifetimes)
        programs[way] = partial(meta_steps, meta, 1), jax.jit(meta.init)(jax.random.key(0))
    times = time_side_by_side(programs, config.repeats)

    def ratios(what: str) -> dict[str, float]:
        return {f"{way} / plain": times[way][what] / times["plain"][what] for way in ways if way != "plain"}

    agents = programs["plain"][1].lifetimes.params
    return {
        "objective": name,
        "agent_parameters": sum(x.size for x in jax.tree.leaves(agents)) // config.num_lifetimes,
        **times,
        "ratios": {"time": ratios("min_seconds"), "temporary memory": ratios("temporary_mib")},
        "peak_memory_mib": _peak_memory(),
    }


def benchmark_memory(config: Memory, name: str) -> dict[str, Any]:
    """Times of one network."""
    env, key = envs.make("CartPole-v1").environment, jax.random.key(0)
    options = {"width": config.width, "window": config.window} if name == "transformer" else {"size": config.width}
    objective, progress = objectives.a2c(), Progress(jnp.int32(0), jnp.int32(1))
    agent = rollout.model(env, build_part("network", {"name": name, **options}), objective.outputs)
    params = jax.jit(agent.network.init)(key)

    @jax.jit
    def played(key: Key) -> rollout.Rollout:
        actors = rollout.reset(env, agent, env.default_params, key, config.num_envs)
        return rollout.rollout(env, agent, params, actors, env.default_params, key, config.rollout_length)[1]

    def learn(model: rollout.Model, state: tuple[Any, rollout.Rollout]) -> tuple[Any, rollout.Rollout]:
        params, data = state
        targets, *_ = objective.targets((), (), params, model, data, progress)
        gradient, _ = jax.grad(objective.loss, argnums=1, has_aux=True)((), params, model, data, targets, progress)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient), data

    stepwise = agent._replace(network=agent.network._replace(unroll=None))
    state = (params, played(key))
    times = time_side_by_side(
        {"at_once": (partial(learn, agent), state), "step_by_step": (partial(learn, stepwise), state)}, config.repeats
    )
    for result in times.values():
        result["steps_per_second"] = config.num_envs * config.rollout_length / result["min_seconds"]
    ratio = times["at_once"]["steps_per_second"] / times["step_by_step"]["steps_per_second"]
    return {
        "network": name,
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        **times,
        "ratios": {"steps per second, at once / step by step": ratio},
        "peak_memory_mib": _peak_memory(),
    }


def benchmark_trials(config: Trials, name: str) -> dict[str, Any]:
    """Times of one distribution of tasks."""
    experience, key = Experience(config.num_envs, config.rollout_length, config.epochs), jax.random.key(0)

    def program(levels: Levels) -> tuple[Callable[[Agent], Agent], Agent]:
        network, optimizer = networks.gru(config.width), optimizers.adam(1e-3)
        inner = rl_inner_loop(levels.environment, network, objectives.ppo(), optimizer, experience)
        newborn = jax.jit(lambda key: inner.init(key, levels.sample(key)))(key)
        return lambda agent: inner.step(inner.init_meta(key), agent, key).lifetime, newborn

    tasks = envs.make(name)
    programs = {"trials": program(envs.trials(tasks, episodes=config.episodes)), "episodes": program(tasks)}
    times = time_side_by_side(programs, config.repeats)
    for result in times.values():
        result["env_steps_per_second"] = experience.env_steps / result["min_seconds"]
    ratio = times["trials"]["env_steps_per_second"] / times["episodes"]["env_steps_per_second"]
    return {"levels": name, **times, "ratios": {"steps per second, trials / episodes": ratio}}


def benchmark_agents(config: Agents, name: str) -> dict[str, Any]:
    """Times of one environment. The time to the target is that of as many updates, each of the median time."""
    levels, sizes = envs.make(name), ("num_envs", "rollout_length", "epochs", "minibatches", "learning_rate", "network")
    run = replace(agent.Config(), env=name, **{size: getattr(config, size) for size in sizes})
    chosen = {**vars(run.agents), **vars(run.passes), **vars(run.rule)}
    settings = plain_ppo.Settings(**{option: chosen[option] for option in plain_ppo.Settings._fields})
    plain, key = plain_ppo.make(levels.environment, settings, config.network == "minatar_conv"), jax.random.key(0)
    programs: dict[str, tuple[Callable[..., Any], Any]] = {}
    for count in config.num_seeds:
        meta = agent.side_by_side(agent.inner_loop(run, levels), levels, count)

        def update(state: agent.State, meta: Meta = meta) -> agent.State:
            return meta.step(state, jax.random.fold_in(key, state.agents.step[0]))[0]

        programs[f"{count} agents"] = update, jax.jit(meta.init)(key)
        newborn = jax.jit(jax.vmap(plain.init))(jax.random.split(key, count))
        programs[f"{count} plain"] = jax.vmap(plain.update), newborn
    returns: dict[str, list[float]] = {program: [] for program in programs}
    times = time_side_by_side(
        programs, config.repeats, lambda program, state: returns[program].append(float(state.episode_return.mean()))
    )
    for program, result in times.items():
        reached = [update for update, value in enumerate(returns[program], 1) if value >= config.target]
        steps = int(program.split()[0]) * config.num_envs * config.rollout_length
        result["env_steps_per_second"] = steps / result["min_seconds"]
        result["env_steps_per_cpu_second"] = steps / result["min_cpu_seconds"]
        result["updates_to_target"] = min(reached, default=None)
        result["seconds_to_target"] = reached[0] * result["median_seconds"] if reached else None
        result["cpu_seconds_to_target"] = reached[0] * result["median_cpu_seconds"] if reached else None
        result["last_return"] = returns[program][-1]

    def ratios(what: str) -> dict[str, float]:
        return {f"{n} agents / plain": times[f"{n} agents"][what] / times[f"{n} plain"][what] for n in config.num_seeds}

    return {
        "levels": name,
        **times,
        "ratios": {
            "least time": ratios("min_seconds"),
            "median time": ratios("median_seconds"),
            "least CPU time": ratios("min_cpu_seconds"),
            "median CPU time": ratios("median_cpu_seconds"),
        },
        "peak_memory_mib": _peak_memory(),
    }


def _peak_memory() -> float:
    """MiB: of the accelerator where there is one, else of this process so far."""
    stats = jax.devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return round(peak / 2**20, 1)


BENCHMARKS: dict[type, Callable[[Any, str], dict[str, Any]]] = {
    LPG: benchmark_lpg,
    ES: benchmark_es,
    GROOVE: benchmark_groove,
    Tokens: benchmark_tokens,
    Optimizers: benchmark_optimizers,
    Sweep: benchmark_sweep,
    MetaGradients: benchmark_metagradients,
    Memory: benchmark_memory,
    Trials: benchmark_trials,
    Agents: benchmark_agents,
}
SUBJECTS = {
    Tokens: "policies",
    MetaGradients: "objectives",
    Memory: "networks",
}  # options with one benchmark each; of others, `levels`


def main(argv: list[str] | None = None) -> None:
    with cli.clean_exit():
        config = cli.subcommands({kind.__name__.lower(): kind for kind in BENCHMARKS}, __doc__, argv)
        if isinstance(config, ES | Sweep):
            one_device_per_core()
        names = getattr(config, SUBJECTS.get(type(config), "levels"))
        benchmarks = [BENCHMARKS[type(config)](config, name) for name in names]
        result = {"configuration": dataclasses.asdict(config), **circumstances(), "benchmarks": benchmarks}
        print(json.dumps(jax.tree.map(lambda x: float(f"{x:.4g}") if isinstance(x, float) else x, result), indent=2))


if __name__ == "__main__":
    main()
