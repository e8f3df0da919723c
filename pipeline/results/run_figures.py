"""Figures of a run for a person: token lengths of its data, what each field is worth, where its time went."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from interlace.results.evaluation import Evaluation
from interlace.results.figures import bars_figure, lengths_figure
from interlace.results.predictor import Predictor
from interlace.store.journal import Point, journal_path, read_on
from interlace.train.run import Prepared
from interlace.train.worker import CHECKPOINT_S, EVALUATE_S

DRAWN_ROWS = 1_000_000
"""Samples whose lengths are drawn at most."""


class Stages:
    """Seconds by stage of this launch: `timed` as they pass, training split up by what its journal says."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the body to a stage."""
        began = perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - began

    def split_training(self, points: list[Point], log_every: int) -> None:
        """Put the parts of stage `train` in its place: steps are sampled where not every one is journaled."""
        parts = {
            "wait for data": log_every * sum(p.metrics.get("data/wait_s", 0.0) for p in points),
            "evaluations": sum(p.metrics.get(EVALUATE_S, 0.0) for p in points),
            "checkpoints": sum(p.metrics.get(CHECKPOINT_S, 0.0) for p in points),
        }
        steps = log_every * sum(p.metrics.get("step_s", 0.0) for p in points)
        parts["compute steps"] = max(steps - parts["wait for data"], 0.0)
        whole = self.seconds.pop("train", 0.0)
        parts["start and end workers"] = max(whole - sum(parts.values()), 0.0)
        self.seconds |= parts

    def metrics(self) -> dict[str, float]:
        """`stage/<name>_s` for the journal."""
        return {f"stage/{name.replace(' ', '_')}_s": seconds for name, seconds in self.seconds.items()}

    def draw(self, path: Path) -> None:
        """The seconds as bars."""
        order = (
            "index and plan", "start and end workers", "wait for data", "compute steps", "evaluations", "checkpoints",
            "report",
        )  # fmt: skip
        bars = {f"{n}\n{self.seconds[n]:.1f} s": (self.seconds[n], 0.0) for n in order if n in self.seconds}
        bars_figure(bars, f"time per stage, {sum(self.seconds.values()):.0f} s in all", "seconds", path)


def points_since(run_folder: Path, offset: int) -> list[Point]:
    """Points of a run's journal after so many bytes."""
    return [point for points, _ in read_on(journal_path(run_folder), offset) for point in points]


def draw_lengths(prepared: Prepared, path: Path) -> None:
    """Histograms of tokens a sample of the training split, of each field where it is there, and of all together.

    Of more than `DRAWN_ROWS` samples those of some row groups are drawn, spread evenly over all.
    """
    manifest = prepared.index.manifests["train"]
    count = len(manifest.groups)
    share = min(1.0, DRAWN_ROWS / max(manifest.num_rows, 1))
    chosen = np.unique(np.linspace(0, count - 1, max(1, int(count * share))).astype(int))
    lengths: dict[str, list[NDArray[np.int32]]] = {name: [] for name in (*manifest.fields, "all fields")}
    for number in chosen.tolist():
        rows = manifest.rows(number)
        for name, tokens in rows.tokens.items():
            lengths[name].append(tokens[rows.usable & (tokens > 0)])
        lengths["all fields"].append(rows.num_tokens[rows.usable])
    drawn = {name: np.concatenate(found) for name, found in lengths.items()}
    lengths_figure(drawn, f"tokens a sample ({prepared.recipe.name}, train)", path)


def draw_contributions(evaluation: Evaluation, predictor: Predictor, folder: Path) -> None:
    """For each task its main metric by the fields given: all, each alone, each left out."""
    fields = list(predictor.recipe.fields)
    if len(fields) < 2:
        return
    by_fields: Mapping[frozenset[str], Mapping[str, float]] = {
        frozenset(result.fields): result.metrics for result in evaluation.results
    }
    for name, task in predictor.network.tasks.items():
        metric = f"{name}/{task.main_metric}"
        given = {"all fields": frozenset(fields)}
        given |= {f"only {field}": frozenset((field,)) for field in fields}
        given |= {f"without {field}": frozenset(fields) - {field} for field in fields if len(fields) > 2}
        values = {text: by_fields[key][metric] for text, key in given.items() if key in by_fields}
        bars = {f"{text}\n{value:.4g}": (value, 0.0) for text, value in values.items() if value == value}
        if bars:
            better = "higher" if task.higher_is_better else "lower"
            title = f"{metric} by the fields given ({evaluation.split})"
            bars_figure(bars, title, f"{task.main_metric}, {better} is better", folder / f"contribution-{name}.png")
