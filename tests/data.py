"""A small generated image-and-text data set with missing fields, whose label can be learned from either field."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe

COLORS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "grey": (128, 128, 128)}
NUM_SHARDS, GROUPS_PER_SHARD = 3, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class EmojiLike:
    """The folder of shards and the rows that were written."""

    folder: Path
    rows: int

    def tree(self, storage: Path, **sections: Any) -> dict[str, Any]:
        """A recipe tree over these shards; sections are merged into it."""
        tree: dict[str, Any] = {
            "name": "shapes",
            "storage": str(storage),
            "data": {
                "root": str(self.folder),
                "train": {"paths": ["train-*.parquet"]},
                "validation": {"paths": ["validation.parquet"]},
                "window_packs": 4,
            },
            "fields": {
                "image": {"modality": "image", "column": "image", "max_size": 16, "patch": 8},
                "caption": {"modality": "text", "column": "caption"},
                "size": {"modality": "table", "numbers": ["width", "height"]},
            },
            "tasks": {"color": {"task": "classification", "column": "color"}},
            "model": {"dim": 32, "head_dim": 16, "field_layers": 1, "joint_layers": 1, "dropout": 0.1},
            "batch": {"token_budget": 256, "global_batch": 4},
            "train": {"steps": 20, "precision": "fp32"},
        }
        for name, section in sections.items():
            tree[name] = {**tree.get(name, {}), **section} if isinstance(section, dict) else section
        return tree

    def recipe(self, storage: Path, **sections: Any) -> Recipe:
        """The recipe of `tree`."""
        return parse_recipe(self.tree(storage, **sections))


def png(rng: np.random.Generator, color: tuple[int, int, int], side: int = 24) -> bytes:
    """A picture of a disc in a color, with noise."""
    image = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
    ImageDraw.Draw(image).ellipse((4, 4, side - 4, side - 4), fill=color)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def make_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of picture, caption, two numbers, label; each field is missing in about a sixth of the rows."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        color = list(COLORS)[int(rng.integers(len(COLORS)))]
        gone = rng.random(3) < 1 / 6
        if gone.all():
            gone[0] = False
        words = " ".join(["a", *["very"] * int(rng.integers(0, 4)), color, "disc"])
        rows.append(
            {
                "key": i,
                "image": None if gone[0] else png(rng, COLORS[color]),
                "caption": None if gone[1] else words,
                "width": None if gone[2] else float(rng.normal()),
                "height": None if gone[2] or rng.random() < 0.3 else float(rng.normal() * 10),
                "color": color,
            }
        )
    return rows


SCHEMA = pa.schema(
    [
        ("key", pa.int64()),
        ("image", pa.binary()),
        ("caption", pa.string()),
        ("width", pa.float64()),
        ("height", pa.float64()),
        ("color", pa.string()),
    ]
)


def write_table(path: Path, rows: list[dict[str, Any]], num_groups: int) -> None:
    """Write rows as one Parquet file of so many row groups."""
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, path, row_group_size=-(-len(rows) // num_groups))


def write_shards(folder: Path, rows: int, seed: int) -> EmojiLike:
    """Write the training shards and one validation shard."""
    folder.mkdir(parents=True, exist_ok=True)
    made = make_rows(rows, seed)
    size = -(-rows // NUM_SHARDS)
    for i in range(NUM_SHARDS):
        part = made[i * size : (i + 1) * size]
        write_table(folder / f"train-{i}.parquet", part, GROUPS_PER_SHARD)
    write_table(folder / "validation.parquet", make_rows(max(rows // 5, 8), seed + 1), 2)
    return EmojiLike(folder=folder, rows=rows)
