"""Which meta-gradient for how much computing: estimators side by side on one problem, against a large-sample reference.

python -m experiments.estimators                 # a few minutes on a laptop CPU
python -m experiments.estimators --levels gridworld/small --horizon 64 --reference 4000

All look at the same rule, a tiny LPG after a short meta-training, which none of them changes, and are judged by the
gradient of one objective: minus the fitness after every `truncation` updates of a whole lifetime, averaged over
measurements, levels, seeds, and perturbations of deviation `sigma`. The reference is the mean of many estimates by
`es` over whole lifetimes, so it is smoothed by the same sigma as the others are, and smoothing is no part of their
bias. With two exceptions: `pes` draws a perturbation anew for every truncation, so what it is unbiased for is smoothed
a little differently, unless `sigma` is small. And backpropagation follows a surrogate of another scale (a policy
gradient with normalised advantages), not smoothed: of its bias, look at the cosine, and at `scaled_bias`, what is
left after the best positive scaling.

Truncated estimators meet lifetimes of all ages: each has a run of its own, lives one lifetime of meta-steps without
following its estimates, and is measured from then on, on successive estimates. All get the same number of lifetimes'
worth of experience. Cosines, norms and biases are rid of the noise in both means, so that a cosine may come out above
1, or unknown; their errors are from a jackknife over blocks of whole lifetimes.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import envs
import metarl
from experiments import cli
from metarl import checks, plot
from metarl.checks import COUNT, COUNT_OR_ZERO, POSITIVE, RATE, SEED, SEVERAL, WIDTH
from metarl.estimators import backprop, es, pes
from metarl.evaluation.families import family
from metarl.meta import Estimator, InnerLoop, Lifetimes, MetaState
from metarl.objectives.lpg import UNREGULARISED
from metarl.parallel import Placement
from metarl.rl.rollout import evaluate, model
from metarl.rules import build_part
from metarl.run.files import circumstances, write_json
from metarl.types import Array, Key, Levels, MetaParams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLOCKS = 20  # of the jackknife


@dataclasses.dataclass(frozen=True)
class Config:
    """Bias, variance and cost of meta-gradient estimators on one problem."""

    directory: str = ""
    """Where the files go (default: a new folder under runs/)."""
    seed: Annotated[int, SEED] = 0
    """Seed of everything random."""
    levels: str = "mdp/random"
    """Distribution of levels: any name that envs.make accepts."""
    horizon: Annotated[int, COUNT] = 32
    """Lifetime of an agent in updates."""
    truncation: Annotated[int, COUNT] = 4
    """Agent updates between two measurements of fitness, and of a truncated estimate (K); divides `horizon`."""
    num_lifetimes: Annotated[int, COUNT] = 32
    """Lifetimes, or pairs of them, of one estimate; a multiple of horizon / truncation, for all ages."""
    num_envs: Annotated[int, COUNT] = 8
    """Environments of each agent."""
    rollout_length: Annotated[int, COUNT] = 10
    """Environment steps between two agent updates."""
    eval_episodes: Annotated[int, COUNT] = 16
    """Episodes in which an agent's fitness is measured."""
    hidden: Annotated[int, WIDTH] = 4
    """Width of the meta-network's GRU."""
    bins: Annotated[int, SEVERAL] = 4
    """Size of the agent's prediction y."""
    sigma: Annotated[float, POSITIVE] = 0.1
    """Standard deviation of the perturbations."""
    warm_up: Annotated[int, COUNT_OR_ZERO] = 300
    """Meta-steps by backpropagation that lead to the rule at which gradients are compared."""
    learning_rate: Annotated[float, RATE] = 3e-3
    """Adam's learning rate in the warm-up."""
    repeats: Annotated[int, COUNT] = 100
    """Estimates over whole lifetimes of each kind; truncated ones are as many as take the same experience. In 20s."""
    reference: Annotated[int, COUNT] = 600
    """Estimates over whole lifetimes that the reference is the mean of. In 20s."""
    batch_size: Annotated[int, COUNT_OR_ZERO] = 0
    """Lifetimes that live at a time (0: all)."""

    def __post_init__(self) -> None:
        checks.fields(self)
        envs.check(levels=self.levels)
        if self.horizon % self.truncation:
            raise ValueError(f"truncation must divide horizon = {self.horizon}, got {self.truncation}")
        ages = self.horizon // self.truncation
        if self.num_lifetimes % ages:
            raise ValueError(
                f"num_lifetimes must be a multiple of horizon / truncation = {ages}, got {self.num_lifetimes}"
            )
        if self.batch_size and self.num_lifetimes % self.batch_size:
            raise ValueError(f"batch_size must divide num_lifetimes = {self.num_lifetimes}, got {self.batch_size}")
        for name in ("repeats", "reference"):
            if getattr(self, name) < BLOCKS or getattr(self, name) % BLOCKS:
                raise ValueError(f"{name} must be a multiple of {BLOCKS}, got {getattr(self, name)}")


class Contender(NamedTuple):
    """An estimator and what it spends."""

    estimator: Estimator
    per_life: int  # estimates that take a whole lifetime
    updates: int  # rollouts per estimate, of all members of all lifetimes
    tests: int  # measurements of fitness per estimate


def contenders(config: Config) -> dict[str, Contender]:
    """Every estimator of the bake-off."""
    k, ages, members = config.truncation, config.horizon // config.truncation, 2 * config.num_lifetimes
    placement = Placement(batch_size=config.batch_size or None)
    options: dict[str, Any] = {"sigma": config.sigma, "placement": placement}
    whole = partial(es, config.horizon, measure_every=k, shaping="none", **options)
    differentiated = backprop(k, placement=placement)  # judges the agent on one rollout more
    return {
        "backprop": Contender(differentiated, ages, config.num_lifetimes * (k + 1), 0),
        "es truncated": Contender(es(k, shaping="none", **options), ages, members * k, members),
        "pes": Contender(pes(k, **options), ages, members * k, members),
        "es": Contender(whole(), 1, members * config.horizon, members * ages),
        "es, independent tasks": Contender(whole(common_tasks=False), 1, members * config.horizon, members * ages),
    }


def inner_loop(config: Config, levels: Levels, critic: bool) -> InnerLoop:
    """Agents that learn by LPG, with the critic that only backpropagation needs."""
    kind = family(config.levels, levels.environment)
    # the objective of the comparison is fitness alone
    regularisers: dict[str, Any] = {} if critic else UNREGULARISED
    objective = metarl.objectives.lpg(config.bins, config.hidden, **regularisers)
    return metarl.rl_inner_loop(
        levels.environment,
        build_part("network", kind.network),
        objective,
        build_part("optimizer", kind.optimizer),
        metarl.Experience(config.num_envs, config.rollout_length),
        critic=metarl.Critic(build_part("optimizer", kind.critic)) if critic else None,
        num_eval_episodes=config.eval_episodes,
    )


def keep() -> optax.GradientTransformation:
    """Follows nothing: its state is the last gradient."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda gradient, state, params=None: (jax.tree.map(jnp.zeros_like, gradient), gradient),
    )


class Collected(NamedTuple):
    """Successive estimates of one kind."""

    estimates: np.ndarray  # [n, d]
    seconds: float  # per estimate: the median over lifetimes


class Collector:
    """Makes estimates at `meta_params`; compiled once."""

    def __init__(self, config: Config, levels: Levels, meta_params: MetaParams, contender: Contender, critic: bool):
        inner = inner_loop(config, levels, critic)._replace(init_meta=lambda key: meta_params)
        curriculum = metarl.curricula.uniform(levels)
        meta = metarl.compose(inner, contender.estimator, keep(), curriculum, config.num_lifetimes)

        def live(state: MetaState, key: Key) -> tuple[MetaState, Array]:
            def step(state: MetaState, key: Key) -> tuple[MetaState, Array]:
                state, _ = meta.step(state, key)
                return state, ravel_pytree(state.opt_state)[0]

            return jax.lax.scan(step, state, jax.random.split(key, contender.per_life))

        self.per_life, self.init = contender.per_life, jax.jit(meta.init)
        start, key = time.perf_counter(), jax.random.key(0)
        self.live = jax.jit(live).lower(jax.eval_shape(meta.init, key), key).compile()
        self.compile_seconds = time.perf_counter() - start

    def collect(self, lives: int, seed: int) -> Collected:
        """The estimates of `lives` lifetimes, after one that is not counted."""
        init_key, key = jax.random.split(jax.random.key(seed))
        state, rows, seconds = self.init(init_key), [], []
        for i in range(lives + 1):
            start = time.perf_counter()
            state, estimates = self.live(state, jax.random.fold_in(key, i))
            rows.append(np.asarray(estimates, np.float64))
            seconds.append((time.perf_counter() - start) / self.per_life)
        return Collected(np.concatenate(rows[1:]), statistics.median(seconds[1:]))


def warm_up(config: Config, levels: Levels, seed: int) -> MetaState:
    """The run by backpropagation that the rule is from; its lifetimes are of all ages unless it is very short."""
    meta = metarl.compose(
        inner_loop(config, levels, critic=True),
        contenders(config)["backprop"].estimator,
        optax.chain(optax.clip_by_global_norm(0.5), optax.adam(config.learning_rate)),
        metarl.curricula.uniform(levels),
        config.num_lifetimes,
    )

    @jax.jit
    def train(key: Key) -> MetaState:
        init_key, key = jax.random.split(key)
        step = lambda state, key: (meta.step(state, key)[0], None)  # noqa: E731
        return jax.lax.scan(step, meta.init(init_key), jax.random.split(key, config.warm_up))[0]

    return train(jax.random.key(seed))


def episode_length(config: Config, levels: Levels, lifetimes: Lifetimes) -> float:
    """Mean length of the episodes that the agents of `lifetimes` are tested in."""
    env = levels.environment
    agent = model(env, build_part("network", family(config.levels, env).network), {"y": config.bins})

    def lengths(params: Any, problem: Any, key: Key) -> Array:
        return evaluate(env, agent, params, problem, key, config.eval_episodes, 10_000).length.mean()

    keys = jax.random.split(jax.random.key(config.seed), config.num_lifetimes)
    return float(jax.jit(jax.vmap(lengths))(lifetimes.params, lifetimes.level.problem, keys).mean())


def known(reference: np.ndarray) -> dict[str, float]:
    """The norm of the true mean of `reference` [m, d], the standard error of that here, and the cosine of both."""
    noise, square = reference.var(0, ddof=1).sum() / len(reference), np.square(reference.mean(0)).sum()
    with np.errstate(invalid="ignore"):
        return {
            "norm": float(np.sqrt(square - noise)),
            "standard_error": float(np.sqrt(noise)),
            "cosine_with_the_truth": float(np.sqrt(1.0 - noise / square)),
        }


def compare(estimates: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Bias and variance of `estimates` [n, d], in the order in which they were made, against `reference` [m, d].

    Norms, cosines and differences are those of the true means: less what noise adds to squares, and NaN where it
    leaves nothing. The standard error of the cosine and the 95 % interval of the bias are from the jackknife. n and m
    are multiples of `BLOCKS`. `variance` is that of single estimates; `scaled_variance` is what the variance of the
    mean of n of them is the n-th part of (successive estimates of one run are not independent), had it the norm of the
    reference.
    """

    def blocks(x: np.ndarray) -> np.ndarray:
        return x.reshape(BLOCKS, -1, x.shape[1]).mean(1)

    def figures(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        mean, true = a.mean(0), b.mean(0)
        noise, true_noise = (x.var(0, ddof=1).sum() / len(x) for x in (a, b))
        square, true_square = (np.where(x > 0.0, x, np.nan) for x in (mean @ mean - noise, true @ true - true_noise))
        difference = (mean - true) @ (mean - true) - noise - true_noise
        return np.array([mean @ true / np.sqrt(square * true_square), square / true_square, difference / true_square])

    with np.errstate(invalid="ignore"):
        parts = blocks(estimates), blocks(reference)
        cosine, ratio, bias = figures(*parts)
        without = np.array([figures(*(np.delete(x, i, 0) for x in parts)) for i in range(BLOCKS)])
        cosine_error, _, bias_error = np.sqrt((BLOCKS - 1) * without.var(0))
        true, sure = reference.mean(0), known(reference)
        variance = estimates.var(0, ddof=1).sum() / np.square(sure["norm"])
        lasting = parts[0].var(0, ddof=1).sum() * len(estimates) / BLOCKS / np.square(sure["norm"])
        single = estimates @ true / (np.linalg.norm(estimates, axis=1) * np.linalg.norm(true))
        low, high = bias - 1.96 * bias_error, bias + 1.96 * bias_error
        return {
            "cosine": float(cosine),
            "cosine_error": float(cosine_error),
            "norm_ratio": float(np.sqrt(ratio)),
            "bias": float(np.sqrt(max(bias, 0.0))),
            "bias_low": float(np.sqrt(max(low, 0.0))),
            "bias_high": float(np.sqrt(max(high, 0.0))),
            "scaled_bias": float(np.sqrt(1.0 - np.clip(cosine, 0.0, 1.0) ** 2)),
            "variance": float(variance),
            "scaled_variance": float(lasting / ratio),
            "single_cosine": float(np.median(single) / sure["cosine_with_the_truth"]),
        }


def bake_off(config: Config, levels: Levels) -> dict[str, Any]:
    """A row of figures for each estimator, and what is known of the reference."""

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    seeds = np.random.SeedSequence(config.seed).generate_state(7).tolist()
    say(f"warm-up of {config.warm_up} meta-steps ...")
    warm = warm_up(config, levels, seeds[0])
    length = episode_length(config, levels, warm.lifetimes)
    all_kinds, rows = contenders(config), {}
    say("whole lifetimes compile ...")
    whole = Collector(config, levels, warm.params, all_kinds["es"], critic=False)
    say(f"reference of {config.reference} estimates ...")
    reference = whole.collect(config.reference, seeds[1]).estimates
    for (name, kind), seed in zip(all_kinds.items(), seeds[2:], strict=True):
        say(f"{name} ...")
        collector = whole if name == "es" else Collector(config, levels, warm.params, kind, name == "backprop")
        got = collector.collect(config.repeats, seed)
        env_steps = kind.updates * config.num_envs * config.rollout_length + kind.tests * config.eval_episodes * length
        rows[name] = {
            **compare(got.estimates, reference),
            "estimates": len(got.estimates),
            "seconds": got.seconds,
            "env_steps": env_steps,
            "compile_seconds": collector.compile_seconds,
        }
        for cost in ("seconds", "env_steps"):
            rows[name][f"scaled_variance_x_{cost}"] = rows[name]["scaled_variance"] * rows[name][cost]
    return {
        "meta_parameters": reference.shape[1],
        "reference": {"estimates": len(reference), **known(reference)},
        "variance_reduction_of_common_tasks": rows["es, independent tasks"]["variance"] / rows["es"]["variance"],
        "estimators": rows,
    }


def show(results: Mapping[str, Any]) -> None:
    """The table."""
    from rich.console import Console
    from rich.table import Table

    reference = results["reference"]
    table = Table(
        *("", "cosine", "norm ratio", "bias [95 %]", "variance", "scaled", "one's cosine", "seconds", "env steps"),
        *("variance x s", "x env steps"),
        title=f"{results['meta_parameters']} meta-parameters; the reference is {reference['estimates']} estimates, its "
        f"cosine with the truth {reference['cosine_with_the_truth']:.3f}",
        caption="bias and variance per |reference| and its square; scaled: of means, had they the reference's norm. "
        f"Common tasks divide the variance of es by {results['variance_reduction_of_common_tasks']:.1f}.",
    )
    for name, row in results["estimators"].items():
        table.add_row(
            name,
            f"{row['cosine']:.3f} ± {row['cosine_error']:.3f}",
            f"{row['norm_ratio']:.3g}",
            f"{row['bias']:.3g} [{row['bias_low']:.3g}, {row['bias_high']:.3g}]",
            *(f"{row[key]:.3g}" for key in ("variance", "scaled_variance", "single_cosine", "seconds", "env_steps")),
            *(f"{row[f'scaled_variance_x_{cost}']:.3g}" for cost in ("seconds", "env_steps")),
        )
    Console(width=None if sys.stdout.isatty() else 180).print(table)


def draw(rows: Mapping[str, Mapping[str, float]]) -> Figure:
    """The cosine with the true gradient that a mean of estimates has, against the time that they take.

    Of N estimates with the direction cosine c and the scaled variance v: c / sqrt(1 + v / N). The dots are the medians
    of single estimates, as measured: off their line where few great ones make the variance, or where successive ones
    are alike.
    """
    shortest, longest = (f(row["seconds"] for row in rows.values()) for f in (min, max))
    lines = {}
    for name, row in rows.items():
        spent = np.geomspace(row["seconds"], max(3e4 * shortest, 100.0 * longest), 200)
        lines[name] = spent, row["cosine"] / np.sqrt(1.0 + row["scaled_variance"] * row["seconds"] / spent)
    dots = {name: (row["seconds"], row["single_cosine"]) for name, row in rows.items()}
    labels = "seconds of estimates, averaged", "cosine with the gradient of the objective"
    return plot.lines(lines, *labels, x_scale="log", dots=dots)


def main(argv: list[str] | None = None) -> None:
    with cli.clean_exit():
        config = cli.options(Config, __doc__, argv)
        with cli.directory_of_runs(config, "estimators") as directory:
            results = bake_off(config, envs.make(config.levels, config.horizon))
            show(results)
            about = {"configuration": dataclasses.asdict(config), **circumstances(), **results}
            write_json(directory / "estimators.json", about)
            plot.save(draw(results["estimators"]), directory / "estimators.png")
        print(f"results in {directory}", file=sys.stderr)


if __name__ == "__main__":
    main()
