"""Token tasks: the evaluator against Python's fractions, the tables against known counts, the environment by hand."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import tokens
from envs.tokens import general_points as gp
from envs.tokens import rpn
from metarl.rl.environment import trace_environment
from metarl.types import Box, constant_levels

N = gp.NOTATION
FOUR_CARDS = sorted(set(gp.SPLITS) - {"five"})


def write(text, length=8):
    """Tokens `[length]` of a formula, ended and padded."""
    words = {operator: N.plus + i for i, operator in enumerate(rpn.OPERATORS)} | {"_": N.blank}
    answer = [words[w] if w in words else int(w) for w in text.split()]
    return np.array(answer + [N.end] * (length - len(answer)), np.int32)


# --- the evaluator ---------------------------------------------------------------------------------------------------


def reference(answer):
    """The value of an answer by fractions: None if it is no formula, "undefined" after a division by zero."""
    if N.end not in answer:
        return None
    stack = []
    for token in answer[: answer.index(N.end)]:
        if N.end < token < N.plus:
            stack.append(Fraction(token))
        elif not N.plus <= token < N.blank or len(stack) < 2:
            return None
        else:
            b, a = stack.pop(), stack.pop()
            if "undefined" in (a, b) or (token == N.plus + 3 and b == 0):
                stack.append("undefined")
            else:
                stack.append([a + b, a - b, a * b, a / b if b else None][token - N.plus])
    return stack[0] if len(stack) == 1 else None


@functools.cache
def evaluated():
    """20,000 answers of ten tokens, half of them formulas, and what they evaluate to."""
    rng = np.random.RandomState(0)
    answers = rng.choice(
        [0, 1, 2, 3, 8, 19, 20, 21, 22, 23, 24], (20000, 10), p=[0.06] + [0.11] * 5 + [0.09] * 4 + [0.03]
    )
    for answer in answers[::2]:  # a random formula: write a leaf, or an operator as soon as there are operands
        leaves, depth, formula = rng.randint(1, 6), 0, []
        while leaves or depth > 1:
            if leaves and (depth < 2 or rng.rand() < 0.5):
                formula, leaves, depth = [*formula, rng.choice([1, 2, 3, 4, 8, 19])], leaves - 1, depth + 1
            else:
                formula, depth = [*formula, rng.randint(20, 24)], depth - 1
        answer[:] = N.end
        answer[: len(formula)] = formula
    answers[:2] = write("19 19 19 19 19 * * * *", 10), write("19 19 / 19 / 19 / 19 /", 10)  # the largest there are
    value = jax.jit(jax.vmap(functools.partial(rpn.evaluate, N)))(jnp.asarray(answers, jnp.int32))
    return answers, jax.tree.map(np.asarray, value)


def test_values_are_those_of_fractions():
    answers, value = evaluated()
    expected = [reference(answer.tolist()) for answer in answers]
    assert value.legal.tolist() == [x is not None for x in expected]
    assert (value.denominator[[x == "undefined" for x in expected]] == 0).all()
    defined = [i for i, x in enumerate(expected) if isinstance(x, Fraction)]
    assert [Fraction(int(value.numerator[i]), int(value.denominator[i])) for i in defined] == [
        expected[i] for i in defined
    ]
    assert len(defined) > 5000 and expected.count("undefined") > 50 and expected.count(None) > 5000
    assert max(abs(expected[i]) for i in defined) == 19**5  # as large as it can get


def test_unbatched_evaluation_is_the_same():
    answers, value = evaluated()
    for i in range(3):
        with jax.disable_jit(i == 0):
            one = rpn.evaluate(N, jnp.asarray(answers[i], jnp.int32))
        assert [x.item() for x in one] == [x[i].item() for x in value]


def test_numbers_that_could_overflow_are_refused():
    rpn.require_exact(5, 19, 24)
    for call in (
        lambda: rpn.require_exact(7, 19, 24),
        lambda: rpn.Notation(251),
        lambda: rpn.solve(N, np.array([[2, 1]]), (24,)),
        lambda: rpn.solve(N, np.array([[1]]), (24,)),
        lambda: tokens.make_task("countdown", highest=60, max_target=200, room=200),
    ):
        with pytest.raises(ValueError, match="overflow|250|sorted"):
            call()


# --- the solver ------------------------------------------------------------------------------------------------------


def test_known_counts_of_hands():
    assert len(rpn.multisets(13, 4)) == 1820 and rpn.orderings(rpn.multisets(13, 4)).sum() == 13**4
    assert len(gp.table("id").ranks) == 1236 and len(gp.table("rule").ranks) == 796
    assert len(gp.table("regular").ranks) == 1362  # the usual game


def test_all_solutions_are_found_once():
    """Against a search that combines any two of what is on the table by fractions."""

    def search(items):
        if len(items) == 1:
            return {items[0][1]} if items[0][0] == 24 else set()
        found = set()
        for i, (a, left) in enumerate(items):
            for j, (b, right) in enumerate(items):
                rest = [x for k, x in enumerate(items) if k not in (i, j)]
                if i != j:
                    for k, value in enumerate((a + b, a - b, a * b, a / b if b else None)):
                        if value is not None:
                            found |= search([*rest, (value, f"{left} {right} {rpn.OPERATORS[k]}")])
        return found

    hands = np.array([[3, 3, 8, 8], [1, 1, 1, 1], [1, 5, 5, 5], [2, 2, 2, 12]])
    solved = rpn.solve(N, hands, (24,), keep=500)
    assert solved.hand.tolist() == [0, 2, 3] and (solved.target == 24).all() and (solved.known == solved.total).all()
    for hand, answers, known in zip(solved.hand, solved.answers, solved.known, strict=True):
        words = [N.spell(answer) for answer in answers[:known]]
        assert len(set(words)) == known and set(words) == search([(Fraction(int(n)), str(n)) for n in hands[hand]])
    few = rpn.solve(N, hands, (24, 4), keep=2)
    pairs = list(zip(few.hand.tolist(), few.target.tolist(), strict=True))
    assert pairs == sorted(pairs) and {pair for pair in pairs if pair[1] == 24} == {(0, 24), (2, 24), (3, 24)}
    assert (few.known == np.minimum(few.total, 2)).all() and (1, 4) in pairs  # 1 + 1 + 1 + 1


# --- General Points --------------------------------------------------------------------------------------------------


@functools.cache
def judge(task):
    """`verify` for a batch of problems and answers."""
    return jax.jit(jax.vmap(task.verify))


def play(task, verify=None, count=300):
    """Problems, their prompts and demonstrations, and the verdicts on these."""
    keys = jax.random.split(jax.random.key(0), count)
    problem = jax.vmap(task.sample)(keys)  # operation by operation: it compiles less
    answer = jax.vmap(task.demonstrate)(keys, problem)
    return jax.tree.map(
        np.asarray, (problem, jax.vmap(task.prompt)(problem), answer, (verify or judge(task))(problem, answer))
    )


def check_play(task, prompt, answer, verdict):
    assert verdict.correct.all() and (verdict.kind == 0).all() and verdict.correct.dtype == bool
    assert verdict.reward.dtype == np.float32 and verdict.kind.dtype == np.int32
    assert prompt.dtype == answer.dtype == np.int32 and prompt.shape[1:] == (task.prompt_length,)
    assert answer.shape[1:] == (task.answer_length,) and (answer[:, -1] == task.end).all()
    assert min(prompt.min(), answer.min()) >= 0 and max(prompt.max(), answer.max()) < task.num_tokens


@pytest.mark.parametrize("split", FOUR_CARDS)
def test_demonstrations_of_four_cards_are_correct(split):
    task = gp.GeneralPoints(split, part="all")
    hand, prompt, answer, verdict = play(task, judge(gp.GeneralPoints()))  # which judges the hands of all splits
    check_play(task, prompt, answer, verdict)
    assert (verdict.reward == 5).all() and (hand.ranks > 0).all()
    assert (prompt == np.concatenate([hand.faces, hand.ranks], 1)).all()
    spec = gp.SPLITS[split]
    assert {tuple(faces) for faces in hand.faces.tolist()} == set(spec.rules)
    counts = np.tile(np.arange(20), (len(prompt), 1))
    counts[:, 11:14] = 10 if split == "fake" else hand.faces
    assert (hand.values == np.take_along_axis(counts, hand.ranks, 1)).all()
    assert (np.diff(hand.ranks) < 0).any() and hand.ranks.max() == spec.highest  # the cards are shuffled
    if spec.required:
        low, high = spec.required
        assert ((hand.ranks >= low) & (hand.ranks <= high)).any(1).all()
    if split == "fake":
        fake, rule, ten = ({tuple(x) for x in gp.table(name).ranks.tolist()} for name in ("fake", "regular", "id"))
        assert fake == rule & ten and len(fake) < len(ten)


def test_every_known_answer_is_correct():
    hands, answers = [], []
    for split in FOUR_CARDS:
        table = gp.table(split)
        values = table.values[np.unique(table.solutions, return_index=True)[1]]  # of one hand for each row of answers
        known = np.arange(table.answers.shape[1]) < table.known[np.unique(table.solutions)][:, None]
        hands.append(values[np.nonzero(known)[0]])
        answers.append(table.answers[np.unique(table.solutions)][known])
    values, answers = jnp.asarray(np.concatenate(hands)), jnp.asarray(np.concatenate(answers), jnp.int32)
    nothing = jnp.zeros(len(values), jnp.int32)
    verdict = judge(gp.GeneralPoints())(
        gp.Hand(jnp.zeros((len(values), 3), jnp.int32), values, values, nothing), answers
    )
    assert verdict.correct.all() and len(answers) > 100_000


def test_five_cards_and_four_share_their_lengths():
    five, four = (gp.GeneralPoints(split, "all", max_cards=5, scale="binary") for split in ("five", "rule"))
    assert len(gp.table("five").ranks) <= 6188
    for task, cards in ((five, 5), (four, 4)):
        hand, prompt, answer, verdict = play(task)
        check_play(task, prompt, answer, verdict)
        assert (verdict.reward == 1).all() and ((hand.ranks > 0).sum(1) == cards).all()
        assert (prompt[:, 7] == N.blank).all() == (cards == 4) and prompt.shape[1] == 8 and answer.shape[1] == 10
        assert ((answer != N.end).sum(1) == 2 * cards - 1).all()
    assert (five.num_tokens, five.end) == (four.num_tokens, four.end) == (gp.GeneralPoints().num_tokens, 0)


def test_hands_are_drawn_as_cards_with_replacement():
    table = gp.table("id")
    hand, *_ = play(gp.GeneralPoints("id", "all"), judge(gp.GeneralPoints()))
    ways = rpn.orderings(table.ranks)
    np.testing.assert_allclose(table.probability, ways / ways.sum())
    assert hand.ranks.mean() == pytest.approx((table.ranks.mean(1) * table.probability).sum(), abs=4 * 3.7 / 1200**0.5)
    rules = gp.table("diverse", "held_out")
    per_rule = [rules.probability[(rules.faces == rule).all(1)].sum() for rule in gp.SPLITS["diverse"].rules]
    np.testing.assert_allclose(per_rule, 1 / 8)


@pytest.mark.parametrize("split", FOUR_CARDS)
def test_held_out_hands_share_no_answer_with_training(split):
    train, held_out, whole = (gp.table(split, part) for part in ("train", "held_out", "all"))
    assert len(train.ranks) + len(held_out.ranks) == len(whole.ranks)
    assert 0.15 < len(held_out.ranks) / len(whole.ranks) < 0.25
    for table in (train, held_out):
        assert table.probability.sum() == pytest.approx(1.0)

    def by_value(table):
        return {tuple(sorted(values)) for values in table.values.tolist()}

    assert not by_value(train) & by_value(held_out)
    assert not by_value(gp.table("diverse", "train")) & by_value(held_out)  # under any rule
    hands = gp.GeneralPoints(split, "held_out")
    sampled = jax.vmap(hands.sample)(jax.random.split(jax.random.key(1), 20)).values
    assert {tuple(sorted(values)) for values in sampled.tolist()} <= by_value(held_out)


HAND = gp.Hand(
    faces=jnp.array([10, 10, 10]),
    ranks=jnp.array([13, 2, 4, 4]),
    values=jnp.array([10, 2, 4, 4]),
    solutions=jnp.int32(0),
)
ANSWERS = {
    "10 4 + 2 * 4 -": (5, 1),
    "10 4 4 - 2 * +": (-1, 0),
    "2 10 4 4 - / +": (-3, 0),  # a division by zero
    "2 10 10 4 4 - / / +": (-3, 0),  # never taken for 2, and no room for the end
    "13 4 + 2 * 4 -": (-2, 0),  # the rank of the king in place of what it counts as
    "4 4 * 10 2 - +": (5, 1),
    "10 4 + 2 *": (-2, 0),
    "10 4 + 4 + 4 +": (-2, 0),
    "12 12 +": (-2, 0),
    "8 1 1 - /": (-2, 0),  # other numbers come before a division by zero
    "": (-3, 0),
    "10": (-2, 0),
    "10 4": (-3, 0),
    "+": (-3, 0),
    "10 + 4": (-3, 0),
    "10 4 + 2 * 4": (-3, 0),
    "10 4 + _ 2 * 4": (-3, 0),
    "10 10 10 10 10 10 10 10": (-3, 0),
    "10 4 + 2 * 4 - +": (-3, 0),  # one token too many: no end
}


@pytest.mark.parametrize("scale", rpn.REWARDS)
def test_rewards_of_each_failure(scale):
    task = gp.GeneralPoints(scale=scale)
    answers = [a for a in ANSWERS if len(a.split()) <= 8]
    verdict = jax.jit(jax.vmap(task.verify, (None, 0)))(HAND, jnp.stack([write(a) for a in answers]))
    assert verdict.reward.tolist() == [ANSWERS[a][scale == "binary"] for a in answers]
    assert [task.kinds[k] == "correct" for k in verdict.kind] == verdict.correct.tolist()
    assert verdict.correct.tolist() == [ANSWERS[a][1] == 1 for a in answers]


def test_what_comes_after_the_end_counts_for_nothing():
    task = gp.GeneralPoints("id", max_cards=5)
    hand = jax.tree.map(lambda x: jnp.append(x, 0) if x.shape == (4,) else x, HAND)
    after = write("10 4 + 2 * 4 -", 10)
    after[8:] = 3
    answers = [after, write("2 10 10 4 4 - / / +", 10), np.full(10, 3), np.full(10, -1), np.full(10, 99)]
    verdict = jax.jit(jax.vmap(task.verify, (None, 0)))(hand, jnp.asarray(np.stack(answers), jnp.int32))
    assert verdict.reward.tolist() == [5, -2, -3, -3, -3]


def test_fake_hands_are_scored_by_ten():
    """A hand of the split whose king counts as 13 in the prompt: only answers with 10 can be correct."""
    table = gp.table("fake")
    row = next(i for i, ranks in enumerate(table.ranks) if ranks[3] == 13)
    assert table.faces[row].tolist() == [11, 12, 13] and 10 in table.values[row] and 13 not in table.values[row]
    for answer in table.answers[table.solutions[row]][: table.known[table.solutions[row]]]:
        assert reference(answer.tolist()) == 24 and sorted(x for x in answer if 0 < x < N.plus) == sorted(
            table.values[row]
        )


# --- the other tasks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 4])
def test_countdown(size):
    task = tokens.Countdown(size, 4, highest=5, max_target=12, part="all")
    problem, prompt, answer, verdict = play(task)
    check_play(task, prompt, answer, verdict)
    sizes = (problem.numbers > 0).sum(1)
    assert set(sizes) == set(range(size, 5)) and ((answer != task.end).sum(1) == 2 * sizes - 1).all()
    assert (prompt[:, 0] == problem.target).all() and set(problem.target) == set(range(1, 13))
    assert (prompt[:, 1:] == np.where(problem.numbers > 0, problem.numbers, task.notation.blank)).all()
    verdict = judge(task)(problem._replace(target=problem.target + 1), answer)
    assert (verdict.reward == 0).all() and {task.kinds[kind] for kind in verdict.kind} == {"wrong value"}


def test_countdown_parts_are_disjoint():
    probability = {
        part: tokens.countdown._probability(tokens.Countdown(highest=5, max_target=12, part=part)) for part in rpn.PARTS
    }
    assert not (probability["train"] * probability["held_out"]).any()
    assert ((probability["train"] + probability["held_out"] > 0) == (probability["all"] > 0)).all()
    held_out, size = probability["held_out"], tokens.countdown.table(5, 12, 30).size
    np.testing.assert_allclose(np.bincount(size, held_out)[2:], 1 / 3)
    assert 0.1 < (held_out > 0).mean() < 0.3


@pytest.mark.parametrize(
    ("task", "in_order"),
    [
        (tokens.Sorting(1, 3, room=4), 4),
        (tokens.Countdown(max_numbers=3, highest=6, max_target=12), 1),
        (tokens.GeneralPoints("rule", "held_out", max_cards=5), 3),
    ],
)
def test_every_problem_is_listed_once_with_its_probability(task, in_order):
    """Prompts differ by more than the order of what follows their first tokens."""
    problems, probability = task.every()
    prompts = np.asarray(jax.jit(jax.vmap(task.prompt))(problems))
    assert len({(*row[:in_order], *sorted(row[in_order:])) for row in prompts}) == len(prompts)
    assert np.asarray(probability, float).sum() == pytest.approx(1.0, rel=1e-5) and (probability > 0).all()
    draw = jax.jit(jax.vmap(lambda key: task.prompt(task.sample(key))))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    # the mean of a number that both have: draws agree with the list
    weighted = np.asarray(probability) @ prompts.sum(1)
    deviation = np.sqrt(np.asarray(probability) @ (prompts.sum(1) - weighted) ** 2)
    assert drawn.sum(1).mean() == pytest.approx(weighted, abs=4 * deviation / np.sqrt(4000))


def test_too_many_problems_are_not_listed():
    with pytest.raises(ValueError, match="longest must be at most 5 to list all problems, got 6"):
        tokens.Sorting(2, 6).every()


def test_an_imperfect_demonstrator_copies_as_often_as_it_is_told():
    good = tokens.Sorting(2, 4, room=4)
    problems = jax.jit(jax.vmap(good.sample))(jax.random.split(jax.random.key(0), 4000))
    keys = jax.random.split(jax.random.key(1), 4000)

    @jax.jit
    def shown(copies):
        return jax.vmap(tokens.Imperfect(good, copies).demonstrate)(keys, problems)

    solutions = jax.jit(jax.vmap(good.demonstrate))(keys, problems)
    copies = jnp.pad(jnp.where(problems.digits < 10, problems.digits, good.end), ((0, 0), (0, 1)), constant_values=10)
    np.testing.assert_array_equal(shown(0.0), solutions)
    np.testing.assert_array_equal(shown(1.0), copies)
    some = shown(0.3)
    copied, differ = (some == copies).all(1), (copies != solutions).any(1)
    assert (copied | (some == solutions).all(1)).all() and copied[differ].mean() == pytest.approx(0.3, abs=0.03)
    # a prompt that is longer than answers is cut, and one that is shorter is padded
    longer = tokens.Imperfect(tokens.Addition(2, 2, room=2), 1.0)
    problem = longer.sample(jax.random.key(0))
    answer = longer.demonstrate(jax.random.key(0), problem)
    assert answer.tolist()[:2] == longer.prompt(problem).tolist()[:2] and answer[-1] == longer.end


def test_an_imperfect_verifier_errs_as_often_as_it_is_told_and_always_alike():
    good = tokens.Sorting(2, 4, room=4)
    problems, _ = good.every()
    solutions = jax.jit(jax.vmap(lambda problem: good.demonstrate(jax.random.key(0), problem)))(problems)
    wrong = solutions.at[:, 0].set((solutions[:, 0] + 1) % 10)
    bad = tokens.Imperfect(good, flips=0.2)
    judge = jax.jit(jax.vmap(bad.verify))
    for answers, right in ((solutions, True), (wrong, False)):
        verdict = judge(problems, answers)
        assert (verdict.correct != right).mean() == pytest.approx(0.2, abs=0.02)
        np.testing.assert_array_equal(verdict.reward, verdict.correct)
        np.testing.assert_array_equal(verdict.kind == 0, verdict.correct)
        np.testing.assert_array_equal(judge(problems, answers).correct, verdict.correct)
        after = jnp.where(jnp.cumsum(answers == 10, 1) > 1, 3, answers)  # other tokens after the end
        np.testing.assert_array_equal(judge(problems, after).correct, verdict.correct)
    share = jax.jit(lambda x: jax.vmap(tokens.Imperfect(good, flips=x).verify)(problems, solutions).correct.mean())
    assert [share(0.0), share(1.0)] == [1.0, 0.0]
    for options, says in (({"flips": 1.5}, "flips must be at most 1"), ({"copies": -0.5}, "copies must be at least 0")):
        with pytest.raises(ValueError, match=says):
            tokens.Imperfect(good, **options)


def test_sorting():
    task = tokens.Sorting(1, 3, room=4)
    problem, prompt, answer, verdict = play(task)
    check_play(task, prompt, answer, verdict)
    assert (verdict.reward == 1).all()
    for digits, sorted_ones in zip(prompt.tolist(), answer.tolist(), strict=True):
        given = [d for d in digits if d < 10]
        assert sorted_ones == sorted(given) + [task.end] * (5 - len(given)) and 1 <= len(given) <= 3
    problem = tokens.digits.Unsorted(jnp.array([3, 1, 3, 11]))
    answers = {
        (1, 3, 3, 10, 7): 0,
        (3, 1, 3, 10, 10): 1,
        (1, 3, 10, 10, 10): 1,
        (10,) * 5: 1,
        (1, 3, 3, 3, 3): 2,
        (1, 3, 11, 10, 10): 2,
    }
    verdict = jax.jit(jax.vmap(task.verify, (None, 0)))(problem, jnp.array(list(answers)))
    assert verdict.kind.tolist() == list(answers.values()) and verdict.reward.tolist() == [1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("lengths", [(1, 2, 3), (8, 8, 8)])
def test_addition(lengths):
    task = tokens.Addition(*lengths)
    problem, prompt, answer, verdict = play(task)
    check_play(task, prompt, answer, verdict)

    def read(digits):
        digits = [d for d in digits.tolist() if d < 10]
        return int("".join(map(str, reversed(digits)))), len(digits)

    for a, b, said, total in zip(problem.a, problem.b, prompt, answer, strict=True):
        (left, n), (right, m) = read(said[: task.room]), read(said[task.room + 1 :])
        assert (left, right, left + right) == (a, b, read(total)[0]) and said[task.room] == 12
        assert (n, m) == (len(str(a)), len(str(b))) and lengths[0] <= min(n, m) and max(n, m) <= lengths[1]
    assert (answer != task.end).sum(1).max() == lengths[1] + 1  # with a carry


# --- the environment -------------------------------------------------------------------------------------------------


def test_several_tries_by_hand():
    env = tokens.TokenEnv(gp.GeneralPoints(), tries=2)
    step = jax.jit(env.step)
    prompt, state = env.reset(jax.random.key(0), HAND)
    padding, wrong, bad = env.padding, N.num_tokens + 1, N.num_tokens + 3
    assert (env.length, padding, env.action_space().n) == (7 + 2 * 9, 29, 25)
    assert prompt.tolist() == [10, 10, 10, 13, 2, 4, 4] + [padding] * 18

    def say(state, words):
        seen = []
        for action in words:
            obs, state, reward, terminated, truncated, info = step(jax.random.key(1), state, jnp.int32(action), HAND)
            assert not truncated and (state.tokens == obs).all()
            seen.append((obs.tolist(), float(reward), bool(terminated), info["final_observation"].tolist()))
        return state, seen

    first, second = write("10 2 + 4 4 - +").tolist(), write("10 4 + 2 * 4 -").tolist()
    state, seen = say(state, first)
    assert [x[1] for x in seen] == [0.0] * 7 + [-1.0] and not any(x[2] for x in seen)
    said = prompt.tolist()[:7] + first + [wrong]
    assert seen[-1][0] == seen[-1][3] == said + [padding] * 9 and state.length == 16 and state.tries == 1
    assert seen[2][0] == said[:10] + [padding] * 15
    solved, seen = say(state, second)
    assert [x[1:3] for x in seen] == [(0.0, False)] * 7 + [(5.0, True)]
    assert seen[-1][0] == prompt.tolist() and solved.length == 7 and solved.tries == 0 and solved.written == 0
    assert seen[-1][3] == said + second + [N.num_tokens]
    # The last try without an end: eight tokens and no more; the very first token may end an answer.
    state, seen = say(state, [1] * 8)
    assert seen[-1][1:3] == (-3.0, True) and seen[-1][3] == said + [1] * 8 + [bad]
    state, seen = say(state, [N.end, N.end])
    assert [x[1:3] for x in seen] == [(-3.0, False), (-3.0, True)]
    assert seen[-1][3] == prompt.tolist()[:7] + [N.end, bad] * 2 + [padding] * 14


@pytest.mark.parametrize("name", tokens.names())
def test_the_environments_have_the_interface(name):
    levels = envs.make(f"tokens/{name}")
    env = levels.env
    trace_environment(env)
    assert env == envs.make(f"tokens/{name}").env and hash(env) == hash(envs.make(f"tokens/{name}").env)
    level = jax.jit(levels.sample)(jax.random.key(0))
    obs, state = env.reset(jax.random.key(0), level.problem)
    assert env.observation_space().contains(obs) and env.action_space().n == env.task.num_tokens
    assert jax.tree.structure(level) == jax.tree.structure(constant_levels(env, 3).sample(jax.random.key(0)))
    after = jax.eval_shape(env.step, jax.random.key(0), state, jnp.int32(0), level.problem)
    assert not any(
        leaf.weak_type for leaf in jax.tree.leaves((jax.eval_shape(levels.sample, jax.random.key(0)), after))
    )
    assert float(levels.optimal_return(level.problem)) == (5.0 if name == "general_points" else 1.0)


def test_batched_episodes_are_single_ones():
    levels = tokens.distribution("sorting", tries=2, longest=2, room=2)
    env, keys = levels.env, jax.random.split(jax.random.key(0), 3)

    def run(key):
        params = levels.sample(key).problem
        _, state = env.reset(key, params)

        def step(state, key):
            obs, state, reward, terminated, _, info = env.step(key, state, env.action_space().sample(key), params)
            return state, (obs, reward, terminated, info["final_observation"])

        return jax.lax.scan(step, state, jax.random.split(key, 12))[1]

    together = jax.jit(jax.vmap(run))(keys)
    single = jax.jit(run)
    for i, key in enumerate(keys):
        for a, b in zip(jax.tree.leaves(single(key)), jax.tree.leaves(together), strict=True):
            assert (a == b[i]).all()
    assert together[2].any() and (together[0][..., :2] == together[0][:, :1, :2]).all()  # always the same problem


def test_integer_boxes_hold_their_samples():
    box = Box(0, 3, (1000,), jnp.int32)
    sample = box.sample(jax.random.key(0))
    assert sample.dtype == jnp.int32 and set(sample.tolist()) == {0, 1, 2, 3} and box.contains(sample)


def test_bad_choices_name_what_is_valid():
    for call, match in (
        (lambda: tokens.make_task("chess"), "token task must be one of general_points, .* got 'chess'"),
        (
            lambda: tokens.make_task("countdown", split="id"),
            "option of countdown must be one of .*max_target.* got 'split'",
        ),
        (lambda: tokens.make_task("general_points", split="six"), "split must be one of .*diverse, got 'six'"),
        (lambda: tokens.make_task("general_points", part="test"), "part must be one of .*held_out.* got 'test'"),
        (lambda: tokens.make_task("general_points", scale="log"), "scale must be one of .*binary, got 'log'"),
        (lambda: tokens.make_task("general_points", max_cards=6), "max_cards must be one of 4, 5, got 6"),
        (lambda: tokens.make_task("general_points", split="five"), "'five' needs max_cards=5, got 4"),
        (lambda: tokens.make_task("countdown", min_numbers=1), "2 <= min_numbers.*got 1 and 4"),
        (
            lambda: tokens.make_task("countdown", max_target=0),
            "need 1 <= min_target <= max_target <= room = 30, got 1 and 0",
        ),
        (lambda: tokens.make_task("countdown", min_target=9, max_target=8), "got 9 and 8"),
        (lambda: tokens.make_task("countdown", highest=31), "highest must be from 1 to room = 30, got 31"),
        (lambda: tokens.make_task("sorting", longest=9), "longest <= room <= 8, got 2, 9 and 8"),
        (lambda: tokens.distribution("sorting", tries=0), "tries must be at least 1, got 0"),
        (lambda: tokens.distribution("sorting", horizon=0), "horizon must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
