"""Figures for people, as PNG files. The home of matplotlib."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.image
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

mpl.use("Agg")
NAMED_UP_TO = 40
"""Classes above which axes carry numbers instead of names."""


def confusion_figure(matrix: NDArray[Any], labels: Sequence[str], title: str, path: Path) -> None:
    """Draw a confusion matrix: rows are true classes, columns predicted ones, shade is the share of the row.

    Args:
        matrix: `[C, C]` counts.
        labels: C names.
        title: above the figure.
        path: PNG file to write.
    """
    count = len(labels)
    side = min(4 + 0.35 * count, 20)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    totals = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(totals, 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if count <= NAMED_UP_TO:
        axes.set_xticks(range(count), labels, rotation=45, ha="right")
        axes.set_yticks(range(count), [f"{name} ({int(n)})" for name, n in zip(labels, totals[:, 0], strict=True)])
        for row, column in zip(*np.nonzero(matrix), strict=True):
            shade = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(int(matrix[row, column])), ha="center", va="center", color=shade, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (samples)")
    axes.set_title(title)
    figure.savefig(path, dpi=110)


def bars_figure(bars: Mapping[str, tuple[float, float]], title: str, label: str, path: Path) -> None:
    """Draw a horizontal bar for each name, from top to bottom.

    Args:
        bars: length and spread (drawn as a line of so much on both sides) by name.
        title: above the figure.
        label: of the lengths.
        path: PNG file to write.
    """
    figure = Figure(figsize=(7, 1.5 + 0.4 * len(bars)), layout="constrained")
    axes = figure.subplots()
    lengths, spreads = zip(*bars.values(), strict=True)
    places = range(len(bars))
    axes.barh(places, lengths, xerr=spreads, color="#4878a8", ecolor="#333333", capsize=3)
    axes.set_yticks(places, list(bars))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    axes.set_title(title)
    figure.savefig(path, dpi=110)


def picture_png(pixels: NDArray[np.uint8]) -> bytes:
    """The pixels, uint8 `[height, width, 3]`, as the bytes of a PNG file."""
    out = io.BytesIO()
    mpl.image.imsave(out, np.ascontiguousarray(pixels), format="png")
    return out.getvalue()


def heat_png(values: NDArray[Any], low: float, high: float) -> bytes:
    """Numbers `[height, width]`, row 0 on top, as the bytes of a PNG file: black at `low`, bright at `high`."""
    out = io.BytesIO()
    mpl.image.imsave(out, values, vmin=low, vmax=high, cmap="magma", format="png")
    return out.getvalue()
