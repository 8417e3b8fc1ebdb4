"""One run on several devices, and of several processes: what they compute is what one device computes alone."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from toy import timeless

HERE = Path(__file__).parent


def assert_close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), timeless(one), timeless(other))


def environment(**more):
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), **more}


EIGHT = """
import dataclasses, sys
from functools import partial
import jax, jax.numpy as jnp, numpy as np, optax
import metarl
from metarl.curricula import uniform
from metarl.estimators import backprop, es, pes
from metarl.evaluation.measure import final_returns
from metarl.meta import compose
from metarl.parallel import Placement
from quadratic import levels, quadratic
from test_parallel import assert_close
from toy import assert_same

directory, devices = sys.argv[1], tuple(jax.devices())
alone, everywhere = Placement(batch_size=1), Placement(devices, batch_size=1)
assert len(devices) == 8
inner, distribution = quadratic(noise=0.3), levels(6, spread=0.5)

def meta(make, **options):
    return compose(inner, make(4, **options), optax.adam(1e-2), uniform(distribution), 16)

def steps(make, **options):
    step = jax.jit(meta(make, **options).step)
    state, rows = jax.jit(meta(make).init)(jax.random.key(0)), []
    for i in range(3):
        state, metrics = step(state, jax.random.key(i))
        rows.append(metrics)
    return jax.device_get((state, rows)), step._cache_size()

for make in (backprop, es, pes):
    expected, _ = steps(make, placement=alone)
    sharded, compiled = steps(make, placement=everywhere)
    assert_close(sharded, expected)
    assert compiled == 2, compiled  # for a state on one device, then for one on all

mixed = partial(backprop, mixed=True)
assert_close(steps(mixed, placement=everywhere)[0], steps(backprop, placement=alone)[0])

state, _ = steps(backprop)[0]
assert_close(steps(backprop, placement=Placement(devices))[0][0], state)

def returns(devices):
    place = Placement(devices, batch_size=3)
    play = partial(final_returns, inner, {"rate": jnp.array(0.1)}, num_seeds=1, placement=place)
    return jax.jit(play)(state.lifetimes.level, jax.random.key(0))

np.testing.assert_allclose(returns(devices), returns(None), rtol=1e-5)

whole, log = metarl.train(meta(pes, placement=Placement(devices)), steps=9, chunk=2)
metarl.train(meta(pes, placement=Placement(devices)), steps=4, chunk=2, directory=directory)
resumed = metarl.train(meta(pes, placement=Placement(devices)), steps=9, chunk=2, directory=directory, resume=True)
assert_same(resumed, (whole, log))
# what eight devices saved, one goes on with
one = metarl.train(meta(pes), steps=10, chunk=2, directory=directory, resume=True)
assert_same(((), {k: x[:9] for k, x in one[1].items()}), ((), log))

@dataclasses.dataclass(frozen=True)
class Config:
    learning_rate: float = 0.1

def tuned(config):
    return compose(inner, backprop(4), optax.adam(config.learning_rate), uniform(distribution), 4)

sweeps = [
    metarl.sweep(tuned, Config(), {"learning_rate": [0.01, 0.1]}, seeds=3, steps=4, placement=place)
    for place in (everywhere, alone)
]
assert_close((sweeps[0].params, sweeps[0].log), (sweeps[1].params, sweeps[1].log))
"""


@pytest.mark.slow
def test_eight_devices_estimate_train_and_resume_as_one(tmp_path):
    command = [sys.executable, "-c", EIGHT, str(tmp_path)]
    done = subprocess.run(
        command, env=environment(JAX_NUM_CPU_DEVICES="8"), capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-4000:]
