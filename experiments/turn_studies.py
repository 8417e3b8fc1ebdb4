"""Studies of `experiments.mechanisms` on what a policy learns from its second tries, and from judging answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from envs import tokens
from envs.tokens import HintedSorting, Turns
from experiments.bandit_studies import Claims, Rows
from experiments.token_studies import (
    GROUPS,
    Arm,
    Found,
    Look,
    Make,
    Methods,
    always,
    arm,
    compare,
    imitated,
    last,
    small_policy,
    success_on,
)
from metarl.finetune import Credit, Sampling, SequencePolicy, Source, credit, losses, refinement, sources
from metarl.finetune.sampling import answered, problems_of
from metarl.finetune.tasks import Judging
from metarl.finetune.turns import solved
from metarl.types import Array, Key, Params


def sorting(tries: int) -> Turns:
    """Sorting of two to four digits with hints, whose demonstrations are mostly wrong at first."""
    return Turns(HintedSorting(2, 4, room=4), tries, mistakes=0.8)


def refinements(keys: Key) -> tuple[Rows, Claims]:
    """Critique-GRPO: what was put right after a hint teaches to be right without one.

    A step of GRPO has 16 answers to each of 8 problems, one of Critique-GRPO 8 answers and room for as many second
    tries, which those need that were wrong. Credit is centred, and losses are means over tokens.
    """
    task, one = sorting(2), sorting(1)
    policy = small_policy(task, 64)

    answers = refinement.refined(task, GROUPS, count=2)
    plain = arm(one, GROUPS, answers=answers, credit=credit.dr_grpo(10))

    def shaped(start: Params, gamma: Array) -> Arm:
        return plain._replace(loss=losses.shaped(losses.reinforce(), gamma))

    methods: Methods = {
        "GRPO": always(arm(one, Sampling(8, 16))),
        "GRPO, 8 answers": always(arm(one, GROUPS)),
        "Critique-GRPO, gamma 0.1": (shaped, 0.1),
        "Critique-GRPO, gamma 1": (shaped, 1.0),
        "refinements, not shaped": always(plain),
    }
    starts = imitated(policy, task, keys, 150)
    look = success_on(policy, one)
    found = compare(policy, methods, starts, keys, 300, look, looks=10, rate=2e-3)
    start = jax.jit(jax.vmap(look))(starts, keys)
    rows: Rows = {"base policy": {"solved": start["solved"], "solved, mean over the training": start["solved"]}}
    rows |= {
        name: {**last(x, "solved"), "solved, mean over the training": x["solved"].mean(1)} for name, x in found.items()
    }
    critique, grpo = rows["Critique-GRPO, gamma 0.1"], rows["GRPO"]
    unshaped = rows["refinements, not shaped"]
    return rows, {
        "Critique-GRPO solves more than GRPO": (critique["solved"] - grpo["solved"], "solved"),
        "and more over the training": (
            critique["solved, mean over the training"] - grpo["solved, mean over the training"],
            "solved",
        ),
        "shaping helps": (critique["solved"] - unshaped["solved"], "solved"),
        "it solves more than GRPO with 8 answers": (critique["solved"] - rows["GRPO, 8 answers"]["solved"], "solved"),
    }


def recursion(keys: Key) -> tuple[Rows, Claims]:
    """RISE: imitation of the best next tries teaches to put right what was wrong.

    All draw answers to 8 problems in a step, and imitate. RISE makes a transcript of each, and 8 next tries in a state
    of it: 12 tries, which count as 36, because they are drawn as whole transcripts. The others make 9 transcripts, 36
    first tries, or 12 of each.
    """
    tries = 4
    task, one = sorting(tries), sorting(1)
    policy = small_policy(task, 64)

    next_tries = refinement.improved(task, GROUPS)

    def imitate(chosen: Credit, answers: Source) -> tuple[Make, Any]:
        return always(arm(answers.task, GROUPS, answers=answers, credit=chosen))

    methods: Methods = {
        "best of 36 first tries": imitate(credit.best_of(36), sources.fresh(one, Sampling(8, 36))),
        "best of 12 first tries": imitate(credit.best_of(12), sources.fresh(one, Sampling(8, 12))),
        "best transcripts": imitate(credit.best_of(9), sources.fresh(task, Sampling(8, 9))),
        "RISE, the best next tries": imitate(credit.best_of(8), next_tries),
        "RISE, weighted by exp(reward / 0.3)": imitate(credit.reward_weighted(8, 0.3), next_tries),
    }
    starts = imitated(policy, task, keys, 300)
    look = solved_in(policy, task)
    found = compare(policy, methods, starts, keys, 300, look, looks=1, rate=2e-3)
    columns = "in one try", "in all", "put right"
    start = jax.jit(jax.vmap(look))(starts, keys)
    rows: Rows = {"base policy": {what: start[what] for what in columns}}
    rows |= {name: last(x, *columns) for name, x in found.items()}
    rise, once = rows["RISE, the best next tries"], rows["best of 12 first tries"]
    claims: Claims = {
        f"RISE puts more right than {name}": (rise["put right"] - row["put right"], "of what was wrong at first")
        for name, row in rows.items()
        if not name.startswith("RISE")
    }
    claims["RISE solves more in all tries than the best of 12 first tries"] = (
        rise["in all"] - once["in all"],
        "solved",
    )
    return rows, claims


def solved_in(policy: SequencePolicy, task: Turns, count: int = 256) -> Look:
    """What is solved in one try and in all, and the share that later tries put right, at temperature 1."""

    def look(params: Params, key: Key) -> Found:
        problem_key, key = jax.random.split(key)
        right = solved(answered(policy, params, task, problems_of(task, problem_key, count), key), task.tries)
        one, every = right[:, 0].mean(), right[:, -1].mean()
        return {"in one try": one, "in all": every, "put right": (every - one) / jnp.maximum(1.0 - one, 1.0 / count)}

    return look


def judging(keys: Key) -> tuple[Rows, Claims]:
    """CRL: policies that also judge answers solve more, for as many answers."""
    plain = tokens.make_task("sorting", shortest=2, longest=4, room=4)
    shares = (0.0, 0.2, 0.5)
    solving, judged = Judging(plain, 0.0), Judging(plain, 1.0)
    policy = small_policy(solving, 64)
    methods = {f"{share:.0%} judging": always(arm(Judging(plain, share), Sampling(16, 16))) for share in shares}

    def look(params: Params, key: Key) -> Found:
        sampled = partial(success_on, policy, temperature=1.0)
        return {"solved": sampled(solving)(params, key)["solved"], "judged": sampled(judged)(params, key)["solved"]}

    starts = imitated(policy, Judging(plain, 0.5), keys, 500)
    found = compare(policy, methods, starts, keys, 400, look, looks=1, rate=1e-3)
    columns = "solved", "judged"
    start = jax.jit(jax.vmap(look))(starts, keys)
    rows: Rows = {"base policy": {what: start[what] for what in columns}}
    rows |= {name: last(x, *columns) for name, x in found.items()}
    none, some = rows["0% judging"], [name for name in methods if not name.startswith("0%")]
    claims: Claims = {
        f"{name}: more is solved than with none": (rows[name]["solved"] - none["solved"], "solved") for name in some
    }
    for name in some:
        claims[f"{name}: more is judged than before"] = rows[name]["judged"] - start["judged"], "judged"
    return rows, claims


STUDIES: dict[str, Callable[[Key], tuple[Rows, Claims]]] = {
    "refinements": refinements,
    "recursion": recursion,
    "judging": judging,
}
