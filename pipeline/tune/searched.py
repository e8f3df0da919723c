"""A search as Python and notebooks see it: its trials as a table, the best of them, its page."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from interlace.recipe.recipe import Recipe
from interlace.results.frames import frame_of
from interlace.results.notebook import framed
from interlace.results.trained import TrainedRun
from interlace.tune.folder import Trial
from interlace.tune.report import ranked
from interlace.tune.suggest import values_of
from interlace.tune.tuning import Tuned

if TYPE_CHECKING:
    import pandas as pd


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best trial: its recipe, ready to train; what it reached; its number; the run that it was."""

    recipe: Recipe
    value: float
    trial: int
    run: TrainedRun


@final
class Searched:
    """What a search gave.

    Args:
        tuned: from `tune.tuning.tune`.
    """

    def __init__(self, tuned: Tuned) -> None:
        self._tuned = tuned

    @property
    def folder(self) -> Path:
        """Of the search; `report/` in it holds tables, plots, the best recipe and the page."""
        return self._tuned.sweep

    @property
    def name(self) -> str:
        """Of the search."""
        return self.folder.name

    @property
    def verified(self) -> bool:
        """Whether the best trial's checkpoint, evaluated again, gave what the trial had reported."""
        return self._tuned.verified

    @property
    def retrained(self) -> TrainedRun | None:
        """The best recipe trained at full length, if that was asked for."""
        done = self._tuned.retrained
        return TrainedRun(done) if done is not None else None

    @property
    def best(self) -> Best | None:
        """The best trial; None where none has a result yet."""
        found = self._tuned.findings
        value = found.best.value(found.plan.goal) if found.best is not None else None
        if found.best is None or found.recipe is None or value is None:
            return None
        run = TrainedRun(self.folder / "trials" / f"{found.best.number:03d}")
        return Best(recipe=found.recipe, value=value, trial=found.best.number, run=run)

    def trials(self) -> "pd.DataFrame":
        """One row a trial, the best first: index `trial`, `status`, `step`, the metric, its time, each setting."""
        found = self._tuned.findings
        settings = list(found.plan.search.space)
        names = ["status", "reason", "step", found.metric, "cpu_s", "wall_s", *settings]
        rows = [self._row(trial) for trial in ranked(found, found.plan)]
        return frame_of(rows, ["trial", *names]).set_index("trial")

    def _row(self, trial: Trial) -> dict[str, object]:
        found = self._tuned.findings
        return {
            "trial": trial.number,
            "status": trial.status,
            "reason": trial.reason,
            "step": trial.scores[-1].step if trial.scores else 0,
            found.metric: trial.value(found.plan.goal),
            "cpu_s": trial.cpu_s,
            "wall_s": trial.wall_s,
            **values_of(found.plan.search, found.plan.recipe, trial.overrides),
        }

    @property
    def page(self) -> str:
        """The report as one HTML document that needs nothing else."""
        return (self.folder / "report" / "sweep.html").read_text(encoding="utf-8")

    def __repr__(self) -> str:
        found, best = self._tuned.findings, self.best
        told = f"best {found.metric} {best.value:.4f} of trial {best.trial}" if best else "no result yet"
        return f"Searched({self.name!r}, {len(found.trials)} trials, {told}, {self.folder})"

    def _repr_html_(self) -> str:
        return framed(self.page)
