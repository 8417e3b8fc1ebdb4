"""Exact planning, and linear programs over rewards: what is optimal stays what is optimal."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import tables as processes
from metarl.rewards.programs import expadard, exprd, informativeness
from metarl.rewards.tables import Tables, best_return, check, expected_return, occupancy, plan, shaped_by, state_value


def of(levels):
    problem = levels.sample(jax.random.key(0)).problem
    return Tables(problem.transition, problem.reward, problem.start, 0.95, int(problem.max_steps))


def two_states(reward):
    """State 0: stay, or go to the terminal state 1."""
    transition = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    return Tables(transition, jnp.array([reward, [0.0, 0.0]]), jnp.int32(0), 0.5, 3)


PROCESSES = {
    "chain": processes.chain(3, 15, distractor=0.01),
    "rooms": processes.four_rooms(distractor=0.01),
    "line": processes.line_key(4),
}


def test_values_by_hand():
    tables = two_states([1.0, 1.5])  # staying for ever is worth 2
    found = plan(tables)
    np.testing.assert_allclose(found.value, [2.0, 0.0])
    np.testing.assert_allclose(found.advantage, [[0.0, -0.5], [0.0, 0.0]], atol=1e-12)
    np.testing.assert_array_equal(found.best, [[True, False], [True, True]])
    np.testing.assert_allclose(found.gap, [0.5, 0.0])
    np.testing.assert_array_equal(tables.terminal, [False, True])
    leaving = jnp.array([[0.25, 0.75], [1.0, 0.0]])
    # v = .25 (1 + v / 2) + .75 * 1.5
    np.testing.assert_allclose(state_value(tables, np.asarray(tables.reward), leaving)[0], 1.375 / (1 - 0.125))
    np.testing.assert_allclose(occupancy(tables, leaving), [1.0, 0.0])
    # three steps: stay, stay, leave
    assert float(best_return(tables)) == pytest.approx(1 + 0.5 + 0.25 * 1.5)
    gain = 0.25 + 0.75 * 1.5
    assert float(expected_return(tables, leaving)) == pytest.approx(gain * (1 + 0.125 + 0.125**2))


def test_ties_are_all_optimal():
    assert plan(two_states([0.5, 1.0])).best.tolist() == [[True, True], [True, True]]


def test_a_plan_is_the_best_of_all_policies():
    rows = np.random.default_rng(0).dirichlet(np.ones(3), (3, 2)).round(3)
    rows[..., -1] = 1 - rows[..., :-1].sum(-1)
    tables = Tables(jnp.asarray(rows), jnp.array([[0.0, 1.0], [2.0, 0.5], [-1.0, 0.25]]), jnp.int32(0), 0.9, 5)
    policies = [np.eye(2)[list(actions)] for actions in itertools.product((0, 1), repeat=3)]
    values = [state_value(tables, np.asarray(tables.reward), policy) for policy in policies]
    np.testing.assert_allclose(plan(tables).value, np.max(values, 0), atol=1e-9)


@pytest.fixture(scope="module", params=PROCESSES)
def process(request):
    tables = of(PROCESSES[request.param])
    check(tables)
    return tables, plan(tables)


def designs(tables, known):
    uniform = np.full(known.best.shape, 1 / known.best.shape[1])
    bound = 3.0 * float(np.abs(tables.reward).max())
    return {
        "potential": shaped_by(tables, known.value),
        "another potential": shaped_by(tables, np.sin(np.arange(len(known.value))) * ~np.asarray(tables.terminal)),
        "exprd": exprd(tables, known),
        "exprd, two horizons and a wide bound": exprd(tables, known, (2, 5), largest=bound),
        "expadard": expadard(tables, known)(uniform),
        "expadard of an expert, three rewards": expadard(tables, known, 3)(0.7 * known.policy + 0.3 * uniform),
    }


def test_the_optimal_policies_stay_the_same(process):
    """By dynamic programming, for every design."""
    tables, known = process
    for name, reward in designs(tables, known).items():
        np.testing.assert_array_equal(plan(tables, reward).best, known.best, name)
    # and a reward that changes them is noticed
    other = np.asarray(tables.reward).copy()
    other[int(tables.start)] += 10.0 * ~known.best[int(tables.start)]
    assert not np.array_equal(plan(tables, other).best, known.best)


def test_designs_keep_their_bounds_and_say_more_than_the_process(process):
    tables, known = process
    found, bound = designs(tables, known), float(np.abs(tables.reward).max())
    for name in ("exprd", "expadard"):
        assert np.abs(found[name]).max() <= bound + 1e-6
        assert not found[name][np.asarray(tables.terminal)].any()
    own = informativeness(tables, known, np.asarray(tables.reward))
    best = informativeness(tables, known, found["exprd"])
    assert best > own + 1e-3 * abs(own)
    assert best >= informativeness(tables, known, found["expadard"]) - 1e-6  # it maximises another thing
    assert informativeness(tables, known, found["potential"]) == pytest.approx(0.0, abs=1e-6)  # without a bound


def test_expadard_is_the_best_for_its_learner(process):
    tables, known = process
    policy = np.full(known.best.shape, 1 / known.best.shape[1])

    def objective(reward):
        """The definition, state by state."""
        gain = reward - (policy * reward).sum(-1, keepdims=True)
        return (occupancy(tables, policy)[:, None] * policy * policy * known.advantage * gain).sum()

    found = expadard(tables, known)(policy)
    assert objective(found) > objective(np.asarray(tables.reward)) + 1e-4
    assert objective(found) >= objective(exprd(tables, known)) - 1e-9


def test_expadard_hears_its_learner_in_the_rooms_and_not_in_the_chain():
    """With a horizon of 1, and 0.3 of random actions as in the comparison."""
    rng = np.random.default_rng(0)
    for name, hears in (("chain", False), ("rooms", True)):
        tables = of(PROCESSES[name])
        known = plan(tables)
        design, actions = expadard(tables, known), known.best.shape[1]
        found = [design(0.7 * rng.dirichlet(np.ones(actions), len(known.gap)) + 0.3 / actions) for _ in range(3)]
        assert all((np.abs(x - found[0]).max() > 0.1) == hears for x in found[1:]), name


def test_rewards_can_be_few(process):
    tables, known = process
    active = [int(s) for s in np.flatnonzero(np.asarray(tables.reward).any(-1))]
    chosen = [*active, int(tables.start)]
    found = exprd(tables, known, (1, 4), states=chosen)
    assert not np.delete(found, chosen, 0).any()
    np.testing.assert_array_equal(plan(tables, found).best, known.best)


def test_what_is_impossible_is_refused():
    tables = of(PROCESSES["line"])
    known = plan(tables)
    with pytest.raises(ValueError, match="largest and states must leave room"):
        exprd(tables, known, states=[0])
    for states, got in (([9], "9"), ([0, -1], "-1"), ([1.5], "1.5")):
        with pytest.raises(ValueError, match=f"states must be integers from 0 to 8, got {got}"):
            exprd(tables, known, states=states)
    with pytest.raises(ValueError, match="states must be integers from 0 to 8, got 9"):
        expadard(tables, known, states=[9])
    with pytest.raises(ValueError, match="largest and states must leave room"):
        expadard(tables, known, states=[0])(known.policy)
    with pytest.raises(ValueError, match=r"horizons\[0\] must be at least 1, got 0"):
        informativeness(tables, known, np.asarray(tables.reward), (0,))
    with pytest.raises(ValueError, match=r"horizons\[1\] must be at least 1, got 0"):
        exprd(tables, known, (1, 0))
    with pytest.raises(ValueError, match="largest must be above 0"):
        expadard(tables, known, largest=0.0)
    with pytest.raises(ValueError, match="rows of probabilities"):
        check(tables._replace(transition=2 * tables.transition))
    with pytest.raises(ValueError, match=r"transition must be \[9, 3, 9\]"):
        check(tables._replace(transition=tables.transition[:2]))
    with pytest.raises(ValueError, match="rows of probabilities"):
        plan(tables._replace(transition=2 * tables.transition))
    with pytest.raises(ValueError, match="discount must be below 1"):
        check(tables._replace(discount=1.0))


def test_one_horizon_by_hand():
    """The first reward of the process speaks for the worse action; that of the design for the better one."""
    tables = two_states([1.0, 1.5])
    found = exprd(tables, plan(tables), (1,), largest=1.0)
    assert found[0, 0] - found[0, 1] >= 0.5 - 1e-5  # told by the first reward
    assert informativeness(tables, plan(tables), found, (1,)) == pytest.approx(0.0, abs=1e-5)
    own = np.asarray(tables.reward)
    assert informativeness(tables, plan(tables), own, (1,)) == pytest.approx(-(0.5 + 0.5) / 2)  # mean of two states
