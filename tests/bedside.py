"""A small generated set of sounds, readings regular and irregular, and tables, with hostile names and shared values."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe

HOSTILE_CHANNEL = "<script>x"
RATE_HZ = 8000

Bedside = tuple[Recipe, list[dict[str, Any]], list[dict[str, Any]]]
"""A recipe with its training rows and its validation rows."""


def encode(samples: np.ndarray, rate: int = RATE_HZ, kind: str = "FLAC", encoding: str = "PCM_16") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind, subtype=encoding)
    return out.getvalue()


def make_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of a sound, two regular channels with a gap, irregular readings, and tables; some are missing."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        length = int(rng.integers(12, 30))
        x, y = rng.normal(5, 1, length).tolist(), rng.normal(-40, 3, length).tolist()
        x[4:7] = [None] * 3
        times = np.sort(rng.uniform(0, 100, 9)).tolist()
        names = [("pulse", HOSTILE_CHANNEL, "temp")[int(c)] for c in rng.integers(0, 3, 9)]
        rows.append(
            {
                "sound": None if i % 5 == 4 else encode(rng.uniform(-0.5, 0.5, int(rng.integers(800, 4000)))),
                "x": x,
                "y": y,
                "at": times,
                "of": names,
                "reading": rng.normal(80, 5, 9).tolist(),
                "age": None if i % 3 == 2 else float(rng.integers(1, 90)),
                "weight": float(rng.integers(40, 90)),
                "ward": ("a", "b")[i % 2],
                "seen": f"2024-02-{1 + i % 28:02d}",
                "label": ("yes", "no")[i % 2],
            }
        )
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    numbers = pa.list_(pa.float64())
    types = {"sound": pa.binary(), "x": numbers, "y": numbers, "at": numbers, "reading": numbers}
    types |= {"of": pa.list_(pa.string()), "age": pa.float64(), "weight": pa.float64()}
    schema = pa.schema([(c, types.get(c, pa.string())) for c in rows[0]])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=10)


def tree(folder: Path) -> dict[str, Any]:
    """A recipe over `train.parquet` and `validation.parquet` in a folder, every field augmented that can be."""
    return {
        "name": "bedside",
        "storage": str(folder / "out"),
        "data": {"root": str(folder), "train": {"paths": ["train.parquet"]},
                 "validation": {"paths": ["validation.parquet"]}},
        "fields": {
            "sound": {"modality": "audio", "column": "sound", "rate_hz": RATE_HZ, "num_mels": 20, "noise_db": 20,
                      "shift_s": 0.05, "time_mask": 0.3},
            "motion": {"modality": "series", "channels": ["x", "y"], "window_s": 4, "jitter": 0.2, "shift": 0.5,
                       "time_mask": 0.3},
            "vitals": {"modality": "series", "time": "at", "channel": "of", "value": "reading", "window_s": 25,
                       "jitter": 0.2, "time_mask": 0.3},
            "body": {"modality": "table", "numbers": ["age", "weight"]},
            "place": {"modality": "table", "categories": ["ward"]},
            "when": {"modality": "table", "dates": ["seen"]},
        },
        "tasks": {"outcome": {"task": "classification", "column": "label"}},
        "train": {"steps": 1},
    }  # fmt: skip


def write_bedside(folder: Path) -> Bedside:
    """Write 20 training rows and 8 others; see `SHARED` for what recurs."""
    rows, other = make_rows(20, seed=1), make_rows(8, seed=2)
    rows[6] = rows[5]  # a whole record: no shared value
    rows[11]["sound"] = rows[10]["sound"]  # within train
    other[0] = rows[0]  # a whole record
    other[1]["sound"] = rows[1]["sound"]
    other[2]["sound"] = rows[1]["sound"]
    for name in ("x", "y"):
        other[3][name] = rows[3][name]
    other[5] |= {"x": rows[4]["x"], "y": None}  # half of a value is none
    write_rows(folder / "train.parquet", rows)
    write_rows(folder / "validation.parquet", other)
    return parse_recipe(tree(folder)), rows, other


SHARED = {
    ("sound", "train", "train"): [(11, 10)],
    ("sound", "validation", "train"): [(1, 1), (2, 1)],
    ("sound", "validation", "validation"): [(2, 1)],
    ("motion", "validation", "train"): [(3, 3)],
}
"""Field, split of a record, split of its like: rows of both. All others share nothing."""
