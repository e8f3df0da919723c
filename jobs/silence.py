"""Nothing waits in silence: what is to be said where workers or data tasks give no sign of life."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from interlace.cluster.usage import Usage, usage
from interlace.jobs.console import say

SILENT_S = 45.0
"""After so long without a sign the command says what there is to wait for; again after twice as long."""
LOOK_EVERY_S = 5.0

Arguments = ParamSpec("Arguments")
Item = TypeVar("Item")


class Silence:
    """When to say that there is no sign of life: after `silent_s` seconds, and again each time that has doubled."""

    def __init__(self, silent_s: float = SILENT_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.silent_s = silent_s
        self.clock = clock
        self.heard()

    def heard(self) -> None:
        """There was one; from now on another is waited for."""
        self.since, self.patience, self.waiting = self.clock(), self.silent_s, True

    def pause(self) -> None:
        """None is waited for until the next `heard`."""
        self.waiting = False

    def due(self) -> float | None:
        """Seconds of silence, where it is time to say so."""
        silent = self.clock() - self.since
        if not self.waiting or silent < self.patience:
            return None
        self.patience = 2 * silent
        return silent


def at_work(now: Usage) -> str:
    """What the cluster has and what is taken of it."""
    return f"now {now.nodes} nodes with {now.cpus:g} CPUs, {now.cpus_reserved:g} of them reserved"


@contextmanager
def speaking(silence: Silence, what: str, why: str) -> Iterator[None]:
    """During the body a thread says when there is no sign of life for long.

    Args:
        silence: is told the signs.
        what: has not happened, in a few words.
        why: that may be, in a sentence.
    """
    ended = threading.Event()
    silence.heard()

    def watch() -> None:
        while not ended.wait(min(silence.silent_s, LOOK_EVERY_S)):
            if (silent := silence.due()) is not None and (now := usage()) is not None:
                say(f"{what} for {silent:.0f} s: {at_work(now)}. {why}")

    threading.Thread(target=watch, name="silence", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def spoken(
    mapper: Callable[Arguments, Iterable[Item]], silent_s: float = SILENT_S
) -> Callable[Arguments, Iterator[Item]]:
    """The mapper, which says so where its data tasks deliver nothing for long: Ray waits for CPUs in silence."""
    why = "Other jobs may hold those of the nodes that read; or a unit of the work is long"

    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Iterator[Item]:
        silence = Silence(silent_s)
        with speaking(silence, "no data task has delivered", why):
            for item in mapper(*args, **kwargs):
                silence.pause()  # the caller may work on what came as long as it likes
                yield item
                silence.heard()

    return run
