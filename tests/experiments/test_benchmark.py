"""The benchmarks: that they time what they say, and print it as JSON."""

import json

import jax
import pytest
from commands import one_line, words

from experiments import benchmark
from metarl import networks

SMALL = {"num_envs": 2, "rollout_length": 2, "repeats": 1}


def printed(capsys, name, **options):
    """What a benchmark prints: its configuration, and its figures."""
    benchmark.main([name, *words(**options)])
    result = json.loads(capsys.readouterr().out)
    assert {"configuration", "date", "hardware", "versions"} < set(result)
    return result["configuration"], *result["benchmarks"]


@pytest.fixture
def untimed(monkeypatch):
    """The programs are traced, and not run: the first is said to take a second, and each other twice the one before."""

    def times(programs, repeats):
        for function, argument in programs.values():
            result = jax.eval_shape(function, argument)
            shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), x) for x in (argument, result)]
            assert shapes[0] == shapes[1]  # a result is the next argument
        return {name: dict.fromkeys(benchmark.TIMES, 2.0**i) for i, name in enumerate(programs)}

    monkeypatch.setattr(benchmark, "time_side_by_side", times)


def test_lpg(capsys, untimed):
    sizes = {"num_lifetimes": 2, "updates": 2, "hidden": 4, "meta_steps": 1, "levels": "mdp/random"}
    configuration, figures = printed(capsys, "lpg", **SMALL, **sizes)
    assert configuration["num_lifetimes"] == 2 and figures["levels"] == "mdp/random"
    assert figures["meta_step"]["env_steps_per_second"] == 2 * 2 * 2 * 3  # the last rollout judges the updated agents
    assert figures["ratios"] == {
        "meta_step / meta_network_products": 1 / 8,
        "meta_step / environments_and_policy": 1 / 4,
        "environments_and_policy / environments": 2.0,
    }
    assert figures["peak_memory_mib"] > 0


@pytest.mark.slow
def test_evolution(capsys):
    sizes = {"num_pairs": 2, "hidden": 4, "batch_size": 1, "devices": 1, "levels": "mdp/random"}
    _, figures = printed(capsys, "es", **SMALL, **sizes)
    others = ("plain_lifetimes", "plain_lifetimes_in_one_batch", "forward_products")
    assert {f"population / {other}" for other in others} == set(figures["ratios"])
    assert all(ratio > 0 for ratio in figures["ratios"].values()) and figures["gflop_per_second"] > 0


@pytest.mark.slow
def test_scores(capsys):
    sizes = {"num_lifetimes": 2, "hidden": 4, "meta_steps": 2, "scores": "regret", "levels": "mdp/random"}
    _, figures = printed(capsys, "groove", **SMALL, **sizes)
    assert list(figures["ratios"]) == ["regret / uniform"] and figures["ratios"]["regret / uniform"] > 0
    assert {"compile_seconds", "temporary_mib", *benchmark.TIMES} == set(figures["uniform"])


def test_policies_of_tokens(capsys):
    sizes = {"batch": 2, "length": 2, "prompt_length": 1, "num_tokens": 4, "width": 8, "layers": 1, "repeats": 1}
    _, *rows = printed(capsys, "tokens", **sizes)
    for figures, name in zip(rows, ["transformer", "gru"], strict=True):
        assert figures["policy"] == name and figures["parameters"] > 0
        assert figures["cached"]["tokens_per_second"] > 0 and figures["recomputed"]["tokens_per_second"] > 0
        assert {"compile_seconds", "temporary_mib", *benchmark.TIMES} < set(figures["cached"])


def test_networks_with_a_memory(capsys, untimed):
    _, figures = printed(capsys, "memory", **SMALL, networks="gru", width=8)
    assert figures["network"] == "gru" and figures["parameters"] > 0
    assert [figures[way]["steps_per_second"] for way in ("at_once", "step_by_step")] == [4.0, 2.0]
    assert figures["ratios"]["steps per second, at once / step by step"] == 2.0


def test_trials(capsys, untimed, monkeypatch):
    monkeypatch.setattr(benchmark.networks, "gru", lambda width: networks.mlp((width,)))  # it compiles faster
    _, figures = printed(capsys, "trials", **SMALL, levels="bandit/bernoulli", width=4, epochs=1)
    assert [figures[way]["env_steps_per_second"] for way in ("trials", "episodes")] == [4.0, 2.0]
    assert figures["ratios"]["steps per second, trials / episodes"] == 2.0


def test_agents(capsys):
    """Both reach a target that everybody reaches when an episode ends, and none that nobody reaches."""
    sizes = {
        "num_seeds": 2,
        "epochs": 1,
        "minibatches": 2,
        "levels": "Catch-bsuite",
        "num_envs": 2,
        "rollout_length": 9,
    }
    _, figures = printed(capsys, "agents", **sizes, repeats=2, target=-1.0)
    for program in ("2 agents", "2 plain"):
        found = figures[program]
        assert found["env_steps_per_second"] == pytest.approx(2 * 2 * 9 / found["min_seconds"], rel=1e-2)
        assert found["updates_to_target"] == 1 and found["seconds_to_target"] == found["median_seconds"]
        assert -1.0 <= found["last_return"] <= 1.0
    ratio = figures["2 agents"]["min_seconds"] / figures["2 plain"]["min_seconds"]
    assert figures["ratios"]["least time"] == {"2 agents / plain": pytest.approx(ratio, rel=1e-2)}
    assert figures["ratios"]["least CPU time"]["2 agents / plain"] > 0


@pytest.mark.slow
def test_optimizers(capsys):
    sizes = {"sizes": 2, "epochs": 1, "minibatches": 1, "levels": "bandit/bernoulli"}
    _, figures = printed(capsys, "optimizers", **SMALL, **sizes)
    assert len(figures["ratios"]) == 5 and all(x > 0 for x in figures["ratios"].values())


@pytest.mark.slow  # four programs
def test_ways_to_a_meta_gradient(capsys):
    sizes = {"num_lifetimes": 2, "updates": 2, "hidden": 4, "agent_width": 16, "levels": "mdp/random"}
    _, figures = printed(capsys, "metagradients", **SMALL, **sizes)
    ways = ["both / plain", "mixed / plain", "remat / plain"]
    assert figures["objective"] == "lpg" and figures["agent_parameters"] > 2 * 16 * 16
    assert [sorted(ratios) for ratios in figures["ratios"].values()] == [ways, ways]
    memory = {way: figures[way]["temporary_mib"] for way in ("plain", "remat", "mixed", "both")}
    assert memory["mixed"] < memory["plain"] and memory["both"] < memory["plain"]


@pytest.mark.slow  # a program of full-size agents for each number of members
def test_members_of_a_sweep(capsys):
    _, figures = printed(capsys, "sweep", members=(1, 2), num_lifetimes=2, repeats=1, levels="mdp/random")
    speed = figures["environment steps per second"]
    assert list(speed) == ["1 members", "2 members"] and min(speed.values()) > 0
    ratio = figures["ratios"]["throughput of 2 members / of 1"]
    assert ratio == pytest.approx(speed["2 members"] / speed["1 members"], rel=1e-2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("lpg --hidden 0", "hidden must be at least 1, got 0"),
        ("es --devices -1", "devices must be at least 0, got -1"),
        ("sweep --members 0", "members[0] must be at least 1, got 0"),
        ("lpg --levels mdp/rondom", "unknown levels 'mdp/rondom'; did you mean mdp/random"),
        ("metagradients --agent-layers 3", "agent_layers has no effect without agent_width: leave it at 2, got 3"),
        ("agents --num-seeds 0", "num_seeds[0] must be at least 1, got 0"),
        ("memory --networks gru --window 3", "window has no effect without the transformer: leave it at 100, got 3"),
        ("horses", "horses"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, says, capsys):
    assert says in one_line(capsys, lambda: benchmark.main(arguments.split()))
