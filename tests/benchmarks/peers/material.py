"""The samples that all peers read: pictures like photographs, texts, numbers; as Parquet and as single files."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tests.benchmarks.peers.work import Sample, Work, collate, sums

SIDES = (64, 96)
"""Pixels of the smallest and the largest picture."""
GROUP_ROWS = 512
SHARDS = 16
CLASSES = 10
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("label", pa.int64()),
        ("image", pa.binary()),
        ("text", pa.string()),
        *((name, pa.float64()) for name in "abc"),
    ]
)


def photograph(rng: np.random.Generator, sides: tuple[int, int]) -> bytes:
    """A JPEG of soft colours, three things with edges, and the noise of a sensor."""
    side = int(rng.integers(sides[0], sides[1] + 1))
    image = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        x, y, width, height = rng.integers(0, side, 4).tolist()
        color = tuple(rng.integers(0, 256, 3).tolist())
        draw.ellipse((x, y, x + width // 2 + 1, y + height // 2 + 1), fill=color)
    pixels = np.asarray(image).astype(np.int16) + rng.normal(0, 6, (side, side, 1)).astype(np.int16)
    out = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=88)
    return out.getvalue()


def rows(first: int, count: int, sides: tuple[int, int]) -> Iterator[Sample]:
    """Samples `first .. first + count - 1`; each depends on its number alone."""
    words = vocabulary()
    for number in range(first, first + count):
        rng = np.random.default_rng((1, number))
        chosen = np.minimum(rng.zipf(1.3, int(rng.integers(5, 25))), len(words)) - 1
        yield {
            "id": number,
            "label": int(rng.integers(CLASSES)),
            "image": photograph(rng, sides),
            "text": " ".join(words[i] for i in chosen),
            **dict(zip("abc", (rng.normal(size=3) * (1, 10, 100)).tolist(), strict=True)),
        }


def vocabulary() -> list[str]:
    """2,000 words of two to five syllables."""
    rng = np.random.default_rng(0)
    syllables = [c + v for c in "bdfgklmnprst" for v in "aeiou"]
    return ["".join(rng.choice(syllables, int(rng.integers(2, 6)))) for _ in range(2000)]


def make(folder: Path, samples: int, sides: tuple[int, int] = SIDES) -> Path:
    """The material of so many samples below a folder, unless it is there already."""
    place = folder / f"material-{samples}-{sides[0]}-{sides[1]}"
    if (place / "sums-mixed.npy").exists():
        return place
    for name in ("parquet", "files"):
        (place / name).mkdir(parents=True, exist_ok=True)
    _fit(place)
    found: dict[str, list[np.ndarray]] = {"pictures": [], "mixed": []}
    size = -(-samples // SHARDS)
    for shard, first in enumerate(range(0, samples, size)):
        made = list(rows(first, min(size, samples - first), sides))
        table = pa.Table.from_pylist(made, schema=SCHEMA)
        # pictures are compressed already
        pq.write_table(table, place / "parquet" / f"{shard:03d}.parquet", row_group_size=GROUP_ROWS, compression="none")
        for row in made:
            (place / "files" / f"{row['id']:08d}.jpg").write_bytes(row["image"])
        for workload, known in found.items():
            known.append(sums(collate([Work(folder=str(place), workload=workload)(r) for r in made])))
    for workload, known in found.items():
        np.save(place / f"sums-{workload}.npy", np.concatenate(known))
    return place


def _fit(place: Path) -> None:
    """Write a tokenizer of byte pairs, and what numbers are standardised by."""
    words = vocabulary()
    rng = np.random.default_rng(2)
    texts = [" ".join(words[i] for i in np.minimum(rng.zipf(1.3, 15), len(words)) - 1) for _ in range(2000)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(place / "tokenizer.json"))
    (place / "numbers.json").write_text(json.dumps({"means": [0, 0, 0], "stds": [1, 10, 100]}))
