"""Studies of generalisation: their tasks and measures by hand, and that each can be run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import generalisation_studies as studies
from experiments.generalisation_studies import HANDS, HELD_OUT, RULES, SEEN, Formats, Hand, Hands, Request, Requests
from experiments.study_tasks import Whole
from metarl.finetune import SequencePolicy
from metarl.finetune.sampling import problems_of

# --- tasks ----------------------------------------------------------------------------------------------------


def test_values_of_a_hand_follow_the_rule():
    hand = Hand(jnp.array([7, 9, 6]), jnp.array([3, 12, 10, 11]))
    task = Hands(jnp.asarray(RULES), 1)
    assert task.prompt(hand).tolist() == [7, 9, 6, 3, 12, 10, 11]
    assert task.demonstrate(None, hand).tolist() == [3, 6, 7, 9, 0]
    assert task.verify(hand, jnp.array([3, 6, 7, 9, 0])).correct
    assert not task.verify(hand, jnp.array([3, 6, 6, 6, 0])).correct  # by the known rule
    assert not task.verify(hand, jnp.array([3, 6, 7, 9, 9])).correct  # no end


def test_rules_and_hands_of_training_are_not_those_of_the_test():
    assert RULES[0].tolist() == [6, 6, 6] and len(np.unique(RULES, axis=0)) == len(RULES) == 64
    assert len(RULES[SEEN:]) == 12 and (RULES[SEEN:] > 6).all()  # no face has the value of the known rule
    assert len(np.unique(HANDS, axis=0)) == len(HANDS) == 8**4 - 5**4 and (HANDS.max(1) >= 10).all()
    held_out = {tuple(x) for x in HANDS[:HELD_OUT].tolist()}
    for part in (False, True):
        found = problems_of(Hands(jnp.asarray(RULES), 2, part), jax.random.key(0), 200)
        assert {tuple(x) in held_out for x in found.cards.tolist()} == {part}
        assert {tuple(x) for x in found.rule.tolist()} == {tuple(x) for x in RULES[:2].tolist()}


def test_with_one_rule_no_other_value_of_a_face_occurs():
    task = Hands(jnp.asarray(RULES), 1)
    prompts = jax.vmap(task.prompt)(problems_of(task, jax.random.key(0), 500))
    assert set(np.unique(prompts).tolist()) == {1, 2, 3, 4, 5, 6, 10, 11, 12}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ([5, 4, 3, 0, 0, 0, 0], True),
        ([6, 4, 3, 0, 0, 0, 0], True),  # the format need not fit the parts
        ([7, 1, 2, 1, 3, 0, 6], True),  # what follows the end is ignored
        ([4, 3, 0, 0, 0, 0, 0], False),  # no format
        ([5, 6, 1, 0, 0, 0, 0], False),  # 7, but another format is no part
        ([5, 1, 1, 1, 1, 1, 2], False),  # no end
        ([0, 4, 3, 0, 0, 0, 0], False),
    ],
)
def test_formats_of_seven(answer, right):
    assert bool(Formats(jnp.ones(3)).verify(Whole(jnp.int32(7)), jnp.array(answer)).correct) == right


def test_demonstrations_have_the_formats_of_the_mixture():
    task = Formats(jnp.array([0.6, 0.4, 0.0]))
    seven = Whole(jnp.int32(7))
    found = jax.vmap(task.demonstrate, (0, None))(jax.random.split(jax.random.key(0), 1000), seven)
    kinds, count = np.unique(found, axis=0, return_counts=True)
    assert kinds.tolist() == [[5, 4, 3, 0, 0, 0, 0], [6, 2, 2, 2, 1, 0, 0]]
    assert count[0] / 1000 == pytest.approx(0.6, abs=0.05)
    assert jax.vmap(task.verify, (None, 0))(seven, found).correct.all()


def test_requests_are_in_two_languages_without_a_common_token():
    task, eleven = Requests(), Whole(jnp.int32(11))
    one, other = (task.prompt(Request(jnp.int32(x), jnp.int32(2), eleven)).tolist() for x in (0, 1))
    assert (one, other) == ([12, 2, 1], [15, 7, 6])
    small, large = [3, 3, 3, 2, 0, 0], [4, 4, 3, 0, 0, 0]
    right = [
        [bool(task.verify(Request(jnp.int32(0), jnp.int32(x), eleven), jnp.array(y)).correct) for y in (small, large)]
        for x in range(3)
    ]
    assert right == [[True, False], [False, True], [True, True]]
    narrow = problems_of(Requests(1.0), jax.random.key(0), 64)
    assert set(narrow.language.tolist()) == {0} and set(narrow.style.tolist()) == {1}
    wide = problems_of(task, jax.random.key(0), 64)
    assert set(wide.language.tolist()) == {0, 1} and set(wide.style.tolist()) == {0, 1, 2}


def test_demonstrations_of_requests_are_right():
    task = Requests()
    problems = problems_of(task, jax.random.key(0), 64)
    shown = jax.vmap(task.demonstrate)(jax.random.split(jax.random.key(1), 64), problems)
    assert jax.vmap(task.verify)(problems, shown).correct.all()


# --- measures -------------------------------------------------------------------------------------------------


def replay(num_tokens: int, answers) -> SequencePolicy:
    """A policy that gives the answer [T] which is `answers` of the prompt [P]."""

    def row(cache):
        return 50.0 * jax.nn.one_hot(cache[0][cache[1]], num_tokens)

    def prefill(params, prompt, room):
        cache = answers(prompt), jnp.zeros((), jnp.int32)
        return row(cache), cache

    def decode(params, cache, token):
        cache = cache[0], cache[1] + 1
        return row(cache), cache

    return SequencePolicy(num_tokens, None, None, prefill, decode)


def test_a_policy_that_ignores_the_rule_answers_by_the_known_one():
    ignores = replay(13, lambda prompt: studies.values_of(prompt[3:], jnp.array([6, 6, 6])))
    found = jax.jit(studies.look_at_rules(ignores, 32))((), jax.random.key(0))
    assert jax.tree.map(float, found) == {
        "known rule": 1.0,
        "unseen rules": 0.0,
        "unseen, by the known rule": 1.0,
        "unseen value": 0.0,
    }
    reads = replay(13, lambda prompt: studies.values_of(prompt[3:], prompt[:3]))
    found = jax.jit(studies.look_at_rules(reads, 32))((), jax.random.key(0))
    assert float(found["unseen, by the known rule"]) == 0.0
    assert float(found["known rule"]) == float(found["unseen rules"]) == float(found["unseen value"]) == 1.0


def test_formats_are_counted_by_their_first_token():
    """A policy that says `6 4 0`: right for 4 alone. Forced to another format it goes on the same way."""
    says = replay(8, lambda prompt: jnp.array([6, 4, 0, 0, 0, 0, 0]))
    found = jax.jit(studies.look_at_formats(says, 400))((), jax.random.key(0))
    assert found["shares"].tolist() == [0.0, 1.0, 0.0]
    np.testing.assert_allclose(found["solved in each"], [1 / 8] * 3, atol=0.06)
    assert float(found["solved"]) == pytest.approx(1 / 8, abs=0.06)


def test_requests_are_counted_by_what_is_answered():
    """A policy that has forgotten small parts in its first language, but not in the other."""

    def answer(prompt):
        other = prompt[0] >= 13
        digits = prompt[1:] - 5 * other
        styles = studies.in_styles(Whole(5 * digits[0] + digits[1]))
        return styles[jnp.where(other & (prompt[0] != 14), 0, 1)]

    found = jax.jit(studies.look_at_requests(replay(16, answer), 16))((), jax.random.key(0))
    small = [name for name, x in found.items() if name.endswith(": small") and x == 1.0]
    assert small == ["asked for small, other language: small", "open, other language: small"]
    large = [name for name, x in found.items() if name.endswith(": large") and x == 1.0]
    assert large == [
        "asked for large, other language: large",
        "asked for large: large",
        "asked for small: large",
        "open: large",
    ]


def test_numbers_that_were_posed_are_told_from_others():
    """A policy that is right of all numbers but 7, 10 and 13, and one that says 4 or 3."""

    def right(prompt):
        total = 5 * prompt[1] + prompt[2]
        parts = studies.in_styles(Whole(total))[1]
        return jnp.where((total == 7) | (total == 10) | (total == 13), 1, parts)

    found = jax.jit(studies.look_at_totals(replay(5, right), 16))((), jax.random.key(0))
    assert jax.tree.map(float, found) == {
        **{"solved, seen": 1.0, "best of 8, seen": 1.0, "solved, unseen": 0.0, "best of 8, unseen": 0.0},
        "different answers": 1.0,
    }
    either = replay(5, right)._replace(  # 4 and the end, or 3 and the end
        prefill=lambda params, prompt, room: (50.0 * jax.nn.one_hot(jnp.array([3, 4]), 5).sum(0), jnp.zeros(())),
        decode=lambda params, cache, token: (50.0 * jax.nn.one_hot(0, 5), cache),
    )
    found = jax.jit(studies.look_at_totals(either, 64))((), jax.random.key(0))
    assert float(found["different answers"]) == 2.0
    assert float(found["solved, seen"]) == pytest.approx(0.05, abs=0.02)  # half of the answers to one number of ten
    assert float(found["best of 8, seen"]) == pytest.approx(0.1, abs=0.02)


# --- runs -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stage_trains_each_setting_from_its_own_start():
    task = Formats(jnp.ones(3))
    policy = studies.small_policy(task, 4)
    look = lambda params, key: {"norm": jnp.abs(params["embedding"]["embedding"]).sum()}  # noqa: E731
    run = studies.stage(policy, lambda x: studies.weighted(task, x), 2, look, 1e-3)
    keys = jax.random.split(jax.random.key(0), 2)
    starts = studies.newborn(policy, keys, 3)
    after, found = run(starts, jnp.array([0.0, 1.0, 1.0]), keys)
    assert found["norm"].shape == (3, 2) and len(np.unique(np.asarray(found["norm"]))) == 4  # two settings, two seeds
    np.testing.assert_array_equal(found["norm"][1], found["norm"][2])
    same = jax.tree.map(lambda x, y: bool((x == y).all()), starts, after)
    assert not any(jax.tree.leaves(same["embedding"]))


def only_shapes(*arguments, stage=studies.stage, **options):
    """Instead of `stage`: what its program would return, with numbers that differ."""
    run = stage(*arguments, **options)

    def call(*arguments):
        shapes = jax.eval_shape(run, *arguments)
        return jax.tree.map(lambda x: jnp.arange(x.size, dtype=x.dtype).reshape(x.shape), shapes)

    return call


@pytest.mark.parametrize(
    "name", [x if x == "formats" else pytest.param(x, marks=pytest.mark.slow) for x in studies.STUDIES]
)
def test_every_study_can_be_run(name, monkeypatch):
    monkeypatch.setattr(studies, "stage", only_shapes)
    monkeypatch.setattr(studies, "imitated", lambda policy, task, keys, *_: jax.vmap(policy.init)(keys))
    rows, claims = studies.STUDIES[name](jax.random.split(jax.random.key(0), 2))
    assert len({tuple(row) for row in rows.values()}) == 1 and len(rows) >= 2 and claims
    assert all(np.shape(x) == (2,) for row in rows.values() for x in row.values())
    assert all(np.shape(x) == (2,) for x, _ in claims.values())
