"""Studies of `experiments.mechanisms` on what fine-tuning generalises to, and which of its skills a policy shows.

Each is one program over its settings and seeds, which trains base policies and what comes after them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bandit_studies import Claims, Rows
from experiments.study_tasks import Compositions, Whole, right_or_wrong
from experiments.token_studies import (
    COMPOSITIONS,
    GROUPS,
    Arm,
    Found,
    Look,
    arm,
    distinct,
    imitated,
    is_first,
    small_policy,
    success_on,
    train,
)
from metarl.finetune import SequencePolicy, credit, losses, policies, sources, terms
from metarl.finetune.combinations import combined
from metarl.finetune.policies import Prefix, evaluate_answers
from metarl.finetune.sampling import answered, demonstrated, problems_of
from metarl.finetune.tasks import Pool
from metarl.tree import copies, repeated
from metarl.types import Array, Key, Params, TokenTask, Verdict

# trains from parameters [settings, seeds, ...] with settings [settings, ...] and keys [seeds], and looks at the end
Stage = Callable[[Params, Any, Key], tuple[Params, Found]]


def stage(policy: SequencePolicy, make: Callable[[Any], Arm], steps: int, look: Look, rate: float) -> Stage:
    """One program for all stages of a study: what `make(setting)` trains in `steps`, and what is found then."""

    def run(start: Params, setting: Any, key: Key) -> tuple[Params, Found]:
        params, found = train(policy, make(setting), lambda key: start, key, steps, look, looks=1, rate=rate)
        return params, {what: x[0] for what, x in found.items()}

    return jax.jit(jax.vmap(jax.vmap(run, (0, None, 0)), (0, 0, None)))


def weighted(task: TokenTask, imitation: Array | float, **changes: Any) -> Arm:
    """GRPO and imitation of as many demonstrations; the weights are `1 - imitation` and `imitation`."""
    shown = sources.demonstrations(task, 64)
    return arm(task, GROUPS, credit=credit.grpo(8), demonstrations=shown, imitation=imitation)._replace(**changes)


def newborn(policy: SequencePolicy, keys: Key, settings: int) -> Params:
    """Policies [settings, seeds, ...], the same ones for each setting."""
    return copies(jax.vmap(policy.init)(keys), settings)


# --- rules that the prompt states -----------------------------------------------------------------------------

JACK = 10  # the jack's token; the queen's and the king's are the next two
KNOWN = (6, 6, 6)
NEW_VALUE = (3, 3, 3)  # a number on cards, and never the value of a face in training


def _orders() -> tuple[np.ndarray, np.ndarray]:
    """All hands with a face, and all rules with values from 6 to 9, each in an order that is random and fixed."""
    hands = [x for x in itertools.product((1, 2, 3, 4, 5, JACK, JACK + 1, JACK + 2), repeat=4) if max(x) >= JACK]
    rng = np.random.default_rng(0)
    others = rng.permutation([x for x in itertools.product((6, 7, 8, 9), repeat=3) if x != KNOWN])
    unlike = (others > 6).all(1)  # no face has the value of the known rule
    unseen, seen = others[unlike][:12], np.concatenate([others[unlike][12:], others[~unlike]])
    rules = np.concatenate([[KNOWN], rng.permutation(seen), unseen])
    return rng.permutation(hands).astype(np.int32), rules.astype(np.int32)


HANDS, RULES = _orders()
SEEN, HELD_OUT = 52, 800  # the first rules are for training, and the first hands are not


class Hand(NamedTuple):
    """One problem of `Hands`."""

    rule: Array  # [3] int32, the values of jack, queen and king
    cards: Array  # [4] int32


@dataclass(frozen=True, eq=False)
class Hands:
    """Write down the values of four cards, of which the prompt states those of jack, queen and king.

    As in General Points, the rule is drawn from the first `count` of the `rules`, every hand has a face, and with one
    rule the values of others never occur in training: here number cards are 1 to 5, and the rules' values 6 to 9.
    """

    rules: Array  # [R, 3] int32
    count: Array | int
    held_out: bool = False  # these hands alone, or the others alone
    num_tokens: ClassVar[int] = 13
    end: ClassVar[int] = 0
    prompt_length: ClassVar[int] = 7
    answer_length: ClassVar[int] = 5
    kinds: ClassVar[tuple[str, ...]] = ("right", "wrong")

    def sample(self, key: Key) -> Hand:
        """A rule and a hand."""
        rule_key, hand_key = jax.random.split(key)
        hands = jnp.asarray(HANDS[:HELD_OUT] if self.held_out else HANDS[HELD_OUT:])
        rule = self.rules[jax.random.randint(rule_key, (), 0, self.count)]
        return Hand(rule, hands[jax.random.randint(hand_key, (), 0, len(hands))])

    def prompt(self, problem: Hand) -> Array:
        """The rule and the cards [7]."""
        return jnp.concatenate(problem)

    def demonstrate(self, key: Key, problem: Hand) -> Array:
        """The values."""
        return values_of(problem.cards, problem.rule)

    def verify(self, problem: Hand, answer: Array) -> Verdict:
        """Whether they are right."""
        right = (answer == values_of(problem.cards, problem.rule)).all()
        return right_or_wrong(right)


def values_of(cards: Array, rule: Array) -> Array:
    """The answer [5] to cards [4] under a rule [3]."""
    faces = rule[jnp.clip(cards - JACK, 0, 2)]
    return jnp.append(jnp.where(cards >= JACK, faces, cards), 0).astype(jnp.int32)


def look_at_rules(policy: SequencePolicy, count: int = 256) -> Look:
    """Success on held-out hands, sampled at temperature 1: under the known rule, unseen ones, and one with a new value.

    And how often a policy that is told an unseen rule answers by the known one ("fake" in the paper).
    """
    unseen = RULES[SEEN:]
    known, new_value = (np.broadcast_to(rule, unseen.shape) for rule in (KNOWN, NEW_VALUE))
    sets = np.stack([known, unseen, new_value])

    def look(params: Params, key: Key) -> Found:
        def one(rules: Array, key: Key) -> tuple[Array, Array]:
            problem_key, key = jax.random.split(key)
            task = Hands(rules, len(unseen), held_out=True)
            problems = problems_of(task, problem_key, count)
            drawn = answered(policy, params, task, problems, key)
            by_known = jax.vmap(values_of, (0, None))(problems.cards, jnp.array(KNOWN))
            return drawn.correct.mean(), (drawn.answers == by_known).all(1).mean()

        solved, by_known = jax.vmap(one)(jnp.asarray(sets), jax.random.split(key, 3))
        return {
            "known rule": solved[0],
            "unseen rules": solved[1],
            "unseen, by the known rule": by_known[1],
            "unseen value": solved[2],
        }

    return look


def rules(keys: Key) -> tuple[Rows, Claims]:
    """Imitation on many rules solves unseen ones, and on one rule none, whatever RL comes after it.

    Lin et al. 2025 (Debunk the Myth of SFT Generalization, arXiv 2510.00237): with one rule in all prompts, policies
    learn to ignore it.
    """
    counts = (1, 2, 8, 32)
    policy = policies.transformer(Hands.num_tokens, 32, 2, 2, 16, 2)

    def make(setting: tuple[Array, Array]) -> Arm:
        count, imitation = setting
        return weighted(Hands(jnp.asarray(RULES), count), imitation)

    run = stage(policy, make, 60, look_at_rules(policy), rate=3e-3)
    base_keys, keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    every, ones = jnp.array(counts), jnp.ones(len(counts))
    starts, base = run(newborn(policy, base_keys, len(counts)), (every, ones), base_keys)
    found = {
        "base": base,
        "more imitation": run(starts, (every, ones), keys)[1],
        "GRPO": run(starts, (every, 0.0 * ones), keys)[1],
    }
    columns = "known rule", "unseen rules", "unseen, by the known rule", "unseen value"
    rows = {
        f"{count} rule{'s' * (count > 1)}, {name}": {what: np.asarray(x[what][i]) for what in columns}
        for i, count in enumerate(counts)
        for name, x in found.items()
    }
    unseen = {name: row["unseen rules"] for name, row in rows.items()}
    known = {name: row["known rule"] for name, row in rows.items()}
    one = rows["1 rule, more imitation"]
    return rows, {
        "one rule: told another, it answers by the known one": (
            one["unseen, by the known rule"] - one["unseen rules"],
            "of the answers",
        ),
        "8 rules solve more of the unseen than 1": (
            unseen["8 rules, more imitation"] - unseen["1 rule, more imitation"],
            "solved",
        ),
        "32 rules more than 8": (unseen["32 rules, more imitation"] - unseen["8 rules, more imitation"], "solved"),
        "GRPO solves more of the known rule than its base, 1 rule": (
            known["1 rule, GRPO"] - known["1 rule, base"],
            "solved",
        ),
        "and more of the unseen": (unseen["1 rule, GRPO"] - unseen["1 rule, base"], "solved"),
        "imitation of 8 rules solves more of the unseen than GRPO after 1": (
            unseen["8 rules, more imitation"] - unseen["1 rule, GRPO"],
            "solved",
        ),
        "GRPO on 8 rules solves more of the unseen than more imitation of 8": (
            unseen["8 rules, GRPO"] - unseen["8 rules, more imitation"],
            "solved",
        ),
        "8 rules cost success on the known rule": (
            known["1 rule, more imitation"] - known["8 rules, more imitation"],
            "solved",
        ),
    }


# --- imitation and reward, in which order ---------------------------------------------------------------------


def look_at_both(policy: SequencePolicy) -> Look:
    """What is solved, sampled and greedily, distinct answers, and the loss of imitation in nats per token."""

    def look(params: Params, key: Key) -> Found:
        distinct_key, greedy_key, problem_key, show_key = jax.random.split(key, 4)
        found = distinct(policy, COMPOSITIONS)(params, distinct_key)
        batch = demonstrated(COMPOSITIONS, problems_of(COMPOSITIONS, problem_key, 512), show_key)
        given = evaluate_answers(policy, params, batch.prompts, batch.answers, COMPOSITIONS.end)
        return {
            "solved": found["solved"],
            "solved, greedy": success_on(policy, COMPOSITIONS)(params, greedy_key)["solved"],
            "distinct": found["distinct"],
            "imitation loss": -terms.token_mean(given.log_prob, given.mask),
        }

    return look


def order(keys: Key) -> tuple[Rows, Claims]:
    """Imitation, reward, one after the other, and both at once, from a weak base policy.

    That imitation opens the way for reward is the finding of Chu et al. 2025 (arXiv 2501.17161). Niu et al. 2026
    (arXiv 2601.07389) prove, under assumptions, that either undoes what the other did before: reward raises the loss of
    imitation, and imitation lowers the reward.
    """
    policy = small_policy(COMPOSITIONS)
    weights = {  # of imitation, in the first and in the second half
        "imitation": (1.0, 1.0),
        "reward": (0.0, 0.0),
        "imitation, then reward": (1.0, 0.0),
        "reward, then imitation": (0.0, 1.0),
        "both, weight 0.5": (0.5, 0.5),
        "both, weight 0.1": (0.1, 0.1),
    }

    starts = copies(imitated(policy, COMPOSITIONS, keys, 30), len(weights))
    run = stage(policy, partial(weighted, COMPOSITIONS), 300, look_at_both(policy), rate=4e-3)
    first_keys, second_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    first_weight, second_weight = jnp.array(list(weights.values())).T
    middle, first = run(starts, first_weight, first_keys)
    _, second = run(middle, second_weight, second_keys)
    columns = "solved", "solved, greedy", "distinct", "imitation loss"
    rows = {
        name: {what: np.asarray(second[what][i]) for what in columns}
        | {f"{what}, halfway": np.asarray(first[what][i]) for what in ("solved", "imitation loss")}
        for i, name in enumerate(weights)
    }
    solved = {name: row["solved"] for name, row in rows.items()}
    then, back, both = "imitation, then reward", "reward, then imitation", "both, weight 0.5"
    claims: Claims = {
        f"{then} solves more than {name}": (solved[then] - solved[name], "solved") for name in weights if name != then
    }
    claims[f"{both}: more distinct answers than {then}"] = rows[both]["distinct"] - rows[then]["distinct"], "of 64"
    claims["reward after imitation raises the loss of imitation"] = (
        rows[then]["imitation loss"] - rows[then]["imitation loss, halfway"],
        "nats per token",
    )
    claims["imitation after reward lowers what is solved"] = rows[back]["solved, halfway"] - solved[back], "solved"
    return rows, claims


# --- generalisation against diversity -------------------------------------------------------------------------

TOTALS = np.arange(4, 17)
UNSEEN = np.isin(TOTALS, (7, 10, 13))


def look_at_totals(policy: SequencePolicy, draws: int = 64) -> Look:
    """Of seen and unseen numbers: what is solved, also by the best of 8; of seen ones, how many answers differ."""

    def look(params: Params, key: Key) -> Found:
        problems = repeated(Whole(jnp.asarray(TOTALS)), draws)
        drawn = answered(policy, params, COMPOSITIONS, problems, key)
        correct = drawn.correct.reshape(len(TOTALS), draws)
        best = correct.reshape(len(TOTALS), draws // 8, 8).any(2).mean(1)
        answers = drawn.answers.reshape(len(TOTALS), draws, -1)
        found = {"different answers": is_first(answers).sum(1)[~UNSEEN].mean()}
        for name, which in (("seen", ~UNSEEN), ("unseen", UNSEEN)):
            found |= {f"solved, {name}": correct[which].mean(), f"best of 8, {name}": best[which].mean()}
        return found

    return look


def tradeoff(keys: Key) -> tuple[Rows, Claims]:
    """Learning from reward solves more numbers that were never posed than imitation does, with fewer answers.

    Kirk et al. 2023 (arXiv 2310.06452) found this of RLHF, which has a KL penalty. Training poses all numbers from 4 to
    16 but three.
    """
    policy = small_policy(COMPOSITIONS)
    task = Pool(COMPOSITIONS, Whole(jnp.asarray(TOTALS)), jnp.asarray(~UNSEEN, jnp.float32))
    settings = {"imitation": (1.0, 0.0), "reward": (0.0, 0.0), "reward, KL 0.1": (0.0, 0.1)}

    def make(setting: tuple[Array, Array]) -> Arm:
        imitation, kl_coefficient = setting
        loss = losses.with_kl(losses.reinforce(), lambda signals: kl_coefficient)
        return weighted(task, imitation, loss=loss)

    run = stage(policy, make, 300, look_at_totals(policy), rate=4e-3)
    base_keys, keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    weights, coefficients = jnp.array(list(settings.values())).T
    ones = jnp.ones(len(settings))
    starts, before = run(newborn(policy, base_keys, len(settings)), (ones, 0.0 * ones), base_keys)
    _, after = run(starts, (weights, coefficients), keys)
    columns = "solved, seen", "solved, unseen", "best of 8, seen", "best of 8, unseen", "different answers"
    rows = {"base policy": {what: np.asarray(before[what][0]) for what in columns}}
    rows |= {name: {what: np.asarray(after[what][i]) for what in columns} for i, name in enumerate(settings)}
    imitated, rewarded, held = (rows[name] for name in settings)
    seen, unseen, _, best, answers = columns
    return rows, {
        "reward solves more of the unseen than imitation": (rewarded[unseen] - imitated[unseen], "solved"),
        "and loses less from seen to unseen": (
            (imitated[seen] - imitated[unseen]) - (rewarded[seen] - rewarded[unseen]),
            "solved",
        ),
        "with a KL penalty it solves more of the unseen than imitation": (held[unseen] - imitated[unseen], "solved"),
        "and loses less from seen to unseen than imitation": (
            (imitated[seen] - imitated[unseen]) - (held[seen] - held[unseen]),
            "solved",
        ),
        "without a penalty, answers are less diverse": (imitated[answers] - rewarded[answers], "of 64"),
        "a KL penalty keeps more different answers": (held[answers] - rewarded[answers], "of 64"),
        "the best of 8 after imitation solves more of the unseen than reward": (
            imitated[best] - rewarded[unseen],
            "solved",
        ),
    }


# --- formats --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Formats:
    """Compositions in one of three formats, each with a first token of its own: 5 for large parts, 6 small, 7 any.

    Any parts with the right sum are right in each format. Demonstrations have a format with the probability of
    `mixture`, and its style.
    """

    mixture: Array  # [3]
    styles: ClassVar[tuple[Compositions, ...]] = tuple(Compositions(style=x) for x in ("large", "small", "any"))  # type: ignore[arg-type]
    num_tokens: ClassVar[int] = 8
    end: ClassVar[int] = 0
    prompt_length: ClassVar[int] = 3
    answer_length: ClassVar[int] = 7
    kinds: ClassVar[tuple[str, ...]] = ("right", "wrong")

    def sample(self, key: Key) -> Whole:
        """A number."""
        return self.styles[0].sample(key)

    def prompt(self, problem: Whole) -> Array:
        """Its two digits, after a 0 [3]."""
        return self.styles[0].prompt(problem)

    def demonstrate(self, key: Key, problem: Whole) -> Array:
        """A format, and parts in its style."""
        format_key, key = jax.random.split(key)
        which = jax.random.categorical(format_key, jnp.log(self.mixture))
        every = jnp.stack([style.demonstrate(key, problem) for style in self.styles])
        return jnp.concatenate([5 + which[None], every[which]]).astype(jnp.int32)

    def verify(self, problem: Whole, answer: Array) -> Verdict:
        """Whether there are a format and parts that end and have the right sum."""
        inside = jnp.cumsum(answer == self.end) == 0
        is_format = answer >= 5
        right = is_format[0] & ~(is_format & inside)[1:].any() & self.styles[0].verify(problem, answer[1:]).correct
        return right_or_wrong(right)


FORMATS = ("large", "small", "any")


def look_at_formats(policy: SequencePolicy, count: int = 512) -> Look:
    """What is solved, the shares [3] of the formats, and what is solved in each when it is forced, sampled."""
    task = Formats(jnp.ones(3))

    def look(params: Params, key: Key) -> Found:
        free_key, key = jax.random.split(key)

        def drawn(key: Key, forced: Array, length: int) -> Any:
            problem_key, key = jax.random.split(key)
            tokens = jnp.zeros((count, task.answer_length), jnp.int32).at[:, 0].set(forced)
            prefix = Prefix(tokens, jnp.full(count, length))
            return answered(policy, params, task, problems_of(task, problem_key, count), key, 1.0, prefix)

        free = drawn(free_key, jnp.int32(0), 0)
        within = jax.vmap(lambda key, forced: drawn(key, forced, 1).correct.mean())
        return {
            "solved": free.correct.mean(),
            "shares": (free.answers[:, :1] == 5 + jnp.arange(3)).mean(0),
            "solved in each": within(jax.random.split(key, 3), 5 + jnp.arange(3)),
        }

    return look


def formats(keys: Key) -> tuple[Rows, Claims]:
    """Reward makes one format out of a mixture: the most accurate one at the start, or the most common?

    Zhao et al. 2025 (Echo Chamber, arXiv 2504.07912): RL amplifies one format of the pretraining data, most often the
    one that is the most accurate at the start, and a stronger KL penalty keeps more of the others.
    """
    policy = small_policy(Formats(jnp.ones(3)))
    third = 1.0 / 3.0
    equal = (third, third, third)
    settings = {  # the mixture, and the coefficient of a KL penalty
        "equal shares": (equal, 0.0),
        "80 % large": ((0.8, 0.1, 0.1), 0.0),
        "80 % small": ((0.1, 0.8, 0.1), 0.0),
        "80 % any": ((0.1, 0.1, 0.8), 0.0),
        "60 % any": ((0.2, 0.2, 0.6), 0.0),
        "50 % any": ((0.25, 0.25, 0.5), 0.0),
        "equal shares, KL 0.3": (equal, 0.3),
    }

    def make(setting: tuple[Array, Array, Array]) -> Arm:
        mixture, kl_coefficient, imitation = setting
        loss = losses.with_kl(losses.reinforce(), lambda signals: kl_coefficient)
        return weighted(Formats(mixture), imitation, loss=loss)

    run = stage(policy, make, 250, look_at_formats(policy), rate=3e-3)
    base_keys, keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    mixtures, coefficients = (jnp.array(x) for x in zip(*settings.values(), strict=True))
    ones = jnp.ones(len(settings))
    starts, before = run(newborn(policy, base_keys, len(settings)), (mixtures, coefficients, ones), base_keys)
    _, after = run(starts, (mixtures, coefficients, 0.0 * ones), keys)
    before, after = jax.tree.map(np.asarray, (before, after))
    best, common, winner = (x.argmax(-1) for x in (before["solved in each"], before["shares"], after["shares"]))
    rows: dict[str, dict[str, np.ndarray]] = {}
    for i, name in enumerate(settings):
        row = {f"{x} before": before["shares"][i, :, j] for j, x in enumerate(FORMATS)}
        row |= {f"solved in {x}": before["solved in each"][i, :, j] for j, x in enumerate(FORMATS)}
        row |= {f"{x} after": after["shares"][i, :, j] for j, x in enumerate(FORMATS)}
        rows[name] = row | {"solved before": before["solved"][i], "solved after": after["solved"][i]}
    top = after["shares"].max(-1)
    free = len(settings) - 1  # without a penalty
    claims: Claims = {
        f"{name}: one format has more than 90 % in the end": (top[i] - 0.9, "of the answers, to spare")
        for i, name in enumerate(settings)
        if i < free
    }
    is_best, is_common = (winner == best)[:free].mean(0), (winner == common)[:free].mean(0)
    claims["it is the most accurate at the start, more often than by chance"] = is_best - third, "of the mixtures"
    claims["it is the most common, more often than by chance"] = is_common - third, "of the mixtures"
    claims["it is the most accurate more often than the most common"] = is_best - is_common, "of the mixtures"
    claims["equal shares: large parts, the shortest answers, have more than before"] = (
        after["shares"][0, :, 0] - before["shares"][0, :, 0],
        "of the answers",
    )
    claims["a KL penalty of 0.3 keeps more of the others"] = top[0] - top[free], "of the answers"
    return rows, claims


# --- which task a prompt asks for -----------------------------------------------------------------------------


class Request(NamedTuple):
    """One problem of `Requests`."""

    language: Array  # () int32, 0 or 1
    style: Array  # () int32, 0 small parts, 1 large ones, 2 not stated
    number: Whole


@dataclass(frozen=True, eq=False)
class Requests:
    """Compositions in small or in large parts, as the prompt asks, which may leave it open, in two languages.

    The languages have no token in common. Where the style is open, demonstrations have either, and both are right.
    """

    narrow: Array | float = 0.0  # 1: requests for large parts in the first language alone
    num_tokens: ClassVar[int] = 16
    end: ClassVar[int] = 0
    prompt_length: ClassVar[int] = 3
    answer_length: ClassVar[int] = 6
    kinds: ClassVar[tuple[str, ...]] = ("right", "wrong")

    def sample(self, key: Key) -> Request:
        """A language, a style and a number."""
        language_key, style_key, key = jax.random.split(key, 3)
        language = jnp.where(self.narrow > 0.0, 0, jax.random.randint(language_key, (), 0, 2))
        style = jnp.where(self.narrow > 0.0, 1, jax.random.randint(style_key, (), 0, 3))
        return Request(language, style, COMPOSITIONS.sample(key))

    def prompt(self, problem: Request) -> Array:
        """The style and two digits, 10 to 12 and 0 to 4 in one language, 13 to 15 and 5 to 9 in the other [3]."""
        digits = COMPOSITIONS.prompt(problem.number)[1:] + 5 * problem.language
        return jnp.concatenate([(10 + 3 * problem.language + problem.style)[None], digits]).astype(jnp.int32)

    def demonstrate(self, key: Key, problem: Request) -> Array:
        """The parts."""
        either = jax.random.randint(key, (), 0, 2)
        return in_styles(problem.number)[jnp.where(problem.style == 2, either, problem.style)]

    def verify(self, problem: Request, answer: Array) -> Verdict:
        """Whether these are the parts in the style."""
        is_style = (answer == in_styles(problem.number)).all(1)
        right = jnp.where(problem.style == 2, is_style.any(), is_style[jnp.minimum(problem.style, 1)])
        return right_or_wrong(right)


def in_styles(number: Whole) -> Array:
    """The answers [2, 6] in small and in large parts, of which there is one each."""
    key = jax.random.key(0)  # which these styles do not use
    return jnp.stack([Compositions(style=x).demonstrate(key, number) for x in ("small", "large")])  # type: ignore[arg-type]


def look_at_requests(policy: SequencePolicy, count: int = 256) -> Look:
    """How often answers have small and large parts, sampled at temperature 1, by language and request."""
    asked = {"asked for small": 0, "asked for large": 1, "open": 2}
    prompts = {(f"{name}{', other language' * other}"): (other, x) for name, x in asked.items() for other in (0, 1)}

    def look(params: Params, key: Key) -> Found:
        def one(prompt: Array, key: Key) -> Array:
            number_key, key = jax.random.split(key)
            numbers = jax.vmap(COMPOSITIONS.sample)(jax.random.split(number_key, count))
            language, style = jnp.broadcast_to(prompt[:, None], (2, count))
            drawn = answered(policy, params, Requests(), Request(language, style, numbers), key)
            return (drawn.answers[:, None] == jax.vmap(in_styles)(numbers)).all(2).mean(0)

        shares = jax.vmap(one)(jnp.array(list(prompts.values())), jax.random.split(key, len(prompts)))
        return {
            f"{x}: {what}": shares[i, j] for i, x in enumerate(prompts) for j, what in enumerate(("small", "large"))
        }

    return look


def inference(keys: Key) -> tuple[Rows, Claims]:
    """Fine-tuning on one task makes a policy infer this task, and a prompt far from it recovers the other.

    Kotha et al. 2023 (arXiv 2309.10105): what looks like forgetting is largest for prompts near those of the
    fine-tuning, and "conjugate prompting", in another language for example, undoes some of it. Here the base policy
    knows small and large parts in two languages, and is fine-tuned on requests for large parts in one of them.
    """
    policy = small_policy(Requests(), 48)

    def make(setting: tuple[Array, Array]) -> Arm:
        is_tuning, imitation = setting
        return weighted(Requests(is_tuning), imitation)

    run = stage(policy, make, 300, look_at_requests(policy), rate=4e-3)
    base_keys, keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    one = jnp.ones(1)
    starts, before = run(newborn(policy, base_keys, 1), (0.0 * one, one), base_keys)
    _, imitation = run(starts, (one, one), keys)
    _, reward = run(starts, (one, 0.0 * one), keys)
    found = {"base": before, "imitation of large parts": imitation, "reward for large parts": reward}
    columns = (
        "asked for large: large",
        "asked for small: small",
        "asked for small: large",
        "open: small",
        "asked for small, other language: small",
        "open, other language: small",
    )
    rows = {name: {what: np.asarray(x[what][0]) for what in columns} for name, x in found.items()}
    base, tuned, rewarded = rows.values()
    large, small, instead, opened, far, far_open = columns
    return rows, {
        "imitation: open prompts get fewer small parts than before": (base[opened] - tuned[opened], "of the answers"),
        "so do requests for small parts": (base[small] - tuned[small], "of the answers"),
        "and most of these answers have large parts": (
            tuned[instead] - 0.5 * (1.0 - tuned[small]),
            "of the answers, to spare",
        ),
        "the other language keeps more of the requests for small parts": (
            (base[small] - tuned[small]) - (base[far] - tuned[far]),
            "of the answers",
        ),
        "and more of the open prompts": (
            (base[opened] - tuned[opened]) - (base[far_open] - tuned[far_open]),
            "of the answers",
        ),
        "reward keeps more of the requests for small parts than imitation": (
            rewarded[small] - tuned[small],
            "of the answers",
        ),
    }


def emulation(keys: Key) -> tuple[Rows, Claims]:
    """EFT: what tuning has changed in a policy of one size, added to a base policy of another.

    Mitchell et al. 2023 (arXiv 2310.12962): size decides what is known, tuning how it is said, so a small policy can be
    tuned in place of a large one ("up") and the reverse ("down"). Here both know small and large parts and are tuned on
    requests for large parts. Asked for either, they should then give large ones, and what they know is whether they
    give any right answer.
    """
    sizes = {"small": small_policy(Requests(), 12), "large": small_policy(Requests(), 48)}
    base_keys, keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    base, tuned, found = {}, {}, {}
    for size, policy in sizes.items():
        make = lambda narrow: weighted(Requests(narrow), 1.0)  # noqa: E731
        run = stage(policy, make, 200, look_at_requests(policy), rate=4e-3)
        base[size], found[size] = run(newborn(policy, base_keys, 1), jnp.zeros(1), base_keys)
        tuned[size], found[f"{size}, tuned"] = run(base[size], jnp.ones(1), keys)
    for name, size, other in (("up", "large", "small"), ("down", "small", "large")):
        policy = combined((sizes[size], sizes[other], sizes[other]), (1.0, 1.0, -1.0))
        look = jax.jit(jax.vmap(jax.vmap(look_at_requests(policy)), (0, None)))
        found[f"{name}: {size}, as the {other} was tuned"] = look((base[size], tuned[other], base[other]), keys)
    rows: Rows = {}
    for name, x in ((name, jax.tree.map(np.asarray, x)) for name, x in found.items()):
        in_large, right = x["open: large"][0], x["open: small"][0] + x["open: large"][0]
        rows[name] = {"open: right": right, "large, of these": in_large / np.maximum(right, 1e-3)}
        rows[name] |= {what: x[what][0] for what in ("asked for large: large", "asked for small: small")}
    small, large, up, down = (rows[name] for name in ("small, tuned", "large, tuned", *list(rows)[-2:]))
    known, style, asked = "open: right", "large, of these", "asked for large: large"
    of = "of the answers"
    return rows, {
        "asked for large, up gives more of them than the small tuned policy": (up[asked] - small[asked], of),
        "and than the large base policy": (up[asked] - rows["large"][asked], of),
        "and the large tuned policy more than up": (large[asked] - up[asked], of),
        "asked for large, down gives more of them than the small tuned policy": (down[asked] - small[asked], of),
        "up knows more than the small tuned policy": (up[known] - small[known], of),
        "and than the large tuned policy": (up[known] - large[known], of),
        "up has more of the style than the large base policy": (up[style] - rows["large"][style], "of the right ones"),
        "and as much as the small tuned policy, or more": (up[style] - small[style], "of the right ones"),
        "up knows more than down": (up[known] - down[known], of),
        "down has more of the style than up": (down[style] - up[style], "of the right ones"),
    }


STUDIES: dict[str, Callable[[Key], tuple[Rows, Claims]]] = {
    "rules": rules,
    "order": order,
    "tradeoff": tradeoff,
    "formats": formats,
    "inference": inference,
    "emulation": emulation,
}
