"""The parts that configurations of experiments are made of: options, and what they `make()`.

A configuration is a frozen dataclass of these. On the command line its options are flat (`--learning-rate 1e-3`), and
an option that means nothing for an experiment is not there. A combination in which an option would change nothing is an
error. Parts that several experiments share have the same field name in all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, cast

import jax.numpy as jnp
import optax

import envs
import metarl
from metarl import checks, curricula, estimators, optimizers
from metarl.checks import COUNT, COUNT_OR_ZERO, FACTOR, NOT_NEGATIVE, POSITIVE, RATE, SEED, SHARE, Bound
from metarl.curricula import scores
from metarl.curricula.replay import Prioritisation
from metarl.estimators.es import Shaping
from metarl.inner.rl import ValueJudge
from metarl.meta import Curriculum, Estimator, InnerLoop
from metarl.parallel import Placement, training_devices
from metarl.types import Array, Levels

ScoreName = Literal["uniform", "frozen", "random", "regret", "optimal", "pvl", "l1", "maxmc", "learnability"]
LIFE = Bound(0, 2**30)  # lifetimes are drawn in float32, which would round longer ones past the largest integer


def refuse_inert(part: Any, names: Iterable[str], because: str, default: Any = None) -> None:
    """Raises ValueError for the first of the fields `names` that differs from its default: it would change nothing.

    `default` is the part as it is by default, if that is not `type(part)()`.
    """
    defaults = vars(default or type(part))
    for name in names:
        if getattr(part, name) != defaults[name]:
            value, own = getattr(part, name), defaults[name]
            raise ValueError(f"{name} has no effect {because}: leave it at {own!r}, got {value!r}")


@dataclasses.dataclass(frozen=True)
class Run:
    """How a run is carried out."""

    directory: str = ""
    """Where the run's files go (default: a new folder under runs/)."""
    seed: Annotated[int, SEED] = 0
    """Seed of everything random in the run."""
    steps: Annotated[int, COUNT] = 100
    """Meta-steps in all, those before a resume included."""
    chunk: Annotated[int, COUNT] = 10
    """Meta-steps between two looks at metrics and signals."""
    checkpoint_every: Annotated[int, COUNT] = 100
    """Meta-steps between checkpoints."""
    keep: Annotated[int, COUNT] = 3
    """How many checkpoints stay on disk."""
    resume: bool = False
    """Go on from the newest checkpoint in the directory."""
    resume_from: Annotated[int, COUNT_OR_ZERO] = 0
    """Go on from the checkpoint of this meta-step, for example because newer ones are damaged (0: as `resume` says).
    Newer ones are removed when the first new one is saved."""
    distributed: bool = False
    """This is one of several processes that share the run, its directory and the work of all their devices. They find
    each other by their cluster (Slurm, Open MPI, Kubernetes, TPU), or by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID."""
    tensorboard: bool = False
    """Also log to TensorBoard (needs the extra `tensorboard`)."""
    wandb: bool = False
    """Also log to Weights & Biases (needs the extra `wandb`)."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.resume_from:
            object.__setattr__(self, "resume", True)
        for name in ("resume", "distributed"):
            if getattr(self, name) and not self.directory:
                raise ValueError(f"{name} needs the directory of the run")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A grid of runs instead of one."""

    sweep: tuple[str, ...] = ()
    """The grid: FIELD=VALUE,VALUE,... for each field. Members that differ only in their seed and in numbers that the
    program takes as arrays run together in one compiled program."""
    sweep_seeds: Annotated[int, COUNT] = 1
    """Seeds of every member of the grid, from `seed` on."""
    sweep_by: str = ""
    """The metric by which members are compared, the more the better (default: fitness or episode_return; beware that
    the fitness of evolution is that of perturbed rules, which a greater sigma lowers)."""
    sweep_batch: Annotated[int, COUNT_OR_ZERO] = 0
    """Members that go side by side at a time on each device (0: one on CPUs, all on accelerators)."""

    @property
    def swept(self) -> list[str]:
        """The names of the fields of the grid."""
        return [text.partition("=")[0].replace("-", "_").strip() for text in self.sweep]

    def __post_init__(self) -> None:
        checks.fields(self)
        if not self.sweep:
            refuse_inert(self, ("sweep_seeds", "sweep_by", "sweep_batch"), "without sweep")


@dataclasses.dataclass(frozen=True)
class Distribution:
    """The levels that are trained on."""

    levels: str = "gridworld/small"
    """Distribution of levels: any name that envs.make accepts."""
    longest_life: Annotated[int, LIFE] = 0
    """Lifetime of an agent in updates (0: the distribution's own)."""
    shortest_life: Annotated[int, LIFE] = 0
    """Lifetimes are log-uniform from here to `longest_life` (0: all of them are as long)."""

    others: ClassVar[Collection[str]] = ()  # names that `levels` may have beside those that envs.make accepts

    def __post_init__(self) -> None:
        checks.fields(self)
        envs.check(self.others, levels=self.levels)
        if self.shortest_life and not self.longest_life:
            raise ValueError(f"shortest_life needs longest_life, got {self.shortest_life} without it")
        if self.shortest_life > self.longest_life:
            raise ValueError(
                f"shortest_life must be at most longest_life = {self.longest_life}, got {self.shortest_life}"
            )

    @property
    def lifetimes(self) -> int | tuple[int, int] | None:
        """Of agents, as `envs.make` takes them."""
        return (self.shortest_life, self.longest_life) if self.shortest_life else self.longest_life or None

    def make(self) -> Levels:
        return envs.make(self.levels, self.lifetimes)


@dataclasses.dataclass(frozen=True)
class Agents:
    """How agents collect experience."""

    num_envs: Annotated[int, COUNT] = 16
    """Environments of each agent."""
    rollout_length: Annotated[int, COUNT] = 20
    """Environment steps between two agent updates."""
    reward_scale: Annotated[float, POSITIVE] = 1.0
    """Factor on the rewards that agents learn from: returns far from 1 are slow to learn."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class Passes:
    """How often agents learn from each rollout."""

    epochs: Annotated[int, COUNT] = 1
    """Passes over each rollout."""
    minibatches: Annotated[int, COUNT] = 1
    """Parts that each pass is cut into, with a gradient step for each."""

    def __post_init__(self) -> None:
        checks.fields(self)


@dataclasses.dataclass(frozen=True)
class Backprop:
    """Meta-gradients by backpropagation through a few agent updates."""

    num_lifetimes: Annotated[int, COUNT] = 32
    """Agents that live side by side."""
    updates: Annotated[int, COUNT] = 5
    """Agent updates that the meta-gradient flows through (K)."""
    batch_size: Annotated[int, COUNT_OR_ZERO] = 0
    """Lifetimes that go through the meta-gradient at a time on each device (0: all); less memory, more time."""
    devices: Annotated[int, COUNT_OR_ZERO] = 1
    """Devices (of each process) that lifetimes are sharded over (0: all that divide their number; on CPU, each core is
    one). A run resumes bit for bit on as many, and up to rounding on others."""
    remat: bool = False
    """Recompute agent updates backwards instead of storing them; less memory, more time."""
    mixed: bool = False
    """Differentiate the agents' gradients forward over reverse (MixFlow-MG): the same meta-gradient up to rounding;
    less memory with large networks of agents, more time with small ones."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.batch_size and self.num_lifetimes % self.batch_size:
            raise ValueError(f"batch_size must divide num_lifetimes = {self.num_lifetimes}, got {self.batch_size}")
        if self.devices and self.num_lifetimes // (self.batch_size or 1) % self.devices:
            batches = f" / batch_size = {self.batch_size}" if self.batch_size else ""
            raise ValueError(f"devices must divide num_lifetimes = {self.num_lifetimes}{batches}, got {self.devices}")

    def make(self) -> Estimator:
        devices = training_devices(self.num_lifetimes // (self.batch_size or 1), self.devices)
        return estimators.backprop(
            self.updates, remat=self.remat, mixed=self.mixed, placement=Placement(devices, self.batch_size or None)
        )


@dataclasses.dataclass(frozen=True)
class Evolution:
    """Meta-gradients by evolution strategies."""

    num_pairs: Annotated[int, COUNT] = 16
    """Antithetic pairs of agents that live side by side."""
    estimator: Literal["es", "pes"] = "es"
    """Evolution strategies, or persistent ones (which need `truncation`)."""
    truncation: Annotated[int, COUNT_OR_ZERO] = 0
    """Agent updates between two meta-steps (0: whole lifetimes)."""
    measure_every: Annotated[int, COUNT_OR_ZERO] = 0
    """Fitness is the mean over measurements after so many agent updates (es only; 0: that at the end)."""
    shaping: Shaping = "pair_rank"
    """What counts for fitness (es only): fitness as it is, ranks in the population, or the rank within a pair."""
    sigma: Annotated[float, POSITIVE] = 0.1
    """Standard deviation of the perturbations."""
    sigma_decay: Annotated[float, FACTOR] = 1.0
    """Factor on sigma after each meta-step."""
    common_tasks: bool = True
    """Both agents of a pair have the same level and random numbers (es only)."""
    rank: Annotated[int, COUNT_OR_ZERO] = 0
    """Rank of the perturbations of matrices (es only; 0: normal noise). A low rank takes less memory."""
    eval_episodes: Annotated[int, COUNT] = 16
    """Episodes in which an agent's fitness is measured."""
    batch_size: Annotated[int, COUNT_OR_ZERO] = 0
    """Pairs that live at a time on each device (0: all); small batches save memory, and on CPU time too."""
    devices: Annotated[int, COUNT_OR_ZERO] = 0
    """Devices (of each process) that pairs are sharded over (0: all that divide their number; on CPU, each core is
    one). A run resumes bit for bit on as many, and up to rounding on others."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.estimator == "pes":
            refuse_inert(self, ("measure_every", "shaping", "common_tasks", "rank"), "with estimator pes")
            if not self.truncation:
                raise ValueError("estimator pes needs truncation, the agent updates between two meta-steps, got 0")
        if not self.common_tasks and self.num_pairs < 2:
            raise ValueError(f"without common_tasks num_pairs must be at least 2, got {self.num_pairs}")
        if self.devices and self.num_pairs % self.devices:
            raise ValueError(f"devices must divide num_pairs = {self.num_pairs}, got {self.devices}")

    @property
    def num_lifetimes(self) -> int:
        return self.num_pairs

    def make(self, longest_life: int) -> Estimator:
        """The estimator for agents that live at most `longest_life` updates."""
        placement = Placement(training_devices(self.num_pairs, self.devices), self.batch_size or None)
        options: dict[str, Any] = {"sigma": self.sigma, "sigma_decay": self.sigma_decay, "placement": placement}
        if self.estimator == "pes":
            return estimators.pes(self.truncation, **options)
        steps = self.truncation or longest_life
        options |= {"shaping": self.shaping, "common_tasks": self.common_tasks}
        options |= {"measure_every": self.measure_every or None, "rank": self.rank or None}
        return estimators.es(steps, **options)


@dataclasses.dataclass(frozen=True)
class ClippedAdam:
    """How the meta-parameters follow their gradient."""

    learning_rate: Annotated[float, RATE] = 1e-3
    """Adam's learning rate for the meta-parameters."""
    learning_rate_warm_up: Annotated[int, COUNT_OR_ZERO] = 20
    """Meta-steps in which the learning rate rises from 0."""
    last_learning_rate: Annotated[float, NOT_NEGATIVE] = 0.0
    """The learning rate at the end of the run, to which it falls by half a cosine. A run that is resumed with more
    meta-steps follows the longer cosine from there on."""
    max_gradient_norm: Annotated[float, POSITIVE] = 0.5
    """Meta-gradients are scaled down to this global norm."""

    def __post_init__(self) -> None:
        checks.fields(self)

    def at(self, step: Array | int, steps: int) -> Array:
        """The learning rate () of meta-step `step` of `steps`, the first of which is 0."""
        last = jnp.minimum(self.last_learning_rate, self.learning_rate)
        cosine = 0.5 + 0.5 * jnp.cos(jnp.pi * jnp.minimum(step / steps, 1.0))
        warmth = jnp.minimum((step + 1) / (self.learning_rate_warm_up + 1), 1.0)
        return warmth * (last + (self.learning_rate - last) * cosine)

    def make(self, steps: int) -> optax.GradientTransformation:
        """For a run of `steps` meta-steps."""
        adam = optax.adam(lambda step: self.at(step, steps))
        return optax.chain(optax.clip_by_global_norm(self.max_gradient_norm), adam)


def clipped_adam(learning_rate: float) -> optax.GradientTransformation:
    """Adam on clipped gradients, with derivatives that are finite: for policies that are fine-tuned."""
    return optax.chain(optimizers.clip_by_global_norm(1.0), optimizers.adam(learning_rate))


@dataclasses.dataclass(frozen=True)
class DecayedAdam:
    """How the meta-parameters follow their gradient."""

    learning_rate: Annotated[float, RATE] = 1e-2
    """Adam's learning rate for the meta-parameters at the start."""
    learning_rate_decay: Annotated[float, FACTOR] = 0.999
    """Factor on the learning rate after each meta-step."""
    last_learning_rate: Annotated[float, RATE] = 1e-5
    """Where the decay of the learning rate ends."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.learning_rate_decay == 1:
            refuse_inert(self, ("last_learning_rate",), "with learning_rate_decay 1, which never ends")

    def at(self, step: Array | int) -> Array:
        """The learning rate () of meta-step `step`, the first of which is 0."""
        last = jnp.minimum(self.last_learning_rate, self.learning_rate)
        return jnp.maximum(self.learning_rate * self.learning_rate_decay**step, last)

    def make(self, steps: int) -> optax.GradientTransformation:
        """For a run of any number of meta-steps: the decay is the same."""
        return optax.adam(self.at)


@dataclasses.dataclass(frozen=True)
class Replay:
    """Which of the levels are trained on again."""

    score: ScoreName = "uniform"
    """What makes a level worth another agent: regret against A2C or against the optimum, positive or absolute value
    loss, MaxMC, learnability, or a random number. Or no replay: fresh levels only (uniform), or `capacity` levels for
    ever (frozen)."""
    level_set: str = ""
    """File of levels (of `experiments.level_sets` or `metarl.save_levels`) that are trained on for ever, with the
    lifetimes that they say; with score frozen only, in the place of `capacity` random levels."""
    capacity: Annotated[int, COUNT] = 1000
    """Levels that the buffer holds."""
    replay_probability: Annotated[float, SHARE] = 0.5
    """How often a newborn agent gets a level of the buffer."""
    prioritisation: Prioritisation = "rank"
    """Levels are replayed by the rank of their score, or in proportion to it."""
    temperature: Annotated[float, POSITIVE] = 1.0
    """Higher values make the probabilities of levels more equal."""
    staleness: Annotated[float, SHARE] = 0.0
    """Share of replays drawn by the time since a level was last used."""
    warm_up: Annotated[int, COUNT] = 32
    """No replay before so many levels have a score."""
    mutation_probability: Annotated[float, SHARE] = 0.0
    """How often a level that would be fresh is an edit of one in the buffer (tabular gridworlds only)."""
    score_batch: Annotated[int, COUNT] = 4
    """Lifetimes that are scored at a time."""
    success_share: Annotated[float, SHARE] = 0.5
    """For learnability: an episode succeeds with this share of the level's optimal return. Where the optimum is not
    known, it succeeds with any positive return."""

    def __post_init__(self) -> None:
        checks.fields(self)
        options = [field.name for field in dataclasses.fields(self) if field.name != "score"]
        if self.score == "uniform":
            refuse_inert(self, options, "with score uniform, which replays nothing")
        elif self.score == "frozen":
            others = [x for x in options if x not in ("capacity", "level_set")]
            refuse_inert(self, others, "with score frozen, which scores nothing")
            if self.level_set:
                refuse_inert(self, ("capacity",), "with level_set, whose levels are all trained on")
        else:
            refuse_inert(self, ("level_set",), f"with score {self.score}, by which levels are chosen")
        if self.score == "maxmc":
            refuse_inert(self, ("score_batch",), "with score maxmc, which looks at all lifetimes at once")
        if self.score != "learnability":
            refuse_inert(self, ("success_share",), f"with score {self.score}, which asks for no success")
        if self.warm_up > self.capacity and self.score not in ("uniform", "frozen"):
            raise ValueError(f"warm_up must be at most capacity = {self.capacity}, got {self.warm_up}")

    @property
    def needs_critic(self) -> bool:
        """Whether the score looks at the values of each lifetime's own critic."""
        return self.score in ("pvl", "l1", "maxmc")

    def make(
        self,
        levels: Levels,
        antagonist: InnerLoop | None = None,
        judge: ValueJudge | None = None,
        player: InnerLoop | None = None,
    ) -> Curriculum:
        """The curriculum; `antagonist`, `judge` and `player` as in `make_score`.

        Raises ValueError for a score, a mutation or a `level_set` that the levels do not have.
        """
        if self.score == "uniform":
            return curricula.uniform(levels)
        if self.level_set:
            return curricula.chosen(levels, metarl.load_levels(self.level_set, levels))
        if self.score == "frozen":
            return curricula.fixed(levels, self.capacity)
        return curricula.replay(
            levels,
            self.capacity,
            score=self.make_score(levels, antagonist, judge, player),
            probability=self.replay_probability,
            priority=curricula.Priority(self.prioritisation, self.temperature, self.staleness),
            warm_up=self.warm_up,
            mutation_probability=self.mutation_probability,
        )

    def make_score(
        self,
        levels: Levels,
        antagonist: InnerLoop | None = None,
        judge: ValueJudge | None = None,
        player: InnerLoop | None = None,
    ) -> scores.Score:
        """The score: `antagonist` is whom regret compares with, `judge` the agents' critic (for value losses).

        `player` are the agents with `num_eval_episodes=1`, whose success learnability looks at.
        Raises ValueError for a score that the levels do not have, and if what it looks at is missing.
        """
        if self.needs_critic and judge is None:
            raise ValueError(f"score {self.score} needs agents with a critic")
        if self.score == "regret" and antagonist is None:
            raise ValueError("score regret needs an antagonist to compare with")
        if self.score == "learnability":
            return self._learnability(levels, player)
        judge_, antagonist_ = cast(ValueJudge, judge), cast(InnerLoop, antagonist)
        return {
            "random": partial(scores.uniformly_random, self.score_batch),
            "regret": partial(scores.algorithmic_regret, antagonist_, self.score_batch),
            "optimal": partial(scores.optimal_regret, levels.optimal_return, self.score_batch),
            "pvl": partial(scores.positive_value_loss, judge_, self.score_batch),
            "l1": partial(scores.l1_value_loss, judge_, self.score_batch),
            "maxmc": partial(scores.max_monte_carlo, judge_),
        }[self.score]()

    def _learnability(self, levels: Levels, player: InnerLoop | None) -> scores.Score:
        if player is None:
            raise ValueError("score learnability needs agents that play single episodes")
        if levels.optimal_return is None:
            refuse_inert(self, ("success_share",), "on levels whose optimal return is not known")
        succeeds = scores.success(levels.optimal_return, self.success_share)
        return scores.learnability(player, succeeds, batch_size=self.score_batch)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The report at the end, on levels that are never trained on."""

    held_out_levels: Annotated[int, COUNT_OR_ZERO] = 64
    """Levels of the report."""
    held_out_seeds: Annotated[int, COUNT_OR_ZERO] = 10
    """Agents per rule and held-out level in the report; 0 for no report."""
    held_out_batch: Annotated[int, COUNT] = 256
    """Agents of one seed that live side by side on each device in the report."""
    held_out_horizons: tuple[Annotated[int, COUNT], ...] = ()
    """Lifetimes at which a plot compares rules, in agent updates (none: no plot)."""

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.held_out_seeds and self.held_out_levels < 2:
            raise ValueError(f"held_out_levels must be at least 2, got {self.held_out_levels}")


EVOLUTION_CURVES = (
    *("fitness", "fitness_max", "policy_entropy", "meta_gradient_norm", "meta_gradient_cosine", "nonfinite_members"),
)


def check_whole_lifetimes(config: Any) -> None:
    """Raises ValueError for evolution over whole lifetimes of unknown length."""
    updates = config.estimator.truncation or config.distribution.longest_life
    if not updates:
        raise ValueError("evolution over whole lifetimes needs longest_life, or truncation, got 0 for both")
    if config.estimator.measure_every >= updates:
        raise ValueError(
            f"measure_every must be below the {updates} updates of an estimate, or 0, got "
            f"{config.estimator.measure_every}"
        )
