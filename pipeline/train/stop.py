"""Ending a run early and well: SIGTERM or Ctrl-C asks, workers write a checkpoint after the step at hand, all return.

The driver gets the signal and leaves a file in the run folder; rank 0 looks for it after each step and tells the other
ranks, so that all end at the same step. A second signal ends the driver at once.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STOP = "stop"
"""File of a run folder that asks its workers to end."""


def ask(run: Path) -> None:
    """Ask the workers of a run to write a checkpoint and end."""
    (run / STOP).touch()


def is_asked(run: Path) -> bool:
    """Whether the workers of a run shall end."""
    return (run / STOP).exists()


def clear(run: Path) -> None:
    """Forget what was asked of a run before."""
    (run / STOP).unlink(missing_ok=True)


@contextmanager
def on_signal(number: signal.Signals, act: Callable[[], None]) -> Iterator[None]:
    """During the body the first such signal acts; a second one does what it would have done without this.

    Only the main thread can listen; in others nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(number)

    def handle(_number: int, frame: Any) -> None:
        act()
        signal.signal(number, before)

    signal.signal(number, handle)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def stop_on_signals(run: Path) -> Iterator[set[signal.Signals]]:
    """During the body SIGTERM and Ctrl-C ask the workers to end; a second one does what it would have done anyway.

    Yields:
        The signals that came.
    """
    came: set[signal.Signals] = set()

    def asked(number: signal.Signals) -> None:
        came.add(number)
        ask(run)

    with (
        on_signal(signal.SIGTERM, lambda: asked(signal.SIGTERM)),
        on_signal(signal.SIGINT, lambda: asked(signal.SIGINT)),
    ):
        yield came
