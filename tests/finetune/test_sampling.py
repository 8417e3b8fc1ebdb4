"""Drawing answers to problems, and the share of them that is correct."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from finetuning import POLICY, Echo, FirstToken

from metarl.finetune import Sampling, success_rate
from metarl.finetune.sampling import answered, problems_of


def test_copies_of_a_problem_are_neighbours():
    problems = problems_of(Echo(), jax.random.key(0), 5, 3).token.reshape(5, 3)
    assert (problems == problems[:, :1]).all() and len(np.unique(problems)) > 1


def test_no_gradient_flows_through_answers():
    def total(params):
        problems = problems_of(Echo(), jax.random.key(0), 4)
        batch = answered(POLICY, params, Echo(), problems, jax.random.key(1))
        return batch.old_log_prob.sum() + batch.entropy.sum()

    assert optax.tree.norm(jax.jit(jax.grad(total))(POLICY.init(jax.random.key(2)))) == 0.0


def test_the_success_rate_is_the_share_of_correct_answers():
    """A policy that is uniform over four tokens; and a greedy one that always says the same."""
    params = POLICY.init(jax.random.key(0))
    nothing = jnp.zeros_like(params["read_out"])
    uniform = params | {"read_out": nothing}
    constant = {"embedding": jnp.ones_like(params["embedding"]), "read_out": nothing.at[:, 2].set(9.0)}
    rate = jax.jit(success_rate, static_argnums=(0, 1, 4))
    assert rate(POLICY, FirstToken(), uniform, jax.random.key(1), 2000, 1.0) == pytest.approx(0.25, abs=0.04)
    assert rate(POLICY, Echo(), uniform, jax.random.key(1), 2000, 1.0) == pytest.approx(1 / 64, abs=0.015)
    assert rate(POLICY, FirstToken(), constant, jax.random.key(1), 2000) == pytest.approx(1 / 3, abs=0.04)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Sampling(0), "num_problems must be at least 1, got 0"),
        (lambda: Sampling(4, 1), "group_size must be at least 2, got 1"),
        (lambda: Sampling(temperature=-1.0), "temperature must be at least 0, got -1.0"),
    ],
)
def test_bad_options_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()
