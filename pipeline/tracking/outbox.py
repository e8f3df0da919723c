"""What a run still has to tell MLflow, kept in the run folder so that no death of a process or server loses it.

In: operations of the driver (`Outbox.put`), one JSON line each, and the run's journal. Out: what was not shipped yet.

    RUN/metrics.jsonl           the journal: metrics
    RUN/system-*.jsonl          further journals, one a node: what the node has at work
    RUN/tracking/target.json    which MLflow run all this goes to
    RUN/tracking/outbox.jsonl   operations, in order: params, tags, dataset, artifact, model, status
    RUN/tracking/cursor.json    how far both files are shipped, and the MLflow run id
    RUN/tracking/lock           held by the process that ships
    RUN/tracking/m-*/           a model being shipped

The cursor is written after an operation was shipped. A process killed in between ships that operation again, and every
operation is one that a store takes twice without a trace. A cursor belongs to one target: with another tracking URI
everything is shipped anew, to a run there.
"""

import dataclasses
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from interlace.store.journal import Point, journal_path, open_lines, read, read_lines, write_line
from interlace.tracking.target import Target

SHIP_BYTES = 64 << 10
"""Bytes of journal shipped between two writes of the cursor: one or two requests of 1,000 metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far a run folder is shipped.

    Args:
        uri: the tracking URI that this cursor is about.
        experiment_id, run_id: where the run is there; None until the store answered.
        ops: bytes of the outbox that are shipped.
        points: bytes of the journal that are shipped.
        others: the same of further journals, by file name.
        last: last step shipped of each metric: should two processes have written the journal for a moment, the
            second point of a step is dropped.
        rejected: operations that the store will never take, with its reason.
    """

    uri: str
    experiment_id: str | None = None
    run_id: str | None = None
    ops: int = 0
    points: int = 0
    others: Mapping[str, int] = field(default_factory=dict)
    last: Mapping[str, int] = field(default_factory=dict)
    rejected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One line of the outbox: its kind, its arguments, and the offsets of its line."""

    kind: str
    values: dict[str, Any]
    start: int
    end: int


class Outbox:
    """The files of one run's tracking. `put` may be called by any thread, the rest by the one that ships."""

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.folder = run_folder / "tracking"
        self._path = self.folder / "outbox.jsonl"
        self._file: BinaryIO | None = None
        self._put_lock = threading.Lock()
        self._lock: BinaryIO | None = None

    @property
    def has_target(self) -> bool:
        """Whether this run was ever tracked."""
        return (self.folder / "target.json").exists()

    @property
    def target(self) -> Target:
        """The MLflow run of this folder."""
        return Target(**json.loads((self.folder / "target.json").read_text(encoding="utf-8")))

    def open(self, target: Target) -> None:
        """Set the target and make ready for `put`; a run that goes on keeps the time it began."""
        self._file = open_lines(self._path)
        if self.has_target:
            target = dataclasses.replace(target, created_ms=self.target.created_ms)
        _write(self.folder / "target.json", dataclasses.asdict(target))

    def put(self, kind: str, **values: Any) -> None:
        """Append an operation. `values` are what JSON can hold."""
        assert self._file is not None, "open() comes first"
        with self._put_lock:
            write_line(self._file, {"op": kind, "at_ms": time.time_ns() // 1_000_000, **values})

    def operations(self, offset: int = 0) -> Iterator[Operation]:
        """Operations from an offset on, in order, up to the last that is written now."""
        while True:
            lines, after = read_lines(self._path, offset)
            if after == offset:
                return
            for line in lines:
                values = json.loads(line)
                yield Operation(kind=values.pop("op"), values=values, start=offset, end=offset + len(line) + 1)
                offset += len(line) + 1

    def journals(self) -> list[Path]:
        """The run's journal first, then those of its nodes."""
        return [journal_path(self.run_folder), *sorted(self.run_folder.glob("system-*.jsonl"))]

    def journal_sizes(self) -> dict[Path, int]:
        """Bytes of each journal there are now."""
        return {path: path.stat().st_size for path in self.journals() if path.exists()}

    def points(self, cursor: Cursor, journal: Path) -> tuple[list[Point], Cursor]:
        """The next points to ship, without those at or before the last step shipped, and the cursor after them."""
        points, after = read(journal, shipped_bytes(cursor, journal), SHIP_BYTES)
        last, fresh = dict(cursor.last), []
        for point in points:
            metrics = {key: value for key, value in point.metrics.items() if last.get(key, -1) < point.step}
            last.update(dict.fromkeys(metrics, point.step))
            if metrics:
                fresh.append(dataclasses.replace(point, metrics=metrics))
        if journal == journal_path(self.run_folder):
            return fresh, dataclasses.replace(cursor, points=after, last=last)
        return fresh, dataclasses.replace(cursor, others={**cursor.others, journal.name: after}, last=last)

    def all_points(self) -> Iterator[Point]:
        """Every point of the journal."""
        offset, after = -1, 0
        while after != offset:
            offset = after
            points, after = read(journal_path(self.run_folder), offset)
            yield from points

    def cursor(self) -> Cursor:
        """The saved cursor of the target's URI; a new one if there is none, or only one of another URI."""
        uri = self.target.uri
        try:
            saved = json.loads((self.folder / "cursor.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return Cursor(uri=uri)
        return Cursor(**{**saved, "rejected": tuple(saved["rejected"])}) if saved["uri"] == uri else Cursor(uri=uri)

    def save(self, cursor: Cursor) -> None:
        """Replace the saved cursor in one step."""
        _write(self.folder / "cursor.json", dataclasses.asdict(cursor))

    def pending(self) -> tuple[int, int]:
        """Operations and metric points that are not shipped."""
        cursor = self.cursor()
        num_ops = sum(1 for _ in self.operations(cursor.ops))
        num_points = 0
        for journal in self.journals():
            before = -1
            while before != shipped_bytes(cursor, journal):
                before = shipped_bytes(cursor, journal)
                points, cursor = self.points(cursor, journal)
                num_points += sum(len(point.metrics) for point in points)
        return num_ops, num_points

    def lock(self) -> None:
        """Take the right to ship, which a killed process loses; nothing happens where it is held already.

        Raises:
            BlockingIOError: another process (or another Outbox of this one) has it.
        """
        if self._lock is None:
            file = (self.folder / "lock").open("wb")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.close()
                raise BlockingIOError(f"another process is shipping {self.run_folder}") from error
            self._lock = file

    def unlock(self) -> None:
        """Give the right to ship back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def close(self) -> None:
        """Close the file that `put` writes."""
        if self._file is not None:
            self._file.close()


def shipped_bytes(cursor: Cursor, journal: Path) -> int:
    """How far a journal is shipped."""
    return cursor.points if journal == journal_path(journal.parent) else cursor.others.get(journal.name, 0)


def _write(path: Path, value: dict[str, Any]) -> None:
    """Replace a file in one step, readable by its owner only (a database URI holds a password)."""
    draft = path.with_suffix(".tmp")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(value, file)
    draft.replace(path)
