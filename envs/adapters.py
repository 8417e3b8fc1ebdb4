"""What adapters of other packages share: their import, the start of new episodes, dtypes that stay, and pictures."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl import checks
from metarl.tree import where_needed
from metarl.types import Array, Key, Level, Levels, PyTree

HORIZON = 1000  # agent updates


def needed(module: str) -> Any:
    """A module of a package that the extra `envs` installs. Raises ImportError naming the extra to install."""
    # mujoco prints that it has no GPU kernels; constants of modules must not be tracers
    with contextlib.redirect_stdout(io.StringIO()), jax.ensure_compile_time_eval():
        return checks.needed(module, "envs")


class Timed(NamedTuple):
    """The state of an episode, where the package does not count its steps or takes its time limit for an end."""

    inner: Any
    time: Array  # () int32


class Adapter:
    """An environment of a package with another interface than gymnax's. Subclasses are frozen dataclasses.

    They say how an episode starts (`start`), what an action does (`follow`), and what the spaces are. Observations and
    states then always have the dtypes of `start`, rewards are float32, and the ends of episodes are bool.
    """

    @property
    def default_params(self) -> PyTree:
        """The parameters of one level: () where there is only one."""
        return ()

    def start(self, key: Key, params: PyTree) -> tuple[Array, PyTree]:
        """Observation (as `observation_space` says) and state at the start of an episode. Dtypes may be weak."""
        raise NotImplementedError

    def follow(self, key: Key, state: PyTree, action: Array, params: PyTree) -> tuple[Any, ...]:
        """What follows an action, without a restart: (obs, state, reward (), terminated () bool, truncated () bool).

        The first two are as those of `start`. At a time limit an episode is `truncated`, never `terminated`; no
        episode is both.
        """
        raise NotImplementedError

    def draw(self, state: PyTree, params: PyTree) -> Any:
        """A picture [height, width, 3] uint8 of a state (of numpy arrays) of the level with these parameters."""
        raise NotImplementedError

    def reset(self, key: Key, params: PyTree) -> tuple[Array, PyTree]:
        """Observation and state at the start of an episode."""
        fresh = self.start(key, params)
        return with_types(fresh, fresh)

    def step(
        self, key: Key, state: PyTree, action: Array, params: PyTree
    ) -> tuple[Array, PyTree, Array, Array, Array, dict[str, Any]]:
        """One step with auto-reset; `info["final_observation"]` is the true successor of every step."""
        key, restart_key = jax.random.split(key)
        *after, reward, terminated, truncated = self.follow(key, state, action, params)
        final, following = with_types(tuple(after), jax.eval_shape(self.reset, restart_key, params))
        terminated, truncated = jnp.bool_(terminated), jnp.bool_(truncated)
        obs, state = where_needed(self.reset)(terminated | truncated, (restart_key, params), (final, following))
        return obs, state, jnp.float32(reward), terminated, truncated, {"final_observation": final}


def with_types(tree: PyTree, like: PyTree) -> PyTree:
    """`tree` with the dtypes of `like`, none of them weak: weak types would compile a program a second time."""
    return jax.tree.map(lambda leaf, other: jnp.asarray(leaf, jnp.result_type(other)), tree, like)


def distribution(env: Any, sample: Callable[[Key], PyTree] | None = None, drawn: bool = False) -> Levels:
    """Levels of `env`, with problems by `sample` (None: its default one), and pictures by `env.draw` if `drawn`.

    Raises ImportError without the package of `env`.
    """
    for space in (env.action_space, env.observation_space):  # a missing package is an error here, not while tracing
        space()
    problem = sample or (lambda key: env.default_params)
    render = functools.partial(picture, env) if drawn else None
    return Levels(lambda key: Level(problem(key), jnp.int32(HORIZON)), env, render=render)


def picture(env: Any, params: PyTree, state: PyTree | None = None) -> Any:
    """`env.draw` of a state, or of the start of an episode: the `render` of levels."""
    if state is None:
        state = jax.device_get(jax.jit(env.reset)(jax.random.key(0), params)[1])
    return env.draw(state, params)


def pyplot_pixels(draw: Callable[[], Any]) -> Any:
    """What `draw` puts on a figure of pyplot, [400, 400, 3] uint8."""
    from matplotlib import pyplot

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there may be no screen to show a figure on
        draw()
    figure = pyplot.gcf()
    figure.set(size_inches=(4.0, 4.0), dpi=100)
    figure.canvas.draw()
    pixels = np.array(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    pyplot.close(figure)
    return pixels


def board(cells: Array, pixels: int = 16) -> Any:
    """A picture [height * pixels, width * pixels, 3] uint8 of a board [height, width] or [height, width, channels].

    Each channel has a colour. A cell has that of its first channel that is not 0, and is dark if there is none.
    """
    from matplotlib import colormaps

    full = np.atleast_3d(np.asarray(cells)) != 0
    colours = np.array([(62, 68, 76), *(255 * np.array(colormaps["tab10"].colors))], np.uint8)  # type: ignore[attr-defined]
    first = np.where(full.any(-1), 1 + full.argmax(-1) % 10, 0)
    return colours[first].repeat(pixels, 0).repeat(pixels, 1)
