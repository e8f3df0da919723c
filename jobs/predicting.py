"""Progress of predictions: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from interlace.jobs.console import console, say

PLAIN_EVERY_S = 10.0


class PredictingBar:
    """Progress: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, part_rows: Sequence[int]) -> None:
        self.rows = part_rows
        self.bar = Progress(
            TextColumn("part"), MofNCompleteColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self.task = self.bar.add_task("starting", total=len(self.rows))
        self.began = self.printed = time.monotonic()
        self.first: int | None = None

    def __enter__(self) -> "PredictingBar":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, parts: int, rows: int) -> None:
        """So many parts and rows are done, those of an earlier try too."""
        now = time.monotonic()
        self.first = rows if self.first is None else self.first
        rate = (rows - self.first) / max(now - self.began, 1e-9)
        self.bar.update(self.task, completed=parts, description=f"{rows:,} rows, {rate:,.0f} rows/s")
        if not console.is_terminal and (parts == len(self.rows) or now - self.printed >= PLAIN_EVERY_S):
            self.printed = now
            left = f", left {(sum(self.rows) - rows) / rate:.0f} s" if rate else ""
            say(f"part {parts}/{len(self.rows)}  {rows:,} rows  {rate:,.0f} rows/s  {now - self.began:.0f} s{left}")
