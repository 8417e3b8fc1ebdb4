"""The tables of classical learners, from the command line."""

import pytest

from experiments import strategies
from metarl.strategies import tuned
from metarl.strategies.mdps import Process
from metarl.strategies.tuned import BANDITS, MDPS, BanditConstants, MDPConstants, mdp_strategies


def few(setting, *names):
    """A setting with few of its learners."""
    return setting._replace(strategies=lambda constants: {name: setting.strategies(constants)[name] for name in names})


def test_totals_stand_beside_the_published_ones(monkeypatch, capsys):
    monkeypatch.setattr(
        strategies, "_bandits", lambda n, k, make=strategies._bandits: few(make(n, k), "random", "ucb1")
    )
    strategies.main(["bandits", "--pulls", "10", "--arms", "5", "--tasks", "200"])
    out = capsys.readouterr().out
    assert "10 pulls of 5 arms with 95 % intervals" in out and all(x in out for x in ("ucb1", "6.7", "optimum"))
    table = strategies.report(few(strategies._bandits(10, 5), "random", "ucb1"), 200)
    assert [row["in the paper"] for row in table.values()] == ["5.0", "6.7", ""]
    random, ucb1, optimum = (row["total reward"].mean for row in table.values())
    assert random == pytest.approx(5, abs=0.5) and random + 1 < ucb1 < optimum
    assert optimum == pytest.approx(10 * 5 / 6, abs=0.3)  # the mean of the highest of five uniform numbers


def test_constants_are_tuned_on_other_tasks(monkeypatch):
    monkeypatch.setitem(strategies.GRIDS, BanditConstants, {"ucb1": (0.2, 9.0), "optimistic_thompson": (1,)})
    setting = strategies._bandits(10, 5)
    found = strategies.tuned(setting, BanditConstants, 100)
    assert list(found) == ["ucb1", "optimistic_thompson"] and found["ucb1"]["0.2"] > found["ucb1"]["9"] + 0.5
    learners = few(setting, "ucb1").strategies(None)
    other, mine = (strategies.totals(setting, learners, x, 20) for x in (strategies.TUNING, strategies.HELD_OUT))
    assert (other["ucb1"] != mine["ucb1"]).any()


def test_constants_are_those_of_the_closest_size():
    assert {*BANDITS, *MDPS} <= set(strategies.PUBLISHED)
    assert tuned._closest(BANDITS, 12, 40) == BANDITS[10, 50] and tuned._closest(MDPS, 1000) == MDPS[(50,)]
    assert all(x._fields == tuple(strategies.GRIDS[BanditConstants]) for x in BANDITS.values())
    assert all(x._fields == tuple(strategies.GRIDS[MDPConstants]) for x in MDPS.values())
    assert list(mdp_strategies(Process(), 30)) == [*strategies.OF_MDPS]


@pytest.mark.slow
@pytest.mark.parametrize(("pulls", "arms"), [(10, 5), (100, 5)])
def test_bandits_as_in_the_paper(pulls, arms):
    """Within the noise of both: each is of one set of 1000 tasks."""
    table = strategies.report(strategies._bandits(pulls, arms), 1000)
    for name in strategies.OF_BANDITS:
        mean, low, high = table[name]["total reward"]
        assert mean == pytest.approx(float(table[name]["in the paper"]), abs=1.0 * (high - low)), name


@pytest.mark.slow
def test_processes_as_in_the_paper():
    """PSRL is; those that use the prior's mean, as ours do, are not below the published ones."""
    table = strategies.report(strategies._mdps(25), 400)
    for name in ("random", "psrl"):
        mean, low, high = table[name]["total reward"]
        assert mean == pytest.approx(float(table[name]["in the paper"]), abs=1.0 * (high - low)), name
    for name in ("ucrl2", "beb", "epsilon_greedy", "greedy"):
        assert table[name]["total reward"].low > float(table[name]["in the paper"])
