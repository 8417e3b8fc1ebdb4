"""How to learn from one reward at the end of a long instruction: warm starts and generated goals (QWeb).

python -m experiments.qweb                  # instructions of three items in a minute
python -m experiments.qweb --preset full    # of three to six items

Agents collect the items of an instruction in its order, and only the last one pays (`envs.errands`). Two mechanisms of
Gur et al. 2019 (arXiv 1812.09195) help them, each by itself or both:

- `warm`: with a probability that falls from 1 to 0, a random number of the first sub-goals is done at a reset.
- `generated`: what a random policy collects becomes an instruction, which its walk fulfils. Half of each batch is drawn
  from such walks, and pays the gain of the potential, too: the share of the instruction that is done.

Other arms ask what the potential does: `hindsight` is `generated` without it, and in `dense` all that the agent does is
paid so, not the walks alone. `none` has no help. All agents are DQN with equally many steps and updates. Those of one
seed have the same first network, random numbers, places of items and walks. The measure is the success of the greedy
policy on instructions that no agent has learned from, and differences are within seeds.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from envs import errands
from envs.errands import Errands, ErrandsParams, ErrandsState
from experiments import cli, parts
from metarl import checks, plot
from metarl.checks import COUNT, SEED, SEVERAL, Bound
from metarl.evaluation import tables as printed
from metarl.evaluation.held_out import HELD_OUT
from metarl.evaluation.statistics import Interval, over_points, over_runs, verdict
from metarl.rl import dqn
from metarl.rl.dqn import Replay, Transition
from metarl.rl.networks import Network, mlp
from metarl.run.files import circumstances, write_json
from metarl.run.options import flatten
from metarl.tree import select
from metarl.types import Array, Key

ArmName = Literal["none", "warm", "generated", "warm_generated", "hindsight", "warm_hindsight", "dense"]
DISCOUNT = 0.95
BATCH = 32
ENVS = 16  # episodes side by side, each of which makes a step between two updates
CAPACITY = 16_000  # of the replay buffer
WIDTH = 64  # of two layers
RATE = 2e-3  # Adam's at the start; it falls to 0
LEAST_RANDOM = 0.1  # share of random actions; it falls from 1 to this in the first half or so
TESTS = 64  # new instructions at each measurement
RELEVANT = 0.02  # intervals within this count as no difference
LENGTHS = Bound(2, 6)  # of instructions
WALKS = Bound(50, 100_000)  # of fewer, none may collect an item


class Arm(NamedTuple):
    """Which mechanisms an agent has. Leaves [N] of N agents."""

    warm: Array | bool
    generated: Array | bool
    dense: Array | bool  # generated transitions have the gain of the potential
    dense_own: Array | bool  # so do the others


ARMS: Mapping[str, Arm] = {
    "none": Arm(False, False, False, False),
    "warm": Arm(True, False, False, False),
    "generated": Arm(False, True, True, False),
    "warm_generated": Arm(True, True, True, False),
    "hindsight": Arm(False, True, False, False),
    "warm_hindsight": Arm(True, True, False, False),
    "dense": Arm(False, True, True, True),
}
# Which differences are reported, if both arms are there.
PAIRS = (
    ("warm", "none"),
    ("generated", "none"),
    ("warm_generated", "none"),
    ("warm_generated", "warm"),
    ("warm_generated", "generated"),
    ("hindsight", "none"),
    ("hindsight", "warm"),
    ("hindsight", "generated"),
    ("dense", "generated"),
    ("dense", "hindsight"),
    ("warm_hindsight", "warm"),
    ("warm_hindsight", "hindsight"),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """DQN on errands with a sparse reward, with and without warm starts and generated goals."""

    directory: str = ""
    """Where the files go (default: a new folder under runs/)."""
    seed: Annotated[int, SEED] = 0
    """Seed of everything random."""
    arms: tuple[ArmName, ...] = ("none", "warm", "generated", "warm_generated")
    """Which mechanisms agents have."""
    lengths: tuple[Annotated[int, LENGTHS], ...] = (3,)
    """Items of an instruction."""
    num_seeds: Annotated[int, SEVERAL] = 5
    """Agents of each arm, side by side, each with its own places of items."""
    points: Annotated[int, COUNT] = 10
    """Measurements."""
    updates: Annotated[int, COUNT] = 1000
    """Updates before each of them."""
    walks: Annotated[int, WALKS] = 500
    """Walks of the random policy that goals are generated from, once before training."""

    def __post_init__(self) -> None:
        checks.fields(self)
        for name in ("arms", "lengths"):
            if not getattr(self, name):
                raise ValueError(f"{name} must have at least one value")
        if not any(ARMS[arm].generated for arm in self.arms):
            parts.refuse_inert(self, ("walks",), "without generated goals")


PRESETS = {
    "quick": Config(),
    "full": Config(arms=get_args(ArmName), lengths=(3, 4, 5, 6), points=20),
}


def generate(env: Errands, example: ErrandsParams, steps: int, walks: int, key: Key) -> Replay:
    """Transitions of random walks under the instructions that they fulfil, each with the gain of the potential.

    A walk has `steps` steps. What follows its last item is left out, and so are walks that fulfil a held-out
    instruction. `example` has the places of the items.
    """

    def walk(key: Key) -> tuple[Any, Array]:
        reset_key, key = jax.random.split(key)
        actions = jax.random.randint(key, (steps,), 0, env.num_actions)
        _, first = env.reset(reset_key, example)
        problem = errands.hindsight(env, example, first.cell, actions)

        def follow(now: Any, action: Array) -> tuple[Any, Any]:
            after, found, terminated, _ = step(env, key, now[0], action, problem)
            return (after, now[1] & ~terminated), (found, now[1])

        (_, unfinished), (found, before_end) = jax.lax.scan(
            follow, (env.reset(reset_key, problem), jnp.array(True)), actions
        )
        return found, before_end & ~unfinished & ~errands.held_out(problem.instruction)

    each = jax.vmap(walk)(jax.random.split(key, walks))
    found, usable = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), each)
    order = jnp.argsort(~usable)
    return Replay(jax.tree.map(lambda x: x[order], found), usable.sum())


def step(
    env: Errands, key: Key, episode: tuple[Array, ErrandsState], action: Array, problem: ErrandsParams
) -> tuple[tuple[Array, ErrandsState], tuple[Transition, Array], Array, Array]:
    """One step: (obs, state), (what DQN learns from it, the gain of the potential), terminated, truncated."""
    obs, state = episode
    new_obs, new_state, reward, terminated, truncated, info = env.step(key, state, action, problem)
    learned = Transition(obs, action, reward, DISCOUNT * (1.0 - terminated), info["final_observation"])
    gain = info["potential"] - errands.potential(problem, state.done)
    return (new_obs, new_state), (learned, gain), terminated, truncated


def success(env: Errands, network: Network, params: Any, problems: ErrandsParams, steps: int, key: Key) -> Array:
    """The share `() float32` of instructions, leaves [n, ...], that the greedy policy finishes in `steps` steps."""
    count = len(problems.done)
    obs, state = jax.vmap(env.reset)(jax.random.split(key, count), problems)

    def go(now: Any, unused: None) -> tuple[Any, None]:
        obs, state, running, reached = now
        action = dqn.action_values(network, params, obs).argmax(-1)
        keys = jax.random.split(key, count)  # only resets draw, and they come after the episode that is measured
        obs, state, reward, *ended, _ = jax.vmap(env.step)(keys, state, action, problems)
        return (obs, state, running & ~(ended[0] | ended[1]), reached | (running & (reward > 0))), None

    running = jnp.ones(count, bool)
    (*_, reached), _ = jax.lax.scan(go, (obs, state, running, ~running), None, steps)
    return reached.mean()


@functools.cache
def program(length: int, points: int, updates: int, walks: int) -> Any:
    """A compiled function: (arms [N], keys [seeds]) -> success [N, seeds, points] on new instructions."""
    env, steps, total = Errands(length=length), errands.STEPS * length, points * updates
    network = mlp((WIDTH, WIDTH))(env.observation_space(), {"action_values": env.num_actions})
    optimizer = optax.adam(optax.linear_schedule(RATE, 0.0, total))

    def life(arm: Arm, pool: Replay, layout: Array, key: Key) -> Array:
        levels = functools.partial(errands.distribution, length, layout=layout)
        tests = jax.vmap(levels(split="test").sample)(jax.random.split(jax.random.key(HELD_OUT), TESTS)).problem

        def begin(key: Key, warm: Array | float) -> tuple[ErrandsParams, tuple[Array, Any]]:
            level_key, key = jax.random.split(key)
            problem = levels(warm=warm, split="train").sample(level_key).problem
            return problem, env.reset(key, problem)

        def one(now: Any, i: Array) -> tuple[Any, None]:
            learner, replay, problem, episodes = now
            act_key, step_key, begin_key, own_key, pool_key = jax.random.split(jax.random.fold_in(key, i), 5)
            age = i / total
            action = dqn.act(network, learner.params, episodes[0], act_key, jnp.maximum(LEAST_RANDOM, 1.0 - 2.0 * age))
            keys = jax.random.split(step_key, ENVS)
            after, found, terminated, truncated = jax.vmap(functools.partial(step, env))(
                keys, episodes, action, problem
            )
            replay = dqn.add(replay, found)
            started = jax.vmap(begin, (0, None))(jax.random.split(begin_key, ENVS), arm.warm * (1.0 - age))
            problem, episodes = select(terminated | truncated, started, (problem, after))

            own, others = dqn.draw(replay, own_key, BATCH), dqn.draw(pool, pool_key, BATCH)
            is_other = arm.generated & (jnp.arange(BATCH) < BATCH // 2)
            batch, gain = select(is_other, others, own)
            dense = jnp.where(is_other, arm.dense, arm.dense_own)
            learner = dqn.update(network, optimizer, learner, batch._replace(reward=batch.reward + dense * gain))
            return (learner, replay, problem, episodes), None

        def point(now: Any, first: Array) -> tuple[Any, Array]:
            now, _ = jax.lax.scan(one, now, first + jnp.arange(updates))
            return now, success(env, network, now[0].params, tests, steps, jax.random.fold_in(key, first))

        begin_key, network_key = jax.random.split(jax.random.fold_in(key, total))
        started = jax.vmap(begin, (0, None))(jax.random.split(begin_key, ENVS), arm.warm * 1.0)
        replay = dqn.empty(jax.tree.map(lambda x: x[0], pool.data), CAPACITY)
        now = dqn.begin(network, optimizer, network_key), replay, *started
        return jax.lax.scan(point, now, updates * jnp.arange(points))[1]

    def of_seed(arms: Arm, key: Key) -> Array:
        layout_key, walk_key, key = jax.random.split(key, 3)
        layout = jax.random.bits(layout_key)
        example = errands.distribution(length, layout=layout).sample(key).problem
        pool = generate(env, example, steps, walks, walk_key)
        return jax.vmap(life, (0, None, None, None))(arms, pool, layout, key)

    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(jax.vmap(of_seed, (None, 0), 1), compiler_options=options)


def train(config: Config, length: int) -> dict[str, np.ndarray]:
    """Success of the agents of each arm [seeds, points] on new instructions of `length` items."""
    arms = jax.tree.map(lambda *x: jnp.array(x), *(ARMS[name] for name in config.arms))
    keys = jax.random.split(jax.random.key(config.seed), config.num_seeds)
    found = program(length, config.points, config.updates, config.walks)(arms, keys)
    return dict(zip(config.arms, np.asarray(found), strict=True))


def report(config: Config, found: Mapping[int, Mapping[str, np.ndarray]], directory: Path) -> dict[str, Any]:
    """Prints and draws the success of all arms, for instructions of each length."""
    measures = {"at the end": lambda x: x[:, -1], "mean over training": lambda x: x.mean(1)}
    results: dict[str, Any] = {}
    for measure, of in measures.items():
        rows: dict[str, dict[str, Interval]] = {
            arm: {f"{n} items": over_runs(of(x[arm])) for n, x in found.items()} for arm in config.arms
        }
        printed.show(rows, f"success on new instructions, {measure},", "arm")
        results[measure] = {x: {y: z._asdict() for y, z in row.items()} for x, row in rows.items()}
    pairs = [pair for pair in PAIRS if set(pair) <= set(config.arms)]
    rows_of_pairs: dict[str, dict[str, str]] = {}
    results["differences"] = {}
    for one, other in pairs:
        gains = {f"{n} items": over_runs((x[one] - x[other]).mean(1)) for n, x in found.items()}
        said = {n: verdict(gain, RELEVANT) for n, gain in gains.items()}
        name = f"{one} minus {other}"
        rows_of_pairs[name] = {n: f"{x.mean:+.3f} [{x.low:+.3f}, {x.high:+.3f}] {said[n]}" for n, x in gains.items()}
        results["differences"][name] = {n: {**gain._asdict(), "verdict": said[n]} for n, gain in gains.items()}
    if pairs:
        printed.show(rows_of_pairs, "mean over training, within seeds", "difference")
    steps = config.updates * ENVS * np.arange(1, config.points + 1)
    curves = {f"{n} items": {arm: (steps, *over_points(y)) for arm, y in x.items()} for n, x in found.items()}
    plot.save(plot.sample_efficiency(curves, "environment steps", "success"), directory / "curves.png")
    return results


def main(argv: list[str] | None = None) -> None:
    config = cli.parse(Config, PRESETS, argv)
    with cli.clean_exit(), cli.directory_of_runs(config, "qweb") as directory:
        results = report(config, {length: train(config, length) for length in config.lengths}, directory)
        write_json(directory / "results.json", {"config": flatten(config), "on": results, **circumstances()})
        print(f"results in {directory}", file=sys.stderr)


if __name__ == "__main__":
    main()
