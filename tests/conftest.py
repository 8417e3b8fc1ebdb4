"""Fixtures that every test file shares."""

import gc
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")  # experiments would take one per core
# tests compile more than they compute: nothing is optimised, the older emitters need half the time, a program that is
# compiled in parts for several threads is slower on the one core that a test has, and the passes that are left out take
# a fifth of the compilation of large programs
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 "
    "--xla_disable_hlo_passes=simplify-while-loops,while-loop-invariant-code-motion,while-loop-constant-sinking,"
    "constant_folding",
)

import jax
import pytest

gc.set_threshold(100_000, 50, 100)  # tracing makes millions of objects: a tenth of the time went to collections


def pytest_configure(config):
    # compiled programs outlive the test run: the second run starts in seconds
    cache = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", config.rootpath / ".jax_cache"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)  # for the processes that tests start
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(autouse=True, scope="module")
def clear_programs():
    """Forgets compiled programs after each file, which share few: a process would need 5 GB for all of them."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def strict():
    """No silent promotion of dtypes or ranks: for tests of leaf maths."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    """64-bit mode: for tests against finite differences and closed forms."""
    with jax.enable_x64(True):
        yield
