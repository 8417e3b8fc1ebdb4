"""Studies of second tries and of judging: what they measure, and that each can be run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finetuning import bag

from experiments import turn_studies as studies


def by_its_memory(task, first, later):
    """A policy that says one thing in a first try and another one afterwards."""
    policy = studies.small_policy(task, 4)
    said = jnp.stack([first, later])

    def logits(seen):
        frame, place = jnp.divmod(seen - task.prompt_length, task.try_length + 1)
        token = said[jnp.minimum(frame, 1), jnp.minimum(place, task.try_length - 1)]
        return 30.0 * jax.nn.one_hot(token, task.num_tokens)

    return policy._replace(
        prefill=lambda params, prompt, room: (logits(len(prompt)), jnp.int32(len(prompt))),
        decode=lambda params, seen, token: (logits(seen + 1), seen + 1),
    )


class Same(studies.Turns):
    """Always the same problem."""

    def sample(self, key):
        return self.task.sample(jax.random.key(0))


def test_what_later_tries_put_right():
    task = Same(studies.HintedSorting(2, 4, room=4), 3)
    problem = task.sample(jax.random.key(0))
    right = task.task.demonstrate(jax.random.key(0), problem)
    wrong = jnp.full_like(right, task.end)

    def found(first, later):
        policy = by_its_memory(task, first, later)
        look = jax.jit(lambda key: studies.solved_in(policy, task, count=4)((), key))
        return {name: float(x) for name, x in look(jax.random.key(1)).items()}

    assert found(wrong, right) == {"in one try": 0.0, "in all": 1.0, "put right": 1.0}
    assert found(right, wrong) == {"in one try": 1.0, "in all": 1.0, "put right": 0.0}
    assert found(wrong, wrong) == {"in one try": 0.0, "in all": 0.0, "put right": 0.0}


def numbers(policy, methods, starts, keys, steps, look, looks=10, rate=2e-3):
    """Instead of `compare`: what a method would find, with numbers that differ, after it has drawn a batch."""
    found = {}
    for i, (name, (make, value)) in enumerate(methods.items()):

        def shapes(start, key, make=make, value=value):
            source = make(start, jax.tree.map(jnp.float32, value)).answers
            return source.sample(policy, start, (), None, studies.sources.Keys(key, key, key)), look(start, key)

        batch, looked = jax.eval_shape(jax.vmap(shapes), starts, keys)
        source = make(starts, value).answers
        assert batch.answers.shape[1] == source.num_problems * source.group_size
        found[name] = {x: i + np.arange(len(keys))[:, None] * np.ones(looks) for x in looked}
    return found


@pytest.mark.parametrize("name", studies.STUDIES)
def test_every_study_can_be_run(name, monkeypatch):
    monkeypatch.setattr(studies, "compare", numbers)
    monkeypatch.setattr(studies, "imitated", lambda policy, task, keys, *_: jax.vmap(policy.init)(keys))
    monkeypatch.setattr(studies, "small_policy", lambda task, width: bag(task.num_tokens, 4, task.num_tokens))
    rows, claims = studies.STUDIES[name](jax.random.split(jax.random.key(0), 2))
    assert len({tuple(row) for row in rows.values()}) == 1 and len(rows) >= 3 and claims
    assert all(np.shape(x) == (2,) for row in rows.values() for x in row.values())
    assert all(np.shape(x) == (2,) for x, _ in claims.values())


@pytest.mark.parametrize(
    ("name", "most", "others"),
    [("refinements", 640, {"GRPO, 8 answers": 320}), ("recursion", 1440, {"best of 12 first tries": 480})],
)
def test_methods_have_as_many_slots_for_tokens(name, most, others, monkeypatch):
    drawn = {}

    def record(policy, methods, starts, *_, **__):
        for name, (make, value) in methods.items():
            drawn[name] = make(starts, jnp.float32(value or 0.0)).answers.tokens_drawn
        raise InterruptedError

    monkeypatch.setattr(studies, "compare", record)
    monkeypatch.setattr(studies, "imitated", lambda *_: None)
    with pytest.raises(InterruptedError):
        studies.STUDIES[name](jax.random.split(jax.random.key(0), 2))
    assert drawn == {**dict.fromkeys(drawn, most), **others} and len(drawn) == 5
