"""CPU of the data stage with the cache of decoded values: first epoch, second epoch, and without.

Run `python -m tests.benchmarks.cache` from the repository root; INTERLACE_TEST_DATA names the folder of real data
(default ../shared/data), and words after the name choose cases (`digits`, `"digits augmented"`).

The digits are 2,000 rows paired by label: a picture (28 x 28 PNG), a spoken digit (FLAC, 0.4 s), and a pen's path.
Each round reads one epoch without a cache, one that fills an empty cache, and the one after. Of each window the least
of the rounds counts. Printed are CPU-seconds for 1,000 samples and ratios.
"""

import os
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interlace.data.index.build import build_index
from interlace.data.plan.plan import Plan
from interlace.data.read.open import open_reader
from interlace.data.read.reader import Reader
from interlace.modalities import MODALITIES
from interlace.recipe.load import parse_recipe

DATA = Path(os.environ.get("INTERLACE_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
ROWS = 2000
ROUNDS = 3

FIELDS: dict[str, dict[str, Any]] = {
    "picture": {"modality": "image", "column": "picture", "max_size": 28, "patch": 7},
    "speech": {"modality": "audio", "column": "speech", "rate_hz": 8000, "max_seconds": 2.0},
    "pen": {"modality": "series", "channels": ["x", "y"], "window_s": 2.0},
    "word": {"modality": "text", "column": "word"},
}
AUGMENTED: dict[str, dict[str, Any]] = {
    "picture": {"rotate_degrees": 10.0, "rescale": 0.1},
    "speech": {"gain_db": 6.0, "time_mask": 0.2},
    "pen": {"jitter": 0.1},
    "word": {"word_dropout": 0.1},
}
CASES: dict[str, tuple[str, ...]] = {
    "digits": ("picture", "speech", "pen"),
    "pictures": ("picture",),
    "sounds": ("speech",),
    "words": ("word",),
}
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def write_digits(path: Path) -> None:
    """Pair pictures, sounds and paths by label, in random order."""
    rng = np.random.default_rng(0)
    pictures = pq.read_table(DATA / "mnist10k" / "train.parquet")
    sounds = pq.read_table(DATA / "fsdd" / "speech.parquet")
    paths = pq.read_table(DATA / "pendigits" / "train.parquet")
    labels = rng.integers(0, 10, ROWS)
    columns: dict[str, Any] = {"label": labels, "word": [WORDS[i] for i in labels.tolist()]}
    for table, names in (
        (pictures, {"picture": "image"}),
        (sounds, {"speech": "audio"}),
        (paths, {"x": "x", "y": "y"}),
    ):
        found = table["label"].to_numpy()
        rows = np.array([rng.choice(np.flatnonzero(found == label)) for label in labels])
        columns |= {name: table[column].take(pa.array(rows)) for name, column in names.items()}
    pq.write_table(pa.table(columns), path, row_group_size=250)


def seconds(reader: Reader, plan: Plan, epoch: int) -> NDArray[np.float64]:
    """CPU-seconds of each window of an epoch."""
    taken = []
    for window in plan.schedule(epochs=epoch + 1).windows:
        if window.epoch == epoch:
            began = time.process_time()
            assert sum(1 for _ in reader.read(window, first=0, stop=10**9, plan=plan)) == window.num_packs
            taken.append(time.process_time() - began)
    return np.array(taken)


def measure(folder: Path, names: tuple[str, ...], *, augmented: bool) -> tuple[float, float, float]:
    """CPU-seconds for 1,000 samples without, filling and with the cache."""
    fields = {n: {**FIELDS[n], **(AUGMENTED[n] if augmented else {})} for n in names}
    tree = {
        "name": "digits",
        "storage": str(folder / "out"),
        "data": {"root": str(folder), "train": {"paths": ["digits.parquet"]}, "cache_gb": 1.0},
        "fields": fields,
        "tasks": {"label": {"task": "classification", "column": "label"}},
        "train": {"epochs": 1},
    }
    recipe = parse_recipe(tree)
    reader = open_reader(build_index(recipe), recipe, "train", training=True)
    plan, without = reader.plan(), replace(reader, cache=None)
    assert reader.cache is not None
    next(without.read(next(plan.windows()), first=0, stop=1, plan=plan))  # what is made once a process
    rounds = []
    for _ in range(ROUNDS):
        shutil.rmtree(reader.cache.folder, ignore_errors=True)
        rounds.append((seconds(without, plan, 0), seconds(reader, plan, 0), seconds(reader, plan, 1)))
    a, b, c = (float(np.min(kind, axis=0).sum()) / ROWS * 1000 for kind in zip(*rounds, strict=True))
    return a, b, c


def main() -> None:
    """Measure and print a table."""
    for case, names in CASES.items():
        there = tuple(n for n in names if FIELDS[n]["modality"] in MODALITIES)
        for augmented in (False, True):
            title = f"{case}{' augmented' if augmented else ''}"
            if sys.argv[1:] and title not in sys.argv[1:]:
                continue
            with tempfile.TemporaryDirectory() as folder:
                write_digits(Path(folder) / "digits.parquet")
                without, first, second = measure(Path(folder), there, augmented=augmented)
            sys.stdout.write(
                f"{f'{title} ({len(there)} fields)':32s} without {without:6.3f}"
                f"   first {first:6.3f} ({first / without:6.1%} of it)"
                f"   second {second:6.3f} ({second / first:6.1%} of the first)\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
