"""Studies of `experiments.mechanisms` on token tasks, with policies that learn in seconds.

All methods of a study begin at the same base policies, one for each seed, and draw as many answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from envs import tokens
from experiments.bandit_studies import Claims, Rows
from experiments.study_tasks import BEST, Compositions, Guessing, Praise, Whole, gold, in_order, praise
from metarl.finetune import (
    Credit,
    Data,
    GradientUpdate,
    Losses,
    Sampling,
    SequencePolicy,
    Source,
    TokenCritic,
    aepo,
    categories,
    constrained,
    controllers,
    credit,
    finetune,
    gflownet,
    losses,
    policies,
    rewards,
    sources,
    terms,
    updates,
)
from metarl.finetune.losses import Loss
from metarl.finetune.sampling import answered, problems_of
from metarl.finetune.tasks import Abstaining, Categories, Pool, solvable
from metarl.meta import InnerLoop
from metarl.types import Array, Key, Level, Params, Progress, PyTree, TokenTask

Found = dict[str, Array]  # leaves [looks], or [seeds, looks]
Look = Callable[[Params, Key], Found]  # what is measured of a policy, leaves ()

# --- a training -----------------------------------------------------------------------------------------------


class Arm(NamedTuple):
    """How a method differs from REINFORCE with group advantages."""

    answers: Source
    credit: Credit
    loss: Loss
    demonstrations: Source
    imitation: float = 0.0  # weight of the demonstrations
    around: Callable[[InnerLoop, GradientUpdate], InnerLoop] = lambda inner, update: inner  # what the loop becomes


def arm(task: TokenTask, sampling: Sampling, **changes: object) -> Arm:
    """REINFORCE with centred rewards, but for the `changes`."""
    plain = Arm(
        sources.fresh(task, sampling),
        credit.dr_grpo(sampling.group_size),
        losses.reinforce(),
        sources.demonstrations(task, 1),  # a step has some, though their weight is 0
    )
    return plain._replace(**changes)  # type: ignore[arg-type]


def optimizer(rate: float) -> optax.GradientTransformation:
    """Adam on clipped gradients."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def train(
    policy: SequencePolicy,
    method: Arm,
    start: Callable[[Key], Params],
    key: Key,
    steps: int,
    look: Look,
    looks: int = 10,
    rate: float = 2e-3,
) -> tuple[Params, Found]:
    """The policy after `steps` training steps, and what was found after each of `looks` equal parts of them."""
    data = Data(method.answers, method.demonstrations)
    update = updates.joint(optimizer(rate))
    inner = finetune(
        policy,
        start,
        data,
        method.credit,
        controllers.constant(method.imitation),
        update,
        losses=Losses(reward=method.loss),
    )
    inner = method.around(inner, update)
    init_key, key = jax.random.split(key)

    def step(tuning: PyTree, key: Key) -> tuple[PyTree, Found]:
        tuning, _, metrics = inner.step((), tuning, key)
        return tuning, {"entropy": metrics["entropy"], "success": metrics["success"]}

    def part(tuning: PyTree, key: Key) -> tuple[PyTree, Found]:
        look_key, key = jax.random.split(key)
        tuning, found = jax.lax.scan(step, tuning, jax.random.split(key, steps // looks))
        return tuning, {**jax.tree.map(lambda x: x.mean(), found), **look(tuning.params, look_key)}

    tuning = inner.init(init_key, Level((), jnp.int32(steps)))
    tuning, found = jax.lax.scan(part, tuning, jax.random.split(key, looks))
    return tuning.params, found


def imitated(policy: SequencePolicy, task: TokenTask, keys: Key, steps: int, count: int = 64) -> Params:
    """Base policies, leaves [seeds, ...]: newborn ones after `steps` of imitation."""
    method = arm(task, Sampling(1, 2), demonstrations=sources.demonstrations(task, count), imitation=1.0)
    make = lambda key: train(policy, method, policy.init, key, steps, lambda params, key: {}, 1, rate=3e-3)[0]  # noqa: E731
    return jax.jit(jax.vmap(make))(keys)


# How a method begins at a base policy, with whatever it depends on: one program for all methods of one `Make`.
Make = Callable[[Params, Any], Arm]
Methods = Mapping[str, tuple[Make, Any]]


def always(method: Arm) -> tuple[Make, Any]:
    """The same, wherever it begins."""
    return lambda start, value: method, ()


def compare(
    policy: SequencePolicy,
    methods: Methods,
    starts: Params,
    keys: Key,
    steps: int,
    look: Look,
    looks: int = 10,
    rate: float = 2e-3,
) -> dict[str, dict[str, np.ndarray]]:
    """What was found of each method, [seeds, looks]; methods that share a `Make` share a compiled program."""

    def program(make: Make) -> Callable[[Any, Params, Key], Found]:
        def run(value: Any, start: Params, key: Key) -> Found:
            return train(policy, make(start, value), lambda key: start, key, steps, look, looks, rate)[1]

        return jax.jit(jax.vmap(run, (None, 0, 0)))

    programs = {make: program(make) for make, _ in methods.values()}
    return {
        name: jax.tree.map(np.asarray, programs[make](jax.tree.map(jnp.float32, value), starts, keys))
        for name, (make, value) in methods.items()
    }


def success_on(policy: SequencePolicy, task: TokenTask, count: int = 256, temperature: float = 0.0) -> Look:
    """The share of fresh problems that are solved, greedily or sampled."""

    def look(params: Params, key: Key) -> Found:
        problem_key, key = jax.random.split(key)
        problems = problems_of(task, problem_key, count)
        return {"solved": answered(policy, params, task, problems, key, temperature).correct.mean()}

    return look


def last(found: Mapping[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    """What was found at the last look."""
    return {name: found[name][:, -1] for name in names}


def distinct(policy: SequencePolicy, task: TokenTask, count: int = 16, draws: int = 64) -> Look:
    """Correct and distinct correct answers among `draws` to each of `count` problems, and the entropy.

    The entropy is that of tokens drawn at temperature 1, which the answers of a training need not be.
    """

    def look(params: Params, key: Key) -> Found:
        problem_key, key = jax.random.split(key)
        drawn = answered(policy, params, task, problems_of(task, problem_key, count, draws), key)
        answers, correct = drawn.answers.reshape(count, draws, -1), drawn.correct.reshape(count, draws)
        assert drawn.entropy is not None  # the policy drew them
        return {
            "solved": correct.mean(),
            "distinct": (correct & is_first(answers)).sum(1).mean(),
            "entropy, temperature 1": terms.token_mean(drawn.entropy, drawn.mask),
        }

    return look


def is_first(answers: Array) -> Array:
    """Which answers [..., n] bool of n to a problem, [..., n, T], are like none before them."""
    same = (answers[..., :, None, :] == answers[..., None, :, :]).all(-1)
    return ~jnp.tril(same, -1).any(-1)


COMPOSITIONS = Compositions()
GROUPS = Sampling(8, 8)


def small_policy(task: TokenTask, width: int = 32) -> SequencePolicy:
    """A gated recurrent unit for the task."""
    return policies.gru(task.num_tokens, width)


# --- the studies --------------------------------------------------------------------------------------------------


def entropy(keys: Key) -> tuple[Rows, Claims]:
    """AEPO holds the entropy at a target, where GRPO loses it and a bonus has no target."""
    task, policy = COMPOSITIONS, small_policy(COMPOSITIONS)
    targets = (0.4, 0.6, 0.8)

    def held(start: Params, target: Array) -> Arm:
        # the paper's temperatures, 0.8 and 1.2, and its weight of 1 are too weak for policies that learn this fast
        answers = aepo.tempered(task, aepo.two_levels(target, 0.5, 2.0), 4, GROUPS)
        return arm(task, GROUPS, answers=answers, credit=aepo.grpo_and_tempered(8, 4, 4.0))

    def with_bonus(start: Params, coefficient: Array) -> Arm:
        loss = lambda x: losses.reinforce()(x) + coefficient * terms.entropy_bonus(x.now.logits)  # noqa: E731
        return arm(task, GROUPS, credit=credit.grpo(8), loss=loss)

    methods: dict[str, tuple[Make, Any]] = {"GRPO": (with_bonus, 0.0)}
    methods |= {f"GRPO, bonus {x:g}": (with_bonus, x) for x in (0.003, 0.01, 0.03)}
    methods |= {f"AEPO, target {x:g}": (held, x) for x in targets}
    starts = imitated(policy, task, keys, 30)
    found = compare(policy, methods, starts, keys, 300, distinct(policy, task), looks=60, rate=4e-3)
    # AEPO's own "entropy" is also that of answers at other temperatures
    entropy = "entropy, temperature 1"
    columns = entropy, "entropy", "solved", "distinct"
    rows = {name: {what: x[what][:, -6:].mean(1) for what in columns} for name, x in found.items()}  # the last 30 steps
    claims: Claims = {}
    for target in targets:
        off = np.abs(rows[f"AEPO, target {target:g}"][entropy] / target - 1.0)
        claims[f"AEPO is within 10 % of the target {target:g}"] = (0.1 - off, "of the target, to spare")
    solved = {target: rows[f"AEPO, target {target:g}"]["solved"] for target in targets}
    for end in (targets[0], targets[2]):
        claims[f"more is solved at target {targets[1]:g} than at {end:g}"] = solved[targets[1]] - solved[end], "solved"
    kept, lost = rows[f"AEPO, target {targets[1]:g}"], rows["GRPO"]
    claims[f"AEPO at {targets[1]:g} keeps more distinct answers than GRPO"] = (
        kept["distinct"] - lost["distinct"],
        "of 64",
    )
    claims["and solves less"] = lost["solved"] - kept["solved"], "solved"
    return rows, claims


def diversity(keys: Key) -> tuple[Rows, Claims]:
    """GFlowNet objectives keep more distinct correct answers than GRPO, at equal accuracy."""
    task, policy = COMPOSITIONS, small_policy(COMPOSITIONS)
    temperature = 0.02  # of rewards from 0 to 1: there are hundreds of wrong answers for a right one

    def balanced(start: Params, flow_lambda: Array) -> Arm:
        flow = TokenCritic(policies.gru(task.num_tokens, 32, outputs=1), optimizer(5e-3))
        return arm(task, GROUPS, credit=gflownet.balance(flow, temperature, flow_lambda))  # type: ignore[arg-type]

    methods: Methods = {
        "GRPO": always(arm(task, GROUPS, credit=credit.grpo(8))),
        "Var-TB": always(arm(task, GROUPS, loss=gflownet.var_tb(temperature))),
        "detailed balance": (balanced, 0.0),
        "subtrajectories, lambda 0.9": (balanced, 0.9),
    }
    starts = imitated(policy, task, keys, 30)
    found = compare(policy, methods, starts, keys, 400, distinct(policy, task), looks=20, rate=6e-3)
    level = np.min([x["solved"].max(1) for x in found.values()], 0)  # [seeds], which all of them reach
    rows = {}
    for name, x in found.items():
        first = (x["solved"] >= level[:, None]).argmax(1)
        at = np.arange(len(first)), first
        rows[name] = {
            "distinct at equal accuracy": x["distinct"][at],
            "accuracy there": x["solved"][at],
            **last(x, "solved", "distinct", "entropy"),
        }
    plain, claims = rows["GRPO"], {}
    for name, row in rows.items():
        for column in ("distinct at equal accuracy", "distinct", "solved"):
            if name != "GRPO":
                claims[f"{name}, {column}: more than GRPO"] = row[column] - plain[column], "difference"
    return rows, claims


def sorting(shortest: int, longest: int) -> TokenTask:
    """Sorting of some digits, with room for six."""
    return tokens.make_task("sorting", shortest=shortest, longest=longest, room=6)


def curriculum(keys: Key) -> tuple[Rows, Claims]:
    """What SEC's bandit chooses, and how the hardest problems fare, against other orders."""
    numbers = (4, 8, 12, 16, 18)  # of 18 there are 15 compositions with room for five parts
    task = Categories(tuple(Compositions(n, n) for n in numbers))
    hardest, policy = task.tasks[-1], small_policy(task)
    rules = {
        "random": lambda record, progress: jnp.ones(len(numbers)),
        "hardest only": lambda record, progress: jnp.array([0.0, 0.0, 0.0, 0.0, 1.0]),
        "easy to hard": categories.easy_to_hard(),
        "SEC, temperature 0.2": categories.bandit(0.2),
        "STAT": categories.missing(),
    }

    def chosen(start: Params, which: Array) -> Arm:
        def rule(record: categories.Record, progress: Progress) -> Array:
            every = jnp.stack([jnp.asarray(one(record, progress), float) for one in rules.values()])
            return every[which.astype(jnp.int32)]

        return arm(task, GROUPS, answers=categories.categorised(task, rule, GROUPS), credit=credit.grpo(8))

    methods: dict[str, tuple[Make, Any]] = {name: (chosen, i) for i, name in enumerate(rules)}
    again = sources.failed_first(task, GROUPS)
    methods["failed first"] = always(arm(task, GROUPS, answers=again, credit=credit.grpo(8)))

    def look(params: Params, key: Key) -> Found:
        first, second = jax.random.split(key)
        sampled = partial(success_on, policy, temperature=1.0)
        return {
            "hardest": sampled(hardest)(params, first)["solved"],
            "all": sampled(task)(params, second)["solved"],
        }

    found = compare(policy, methods, imitated(policy, task, keys, 30), keys, 300, look, looks=5, rate=4e-3)
    rows = {
        name: {**last(x, "hardest", "all"), "hardest, mean over the training": x["hardest"].mean(1)}
        for name, x in found.items()
    }
    sec = rows["SEC, temperature 0.2"]["hardest"]
    return rows, {
        f"SEC solves more of the hardest than {name}": (sec - row["hardest"], "solved")
        for name, row in rows.items()
        if not name.startswith("SEC")
    }


def process(keys: Key) -> tuple[Rows, Claims]:
    """ReNorm keeps the rewards of a judge that can be fooled from paying for wrong answers."""
    task = sorting(2, 4)
    policy, judge = small_policy(task, 64), in_order(0.2)
    kinds = {
        "outcome only": credit.outcome,
        "process only": rewards.process(judge),
        "sum of both": rewards.process_and_outcome(judge),
        "ReNorm": rewards.renormed(judge),
    }

    def rewarded(start: Params, which: Array) -> Arm:
        critic = TokenCritic(policies.gru(task.num_tokens, 64, outputs=1), optimizer(5e-3))
        every = lambda batch: jnp.stack([kind(batch) for kind in kinds.values()])[which.astype(jnp.int32)]  # noqa: E731
        return arm(task, GROUPS, credit=credit.gae(critic, rewards=every))

    methods: Methods = {name: (rewarded, i) for i, name in enumerate(kinds)}

    def look(params: Params, key: Key) -> Found:
        problem_key, key = jax.random.split(key)
        drawn = answered(policy, params, task, problems_of(task, problem_key, 256), key, 0.0)
        liked = rewards.process(judge)(drawn).sum(1).mean()
        return {"solved": drawn.correct.mean(), "the judge's score": liked, "length": drawn.mask.sum(1).mean()}

    found = compare(policy, methods, imitated(policy, task, keys, 150), keys, 500, look)
    rows = {name: last(x, "solved", "the judge's score", "length") for name, x in found.items()}
    best = rows["ReNorm"]["solved"]
    return rows, {
        f"ReNorm solves more than {name}": (best - row["solved"], "solved")
        for name, row in rows.items()
        if name != "ReNorm"
    }


# --- abstention -------------------------------------------------------------------------------------------------------


def abstention(keys: Key) -> tuple[Rows, Claims]:
    """A ternary reward teaches to abstain where one is wrong more often than right; a binary one to guess."""
    plain, policy = Guessing(), small_policy(Guessing(), 16)
    ternary = Abstaining(plain)

    def look(params: Params, key: Key) -> Found:
        problem_key, key = jax.random.split(key)
        problems = problems_of(ternary, problem_key, 2000)
        drawn = answered(policy, params, ternary, problems, key)
        abstained, unsure = drawn.answers[:, 0] == 0, problems.sure < 5
        return {
            "abstains below even chances": (abstained & unsure).sum() / unsure.sum(),
            "above": (abstained & ~unsure).sum() / (~unsure).sum(),
            "right": drawn.correct.mean(),
            "wrong": (~drawn.correct & ~abstained).mean(),
        }

    methods: Methods = {
        "binary reward": always(arm(plain, GROUPS)),
        "ternary reward": always(arm(ternary, GROUPS)),
    }
    starts = jax.vmap(policy.init)(keys)
    found = compare(policy, methods, starts, keys, 400, look, rate=1e-2)
    names = ("abstains below even chances", "above", "right", "wrong")
    rows = {name: last(x, *names) for name, x in found.items()}
    binary, three = rows["binary reward"], rows["ternary reward"]
    return rows, {
        "the ternary reward leads to fewer wrong answers": (binary["wrong"] - three["wrong"], "of all"),
        "and the policy abstains where it should": (three[names[0]] - three[names[1]], "of the questions"),
        "it costs right answers": (binary["right"] - three["right"], "of all"),
    }


# --- over-optimisation ------------------------------------------------------------------------------------------------


PRAISE, PRAISED = Praise(), Sampling(4, 16)


def with_thresholds(kind: constrained.Kind, start: Params, thresholds: Array, rate: Array | float) -> Arm:
    """Constrained RLHF on the two proxies."""
    proxies = [lambda batch, word=word: praise(batch.answers, word) for word in (1, 2)]  # type: ignore[misc]
    answers = constrained.constrained(sources.fresh(PRAISE, PRAISED), proxies, thresholds, start, kind, rate)
    return arm(PRAISE, PRAISED, answers=answers, credit=credit.dr_grpo(16))


def gold_and_proxies(policy: SequencePolicy) -> Look:
    """The mean gold reward of texts, which no method sees, the mean proxies, and their deviation between texts.

    As gold is quadratic, 1 less its mean is the mean over both proxies of ((mean - BEST)^2 + deviation^2) / BEST^2.
    """

    def look(params: Params, key: Key) -> Found:
        drawn = answered(policy, params, PRAISE, problems_of(PRAISE, key, 512), key)
        one, two = (praise(drawn.answers, word) for word in (1, 2))
        return {
            "gold": gold(drawn.answers).mean(),
            "first proxy": one.mean(),
            "second proxy": two.mean(),
            "deviation": jnp.sqrt((one.var() + two.var()) / 2),
        }

    return look


def overoptimisation(keys: Key) -> tuple[Rows, Claims]:
    """Constrained RLHF holds two proxies where their sum would be over-optimised."""
    task, policy, sampling = PRAISE, small_policy(PRAISE, 16), PRAISED

    def held(kind: constrained.Kind, start: Params, value: tuple[Array, Array]) -> Arm:
        threshold, rate = value
        return with_thresholds(kind, start, jnp.full(2, threshold), rate)

    at_least, equal = partial(held, "inequality"), partial(held, "equality")

    def with_kl(start: Params, ends: tuple[Array, Array]) -> Arm:
        coefficient = controllers.cosine(*ends)
        loss = losses.with_kl(losses.reinforce(), lambda signals: coefficient(controllers.elapsed(signals.progress)))
        return arm(task, sampling, credit=credit.dr_grpo(16), loss=loss)

    methods: dict[str, tuple[Make, Any]] = {
        "sum of the proxies": (with_kl, (0.0, 0.0)),
        "the sum, KL 0.1": (with_kl, (0.1, 0.1)),
        "the sum, KL 0.2 to 0": (with_kl, (0.2, 0.0)),
    }
    for threshold in (BEST, 0.3):
        methods[f"mu, at least {threshold:g}"] = at_least, (threshold, 1.0)
        methods[f"xi, equal to {threshold:g}"] = equal, (threshold, 0.2)  # faster, it oscillates
    found = compare(policy, methods, imitated(policy, task, keys, 30), keys, 600, gold_and_proxies(policy), looks=30)
    columns = "gold", "first proxy", "second proxy", "deviation"
    rows = {name: {**last(x, *columns), "highest gold on the way": x["gold"].max(1)} for name, x in found.items()}
    plain = rows["sum of the proxies"]
    claims: Claims = {"the sum is over-optimised": (plain["highest gold on the way"] - plain["gold"], "gold, lost")}
    for name in (f"mu, at least {BEST:g}", f"xi, equal to {BEST:g}"):
        claims[f"{name} ends higher than the sum"] = (rows[name]["gold"] - plain["gold"], "gold")
        claims[f"{name} ends higher than the sum with a KL penalty"] = (
            rows[name]["gold"] - rows["the sum, KL 0.1"]["gold"],
            "gold",
        )
        lower = name.replace(f"{BEST:g}", "0.3")
        claims[f"{name} ends higher than {lower}"] = rows[name]["gold"] - rows[lower]["gold"], "gold"
    return rows, claims


def thresholds(keys: Key) -> tuple[Rows, Claims]:
    """Nelder-Mead finds the thresholds of constrained RLHF where few gold rewards are to be had.

    Each of 20 evaluations is the gold reward of short trainings, a mean over seeds; the table is of other seeds.
    """
    from scipy.optimize import minimize

    policy, guess = small_policy(PRAISE, 16), np.array([0.15, 0.75])
    look = gold_and_proxies(policy)

    def of_thresholds(start: Params, x: Array) -> Arm:
        return with_thresholds("inequality", start, x, 1.0)

    search, test = jax.vmap(jax.random.split, out_axes=1)(keys)
    starts = imitated(policy, PRAISE, search, 30)

    @jax.jit
    def trained(x: Array) -> Array:
        run = lambda start, key: train(policy, of_thresholds(start, x), lambda key: start, key, 200, look, 1)  # noqa: E731
        return jax.vmap(run)(starts, search)[1]["gold"].mean()

    simplex = guess + np.array([[0.0, 0.0], [0.2, 0.0], [0.0, -0.2]])
    best = minimize(
        lambda x: -float(trained(jnp.float32(np.clip(x, 0.0, 1.0)))),
        guess,
        method="Nelder-Mead",
        options={"maxfev": 20, "initial_simplex": simplex},
    ).x
    methods: Methods = {
        "the guess": (of_thresholds, guess),
        "found by Nelder-Mead": (of_thresholds, np.clip(best, 0.0, 1.0)),
    }
    found = compare(policy, methods, imitated(policy, PRAISE, test, 30), test, 200, look, looks=1)
    rows = {
        f"{name}, {value[0]:.2f} and {value[1]:.2f}": last(found[name], "gold", "first proxy", "second proxy")
        for name, (_, value) in methods.items()
    }
    before, after = (row["gold"] for row in rows.values())
    return rows, {"the thresholds that were found are better": (after - before, "gold")}


# --- forgetting -------------------------------------------------------------------------------------------------------


def forgetting(keys: Key) -> tuple[Rows, Claims]:
    """Imitation of another style forgets an old task that learning from reward keeps; problems are filtered or not.

    The old task is compositions in small parts. The new one has other prompts, and sums are greater by one; its
    demonstrations are in large parts. The filter tries each of the 16 problems 40 times. That is as many answers as 10
    steps have, so its training has 10 steps fewer.
    """
    numbers = Whole(jnp.arange(3, 19))
    of_range = partial(Compositions, least=3, most=18)
    old = of_range(style="small")
    new = of_range(marker=1, offset=1, style="large")
    both = Categories((old, of_range(marker=1, style="small")))  # the base treats both prompts alike
    policy = small_policy(old)

    def look(params: Params, key: Key) -> Found:
        first, second, third = jax.random.split(key, 3)
        learned, kept = (
            success_on(policy, task, temperature=1.0)(params, key)["solved"]
            for task, key in ((new, first), (old, second))
        )
        return {"new": learned, "old": kept}

    starts = imitated(policy, both, keys, 200)

    def rewarded(start: Params, filters: Array) -> Arm:
        kept = solvable(policy, start, new, numbers, jax.random.key(1), 40)
        pool = Pool(new, numbers, jnp.where(filters > 0.0, kept, 1.0))
        return arm(new, GROUPS, answers=sources.fresh(pool, GROUPS))

    shown = sources.demonstrations(new, 64)
    methods: Methods = {
        "imitation": always(arm(new, Sampling(1, 2), demonstrations=shown, imitation=1.0)),
        "reward": (rewarded, 0.0),
    }
    filtered: Methods = {"reward, filtered problems": (rewarded, 1.0)}
    found = compare(policy, methods, starts, keys, 400, look, looks=40)
    found |= compare(policy, filtered, starts, keys, 390, look, looks=39)
    level = np.min([x["new"].max(1) for x in found.values()], 0)
    rows = {}
    for name, x in found.items():
        at = np.arange(len(level)), (x["new"] >= level[:, None]).argmax(1)
        rows[name] = {"old at equal success": x["old"][at], "new there": x["new"][at], **last(x, "old", "new")}
    kept = {name: row["old at equal success"] for name, row in rows.items()}
    return rows, {
        "reward keeps more of the old task than imitation": (kept["reward"] - kept["imitation"], "solved"),
        "filtered problems keep as much or more": (kept["reward, filtered problems"] - kept["reward"], "solved"),
        "filtered problems lead to more success": (
            rows["reward, filtered problems"]["new"] - rows["reward"]["new"],
            "solved",
        ),
    }


STUDIES: dict[str, Callable[[Key], tuple[Rows, Claims]]] = {
    "entropy": entropy,
    "diversity": diversity,
    "curriculum": curriculum,
    "process": process,
    "abstention": abstention,
    "overoptimisation": overoptimisation,
    "thresholds": thresholds,
    "forgetting": forgetting,
}
