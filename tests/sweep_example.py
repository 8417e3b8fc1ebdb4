"""A run with a configuration that is swept in no time."""

import dataclasses

import jax
import jax.numpy as jnp

import metarl
from metarl.meta import MetaState


@dataclasses.dataclass(frozen=True)
class Config:
    learning_rate: float = 0.1
    noise: float = 0.0
    size: int = 2
    steps: int = 12

    def __post_init__(self):
        if self.learning_rate <= 0.0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")


def descend(config):
    """Gradient descent on |w|^2 / 2, from a random start."""

    def init(key):
        w = jax.random.normal(key, (config.size,))
        return MetaState(jnp.int32(0), {"w": w}, opt_state=(), estimator=key, curriculum=(), lifetimes=())

    def step(state, key):
        w = state.params["w"]
        noise = config.noise * jax.random.normal(key, w.shape)
        after = w - config.learning_rate * w + noise
        return state._replace(step=state.step + 1, params={"w": after}), {"meta_loss": w @ w, "fitness": -w @ w, "w": w}

    return metarl.Meta(init, step)


def compilations(caplog):
    return [r for r in caplog.records if r.getMessage().startswith("Compiling jit(run)")]
