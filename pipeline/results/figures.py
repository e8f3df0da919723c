"""Figures for people, as PNG files. The home of matplotlib."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
import matplotlib.image
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from interlace.contract.charts import Chart, Confusion, Curves, Density, Table

mpl.use("Agg")
NAMED_UP_TO = 40
"""Classes above which axes carry numbers instead of names."""


def write_chart(chart: Chart, title: str, path: Path) -> None:
    """Write what a task shows as a PNG, a table as CSV.

    Args:
        chart: what is shown.
        title: above a figure.
        path: file to write, without its ending.
    """
    if isinstance(chart, Table):
        with Path(f"{path}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([chart.columns, *chart.rows])
        return
    if isinstance(chart, Confusion):
        figure = _confusion(chart)
    else:
        figure = Figure(figsize=(6, 5), layout="constrained")
        _density(chart, figure) if isinstance(chart, Density) else _curves(chart, figure)
    figure.axes[0].set_title(title)
    figure.savefig(f"{path}.png", dpi=110)


def _confusion(chart: Confusion) -> Figure:
    """Rows are true classes, columns predicted ones, shade is the share of the row."""
    matrix, labels = chart.counts, chart.labels
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
    return figure


def _density(chart: Density, figure: Figure) -> None:
    """True values to the right, predicted ones upwards, darker where there are more; the line is where both agree."""
    axes = figure.subplots()
    low, high = chart.low, chart.high
    counts = np.ma.masked_equal(chart.counts.T, 0)
    drawn = axes.imshow(counts, origin="lower", extent=(low, high, low, high), cmap="viridis_r", aspect="auto")
    axes.plot([low, high], [low, high], color="grey", linewidth=1)
    figure.colorbar(drawn, label="samples")
    axes.set_xlabel(f"true {chart.unit}")
    axes.set_ylabel(f"predicted {chart.unit}")


def _curves(chart: Curves, figure: Figure) -> None:
    axes = figure.subplots()
    for name, values in chart.lines.items():
        axes.plot(chart.xs, values, label=name, marker=".", linestyle="--" if name == "chance" else "-")
    axes.set_xscale("log")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.legend()


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
    axes.barh(places, lengths, xerr=spreads if any(spreads) else None, color="#4878a8", ecolor="#333333", capsize=3)
    axes.set_yticks(places, list(bars))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    axes.set_title(title)
    figure.savefig(path, dpi=110)


def lengths_figure(lengths: Mapping[str, NDArray[Any]], title: str, path: Path) -> None:
    """Draw a histogram of counts for each name, one below the other over a shared axis.

    Args:
        lengths: counts by name; those without any are left out.
        title: above the figure.
        path: PNG file to write.
    """
    shown = {name: values for name, values in lengths.items() if len(values)}
    if not shown:
        return
    figure = Figure(figsize=(7, 1 + 1.3 * len(shown)), layout="constrained")
    longest = max(int(values.max()) for values in shown.values())
    edges = np.unique(np.linspace(0, longest + 1, min(longest + 2, 61)).astype(int)) - 0.5
    for axes, (name, values) in zip(
        figure.subplots(len(shown), squeeze=False, sharex=True)[:, 0], shown.items(), strict=True
    ):
        axes.hist(values, bins=edges, color="#4878a8")
        axes.axvline(values.mean(), color="#c44e52", linewidth=1)
        told = f"{name}: mean {values.mean():.1f}, 95 % up to {np.percentile(values, 95):.0f}, most {values.max()}"
        axes.set_title(f"{told} ({len(values):,} samples)", fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
    figure.suptitle(title)
    figure.supxlabel("tokens", fontsize=9)
    figure.savefig(path, dpi=110)


Line: TypeAlias = tuple[NDArray[Any], NDArray[Any]]
"""Steps and values of one curve."""


def history_png(losses: Mapping[str, Line], metrics: Mapping[str, Line]) -> bytes:
    """Curves over the steps of a run as the bytes of a PNG file: losses on the left, metrics on the right.

    Args:
        losses: curves by name; one of many points is drawn thin, with its mean over a twentieth of them.
        metrics: the same; without any there is no right half.
    """
    groups = {"loss": losses, **({"validation": metrics} if metrics else {})}
    figure = Figure(figsize=(5 * len(groups), 3.2), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
        for name, (steps, values) in lines.items():
            _curve(axes, name, steps, values)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if lines:
            axes.legend(fontsize=8)
    out = io.BytesIO()
    figure.savefig(out, dpi=110, format="png")
    return out.getvalue()


def _curve(axes: Any, name: str, steps: NDArray[Any], values: NDArray[Any]) -> None:
    width = len(values) // 20
    if width < 3:
        axes.plot(steps, values, label=name, marker="o", markersize=3.5)
        return
    (drawn,) = axes.plot(steps, values, linewidth=0.7, alpha=0.35)
    means = np.convolve(values, np.full(width, 1 / width), "valid")
    axes.plot(steps[width - 1 :], means, label=name, color=drawn.get_color(), linewidth=1.8)


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
