"""Many runs as one program: over seeds, hyperparameters, starting points, or all of them."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl import checks
from metarl.checks import SEED
from metarl.meta import WATCHED, Meta
from metarl.parallel import Placement, sweep_batch
from metarl.run import checkpoint
from metarl.run.checkpoint import Log
from metarl.run.options import flatten, replace, with_values
from metarl.run.sinks import Sink
from metarl.run.train import mean_of_numbers, train
from metarl.types import Array, Key, MetaParams, Metrics, PyTree

_SHARED: Any = ()  # in the place of the meta-step, which is the same for all members


class Sweep(NamedTuple):
    """The results of all n members of a sweep."""

    members: list[dict[str, Any]]  # [n] values of the swept fields, and "seed"
    log: Log  # metric name -> [n, steps], the mean over other axes; NaN for members without it
    diverged: np.ndarray  # [n] int, the first meta-step with a number that is not finite (as in NonFiniteLoss); 0: none
    params: list[MetaParams]  # [n]

    def scores(self, metric: str) -> np.ndarray:
        """Mean [n] of `metric` over the last tenth of the meta-steps, without NaN.

        NaN for members that diverged or logged no number there. Raises ValueError for a metric that is not in the log.
        """
        if metric not in self.log:
            raise ValueError(f"no such metric: {metric!r}; the log has {list(self.log)}")
        curves = self.log[metric]
        last = [mean_of_numbers(x) for x in curves[:, -max(curves.shape[1] // 10, 1) :]]
        return np.where(self.diverged > 0, np.nan, last)

    def configurations(self, metric: str) -> list[tuple[dict[str, Any], list[int]]]:
        """Each combination of values with the indices of its members, sorted by mean score, the best first.

        Combinations with a member that diverged come last.
        """
        scores, found = self.scores(metric), dict[str, tuple[dict[str, Any], list[int]]]()
        for i, member in enumerate(self.members):
            values = {name: x for name, x in member.items() if name != "seed"}
            found.setdefault(repr(values), (values, []))[1].append(i)

        def order(pair: tuple[dict[str, Any], list[int]]) -> tuple[bool, float]:
            mean = mean_of_numbers(scores[pair[1]])
            return bool(self.diverged[pair[1]].any()), math.inf if np.isnan(mean) else -mean

        return sorted(found.values(), key=order)

    def table(self, points: int = 20) -> Iterator[dict[str, Any]]:
        """The sweep as a long table: for every member, rows at `points` evenly spaced meta-steps, with the last one."""
        steps = len(next(iter(self.log.values()))[0])
        for i, member in enumerate(self.members):
            for step in np.unique(np.linspace(steps / points, steps, points).round().astype(int).clip(1)):
                metrics = {name: x[i, step - 1].item() for name, x in self.log.items()}
                yield {**member, "diverged": int(self.diverged[i]), "step": int(step), **metrics}


def sweep(
    make: Callable[[Any], Meta],
    config: Any,
    fields: Mapping[str, Sequence[Any]],
    *,
    seeds: int | Sequence[int] = 1,
    steps: int | None = None,
    placement: Placement | None = None,
    directory: str | Path | None = None,
    resume: bool = False,
    resume_from: int | None = None,
    sinks: Callable[[str], Sequence[Sink]] = lambda name: (),
    **options: Any,
) -> Sweep:
    """Trains `make(config)` with every combination of the values of `fields` and every seed.

    Each member equals `train(make(metarl.replace(config, **values)), seed=seed, steps=steps)`, up to rounding.
    Fields of floats that may be arrays in `make` are vmapped, with the seeds, in one compiled program. The others
    (sizes, names, switches, and floats on which Python code branches) are looped over, with one compilation for each
    of their combinations. If a member diverges, the result says so, and the other members continue.

    Args:
        make: makes a run from a configuration. Pure; it is called with tracers in the fields that are vmapped.
        config: a dataclass, whose fields may be dataclasses. Every combination of values must pass their
            `__post_init__`.
        fields: {name: values} of fields of `config` or its parts.
        seeds: the number of seeds, from 0, or the seeds.
        steps: meta-steps of each member; None: `config.steps`.
        placement: that of the members of a program. By default one device computes them: all at a time on
            accelerators, one at a time on CPUs, whose caches are small. If its devices do not divide the members, the
            last member is computed several times; resume such a sweep on as many devices.
        directory: the directory of checkpoints; the n-th compiled program has the folder `n`.
        resume: continue from the checkpoints in `directory`, if there are any.
        resume_from: continue from the checkpoints of this meta-step instead, in programs that have one. The others
            continue from their newest one, or start.
        sinks: makes the sinks of a program from its folder's name; they get means over its members.
        options: further options of `train`.

    Raises:
        ValueError: a field does not exist, has no values or equal ones, or the configuration refuses a value.
        Everything else that `train` raises, except NonFiniteLoss.
    """
    combinations = _combinations(config, fields)
    every_seed = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if "seed" in options:
        raise ValueError("seed has no meaning for a sweep: give seeds, how many or which")
    checks.within(int, SEED, **{f"seeds[{i}]": seed for i, seed in enumerate(every_seed)})
    if not every_seed or len(set(every_seed)) < len(every_seed):
        raise ValueError(f"seeds must be at least 1, or different ones, got {seeds}")
    steps = flatten(config).get("steps") if steps is None else steps
    placement = Placement(batch_size=sweep_batch()) if placement is None else placement
    if steps is None:
        raise ValueError("steps must be given, because the configuration has none")
    resume = resume or resume_from is not None
    swept, fingerprint = _vmappable(make, config, fields), options.pop("fingerprint", None) or {}
    programs: dict[str, list[dict[str, Any]]] = {}  # members of each compiled program
    for values in combinations:
        static = {name: x for name, x in values.items() if name not in swept}
        programs.setdefault(repr(static), []).extend({**values, "seed": seed} for seed in every_seed)

    metas = [_program(make, config, members, swept, placement) for members in programs.values()]
    for meta in metas[1:]:  # trace the later programs before the first trains, so that errors come early
        jax.eval_shape(lambda key: meta.step(meta.init(key), key), jax.random.key(0))  # noqa: B023
    folders = [None if directory is None else Path(directory) / str(i) for i in range(len(metas))]
    saved = [checkpoint.steps(folder) if folder else [] for folder in folders]
    if resume_from is not None and not any(resume_from in there for there in saved):
        raise FileNotFoundError(f"no checkpoint of meta-step {resume_from} in {directory}; its programs have {saved}")
    parts = []
    for i, (members, meta) in enumerate(zip(programs.values(), metas, strict=True)):
        state, log = train(
            meta,
            steps=steps,
            directory=folders[i],
            resume=resume and bool(saved[i]),
            resume_from=resume_from if resume_from in saved[i] else None,
            sinks=sinks(str(i)),
            fingerprint={**fingerprint, "members": members},
            stop_at_nonfinite=False,
            **options,
        )
        parts.append(_results(members, log, jax.device_get(getattr(state, "params", ()))))
    return _concatenated(parts)


def side_by_side(make: Callable[[PyTree], Meta], values: PyTree, placement: Placement = Placement()) -> Meta:  # noqa: B008
    """One run that contains the runs `make(value)` for each of `values` (leaves [n, ...]), vmapped, each with its key.

    Leaves of state and metrics are [n, ...], except the field `step` of the state, if it has one, which is shared. All
    runs are one program, so they can differ in arrays only. They do not depend on each other.

    Raises ValueError if there are no values, or the devices of `placement` do not divide them.
    """
    leaves = jax.tree.leaves(values)
    if not leaves or not len(leaves[0]):
        raise ValueError("values must have at least one leaf [n, ...] with n at least 1")
    count = len(leaves[0])

    def init(key: Key) -> Any:
        parts = (values, jax.random.split(key, count))
        states = placement.map(lambda _, x: make(x[0]).init(x[1]), (), parts)
        return states._replace(step=states.step[0]) if hasattr(states, "step") else states

    def step(state: Any, key: Key) -> tuple[Any, Metrics]:
        counts = hasattr(state, "step")  # not vmapped, because a vmapped condition computes both branches

        def one(now: Any, x: tuple[Any, Any, Key]) -> tuple[Any, Metrics]:
            value, state, key = x
            after, metrics = make(value).step(state._replace(step=now) if counts else state, key)
            return after._replace(step=_SHARED) if counts else after, metrics

        own = state._replace(step=_SHARED) if counts else state
        parts = (values, own, jax.random.split(key, count))
        states, metrics = placement.map(one, state.step if counts else (), parts)
        return states._replace(step=state.step + 1) if counts else states, metrics

    return Meta(init, step)


def _combinations(config: Any, fields: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values, after a check that `config` accepts it."""
    known = [name for name in flatten(config) if name not in ("seed", "steps")]
    for name, values in fields.items():
        if name not in known:
            alike = difflib.get_close_matches(name, known) or known
            raise ValueError(f"{type(config).__name__} has no field {name!r} to sweep; did you mean {alike}?")
        if isinstance(values, str) or not len(values) or len(set(map(repr, values))) < len(values):
            raise ValueError(f"{name} must have values to sweep, each given once, got {values!r}")
    combinations = _grid(fields)
    for combination in combinations:
        replace(config, **combination)
    return combinations


def _grid(fields: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(fields, chosen, strict=True)) for chosen in itertools.product(*fields.values())]


def _vmappable(make: Callable[[Any], Meta], config: Any, fields: Mapping[str, Sequence[Any]]) -> list[str]:
    """The fields of floats that may be arrays in `make`, for all values of the other fields."""

    def works(names: Sequence[str]) -> bool:
        def trace(values: dict[str, jax.Array], others: dict[str, Any]) -> Any:
            meta = make(with_values(replace(config, **others), values))
            return meta.step(meta.init(jax.random.key(0)), jax.random.key(0))

        arrays = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in names}
        try:
            for others in _grid({name: values for name, values in fields.items() if name not in names}):
                jax.eval_shape(partial(trace, others=others), arrays)
        except (TypeError, ValueError):  # Python code needs a number; any other error is raised again later
            return False
        return True

    floats = [name for name, values in fields.items() if all(isinstance(x, float) for x in values)]
    return floats if not floats or works(floats) else [name for name in floats if works([name])]


def _program(
    make: Callable[[Any], Meta],
    config: Any,
    members: list[dict[str, Any]],
    swept: Sequence[str],
    placement: Placement,
) -> Meta:
    """The run of all members of one program, and of copies of the last member up to a multiple of the devices."""
    static = {name: x for name, x in members[0].items() if name not in (*swept, "seed")}
    padded = [*members, *members[-1:] * (-len(members) % len(placement.devices or [None]))]
    arrays = {name: np.array([member[name] for member in padded], np.float32) for name in swept}
    arrays["seed"] = np.array([member["seed"] for member in padded], np.uint32)

    def member(values: dict[str, jax.Array]) -> Meta:
        numbers = {name: x for name, x in values.items() if name != "seed"}
        meta = _with_step(make(with_values(replace(config, **static), numbers)))
        init_key, key = jax.random.split(jax.random.key(values["seed"]))  # as `train` makes them
        return Meta(
            lambda _: meta.init(init_key), lambda state, _: meta.step(state, jax.random.fold_in(key, state.step))
        )

    return side_by_side(member, arrays, placement)


class _Counted(NamedTuple):
    """A state without the field `step`, and the number of its steps."""

    state: Any
    step: Array  # () int32


def _with_step(meta: Meta) -> Meta:
    """`meta`, or the same run with a `_Counted` state if its state has no field `step`."""
    if hasattr(jax.eval_shape(meta.init, jax.random.key(0)), "step"):
        return meta

    def step(counted: _Counted, key: Key) -> tuple[_Counted, Metrics]:
        state, metrics = meta.step(counted.state, key)
        return _Counted(state, counted.step + 1), metrics

    return Meta(lambda key: _Counted(meta.init(key), jnp.int32(0)), step)


def _results(members: list[dict[str, Any]], log: Log, params: MetaParams) -> Sweep:
    """The results of one program. Its log is [steps, n, ...], with copies of the last member, or [steps] if shared."""
    count, steps = len(members), len(next(iter(log.values())))
    log = {name: x[:, :count] if x.ndim > 1 else x for name, x in log.items()}
    params = jax.tree.map(lambda x: x[:count], params)
    finite = np.ones((count, steps), bool)
    for name in WATCHED:
        if name in log:
            finite &= np.isfinite(log[name]).reshape(steps, count, -1).all(2).T
    for leaf in jax.tree.leaves(params):
        finite[:, -1] &= np.isfinite(leaf).reshape(count, -1).all(1)
    diverged = np.where(finite.all(1), 0, finite.argmin(1) + 1)
    curves = {
        name: x.reshape(steps, count, -1).mean(2).T if x.ndim > 1 else np.broadcast_to(x, (count, steps))
        for name, x in log.items()
    }
    return Sweep(members, curves, diverged, [jax.tree.map(lambda x: x[i], params) for i in range(count)])  # noqa: B023


def _concatenated(parts: Sequence[Sweep]) -> Sweep:
    """The results of all programs; NaN in the log of members without a metric."""
    names = list(dict.fromkeys(name for part in parts for name in part.log))
    curves = {
        name: [part.log.get(name, np.full(part.log["seconds"].shape, np.nan)) for part in parts] for name in names
    }
    return Sweep(
        [member for part in parts for member in part.members],
        {name: np.concatenate(x) for name, x in curves.items()},
        np.concatenate([part.diverged for part in parts]),
        [params for part in parts for params in part.params],
    )
