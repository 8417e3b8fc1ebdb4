"""Tabular learners and rewards that follow them, against numbers worked out another way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl.rewards.learners import Episode, play, q_learning, reinforce, returns
from metarl.rewards.shaping import Shaped, explors, sors
from metarl.rewards.tables import Tables, best_return, expected_return
from metarl.rewards.training import Schedule, begin, live

GAMMA = 0.5
# state 0: stay, or go to 1; state 1: back, or on to the terminal state 2, which pays 1
TRANSITION = jnp.array(
    [[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]]
)
TABLES = Tables(TRANSITION, jnp.array([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), jnp.int32(0), GAMMA, 3)
LONGER = TABLES._replace(length=6)
STATES, ACTIONS, NEXT = [[0, 0, 1], [0, 1, 2]], [[0, 1, 1], [1, 1, 0]], [[0, 1, 2], [1, 2, 2]]
REWARDS = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])


def two_episodes(policy, given):
    """One that stays once, and one that does not and ends before its last step."""
    state = jnp.array(STATES)
    alive = jnp.array([[True, True, True], [True, True, False]])
    return Episode(state, jnp.array(ACTIONS), jnp.array(NEXT), alive, policy[state], jnp.asarray(REWARDS), given)


def test_returns_are_discounted_sums_to_come():
    np.testing.assert_allclose(returns(jnp.array([[1.0, 2.0, 4.0], [0.0, 0.0, 8.0]]), 0.5), [[3, 4, 4], [2, 4, 8]])


def test_reinforce_by_hand():
    """`learning_rate * sum G (1[a] - pi) / steps`, of which there are five."""
    learner, table = reinforce(TABLES, 0.5), jnp.log(jnp.array([[1.0, 3.0], [1.0, 1.0], [1.0, 1.0]]))
    policy = learner.policy(table)
    np.testing.assert_allclose(policy[0], [0.25, 0.75])
    found = learner.update(table, two_episodes(policy, jnp.asarray(REWARDS))) - table
    # state 0: G = .25 of action 0, then .5 and .5 of action 1
    right = -0.25 * 0.75 + 2 * 0.5 * 0.25
    np.testing.assert_allclose(found, 0.5 / 5 * np.array([[-right, right], [-1.0, 1.0], [0.0, 0.0]]), atol=1e-6)


def test_q_learning_by_hand():
    """From the last step of an episode to its first, so that a reward arrives at the start in one episode."""
    learner = q_learning(TABLES, 0.5, 0.2)
    found = learner.update(jnp.zeros((3, 2)), two_episodes(jnp.full((3, 2), 0.5), jnp.asarray(REWARDS)))
    first = np.array([[0.5 * 0.5 * 0.125, 0.125], [0.0, 0.5]])  # after the first episode
    right = 0.5 * 0.125 + 0.5 * 0.5 * 0.75
    np.testing.assert_allclose(found, [[first[0, 0], right], [0.0, 0.75], [0.0, 0.0]])
    np.testing.assert_allclose(learner.policy(jnp.array([[1.0, 1.0], [0.0, 1.0]])), [[0.5, 0.5], [0.1, 0.9]])


def test_episodes_follow_the_process():
    policy = jnp.array([[0.25, 0.75], [0.4, 0.6], [1.0, 0.0]])
    keys = jax.random.split(jax.random.key(0), 4000)
    found = jax.jit(jax.vmap(lambda key: play(TABLES, jnp.cumsum(TRANSITION, -1), policy, key)))(keys)
    assert (found.state[:, 0] == 0).all() and (found.state[:, 1:] == found.next_state[:, :-1]).all()
    assert (found.next_state == TRANSITION.argmax(-1)[found.state, found.action]).all()
    assert (found.alive == (found.state < 2)).all() and not found.alive.all()
    assert float((found.action[:, 0] == 1).mean()) == pytest.approx(0.75, abs=0.03)
    worth = (found.reward * GAMMA ** jnp.arange(3)).sum(-1).mean()
    assert float(worth) == pytest.approx(float(expected_return(TABLES, policy)), abs=0.02)


@pytest.mark.parametrize("extrinsic", [True, False], ids=["extrinsic critic", "printed critic"])
def test_the_update_of_explors_is_equation_2(extrinsic):
    """One episode and one step at a time, with both critics."""
    policy = jnp.array([[0.25, 0.75], [0.4, 0.6], [0.5, 0.5]])
    given = jnp.array([[1.0, -2.0, 3.0], [0.5, 0.25, 0.0]])
    episodes, value = two_episodes(policy, given), np.array([0.3, 0.1, 0.0])
    state = Shaped(jnp.full((3, 2), 0.125), jnp.asarray(value), jnp.zeros(3))
    shaping = explors(TABLES, rate=0.1, critic_rate=0.2, extrinsic=extrinsic)
    found = shaping.update(state, episodes)

    phi, critic, steps = np.full((3, 2), 0.125), np.zeros(3), 0
    pay = REWARDS if extrinsic else np.asarray(given)
    for i, length in enumerate((3, 2)):
        for t in range(length):
            s, a = STATES[i][t], ACTIONS[i][t]
            advantage = sum(GAMMA ** (k - t) * pay[i][k] for k in range(t, 3)) - value[s]
            probs = np.asarray(policy)[s]
            phi[s] += 0.1 * probs[a] * advantage * (np.eye(2)[a] - probs)
            critic[s] += advantage
            steps += 1
    np.testing.assert_allclose(found.phi, phi, atol=1e-6)
    np.testing.assert_allclose(found.critic, value + 0.2 * critic / steps, atol=1e-6)


def test_the_limit_of_explors_holds():
    state = Shaped(jnp.zeros((3, 2)), jnp.zeros(3), jnp.zeros(3))
    found = explors(TABLES, rate=10.0, limit=0.01).update(state, two_episodes(jnp.full((3, 2), 0.5), jnp.ones((2, 3))))
    assert float(jnp.abs(found.phi).max()) == pytest.approx(0.01)


def test_the_bonus_of_explors_counts_every_visit():
    """Also those earlier in the same episode: `bonus / sqrt((bonus / largest)^2 + visits)`."""
    one = jax.tree.map(lambda x: x[0], two_episodes(jnp.full((3, 2), 0.5), jnp.zeros((2, 3))))
    shaping = explors(TABLES, bonus=2.0, largest_bonus=4.0)
    state = Shaped(jnp.array([[0.0, 10.0], [0.0, 0.0], [0.0, 0.0]]), jnp.zeros(3), jnp.array([3.0, 0.0, 0.0]))
    given, after = shaping.give(state, one)
    wanted = [2 / (0.25 + 3) ** 0.5, 10 + 2 / (0.25 + 4) ** 0.5, 1 + 2 / 0.25**0.5]
    np.testing.assert_allclose(given, wanted, rtol=1e-6)
    assert after.visits.tolist() == [5.0, 1.0, 0.0]
    silent, _ = explors(TABLES, bonus=0.0).give(shaping.init, one)
    np.testing.assert_array_equal(silent, REWARDS[0])


def test_the_bonus_may_be_that_of_the_next_state():
    """With visits of the states in which actions are taken; that of the terminal state is 0."""
    one = jax.tree.map(lambda x: x[0], two_episodes(jnp.full((3, 2), 0.5), jnp.zeros((2, 3))))
    shaping = explors(TABLES, bonus=2.0, largest_bonus=4.0, ahead=True)
    given, after = shaping.give(shaping.init._replace(visits=jnp.array([3.0, 1.0, 0.0])), one)
    # from 0 to 0, which has not been left in this episode; from 0 to 1; from 1 to the terminal state, which pays 1
    np.testing.assert_allclose(given, [2 / (0.25 + 3) ** 0.5, 2 / (0.25 + 1) ** 0.5, 1.0], rtol=1e-6)
    assert after.visits.tolist() == [5.0, 2.0, 0.0]
    # 0, 0, 0: the second step leads to where the first began
    stays = one._replace(state=jnp.zeros(3, int), action=jnp.zeros(3, int), next_state=jnp.zeros(3, int))
    given, _ = shaping.give(shaping.init, stays._replace(reward=jnp.zeros(3)))
    np.testing.assert_allclose(given, 2 / (0.25 + np.arange(3)) ** 0.5, rtol=1e-6)


def test_the_limit_of_sors_holds():
    episodes = two_episodes(jnp.full((3, 2), 0.5), jnp.zeros((2, 3)))
    found = sors(TABLES, 10.0, limit=0.01).update(jnp.zeros((3, 2)), episodes)
    np.testing.assert_allclose(found, [[-0.01, 0.01], [0.0, 0.01], [0.0, 0.0]], atol=1e-7)


def test_sors_follows_the_likelihood_of_the_ranking():
    """The second episode is better, by its discounted return."""
    policy, phi = jnp.full((3, 2), 0.5), jnp.arange(6.0).reshape(3, 2) / 10
    episodes = two_episodes(policy, jnp.zeros((2, 3)))
    found = sors(TABLES, 0.1).update(phi, episodes)
    count = np.array([[[1.0, 0.5], [0.0, 0.25], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.5], [0.0, 0.0]]])  # of discounts
    better, worse = (count * np.asarray(phi)).sum((1, 2))[::-1]
    wrong = 1 - 1 / (1 + np.exp(worse - better))
    np.testing.assert_allclose(found, phi + 0.1 * wrong * (count[1] - count[0]), atol=1e-6)
    # empty places of the buffer are no episodes
    empty = episodes._replace(alive=episodes.alive.at[0].set(False))
    np.testing.assert_array_equal(sors(TABLES, 0.1).update(phi, empty), phi)


def test_updates_come_when_they_are_due():
    """The reward's before the learner's, which sees the last episodes only."""
    shaping = explors(TABLES, bonus=0.0)._replace(
        init=jnp.zeros(2),
        give=lambda state, x: (x.reward, state),
        update=lambda state, x: state + jnp.array([1, len(x.state)]),
    )
    learner = reinforce(TABLES)._replace(update=lambda table, x: table + x.state.shape[0])
    schedule = Schedule(buffer=4, recent=3, policy_every=2, reward_every=5)
    life, worth = live(TABLES, learner, shaping, begin(TABLES, shaping, schedule), jax.random.key(0), 2, 6, schedule)
    assert life.shaping.tolist() == [2.0, 8.0]  # of 12 episodes
    assert (life.table == 6 * 3).all() and worth.shape == (2,)
    assert life.episodes.state.shape == (4, 3) and life.episodes.alive.any(1).all()


def test_a_learner_sees_the_last_episodes_in_turn():
    """Also after a pause that comes before the ring of episodes is full: episodes are given their number."""
    shaping = explors(TABLES)._replace(
        init=jnp.float32(0.0), give=lambda i, x: (jnp.full(3, i + 1), i + 1), update=lambda i, x: i
    )
    learner = reinforce(TABLES)._replace(update=lambda table, x: table.at[0].set(x.given[:, 0]))
    schedule = Schedule(buffer=4, recent=2, policy_every=1)
    life = begin(TABLES, shaping, schedule)
    for episodes, newest in ((3, 3), (2, 5), (6, 11)):
        life, _ = live(TABLES, learner, shaping, life, jax.random.key(0), 1, episodes, schedule)
        assert life.table[0].tolist() == [newest - 1, newest] and life.episodes.given[0, 0] == newest


@pytest.mark.parametrize(
    ("learner", "shaping"),
    [(reinforce(LONGER, 1.0), explors(LONGER)), (q_learning(LONGER), explors(LONGER, bonus=0.0))],
    ids=["reinforce with ExploRS", "Q-learning with SelfRS"],
)
def test_learners_become_nearly_optimal(learner, shaping):
    def one(key):
        return live(LONGER, learner, shaping, begin(LONGER, shaping), key, 3, 150)[1]

    worth = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 4)).mean(0) / best_return(LONGER)
    assert worth[0] < 0.7 and worth[-1] > 0.9, worth


def test_what_is_impossible_is_refused():
    shaping = explors(TABLES)
    with pytest.raises(ValueError, match="recent must be at most buffer = 2, got 3"):
        begin(TABLES, shaping, Schedule(2, 3))
    with pytest.raises(ValueError, match="policy_every must be at least 1"):
        begin(TABLES, shaping, Schedule(policy_every=0))
    with pytest.raises(ValueError, match="rows of probabilities"):
        begin(TABLES._replace(transition=2 * TRANSITION), shaping)
    with pytest.raises(ValueError, match="points must be at least 1"):
        live(TABLES, reinforce(TABLES), shaping, begin(TABLES, shaping), jax.random.key(0), 0, 1)
    with pytest.raises(ValueError, match="learning_rate must be above 0"):
        reinforce(TABLES, 0.0)
    with pytest.raises(ValueError, match="epsilon must be at most 1"):
        q_learning(TABLES, 0.1, 2.0)
    with pytest.raises(ValueError, match="limit must be above 0"):
        explors(TABLES, limit=0.0)
    with pytest.raises(ValueError, match="limit must be above 0"):
        sors(TABLES, limit=0.0)
