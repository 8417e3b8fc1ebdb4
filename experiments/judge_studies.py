"""Studies of `experiments.mechanisms` on judges: reward models, those of steps, and two policies that learn together.

A text has eight words, and its gold reward is highest where some of them, but not all, are words of praise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs import tokens
from envs.tokens.reachable import reachable
from experiments.bandit_studies import Claims, Rows
from experiments.study_tasks import Praise, Whole, gold
from experiments.token_studies import Arm, Found, arm, imitated, optimizer, small_policy, sorting, train
from metarl.finetune import Sampling, SequencePolicy, judged, losses, policies, reward_models, sources, stepwise, terms
from metarl.finetune import preference_mixtures as mixtures
from metarl.finetune.batch import Batch
from metarl.finetune.cory import Both, exchanged, relay
from metarl.finetune.reward_models import Pairs, RewardModel, State, bradley_terry, ranked, some_of
from metarl.finetune.sampling import answered, problems_of
from metarl.types import Array, Key, Params, TokenTask, Verdict

# --- texts and their raters ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rated(Praise):
    """`Praise` whose verdict has the gold reward."""

    def verify(self, problem: Whole, answer: Array) -> Verdict:
        """The gold reward."""
        return Verdict(gold(answer), jnp.bool_(True), jnp.int32(0))


TASK = Rated()
TEXTS = Sampling(4, 16)
POLICY = small_policy(TASK, 16)


def judge(outputs: int = 1, width: int = 16, rate: float = 5e-3) -> RewardModel:
    """A reward model for texts."""
    return RewardModel(policies.gru(TASK.num_tokens, width, outputs), optimizer(rate), TASK.end)


def labelled(answers: Array, key: Key) -> Pairs:
    """Pairs [n] of texts [2 n, T], by raters who prefer with the probability `sigmoid(5 (gold - gold'))`."""
    first, second = jnp.split(answers, 2)
    prefers = jax.random.bernoulli(key, jax.nn.sigmoid(5.0 * (gold(first) - gold(second))))
    return ranked(jnp.full((len(first), 1), 7), first, second, prefers)


def texts(params: Params, key: Key, count: int) -> Batch:
    """`count` texts of a policy."""
    return answered(POLICY, params, TASK, Whole(jnp.full(count, 7, jnp.int32)), key)


def fitted(start: Params, key: Key, count: int) -> tuple[RewardModel, State]:
    """A reward model of `count` pairs of texts of the first policy."""
    text_key, label_key, init_key, fit_key = jax.random.split(key, 4)
    known = labelled(texts(start, text_key, 2 * count).answers, label_key)
    model = judge()
    return model, reward_models.fit(model, model.init(init_key), known, fit_key, steps=400)


def scored(model: RewardModel, params: Params) -> Callable[[Batch], Array]:
    """The reward model as a judge of batches."""
    return lambda batch: model.score(params, batch.prompts, batch.answers)


Make = Callable[[Params, Key, Array], Arm]  # from the base policy, a key, and a number x


def from_base(
    make: Make, policy: SequencePolicy, starts: Params, keys: Key, x: Array, steps: int, looks: int, look: Callable
) -> dict[str, np.ndarray]:
    """What was found of a method with each number of `x` [n] from each of the base policies, [n, seeds, looks].

    `look(start, params, key)` may compare a policy with the one that it began as.
    """

    def run(x: Array, start: Params, key: Key) -> Found:
        make_key, key = jax.random.split(key)
        method = make(start, make_key, x)
        return train(policy, method, lambda key: start, key, steps, partial(look, start), looks, rate=5e-3)[1]

    found = jax.jit(jax.vmap(jax.vmap(run, (None, 0, 0)), (0, None, None)))(x, starts, keys)
    return {name: np.asarray(value) for name, value in found.items()}


def look_at_texts(start: Params, params: Params, key: Key) -> Found:
    """The mean gold reward of texts, and the divergence from the first policy in nats per text."""
    drawn = texts(params, key, 512)
    return {"gold": gold(drawn.answers).mean(), "KL": judged.log_ratio(POLICY, start, drawn).mean()}


STEPS, LABELS = 300, 1200


def reward_model(keys: Key) -> tuple[Rows, Claims]:
    """A fixed reward model is over-optimised; a penalty, or raters of the policy's own texts, hold the gold reward."""
    starts = imitated(POLICY, TASK, keys, 30)
    fresh = sources.fresh(TASK, TEXTS)

    def fixed(start: Params, key: Key, beta: Array, count: int = LABELS) -> Arm:
        model, (params, _) = fitted(start, key, count)
        return arm(TASK, TEXTS, answers=judged.penalised(judged.judged(fresh, scored(model, params)), start, beta))

    def noisy(batch: Batch) -> Array:
        """The rater of `labelled`: differences of two Gumbel variables are logistic."""
        key = jax.random.fold_in(jax.random.key(0), batch.answers.sum() * 31 + (batch.answers[:, 0] * 7).sum())
        return gold(batch.answers) + jax.random.gumbel(key, (len(batch.answers),)) / 5.0

    def online(start: Params, key: Key, x: Array) -> Arm:
        source = judged.annotated(fresh, judge(), noisy, count=4, steps=2)
        return arm(TASK, TEXTS, answers=source)

    run = partial(from_base, policy=POLICY, starts=starts, keys=keys, steps=STEPS, looks=15, look=look_at_texts)
    betas = (0.0, 0.1, 0.3)
    penalised = run(fixed, x=jnp.array(betas))
    found = {
        f"reward model of {LABELS} pairs" + (f", KL {beta:g}" if beta else ""): {k: v[i] for k, v in penalised.items()}
        for i, beta in enumerate(betas)
    }
    none = jnp.zeros(1)
    few = run(partial(fixed, count=100), x=none)
    own = run(online, x=none)
    true = run(lambda start, key, x: arm(TASK, TEXTS), x=none)
    for name, x in (("reward model of 100 pairs", few), ("rated as it learns", own), ("gold reward", true)):
        found[name] = {k: v[0] for k, v in x.items()}
    rows = {}
    for name, x in found.items():
        peak = np.arange(len(keys)), x["gold"].argmax(1)
        rows[name] = {
            "gold at the end": x["gold"][:, -1],
            "highest on the way": x["gold"].max(1),
            "KL there": x["KL"][peak],
            "KL at the end": x["KL"][:, -1],
        }
    plain, few_pairs = rows[f"reward model of {LABELS} pairs"], rows["reward model of 100 pairs"]
    end = "gold at the end"
    return rows, {
        "a reward model is over-optimised": (plain["highest on the way"] - plain[end], "gold, lost"),
        "that of 100 pairs loses more": (plain[end] - few_pairs[end], "gold"),
        "a penalty of 0.3 holds the gold reward": (
            rows[f"reward model of {LABELS} pairs, KL 0.3"][end] - plain[end],
            "gold",
        ),
        "as many labels of the policy's own texts end higher": (rows["rated as it learns"][end] - plain[end], "gold"),
    }


def best_of_n(keys: Key) -> tuple[Rows, Claims]:
    """The gold reward of the best of n texts of the first policy, by reward models of few and many pairs."""
    sizes = (1, 4, 16, 64, 256)
    starts = imitated(POLICY, TASK, keys, 30)

    def curve(count: int, start: Params, key: Key) -> tuple[Array, Array]:
        model, (params, _) = fitted(start, key, count)
        drawn = texts(start, jax.random.fold_in(key, 1), 2048)
        true = gold(drawn.answers)
        by_model = judged.best_of(scored(model, params)(drawn), true, sizes)
        return by_model, judged.best_of(true, true, sizes)

    found = {count: jax.jit(jax.vmap(partial(curve, count)))(starts, keys) for count in (100, LABELS)}
    rows = {
        f"best of {n}": {
            "by 100 pairs": np.asarray(found[100][0][:, i]),
            f"by {LABELS} pairs": np.asarray(found[LABELS][0][:, i]),
            "by the gold reward": np.asarray(found[100][1][:, i]),
            "KL (at most)": np.full(len(keys), np.log(n) - (n - 1) / n),
        }
        for i, n in enumerate(sizes)
    }
    few, many = "by 100 pairs", f"by {LABELS} pairs"
    last, before = rows["best of 256"], rows["best of 16"]
    return rows, {
        f"{few}, the best of 256 is worse than that of 16": (before[few] - last[few], "gold"),
        f"{many}, too": (before[many] - last[many], "gold"),
        f"{LABELS} pairs choose better texts of 256 than 100": (last[many] - last[few], "gold"),
    }


# --- pairs whose labels are wrong ---------------------------------------------------------------------------------


def random_texts(key: Key, count: int, praising: float = 3 / 7) -> Array:
    """Texts [count, 8] whose words are of praise with the probability `praising`."""
    which_key, word_key, other_key = jax.random.split(key, 3)
    shape = (count, TASK.answer_length)
    word = jax.random.randint(word_key, shape, 1, 4)
    return jnp.where(jax.random.bernoulli(which_key, praising, shape), word, jax.random.randint(other_key, shape, 4, 8))


def certain(answers: Array) -> Pairs:
    """Pairs of texts [2 n, T] by a rater who never errs."""
    first, second = jnp.split(answers, 2)
    return ranked(jnp.full((len(first), 1), 7), first, second, gold(first) > gold(second))


def ranks(strength: Array, pairs: Pairs) -> Array:
    """The share () of the pairs, without those of equal gold reward, that are ranked right."""
    differ = gold(pairs.chosen) != gold(pairs.rejected)
    return ((strength > 0.0) & differ).sum() / differ.sum()


def wrong_labels(keys: Key) -> tuple[Rows, Claims]:
    """Votes find labels that are wrong: 600 pairs, a quarter of them the wrong way round."""
    model, share = judge(), 0.25

    def run(key: Key) -> dict[str, Found]:
        text_key, wrong_key, init_key, fit_key, test_key = jax.random.split(key, 5)
        clean = certain(random_texts(text_key, 1200))
        wrong = jax.random.bernoulli(wrong_key, share, (600,))
        noisy = ranked(clean.prompts, clean.chosen, clean.rejected, ~wrong)
        test = certain(random_texts(test_key, 4000))
        fit = partial(reward_models.fit, model, steps=200)
        many = jax.vmap(lambda key: fit(model.init(key), noisy, key))(jax.random.split(init_key, 8))[0]
        mean, deviation = reward_models.votes(model, many, noisy)

        def tested(params: Params) -> Found:
            return {"right": ranks(model.strength(params, test), test)}

        def fresh(pairs: Pairs) -> Found:
            return tested(fit(model.init(fit_key), pairs, fit_key)[0])

        def peers() -> Found:
            def one(states: tuple[State, State], key: Key) -> tuple[tuple[State, State], None]:
                some = some_of(noisy, key, 32)
                return reward_models.peer_review(model, states, some, keep=0.7), None

            both = tuple(model.init(key) for key in jax.random.split(fit_key))
            (first, _), _ = jax.lax.scan(one, both, jax.random.split(fit_key, 200))  # type: ignore[arg-type]
            return tested(first[0])

        revised = partial(reward_models.voted, noisy, mean)
        flipped = revised(share)
        found = {
            "clean labels": fresh(clean),
            "wrong labels": fresh(noisy),
            "smoothed by 0.25": fresh(revised(0.0, smoothing=share)),
            "the lowest 25 % flipped": fresh(flipped),
            "flipped, with margins": fresh(revised(share, margin=1.0)),
            "peers, who keep 70 %": peers(),
            "the ensemble's mean": {"right": ranks(jax.vmap(model.strength, (0, None))(many, test).mean(0), test)},
        }
        is_flipped = (flipped.chosen != noisy.chosen).any(1)
        about = {
            "flipped that were wrong": (is_flipped & wrong).sum() / jnp.maximum(is_flipped.sum(), 1),
            "deviation of wrong": (deviation * wrong).sum() / wrong.sum(),
            "of right": (deviation * ~wrong).sum() / (~wrong).sum(),
        }
        return {**found, "about the votes": about}

    found = jax.tree.map(np.asarray, jax.jit(jax.vmap(run))(keys))
    about = found.pop("about the votes")
    rows: Rows = dict(sorted(found.items(), key=lambda row: -row[1]["right"].mean()))
    plain = rows["wrong labels"]["right"]
    claims: Claims = {
        f"better than wrong labels: {name}": (row["right"] - plain, "of the pairs")
        for name, row in rows.items()
        if name not in ("wrong labels", "clean labels")
    }
    claims["most labels that votes flip were wrong"] = (about["flipped that were wrong"] - 0.5, "of the flipped")
    claims["the ensemble disagrees more about wrong labels"] = (
        about["deviation of wrong"] - about["of right"],
        "score",
    )
    return rows, claims


# --- answers that nobody has rated --------------------------------------------------------------------------------


def unrated(keys: Key) -> tuple[Rows, Claims]:
    """MetaRM on texts with more praise than those of the pairs: told further apart, and ranked better or not."""
    model, size = judge(), 8

    def run(rate: float, first_order: bool, key: Key) -> Found:
        text_key, shift_key, fit_key, test_key = jax.random.split(key, 4)
        known = certain(random_texts(text_key, 800, praising=0.15))
        shifted = random_texts(shift_key, 512, praising=0.6)
        test = certain(random_texts(test_key, 4000, praising=0.6))
        inside = certain(random_texts(jax.random.fold_in(test_key, 1), 4000, praising=0.15))

        def one(state: State, key: Key) -> tuple[State, None]:
            row_key, shift_key = jax.random.split(key)
            some = some_of(known, row_key, 32)
            new = shifted[jax.random.randint(shift_key, (32,), 0, 512)]
            zeros = jnp.zeros(32)
            batch = Batch(
                jnp.full((32, 1), 7), new, new > 0, jnp.zeros(new.shape), zeros, zeros > 0, jnp.zeros(32, jnp.int32)
            )

            def loss(params: Params) -> Array:
                if rate == 0.0:
                    return bradley_terry(model, params, some).mean()
                return reward_models.meta_loss(model, params, some, batch, size, rate, first_order)

            return model.step(state, loss), None

        params = jax.lax.scan(one, model.init(fit_key), jax.random.split(fit_key, 400))[0][0]
        score = model.score(params, jnp.full((512, 1), 7), shifted).reshape(-1, size)
        return {
            "shifted pairs right": ranks(model.strength(params, test), test),
            "pairs like the rated ones": ranks(model.strength(params, inside), inside),
            "difference": jax.vmap(reward_models.difference)(score).mean(),
        }

    methods = {
        "Bradley-Terry": (0.0, True),
        "MetaRM, rate 0.1": (0.1, True),
        "MetaRM, rate 1": (1.0, True),
        "exact gradient, rate 0.1": (0.1, False),
        "exact gradient, rate 1": (1.0, False),
    }
    rows = {name: jax.tree.map(np.asarray, jax.jit(jax.vmap(partial(run, *x)))(keys)) for name, x in methods.items()}
    plain, claims = rows["Bradley-Terry"], {}
    for name in ("MetaRM, rate 1", "exact gradient, rate 1"):
        gain = rows[name]["shifted pairs right"] - plain["shifted pairs right"]
        claims[f"{name}: shifted answers are told further apart"] = (
            rows[name]["difference"] - plain["difference"],
            "J",
        )
        claims[f"{name}: shifted pairs are ranked better"] = (gain, "of the pairs")
    return rows, claims


# --- raters who disagree ------------------------------------------------------------------------------------------


def tastes(keys: Key) -> tuple[Rows, Claims]:
    """MiCRo: half of the raters like word 1 and half like word 2; whose taste is it, after a few pairs of a rater?"""
    one, two = judge(width=32), judge(outputs=4, width=32)

    def ahead(first: Array, second: Array) -> Array:
        """By how much the first texts are ahead for each taste, [n, 2]."""
        count = [(first == word).sum(-1) - (second == word).sum(-1) for word in (1, 2)]
        return jnp.stack(count, -1)

    def run(key: Key) -> dict[str, Found]:
        text_key, taste_key, fit_key, test_key = jax.random.split(key, 4)
        first, second = jnp.split(random_texts(text_key, 6000), 2)
        taste = jax.random.bernoulli(taste_key, 0.5, (3000,)).astype(jnp.int32)
        own = jnp.take_along_axis(ahead(first, second), taste[:, None], 1)[:, 0]
        known = ranked(jnp.full((3000, 1), 7), first, second, own > 0)

        def fit(model: RewardModel, loss: Callable[[RewardModel, Params, Pairs], Array]) -> Params:
            def step(state: State, key: Key) -> tuple[State, None]:
                rows = jax.random.randint(key, (64,), 0, 3000)
                some, differ = jax.tree.map(lambda x: x[rows], known), own[rows] != 0
                return model.step(state, lambda p: terms.token_mean(loss(model, p, some), differ)), None

            return jax.lax.scan(step, model.init(fit_key), jax.random.split(fit_key, 1500))[0][0]

        single, mixture = fit(one, bradley_terry), fit(two, mixtures.mixture_loss)
        first, second = jnp.split(random_texts(test_key, 2000), 2)
        lead = ahead(first, second)
        pairs = ranked(jnp.full((1000, 1), 7), first, second, jnp.ones(1000, bool))
        strength = mixtures.strengths(two, mixture, pairs)  # [1000, 2 heads]
        prior = jnp.exp(mixtures.routed(two, mixture, pairs.prompts[:1]))[0]
        test, rated = slice(100, None), slice(0, 100)

        def right(guess: Array, taste: int) -> Array:
            """The share of test pairs that are ranked as a rater with the taste does."""
            differ = lead[test, taste] != 0
            return (((guess[test] > 0) == (lead[test, taste] > 0)) & differ).sum() / differ.sum()

        def after(count: int, taste: int) -> Array:
            """Test pairs right after `count` pairs of a rater with the taste."""
            d = jnp.sign(lead[rated, taste])[:, None] * strength[rated]
            order = jnp.argsort(lead[rated, taste] == 0, stable=True)[:count]  # pairs of which the rater has a view
            losses = -jax.nn.log_sigmoid(d[order])
            weights = jax.lax.scan(lambda w, x: (mixtures.hedge(w, x), None), prior, losses)[0]
            return right(jax.nn.sigmoid(strength) @ weights - 0.5, taste)

        def both(of_taste: Callable[[int], Array]) -> Found:
            return {"right": (of_taste(0) + of_taste(1)) / 2}

        heads = jnp.array([[right(strength[:, head], taste) for head in (0, 1)] for taste in (0, 1)])
        return {
            "one Bradley-Terry model": both(partial(right, one.strength(single, pairs))),
            "mixture, the router's weights": both(partial(after, 0)),
            "mixture, Hedge after 5 pairs": both(partial(after, 5)),
            "mixture, Hedge after 50 pairs": both(partial(after, 50)),
            "mixture, the best head for each taste": {"right": heads.max(1).mean()},
        }

    rows: Rows = jax.tree.map(np.asarray, jax.jit(jax.vmap(run))(keys))
    right = {name: row["right"] for name, row in rows.items()}
    single = right["one Bradley-Terry model"]
    return rows, {
        "the best heads know each taste better than one model": (
            right["mixture, the best head for each taste"] - single,
            "of the pairs",
        ),
        "Hedge is better than one model after 5 pairs": (
            right["mixture, Hedge after 5 pairs"] - single,
            "of the pairs",
        ),
        "after 50": (right["mixture, Hedge after 50 pairs"] - single, "of the pairs"),
    }


# --- judges of steps ----------------------------------------------------------------------------------------------


def steps(keys: Key) -> tuple[Rows, Claims]:
    """GLoRe: judges of the prefixes of Countdown, against exact reachability."""
    task = tokens.make_task("countdown", min_numbers=3, max_numbers=3, highest=6, max_target=20)
    policy = small_policy(task, 64)
    model = RewardModel(policies.gru(task.num_tokens, 64, 1), optimizer(3e-3), task.end)
    starts = imitated(policy, task, keys, 600)

    def exact(batch: Batch) -> Array:
        check = lambda problem, answer: reachable(task.notation, problem.numbers[:3], problem.target, answer)  # type: ignore[attr-defined]  # noqa: E731
        return jax.vmap(check)(batch.problem, batch.answers)

    def drawn(start: Params, key: Key, count: int) -> Batch:
        problem_key, key = jax.random.split(key)
        return answered(policy, start, task, problems_of(task, problem_key, count), key)

    labels: Mapping[str, Callable[[Params, Batch, Key], Array]] = {
        "outcome (ORM)": lambda start, batch, key: stepwise.outcomes(batch),
        "completed in 2 tries": lambda start, batch, key: stepwise.completable(policy, start, task, batch, key, 2),
        "completed in 8 tries": lambda start, batch, key: stepwise.completable(policy, start, task, batch, key, 8),
        "exact": lambda start, batch, key: exact(batch),
    }

    def balanced(found: Array, true: Array, mask: Array) -> Array:
        """The mean of the shares of good and of bad prefixes that are found to be so."""
        good, bad = mask & true, mask & ~true
        return ((found & good).sum() / good.sum() + (~found & bad).sum() / bad.sum()) / 2

    def run(name: str, start: Params, key: Key) -> Found:
        def one(state: State, key: Key) -> tuple[State, None]:
            draw_key, label_key = jax.random.split(key)
            batch = drawn(start, draw_key, 16)
            known = labels[name](start, batch, label_key)
            loss = lambda p: terms.token_mean(stepwise.token_loss(model, p, batch, known), batch.mask)  # noqa: E731
            return model.step(state, loss), None

        init_key, key, test_key = jax.random.split(key, 3)
        params = jax.lax.scan(one, model.init(init_key), jax.random.split(key, 200))[0][0]
        test = drawn(start, test_key, 256)
        true = exact(test)
        score = stepwise.token_scores(model, params, test)
        first = jnp.arange(test.mask.shape[1]) < 3  # the numbers that an answer begins with
        return {
            "judge": balanced(score > 0, true, test.mask),
            "judge, first three tokens": balanced(score > 0, true, test.mask & first),
            "labels": balanced(labels[name](start, test, key), true, test.mask),
            "the policy solves": test.correct.mean(),
        }

    rows = {}
    for name in labels:
        rows[name] = jax.tree.map(np.asarray, jax.jit(jax.vmap(partial(run, name)))(starts, keys))
    gain = rows["completed in 8 tries"]
    return rows, {
        "a stepwise judge finds bad prefixes better than one of outcomes": (
            gain["judge"] - rows["outcome (ORM)"]["judge"],
            "balanced accuracy",
        ),
        "also among the first three tokens": (
            gain["judge, first three tokens"] - rows["outcome (ORM)"]["judge, first three tokens"],
            "balanced accuracy",
        ),
        "8 tries label better than 2": (gain["labels"] - rows["completed in 2 tries"]["labels"], "balanced accuracy"),
        "exact labels would make a better judge": (rows["exact"]["judge"] - gain["judge"], "balanced accuracy"),
    }


# --- two policies -------------------------------------------------------------------------------------------------

KL_COEFFICIENTS = (0.01, 0.03, 0.1, 0.3, 1.0)


class Frontier(NamedTuple):
    """Rewards and divergences [n, seeds] with n coefficients of the divergence."""

    reward: np.ndarray
    kl: np.ndarray

    def at(self, kl: np.ndarray) -> np.ndarray:
        """The reward [len(kl), seeds] at given divergences, by linear interpolation."""
        columns = []
        for reward, own in zip(self.reward.T, self.kl.T, strict=True):
            order = np.argsort(own)
            columns.append(np.interp(kl, own[order], reward[order]))
        return np.stack(columns, 1)


def ahead_of(one: Frontier, other: Frontier) -> np.ndarray:
    """By how much the reward of one is ahead at equal divergence [seeds], on average over what both reach."""
    seeds = []
    for i in range(one.kl.shape[1]):
        a, b = (Frontier(x.reward[:, i : i + 1], x.kl[:, i : i + 1]) for x in (one, other))
        reached = np.linspace(max(a.kl.min(), b.kl.min()), min(a.kl.max(), b.kl.max()), 20)
        seeds.append((a.at(reached) - b.at(reached)).mean())
    return np.array(seeds)


def tied(both: SequencePolicy, policy: SequencePolicy) -> SequencePolicy:
    """A relay whose pioneer and observer are one: to teach a policy both roles."""
    return both._replace(
        init=policy.init,
        apply=lambda p, *x: both.apply((p, p), *x),
        prefill=lambda p, *x: both.prefill((p, p), *x),
        decode=lambda p, *x: both.decode((p, p), *x),
    )


def two_policies(keys: Key) -> tuple[Rows, Claims]:
    """CORY against one policy: reward and divergence with five coefficients of the divergence."""
    task: TokenTask = sorting(2, 4)
    policy = small_policy(task)
    both = relay(policy, task)
    starts = imitated(tied(both, policy), Both(task), keys, 250)
    x = jnp.array(KL_COEFFICIENTS)

    def alone(start: Params, params: Params, key: Key) -> Found:
        """Of one policy that answers by itself."""
        drawn = answered(policy, params, task, problems_of(task, key, 256), key)
        return {"reward": drawn.reward.mean(), "KL": judged.log_ratio(policy, start, drawn).mean()}

    def each(start: Params, params: Params, key: Key) -> Found:
        """The mean over pioneer and observer, each by itself."""
        found = [alone(s, p, key) for s, p in zip(start, params, strict=True)]
        return jax.tree.map(lambda one, other: (one + other) / 2, *found)

    def one_policy(sampling: Sampling, start: Params, key: Key, coefficient: Array) -> Arm:
        return arm(task, sampling, loss=losses.with_kl(losses.reinforce(), lambda signals: coefficient))

    def cory(start: Params, key: Key, coefficient: Array) -> Arm:
        loss = losses.with_kl(losses.reinforce(), lambda signals: coefficient)
        return arm(Both(task), Sampling(8, 8), loss=loss, around=partial(exchanged, every=5))

    pair = (starts, starts)
    options = {"keys": keys, "x": x, "steps": 150, "looks": 1}
    methods = {
        "one policy, as many answers of each": from_base(
            partial(one_policy, Sampling(8, 8)), policy, starts, look=alone, **options  # type: ignore[arg-type]
        ),
        "one policy, as many answers in all": from_base(
            partial(one_policy, Sampling(16, 8)), policy, starts, look=alone, **options  # type: ignore[arg-type]
        ),
        "CORY": from_base(cory, both, pair, look=each, **options),  # type: ignore[arg-type]
    }  # fmt: skip
    rows, frontiers = {}, {}
    for name, found in methods.items():
        frontiers[name] = Frontier(found["reward"][..., -1], found["KL"][..., -1])
        for i, coefficient in enumerate(KL_COEFFICIENTS):
            rows[f"{name}, KL {coefficient:g}"] = {
                "reward": frontiers[name].reward[i],
                "divergence": frontiers[name].kl[i],
            }
    base = jax.jit(jax.vmap(lambda start, key: alone(start, start, key)))(starts, keys)
    rows["base policy"] = {"reward": np.asarray(base["reward"]), "divergence": np.zeros(len(keys))}
    mine = frontiers["CORY"]
    return rows, {
        f"CORY earns more at equal divergence than {name}": (ahead_of(mine, x), "reward")
        for name, x in frontiers.items()
        if name != "CORY"
    } | {
        f"CORY earns more at KL {KL_COEFFICIENTS[0]:g} than {name}": (mine.reward[0] - x.reward[0], "reward")
        for name, x in frontiers.items()
        if name != "CORY"
    }


STUDIES: dict[str, Callable[[Key], tuple[Rows, Claims]]] = {
    "reward_model": reward_model,
    "best_of_n": best_of_n,
    "wrong_labels": wrong_labels,
    "unrated": unrated,
    "tastes": tastes,
    "steps": steps,
    "two_policies": two_policies,
}
