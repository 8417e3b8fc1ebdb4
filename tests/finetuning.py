"""A task, a policy and a batch that the tests of fine-tuning share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metarl
from metarl.finetune import Data, Losses, Sampling, credit, finetune, losses, sources, terms, updates
from metarl.finetune.batch import Batch
from metarl.finetune.policies import SequencePolicy
from metarl.types import Level, Verdict

# --- a batch --------------------------------------------------------------------------------------------------

LOGITS = np.array([0.3, -1.2, 2.0, 0.0, 0.7])
REF_LOGITS = np.array([1.0, 0.4, 0.5, -2.0, 2.1])
B, T, V = 6, 4, 5
LENGTHS = np.array([4, 2, 3, 1, 4, 2])


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def score(token):
    """The gradient of `log pi(token)` by the logits."""
    return np.eye(V)[token] - softmax(LOGITS)


def batch(**changes):
    """Two prompts with three answers each; the last two of each begin with a demonstration."""
    numbers = np.random.default_rng(0).normal(size=(4, B, T)).astype(np.float32)
    fields = {
        "prompts": jnp.zeros((B, 2), jnp.int32),
        "answers": jnp.arange(B * T, dtype=jnp.int32).reshape(B, T) % V,
        "mask": jnp.array(np.arange(T) < LENGTHS[:, None]),
        "old_log_prob": jnp.array(-np.abs(numbers[0])),
        "reward": jnp.array([1.0, 0.0, 0.25, 0.0, 2.0, 1.0]),
        "correct": jnp.array([True, False, False, False, True, True]),
        "prefix_length": jnp.array([0, 1, 1, 0, 2, 2], jnp.int32),
        "value": jnp.array(numbers[2]),
        "entropy": jnp.array(np.abs(numbers[3])),
    }
    return Batch(**(fields | changes))


def corrupted(x):
    """The same batch with other tokens, and wild numbers of them, after the ends of the answers."""

    def spoil(leaf, junk):
        return jnp.where(x.mask, leaf, junk)

    return x._replace(
        answers=spoil(x.answers, (x.answers + 1) % V),
        old_log_prob=spoil(x.old_log_prob, -9.0),
        value=spoil(x.value, 1e3),
        entropy=spoil(x.entropy, 50.0),
    )


# --- a task ---------------------------------------------------------------------------------------------------

END = 0


class Problem(NamedTuple):
    token: jax.Array


class Echo:
    """Say the token that the prompt has, twice, and end. Demonstrations are right, or `says` something else."""

    num_tokens, end, prompt_length, answer_length, kinds = 4, END, 1, 3, ("right", "wrong")

    def __init__(self, says=None):
        self.says = says

    def sample(self, key):
        return Problem(jax.random.randint(key, (), 1, 4))

    def prompt(self, problem):
        return problem.token[None]

    def demonstrate(self, key, problem):
        token = problem.token if self.says is None else jnp.int32(self.says)
        return jnp.array([token, token, END])

    def verify(self, problem, answer):
        right = (answer == jnp.array([problem.token, problem.token, END])).all()
        # some credit for a good beginning, so that a newborn policy has something to go by
        reward = jnp.where(right, 1.0, 0.3 * (answer[0] == problem.token))
        return Verdict(reward.astype(jnp.float32), right, jnp.where(right, 0, 1))


class FirstToken(Echo):
    """As `Echo`, but an answer is correct, with reward 1, if its first token is; another one has reward 0."""

    def verify(self, problem, answer):
        right = answer[0] == problem.token
        return Verdict(right.astype(jnp.float32), right, jnp.where(right, 0, 1))


def bag(num_tokens, width, outputs):
    """A network whose outputs are of the tokens so far in any order; its cache is their sum. It compiles fast."""

    def init(key):
        embedding, read_out = jax.random.split(key)
        scale = width**-0.5
        return {
            "embedding": jax.random.normal(embedding, (num_tokens, width)),
            "read_out": scale * jax.random.normal(read_out, (width, outputs)),
        }

    def read(params, total):
        return jnp.tanh(total / 2) @ params["read_out"]

    def apply(params, tokens):
        return read(params, jnp.cumsum(params["embedding"][tokens], axis=0))

    def prefill(params, prompt, room):
        total = params["embedding"][prompt].sum(0)
        return read(params, total), total

    def decode(params, total, token):
        total = total + params["embedding"][token]
        return read(params, total), total

    return SequencePolicy(num_tokens, init, apply, prefill, decode)


POLICY = bag(4, 8, 4)
SIZES = Sampling(num_problems=4, group_size=4)


def loop(
    controller,
    optimizer=None,
    *,
    task=None,
    sampling=SIZES,
    answers=None,
    demonstrations=None,
    advantages=None,
    update=None,
    passes=(1, 1),
    imitation=None,
    reward=None,
    reduce=terms.token_mean,
    utility=None,
    policy=POLICY,
):
    """An inner loop on `Echo` by plain SGD, with whatever parts are given."""
    task = task or Echo()
    data = Data(
        answers or sources.fresh(task, sampling),
        demonstrations or sources.demonstrations(task, 8),
        *passes,
    )
    chosen = Losses(imitation or losses.sft(), reward or losses.ppo_clip(), reduce)
    advantages = advantages or credit.dr_grpo(sampling.group_size)
    update = update or updates.joint(optax.sgd(0.5) if optimizer is None else optimizer)
    return finetune(policy, policy.init, data, advantages, controller, update, losses=chosen, utility=utility)


def newborn(inner, horizon=100, seed=0):
    return inner.init(jax.random.key(seed), Level((), jnp.int32(horizon)))


def step_of(inner, tuning, key=1):
    """One step, compiled, of a loop without meta-parameters or with those that it begins with."""
    return jax.jit(inner.step)(inner.init_meta(jax.random.key(0)), tuning, jax.random.key(key))


def levels(horizon):
    return metarl.Levels(lambda key: Level((), jnp.int32(horizon)))


def constant_levels(horizon):
    return metarl.curricula.uniform(levels(horizon))
