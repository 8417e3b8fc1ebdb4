"""Sweeps: every member is the run that it would be alone, in as few programs as there can be."""

import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl
from experiments import agent, lpg, sweeps
from metarl.run import checkpoint
from metarl.meta import MetaState


@dataclasses.dataclass(frozen=True)
class Config:
    learning_rate: float = 0.1
    noise: float = 0.0
    size: int = 2
    steps: int = 12

    def __post_init__(self):
        if self.learning_rate <= 0.0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")


def descend(config):
    """Gradient descent on |w|^2 / 2, from a random start."""

    def init(key):
        w = jax.random.normal(key, (config.size,))
        return MetaState(jnp.int32(0), {"w": w}, opt_state=(), estimator=key, curriculum=(), score=(), lifetimes=())

    def step(state, key):
        w = state.params["w"]
        noise = config.noise * jax.random.normal(key, w.shape)
        after = w - config.learning_rate * w + noise
        return state._replace(step=state.step + 1, params={"w": after}), {"meta_loss": w @ w, "fitness": -w @ w, "w": w}

    return metarl.Meta(init, step)


def compilations(caplog):
    return [r for r in caplog.records if r.getMessage().startswith("Compiling jit(run)")]


FIELDS = {"learning_rate": [0.1, 0.5], "size": [2, 3], "noise": [0.0, 0.2]}


@pytest.fixture(scope="module")
def swept():
    return metarl.sweep(descend, Config(), FIELDS, seeds=[0, 7], chunk=5)


def test_every_member_is_the_run_that_it_would_be_alone(swept):
    assert len(swept.members) == 16 and swept.log["meta_loss"].shape == (16, 12)
    for i, member in enumerate(swept.members):
        seed = member["seed"]
        config = Config(**{name: x for name, x in member.items() if name != "seed"})
        state, log = metarl.train(descend(config), seed=seed, steps=12)
        np.testing.assert_allclose(swept.log["meta_loss"][i], log["meta_loss"], rtol=1e-5)
        np.testing.assert_allclose(swept.log["w"][i], log["w"].mean(1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(swept.params[i]["w"], state.params["w"], rtol=1e-4, atol=1e-6)


def test_batches_change_nothing(swept):
    again = metarl.sweep(descend, Config(), FIELDS, seeds=[0, 7], batch_size=6)
    assert again.members == swept.members
    np.testing.assert_allclose(again.log["meta_loss"], swept.log["meta_loss"], rtol=1e-6)


def test_only_what_must_be_is_compiled_again(caplog):
    with jax.log_compiles(), caplog.at_level("WARNING"):
        metarl.sweep(descend, Config(), FIELDS, seeds=3)
    assert len(compilations(caplog)) == 2  # one for each size


def test_numbers_that_python_branches_on_are_looped_over():
    def make(config):
        return descend(dataclasses.replace(config, noise=0.0) if config.noise > 0.1 else config)

    fields = {"learning_rate": [0.1, 0.2], "noise": [0.05, 0.15]}
    found = metarl.sweep(make, Config(), fields, steps=3)
    by_values = {tuple(member.values()): x for member, x in zip(found.members, found.log["meta_loss"], strict=True)}
    alone = metarl.sweep(descend, Config(), {"learning_rate": [0.1, 0.2]}, steps=3).log["meta_loss"]
    np.testing.assert_allclose(by_values[0.2, 0.15, 0], alone[1], rtol=1e-6)
    assert not np.allclose(by_values[0.2, 0.05, 0][1:], alone[1, 1:], rtol=1e-3)


def test_a_member_that_diverges_is_reported_and_the_others_go_on():
    found = metarl.sweep(descend, Config(), {"learning_rate": [0.5, 1e30, 0.1]}, seeds=2)
    assert [bool(x) for x in found.diverged] == [False, False, True, True, False, False]
    first = found.diverged[2] - 1
    assert np.isfinite(found.log["meta_loss"][2, :first]).all() and not np.isfinite(found.log["meta_loss"][2, first])
    scores = found.scores("fitness")
    assert np.isnan(scores).tolist() == [False, False, True, True, False, False]
    assert [x["learning_rate"] for x, _ in found.configurations("fitness")] == [0.5, 0.1, 1e30]
    with pytest.raises(ValueError, match="no such metric: 'reward'; the log has"):
        found.scores("reward")


def test_parameters_that_are_lost_after_the_last_loss_count_as_diverged():
    found = metarl.sweep(descend, Config(steps=1), {"learning_rate": [0.5, float("inf")]})
    assert found.diverged.tolist() == [0, 1]


def test_the_best_is_that_of_the_last_tenth_over_all_seeds(swept):
    scores = swept.scores("fitness")
    np.testing.assert_array_equal(scores, swept.log["fitness"][:, -1])
    values, members = swept.configurations("fitness")[0]
    assert [{**values, "seed": seed} for seed in (0, 7)] == [swept.members[i] for i in members]
    means = [scores[members].mean() for _, members in swept.configurations("fitness")]
    assert means == sorted(means, reverse=True) and values["noise"] == 0.0 and values["learning_rate"] == 0.5


def test_the_table_has_a_row_for_every_member_and_point(swept):
    rows = list(swept.table(points=4))
    assert len(rows) == 16 * 4 and [row["step"] for row in rows[:4]] == [3, 6, 9, 12]
    assert rows[5]["meta_loss"] == swept.log["meta_loss"][1, 5] and rows[5]["seed"] == 7


def test_a_resumed_sweep_is_an_uninterrupted_one(tmp_path, swept):
    options = dict(seeds=[0, 7], directory=tmp_path)
    metarl.sweep(descend, Config(), FIELDS, steps=7, **options)
    for path in (tmp_path / "1").rglob("*"):  # the second program has not been started
        path.is_file() and path.unlink()
    (tmp_path / "1" / "checkpoints").rename(tmp_path / "gone")
    again = metarl.sweep(descend, Config(), FIELDS, resume=True, **options)
    np.testing.assert_array_equal(again.log["meta_loss"], swept.log["meta_loss"])
    assert checkpoint.steps(tmp_path / "0")[-1] == checkpoint.steps(tmp_path / "1")[-1] == 12
    with pytest.raises(ValueError, match="another configuration: members"):
        metarl.sweep(descend, Config(), {**FIELDS, "noise": [0.0, 0.3]}, resume=True, **options)


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        (
            {"learning_rates": [0.1]},
            {},
            r"Config has no field 'learning_rates' to sweep; did you mean \['learning_",
        ),
        ({"seed": [1]}, {}, r"no field 'seed' to sweep; did you mean \['learning_rate', 'noise', 'size'\]"),
        ({"noise": []}, {}, r"noise must have values to sweep, each given once, got \[\]"),
        ({"noise": [0.1, 0.1]}, {}, "noise must have values to sweep, each given once"),
        ({"learning_rate": [0.1, -1.0]}, {}, "learning_rate must be positive, got -1.0"),
        ({}, {"seeds": 0}, "seeds must be at least 1, or different and from 0 to"),
        ({}, {"seeds": [1, 1]}, "seeds must be at least 1, or different"),
        ({}, {"seeds": [2**32]}, "from 0 to"),
        ({}, {"seed": 1}, "seed has no meaning for a sweep: give seeds"),
    ],
)
def test_what_cannot_be_swept_is_named_before_anything_runs(fields, options, message):
    def make(config):
        raise AssertionError("made")

    with pytest.raises(ValueError, match=message):
        metarl.sweep(make, Config(), fields, **options)


def test_a_member_that_diverges_leaves_the_figures_of_the_others(tmp_path, capsys):
    """In every configuration there may be one; where nothing is left, nothing is drawn."""
    found = metarl.sweep(descend, Config(steps=2), {"learning_rate": [0.5, 1e30]}, seeds=2)
    found.diverged[0] = 1
    rows = sweeps.summary(found, "fitness")
    assert [row["diverged"] for row in rows] == [1, 2] and np.isfinite(rows[0]["mean"])
    sweeps.draw(rows, {"learning_rate": [0.5, 1e30]}, "fitness", tmp_path)
    assert (tmp_path / "parallel.png").exists()
    sweeps.draw(rows[1:], {"learning_rate": [1e30]}, "fitness", tmp_path)
    assert "no member has a finite fitness" in capsys.readouterr().err


def test_what_is_not_logged_or_cannot_be_made_fails_before_anything_is_trained(tmp_path, capsys):
    for options, message in [
        (["--sweep", "learning_rate=0.1,0.2", "--sweep-by", "luck"], "sweep_by must be a metric that is logged"),
        (["--sweep", "network=mlp,tabular"], "tabular network needs a Discrete observation space"),
        (["--sweep", "learning_rate=0.1", "--tensorboard"], "tensorboard and wandb must be off"),
    ]:
        with pytest.raises(SystemExit):
            agent.main([*options, "--directory", str(tmp_path / "run")])
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("run/0/*"))


def test_the_option_reads_values_as_the_fields_types():
    config = dataclasses.replace(
        agent.PRESETS["quick"],
        sweep=("learning-rate=1e-3,1", "epochs=1,2", "network=mlp,gru", "normalise_advantage=true,false"),
    )
    assert sweeps.parse(config) == {
        "learning_rate": [1e-3, 1.0],
        "epochs": [1, 2],
        "network": ["mlp", "gru"],
        "normalise_advantage": [True, False],
    }
    for text, message in [
        ("epochs=1.5", "epochs must be of type int, got '1.5'"),
        ("epochs", "sweep must be FIELD=VALUE,VALUE,... with each field once, got 'epochs'"),
        ("objective=ppo,dop", r"objective must be one of \('a2c', 'ppo', 'dpo'\), got 'dop'"),
        ("chunk=5,10", "'chunk' is no field that can be swept; did you mean"),
        ("learning_rat=1", r"'learning_rat' is no field that can be swept; did you mean \['learning_rate'\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            sweeps.parse(dataclasses.replace(config, sweep=(text,)))


def test_two_axes_and_eight_seeds_of_lpg_compile_once(tmp_path, caplog, capsys):
    argv = ["--sweep", "learning_rate=1e-3,1e-2", "y_coef=0.5,1", "--sweep-seeds", "8", "--directory", str(tmp_path)]
    argv += ["--levels", "mdp/random"]
    sizes = dict(num_lifetimes=2, num_envs=2, rollout_length=4, updates=2, hidden=4, steps=4, chunk=2)
    argv += [text for name, x in sizes.items() for text in (f"--{name.replace('_', '-')}", str(x))]
    with jax.log_compiles(), caplog.at_level("WARNING"):
        lpg.main(argv)
    assert len(compilations(caplog)) == 1
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["configurations"]) == 4 and results["score"] == "episode_return"
    assert all(len(row["scores"]) == 8 and row["diverged"] == 0 for row in results["configurations"])
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 32 * 4 and {"learning_rate", "y_coef", "seed", "step", "env_steps", "seconds"} <= set(rows[0])
    assert {row["env_steps"] for row in rows if row["step"] == "4"} == {str(4 * 2 * (2 + 1) * 2 * 4)}
    assert (tmp_path / "grid.png").stat().st_size > 5000 and (tmp_path / "parallel.png").stat().st_size > 5000
    assert "learning_rate=0.01, y_coef=1.0" in capsys.readouterr().out
    best = results["configurations"][0]["values"]
    rule = metarl.load_rule(tmp_path / "rule.safetensors")
    assert rule.card["config"] | best == rule.card["config"] and rule.card["recipe"]["objective"]["hidden"] == 4
    lpg.main([*argv, "--resume"])  # everything is there
