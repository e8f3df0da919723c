"""The console as the listener of a command: lines, bars, tables, and a word where nothing happens for long."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, final

from interlace.cluster.preflight import Allotment
from interlace.jobs.console import say
from interlace.jobs.evaluation_table import print_evaluation
from interlace.jobs.predicting import PredictingBar
from interlace.jobs.preparing import PreparingLines
from interlace.jobs.progress import since_begin, watched
from interlace.jobs.silence import Silence, speaking, spoken
from interlace.results.evaluation import Evaluation
from interlace.train.run import Run

WAITING = "Evaluations may be far apart; or other jobs hold what trials reserve, or nodes are gone"
"""Why trials may give no sign of life."""


@final
class Shown:
    """See `results.listener.Listener`."""

    def __init__(self) -> None:
        self._trials = Silence()
        self._preparing = PreparingLines()

    def say(self, text: str) -> None:
        """Print a line."""
        say(text)

    def show(self, result: Any) -> None:
        """Print the tables of a result."""
        if isinstance(result, Evaluation):
            print_evaluation(result)
        else:
            from interlace.jobs.findings_table import print_findings  # imports Ray Tune's side, which few verbs need

            print_findings(result)

    def opened(self, run: Run) -> None:
        """Say where a run is, and what its start took."""
        say(f"run {run.name}{' (goes on)' if run.resumed else ''} in {run.folder}, after {since_begin():.1f} s")

    def data_job(self, mapper: Callable[..., Iterable[Any]]) -> Callable[..., Iterator[Any]]:
        """The mapper, which says so where its data tasks deliver nothing for long."""
        return spoken(mapper)

    def training(self, run_folder: Path, num_steps: int, allotment: Allotment) -> AbstractContextManager[None]:
        """Show the progress of the run."""
        return watched(run_folder, num_steps, allotment)

    def searching(self) -> AbstractContextManager[None]:
        """Say so where no trial gives a sign of life for long."""
        return speaking(self._trials, "no trial has begun, been evaluated or ended", WAITING)

    def heard(self) -> None:
        """A trial gave one."""
        self._trials.heard()

    @contextmanager
    def predicting(self, part_rows: Sequence[int]) -> Iterator[Callable[[int, int], None]]:
        """A bar, or lines."""
        with PredictingBar(part_rows) as shown:
            yield shown.update

    @property
    def stages(self) -> set[str]:
        """Stages of `prepare` that did something."""
        return self._preparing.stages

    def preparing(self, stage: str, done: int, total: int) -> None:
        """A line now and then."""
        self._preparing(stage, done, total)
