"""The metric journal: an append-only file of JSON lines in the run folder, the first and only truth about metrics.

In: metrics of a step, from rank 0 of a run (`Journal.log`). Out: the same points, read by whoever tails the file
(`read`): the tracker that ships them, the progress bar. A line is `{"t": unix ms, "step": n, "m": {"train/loss": x}}`.

A run that starts again from a checkpoint computes some steps twice, with equal values. The journal keeps the first
line and drops the second, so each point has one time stamp for ever; a store that drops equal rows then never shows a
point twice. A process killed in the middle of a line leaves a torn one, which the next `Journal` cuts off.

Cost of a line with 3 metrics: 10 us (median 8, 99 % 23); with 10 metrics: 16 to 25 us. Opening a journal of 20,000
lines: 0.25 s (2 shared x86 cores, ext4, tests/benchmarks/journal.py).
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO

READ_BYTES = 4 << 20
"""Bytes of lines that one `read` takes at most, where its caller does not say."""

TAIL_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One line of a journal.

    Args:
        time_ms: when it was logged first, unix milliseconds.
        step: optimizer steps done.
        metrics: values by name; NaN and infinities are themselves.
    """

    time_ms: int
    step: int
    metrics: Mapping[str, float]


def journal_path(run_folder: Path) -> Path:
    """Where the journal of a run is."""
    return run_folder / "metrics.jsonl"


class Journal:
    """The writing end; one process at a time holds it. Steps of one metric only grow.

    Opening one that exists cuts off a torn last line and reads the rest for the last step of each metric: all that is
    remembered, however long the run.
    """

    def __init__(self, path: Path) -> None:
        self._file = open_lines(path)
        self._last: dict[str, int] = {}
        for points, _ in read_on(path):
            for point in points:
                self._last.update(dict.fromkeys(point.metrics, point.step))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics that are not journaled at this step (or a later one) yet.

        Args:
            step: optimizer steps done, from 0.
            metrics: values by name; NaN and infinities are kept.
        """
        last = self._last
        new = {key: float(value) for key, value in metrics.items() if last.get(key, -1) < step}
        if not new:
            return
        write_line(self._file, {"t": time.time_ns() // 1_000_000, "step": step, "m": _plain(new)})
        for key in new:
            last[key] = step

    def last_step(self) -> int:
        """The last step of any metric; -1 in an empty journal."""
        return max(self._last.values(), default=-1)

    def flush(self, sync: bool = False) -> None:
        """Lines are in the file as soon as `log` returns; `sync` also waits until the disk has them."""
        if sync:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush to disk and close."""
        self.flush(sync=True)
        self._file.close()


def read(path: Path, offset: int = 0, num_bytes: int = READ_BYTES) -> tuple[list[Point], int]:
    """Points of the whole lines after `offset`, and the offset to read on from; a line being written is left.

    Returns about `num_bytes` of lines at most: read on until the offset stays. A file that does not exist yet is
    empty. A line damaged by the file system is skipped.
    """
    lines, after = read_lines(path, offset, num_bytes)
    return [point for line in lines if (point := _parse(line)) is not None], after


def read_on(path: Path, offset: int = 0) -> Iterator[tuple[list[Point], int]]:
    """All points after `offset`, some at a time, each time with the offset to read on from."""
    while True:
        points, after = read(path, offset)
        if after == offset:
            return
        yield points, after
        offset = after


def last_point(path: Path) -> Point | None:
    """The last point of a journal, if it has one."""
    size = path.stat().st_size if path.exists() else 0
    points, _ = read(path, max(0, size - TAIL_BYTES), TAIL_BYTES)
    return points[-1] if points else None


def open_lines(path: Path) -> BinaryIO:
    """Open a file of lines for appending, without a buffer; a torn last line is cut off first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            file.truncate(end)
    return path.open("ab", buffering=0)


def write_line(file: BinaryIO, value: Any) -> None:
    """Append a JSON value as one line with a single system call, so that readers and a kill see it whole or torn."""
    line = memoryview(_encode(value).encode() + b"\n")
    while line:
        line = line[file.write(line) :]


def read_lines(path: Path, offset: int, num_bytes: int = READ_BYTES) -> tuple[list[bytes], int]:
    """Whole lines after `offset` (about `num_bytes` at most) and the offset after them."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(num_bytes)
            if len(data) == num_bytes:
                data += file.readline()
    except FileNotFoundError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    return whole.splitlines(), offset + len(whole)


_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode


def _plain(metrics: dict[str, float]) -> dict[str, Any]:
    """Values that strict JSON can hold: NaN and infinities as the strings `nan`, `inf`, `-inf`."""
    if all(map(isfinite, metrics.values())):
        return metrics
    return {key: value if isfinite(value) else repr(value) for key, value in metrics.items()}


def _parse(line: bytes) -> Point | None:
    try:
        row = json.loads(line)
        return Point(time_ms=row["t"], step=row["step"], metrics={k: float(v) for k, v in row["m"].items()})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
