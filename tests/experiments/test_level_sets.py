"""Fixed sets of levels: which levels are in them, how runs are paired, what is said of them, and how they resume."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import PNG, one_line, words
from finished_runs import RECIPE, write_run
from toy import assert_same

import envs
import metarl
from experiments import level_sets, lpg, ta_lpg
from experiments.level_sets import RANDOM, Kind
from metarl.curricula.replay import fingerprint
from metarl.evaluation import compare
from metarl.pretrained import load_params
from metarl.rules import load_rule
from metarl.run.options import flatten, replace

SIZE = {"levels": "mdp/random", "num_envs": 2, "rollout_length": 4, "hidden": 4, "num_lifetimes": 2, "updates": 2}
LIVES = {"shortest_life": 2, "longest_life": 4, "steps": 4, "held_out_levels": 2, "held_out_seeds": 1}
SETS = {"sizes": (1, 3), "candidates": 6, "num_seeds": 2, "seed": 3}
TINY = {**SIZE, **LIVES, **SETS}


@pytest.fixture(scope="module")
def rule(tmp_path_factory):
    """An untrained rule, which takes the place of a good one."""
    return write_run(tmp_path_factory.mktemp("rule") / "lpg-0")


def test_candidates_have_the_scores_of_agents_on_them(tmp_path):
    """The same whatever the batch: each score is that of its own level and key, though short lives go first."""
    recipe = {**RECIPE, "objective": {"name": "lpo", "hidden": 2}, "optimizer": {"name": "sgd", "learning_rate": 9.0}}
    run = compare.load(write_run(tmp_path, recipe=recipe))
    config = replace(level_sets.PRESETS["quick"], **{**TINY, "candidates": 5})
    (levels, together), (same, alone) = (
        level_sets.finder(replace(config, candidate_batch=batch), run, "optimal")(jax.random.key(3)) for batch in (5, 2)
    )
    jax.tree.map(np.testing.assert_array_equal, levels, same)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    optimum = jax.vmap(config.distribution.make().optimal_return)(levels.problem)
    assert len(set(levels.horizon.tolist())) > 1 and len(set(together.tolist())) == 5 and (together <= optimum).all()


# --- the command, with nothing trained ------------------------------------------------------------------------


class Stopped(KeyboardInterrupt):
    pass


@jax.jit
def draw(key):
    return jax.vmap(envs.make("mdp/random").sample)(jax.random.split(key, SETS["candidates"]))


@pytest.fixture
def seen(monkeypatch):
    """What is trained and judged, and nothing is: candidates have random scores, and rules a score of their own."""
    runs, scored, stop = [], [], [None]

    def finder(config, run, by):
        def find(key):
            scored.append(by)
            values = np.random.default_rng(len(by)).normal(size=6)
            values[0] = np.nan  # of an agent that diverged
            return draw(key), values

        return find

    def run(experiment, config):
        if len(runs) == stop[0]:
            stop[0] = None
            raise Stopped
        runs.append(config)
        write_run(Path(config.run.directory), experiment="lpg", **flatten(config))

    def score(run):
        size, arm = int(run.directory.split("-")[-1]), run.directory.split("/")[-1].split("-")[0]
        return 0.1 * run.config["seed"] + size / 100 + {RANDOM: 0.0, "regret": 0.2}.get(arm, -0.1)

    def scores(runs, name, levels, **options):
        noise = np.random.default_rng(0).normal(0.0, 0.01, len(runs))
        return np.array([score(run) for run in runs]) + noise

    monkeypatch.setattr(level_sets, "finder", finder)
    monkeypatch.setattr(level_sets.launch, "run", run)
    monkeypatch.setattr(level_sets.compare, "scores", scores)
    return runs, scored, stop


def command(scoring, place, **options):
    level_sets.main(words(**{**TINY, "rule": scoring, "directory": place, **options}))


def loaded(path):
    return metarl.load_levels(path, envs.make("mdp/random"))


def test_a_set_has_the_candidates_of_highest_score_and_the_random_one_is_the_first_of_them(rule, tmp_path, seen):
    command(rule, tmp_path / "x")
    chosen = []
    for seed in (3, 4):
        folder = tmp_path / "x" / f"seed-{seed}"
        values = np.array(load_params(folder / "regret.safetensors")[1]["scores"])
        codes = np.asarray(fingerprint(loaded(folder / "regret.safetensors")))
        assert len(values) == len(set(codes)) == 6
        for size in (1, 3):
            highest = codes[[i for i in range(1, 6) if (values[1:] > values[i]).sum() < size]]  # the first is NaN
            assert set(np.asarray(fingerprint(loaded(folder / f"regret-{size}.safetensors")))) == set(highest)
            first = np.asarray(fingerprint(loaded(folder / f"random-{size}.safetensors")))
            np.testing.assert_array_equal(first, codes[:size])
            assert len(highest) == len(first) == size
        chosen.append(set(codes))
    assert not chosen[0] & chosen[1]  # each seed has its own


def test_all_arms_of_a_seed_are_trained_alike_but_for_their_levels(rule, tmp_path, seen):
    command(rule, tmp_path / "x", by=("regret", "pvl"))
    runs, scored, _ = seen
    assert scored == ["regret", "pvl"] * 2
    assert [config.run.seed for config in runs] == [3] * 6 + [4] * 6
    for seed in (3, 4):
        mine = [flatten(config) for config in runs if config.run.seed == seed]
        names = [f"{arm}-{size}" for size in (1, 3) for arm in ("regret", "pvl", RANDOM)]
        folder = tmp_path / "x" / f"seed-{seed}"
        assert [x["level_set"] for x in mine] == [str(folder / f"{name}.safetensors") for name in names]
        assert [x["directory"] for x in mine] == [str(folder / name) for name in names]
        same = [{name: y for name, y in x.items() if name not in ("level_set", "directory")} for x in mine]
        assert all(x == same[0] for x in same)
        assert {"score": "frozen", "held_out_seeds": 0, "steps": 4, "levels": "mdp/random"}.items() <= same[0].items()


def test_the_first_lifetimes_are_on_the_levels_of_the_file_and_rules_begin_as_one(rule, tmp_path, seen):
    command(rule, tmp_path / "x")
    states = []
    for config in seen[0][:2]:
        level_set = loaded(config.replay.level_set)
        state = jax.jit(level_sets.TRAINING.make(config).init)(jax.random.key(config.run.seed))
        jax.tree.map(np.testing.assert_array_equal, state.curriculum, level_set)
        reward = np.asarray(state.lifetimes.level.problem.reward)
        assert all((x == np.asarray(level_set.problem.reward)).all(tuple(range(1, x.ndim + 1))).any() for x in reward)
        states.append(state)
    assert_same(states[0].params, states[1].params)
    assert not np.array_equal(states[0].curriculum.problem.reward, states[1].curriculum.problem.reward)


def test_what_is_said_is_paired_over_seeds(rule, tmp_path, seen, capsys):
    """Seeds differ by much more than arms do; the differences of pairs do not know."""
    command(rule, tmp_path / "x", by=("regret", "pvl"), num_seeds=4, more_levels="bandit/bernoulli")
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "x" / "results.json").read_text())["on"]
    assert list(found) == ["mdp/random", "bandit/bernoulli"]
    row = found["mdp/random"]["intervals"]
    assert row["regret minus random"]["3"]["mean"] == pytest.approx(0.2, abs=0.02)
    assert row["regret minus random"]["3"]["high"] - row["regret minus random"]["3"]["low"] < 0.1
    assert row["random"]["3"]["high"] - row["random"]["3"]["low"] > 0.3
    one, other = (np.array(found["mdp/random"]["scores"][f"{arm}-3"]) for arm in ("regret", RANDOM))
    spread = (one - other).std(ddof=1)
    said = {text.split(":")[0]: text for text in found["mdp/random"]["verdicts"]}
    better = said["mdp/random, sets of 3 by regret"]
    assert "over 4 seeds, better than random ones" in better and f"at this deviation, {spread:.3f}" in better
    assert "worse than random ones" in said["mdp/random, sets of 1 by pvl"]
    assert better in out
    for name in ("mdp-random", "bandit-bernoulli"):
        assert (tmp_path / "x" / f"{name}.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("differences", "found"),
    [([0.1, 0.12, 0.11], "better than"), ([-0.1, -0.12, -0.11], "worse than"), ([0.1, -0.1, 0.0], "no difference")],
)
def test_a_verdict_is_that_of_the_interval_with_the_seeds_that_an_effect_needs(differences, found):
    said = level_sets.verdict(np.array(differences), 0.05)
    assert found in said
    # deviations 0.01 and 0.1: effects of 5 and half of it
    assert f"an effect of 0.05 would need {34 if differences[2] == 0 else 3} seeds at this deviation" in said


def test_a_stopped_experiment_goes_on_and_takes_more_seeds_and_sizes(rule, tmp_path, seen):
    runs, scored, stop = seen
    command(rule, tmp_path / "whole", num_seeds=3, sizes=(1, 2, 3))
    whole = json.loads((tmp_path / "whole" / "results.json").read_text())["on"]
    runs.clear(), scored.clear()
    stop[0] = 3
    with pytest.raises(SystemExit) as stopped:
        command(rule, tmp_path / "x")
    assert stopped.value.code == 130 and scored == ["regret"] and not (tmp_path / "x" / "results.json").exists()
    before = (tmp_path / "x" / "seed-3" / "regret.safetensors").read_bytes()
    command(rule, tmp_path / "x", resume=True, num_seeds=3, sizes=(1, 2, 3))
    assert scored == ["regret"] * 3  # the candidates of the first seed were there
    assert (tmp_path / "x" / "seed-3" / "regret.safetensors").read_bytes() == before
    assert json.loads((tmp_path / "x" / "results.json").read_text())["on"] == whole


def test_a_resumed_experiment_has_the_same_candidates_or_is_refused(rule, tmp_path, seen, capsys):
    command(rule, tmp_path / "x")
    for change in (
        {"candidates": 7},
        {"longest_life": 5},
        {"rule": "lpg-gridworld"},
        {"levels": "bandit/bernoulli"},
    ):
        says = one_line(capsys, lambda change=change: command(rule, tmp_path / "x", resume=True, **change))
        assert f"has candidates with other options: they differ in {next(iter(change))}" in says


def test_scores_that_are_not_known_do_not_make_a_set(rule, tmp_path, seen, capsys):
    says = one_line(capsys, lambda: command(rule, tmp_path / "x", sizes=6))
    assert "only 5 of 6 candidates have a finite score by regret" in says


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sizes": (3, 9)}, "candidates must be at least 9, the largest size, got 6"),
        ({"sizes": (0, 1)}, "sizes[0] must be at least 1, got 0"),
        ({"by": "uniform"}, "uniform"),
        ({"num_seeds": 1}, "num_seeds must be at least 2, got 1"),
        ({"seed": 2**32 - 2, "num_seeds": 3}, "seed + num_seeds - 1 must be at most 4294967295"),
        ({"effect": 0}, "effect must be above 0"),
        ({"held_out_seeds": 0}, "held_out_seeds must be at least 1"),
        ({"held_out_horizons": (2, 4)}, "held_out_horizons has no effect here"),
        ({"more_levels": "mdp/random"}, "more_levels must be others than levels"),
        ({"more_levels": "mdp/randon"}, "mdp/random"),
        ({"rule": "no-such"}, "no rule at 'no-such'"),
        ({"by": "optimal", "levels": "CartPole-v1"}, "needs levels whose optimal return is known"),
        ({"resume": True, "directory": ""}, "resume needs the directory"),
        ({"distributed": True}, "distributed must be off"),
        ({"level_set": "x"}, "level-set"),
        ({"score": "regret"}, "score"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(options, says, rule, tmp_path, capsys):
    assert says in one_line(capsys, lambda: command(rule, tmp_path / "x", **options))
    assert not (tmp_path / "x").exists()


def test_the_file_of_levels_must_be_there_and_of_the_distribution(tmp_path, capsys):
    options = {**SIZE, "score": "frozen", "level_set": tmp_path / "mine", "directory": tmp_path / "x", "steps": 2}
    assert "no parameters at" in one_line(capsys, lambda: lpg.main(words(**options)))
    bandits = envs.make("bandit/bernoulli")
    metarl.save_levels(tmp_path / "mine", jax.vmap(bandits.sample)(jax.random.split(jax.random.key(0), 2)))
    assert "levels of another kind" in one_line(capsys, lambda: lpg.main(words(**options)))
    own = envs.make(SIZE["levels"], 7)
    metarl.save_levels(tmp_path / "mine", jax.vmap(own.sample)(jax.random.split(jax.random.key(0), 2)))
    options = {name: options[name] for name in ("levels", "hidden", "score", "level_set", "directory")}
    said = one_line(capsys, lambda: ta_lpg.main(words(**options, longest_life=6, shortest_life=6, batch_size=0)))
    assert "longest_life must be at least 7, the longest in" in said
    assert not (tmp_path / "x").exists()


def test_the_options_are_those_of_lpg_but_for_its_curriculum_and_sweeps():
    """A part that is new in experiments.lpg belongs here, too."""
    mine, theirs = ({x.name for x in dataclasses.fields(config)} for config in (level_sets.Config, lpg.Config))
    assert mine - {"sets"} == theirs - {"sweep", "replay"}


# --- the command as it is -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stopped_experiment_ends_as_one_that_was_not(rule, tmp_path, monkeypatch, capsys):
    """In the middle of a run, too: rules and scores are the same bit for bit, and the scores are of these rules."""
    options = {"sizes": 2, "chunk": 2, "checkpoint_every": 2, "by": ("regret", "learnability")}
    command(rule, tmp_path / "whole", **options)
    capsys.readouterr()
    from metarl.run import checkpoint

    saved, save = [], checkpoint.save

    def stop(directory, *rest):
        save(directory, *rest)
        saved.append(str(directory))
        if len(saved) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", stop)
        with pytest.raises(SystemExit):
            command(rule, tmp_path / "x", **options)
    assert re.search(r"seed-3/learnability-2$", saved[-1])
    command(rule, tmp_path / "x", **options, resume=True)
    whole, mine = (json.loads((tmp_path / x / "results.json").read_text())["on"] for x in ("whole", "x"))
    assert whole == mine
    rules = [
        [load_rule(tmp_path / x / f"seed-{seed}" / str(Kind(arm, 2))).params for seed in (3, 4) for arm in arms]
        for x in ("whole", "x")
        for arms in [("regret", "learnability", RANDOM)]
    ]
    assert_same(*rules)
    assert all(np.isfinite(x).all() for x in mine["mdp/random"]["scores"].values())
