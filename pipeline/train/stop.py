"""Ending a run early and well: SIGTERM asks, the workers write a checkpoint after the step at hand, then all return.

The driver gets the signal and leaves a file in the run folder; rank 0 looks for it after each step and tells the other
ranks, so that all end at the same step. A second signal ends the driver at once.
"""

import signal
import threading
from collections.abc import Iterator
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
def asking_on_sigterm(run: Path) -> Iterator[None]:
    """During the body SIGTERM asks the workers to end; a second one does what it would have done without this."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        ask(run)
        signal.signal(signal.SIGTERM, before)

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def ctrl_c_restored() -> Iterator[None]:
    """Take away the handlers of Ctrl-C that Ray leaves behind: they talk to a controller or a search that is gone."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
