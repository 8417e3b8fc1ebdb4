"""Studies of `experiments.mechanisms` on token tasks, with policies that learn in seconds.

All methods of a study begin at the same base policies, one for each seed, and draw as many answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from envs import tokens
from experiments.bandit_studies import Claims, Rows
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
from metarl.finetune.batch import Batch
from metarl.finetune.losses import Loss
from metarl.finetune.sampling import answered, problems_of
from metarl.finetune.tasks import Abstaining, Categories, Pool, solvable
from metarl.meta import InnerLoop
from metarl.types import Array, Key, Level, Params, PyTree, TokenTask, Verdict

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


def compare(
    policy: SequencePolicy,
    methods: Mapping[str, Callable[[Params], Arm]],
    starts: Params,
    keys: Key,
    steps: int,
    look: Look,
    **options: float,
) -> dict[str, dict[str, np.ndarray]]:
    """What was found of each method, [seeds, looks]; a method may look at the parameters that it begins at."""

    def run(make: Callable[[Params], Arm], start: Params, key: Key) -> Found:
        return train(policy, make(start), lambda key: start, key, steps, look, **options)[1]  # type: ignore[arg-type]

    found = {}
    for name, make in methods.items():
        found[name] = jax.tree.map(np.asarray, jax.jit(jax.vmap(partial(run, make)))(starts, keys))
    return found


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


# --- compositions: problems with many answers ---------------------------------------------------------------------


class Whole(NamedTuple):
    """One problem of `Compositions`."""

    total: Array  # () int32


@dataclass(frozen=True)
class Compositions:
    """Write a number as a sum of parts from 1 to 4, in any way: 7 as 4 3, or as 1 2 1 3.

    Prompts are numbers from `least` to `most`, plus `shift` as tokens; the sum must be the number plus `offset`.
    Demonstrations take the largest parts first, or with `small` the smallest.
    """

    least: int = 4
    most: int = 11
    shift: int = 0
    offset: int = 0
    small: bool = False
    num_tokens: ClassVar[int] = 26
    end: ClassVar[int] = 0
    prompt_length: ClassVar[int] = 1
    answer_length: ClassVar[int] = 6
    kinds: ClassVar[tuple[str, ...]] = ("right", "wrong")

    def sample(self, key: Key) -> Whole:
        """A number."""
        return Whole(jax.random.randint(key, (), self.least, self.most + 1))

    def prompt(self, problem: Whole) -> Array:
        """The number as a token [1]."""
        return (problem.total + self.shift)[None]

    def demonstrate(self, key: Key, problem: Whole) -> Array:
        """Parts of at most 4, or of at most `ceil(sum / 5)` if they are to be small."""
        total = problem.total + self.offset
        most = jnp.where(self.small, -(-total // (self.answer_length - 1)), 4)
        before = jnp.arange(self.answer_length) * most
        return jnp.clip(total - before, 0, most).astype(jnp.int32)

    def verify(self, problem: Whole, answer: Array) -> Verdict:
        """Whether the parts are from 1 to 4, have the right sum, and end."""
        inside = jnp.cumsum(answer == self.end) == 0
        legal = ~inside[-1] & jnp.all(~inside | (answer <= 4))
        right = legal & (jnp.where(inside, answer, 0).sum() == problem.total + self.offset)
        return Verdict(right.astype(jnp.float32), right, jnp.where(right, 0, 1))


def distinct(policy: SequencePolicy, task: TokenTask, count: int = 16, draws: int = 64) -> Look:
    """Correct and distinct correct answers among `draws` to each of `count` problems."""

    def look(params: Params, key: Key) -> Found:
        problem_key, key = jax.random.split(key)
        drawn = answered(policy, params, task, problems_of(task, problem_key, count, draws), key)
        answers, correct = drawn.answers.reshape(count, draws, -1), drawn.correct.reshape(count, draws)
        same = (answers[:, :, None] == answers[:, None]).all(-1)
        repeated = (same & (jnp.arange(draws)[:, None] > jnp.arange(draws))).any(-1)
        return {"solved": correct.mean(), "distinct": (correct & ~repeated).sum(1).mean()}

    return look


COMPOSITIONS = Compositions()
GROUPS = Sampling(16, 8)


def small_policy(task: TokenTask, width: int = 32) -> SequencePolicy:
    """A gated recurrent unit for the task."""
    return policies.gru(task.num_tokens, width)


# --- the studies --------------------------------------------------------------------------------------------------


def with_bonus(coefficient: float) -> Loss:
    """REINFORCE with an entropy bonus."""
    return lambda x: losses.reinforce()(x) + coefficient * terms.entropy_bonus(x.now.logits)


def entropy(keys: Key) -> tuple[Rows, Claims]:
    """AEPO holds the entropy at a target, where GRPO loses it and a bonus has no target."""
    task, policy = COMPOSITIONS, small_policy(COMPOSITIONS)
    targets = (0.2, 0.4, 0.6)

    def held(target: float) -> Callable[[Params], Arm]:
        answers = aepo.tempered(task, aepo.two_levels(target), 2, GROUPS)
        return lambda start: arm(task, GROUPS, answers=answers, credit=aepo.grpo_and_tempered(8, 2))

    grpo = credit.grpo(8)
    methods: dict[str, Callable[[Params], Arm]] = {"GRPO": lambda start: arm(task, GROUPS, credit=grpo)}
    for coefficient in (0.01, 0.03, 0.1):
        loss = with_bonus(coefficient)
        methods[f"GRPO, bonus {coefficient:g}"] = lambda start, loss=loss: arm(task, GROUPS, credit=grpo, loss=loss)  # type: ignore[misc]
    methods |= {f"AEPO, target {target:g}": held(target) for target in targets}
    found = compare(policy, methods, imitated(policy, task, keys, 20), keys, 400, distinct(policy, task))
    rows = {name: last(x, "entropy", "solved", "distinct") for name, x in found.items()}
    claims: Claims = {}
    for target in targets:
        off = np.abs(rows[f"AEPO, target {target:g}"]["entropy"] / target - 1.0)
        claims[f"AEPO is within 10 % of the target {target:g}"] = (0.1 - off, "of the target, to spare")
    middle, ends = (rows[f"AEPO, target {x:g}"]["solved"] for x in targets[1:2]), targets[::2]
    best = next(iter(middle))
    for end in ends:
        claims[f"more is solved at target {targets[1]:g} than at {end:g}"] = (
            best - rows[f"AEPO, target {end:g}"]["solved"],
            "solved",
        )
    return rows, claims


def diversity(keys: Key) -> tuple[Rows, Claims]:
    """GFlowNet objectives keep more distinct correct answers than GRPO, at equal accuracy."""
    task, policy = COMPOSITIONS, small_policy(COMPOSITIONS)
    temperature = 0.1

    def flow() -> TokenCritic:
        return TokenCritic(policies.gru(task.num_tokens, 32, outputs=1), optimizer(5e-3))

    methods: dict[str, Callable[[Params], Arm]] = {
        "GRPO": lambda start: arm(task, GROUPS, credit=credit.grpo(8)),
        "Var-TB": lambda start: arm(task, GROUPS, loss=gflownet.var_tb(temperature)),
        "detailed balance": lambda start: arm(task, GROUPS, credit=gflownet.balance(flow(), temperature)),
        "subtrajectories, lambda 0.8": lambda start: arm(
            task, GROUPS, credit=gflownet.balance(flow(), temperature, 0.8)
        ),
    }
    found = compare(policy, methods, imitated(policy, task, keys, 20), keys, 600, distinct(policy, task), looks=20)
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
    plain = rows["GRPO"]["distinct at equal accuracy"]
    return rows, {
        f"{name} has more distinct answers than GRPO at equal accuracy": (
            row["distinct at equal accuracy"] - plain,
            "of 64",
        )
        for name, row in rows.items()
        if name != "GRPO"
    }


def sorting(shortest: int, longest: int) -> TokenTask:
    """Sorting of some digits, with room for six."""
    return tokens.make_task("sorting", shortest=shortest, longest=longest, room=6)


def curriculum(keys: Key) -> tuple[Rows, Claims]:
    """What SEC's bandit chooses, and how the hardest problems fare, against other orders."""
    lengths = (2, 3, 4, 5, 6)
    task = Categories(tuple(sorting(n, n) for n in lengths))
    hardest, policy = sorting(6, 6), small_policy(task, 64)
    rules = {
        "random": lambda record, progress: jnp.ones(len(lengths)),
        "hardest only": lambda record, progress: jnp.array([0.0, 0.0, 0.0, 0.0, 1.0]),
        "easy to hard": categories.easy_to_hard(),
        "SEC, temperature 0.2": categories.bandit(0.2),
        "STAT": categories.missing(),
    }
    methods: dict[str, Callable[[Params], Arm]] = {
        name: lambda start, rule=rule: arm(  # type: ignore[misc]
            task, GROUPS, answers=categories.categorised(task, rule, GROUPS), credit=credit.grpo(8)
        )
        for name, rule in rules.items()
    }
    methods["failed first"] = lambda start: arm(
        task, GROUPS, answers=sources.failed_first(task, GROUPS), credit=credit.grpo(8)
    )

    def look(params: Params, key: Key) -> Found:
        first, second = jax.random.split(key)
        of_hardest = success_on(policy, hardest)(params, first)["solved"]
        return {"hardest": of_hardest, "all": success_on(policy, task)(params, second)["solved"]}

    found = compare(policy, methods, imitated(policy, task, keys, 150), keys, 600, look)
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


def in_order(noise: float) -> rewards.Scorer:
    """A judge of sorting that can be fooled: is each digit no lower than the one before? With some wrong verdicts.

    It likes long answers of whatever digits in order. The wrong verdicts are always the same for the same answer.
    """

    def score(batch: Batch) -> Array:
        digit = batch.answers < 10
        before = jnp.pad(batch.answers[:, :-1], ((0, 0), (1, 0)))
        good = digit & (batch.answers >= before)
        place = jnp.arange(batch.answers.shape[1])
        hashed = (
            batch.answers * 7919 + before * 104_729 + place * 1_299_709 + batch.prompts.sum(1)[:, None] * 611
        ) % 1000
        return jnp.where(hashed < 1000 * noise, ~good, good).astype(jnp.float32)

    return score


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

    def critic() -> TokenCritic:
        return TokenCritic(policies.gru(task.num_tokens, 64, outputs=1), optimizer(5e-3))

    methods: dict[str, Callable[[Params], Arm]] = {
        name: lambda start, kind=kind: arm(task, GROUPS, credit=credit.gae(critic(), rewards=kind))  # type: ignore[misc]
        for name, kind in kinds.items()
    }

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


class Guess(NamedTuple):
    """One problem of `Guessing`."""

    sure: Array  # () int32, how often the likely answer is right, in tenths
    right: Array  # () int32, the right answer, 1 or 2; the prompt does not say it


@dataclass(frozen=True)
class Guessing:
    """Questions that nobody can be sure of: the prompt says how often the answer 1 is right, and else it is 2 to 5."""

    num_tokens: ClassVar[int] = 10
    end: ClassVar[int] = 0
    prompt_length: ClassVar[int] = 1
    answer_length: ClassVar[int] = 2
    kinds: ClassVar[tuple[str, ...]] = ("right", "wrong")

    def sample(self, key: Key) -> Guess:
        """How sure one can be, from 0.2 to 0.9 but for 0.5, and the answer."""
        sure_key, right_key, other_key = jax.random.split(key, 3)
        sure = jax.random.choice(sure_key, jnp.array([2, 3, 4, 6, 7, 8, 9]))
        likely = jax.random.uniform(right_key) < sure / 10
        return Guess(sure, jnp.where(likely, 1, jax.random.randint(other_key, (), 2, 6)))

    def prompt(self, problem: Guess) -> Array:
        """How sure one can be [1]."""
        return problem.sure[None]

    def demonstrate(self, key: Key, problem: Guess) -> Array:
        """The answer that is likely."""
        return jnp.array([1, 0])

    def verify(self, problem: Guess, answer: Array) -> Verdict:
        """Whether the first token is the answer."""
        right = answer[0] == problem.right
        return Verdict(right.astype(jnp.float32), right, jnp.where(right, 0, 1))


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

    methods: dict[str, Callable[[Params], Arm]] = {
        "binary reward": lambda start: arm(plain, GROUPS),
        "ternary reward": lambda start: arm(ternary, GROUPS),
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


@dataclass(frozen=True)
class Praise:
    """Texts of up to eight words, which two proxies count, and a judge who likes some of both but not too much.

    Word 1 counts for the first proxy, 2 for the second and 3 for both; the others are neutral. The gold reward is
    highest where both proxies are at `BEST`, a share of the eight words.
    """

    num_tokens: ClassVar[int] = 8
    end: ClassVar[int] = 0
    prompt_length: ClassVar[int] = 1
    answer_length: ClassVar[int] = 8
    kinds: ClassVar[tuple[str, ...]] = ("text",)

    def sample(self, key: Key) -> Whole:
        """There is one problem."""
        return Whole(jnp.int32(7))

    def prompt(self, problem: Whole) -> Array:
        """A neutral word [1]."""
        return problem.total[None]

    def demonstrate(self, key: Key, problem: Whole) -> Array:
        """Neutral words."""
        return jax.random.randint(key, (self.answer_length,), 4, 8)

    def verify(self, problem: Whole, answer: Array) -> Verdict:
        """The sum of the proxies."""
        return Verdict(praise(answer, 1) + praise(answer, 2), jnp.bool_(True), jnp.int32(0))


BEST = 0.4


def praise(answers: Array, word: int) -> Array:
    """A proxy of answers [..., T]: the share of words that count for it."""
    inside = jnp.cumsum(answers == 0, -1) == 0
    return (inside & ((answers == word) | (answers == 3))).mean(-1)


def overoptimisation(keys: Key) -> tuple[Rows, Claims]:
    """Constrained RLHF holds two proxies where their sum would be over-optimised."""
    task, policy = Praise(), small_policy(Praise(), 16)
    sampling = Sampling(4, 16)
    proxies = [lambda batch, word=word: praise(batch.answers, word) for word in (1, 2)]  # type: ignore[misc]

    def held(kind: constrained.Kind, start: Params) -> Arm:
        source = sources.fresh(task, sampling)
        rate = 1.0 if kind == "inequality" else 0.2  # faster, the equality oscillates
        answers = constrained.constrained(source, proxies, (BEST, BEST), start, kind, rate)
        return arm(task, sampling, answers=answers, credit=credit.dr_grpo(16))

    def with_kl(first: float, last: float) -> Callable[[Params], Arm]:
        coefficient = controllers.cosine(first, last)
        loss = losses.with_kl(losses.reinforce(), lambda signals: coefficient(controllers.elapsed(signals.progress)))
        return lambda start: arm(task, sampling, credit=credit.dr_grpo(16), loss=loss)

    def look(params: Params, key: Key) -> Found:
        drawn = answered(policy, params, task, problems_of(task, key, 512), key)
        one, two = (praise(drawn.answers, word).mean() for word in (1, 2))
        gold = 1.0 - (jnp.square(one / BEST - 1.0) + jnp.square(two / BEST - 1.0)) / 2
        return {"gold": gold, "first proxy": one, "second proxy": two}

    methods: dict[str, Callable[[Params], Arm]] = {
        "sum of the proxies": lambda start: arm(task, sampling, credit=credit.dr_grpo(16)),
        "the sum, KL 0.1": with_kl(0.1, 0.1),
        "the sum, KL 0.2 to 0": with_kl(0.2, 0.0),
        "mu (at least)": partial(held, "inequality"),
        "xi (equal)": partial(held, "equality"),
    }
    found = compare(policy, methods, imitated(policy, task, keys, 30), keys, 600, look, looks=30)
    rows = {
        name: {**last(x, "gold", "first proxy", "second proxy"), "highest gold on the way": x["gold"].max(1)}
        for name, x in found.items()
    }
    plain = rows["sum of the proxies"]
    claims: Claims = {"the sum is over-optimised": (plain["highest gold on the way"] - plain["gold"], "gold, lost")}
    for name in ("mu (at least)", "xi (equal)"):
        claims[f"{name} ends higher than the sum"] = (rows[name]["gold"] - plain["gold"], "gold")
        claims[f"{name} ends higher than the sum with a KL penalty"] = (
            rows[name]["gold"] - rows["the sum, KL 0.1"]["gold"],
            "gold",
        )
    return rows, claims


# --- forgetting -------------------------------------------------------------------------------------------------------


def forgetting(keys: Key) -> tuple[Rows, Claims]:
    """Imitation of another style forgets an old task that learning from reward keeps; a filter saves nothing or some.

    The old task is compositions in small parts. The new one has other prompts, and sums are greater by one; its
    demonstrations are in large parts.
    """
    old = Compositions(shift=0, small=True)
    new = Compositions(shift=12, offset=1)
    both = Categories((old, Compositions(shift=12, offset=0, small=True)))  # the base treats both prompts alike
    policy = small_policy(old)

    def look(params: Params, key: Key) -> Found:
        first, second, third = jax.random.split(key, 3)
        learned, kept = (
            success_on(policy, task, temperature=1.0)(params, key)["solved"]
            for task, key in ((new, first), (old, second))
        )
        return {"new": learned, "old": kept}

    starts = imitated(policy, both, keys, 200)

    def filtered(start: Params) -> Arm:
        problems = problems_of(new, jax.random.key(0), 64)
        pool = Pool(new, problems, solvable(policy, start, new, problems, jax.random.key(1), 16))
        return arm(new, GROUPS, answers=sources.fresh(pool, GROUPS))

    methods: dict[str, Callable[[Params], Arm]] = {
        "imitation": lambda start: arm(
            new, Sampling(1, 2), demonstrations=sources.demonstrations(new, 64), imitation=1.0
        ),
        "reward": lambda start: arm(new, GROUPS),
        "reward, filtered problems": filtered,
    }
    found = compare(policy, methods, starts, keys, 400, look, looks=40)
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
    "forgetting": forgetting,
}
