"""Progress of `interlace prepare`."""

import time

from interlace.jobs.console import say

EVERY_S = 5.0
"""Seconds between lines of progress."""


class PreparingLines:
    """Progress as lines: where a stage begins, every few seconds, and at its end."""

    def __init__(self) -> None:
        self.stages: set[str] = set()
        self.told = 0.0

    def __call__(self, stage: str, done: int, of: int) -> None:
        """A stage has done so many of its units."""
        now = time.monotonic()
        if stage not in self.stages or done == of or now - self.told > EVERY_S:
            self.stages.add(stage)
            self.told = now
            say(f"{stage}: {done} of {of} units")
