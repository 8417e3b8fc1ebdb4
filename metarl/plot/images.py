"""Pictures of levels and agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl import checks
from metarl.checks import POSITIVE
from metarl.plot.figure import panels
from metarl.run.files import replaced

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def pictures(images: Mapping[str, Any], columns: int = 5, axes: Sequence[Axes] | None = None) -> Figure:
    """Pictures [height, width, 3] (uint8) with their names above them, at most `columns` in a row.

    Raises ValueError if there is nothing to draw, or if `columns` is not positive.
    """
    if not images or columns < 1:
        raise ValueError(f"need pictures and at least one column, got {len(images)} pictures and {columns} columns")
    figure, axes = panels(len(images), columns, (2.4, 2.9), axes=axes)
    for axis, (name, image) in zip(axes, images.items(), strict=True):
        axis.axis("off")
        axis.imshow(np.asarray(image), interpolation="nearest")
        axis.set_title(name, loc="left", fontsize=10)
    return figure


def save_animation(frames: Sequence[Any], path: str | Path, frames_per_second: float = 10.0) -> None:
    """Writes `frames` [height, width, 3] (uint8), all of one shape, as a GIF that repeats for ever.

    Replaces an existing file atomically, as `save` does. Raises ValueError if there are no frames or their shapes
    differ.
    """
    from PIL import Image  # a dependency of matplotlib

    checks.within(float, POSITIVE, frames_per_second=frames_per_second)
    arrays = [np.asarray(frame, np.uint8) for frame in frames]
    if not arrays or len(shapes := {x.shape for x in arrays}) > 1:
        raise ValueError(f"need frames of one shape, got {shapes if arrays else 'none'}")
    first, *rest = [Image.fromarray(x).quantize(64) for x in arrays]
    duration = round(1000 / frames_per_second)
    with replaced(Path(path)) as unfinished:
        first.save(unfinished, format="GIF", save_all=True, append_images=rest, duration=duration, loop=0)
