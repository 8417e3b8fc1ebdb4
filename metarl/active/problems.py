"""Problems of active learning with noisy answers, how difficult their instances are, and classes of difficulty.

An instance is a vector theta [X]. Query x is answered by theta[x] plus normal noise of deviation 1. After `budget`
answers the learner names a candidate. Right is the one whose code has the largest product with theta (Zhang et al.
2020, arXiv 2010.15382).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl.checks import COUNT, SEVERAL, checked
from metarl.types import Array, Key

HALVINGS = 30  # of the interval in which `project` searches


class Problem(NamedTuple):
    """A family of instances theta [X]."""

    codes: np.ndarray  # [Z, X] float32, the candidates: of numpy, because to make a problem must not start JAX
    budget: int  # answers before a candidate must be named
    sample: Callable[[Key], Array]  # key -> theta [X] in [-1, 1]: the prior of average-case training
    # theta [X] -> () how many answers an instance takes, up to a factor: it falls if the right code is added to theta
    complexity: Callable[[Array], Array]

    def right(self, theta: Array) -> Array:
        """() int32, the candidate that is right for `theta` [X]; the first of several."""
        return jnp.argmax(self.codes @ theta)


@checked
def best_arm(arms: Annotated[int, SEVERAL] = 5, budget: Annotated[int, COUNT] = 20) -> Problem:
    """Find the arm with the largest mean. A query pulls an arm; prior means are uniform in [-1, 1].

    The complexity is the sum over the other arms of 1 / gap^2 (Audibert, Bubeck and Munos 2010).
    Raises ValueError for fewer than 2 arms and for no budget.
    """

    def complexity(theta: Array) -> Array:
        best = jnp.argmax(theta)
        gaps = theta[best] - theta
        return jnp.where(jnp.arange(arms) == best, 0.0, 1.0 / gaps**2).sum()

    sample = partial(jax.random.uniform, shape=(arms,), minval=-1.0, maxval=1.0)
    return Problem(np.eye(arms, dtype=np.float32), budget, sample, complexity)


@checked
def twenty_questions(
    hypotheses: Annotated[int, SEVERAL] = 32,
    questions: Annotated[int, COUNT] = 10,
    budget: Annotated[int, COUNT] = 20,
) -> Problem:
    """Find one of several hypotheses by questions that it answers with +1 or -1, each with a reliability of its own.

    The first questions number the hypotheses in binary, the others are random. Under the prior every hypothesis is as
    likely, and reliabilities are uniform in [0, 1]: theta is their product with the code of the hypothesis.

    The complexity is the largest X d / gap^2 over wrong hypotheses. Such a one differs from the right one in d of X
    questions, and `gap` is half the difference of their products with theta. The lower bound of arXiv 2010.15382 is the
    least of this over all ways to allocate answers to questions; here all questions get equally many.

    Raises ValueError for fewer than 2 hypotheses, no budget, and for too few questions to tell hypotheses apart.
    """
    bits = (hypotheses - 1).bit_length()
    if questions < bits:
        raise ValueError(f"questions must be at least {bits} to tell {hypotheses} hypotheses apart, got {questions}")
    number = np.arange(hypotheses)[:, None] >> np.arange(bits) & 1
    others = np.random.default_rng(0).integers(2, size=(hypotheses, questions - bits))
    codes = 2.0 * np.concatenate([number, others], 1).astype(np.float32) - 1.0

    def sample(key: Key) -> Array:
        which, how = jax.random.split(key)
        return jnp.asarray(codes)[jax.random.randint(which, (), 0, hypotheses)] * jax.random.uniform(how, (questions,))

    def complexity(theta: Array) -> Array:
        products = codes @ theta
        best = jnp.argmax(products)
        gaps = 0.5 * (products[best] - products)
        different = (codes != jnp.asarray(codes)[best]).sum(1)
        return jnp.where(different > 0, questions * different / gaps**2, 0.0).max()

    return Problem(codes, budget, sample, complexity)


def project(problem: Problem, theta: Array, radius: Array | float) -> Array:
    """The instance [X] near `theta` [X] with complexity at most `radius`, () or a number above 0.

    Entries are cut to [-1, 1]. If the complexity is still too high, the right candidate is made more right: the
    smallest multiple of its code is added that suffices. (For one arm's gap this is the nearest instance that leaves
    the other arms where they are; it is not the Euclidean projection, whose class is not convex.)
    """
    theta = jnp.clip(theta, -1.0, 1.0)
    code = jnp.asarray(problem.codes)[problem.right(theta)]

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        enough = problem.complexity(theta + middle * code) <= radius
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    ends = jnp.float32(0.0), jnp.sqrt(theta.size / jnp.float32(radius))  # a gap of `high` in every query suffices
    _, high = jax.lax.fori_loop(0, HALVINGS, halve, ends)
    return jnp.where(problem.complexity(theta) <= radius, theta, theta + high * code)
