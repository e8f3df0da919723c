"""The work folder: files that appear whole or not at all, and marks of finished units.

    <out>/.prepare/job.json                       what the job is made from, and its bucket size
    <out>/.prepare/<key>/<stage>/00000007.*       what a unit wrote; its `.json` comes last and says that it is done

The key names inputs and settings, so a task that outlives a killed job can never write into the files of another one.
"""

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import ipc

HIDDEN = ".prepare"
SCATTER, JOIN, SHARDS = "scatter", "join", "shards"
STAGES = (SCATTER, JOIN, SHARDS)
QUARANTINE = pa.schema(
    [("source", pa.string()), ("shard", pa.string()), ("row", pa.int64()), ("reason", pa.string())]
)  # fmt: skip
"""One row for each row of a source that the output does not hold because something is wrong with it."""


@contextmanager
def whole(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """A path to write to; the file takes its name, over any older one, when the body ends without an error.

    Args:
        path: of the file.
        sync: hand the bytes to the disk first, so that the file is whole after a power cut too.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield partial
        if sync:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, facts: Mapping[str, Any], *, sync: bool = False) -> None:
    """Write a JSON file whole."""
    with whole(path, sync=sync) as partial:
        partial.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def unit_file(folder: Path, number: int, suffix: str) -> Path:
    """A file of one unit in a stage's folder."""
    return folder / f"{number:08d}.{suffix}"


def mark_done(folder: Path, number: int, facts: Mapping[str, Any]) -> pa.Table:
    """Note that a unit is done, and what it came to; the one row that a mapper hands on for it."""
    write_json(unit_file(folder, number, "json"), facts)
    return pa.table({"done": pa.array([number], pa.int64())})


def done_units(folder: Path) -> set[int]:
    """Numbers of the units of a stage that are done."""
    return {int(entry.name[:-5]) for entry in os.scandir(folder) if entry.name.endswith(".json")}


def marks(folder: Path) -> Iterator[dict[str, Any]]:
    """What the done units of a stage came to, in their order."""
    for number in sorted(done_units(folder)):
        yield json.loads(unit_file(folder, number, "json").read_text(encoding="utf-8"))


def write_batches(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write record batches as one Arrow file; each can be read alone."""
    options = ipc.IpcWriteOptions(compression="lz4")
    with (
        whole(path) as partial,
        pa.OSFile(str(partial), "wb") as sink,
        ipc.new_file(sink, schema, options=options) as w,
    ):
        for batch in batches:
            w.write_batch(batch)


def read_batches(path: Path, numbers: Iterable[int] | None = None) -> Iterator[pa.RecordBatch]:
    """Record batches of an Arrow file by number, or all of them."""
    with pa.OSFile(str(path)) as source, ipc.open_file(source) as file:
        for number in range(file.num_record_batches) if numbers is None else numbers:
            yield file.get_batch(number)


def write_quarantine(path: Path, source: str, rows: Sequence[tuple[str, int, str]]) -> None:
    """Write the quarantined rows of a unit, if there are any: shard, row, reason."""
    if rows:
        shard, row, reason = zip(*rows, strict=True)
        columns = [
            pa.array(c, t) for c, t in zip(([source] * len(rows), shard, row, reason), QUARANTINE.types, strict=True)
        ]
        write_batches(path, QUARANTINE, [pa.record_batch(columns, schema=QUARANTINE)])
