"""Figures of a search, as PNG files: parallel coordinates, learning curves by rung, slices."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

mpl.use("Agg")
DPI = 110
COLORS = {"finished": "#16a06a", "stopped": "#4f7cdb", "unfinished": "#d08a0b", "failed": "#e5584f"}
BEST = "#111827"
NOT_SET = -0.12
"""Height on an axis of a setting that does not count in a trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A trial as figures show it.

    Args:
        number: of the trial.
        status: `finished`, `stopped`, `unfinished` or `failed`.
        settings: value by short name; None where a setting does not count.
        shares, values: its evaluations: share of its length, metric.
        result: what it is compared by, if it has anything.
    """

    number: int
    status: str
    settings: Mapping[str, Any]
    shares: Sequence[float]
    values: Sequence[float]
    result: float | None


def curves_figure(trials: Sequence[Drawn], best: int | None, rungs: Sequence[float], metric: str, path: Path) -> None:
    """The metric of each trial over its length, with the rungs at which trials are judged."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for rung in rungs:
        axes.axvline(rung, color="#cbd2dd", linestyle="--", linewidth=1)
    for trial in trials:
        style: dict[str, Any] = {
            "color": COLORS.get(trial.status, COLORS["unfinished"]),
            "linewidth": 1.2,
            "alpha": 0.8,
        }
        if trial.number == best:
            style = {"color": BEST, "linewidth": 2.4}
        axes.plot(trial.shares, trial.values, marker="o", markersize=3, **style)
        if trial.shares:
            axes.annotate(str(trial.number), (trial.shares[-1], trial.values[-1]), fontsize=7, xytext=(3, 0),
                          textcoords="offset points")  # fmt: skip
    for name, color in {**COLORS, "best": BEST}.items():
        axes.plot([], [], color=color, label=name)
    axes.legend(fontsize=8, loc="lower right")
    axes.set_xlabel("share of a whole training (dashed: rungs)")
    axes.set_ylabel(metric)
    figure.savefig(path, dpi=DPI)


def parallel_figure(trials: Sequence[Drawn], logarithmic: Mapping[str, bool], metric: str, path: Path) -> None:
    """One axis a setting and one for the metric, one line a trial, its color the metric.

    Args:
        trials: those with a result are drawn.
        logarithmic: every setting, and whether its axis is logarithmic.
        metric: name of the last axis.
        path: PNG file to write.
    """
    drawn = [t for t in trials if t.result is not None]
    results = np.array([t.result for t in drawn], np.float64)
    names = [*logarithmic, metric]
    figure = Figure(figsize=(max(6, 1.6 * len(names)), 5), layout="constrained")
    axes = figure.subplots()
    heights = [_heights([t.settings.get(n) for t in drawn], log) for n, log in logarithmic.items()]
    columns = [*(h for h, _ in heights), _heights(list(results), False)[0]]
    low, high = (float(results.min()), float(results.max())) if len(results) else (0.0, 1.0)
    scale = ScalarMappable(Normalize(low, high if high > low else low + 1), "viridis")
    for i in range(len(drawn)):
        line = [column[i] for column in columns]
        axes.plot(range(len(names)), line, color=scale.to_rgba(results[i]), linewidth=1.6, alpha=0.85)
    ticks = [*(t for _, t in heights), [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")]]
    for x, own in enumerate(ticks):
        axes.axvline(x, color="#98a2b3", linewidth=1)
        for height, label in own:
            axes.text(x + 0.03, height, label, fontsize=7, va="center")
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(names) - 0.6)
    axes.set_ylim(NOT_SET - 0.06, 1.06)
    if drawn:
        figure.colorbar(scale, ax=axes, label=metric)
    figure.savefig(path, dpi=DPI)


def slices_figure(trials: Sequence[Drawn], logarithmic: Mapping[str, bool], metric: str, path: Path) -> None:
    """The metric over each setting by itself; arguments as in `parallel_figure`."""
    drawn = [t for t in trials if t.result is not None]
    columns = min(3, max(1, len(logarithmic)))
    rows = -(-len(logarithmic) // columns)
    figure = Figure(figsize=(4 * columns, 3.2 * max(rows, 1)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(max(rows, 1), columns, sharey=True)).reshape(-1)
    for panel, (name, log) in zip(panels, logarithmic.items(), strict=False):
        shown = [t for t in drawn if t.settings.get(name) is not None]
        values = [t.settings[name] for t in shown]
        colors = [COLORS.get(t.status, COLORS["unfinished"]) for t in shown]
        if _is_numeric(values):
            panel.scatter(values, [t.result for t in shown], c=colors, s=28)
            if log:
                panel.set_xscale("log")
        else:
            labels = list(dict.fromkeys(label(v) for v in values))
            panel.scatter([labels.index(label(v)) for v in values], [t.result for t in shown], c=colors, s=28)
            panel.set_xticks(range(len(labels)), labels, rotation=20, ha="right", fontsize=8)
        panel.set_xlabel(name)
        panel.grid(alpha=0.3)
    for panel in panels[len(logarithmic) :]:
        panel.set_visible(False)
    panels[0].set_ylabel(metric)
    figure.savefig(path, dpi=DPI)


def label(value: Any) -> str:
    """A setting's value as people read it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return "+".join(str(v) for v in value)
    return value if isinstance(value, str) else json.dumps(value)


def _heights(values: Sequence[Any], log: bool) -> tuple[NDArray[np.float64], list[tuple[float, str]]]:
    """Heights in [0, 1] on an axis, below it for what is not set, and the axis' labels."""
    there = [v for v in values if v is not None]
    heights, ticks = _placed(there, log)
    if len(there) == len(values):
        return heights, ticks
    found = np.full(len(values), NOT_SET)
    found[[i for i, v in enumerate(values) if v is not None]] = heights
    return found, [*ticks, (NOT_SET, "not set")]


def _placed(there: Sequence[Any], log: bool) -> tuple[NDArray[np.float64], list[tuple[float, str]]]:
    if not _is_numeric(there):
        labels = sorted({label(v) for v in there})
        places = {name: (i + 0.5) / len(labels) for i, name in enumerate(labels)}
        return np.array([places[label(v)] for v in there]), [(place, name) for name, place in places.items()]
    numbers = np.array(there, np.float64)
    low, high = numbers.min(), numbers.max()
    ticks = [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")]
    log = log and low > 0
    scaled, bottom, top = (np.log(numbers), np.log(low), np.log(high)) if log else (numbers, low, high)
    if not top > bottom:
        return np.full(len(numbers), 0.5), [(0.5, f"{low:.4g}")]
    return (scaled - bottom) / (top - bottom), ticks


def _is_numeric(values: Sequence[Any]) -> bool:
    return bool(values) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
