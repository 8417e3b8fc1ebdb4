"""Devices, batches and sharding: the one module that knows them.

What is the same for many lifetimes, pairs of lifetimes or members of a sweep is a `map` over their leading axis. A
`Placement` says on how many devices that axis is sharded, and how many of its entries a device computes at a time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl.types import Array, PyTree


@dataclass(frozen=True)
class Placement:
    """Where the entries of a leading axis are computed.

    Raises ValueError if `batch_size` is not positive.
    """

    devices: tuple[jax.Device, ...] | None = None
    """The axis is sharded over these; None: the default device."""
    batch_size: int | None = None
    """Entries that one device computes at a time; None: all. Small batches save memory, and on CPUs time too."""

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    def map(self, function: Callable[[Any, Any], PyTree], common: PyTree, xs: PyTree) -> PyTree:
        """`vmap(function, (None, 0))(common, xs)` of `xs` with leaves [n, ...].

        `function` may not close over what is traced: that belongs in `common`.
        Raises ValueError if the devices do not divide n.
        """
        return self.shard(lambda common, xs: in_batches(partial(function, common), xs, self.batch_size), common, xs)

    def balanced_map(self, function: Callable[[Any, Any], PyTree], common: PyTree, xs: PyTree, cost: Array) -> PyTree:
        """As `map`, but entries of like `cost` [n] go together: a batch takes as long as its longest entry."""
        places = len(self.devices or [None])
        by_cost = jnp.argsort(cost)
        order = jnp.concatenate([by_cost[i::places] for i in range(places)])  # every device gets short and long ones
        results = self.map(function, common, jax.tree.map(lambda x: x[order], xs))
        back = jnp.argsort(order)
        return jax.tree.map(lambda x: x[back], results)

    def shard(self, function: Callable[[Any, Any], PyTree], common: PyTree, xs: PyTree) -> PyTree:
        """`function(common, part)` of an equal part of `xs` (leaves [n, ...]) on each device, joined in their order.

        Every device gets all results. Without devices, `function(common, xs)`.
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
        xs = jax.lax.with_sharding_constraint(xs, whole)  # what goes in is as what comes out: a loop's state stays put
        return jax.lax.with_sharding_constraint(sharded(common, xs), whole)


def in_batches(function: Callable[[Any], PyTree], xs: PyTree, batch_size: int | None) -> PyTree:
    """`vmap(function)(xs)`, `batch_size` of `xs` (leaves [n, ...]) at a time (all if None)."""
    if batch_size is None or batch_size >= len(jax.tree.leaves(xs)[0]):
        return jax.vmap(function)(xs)
    return jax.lax.map(function, xs, batch_size=batch_size if batch_size > 1 else None)


def dividing(count: int, num_devices: int = 0) -> tuple[jax.Device, ...] | None:
    """This process's devices for `count` entries: `num_devices` of them, or if 0 as many as divide `count`.

    None stands for the default one. Raises ValueError if there are fewer than `num_devices`.
    """
    there = jax.local_devices()
    num = num_devices or next(n for n in range(len(there), 0, -1) if count % n == 0)
    if num > len(there):
        raise ValueError(f"devices must be at most the {len(there)} that there are, got {num}")
    return tuple(there[:num]) if num > 1 else None


def training_devices(count: int, num_devices: int = 0) -> tuple[jax.Device, ...] | None:
    """As `dividing`, for what all processes of a run compute together: all devices of all of them, if several.

    Raises ValueError if those do not divide `count`.
    """
    if jax.process_count() == 1 or num_devices == 1:
        return dividing(count, num_devices)
    there = jax.devices()
    if num_devices not in (0, jax.local_device_count()):
        raise ValueError(f"devices must be all {jax.local_device_count()} of each process, or 0, got {num_devices}")
    if count % len(there):
        raise ValueError(
            f"{count} (batches of) lifetimes or pairs cannot be sharded over the {len(there)} devices of "
            f"{jax.process_count()} processes"
        )
    return tuple(there)


def all_devices() -> tuple[jax.Device, ...] | None:
    """All devices of all processes; None, the default one, if there is only that."""
    return tuple(jax.devices()) if jax.device_count() > 1 else None


def sweep_batch() -> int | None:
    """Members of a sweep that one device computes at a time: one on CPUs, whose caches hold no more, else all."""
    return 1 if jax.default_backend() == "cpu" else None


def replicated() -> jax.sharding.NamedSharding | None:
    """A copy on each device of several processes; None, JAX's own choice, for one process."""
    if jax.process_count() == 1:
        return None
    return jax.sharding.NamedSharding(jax.sharding.Mesh(np.asarray(jax.devices()), ("devices",)), jax.P())


def one_each() -> jax.sharding.NamedSharding:
    """A copy on one device of each process: what several processes read from files together."""
    first = [next(x for x in jax.devices() if x.process_index == i) for i in range(jax.process_count())]
    return jax.sharding.NamedSharding(jax.sharding.Mesh(np.asarray(first), ("processes",)), jax.P())


def agreed(signals: list[int]) -> list[int]:
    """The first signal that any process has caught, known to all; empty if there is none."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        of_all = multihost_utils.process_allgather(np.int32(signals[0] if signals else 0))
        return [int(signum) for signum in of_all if signum]
    return list(signals)


def one_device_per_core() -> None:
    """Lets JAX see each CPU core as a device, so that work is sharded over cores: small products fill one core only.

    Call it before anything is computed: later, or where XLA_FLAGS or JAX_NUM_CPU_DEVICES say otherwise, it changes
    nothing.
    """
    # on a machine that is busy, one core may be long behind the other: XLA would take that for a deadlock
    patience = "--xla_cpu_collective_call_terminate_timeout_seconds=3600"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {patience}".strip()
    if "xla_force_host_platform_device_count" in os.environ["XLA_FLAGS"] or "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(RuntimeError):  # JAX has started
        jax.config.update("jax_num_cpu_devices", cores)


def join() -> None:
    """Finds the other processes of a distributed run and waits for them: call it before anything is computed.

    Raises ValueError if there is no telling where they are.
    """
    if jax.distributed.is_initialized():
        return
    jax.config.update("jax_enable_preemption_service", False)  # signals are for `metarl.train`
    try:
        count, this = (
            int(x) if (x := os.environ.get(f"JAX_{name}")) else None for name in ("NUM_PROCESSES", "PROCESS_ID")
        )
        # one that fails does not wait for the others, which end with it; where nothing fails they meet
        jax.distributed.initialize(num_processes=count, process_id=this, shutdown_timeout_seconds=10)
    except ValueError as error:
        raise ValueError(
            "distributed finds no cluster (Slurm, Open MPI, Kubernetes, TPU) here: set JAX_COORDINATOR_ADDRESS to "
            f"HOST:PORT of the first process, JAX_NUM_PROCESSES, and JAX_PROCESS_ID, from 0 ({error})"
        ) from None


def meet(where: str) -> None:
    """Waits for the other processes of the run at the barrier `where`: the first may take a week for its report."""
    from orbax.checkpoint.multihost import get_barrier_sync_fn

    get_barrier_sync_fn()(key=where, timeout_ms=7 * 24 * 3600 * 1000)
