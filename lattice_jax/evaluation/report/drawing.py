"""Figures that a page and a file share: drawn once with matplotlib, as SVG in the page's own colours or as PNG.

Contract: a `Panel` is a figure with what a reader must know of it. `svg` gives text that can stand in an HTML page beside any
other: colours are variables of the page's style sheet, so that light and dark follow the reader; text is text; every id begins
with the panel's name. All panels are `WIDTH` inches wide, so that letters are of one size wherever they stand.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lattice_jax.evaluation.plots import (
    BAR,
    BLUE,
    CONTROL_BAR,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    QUIET,
    dress,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.6
HEIGHT = 2.9
RED = "#d55e00"
CURVES = (BLUE, ORANGE, GREEN, PURPLE, RED, INK, "#56b4e9", "#8c6d1f")
VARIABLES = {
    INK: "ink",
    QUIET: "quiet",
    FAINT: "line",
    BAR: "bar",
    CONTROL_BAR: "faint",
    BLUE: "blue",
    ORANGE: "orange",
    GREEN: "green",
    PURPLE: "purple",
    RED: "red",
}
"""Colours that the page's style sheet sets anew for dark screens."""
SEQUENTIAL = "viridis"


@dataclass(frozen=True)
class Panel:
    """One figure, and what a reader must know to read it."""

    name: str
    title: str
    text: str
    """What it shows, and what a baseline or null model would show."""
    draw: Callable[[], "Figure"]

    @cached_property
    def figure(self) -> "Figure":
        """Drawn and laid out once, wherever it is shown: both take longer than writing it. Through its axes the page shines."""
        figure = self.draw()
        for axes in figure.axes:
            axes.set_facecolor("none")
        if (layout := figure.get_layout_engine()) is not None:
            layout.execute(figure)
            figure.set_layout_engine("none")
        return figure


def svg(panel: Panel) -> str:
    """The figure as an `<svg>` element for this page."""
    import matplotlib

    written = io.StringIO()
    # Text stays text, and ids are the same for the same figure.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": panel.name}):
        panel.figure.savefig(written, format="svg", facecolor="none", metadata={"Date": None})
    text = written.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # Equal images get equal ids: only those that something points at are kept.
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{panel.name}-", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0]
    head = f'<svg viewBox="0 0 {width} {height}" role="img" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return head + text[text.index(">") + 1 :]


def png(panel: Panel, path: Path) -> None:
    """The figure as a file, on white."""
    panel.figure.savefig(path, format="png")


def pixels(panel: Panel) -> np.ndarray:
    """The figure as uint8 [height, width, 3], on white."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(panel.figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def new_axes(title: str, x: str, y: str, *, height: float = HEIGHT) -> tuple["Figure", "Axes"]:
    """A figure of one pair of axes with both named."""
    figure = new_figure(width=WIDTH, height=height)
    axes = figure.subplots()
    dress(axes, title)
    name_axes(axes, x, y)
    return figure, axes


def name_axes(axes: "Axes", x: str, y: str) -> None:
    axes.set_xlabel(x, color=QUIET, fontsize=8.5)
    axes.set_ylabel(y, color=QUIET, fontsize=8.5)


def grid_lines(axes: "Axes") -> None:
    axes.grid(axis="y", color=FAINT, linewidth=0.6)


def logarithmic(axes: "Axes") -> None:
    """A logarithmic vertical axis with plain numbers."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.minorticks_off()


def heatmap(
    axes: "Axes",
    values: np.ndarray,
    *,
    label: str,
    extent: Sequence[float] | None = None,
    low: float | None = None,
    high: float | None = None,
) -> None:
    """`values` [row, column], row 0 at the bottom, with a colour bar that says what the colours are."""
    image = axes.imshow(
        values,
        origin="lower",
        aspect="auto",
        interpolation="none",
        cmap=SEQUENTIAL,
        vmin=low,
        vmax=high,
        extent=tuple(extent) if extent is not None else None,  # pyright: ignore[reportArgumentType]
    )
    name_colours(axes.figure.colorbar(image, ax=axes, pad=0.02, aspect=28), label)


def name_colours(bar, label: str) -> None:
    """The look of all colour bars."""
    bar.set_label(label, color=QUIET, fontsize=8.5)
    bar.ax.tick_params(colors=QUIET, labelsize=8, length=0)
    bar.outline.set_visible(False)
