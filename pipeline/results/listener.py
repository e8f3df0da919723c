"""Who is told of what a command does while it does it: a console, a notebook, or nobody."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, final

from interlace.cluster.preflight import Allotment
from interlace.train.run import Run


class Listener(Protocol):
    """What a command tells. No method may raise or wait for long."""

    def say(self, text: str) -> None:
        """A line for people."""

    def show(self, result: Any) -> None:
        """A result that is more than a line: an `Evaluation`, the `Findings` of a search, an `Inspection`."""

    def opened(self, run: Run) -> None:
        """A run is about to train."""

    def data_job(self, mapper: Callable[..., Iterable[Any]]) -> Callable[..., Iterator[Any]]:
        """The mapper of a data job, watched for silence."""

    def training(self, run_folder: Path, num_steps: int, allotment: Allotment) -> AbstractContextManager[None]:
        """A run trains during the body."""

    def searching(self) -> AbstractContextManager[None]:
        """Trials run during the body; each sign of life is told by `heard`."""

    def heard(self) -> None:
        """A sign of life of a trial."""

    def predicting(self, part_rows: Sequence[int]) -> AbstractContextManager[Callable[[int, int], None]]:
        """Parts of so many rows are predicted during the body; what it gives is told of parts and rows done."""

    def preparing(self, stage: str, done: int, total: int) -> None:
        """So many units of a stage of `prepare` are done, those of an earlier try too."""


@final
class Quiet:
    """A listener that keeps the lines and shows nothing."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        """Keep a line."""
        self.lines.append(text)

    def show(self, result: Any) -> None:
        """Nothing."""

    def opened(self, run: Run) -> None:
        """Nothing."""

    def data_job(self, mapper: Callable[..., Iterable[Any]]) -> Callable[..., Iterator[Any]]:
        """The mapper as it is."""

        def run(*arguments: Any, **settings: Any) -> Iterator[Any]:
            yield from mapper(*arguments, **settings)

        return run

    @contextmanager
    def training(self, run_folder: Path, num_steps: int, allotment: Allotment) -> Iterator[None]:
        """Nothing."""
        yield

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Nothing."""
        yield

    def heard(self) -> None:
        """Nothing."""

    @contextmanager
    def predicting(self, part_rows: Sequence[int]) -> Iterator[Callable[[int, int], None]]:
        """Nothing."""
        yield lambda parts, rows: None

    def preparing(self, stage: str, done: int, total: int) -> None:
        """Nothing."""
