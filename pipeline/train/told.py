"""What rank 0 writes into the run folder for whoever watches: lines of events, and the newest times of all ranks."""

import json
import math
import time
from pathlib import Path
from typing import final

from interlace.train.report import StepReport

EVENTS = "events.jsonl"
RANKS = "ranks.json"
"""File of a run folder with each rank's times in a recent step, where there are several."""
EVERY_S = 5.0
"""Seconds between two writings of it."""


@final
class Told:
    """Tells what is true of all ranks, by rank 0 alone.

    Args:
        run: the run's folder.
        rank: of this process.
        world_size: of the group.
    """

    def __init__(self, run: Path, rank: int, world_size: int) -> None:
        self._run, self._rank, self._world_size = run, rank, world_size
        self._ranks_at = -math.inf

    def say(self, text: str) -> None:
        """A line of the run's events."""
        if self._rank == 0:
            line = json.dumps({"t": time.time(), "rank": self._rank, "text": text})
            with (self._run / EVENTS).open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def ranks(self, report: StepReport) -> None:
        """Keep a file with the newest times of all ranks."""
        now = time.monotonic()
        if self._rank == 0 and self._world_size > 1 and now - self._ranks_at > EVERY_S:
            self._ranks_at = now
            partial = self._run / f"{RANKS}.tmp"
            ranks = [{"wait_s": wait, "forward_s": forward} for wait, forward in report.ranks]
            partial.write_text(json.dumps({"step": report.step, "ranks": ranks}), encoding="utf-8")
            partial.replace(self._run / RANKS)
