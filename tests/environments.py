"""What every environment of `envs.make` must do: for the tests of ours, of gymnax, and of the adapters."""

import functools

import jax
import jax.numpy as jnp

# Tests compile more than they compute.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def check_environment(levels, lanes=2, steps=3):
    """Resets and steps under jit(vmap(scan)), where the state must keep its tree, shapes and dtypes."""
    env = levels.env
    params = quick_jit(levels.sample)(jax.random.key(0)).problem
    space, actions = env.observation_space(params), env.action_space(params)

    def run(key, params):
        first, state = env.reset(key, params)

        def body(carry, key):
            obs, state, *rest, info = env.step(key, carry[1], actions.sample(key), params)
            return (obs, state), (obs, *rest, info["final_observation"])

        return first, *jax.lax.scan(body, (first, state), jax.random.split(key, steps))[1]

    keys = jax.random.split(jax.random.key(0), lanes)
    first, obs, reward, terminated, truncated, final = quick_jit(jax.vmap(run, (0, None)))(keys, params)
    assert first.shape == (lanes, *space.shape) and obs.shape == final.shape == (lanes, steps, *space.shape)
    assert first.dtype == obs.dtype == final.dtype == space.dtype
    assert reward.shape == terminated.shape == truncated.shape == (lanes, steps)
    assert reward.dtype == jnp.float32 and terminated.dtype == truncated.dtype == bool
    assert all(bool(jnp.isfinite(x).all()) for x in (first, obs, reward))
    return first, obs, reward, terminated, truncated, final


def check_types(levels):
    """No weakly typed leaf, which would compile a program a second time when its state comes back."""
    env, params = levels.env, jax.eval_shape(levels.sample, jax.random.key(0)).problem
    obs, state = jax.eval_shape(env.reset, jax.random.key(0), params)
    action = jax.eval_shape(lambda key: env.action_space(env.default_params).sample(key), jax.random.key(0))
    after = jax.eval_shape(env.step, jax.random.key(0), state, action, params)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((params, obs, state, after[:5])))
