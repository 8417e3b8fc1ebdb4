"""The bake-off of meta-gradient estimators: its statistics on known gradients, and its files on a tiny problem."""

import json

import jax
import numpy as np
import pytest
from quadratic import levels, quadratic

import envs
from experiments import estimators
from experiments.estimators import compare

TINY = {
    "horizon": 4,
    "truncation": 2,
    "num_lifetimes": 8,
    "num_envs": 2,
    "rollout_length": 4,
    "eval_episodes": 4,
    "hidden": 1,
    "bins": 2,
    "warm_up": 2,
    "repeats": 20,
    "reference": 20,
}
NAMES = ["backprop", "es truncated", "pes", "es", "es, independent tasks"]


def command(directory, **options):
    options = {**TINY, "directory": directory, **options}
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def bake_off(tmp_path_factory):
    """A run from the command line: its directory, and its collectors and the meta-parameters that they are at.

    Of noisy quadratics, whose programs are small, in the place of agents.
    """
    directory, made = tmp_path_factory.mktemp("estimators"), []

    class Kept(estimators.Collector):
        def __init__(self, config, levels, meta_params, contender, critic):
            super().__init__(config, levels, meta_params, contender, critic)
            made.append((self, meta_params))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimators, "Collector", Kept)
        patch.setattr(estimators, "inner_loop", lambda config, levels, critic: quadratic(noise=0.3))
        patch.setattr(estimators, "episode_length", lambda config, levels, lifetimes: 10.0)
        patch.setattr(estimators.envs, "make", lambda name, horizon: levels(horizon, spread=0.5))
        estimators.main(command(directory))
    return directory, dict(zip(("es", "backprop", "es truncated", "pes", "es, independent tasks"), made, strict=True))


@pytest.fixture(scope="module")
def finished(bake_off):
    directory, _ = bake_off
    return directory, json.loads((directory / "estimators.json").read_text())


@pytest.fixture(scope="module")
def collectors(bake_off):
    return {name: bake_off[1][name] for name in ("pes", "es")}


CONFIG = estimators.Config(**TINY)
LEVELS = envs.make(CONFIG.levels, CONFIG.horizon)


def test_a_run_leaves_its_table_and_figure(finished):
    directory, results = finished
    assert (directory / "estimators.png").read_bytes().startswith(b"\x89PNG")
    assert {name: results["configuration"][name] for name in TINY} == TINY
    assert results["configuration"]["seed"] == 0 and results["hardware"]["platform"] == jax.default_backend()
    assert results["reference"]["estimates"] == 20 and results["reference"]["standard_error"] > 0
    rows = results["estimators"]
    assert list(rows) == NAMES
    assert {name: row["estimates"] for name, row in rows.items()} == dict(zip(NAMES, [40, 40, 40, 20, 20], strict=True))
    for name, row in rows.items():
        assert row["seconds"] > 0 and row["compile_seconds"] > 0, name
        # a reference of 20 estimates may be lost in noise: then all is unknown (null) that is relative to it
        assert {"cosine", "norm_ratio", "bias", "variance", "scaled_variance_x_seconds", "single_cosine"} <= row.keys()
    # 8 lifetimes, or pairs: rollouts of 2 x 4 steps, and tests of 4 episodes of 10 steps
    steps = {name: row["env_steps"] for name, row in rows.items()}
    assert steps["backprop"] == 8 * 3 * 8
    assert steps["es truncated"] == steps["pes"] == 16 * (2 * 8 + 40)
    assert steps["es"] == steps["es, independent tasks"] == 16 * (4 * 8 + 2 * 40)


@pytest.mark.slow
def test_full_evolution_strategies_agree_with_the_reference():
    """They are the same estimator with other seeds: cosine 1 and no bias, within what the jackknife says (4 errors)."""
    params = estimators.inner_loop(CONFIG, LEVELS, critic=False).init_meta(jax.random.key(0))
    collector = estimators.Collector(CONFIG, LEVELS, params, estimators.contenders(CONFIG)["es"], critic=False)
    one, other = (collector.collect(400, seed).estimates for seed in (1, 2))
    assert one.shape == other.shape and (one != other).any(1).all()
    row = compare(one, other)
    assert row["cosine"] > 0.5
    assert abs(row["cosine"] - 1.0) < 4 * row["cosine_error"]
    half_width = (row["bias_high"] ** 2 - row["bias"] ** 2) / 1.96
    assert row["bias"] ** 2 < 4 * half_width
    error = np.sqrt(one.var(0) / len(one) + other.var(0) / len(other))
    scores = (one.mean(0) - other.mean(0)) / error
    assert np.abs(scores).max() < 6 and np.square(scores).mean() < 2


def test_collected_estimates_are_those_of_lifetimes_of_all_ages(collectors):
    for name, (collector, meta_params) in collectors.items():
        key = jax.random.key(1)
        state = collector.init(key)
        for i in range(3):
            state, gradients = collector.live(state, jax.random.fold_in(key, i))
            ages = [0, 2] if name == "pes" else [0]
            assert sorted(state.lifetimes.step.tolist()) == sorted(ages * (8 // len(ages)))
            assert len(gradients) == len(ages) and len(np.unique(gradients, axis=0)) == len(ages)
        # at the meta-parameters that were asked for, which nothing changes
        jax.tree.map(np.testing.assert_array_equal, state.params, meta_params)


def test_agents_learn_by_lpg_with_a_critic_for_backpropagation_alone():
    for critic in (True, False):
        inner = estimators.inner_loop(CONFIG, LEVELS, critic)
        params = jax.eval_shape(inner.init_meta, jax.random.key(0))
        lifetime = jax.eval_shape(lambda key, inner=inner: inner.init(key, LEVELS.sample(key)), jax.random.key(0))
        assert set(lifetime.params) == {"policy", "y"} and bool(jax.tree.leaves(lifetime.critic)) == critic
        measure = inner.loss if critic else inner.fitness
        jax.eval_shape(measure, params, lifetime, jax.random.key(0))
    lives = jax.vmap(lambda key: inner.init(key, LEVELS.sample(key)))(jax.random.split(jax.random.key(1), 8))
    assert estimators.episode_length(CONFIG, LEVELS, lives) == 10.0


# --- statistics ---------------------------------------------------------------------------------------------


def samples(mean, deviation, count, random):
    return mean + deviation * random.normal(size=(count, len(mean)))


def test_compare_without_noise():
    reference = np.tile([3.0, 4.0], (40, 1))
    twice = compare(2 * reference, reference)
    expected = {"cosine": 1, "norm_ratio": 2, "bias": 1, "bias_low": 1, "bias_high": 1, "scaled_bias": 0, "variance": 0}
    for name, value in {**expected, "cosine_error": 0, "single_cosine": 1, "scaled_variance": 0}.items():
        np.testing.assert_allclose(twice[name], value, atol=1e-6, err_msg=name)
    across = compare(np.tile([-4.0, 3.0], (60, 1)), reference)
    for name, value in {"cosine": 0, "norm_ratio": 1, "bias": 2**0.5, "scaled_bias": 1, "single_cosine": 0}.items():
        np.testing.assert_allclose(across[name], value, atol=1e-6, err_msg=name)
    against = compare(-reference, reference)
    assert (against["cosine"], against["scaled_bias"]) == (-1, 1)


def test_compare_finds_known_biases_and_variances_under_noise():
    random = np.random.default_rng(0)
    true = random.normal(size=30)
    true /= np.linalg.norm(true)
    biased = true + 0.5 * np.eye(30)[0]
    cosine, ratio = biased @ true / np.linalg.norm(biased), np.linalg.norm(biased)
    rows = [compare(samples(biased, 0.5, 200, random), samples(true, 0.4, 400, random)) for _ in range(100)]
    mean = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
    np.testing.assert_allclose(mean["cosine"], cosine, rtol=0.02)
    np.testing.assert_allclose(mean["norm_ratio"], ratio, rtol=0.02)
    np.testing.assert_allclose(mean["bias"], 0.5, rtol=0.05)
    np.testing.assert_allclose(mean["variance"], 30 * 0.25, rtol=0.05)
    np.testing.assert_allclose(mean["scaled_variance"], 30 * 0.25 / ratio**2, rtol=0.05)
    np.testing.assert_allclose(mean["cosine_error"], np.std([row["cosine"] for row in rows]), rtol=0.3)
    assert np.mean([row["bias_low"] <= 0.5 <= row["bias_high"] for row in rows]) > 0.85  # 0.95


def test_successive_estimates_that_go_together_or_against_each_other_are_not_taken_for_independent():
    """Sums of neighbours: the mean of n has 4 / n of the noise's variance; differences: next to none."""
    random = np.random.default_rng(2)
    noise, reference = random.normal(size=(4001, 30)), samples(np.ones(30), 0.1, 400, random)
    sums = compare(1.0 + noise[1:] + noise[:-1], reference)
    assert sums["variance"] == pytest.approx(2.0, rel=0.1) and sums["scaled_variance"] == pytest.approx(4.0, rel=0.3)
    differences = compare(1.0 + noise[1:] - noise[:-1], reference)
    assert differences["variance"] == pytest.approx(2.0, rel=0.1) and differences["scaled_variance"] < 0.1


def test_compare_says_when_it_cannot_know():
    """A mean that is lost in noise has no direction, and nothing is relative to a reference that is; nothing raises."""
    random = np.random.default_rng(1)
    nothing, something = np.zeros(5), np.ones(5)
    rows = [compare(samples(nothing, 1.0, 40, random), samples(something, 0.1, 40, random)) for _ in range(20)]
    assert any(np.isnan(row["cosine"]) for row in rows)
    for row in rows:
        assert np.isnan(row["cosine"]) == np.isnan(row["norm_ratio"]) == np.isnan(row["scaled_bias"])
        assert 0.5 < row["bias"] < 2.0
    rows = [compare(samples(something, 0.1, 40, random), samples(nothing, 1.0, 40, random)) for _ in range(20)]
    lost = [row for row in rows if np.isnan(row["norm_ratio"])]
    relative = ("cosine", "cosine_error", "bias", "bias_low", "bias_high", "scaled_bias", "scaled_variance")
    assert lost and all(np.isnan(row[name]) for row in lost for name in relative)


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": 3}, "truncation must divide horizon = 4, got 3"),
        ({"truncation": 0}, "truncation must be at least 1, got 0"),
        ({"num_lifetimes": 7}, "num_lifetimes must be a multiple of horizon / truncation = 2, got 7"),
        ({"batch_size": 3}, "batch_size must divide num_lifetimes = 8, got 3"),
        ({"bins": 1}, "bins must be at least 2, got 1"),
        ({"sigma": -0.1}, "sigma must be above 0, got -0.1"),
        ({"repeats": 5}, "repeats must be a multiple of 20, got 5"),
        ({"reference": 50}, "reference must be a multiple of 20, got 50"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"levels": "mdp/rondom"}, "unknown levels 'mdp/rondom'; did you mean mdp/random"),
        ({"hidden": "many"}, "hidden"),
    ],
)
def test_bad_input_is_one_clear_line(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        estimators.main(command(tmp_path, **options))
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_earlier_results_are_not_overwritten(tmp_path, capsys):
    (tmp_path / "estimators.json").write_text("{}")
    with pytest.raises(SystemExit) as end:
        estimators.main(command(tmp_path))
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path} is not empty: give another directory\n"
    assert (tmp_path / "estimators.json").read_text() == "{}"


def test_a_directory_that_cannot_be_written_is_named_at_once(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit):
        estimators.main(command(tmp_path / "file" / "run"))
    assert "cannot write to the run's directory" in capsys.readouterr().err
