"""Studies of mechanisms: their tasks and measures by hand, that each can be run, and the command's report."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import bandit_studies, credit_studies, mechanisms, token_studies
from experiments.study_tasks import Compositions, Failing, Guess, Guessing, Praise, Whole, in_order, praise
from metarl.finetune import Sampling, credit
from metarl.finetune.batch import Batch
from metarl.finetune.policies import gru

# --- tasks and measures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ([4, 3, 0, 0, 0, 0], True),
        ([1, 2, 1, 3, 0, 4], True),  # what follows the end is ignored
        ([4, 2, 0, 0, 0, 0], False),
        ([1, 1, 1, 1, 1, 2], False),  # no end
        ([0, 4, 3, 0, 0, 0], False),
    ],
)
def test_compositions_of_seven(answer, right):
    verdict = Compositions().verify(Whole(jnp.int32(7)), jnp.array(answer))
    assert bool(verdict.correct) == right and float(verdict.reward) == right


@pytest.mark.parametrize("options", [{}, {"style": "small"}, {"style": "large", "marker": 1, "offset": 1}])
def test_demonstrations_of_compositions_are_correct(options):
    task = Compositions(**options)

    def is_correct(key):
        problem = task.sample(key)
        return task.verify(problem, task.demonstrate(key, problem)).correct

    assert jax.vmap(is_correct)(jax.random.split(jax.random.key(0), 16)).all()
    assert task.prompt(Whole(jnp.int32(11))).tolist() == [task.marker, 2, 1]


def test_demonstrations_of_compositions_have_a_style():
    seven, keys = Whole(jnp.int32(7)), jax.random.split(jax.random.key(0), 64)
    assert Compositions(style="small").demonstrate(keys[0], seven).tolist() == [2, 2, 2, 1, 0, 0]
    assert Compositions(style="large").demonstrate(keys[0], seven).tolist() == [4, 3, 0, 0, 0, 0]
    found = jax.vmap(Compositions().demonstrate, (0, None))(keys, seven)
    assert len({tuple(x) for x in found.tolist()}) > 10


def test_demonstrations_fail_by_one_part_after_the_first():
    task, keys = Compositions(style="large"), jax.random.split(jax.random.key(0), 64)
    right = task.demonstrate(keys[0], Whole(jnp.int32(11)))
    found = jax.vmap(Failing(task).demonstrate, (0, None))(keys, Whole(jnp.int32(11)))
    assert ((found != right).sum(1) == 1).all() and set(np.where(found != right)[1].tolist()) == {1, 2}
    assert not jax.vmap(task.verify, (None, 0))(Whole(jnp.int32(11)), found).correct.any()
    four = jax.vmap(Failing(task).demonstrate, (0, None))(keys, Whole(jnp.int32(4)))  # a single part
    assert set(map(tuple, four.tolist())) == {(x, 0, 0, 0, 0, 0) for x in (1, 2, 3)}
    assert (jax.vmap(Failing(task, 0.0).demonstrate, (0, None))(keys, Whole(jnp.int32(11))) == right).all()


def test_errors_completeness_and_distance_of_sorted_digits():
    task = token_studies.sorting(2, 3)
    problem = jax.tree.map(lambda x: x[None].repeat(4, 0), task.sample(jax.random.key(0)))
    problem = problem._replace(digits=jnp.array([[5, 2, 7, 11, 11, 11]] * 4))
    answers = jnp.array([[2, 5, 7, 10, 10, 10, 10], [2, 7, 10, 5, 5, 5, 5], [7, 7, 5, 2, 2, 2, 10], [10] * 7])
    mask = jnp.cumsum(answers == 10, 1) - (answers == 10) == 0
    x = batch(answers)._replace(problem=problem, mask=mask)

    def totals(scorer):
        return jnp.where(mask, scorer(task, x), 0.0).sum(1).tolist()

    assert totals(credit_studies.errors) == [0.0, -2.0, -6.0, -1.0]  # the end instead of a token is an error, too
    assert totals(credit_studies.completeness) == pytest.approx([1.0, 2 / 3, 1.0, 0.0])
    assert jnp.argmax(credit_studies.is_last(x), 1).tolist() == [3, 2, 6, 0]
    assert credit_studies.is_last(x).sum() == 4
    cosines = [1.0, 2 / np.sqrt(2 * 3), (2 + 1 + 3) / np.sqrt((4 + 1 + 9) * 3), 0.0]
    np.testing.assert_allclose(credit_studies.distance(task, x), 1.0 - np.array(cosines), atol=1e-5)


def test_guesses_are_as_often_right_as_the_prompt_says():
    found = jax.vmap(Guessing().sample)(jax.random.split(jax.random.key(0), 4000))
    for sure in (2, 9):
        assert float((found.right[found.sure == sure] == 1).mean()) == pytest.approx(sure / 10, abs=0.06)
    assert set(np.unique(found.right).tolist()) == {1, 2, 3, 4, 5} and 5 not in found.sure
    assert Guessing().verify(Guess(jnp.int32(9), jnp.int32(1)), jnp.array([1, 0])).correct


def test_proxies_count_their_words_before_the_end():
    text = jnp.array([1, 3, 2, 4, 0, 1, 1, 1])
    assert float(praise(text, 1)) == 2 / 8 and float(praise(text, 2)) == 2 / 8
    assert float(Praise().verify(None, text).reward) == 0.5


def batch(answers, prompts=None):
    answers = jnp.array(answers)
    n = len(answers)
    zeros = jnp.zeros(answers.shape)
    prompts = jnp.zeros((n, 1), jnp.int32) if prompts is None else prompts
    mask = jnp.ones(answers.shape, bool)
    return Batch(prompts, answers, mask, zeros, jnp.zeros(n), jnp.zeros(n, bool), jnp.zeros(n, jnp.int32))


def test_the_judge_of_sorting_likes_what_is_in_order():
    found = in_order(0.0)(batch([[1, 1, 5, 3, 9, 10]]))
    assert found.tolist() == [[1.0, 1.0, 1.0, 0.0, 1.0, 0.0]]  # 10 is the end


def test_the_judge_errs_as_often_as_it_should_and_in_the_same_way():
    answers = jax.random.randint(jax.random.key(0), (2000, 6), 0, 11)
    x = batch(answers, jax.random.randint(jax.random.key(1), (2000, 8), 0, 11))
    judge = jax.jit(in_order(0.2))
    wrong = judge(x) != jax.jit(in_order(0.0))(x)
    assert float(wrong.mean()) == pytest.approx(0.2, abs=0.02)
    np.testing.assert_array_equal(judge(x), in_order(0.2)(x))


def test_distinct_answers_are_counted_once():
    """A policy that says 1 or 2 and ends, to the number 4: wrong; and one that says `4`, to 4: always the same."""
    task = Compositions(least=4, most=4)
    policy = gru(task.num_tokens, 4)

    def always(first):
        logits = jnp.stack([30.0 * jax.nn.one_hot(first, 5), 30.0 * jax.nn.one_hot(0, 5)])
        return policy._replace(
            prefill=lambda params, prompt, room: (logits[0], jnp.zeros(1)),
            decode=lambda params, cache, token: (logits[1], cache),
        )

    def found(policy, draws=8):
        return jax.jit(token_studies.distinct(policy, task, count=2, draws=draws))((), jax.random.key(0))

    right = found(always(4))
    assert (float(right["solved"]), float(right["distinct"])) == (1.0, 1.0)
    wrong = found(always(2))
    assert (float(wrong["solved"]), float(wrong["distinct"])) == (0.0, 0.0)
    free = policy._replace(
        prefill=lambda params, prompt, room: (jnp.zeros(5).at[jnp.array([2, 3])].set(20.0), jnp.zeros(1)),
        decode=lambda params, cache, token: (30.0 * jax.nn.one_hot(jnp.where(token == 0, 0, 4 - token), 5), cache),
    )
    both = found(free, 32)
    assert float(both["distinct"]) == 0.0  # 2 2 2 .. and 3 1 3 .. do not end
    assert float(both["entropy, temperature 1"]) == pytest.approx(np.log(2) / 6, rel=1e-4)  # one choice, six tokens


def test_gold_is_of_texts_and_not_of_their_means():
    """Half of the texts are praise only, gold -1.25, half have none, gold 0; a text of the mean proxies has 0.94."""
    policy = gru(8, 4)._replace(
        prefill=lambda params, prompt, room: (jnp.zeros(8).at[jnp.array([3, 4])].set(30.0), jnp.zeros(1)),
        decode=lambda params, cache, token: (30.0 * jax.nn.one_hot(token, 8), cache),
    )
    found = jax.jit(token_studies.gold_and_proxies(policy))((), jax.random.key(0))
    share = float(found["first proxy"])
    assert share == float(found["second proxy"]) == pytest.approx(0.5, abs=0.1)
    assert float(found["gold"]) == pytest.approx(-1.25 * share, rel=1e-4)
    assert float(found["deviation"]) == pytest.approx(np.sqrt(share * (1 - share)), rel=1e-4)
    by_parts = 1 - ((share - 0.4) ** 2 + found["deviation"] ** 2) / 0.4**2
    assert float(found["gold"]) == pytest.approx(float(by_parts), rel=1e-3)


# --- runs -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_looks_after_equal_parts_of_it():
    task = Compositions()
    policy = token_studies.small_policy(task, 4)
    look = lambda params, key: {"norm": jnp.abs(params["embedding"]["embedding"]).sum()}  # noqa: E731
    method = token_studies.arm(task, Sampling(2, 2), credit=credit.rloo(2))
    starts = token_studies.imitated(policy, task, jax.random.split(jax.random.key(0), 2), 2, 4)
    found = token_studies.compare(
        policy, {"x": token_studies.always(method)}, starts, jax.random.split(jax.random.key(1), 2), 4, look, looks=2
    )["x"]
    assert {name: x.shape for name, x in found.items()} == dict.fromkeys(("entropy", "success", "norm"), (2, 2))
    assert found["norm"][0, 0] != found["norm"][1, 0]  # two base policies
    assert token_studies.last(found, "norm")["norm"].tolist() == found["norm"][:, -1].tolist()


def only_shapes(policy, methods, starts, keys, steps, look, looks=10, rate=2e-3):
    """Instead of `compare`: what it would return, with ones."""
    found = {}
    for name, (make, value) in methods.items():

        def run(start, key, make=make, value=value):
            method = make(start, jax.tree.map(jnp.float32, value))
            return token_studies.train(policy, method, lambda key: start, key, steps, look, looks, rate)[1]

        shapes = jax.eval_shape(jax.vmap(run), starts, keys)
        found[name] = jax.tree.map(lambda x: np.ones(x.shape) + 0.1 * np.arange(len(x))[:, None], shapes)
    return found


def untrained(policy, task, keys, steps, count=64):
    return jax.jit(jax.vmap(policy.init))(keys)


@pytest.mark.parametrize(
    "name",
    [
        x if x == "abstention" else pytest.param(x, marks=pytest.mark.slow)
        for x in (*token_studies.STUDIES, *credit_studies.STUDIES)
        if x != "thresholds"  # it trains while it searches
    ],
)
def test_every_study_can_be_run(name, monkeypatch):
    for module in (token_studies, credit_studies):
        monkeypatch.setattr(module, "compare", only_shapes)
        monkeypatch.setattr(module, "imitated", untrained)
    rows, claims = mechanisms.STUDIES[name](jax.random.split(jax.random.key(0), 2))
    assert len({tuple(row) for row in rows.values()}) == 1 and len(rows) >= 2 and claims
    assert all(np.shape(x) == (2,) for row in rows.values() for x in row.values())
    assert all(np.shape(x) == (2,) for x, _ in claims.values())


def test_optimism_finds_arms_that_the_reference_does_not_like():
    """DPO against SELM on eight bandits."""
    run = jax.jit(jax.vmap(bandit_studies.preference_rounds, (None, 0)))
    dpo, selm = (run(jnp.float32(alpha), jax.random.split(jax.random.key(5), 8)) for alpha in (0.0, 0.03))
    assert float(selm.coverage.mean()) > float(dpo.coverage.mean()) + 5
    assert float(selm.entropy.mean()) > float(dpo.entropy.mean())


def test_own_answers_reach_a_peak_far_from_the_reference():
    run = jax.jit(jax.vmap(partial(bandit_studies.bandit_run, "best-of-N"), (0, None, None)))
    offline, own = run(jnp.array([False, True]), 70.0, jax.random.key(5))
    assert float(own) > float(offline) + 0.3


def test_losses_of_groups_raise_the_best_answer():
    log_pi = jnp.log(jnp.full(bandit_studies.ACTIONS, 0.01))
    actions, reward = jnp.array([3, 5, 7]), jnp.array([0.0, 1.0, 0.5])
    for method, kind in bandit_studies.METHODS.items():
        loss = lambda x, method=method: bandit_studies.group_loss(method, x, log_pi, actions, reward)  # noqa: E731
        slope = jax.jit(jax.grad(loss))(log_pi)
        assert slope[5] < 0.0 and (slope[3] > 1e-3) == (kind == "contrast"), method


# --- the report -----------------------------------------------------------------------------------------------


def test_the_command_writes_a_table_with_verdicts(tmp_path, monkeypatch, capsys):
    def study(keys):
        rows = {"a": {"solved": np.array([0.1, 0.2, 0.3])}, "b": {"solved": np.array([0.6, 0.7, 0.8])}}
        gap = rows["b"]["solved"] - rows["a"]["solved"]
        return rows, {
            "b is better": (gap + [0, 0.01, 0], "solved"),
            "a is": (-gap, "x"),
            "odd": (gap - gap.mean(), "x"),
        }

    monkeypatch.setitem(mechanisms.STUDIES, "optimism", study)
    mechanisms.main(["--study", "optimism", "--directory", str(tmp_path / "x"), "--num-seeds", "3"])
    found = json.loads((tmp_path / "x" / "results.json").read_text())
    verdicts = {name: claim["verdict"] for name, claim in found["claims"].items()}
    assert verdicts["b is better"] == "shown" and verdicts["a is"] == "the opposite"
    assert found["rows"]["a"]["solved"]["mean"] == pytest.approx(0.2)
    assert found["seeds"]["b"]["solved"] == [0.6, 0.7, 0.8] and found["config"]["study"] == "optimism"
    assert "b is better: shown, +0.503" in capsys.readouterr().out


def test_a_difference_of_both_signs_shows_nothing():
    from metarl.evaluation.statistics import over_runs

    assert mechanisms.verdict(over_runs([0.1, -0.1, 0.05])) == "not shown"
