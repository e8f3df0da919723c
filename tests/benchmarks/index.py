"""What an index costs: rows a CPU second, memory of the driver, an added shard, and a job that is killed.

Run `python -m tests.benchmarks.index` from the repository root: 2 million rows of a text and three numbers in Parquet,
row groups of 10,000, ten shards and one that is added. A word names another tokenizer (`bpe`), `--rows` another number,
and `--folder` keeps the shards for the next time. Each measurement is a process of its own, without Ray.

Printed for each: rows read, CPU seconds, rows a CPU second (fitted and measured), and resident memory (MB) above that
of the process before it began.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interlace.data.index.build import build_index
from interlace.data.sources import RowGroup, Work
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe

SHARDS, WORDS, GROUP_ROWS = 10, 12, 10_000
ADDED = "added.parquet"


def write_shard(path: Path, rows: int, seed: int, group_rows: int) -> None:
    """A text of about 70 characters of 5,000 words, as frequent as words are, and three numbers."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfw"))
    words = np.array(["".join(np.random.default_rng(i).choice(letters, 2 + i % 8)) for i in range(5000)])
    chances = 1 / np.arange(1, len(words) + 1)
    schema = pa.schema([("text", pa.string()), *((n, pa.float64()) for n in "abc"), ("label", pa.string())])
    partial = path.with_suffix(".tmp")
    with pq.ParquetWriter(partial, schema) as writer:
        for first in range(0, rows, group_rows):
            count = min(group_rows, rows - first)
            drawn = words[rng.choice(len(words), (count, WORDS), p=chances / chances.sum())]
            table = {"text": [" ".join(row) for row in drawn.tolist()], "label": rng.choice(["x", "y"], count)}
            writer.write_table(pa.table(table | {n: rng.normal(size=count) for n in "abc"}, schema=schema), group_rows)
    partial.replace(path)


def write_shards(folder: Path, rows: int, group_rows: int) -> None:
    """Shards that are not there yet; the last is added afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(SHARDS):
        if not (folder / f"train-{i}.parquet").exists():
            write_shard(folder / f"train-{i}.parquet", rows // SHARDS, i, group_rows)
    if not (folder / ADDED).exists():
        write_shard(folder / ADDED, rows // SHARDS, SHARDS, group_rows)


def recipe_of(folder: Path, storage: Path, tokenizer: str, *, added: bool) -> Recipe:
    """A recipe of a text and three numbers."""
    return parse_recipe(
        {
            "name": "index",
            "storage": str(storage),
            "data": {"root": str(folder), "train": {"paths": ["train-*.parquet", *([ADDED] if added else [])]}},
            "fields": {
                "text": {"modality": "text", "column": "text", "tokenizer": tokenizer},
                "numbers": {"modality": "table", "numbers": ["a", "b", "c"]},
            },
            "tasks": {"label": {"task": "classification", "column": "label"}},
            "train": {"steps": 1},
        }
    )


def resident_mb(kind: str = "VmRSS") -> float:
    """Resident memory in MB; `VmHWM` is the most so far (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) * 1024 / 1e6


def child(settings: dict[str, Any]) -> None:
    """Build the index, and say what it cost; die after so many row groups where asked to."""
    recipe = recipe_of(
        Path(settings["folder"]), Path(settings["storage"]), settings["tokenizer"], added=settings["added"]
    )
    done: list[int] = []

    def mapper(work: Work, groups: Sequence[RowGroup]) -> Iterator[pa.Table]:
        for group in groups:
            if len(done) == settings["die_after"]:
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(group.num_rows)
            yield work(group)

    before, began, clock = resident_mb(), time.process_time(), time.monotonic()
    index = build_index(recipe, mapper)
    found = {
        "cpu_s": time.process_time() - began,
        "wall_s": time.monotonic() - clock,
        "above_mb": resident_mb("VmHWM") - before,
        "groups": len(done),
        "rows_read": sum(done),
        "rows": index.manifests["train"].num_rows,
        "digest": index.manifests["train"].digest,
    }
    sys.stdout.write(json.dumps(found))


def measure(folder: Path, storage: Path, tokenizer: str, *, added: bool = False, die_after: int = -1) -> dict[str, Any]:
    """What a process of its own found out; empty if it died."""
    settings: dict[str, Any] = {"folder": str(folder), "storage": str(storage), "tokenizer": tokenizer, "added": added}
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.index",
        "--child",
        json.dumps(settings | {"die_after": die_after}),
    ]
    ran = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if die_after >= 0:
        assert ran.returncode == -signal.SIGKILL
        return {}
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def run(folder: Path, rows: int, tokenizer: str, group_rows: int = GROUP_ROWS) -> dict[str, dict[str, Any]]:
    """All measurements by name."""
    write_shards(folder, rows, group_rows)
    groups = SHARDS * -(-(rows // SHARDS) // group_rows)
    storage = Path(tempfile.mkdtemp(prefix="interlace-index-"))
    try:
        found = {"new": measure(folder, storage / "whole", tokenizer)}
        found["found again"] = measure(folder, storage / "whole", tokenizer)
        found["a shard added"] = measure(folder, storage / "whole", tokenizer, added=True)
        measure(folder, storage / "killed", tokenizer, die_after=groups + groups // 2)  # fitted, half measured
        found["after a kill"] = measure(folder, storage / "killed", tokenizer)
    finally:
        shutil.rmtree(storage)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", type=json.loads)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("tokenizer", nargs="?", choices=("bytes", "bpe", "characters", "ngrams"), default="bytes")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "interlace-index-shards")
    arguments = parser.parse_args()
    if arguments.child is not None:
        child(arguments.child)
        return
    found = run(arguments.folder, arguments.rows, arguments.tokenizer)
    for name, one in found.items():
        rate = one["rows"] / one["cpu_s"]
        sys.stdout.write(
            f"{name:14} {one['rows_read']:>10,} rows read in {one['groups']:>4} units, {one['cpu_s']:6.1f} CPU s,"
            f" {one['wall_s']:6.1f} s, {rate:>9,.0f} rows a CPU s, {one['above_mb']:5.0f} MB above the start\n"
        )
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
    sys.stdout.write(f"most of any process: {most:.0f} MB resident\n")


if __name__ == "__main__":
    main()
