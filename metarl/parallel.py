"""Devices, batches and sharding: the only module that knows them.

Lifetimes, pairs of lifetimes and members of a sweep are computed by a map over their leading axis. A `Placement` says
over which devices that axis is sharded, and how many of its entries each device computes at a time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl import checks
from metarl.checks import COUNT
from metarl.types import Array, PyTree


@dataclass(frozen=True)
class Placement:
    """On which devices the entries of a leading axis are computed, and how many at a time.

    Raises ValueError if `batch_size` is not positive.
    """

    devices: tuple[jax.Device, ...] | None = None
    """The axis is sharded over these; None: the default device."""
    batch_size: Annotated[int, COUNT] | None = None
    """Entries that each device computes at a time; None: all. Small batches save memory, and on CPUs also time."""

    def __post_init__(self) -> None:
        checks.fields(self)

    def map(self, function: Callable[[Any, Any], PyTree], common: PyTree, xs: PyTree) -> PyTree:
        """`vmap(function, (None, 0))(common, xs)` for `xs` with leaves [n, ...].

        `function` must not close over traced arrays: pass them in `common`.
        Raises ValueError if the devices do not divide n.
        """
        return self.shard(lambda common, xs: in_batches(partial(function, common), xs, self.batch_size), common, xs)

    def balanced_map(self, function: Callable[[Any, Any], PyTree], common: PyTree, xs: PyTree, cost: Array) -> PyTree:
        """`map` in batches of similar `cost` [n], because a batch takes as long as its longest entry."""
        count = len(self.devices or [None])
        by_cost = jnp.argsort(cost)
        order = jnp.concatenate([by_cost[i::count] for i in range(count)])  # every device gets short and long ones
        results = self.map(function, common, jax.tree.map(lambda x: x[order], xs))
        back = jnp.argsort(order)
        return jax.tree.map(lambda x: x[back], results)

    def shard(self, function: Callable[[Any, Any], PyTree], common: PyTree, xs: PyTree) -> PyTree:
        """`function(common, part)` on each device for its equal part of `xs` (leaves [n, ...]), concatenated.

        Every device gets all results. Without devices this is `function(common, xs)`.
        Raises ValueError if the devices do not divide n.
        """
        if self.devices is None:
            return function(common, xs)
        count = len(jax.tree.leaves(xs)[0])
        if count % len(self.devices):
            raise ValueError(f"{count} lifetimes (or pairs of them) cannot be sharded over {len(self.devices)} devices")
        mesh = jax.sharding.Mesh(np.asarray(self.devices), ("devices",))
        part, whole = jax.P("devices"), jax.sharding.NamedSharding(mesh, jax.P())
        sharded = jax.shard_map(function, mesh=mesh, in_specs=(jax.P(), part), out_specs=part, check_vma=False)
        xs = jax.lax.with_sharding_constraint(xs, whole)  # same sharding before and after, as loops need
        return jax.lax.with_sharding_constraint(sharded(common, xs), whole)


def in_batches(function: Callable[[Any], PyTree], xs: PyTree, batch_size: int | None) -> PyTree:
    """`vmap(function)(xs)` in batches of `batch_size` of `xs` (leaves [n, ...]); None: all at once."""
    if batch_size is None or batch_size >= len(jax.tree.leaves(xs)[0]):
        return jax.vmap(function)(xs)
    return jax.lax.map(function, xs, batch_size=batch_size if batch_size > 1 else None)


def dividing(count: int, num_devices: int = 0) -> tuple[jax.Device, ...] | None:
    """`num_devices` devices of this process for `count` entries; 0: the largest number that divides `count`.

    None means the default device. Raises ValueError if the process has fewer than `num_devices`.
    """
    available = jax.local_devices()
    num = num_devices or next(n for n in range(len(available), 0, -1) if count % n == 0)
    if num > len(available):
        raise ValueError(f"devices must be at most {len(available)}, as many as are available, got {num}")
    return tuple(available[:num]) if num > 1 else None


def training_devices(count: int, num_devices: int = 0) -> tuple[jax.Device, ...] | None:
    """`dividing` for a run; if the run has several processes, all devices of all of them.

    Raises ValueError if the devices do not divide `count`.
    """
    if jax.process_count() == 1 or num_devices == 1:
        return dividing(count, num_devices)
    available = jax.devices()
    if num_devices not in (0, jax.local_device_count()):
        raise ValueError(f"devices must be all {jax.local_device_count()} of each process, or 0, got {num_devices}")
    if count % len(available):
        raise ValueError(
            f"{count} (batches of) lifetimes or pairs cannot be sharded over the {len(available)} devices of "
            f"{jax.process_count()} processes"
        )
    return tuple(available)


def all_devices() -> tuple[jax.Device, ...] | None:
    """All devices of all processes; None if there is only the default device."""
    return tuple(jax.devices()) if jax.device_count() > 1 else None


def sweep_batch() -> int | None:
    """Members of a sweep that each device computes at a time: 1 on CPUs, whose caches are small; else None, all."""
    return 1 if jax.default_backend() == "cpu" else None


def replicated() -> jax.sharding.NamedSharding | None:
    """The sharding with a copy on every device of all processes; None, JAX's own choice, if there is one process."""
    if jax.process_count() == 1:
        return None
    return jax.sharding.NamedSharding(jax.sharding.Mesh(np.asarray(jax.devices()), ("devices",)), jax.P())


def one_per_process() -> jax.sharding.NamedSharding:
    """The sharding with a copy on one device of each process, to read files in all of them."""
    first = [next(x for x in jax.devices() if x.process_index == i) for i in range(jax.process_count())]
    return jax.sharding.NamedSharding(jax.sharding.Mesh(np.asarray(first), ("processes",)), jax.P())


def agreed(signals: list[int]) -> list[int]:
    """The signals that any process has caught, the same in all processes; empty if there are none."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        first = multihost_utils.process_allgather(np.int32(signals[0] if signals else 0))  # of each process
        return [int(signum) for signum in first if signum]
    return list(signals)


def one_device_per_core() -> None:
    """Makes JAX see each CPU core as a device, so that work can be sharded over cores: a small product uses only one.

    Call it before the first computation. Later calls change nothing, nor does a call where XLA_FLAGS or
    JAX_NUM_CPU_DEVICES set the number of devices.
    """
    # on a busy machine one core may be far behind another, which XLA would take for a deadlock
    timeout = "--xla_cpu_collective_call_terminate_timeout_seconds=3600"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {timeout}".strip()
    if "xla_force_host_platform_device_count" in os.environ["XLA_FLAGS"] or "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(RuntimeError):  # JAX has started
        jax.config.update("jax_num_cpu_devices", cores)


def join() -> None:
    """Connects to the other processes of a distributed run and waits for them. Call it before the first computation.

    Raises ValueError if nothing says where they are.
    """
    if jax.distributed.is_initialized():
        return
    jax.config.update("jax_enable_preemption_service", False)  # signals are for `metarl.train`
    try:
        count, this = (
            int(x) if (x := os.environ.get(f"JAX_{name}")) else None for name in ("NUM_PROCESSES", "PROCESS_ID")
        )
        # a process that fails must not wait for the others, which end with it; if none fails, `meet` makes them wait
        jax.distributed.initialize(num_processes=count, process_id=this, shutdown_timeout_seconds=10)
    except ValueError as error:
        raise ValueError(
            "distributed finds no cluster (Slurm, Open MPI, Kubernetes, TPU) here: set JAX_COORDINATOR_ADDRESS to "
            f"HOST:PORT of the first process, JAX_NUM_PROCESSES, and JAX_PROCESS_ID, from 0 ({error})"
        ) from None


def meet(where: str) -> None:
    """Waits, for at most a week, until all processes of the run have called this with the same `where`."""
    from orbax.checkpoint.multihost import get_barrier_sync_fn

    get_barrier_sync_fn()(key=where, timeout_ms=7 * 24 * 3600 * 1000)
