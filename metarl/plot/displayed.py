"""The figure that a notebook displays. This module imports matplotlib, so import it only where a figure is drawn."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class DisplayedFigure(Figure):
    """A figure without pyplot. Jupyter displays it by `_repr_png_`, without `%matplotlib inline`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        picture = BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()
