"""Pictures of the levels that a curriculum replays, and of an agent on one of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import envs
from envs import gridworld
from metarl import curricula, plot
from metarl.curricula import scores
from metarl.evaluation import gallery
from metarl.meta import MetaState
from metarl.rules import build

PNG = b"\x89PNG\r\n\x1a\n"
LEVELS = envs.make("gridworld/small", 3)
LEARNER = build(
    {
        "objective": {"name": "a2c"},
        "optimizer": {"name": "adam", "learning_rate": 0.1},
        "network": {"name": "tabular"},
        "experience": {"num_envs": 2, "rollout_length": 4},
    }
)


@pytest.fixture(scope="module")
def buffered():
    """A run's state whose buffer holds 32 levels, none of which has a score yet."""
    replay = curricula.replay(LEVELS, 40, score=scores.uniformly_random())
    lifetimes = 32
    draw = lambda key: replay.sample(key, replay.init(key, lifetimes), jnp.ones(lifetimes, bool))[1]  # noqa: E731
    curriculum = jax.device_get(jax.jit(draw)(jax.random.key(0)))
    params = {"objective": (), "optimizer": ()}
    return MetaState(0, params, opt_state=(), estimator=(), curriculum=curriculum, lifetimes=())


def with_scores(state, score):
    buffer = state.curriculum.buffer
    score = np.where(buffer.filled, score, np.nan).astype(np.float32)
    buffer = buffer._replace(score=score, active=np.zeros(40, bool))
    return state._replace(curriculum=state.curriculum._replace(buffer=buffer))


def test_nothing_is_written_where_nothing_is_replayed_or_scored_or_drawn(buffered, tmp_path, capsys):
    gallery.write(LEVELS, LEARNER, buffered, tmp_path)
    assert "no level has a score yet" in capsys.readouterr().err
    scored = with_scores(buffered, np.arange(40))
    gallery.write(LEVELS._replace(render=None), LEARNER, scored, tmp_path)
    gallery.write(LEVELS, LEARNER, buffered._replace(curriculum=()), tmp_path)
    assert not any(tmp_path.iterdir()) and not capsys.readouterr().err
    with pytest.raises(ValueError, match="levels with pictures .* and with scores"):
        gallery.draw(LEVELS, buffered.curriculum.buffer)
    with pytest.raises(ValueError, match="frames need levels with pictures"):
        gallery.frames(LEVELS._replace(render=None), LEARNER, {}, LEVELS.sample(jax.random.key(0)))
    with pytest.raises(ValueError, match="can be watched on levels with pictures"):
        gallery.watch(LEVELS._replace(render=None), None, {}, LEVELS.sample(jax.random.key(0)).problem)


def test_the_gallery_is_of_the_highest_and_the_lowest_scores(buffered, monkeypatch, tmp_path):
    state, drawn = with_scores(buffered, np.random.default_rng(0).permutation(40)), {}
    buffer = state.curriculum.buffer
    pictures = partial(plot.pictures)
    monkeypatch.setattr(gallery, "FRAMES", 8)
    monkeypatch.setattr(plot, "pictures", lambda images, columns: drawn.update(images) or pictures(images, columns))
    gallery.write(LEVELS, LEARNER, state, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"gallery.png", "agent.gif"}
    assert (tmp_path / "gallery.png").read_bytes().startswith(PNG)
    ranked = np.argsort(-buffer.score)[:32]
    places = [0, 1, 2, 3, 4, 27, 28, 29, 30, 31]
    assert list(drawn) == [f"{place + 1} of 32: {buffer.score[ranked[place]]:.3g}\n3 updates" for place in places]
    for place, picture in zip(places, drawn.values(), strict=True):
        problem = jax.tree.map(lambda x: x[ranked[place]], buffer.levels.problem)  # noqa: B023
        np.testing.assert_array_equal(picture, gridworld.render(LEVELS.env, problem))
    with Image.open(tmp_path / "agent.gif") as film:
        np.testing.assert_allclose(np.asarray(film.convert("RGB"), int), next(iter(drawn.values())), atol=3)


def test_a_gallery_of_few_levels_shows_none_twice(buffered):
    score = np.full(40, np.nan)
    score[[3, 5, 7]] = 3.0, 1.0, 2.0
    figure = gallery.draw(LEVELS, with_scores(buffered, score).curriculum.buffer)
    titles = [axis.get_title("left").partition(":")[0] for axis in figure.axes if axis.get_title("left")]
    assert len(set(titles)) == len(titles)
