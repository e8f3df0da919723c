"""The listener of a notebook or script: plain lines on standard output, progress now and then."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from interlace.cluster.preflight import Allotment
from interlace.store.journal import journal_path, read_on
from interlace.train.run import Run

EVERY_S = 5.0
"""Seconds between lines of progress."""


@final
class Lines:
    """See `results.listener.Listener`."""

    def __init__(self, write: Callable[[str], Any] | None = None) -> None:
        self._write = write
        self._told = 0.0
        self._stages: set[str] = set()

    def say(self, text: str) -> None:
        """Write a line."""
        (self._write or sys.stdout.write)(f"{text}\n")

    def show(self, result: Any) -> None:
        """Nothing: what a call gives back shows itself."""

    def opened(self, run: Run) -> None:
        """Say where a run is."""
        self.say(f"run {run.name}{' (goes on)' if run.resumed else ''} in {run.folder}")

    def data_job(self, mapper: Callable[..., Iterable[Any]]) -> Callable[..., Iterator[Any]]:
        """The mapper as it is."""

        def run(*arguments: Any, **settings: Any) -> Iterator[Any]:
            yield from mapper(*arguments, **settings)

        return run

    @contextmanager
    def training(self, run_folder: Path, num_steps: int, allotment: Allotment) -> Iterator[None]:
        """A line every few seconds, one at the end."""
        follow = _Follow(run_folder, num_steps, self.say)
        stop = threading.Event()
        thread = threading.Thread(target=follow.until, args=(stop,), name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Nothing: trials say what they do."""
        yield

    def heard(self) -> None:
        """Nothing."""

    @contextmanager
    def predicting(self, part_rows: Sequence[int]) -> Iterator[Callable[[int, int], None]]:
        """Lines."""
        yield lambda parts, rows: self._now_and_then(f"part {parts}/{len(part_rows)}  {rows:,} rows", parts, part_rows)

    def _now_and_then(self, line: str, parts: int, part_rows: Sequence[int]) -> None:
        if self._due(parts == len(part_rows)):
            self.say(line)

    def preparing(self, stage: str, done: int, total: int) -> None:
        """A line where a stage begins and ends, and now and then."""
        if self._due(done == total or stage not in self._stages):
            self._stages.add(stage)
            self.say(f"{stage}: {done} of {total} units")

    def _due(self, surely: bool) -> bool:
        now = time.monotonic()
        if not surely and now - self._told < EVERY_S:
            return False
        self._told = now
        return True


class _Follow:
    """Follows the journal of a run."""

    def __init__(self, run_folder: Path, num_steps: int, say: Callable[[str], None]) -> None:
        self._journal = journal_path(run_folder)
        self._offset = self._journal.stat().st_size if self._journal.exists() else 0
        self._num_steps = num_steps
        self._say = say
        self._step = -1
        self._last: dict[str, float] = {}

    def until(self, stop: threading.Event) -> None:
        """Write a line where there is something new, every few seconds until told to stop, then once more."""
        last = False
        while not last:
            last = stop.wait(EVERY_S)
            if self._read():
                self._say(f"step {self._step}/{self._num_steps}  {_numbers(self._last)}")

    def _read(self) -> bool:
        new = False
        for points, after in read_on(self._journal, self._offset):
            self._offset = after
            for point in points:
                new = True
                self._step = max(self._step, point.step)
                self._last.update(point.metrics)
        return new


def _numbers(metrics: Mapping[str, float]) -> str:
    """The loss, and what was measured on the validation split."""
    shown = {"loss": metrics["train/loss"]} if "train/loss" in metrics else {}
    shown |= {name: value for name, value in metrics.items() if name.startswith("val/")}
    return "  ".join(f"{name} {value:.3f}" for name, value in list(shown.items())[:4])
