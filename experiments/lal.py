"""Learn to ask: one policy that is minimax over classes of equally difficult problems (Learning to Actively Learn).

python -m experiments.lal                              # best of 5 arms with 20 pulls, small
python -m experiments.lal --preset best_arm
python -m experiments.lal --preset twenty_questions    # 32 hypotheses, 20 noisy answers

Three kinds of policies learn side by side from equally many episodes, with the same network:
- one for each class {C(theta) <= radius}, against the worst instances of this class,
- `lal`, against the instances on which its loss exceeds most what the policy of their class has at worst,
- `average`, on instances of the prior.

`lal` minimises max over k of (max over C(theta) <= r_k of loss(lal, theta) - the worst loss of the policy of class k).
Policies and instances follow policy gradients, and instances are projected to their class (Zhang et al. 2020, arXiv
2010.15382). The paper trains the policies of the classes first. Here they learn at the same time, and `lal` sees their
present loss. Instances are a part of the state and not a `Curriculum`, because what is worst for `lal` depends on other
policies.

At the end every policy meets an adversary of its own, which starts anew.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import launch, parts
from metarl import checks
from metarl.active.adversary import advantage, ascend, episodes, worst_case
from metarl.active.policies import Play, information_gain, learned, play, successive_halving
from metarl.active.problems import Problem, best_arm, project, twenty_questions
from metarl.checks import COUNT, POSITIVE, RATE, SEVERAL, WIDTH, Bound
from metarl.evaluation.held_out import HELD_OUT
from metarl.evaluation.statistics import over_runs
from metarl.meta import Meta
from metarl.run.checkpoint import Log
from metarl.run.options import replace
from metarl.types import Array, Key, Metrics, Params, PyTree

LOSS_DECAY = 0.9  # of the running mean of each instance's loss


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be found."""

    problem: Literal["best_arm", "twenty_questions"] = "best_arm"
    """The arm with the largest mean, or a hypothesis by questions of unknown reliability."""
    candidates: Annotated[int, Bound(2, 2**12)] = 5
    """Arms, or hypotheses."""
    questions: Annotated[int, COUNT] = 10
    """Questions that can be asked (twenty_questions only)."""
    budget: Annotated[int, COUNT] = 20
    """Noisy answers before a candidate must be named."""
    radii: tuple[Annotated[float, POSITIVE], ...] = (4.0, 16.0, 64.0)
    """The classes: each holds the instances of at most this complexity."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.problem == "best_arm":
            parts.refuse_inert(self, ("questions",), "with problem best_arm")
        if not self.radii:
            raise ValueError("radii must be at least one, got none")
        self.make()

    def make(self) -> Problem:
        if self.problem == "best_arm":
            return best_arm(self.candidates, self.budget)
        return twenty_questions(self.candidates, self.questions, self.budget)

    @property
    def baseline(self) -> tuple[str, Play]:
        """The classical policy for the problem, with its name."""
        problem = self.make()
        if self.problem == "best_arm":
            return "successive halving", partial(successive_halving, problem)
        return "information gain", partial(play, problem, information_gain(problem))


@dataclasses.dataclass(frozen=True)
class Learning:
    """How policies and adversaries learn."""

    num_seeds: Annotated[int, SEVERAL] = 5
    """Independent runs of everything, side by side."""
    width: Annotated[int, WIDTH] = 16
    """Of the policies' two layers."""
    instances: Annotated[int, COUNT] = 16
    """Instances of each class."""
    episodes: Annotated[int, SEVERAL] = 8
    """Episodes of each instance in each step."""
    learning_rate: Annotated[float, RATE] = 3e-3
    """Adam's, of the policies."""
    adversary_rate: Annotated[float, RATE] = 0.02
    """Adam's, of the instances."""
    sharpness: Annotated[float, POSITIVE] = 20.0
    """Instances count by softmax(sharpness loss): the greater, the closer to the maximum."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The adversaries at the end."""

    held_out_starts: Annotated[int, SEVERAL] = 32
    """Instances that each adversary starts from."""
    held_out_steps: Annotated[int, COUNT] = 100
    """Its steps."""
    held_out_episodes: Annotated[int, SEVERAL] = 32
    """Episodes of each instance in each of them."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class Config:
    """A minimax policy for active learning, against average-case training and a classical algorithm."""

    run: parts.Run = parts.Run(steps=400)
    task: Task = Task()
    learning: Learning = Learning()
    held_out: HeldOut = HeldOut()


PRESETS = {
    "quick": replace(Config(), steps=150, num_seeds=2, radii=(4.0, 64.0), held_out_starts=16, held_out_steps=50),
    "best_arm": Config(),
    "twenty_questions": replace(
        Config(),
        problem="twenty_questions",
        candidates=32,
        radii=(15.0, 30.0, 100.0),
        steps=200,
        held_out_starts=16,
        held_out_steps=50,
    ),
}


class Learner(NamedTuple):
    """One policy and its adversary with M instances."""

    policy: Params
    opt_state: PyTree
    theta: Array  # [M, X]
    ascent: PyTree  # state of the adversary's optimizer
    loss: Array  # [M], running means


class Class(NamedTuple):
    """What a learner is trained for."""

    radii: Array  # [M] complexity of each instance, at most
    minimax: Array  # () bool: instances count by their excess over what the policy of their class has at worst
    average: Array  # () bool: instances are drawn from the prior, and all count alike


def classes(config: Config) -> Class:
    """Of the learners: one for each of K radii, then `lal`, then `average`. Leaves [K + 2, ...]."""
    radii, count = jnp.array(config.task.radii), config.learning.instances
    each = jnp.repeat(radii, count)
    own = jnp.broadcast_to(radii[:, None], (len(radii), each.size))
    index = jnp.arange(len(radii) + 2)
    return Class(jnp.concatenate([own, jnp.stack([each, each])]), index == len(radii), index == len(radii) + 1)


def make(config: Config) -> Meta:
    """All learners of all seeds as one run; leaves of its state are [seeds, K + 2, ...]."""
    problem, options = config.task.make(), config.learning
    new, policy = learned(problem, options.width)
    descent, climb = optax.adam(options.learning_rate), optax.adam(options.adversary_rate)
    kinds, count = classes(config), len(config.task.radii)

    def draw(key: Key, size: int) -> Array:
        return jax.vmap(problem.sample)(jax.random.split(key, size))

    def newborn(key: Key, kind: Class) -> Learner:
        param_key, theta_key = jax.random.split(key)
        params = new(param_key)
        theta = jax.vmap(partial(project, problem))(draw(theta_key, kind.radii.size), kind.radii)
        return Learner(params, descent.init(params), theta, climb.init(theta), jnp.zeros(kind.radii.size))

    def weights(learner: Learner, kind: Class, bar: Array) -> Array:
        """[M], how much each instance counts; `bar` [M] is the worst loss of the policy of its class."""
        excess = learner.loss - jnp.where(kind.minimax, bar, 0.0)
        return jax.nn.softmax(jnp.where(kind.average, 0.0, options.sharpness) * excess)

    def learn(learner: Learner, kind: Class, bar: Array, key: Key) -> tuple[Learner, Array]:
        prior_key, key = jax.random.split(key)
        theta = jnp.where(kind.average, draw(prior_key, len(learner.theta)), learner.theta)
        weight = weights(learner, kind, bar)

        def objective(params: Params) -> tuple[Array, Any]:
            played = episodes(partial(play, problem, policy(params)), key, theta, options.episodes)
            by_score = jax.lax.stop_gradient(advantage(played.loss)) * played.log_prob
            return weight @ (played.loss + by_score).mean(1), played

        gradient, played = jax.grad(objective, has_aux=True)(learner.policy)
        updates, opt_state = descent.update(gradient, learner.opt_state)
        params = optax.apply_updates(learner.policy, updates)
        found = played.loss.mean(1)
        loss = LOSS_DECAY * learner.loss + (1.0 - LOSS_DECAY) * found
        theta, ascent = ascend(problem, climb, theta, learner.ascent, played, kind.radii)
        return Learner(params, opt_state, theta, ascent, loss), weight @ found

    def learn_all(learners: Learner, key: Key) -> tuple[Learner, Array]:
        """One step of the learners [K + 2] of one seed, and their losses [K + 2]."""
        own, kind = jax.tree.map(lambda x: x[:count], (learners, kinds))
        worst = (jax.vmap(weights)(own, kind, jnp.zeros_like(own.loss)) * own.loss).sum(1)
        bar = jnp.broadcast_to(jnp.repeat(worst, options.instances), learners.loss.shape)
        given = learners, kinds, bar, jax.random.split(key, count + 2)
        return jax.lax.map(lambda x: learn(*x), given)  # on CPUs twice as fast as side by side

    def init(key: Key) -> Learner:
        return jax.vmap(jax.vmap(newborn), (0, None))(jax.random.split(key, (options.num_seeds, count + 2)), kinds)

    def step(learners: Learner, key: Key) -> tuple[Learner, Metrics]:
        keys = jax.random.split(key, options.num_seeds)
        learners, losses = jax.lax.map(lambda x: learn_all(*x), (learners, keys))
        names = [*(f"loss_class_{i}" for i in range(count)), "loss_lal", "loss_average"]
        queries = losses.size * kinds.radii.shape[1] * options.episodes * problem.budget
        costs = {"env_steps": jnp.int32(queries), "agent_updates": jnp.int32(losses.size)}
        return learners, {**dict(zip(names, losses.T, strict=True)), "lifetime_loss": losses, **costs}

    return Meta(init, step)


def worst_losses(config: Config, policies: Params) -> dict[str, Array]:
    """The loss of each policy on the worst instance that its own adversary finds, {name: [seeds, K]}.

    `policies` [seeds, K + 2, ...] are those of the learners. "own" is that which was trained for the class.
    """
    problem, radii, options = config.task.make(), jnp.array(config.task.radii), config.held_out
    _, policy = learned(problem, config.learning.width)
    count, (name, classical) = len(radii), config.task.baseline

    def worst(play: Play, key: Key, radius: Array) -> Array:
        _, loss = worst_case(
            problem,
            play,
            key,
            radius,
            starts=options.held_out_starts,
            steps=options.held_out_steps,
            count=options.held_out_episodes,
            learning_rate=config.learning.adversary_rate,
        )
        return loss

    def one_seed(policies: Params, key: Key) -> dict[str, Array]:
        keys = jax.random.split(key, count)  # the same for all policies
        who = jnp.concatenate([jnp.full(count, count), jnp.full(count, count + 1), jnp.arange(count)])
        cases = jax.tree.map(lambda x: x[who], policies), jnp.tile(keys, 3), jnp.tile(radii, 3)
        found = jax.lax.map(lambda x: worst(partial(play, problem, policy(x[0])), *x[1:]), cases)
        losses = dict(zip(("lal", "average", "own"), found.reshape(3, count), strict=True))
        return losses | {name: jax.lax.map(lambda x: worst(classical, *x), (keys, radii))}

    keys = jax.random.split(jax.random.key(HELD_OUT), config.learning.num_seeds)
    return jax.jit(partial(jax.lax.map, lambda x: one_seed(*x)))((policies, keys))


def report(config: Config, state: Learner, log: Log, directory: Path) -> launch.Report:
    """Worst probability of error per class, and the largest excess over the policy of the class.

    Means over seeds with Student's 95 % intervals. Differences are within seeds.
    """
    losses = {name: np.asarray(x) for name, x in worst_losses(config, state.policy).items()}
    excess = {name: (x - losses["own"]).max(1) for name, x in losses.items() if name != "own"}
    rows = {
        f"{name}, C <= {radius:g}": over_runs(x[:, i])
        for i, radius in enumerate(config.task.radii)
        for name, x in losses.items()
    }
    rows |= {f"{name}, worst excess": over_runs(x) for name, x in excess.items()}
    for other in [name for name in excess if name != "lal"]:
        for i, radius in enumerate(config.task.radii):
            rows[f"lal minus {other}, C <= {radius:g}"] = over_runs((losses["lal"] - losses[other])[:, i])
        rows[f"lal minus {other}, worst excess"] = over_runs(excess["lal"] - excess[other])
    return {name: row._asdict() for name, row in rows.items()}


EXPERIMENT = launch.Experiment(
    "lal",
    make,
    curves=("loss_lal", "loss_average"),
    report=report,
    score="probability of a wrong answer in the worst case",
)


def main(argv: list[str] | None = None) -> None:
    launch.main(EXPERIMENT, Config, PRESETS, argv)


if __name__ == "__main__":
    main()
