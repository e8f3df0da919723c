"""Figures for people, as PNG files. The home of matplotlib."""

import io
from collections.abc import Sequence
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
