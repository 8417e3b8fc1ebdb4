"""Looking inside what was learned: update rules as surfaces, and rules of finished runs over lifetimes."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import envs
from experiments import horizons, inside, ta_lpg
from experiments.report import Judge, horizon_report
from metarl.objectives import lpg, lpo
from metarl.objectives.lpg import LPGInputs, LPGNetwork
from metarl.objectives.temporal import temporal_features
from metarl.pretrained import load_params, save_params
from metarl.types import Progress

PNG = b"\x89PNG\r\n\x1a\n"
CONFIG = SimpleNamespace(bins=3, hidden=4, temporal=True, longest_life=10, start="ppo", clip=0.2)
BLIND = SimpleNamespace(**{**vars(CONFIG), "temporal": False})
HALFWAY = Progress(jnp.int32(5), jnp.int32(10))


# surfaces of learned rules


def with_embedding(params, hidden_kernel, hidden_bias, kernel):
    """The meta-parameters with `phi(y) = relu(y hidden_kernel + hidden_bias) kernel`, of at most 16 hidden units."""
    embed_hidden, embed = (jax.tree.map(jnp.zeros_like, params[name]) for name in ("embed_hidden", "embed"))
    units = len(kernel)
    embed_hidden["kernel"] = embed_hidden["kernel"].at[:, :units].set(jnp.array(hidden_kernel))
    embed_hidden["bias"] = embed_hidden["bias"].at[:units].set(jnp.array(hidden_bias))
    embed["kernel"] = embed["kernel"].at[:units, 0].set(jnp.array(kernel))
    return {**params, "embed_hidden": embed_hidden, "embed": embed}


@pytest.mark.parametrize("config", [CONFIG, BLIND], ids=["temporal", "blind"])
def test_lpg_surface_is_the_networks_output_at_a_step_made_by_hand(config):
    params = lpg(3, 4, config.temporal).init(jax.random.key(0))
    params = with_embedding(params, [[2.0], [1.0], [0.0]], [0.0], [1.0])  # phi = 2 y_0 + y_1, and 1 of a uniform y
    surface = inside.lpg_surface(config, params, HALFWAY)
    np.testing.assert_allclose(surface.x, np.linspace(-1, 1, inside.POINTS), atol=1e-6)
    np.testing.assert_allclose(surface.y, np.linspace(-1, 1, inside.POINTS), atol=1e-6)
    assert surface.values.shape == (inside.POINTS, inside.POINTS)
    assert surface.values.std(0).min() > 1e-4 and surface.values.std(1).min() > 1e-4  # both axes matter

    def by_hand(reward, y_next):
        one, no = jnp.ones((1, 1)), jnp.zeros((1, 1), bool)
        uniform = jnp.full((1, 1, 3), 1 / 3)
        time = (temporal_features(HALFWAY) if config.temporal else jnp.zeros(0))[None, None]
        x = LPGInputs(reward * one, no, no, 0.5 * one, uniform, jnp.array(y_next)[None, None], time)
        return LPGNetwork(3, 4).apply({"params": params}, x).pi_hat.item()

    middle = inside.POINTS // 2
    assert surface.values[-1, 0] == pytest.approx(by_hand(-1.0, [1.0, 0.0, 0.0]), abs=1e-6)
    assert surface.values[0, -1] == pytest.approx(by_hand(1.0, [0.0, 0.0, 1.0]), abs=1e-6)
    assert surface.values[middle, 0] == pytest.approx(by_hand(-1.0, [0.0, 1.0, 0.0]), abs=1e-6)  # phi is all it sees


def test_lpg_surface_has_the_networks_own_embedding_on_its_axis():
    params = lpg(3, 4).init(jax.random.key(1))
    y = jnp.concatenate([jnp.eye(3), jnp.full((1, 3), 1 / 3)])[None]  # [1, 4, bins]
    zero = jnp.zeros((1, 4))
    x = LPGInputs(zero, zero > 0, zero > 0, zero, y, y, jnp.zeros((1, 4, 0)))
    _, seen = LPGNetwork(3, 4).apply(
        {"params": params}, x, capture_intermediates=lambda module, _: module.name == "embed"
    )
    *bins, uniform = seen["intermediates"]["embed"]["__call__"][0].ravel()
    surface = inside.lpg_surface(BLIND, params, HALFWAY)
    ends = [float(min(bins) - uniform), float(max(bins) - uniform)]
    np.testing.assert_allclose(surface.y[jnp.array([0, -1])], ends, atol=1e-6)


def test_lpg_surface_is_in_order_even_if_the_embedding_falls_before_it_rises(tmp_path):
    params = lpg(3, 4).init(jax.random.key(1))
    params = with_embedding(params, [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]], [0.0, -0.5], [-1.0, 4.0])
    surface = inside.lpg_surface(BLIND, params, HALFWAY)
    assert (jnp.diff(surface.y) >= 0).all()
    # phi is y_2's -0.5 at the lowest, halfway, and -1/3 of a uniform y
    assert (surface.y[0], surface.y[-1]) == pytest.approx((-1 / 6, 4 / 3), abs=1e-6)
    inside.draw_lpg(BLIND, params, tmp_path / "update.png")
    assert (tmp_path / "update.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(("start", "clip"), [("ppo", 0.2), ("ppo", 0.1)])
def test_lpo_surface_starts_as_ppos_drift(start, clip):
    surface = inside.lpo_surface(lpo(temporal=True, hidden=4).init(jax.random.key(0)), HALFWAY, start, clip)
    ratio, advantage = np.meshgrid(surface.x, surface.y)
    expected = np.maximum((ratio - np.clip(ratio, 1 - clip, 1 + clip)) * advantage, 0.0)
    assert expected.max() > 1 and surface.values.shape == expected.shape
    np.testing.assert_allclose(surface.values, expected, atol=1e-6)
    assert surface.x[inside.POINTS // 2] == pytest.approx(1.0)
    assert (surface.x[0], surface.x[-1]) == pytest.approx((0.5, 2.0))


def panels_of(draw, config, params, monkeypatch):
    drawn = {}
    monkeypatch.setattr(inside.plot, "surfaces", lambda panels, *arguments: drawn.update(panels))
    monkeypatch.setattr(inside.plot, "save", lambda figure, path: None)
    draw(config, params, "nowhere.png")
    return drawn


def test_only_rules_that_see_age_have_a_panel_for_each(monkeypatch):
    key = jax.random.key(0)
    aware = panels_of(inside.draw_lpg, CONFIG, lpg(3, 4, temporal=True).init(key), monkeypatch)
    assert list(aware) == ["n/N = 0, N = 10", "n/N = 0.5, N = 10", "n/N = 1, N = 10"]
    assert len({float(values.sum()) for values in aware.values()}) == 3
    assert list(panels_of(inside.draw_lpg, BLIND, lpg(3, 4).init(key), monkeypatch)) == ["at any age"]


@pytest.mark.parametrize("start", ["ppo", "scratch"])
def test_lpo_is_drawn_beside_ppo(start, monkeypatch, tmp_path):
    config, key = SimpleNamespace(**{**vars(CONFIG), "start": start}), jax.random.key(0)
    params = lpo(temporal=True, start=start, hidden=4).init(key)
    params["output"] = 0.3 * jax.random.normal(key, (4, 1))
    inside.draw_lpo(config, params, tmp_path / "drift.png")
    assert (tmp_path / "drift.png").read_bytes().startswith(PNG)
    ppo, *ages = panels_of(inside.draw_lpo, config, params, monkeypatch).values()
    assert len({float(values.sum()) for values in ages}) == 3
    for values in (ppo, *ages):
        assert values.min() == 0.0 and (values[:, inside.POINTS // 2] == 0.0).all() and values.max() > 0.0
    config = SimpleNamespace(**{**vars(BLIND), "start": start})
    blind = panels_of(inside.draw_lpo, config, lpo(start=start, hidden=4).init(key), monkeypatch)
    assert list(blind) == ["PPO", "at any age"]
    np.testing.assert_array_equal(blind["PPO"], ppo)


# rules of finished runs over lifetimes

TINY = {
    **{"levels": "mdp/random", "num_pairs": 2, "num_envs": 2, "rollout_length": 4, "hidden": 4},
    **{"shortest_life": 2, "longest_life": 4, "steps": 2, "eval_episodes": 2},
}
REPORT = ("--held-out-levels", "3", "--held-out-seeds", "2", "--held-out-horizons", "2", "4")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Directories of a rule and its blind twin, as a run of `experiments.ta_lpg` leaves them."""
    parent = tmp_path_factory.mktemp("runs")
    for name, temporal in (("aware-0", True), ("blind-0", False)):
        config = ta_lpg.Config(**TINY, temporal=temporal)
        params = ta_lpg.inner_loop(config, envs.make(config.levels)).init_meta(jax.random.key(0))
        origin = {"experiment": "ta_lpg", "config": dataclasses.asdict(config)}
        save_params(parent / name / "rule.safetensors", params, origin)
    return {name: parent / name for name in ("aware-0", "blind-0")}


def retold(source, directory, experiment="ta_lpg", **changes):
    """A run with the rule of `source`, which says other things of itself."""
    params, origin = load_params(source / "rule.safetensors")
    origin = {"experiment": experiment, "config": {**origin["config"], **changes}}
    save_params(directory / "rule.safetensors", params, origin)
    return directory


def compare(*arguments):
    horizons.main([*map(str, arguments), *REPORT])


def read(directory):
    return json.loads((directory / "horizons.json").read_text())


def test_two_finished_runs_are_compared_with_their_difference(runs, tmp_path, capsys):
    compare(runs["aware-0"], runs["blind-0"], "--directory", tmp_path / "out")
    rows = read(tmp_path / "out")
    aware, blind = "ta_lpg temporal=True", "ta_lpg temporal=False"
    assert list(rows) == [aware, blind, "a2c", f"{aware} minus {blind}"]
    assert (tmp_path / "out" / "horizons.png").read_bytes().startswith(PNG)
    for row in rows.values():
        assert list(row) == ["2", "4"]
        assert all(point["low"] <= point["mean"] <= point["high"] for point in row.values())
    for horizon in ("2", "4"):
        difference = rows[aware][horizon]["mean"] - rows[blind][horizon]["mean"]
        assert rows[f"{aware} minus {blind}"][horizon]["mean"] == pytest.approx(difference, abs=1e-6)
    shown = capsys.readouterr().out
    point = rows["a2c"]["4"]
    assert f"{point['mean']:.2f} [{point['low']:.2f}," in shown and "normalised return" in shown


def test_intervals_over_horizons_are_the_hand_worked_ones():
    """Of several rules of a kind by Student's t over rules; of one, over levels and evaluation seeds."""
    zero, one = jnp.zeros(2), jnp.full(2, 2.0)

    def player(score):
        return lambda horizon: jnp.full((3, 2), score * horizon)  # [seeds, levels]

    judge = SimpleNamespace(
        config=SimpleNamespace(held_out_horizons=(1, 10)),
        living=lambda horizon: horizon,
        returns=lambda play, levels: play(levels),
        plain={"plain": player(0.1)},
        scale=lambda best: (zero, one) if (best == 1.0).all() else None,  # of the longest lifetime, and not shared out
    )
    report = horizon_report(judge, {"new": [player(x) for x in (0.2, 0.4, 0.6)], "old": [player(0.2)] * 3})
    assert list(report) == ["new", "old", "plain", "new minus old"]
    half = 4.302653 * 0.2 / 3**0.5  # t of two degrees of freedom
    for horizon, scale in ((1, 0.5), (10, 5.0)):
        np.testing.assert_allclose(
            report["new"][horizon], [scale * x for x in (0.4, 0.4 - half, 0.4 + half)], rtol=1e-5
        )
        np.testing.assert_allclose(report["old"][horizon], [scale * 0.2] * 3, rtol=1e-5)
        np.testing.assert_allclose(report["plain"][horizon], [scale * 0.1] * 3, rtol=1e-5)
        difference = [scale * x for x in (0.2, 0.2 - half, 0.2 + half)]
        np.testing.assert_allclose(report["new minus old"][horizon], difference, rtol=1e-5)
    assert list(horizon_report(judge, {"new": [player(0.2)] * 2, "old": [player(0.2)]})) == ["new", "old", "plain"]


def test_names_say_how_groups_differ_and_lifetimes_are_shaded_if_they_are_the_same(runs):
    aware, blind = horizons.load(str(runs["aware-0"])), horizons.load(str(runs["blind-0"]))
    assert aware.config.held_out_horizons == (25, 100, 250, 500, 1000)  # a tuple again
    longer = aware._replace(config=dataclasses.replace(aware.config, steps=4, longest_life=8, held_out_levels=7))
    other = aware._replace(experiment="lpg")
    groups = horizons.group([blind, longer, aware, other])
    assert list(groups) == [
        "ta_lpg steps=2 temporal=False longest_life=4",
        "ta_lpg steps=4 temporal=True longest_life=8",
        "ta_lpg steps=2 temporal=True longest_life=4",
        "lpg",
    ]
    assert horizons._trained_range([aware, blind]) == (2, 4)
    assert horizons._trained_range([aware, longer]) is None


def test_runs_whose_plain_agents_differ_are_refused_if_they_are_of_one_experiment(runs):
    aware, blind = (
        horizons.load(str(runs[x]))._replace(plain_fields=("eval_episodes",)) for x in ("aware-0", "blind-0")
    )
    longer = blind._replace(config=dataclasses.replace(blind.config, eval_episodes=3))
    assert len(horizons.group([aware, blind])) == 2
    with pytest.raises(ValueError, match="eval_episodes is 2 in .* but 3 in"):
        horizons.group([aware, longer])
    assert len(horizons.group([aware, longer._replace(experiment="lpo")])) == 2


def test_agents_that_diverged_count_as_random_and_are_told_of(capsys):
    judge = SimpleNamespace(random=jnp.array([[1.0, 2.0], [3.0, 2.0]]))
    returns = Judge.returns(judge, lambda levels: jnp.array([[5.0, jnp.nan], [jnp.inf, 6.0]]), None)
    assert returns.tolist() == [[5.0, 2.0], [2.0, 6.0]]
    assert "2 of 4 agents diverged" in capsys.readouterr().err


def one_line(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        compare(*arguments)
    message = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and message.startswith("error: ") and len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"levels": "bandit/bernoulli"}, "levels is 'mdp/random' in"),
        ({"num_envs": 3}, "num_envs is 2 in"),
        ({"rollout_length": 5}, "rollout_length is 4 in"),
        ({"experiment": "nonsense"}, "unknown experiment: 'nonsense'"),
        ({"experiment": None}, "unknown experiment: None"),
        ({"experiment": "agent"}, "experiments.agent, which has no update rules"),
        ({"experiment": "cli"}, "experiments.cli, which has no update rules"),
        ({"magic": 1, "wand": 2}, "has no options ['magic', 'wand']"),
        ({"hidden": 5}, "are not those of its configuration"),
        ({}, "are the same: ta_lpg with seed 0"),
    ],
)
def test_runs_that_cannot_be_compared_are_one_clear_line(changes, says, runs, tmp_path, capsys):
    other = retold(runs["aware-0"], tmp_path / "other", **changes)
    assert says in one_line(capsys, runs["aware-0"], other, "--directory", tmp_path / "out")


def test_files_that_are_no_rules_are_one_clear_line(runs, tmp_path, capsys):
    assert "no parameters at" in one_line(capsys, runs["aware-0"], tmp_path / "nothing")
    save_file({"w": np.ones(2)}, tmp_path / "rule.safetensors")
    assert "was not written by metarl.pretrained" in one_line(capsys, tmp_path)
    (tmp_path / "rule.safetensors").write_text("not this")
    assert "is not a readable safetensors file" in one_line(capsys, tmp_path)
    assert "/proc/nowhere" in one_line(capsys, runs["aware-0"], "--directory", "/proc/nowhere")


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("held_out_levels", 1, "held_out_levels must be at least 2, got 1"),
        ("held_out_seeds", 0, "held_out_seeds must be positive"),
        ("held_out_batch", 0, "held_out_batch must be positive"),
        ("held_out_horizons", (5, 0), "held_out_horizons must be at least 1 agent update, got (5, 0)"),
        ("held_out_horizons", ("many",), "'many'"),
        ("held_out_horizons", (), "held_out_horizons must be at least 1 agent update, got ()"),
        ("runs", (), "give the directory of at least one finished run"),
    ],
)
def test_options_out_of_range_are_one_clear_line(option, value, says, capsys):
    values = value if isinstance(value, tuple) else (value,)
    name = [] if option == "runs" else [f"--{option.replace('_', '-')}"]
    with pytest.raises(SystemExit) as stopped:
        horizons.main([*(["x"] if name else []), *name, *map(str, values)])
    message = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and says in message and len(message.splitlines()) == 1
