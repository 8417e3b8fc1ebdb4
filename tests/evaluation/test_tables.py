"""The long table of a meta-test, and how intervals are printed."""

import json

import numpy as np

from metarl.evaluation import tables
from metarl.evaluation.scales import Scale
from metarl.evaluation.statistics import Interval
from metarl.evaluation.tables import Cell


def cell(rule, *finals):
    return Cell("s", "e", rule, (5, 10), (1, 2), np.array([[0.0, x] for x in finals]), 1.0, "2 x 4", 9)


def test_the_long_table_keeps_every_cell_and_diverged_agents_score_as_random():
    random, good = cell("random", 1.0, 3.0), cell("a2c", 6.0, np.nan, 8.0)
    known = Scale(2.0, 7.0, "a2c", True)
    np.testing.assert_allclose(good.scores(known), [[-0.4, 0.8], [-0.4, 0.0], [-0.4, 1.2]])
    rows = tables.rows({x.key: x for x in (random, good)}, {("s", "e"): known})
    assert [row["diverged"] for row in rows if row["rule"] == "a2c"] == [False, False, False, True, False, False]
    back = tables.cells(json.loads(json.dumps(rows)))
    np.testing.assert_array_equal(back[("s", "e"), "a2c"].returns, good.returns)
    assert back[("s", "e"), "random"]._replace(returns=0) == random._replace(returns=0)
    old = [{name: x for name, x in row.items() if name not in ("batch", "settings_tried")} for row in rows]
    assert tables.cells(old)[("s", "e"), "a2c"].batch == ""  # of an older version


def test_a_scale_that_is_not_valid_gives_no_scores():
    rows = tables.rows({good.key: good for good in [cell("a2c", 6.0)]}, {("s", "e"): Scale(2.0, 1.0, "a2c", False)})
    assert [row["score"] for row in rows] == [None, None]


def test_intervals_and_numbers_are_printed(capsys):
    tables.show({"mine": {25: Interval(0.5, 0.25, 0.75), "return": 3.0}}, "score", "lifetime")
    shown = capsys.readouterr().out
    assert "score with 95 % intervals" in shown and "lifetime" in shown
    assert "0.500 [0.250, 0.750]" in shown and "3.000" in shown
    tables.show({"mine": {"mean": 0.5, "low": 0.25, "high": 0.75, "return": 3.0}}, "score")
    assert "0.500 [0.250, 0.750]" in capsys.readouterr().out
    tables.show({"mine": {"updates": "4 of 2 x 8"}}, "updates")
    shown = capsys.readouterr().out
    assert "4 of 2 x 8" in shown and "intervals" not in shown
