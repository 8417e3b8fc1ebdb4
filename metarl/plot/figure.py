"""The common part of all figures: style, panels, legends, and writing to files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from metarl.run.files import replaced

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

BLUE, GREY = "#1f6fb4", "#9aa4ad"
COLOURS = (BLUE, "#d9822b", "#2f9e77", "#8a5aa8", "#c2455d", "#6b7680")  # of the lines in a panel, in this order
FORMATS = ("png", "pdf", "svg")
Item = TypeVar("Item")


def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure at 150 dots per inch, as PNG, PDF or SVG according to the suffix of `path`.

    Makes the folder if it does not exist, and replaces an existing file atomically.
    Raises ValueError for another suffix.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise ValueError(f"{path.name}: the suffix must be one of {', '.join(FORMATS)}")
    with replaced(path) as unfinished:
        figure.savefig(unfinished, format=kind, dpi=150)


def panels(
    count: int = 1,
    columns: int = 4,
    size: tuple[float, float] = (4.2, 2.9),
    beside: float = 0.0,
    axes: Sequence[Axes] | None = None,
) -> tuple[Figure, list[Axes]]:
    """A figure and its `count` panels: new ones, or `axes`, which keep their own style.

    New panels have `size` (width, height) in inches, with at most `columns` of them in a row. `beside` is the width in
    inches of the space to the right of the panels, for a legend. Raises ValueError if there are not `count` axes, or
    if `count` or `columns` is not positive.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from metarl.plot.displayed import DisplayedFigure

    if count < 1 or columns < 1:
        raise ValueError(f"need at least one panel and one column, got {count} panels and {columns} columns")
    if axes is not None:
        if len(axes) != count:
            raise ValueError(f"need {count} axes, got {len(axes)}")
        return figure_of(axes[0]), list(axes)
    columns = min(count, columns)
    rows = -(-count // columns)
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure = DisplayedFigure(figsize=(size[0] * columns + beside, size[1] * rows), layout=layout)
    new = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in new[count:]:
        axis.remove()
    for axis in new[:count]:
        axis.grid(color="#e3e6e8", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9, color=GREY)
    return figure, new[:count]


def one_panel(size: tuple[float, float], axis: Axes | None = None) -> tuple[Figure, Axes]:
    """A figure and its only panel: a new one of `size` in inches, or `axis`."""
    figure, (only,) = panels(1, 1, size, axes=None if axis is None else [axis])
    return figure, only


def figure_of(axis: Axes) -> Figure:
    """The whole figure of `axis`, also if `axis` is in a `SubFigure`."""
    return axis.figure.figure


def legend(axes: Sequence[Axes], beside: bool) -> None:
    """One legend for the lines of all `axes`: to the right of them if `beside`, else inside the last of them."""
    handles = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if beside:
        figure_of(axes[-1]).legend(handles.values(), handles, loc="outside right upper", frameon=False, fontsize=9)
    else:
        axes[-1].legend(handles.values(), handles, frameon=False, fontsize=9)


def require_items(what: str, items: Mapping[str, Any]) -> None:
    """Raises ValueError if there are no `items`, or if some of them are empty mappings, which the error names."""
    empty = [name for name, item in items.items() if isinstance(item, Mapping) and not item]
    if not items or empty:
        raise ValueError(f"no {what} to draw: {empty or 'no names'}")


def coloured(items: Iterable[Item]) -> Iterator[tuple[Item, str]]:
    """Each item with its colour."""
    return zip(items, cycle(COLOURS), strict=False)


def scale(colours: Iterable[str]) -> Colormap:
    """A colour map that interpolates linearly between `colours`."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("", list(colours), 257)
