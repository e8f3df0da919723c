"""CPU seconds and peak memory of fitting: it should cost one read of the shards, and memory should not grow with them.

Run `python -m tests.benchmarks.fitting [--format parquet|webdataset] [ROWS ...]`.

Rows hold a picture of 2 kB (never read), two texts, two numbers, a category and a label. The texts share one byte-pair
vocabulary, and one of them is read by its characters too. Each size is fitted in a process of its own, after the row
groups were listed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interlace.data.index.build import find_split, list_groups
from interlace.data.index.fit import fit
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from tests.shards import write_tar

ROWS_PER_SHARD, GROUP_ROWS, NUM_WORDS = 5_000, 250, 5_000
SETTINGS: dict[str, dict[str, Any]] = {
    "parquet": {},
    "webdataset": {
        "group_rows": GROUP_ROWS,
        "rename": {"image": "png", "shop": "json.shop", **{n: f"json.{n}" for n in ("a", "b", "width", "height")}},
    },
}
ENDINGS = {"parquet": "parquet", "webdataset": "tar"}


def make_rows(first: int, words: list[str]) -> list[dict[str, Any]]:
    """Rows of one shard."""
    rng = np.random.default_rng(first)
    drawn = np.minimum(rng.zipf(1.3, (ROWS_PER_SHARD, 24)), NUM_WORDS) - 1
    return [
        {
            "image": bytes(2000),
            "a": " ".join(words[w] for w in draw[:12]),
            "b": " ".join(words[w].upper() for w in draw[12:]),
            "width": float(rng.normal()),
            "height": float(rng.normal()) if rng.random() < 0.8 else None,
            "shop": f"shop {rng.integers(50)}",
            "cls": int(rng.integers(10)),
        }
        for draw in drawn.tolist()
    ]


def members(rows: list[dict[str, Any]]) -> Iterator[tuple[str, bytes]]:
    """Each row as members of one key."""
    for i, row in enumerate(rows):
        yield f"{i:06d}.png", row["image"]
        yield f"{i:06d}.json", json.dumps({n: v for n, v in row.items() if n not in ("image", "cls")}).encode()
        yield f"{i:06d}.cls", str(row["cls"]).encode()


def write(folder: Path, name: str, rows: int) -> None:
    """The shards of one size."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), rng.integers(2, 10))) for _ in range(NUM_WORDS)]
    for first in range(0, rows, ROWS_PER_SHARD):
        own = make_rows(first, words)
        if name == "parquet":
            pq.write_table(pa.Table.from_pylist(own), folder / f"{first:07d}.parquet", row_group_size=GROUP_ROWS)
        else:
            write_tar(folder / f"{first:07d}.tar", members(own))


def recipe_of(folder: Path, name: str) -> Recipe:
    """A recipe over those shards."""
    text = {"modality": "text", "tokenizer": "bpe", "vocab_size": 2000, "vocabulary": "joint"}
    return parse_recipe(
        {
            "name": "fitting",
            "data": {
                "root": str(folder),
                "train": {"format": name, "paths": [f"*.{ENDINGS[name]}"], **SETTINGS[name]},
            },
            "fields": {
                "image": {"modality": "image", "column": "image"},
                "a": {**text, "column": "a"},
                "b": {**text, "column": "b"},
                "letters": {"modality": "text", "tokenizer": "characters", "column": "a"},
                "size": {"modality": "table", "numbers": ["width", "height"]},
                "shop": {"modality": "table", "categories": ["shop"]},
            },
            "tasks": {"label": {"task": "classification", "column": "cls"}},
            "train": {"steps": 1},
        }
    )


def peak_mb() -> float:
    """Most resident memory so far in MiB (Linux), without that of the process that started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def child(folder: Path, name: str) -> None:
    """Fit, and say what it cost."""
    recipe = recipe_of(folder, name)
    split = find_split(recipe.data.splits()["train"], recipe.data.root)
    groups = [g for own in list_groups(split, recipe, folder / "listings") for g in own]
    before, began = peak_mb(), time.process_time()
    fit(recipe.reads, recipe.data.splits()["train"], groups, map)
    seconds, peak = time.process_time() - began, peak_mb()
    sys.stdout.write(json.dumps({"seconds": seconds, "before": before, "peak": peak, "groups": len(groups)}))


def main() -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*", type=int, default=[20_000, 200_000])
    parser.add_argument("--format", choices=SETTINGS, default="parquet")
    parser.add_argument("--child", type=Path)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.format)
        return
    peaks = []
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), arguments.format, rows)
            words = [sys.executable, "-m", "tests.benchmarks.fitting", "--child", folder, "--format", arguments.format]
            told = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        peaks.append(told["peak"])
        sys.stdout.write(
            f"{arguments.format}, {rows} rows in {told['groups']} row groups: {told['seconds']:.2f} CPU s, peak"
            f" {told['peak']:.0f} MiB ({told['before']:.0f} before)\n"
        )
    sys.stdout.write(f"ratio of the peaks: {peaks[-1] / peaks[0]:.2f}\n")


if __name__ == "__main__":
    main()
