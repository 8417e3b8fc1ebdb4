"""The table at the end of a meta-training run: how agents do that a rule has trained on levels it never saw."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import envs
import metarl
from experiments.agents import family
from metarl.evaluate import final_returns, normalised_return
from metarl.meta import InnerLoop
from metarl.types import Array, Key, Levels, MetaParams

HELD_OUT = 2**31 - 1  # draws the held-out levels; training draws its own from split keys, so they never meet


def held_out_report(
    config: Any, levels: Levels, inner: InnerLoop, rules: Mapping[str, Callable[[Key], MetaParams]]
) -> dict[str, dict[str, float]]:
    """Normalised final returns `{name: {mean, low, high, return}}` on held-out levels, with 95 % intervals.

    Of the agents that each of `rules` trains (a function of a key, called once per seed), of A2C, of the
    uniformly random policy and, where it is known, of the optimal one. Random scores 0; optimal scores 1
    where it is known, else A2C. `config` has the fields of `experiments.lpg.Config`.
    """
    env = levels.env
    held_out = jax.vmap(levels.sample)(jax.random.split(jax.random.key(HELD_OUT), config.held_out_levels))
    num_updates = int(held_out.horizon.max())
    kind = family(config.levels, env)
    a2c = metarl.rl_inner_loop(
        env,
        kind.network,
        metarl.objectives.a2c(normalise_advantage=True),
        kind.a2c,
        num_envs=config.num_envs,
        rollout_length=config.rollout_length,
    )

    def after(num_updates: int, inner: InnerLoop) -> Callable[[Callable[[Key], MetaParams]], Array]:
        one_seed = jax.jit(
            partial(
                final_returns,
                inner,
                levels=held_out,
                num_seeds=1,
                num_updates=num_updates,
                batch_size=config.held_out_batch,
            )
        )
        keys = jax.random.split(jax.random.key(HELD_OUT - 1), (config.held_out_seeds, 2))
        return lambda rule: jnp.concatenate([one_seed(rule(rule_key), key=agent_key) for rule_key, agent_key in keys])

    learned = after(num_updates, inner)
    results = {name: learned(rule) for name, rule in rules.items()}
    results["a2c"] = after(num_updates, a2c)(a2c.init_meta)
    # A newborn agent's policy is as good as uniform (and a Gaussian of unit deviation for continuous actions).
    results["random"] = after(0, a2c)(a2c.init_meta)
    best = results["a2c"]
    if optimum := envs.optimal_return(env):
        best = results["optimal"] = jax.lax.map(optimum, held_out.env_params, batch_size=64)[None]
    zero, one = results["random"].mean(0), best.mean(0)
    if not (one - zero).mean() > 0:
        print("the reference is not above random: the report has plain returns, not normalised ones", file=sys.stderr)
        zero, one = jnp.zeros_like(zero), jnp.ones_like(one)
    return {
        name: {**normalised_return(value, zero, one)._asdict(), "return": float(value.mean())}
        for name, value in results.items()
    }
