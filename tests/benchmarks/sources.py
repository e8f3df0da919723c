"""Rows a CPU-second of each format for the same rows: listing them, and reading row groups of 256.

Run `python -m tests.benchmarks.sources` from the repository root. For tar files also the bare ranged reads, and what
`tarfile` takes to read the same members without making a table of them.
"""

import io
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from interlace.data.sources import open_source
from interlace.data.sources.spans import read_span
from interlace.recipe.data import Source
from tests.data import SCHEMA
from tests.shards import ENDINGS, FORMATS, SETTINGS, Row, write_format

console = Console(highlight=False)
ROWS, GROUP, REPEATS = 1024, 256, 4


def make_rows(picture_bytes: int) -> list[Row]:
    """Rows with noise in place of pictures."""
    rng = np.random.default_rng(0)
    return [
        {
            "key": i,
            "image": rng.bytes(picture_bytes),
            "caption": "a very red disc " * 3,
            "width": float(rng.normal()),
            "height": float(rng.normal()),
            "color": "red",
        }
        for i in range(ROWS)
    ]


def clock(work: Callable[[], object]) -> float:
    """The least CPU time of a few, in seconds."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def by_tarfile(data: bytes) -> int:
    """What reading the members of a row group by `tarfile` does at least."""
    with tarfile.open(fileobj=io.BytesIO(data + bytes(1024))) as tar:
        return sum(len(tar.extractfile(m).read()) for m in tar)  # type: ignore[union-attr]


def measure(folder: Path, picture_bytes: int) -> None:
    """One table of figures."""
    rows = make_rows(picture_bytes)
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, folder / "t.parquet", row_group_size=GROUP)
    columns = ["image", "caption", "width", "height", "color"]
    console.print(f"{ROWS} rows, pictures of {picture_bytes} bytes, row groups of {GROUP}")
    for name in ("parquet", *FORMATS):
        settings = {} if name == "parquet" else {**SETTINGS[name], "group_rows": GROUP}
        if name != "parquet":
            write_format(name, folder, f"t-{name}", rows)
        shard = str(folder / ("t.parquet" if name == "parquet" else f"t-{name}.{ENDINGS[name]}"))
        reader = open_source(Source.model_validate({"format": name, "paths": ["x"], **settings}))
        start = time.process_time()
        groups = reader.row_groups(shard)
        listed = time.process_time() - start
        read = clock(lambda g=groups, r=reader: [r.read(x, columns) for x in g])  # type: ignore[misc]
        console.print(f"  {name:12s} listing {ROWS / listed:12,.0f} rows/s   reading {ROWS / read:12,.0f} rows/s")
        if name == "webdataset":
            spans = clock(lambda g=groups: [read_span(x) for x in g])  # type: ignore[misc]
            slow = clock(lambda g=groups: [by_tarfile(read_span(x)) for x in g])  # type: ignore[misc]
            console.print(f"  bare ranged reads {ROWS / spans:12,.0f} rows/s, tarfile {ROWS / slow:12,.0f} rows/s")


if __name__ == "__main__":
    for size in (2_000, 20_000):
        with tempfile.TemporaryDirectory() as place:
            measure(Path(place), size)
