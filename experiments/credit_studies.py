"""Studies of `experiments.mechanisms` on credit for parts of answers: segments, hard problems, and branches.

All methods of a study begin at the same base policies, one for each seed. Those that draw answers draw as many.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from envs import tokens
from experiments.bandit_studies import Claims, Rows
from experiments.study_tasks import Compositions, Failing
from experiments.token_studies import (
    GROUPS,
    Arm,
    Found,
    Look,
    Methods,
    always,
    arm,
    compare,
    imitated,
    last,
    optimizer,
    small_policy,
    sorting,
    success_on,
)
from metarl.finetune import Batch, Sampling, SequencePolicy, TokenCritic, categories, credit, policies, rewards, sources
from metarl.finetune.sampling import answered, problems_of
from metarl.finetune.tasks import Categories
from metarl.types import Array, Key, Params, TokenTask

# --- rewards of segments ----------------------------------------------------------------------------------------


def solutions(task: TokenTask, batch: Batch) -> Array:
    """The only right answer [B, T] to each problem of a task that draws nothing to demonstrate it."""
    return jax.vmap(task.demonstrate, (None, 0))(jax.random.key(0), batch.problem)


def errors(task: TokenTask, batch: Batch) -> Array:
    """-1 for each token [B, T] that is not the one at its place in the solution: whoever says less errs less."""
    return jnp.where(batch.answers == solutions(task, batch), 0.0, -1.0)


def completeness(task: TokenTask, batch: Batch) -> Array:
    """Scores [B, T] whose sum is the share of the solution's length that an answer has, whatever it says."""
    wanted = solutions(task, batch) != task.end
    given = wanted & (batch.answers != task.end)
    return given / wanted.sum(1, keepdims=True)


def is_last(batch: Batch) -> Array:
    """Which tokens [B, T] bool are the last of their answer."""
    return credit.outcome(batch._replace(reward=jnp.ones(len(batch.answers)))) > 0.0


def look_at_errors(policy: SequencePolicy, task: TokenTask) -> Look:
    """Success, errors and completeness of answers at temperature 1."""

    def look(params: Params, key: Key) -> Found:
        problem_key, key = jax.random.split(key)
        drawn = answered(policy, params, task, problems_of(task, problem_key, 256), key)
        return {
            "solved": drawn.correct.mean(),
            "errors": -rewards.process(partial(errors, task))(drawn).sum(1).mean(),
            "completeness": rewards.process(partial(completeness, task))(drawn).sum(1).mean(),
        }

    return look


def segments(keys: Key) -> tuple[Rows, Claims]:
    """Fine-grained rewards: errors teach more where they are made, and weights say what matters more."""
    task = sorting(2, 4)
    policy = small_policy(task, 64)
    scorers = partial(errors, task), partial(completeness, task)

    def rewarded(start: Params, value: tuple[Array, Array, Array, Array]) -> Arm:
        fine, *weights, outcome = value
        ends = (lambda batch: is_last(batch) | (batch.mask & (fine > 0.0))), is_last
        of_segments = rewards.segments(scorers, ends, weights)  # type: ignore[arg-type]
        critic = TokenCritic(policies.gru(task.num_tokens, 64, outputs=1), optimizer(5e-3))
        every = lambda batch: of_segments(batch) + outcome * credit.outcome(batch)  # noqa: E731
        return arm(task, GROUPS, credit=credit.gae(critic, rewards=every))

    methods: Methods = {
        "outcome only": (rewarded, (0.0, 0.0, 0.0, 1.0)),
        "both at the end": (rewarded, (0.0, 1.0, 1.0, 0.0)),
        "errors where they are": (rewarded, (1.0, 1.0, 1.0, 0.0)),
        "errors where they are, x 4": (rewarded, (1.0, 4.0, 1.0, 0.0)),
        "completeness x 4": (rewarded, (1.0, 1.0, 4.0, 0.0)),
    }
    look = look_at_errors(policy, task)
    found = compare(policy, methods, imitated(policy, task, keys, 150), keys, 300, look, looks=10)
    rows = {
        name: {**last(x, "solved", "errors", "completeness"), "solved, mean over the training": x["solved"].mean(1)}
        for name, x in found.items()
    }
    fine = rows["errors where they are"]
    claims: Claims = {}
    for name in ("both at the end", "outcome only"):
        for column in ("solved", "solved, mean over the training"):
            claims[f"{column}: more where errors are punished at once than with {name}"] = (
                fine[column] - rows[name][column],
                "solved",
            )
    more, complete = rows["errors where they are, x 4"], rows["completeness x 4"]
    return rows, claims | {
        "more weight on errors, fewer errors": (complete["errors"] - more["errors"], "an answer"),
        "more weight on completeness, longer answers": (
            complete["completeness"] - more["completeness"],
            "of the length",
        ),
    }


# --- difficulty ---------------------------------------------------------------------------------------------------


def distance(task: TokenTask, batch: Batch) -> Array:
    """1 less the cosine [B] between the counts of tokens in an answer and in the solution."""

    def counts(answers: Array) -> Array:
        every = jax.nn.one_hot(answers, task.num_tokens) * (answers != task.end)[..., None]
        return every.sum(1)

    one, other = counts(jnp.where(batch.mask, batch.answers, task.end)), counts(solutions(task, batch))
    norms = jnp.linalg.norm(one, axis=1) * jnp.linalg.norm(other, axis=1)
    return 1.0 - (one * other).sum(1) / jnp.maximum(norms, 1e-6)


def difficulty(keys: Key) -> tuple[Rows, Claims]:
    """DR-IRL: advantages that are scaled by difficulty, where the hardest problems are the rarest."""
    frequencies = (0.6, 0.25, 0.1, 0.05)
    lengths = [tokens.make_task("sorting", shortest=n, longest=n, room=4) for n in (1, 2, 3, 4)]
    task, policy = Categories(tuple(lengths)), small_policy(sorting(1, 4), 64)
    answers = categories.categorised(task, lambda record, progress: jnp.array(frequencies), GROUPS)

    def scaled(start: Params, sharpness: tuple[Array, Array]) -> Arm:
        far, gap = sharpness
        plain = credit.by_difficulty(credit.grpo(8), lambda batch: far * distance(task, batch))
        return arm(task, GROUPS, answers=answers, credit=credit.by_difficulty(plain, lambda x: gap * (1.0 - x.reward)))

    methods: Methods = {
        "GRPO": (scaled, (0.0, 0.0)),
        "by distance": (scaled, (1.0, 0.0)),
        "by the gap in reward": (scaled, (0.0, 1.0)),
        "by both": (scaled, (1.0, 1.0)),
        "by five times both": (scaled, (5.0, 5.0)),
    }

    def look(params: Params, key: Key) -> Found:
        solved = [success_on(policy, one, temperature=1.0)(params, key)["solved"] for one in lengths]
        return {f"{n} digits": x for n, x in zip((1, 2, 3, 4), solved, strict=True)}

    found = compare(policy, methods, imitated(policy, task, keys, 150), keys, 400, look, looks=5)
    rows = {}
    for name, x in found.items():
        rows[name] = last(x, *(f"{n} digits" for n in (1, 2, 3, 4)))
        rows[name]["mean"] = np.mean(list(rows[name].values()), 0)
    plain, both, sharp = rows["GRPO"], rows["by both"], rows["by five times both"]
    return rows, {
        "scaled by both, more of the hardest is solved": (both["4 digits"] - plain["4 digits"], "solved"),
        "and more of all four": (both["mean"] - plain["mean"], "solved"),
        "scaled by five times both, more of the hardest is solved": (sharp["4 digits"] - plain["4 digits"], "solved"),
        "and more of all": (sharp["mean"] - plain["mean"], "solved"),
    }


# --- branches -----------------------------------------------------------------------------------------------------


def branches(keys: Key) -> tuple[Rows, Claims]:
    """EEF: demonstrations that fail are worth exploring from, where the policy itself hardly ever succeeds."""
    hard = Compositions(14, 18)
    policy = small_policy(hard)

    def branched(start: Params, failing: Array) -> Arm:
        answers = sources.branched(Failing(hard, failing), GROUPS)
        return arm(hard, GROUPS, answers=answers, credit=credit.successes())

    shown = sources.demonstrations(Failing(hard), 64)
    methods: Methods = {
        "own successes": always(arm(hard, GROUPS, credit=credit.successes())),
        "failed demonstrations": always(arm(hard, Sampling(1, 2), demonstrations=shown, imitation=1.0)),
        "successful branches off failed demonstrations": (branched, 1.0),
        "successful branches off right ones": (branched, 0.0),
    }
    look = success_on(policy, hard, temperature=1.0)
    starts = imitated(policy, Failing(hard), keys, 5)
    found = compare(policy, methods, starts, keys, 200, look, looks=10, rate=4e-3)
    start = jax.jit(jax.vmap(look))(starts, keys)["solved"]
    rows: Rows = {"base policy": {"solved": start, "solved, mean over the training": start}}
    rows |= {
        name: {**last(x, "solved"), "solved, mean over the training": x["solved"].mean(1)} for name, x in found.items()
    }
    failing = rows["successful branches off failed demonstrations"]["solved"]
    return rows, {
        f"branches off failed demonstrations: more is solved than with {name}": (failing - row["solved"], "solved")
        for name, row in rows.items()
        if not name.startswith("successful branches off failed")
    }


STUDIES: dict[str, Callable[[Key], tuple[Rows, Claims]]] = {
    "segments": segments,
    "difficulty": difficulty,
    "branches": branches,
}
