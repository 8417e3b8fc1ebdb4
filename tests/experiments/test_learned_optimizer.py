"""Meta-training of optimizers as a user runs it, and what it reports and draws."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import ablation, benchmark, seeds, updates
from experiments import learned_optimizer as experiment
from metarl import optimizers
from metarl.optimizers.open import GROUPS

TINY = (
    *("--steps", "2", "--chunk", "1", "--num-pairs", "2", "--width", "4", "--hidden", "2"),
    *("--shortest-life", "4", "--longest-life", "4", "--num-envs", "2", "--rollout-length", "4"),
    *("--eval-episodes", "2", "--tuning-levels", "2", "--tuning-seeds", "1"),
    *("--held-out-levels", "2", "--held-out-seeds", "1"),
)


def run(directory, *arguments):
    experiment.main([*TINY, "--directory", str(directory), *map(str, arguments)])
    return json.loads((directory / "results.json").read_text())


def test_a_run_compares_with_tuned_optimizers_and_draws_its_updates(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "PLAIN", {name: experiment.PLAIN[name] for name in ("adam", "sgd")})
    results = run(tmp_path / "run", "--levels", "supervised/quadratic")
    rows = results["report"]
    others = ["newborn", "adam", "sgd"]
    assert list(rows) == ["trained", *others, *(f"trained minus {x}" for x in others)]
    assert all(row["low"] <= row["mean"] <= row["high"] for row in rows.values())
    assert rows["adam"]["mean"] > rows["newborn"]["mean"]  # which moves nothing
    assert rows["adam"]["rate"] in ALL_RATES and rows["newborn"]["rate"] is None
    assert {"update.png", "update_sizes.png", "rule.safetensors", "report.png"} <= {
        x.name for x in (tmp_path / "run").iterdir()
    }


def test_a_mixture_reports_each_of_its_places(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "PLAIN", {"adam": experiment.PLAIN["adam"]})
    monkeypatch.setattr(experiment, "tune", lambda config, where, make: (0.01, -1.0))
    arguments = ("--levels", "supervised/quadratic", "--more-levels", "supervised/logistic", "--estimator", "pes")
    results = run(tmp_path / "run", *arguments, "--truncation", 2)
    assert {name.split(":")[0] for name in results["report"]} == {"supervised/quadratic", "supervised/logistic"}


@pytest.mark.parametrize("objective", ["ppo", "lpg"])
@pytest.mark.parametrize("name", ["open", "open_feedforward", "no_features", "adafac", "schedule"])
def test_agents_learn_by_every_optimizer(name, objective):
    """PPO with it, and LPG with it: both are meta-learned then."""
    small = {"levels": "bandit/bernoulli", "num_envs": 2, "rollout_length": 2, "hidden": 2, "width": 4}
    config = experiment.Config(optimizer=name, objective=objective, **small)
    where = experiment.place(config, "bandit/bernoulli")
    inner = where.inner_loop(experiment.learned(config))
    meta = jax.eval_shape(inner.init_meta, jax.random.key(0))
    assert bool(jax.tree.leaves(meta["optimizer"])) and bool(jax.tree.leaves(meta["objective"])) == (objective == "lpg")
    lifetime = jax.eval_shape(lambda key: inner.init(key, where.levels.sample(key)), jax.random.key(0))
    after = jax.eval_shape(inner.step, meta, lifetime, jax.random.key(0)).lifetime
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, lifetime)


ALL_RATES = np.asarray(experiment.RATES)


def test_agents_follow_a_learned_objective_as_it_is():
    """With the optimizer that is learned, and with plain ones; and it must be one."""
    small = {"levels": "bandit/bernoulli", "num_envs": 2, "rollout_length": 2}
    config = experiment.Config(objective="lpg", rule="ta-lpg-gridworld", **small)
    where = experiment.place(config, "bandit/bernoulli")
    inner, plain = where.inner_loop(experiment.learned(config)), where.plain(lambda total: optax.sgd(1.0 / total))
    for loop, learns in ((inner, True), (plain, False)):
        meta = jax.eval_shape(loop.init_meta, jax.random.key(0))
        assert meta["objective"] == () and bool(jax.tree.leaves(meta["optimizer"])) == learns
        lifetime = jax.eval_shape(lambda key, loop=loop: loop.init(key, where.levels.sample(key)), jax.random.key(0))
        assert set(lifetime.params) == {"policy", "y"}
        jax.eval_shape(loop.step, meta, lifetime, jax.random.key(0))
    with pytest.raises(ValueError, match="rule must have learned an LPG, got 'adafac-digits'"):
        experiment.place(experiment.Config(objective="lpg", rule="adafac-digits", **small), "bandit/bernoulli")


def test_the_sweep_finds_the_rate_that_is_best(monkeypatch):
    """No other is as good, on the levels and seeds of the sweep."""
    config = experiment.Config(longest_life=20, shortest_life=20, tuning_levels=4, tuning_seeds=2)
    where = experiment.place(config, "supervised/quadratic")
    rates = {name: experiment.tune(config, where, make) for name, make in experiment.PLAIN.items()}
    assert all(np.isfinite(fitness) and rate in ALL_RATES for rate, fitness in rates.values())
    rate, best = rates["adam"]
    inner = where.plain(lambda total: experiment.PLAIN["adam"](rate, total))
    assert inner.init_meta(jax.random.key(0)) == {"objective": (), "optimizer": ()}
    place = int(np.argmin(abs(ALL_RATES - rate)))
    assert 0 < place < len(ALL_RATES) - 1
    monkeypatch.setattr(experiment, "RATES", ALL_RATES[[place - 1, place + 1]])
    assert experiment.tune(config, where, experiment.PLAIN["adam"])[1] < best


def test_pictures_show_what_an_optimizer_does():
    """Those of SGD with momentum and of a schedule are known."""
    sgd = optax.with_extra_args_support(optax.sgd(0.1))
    axis, moves = updates.surface(sgd)
    np.testing.assert_allclose(moves, jnp.broadcast_to(-0.1 * axis, moves.shape), rtol=1e-5, atol=1e-7)
    momentum = optax.with_extra_args_support(optax.sgd(0.1, momentum=0.5))
    _, moves = updates.surface(momentum)
    expected = -0.1 * (axis[None] + (1 - 0.5**20) * axis[:, None])  # the past weighs (1 - b^20) / (1 - b) b
    np.testing.assert_allclose(moves, expected, rtol=1e-4, atol=1e-6)
    schedule = optimizers.schedule(0.1, 0.0, None, knots=2, direction="sgd")
    transform = schedule.transform({"learning_rate": jnp.log(jnp.array([1.0, 3.0]))})
    shares, sizes = updates.sizes_over_progress(transform)
    np.testing.assert_allclose(sizes / sizes[0], 1.0 + 2.0 * shares, rtol=1e-4)
    growing = optax.with_extra_args_support(optax.sgd(lambda count: 0.1 * count))  # knows the time by itself
    _, sizes = updates.sizes_over_progress(growing, updates=4)
    np.testing.assert_allclose(sizes / sizes[1], [0.0, 1.0, 2.0, 3.0], rtol=1e-5)
    _, sizes = updates.sizes_over_dormancy(transform)
    np.testing.assert_allclose(sizes, sizes[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--levels", "chess"), "chess"),
        (("--without", "colour"), "colour"),
        (
            ("--without", "noise", "--optimizer", "adafac"),
            "without is for the features of open, got optimizer 'adafac'",
        ),
        (("--rule", "runs/x"), "rule needs objective lpg, got 'ppo'"),
        (("--network", "0"), "network must have sizes of at least 1, got (0,)"),
        (("--scale", "0"), "scale must be positive"),
        (("--more-levels", "supervised/digits"), "levels must be different"),
        (("--rule", "runs/x", "--objective", "lpg"), "rule is for agents, got levels 'supervised/digits'"),
        (("--rule", "nowhere", "--objective", "lpg", "--levels", "bandit/bernoulli"), "nowhere"),
        (("--measure-every", "-1"), "measure_every must be finite and not negative"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, says, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / "run", *arguments)
    message = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and says in message and len(message.splitlines()) == 1


def test_an_ablation_leaves_out_one_group_at_a_time(tmp_path, monkeypatch, capsys):
    """Each in a run of its own, and none of them twice."""
    seen = []

    def spy(config):
        seen.append((config.without, config.resume))
        row = {"mean": 1.0, "low": 0.5, "high": 1.5}
        return {"trained": row, "adam": row, "sgd": row}

    monkeypatch.setattr(ablation.experiment, "run", spy)
    ablation.main(["--directory", str(tmp_path / "run")])
    groups = [group for group in GROUPS if group != "epoch"]  # on digits, what nothing depends on is not left out
    assert seen == [((), False), *(((group,), False) for group in groups)]
    report = json.loads((tmp_path / "run" / "ablation.json").read_text())["report"]
    assert list(report) == ["open", "adam", *(f"without {group}" for group in groups)]
    for arguments, says in ((("--optimizer", "adafac"), "is of open"), (("--held-out-seeds", "0"), "needs held_out")):
        with pytest.raises(SystemExit):
            ablation.main(["--directory", str(tmp_path / "other"), *arguments])
        assert says in capsys.readouterr().err


def test_the_benchmark_prints_its_figures_as_json(capsys):
    small = "--sizes 2 --num-envs 2 --rollout-length 2 --epochs 1 --minibatches 1 --repeats 1"
    benchmark.main(["optimizers", *small.split(), "--levels", "bandit/bernoulli"])
    (figures,) = json.loads(capsys.readouterr().out)["benchmarks"]
    assert len(figures["ratios"]) == 5 and all(x > 0 for x in figures["ratios"].values())


# --- over seeds ---------------------------------------------------------------------------------------------


def finished(directory, seed, mean, **config):
    directory.mkdir()
    fields = {"seed": seed, "steps": 3, "width": 4, "directory": str(directory), **config}
    report = {"trained": {"mean": mean}, f"only of {seed}": {"mean": 0.0}} if mean is not None else {}
    (directory / "results.json").write_text(json.dumps({"experiment": "x", "config": fields, "report": report}))
    return str(directory)


def test_reports_of_seeds_become_one(tmp_path, capsys):
    runs = [finished(tmp_path / str(seed), seed, mean) for seed, mean in enumerate((1.0, 2.0, 6.0))]
    table = seeds.over_seeds(runs)
    half = 4.302653 * np.std([1.0, 2.0, 6.0], ddof=1) / 3**0.5
    assert set(table) == {"trained"} and table["trained"] == pytest.approx((3.0, 3.0 - half, 3.0 + half), rel=1e-5)
    seeds.main(runs)
    assert "trained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 0, "mean": 1.0}, "runs must have different seeds, got [0, 0]"),
        ({"seed": 1, "mean": 1.0, "width": 8}, "differ in width"),
        ({"seed": 1, "mean": None}, "has no report"),
    ],
)
def test_reports_that_are_not_of_seeds_are_refused(change, says, tmp_path, capsys):
    runs = [finished(tmp_path / "a", 0, 1.0), finished(tmp_path / "b", **change)]
    with pytest.raises(SystemExit):
        seeds.main(runs)
    assert says in capsys.readouterr().err
