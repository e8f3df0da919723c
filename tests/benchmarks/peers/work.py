"""The work that every peer is given: the same decoding of the same samples, and batches of arrays.

Runs in the environments of the peers, so it knows numpy, Pillow and `tokenizers` alone. A *sample* is a mapping of
`id`, `label`, `image` (JPEG) and, in the mixed workload, `text` and the numbers `a`, `b`, `c`. A *batch* is a mapping
of arrays: `ids` and `labels` int64 `[n]`, `pixels` uint8 `[n, SIDE, SIDE, 3]`, and `tokens` int32 `[n, MOST_TOKENS]`
padded with zeros, `lengths` int64 `[n]`, `numbers` float32 `[n, 3]`.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 64
"""Pixels of a decoded picture, both ways."""
MOST_TOKENS = 64
NUMBERS = ("a", "b", "c")
COLUMNS = {"pictures": ("id", "label", "image"), "mixed": ("id", "label", "image", "text", *NUMBERS)}
"""Workload -> what a sample holds."""

Sample = Mapping[str, Any]
Batch = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one measurement is of.

    Args:
        folder: of the material: shards in `parquet/`, single files in `files/`, `tokenizer.json`, `numbers.json`.
        own: folder of the peer's own format.
        workload: `pictures` or `mixed`.
        samples: in a pass.
        batch: samples in a batch.
        workers: processes that decode; 0 decodes in the process that reads.
        seed: of the order.
    """

    folder: str
    own: str
    workload: str
    samples: int
    batch: int
    workers: int
    seed: int = 0

    def to_json(self) -> str:
        """As an argument of a driver."""
        return json.dumps(asdict(self))

    @property
    def columns(self) -> tuple[str, ...]:
        """What a sample holds."""
        return COLUMNS[self.workload]

    @property
    def shards(self) -> list[str]:
        """The Parquet files."""
        return [str(path) for path in sorted(Path(self.folder, "parquet").glob("*.parquet"))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Decoding of samples of one workload; small enough to be sent to workers."""

    folder: str
    workload: str

    def __call__(self, sample: Sample) -> dict[str, Any]:
        """Arrays of one sample."""
        found = {"id": sample["id"], "label": sample["label"], "pixels": decode_picture(sample["image"])}
        if self.workload == "mixed":
            tokenize, means, stds = _tools(self.folder)
            ids = tokenize(sample["text"])[:MOST_TOKENS]
            tokens = np.zeros(MOST_TOKENS, np.int32)
            tokens[: len(ids)] = ids
            numbers = (np.array([sample[n] for n in NUMBERS]) - means) / stds
            found |= {"tokens": tokens, "length": len(ids), "numbers": numbers.astype(np.float32)}
        return found

    def columns(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """A batch of samples given as columns, as arrays."""
        names = COLUMNS[self.workload]
        rows = zip(*(batch[n] for n in names), strict=True)
        return collate([self(dict(zip(names, row, strict=True))) for row in rows])


def decode_picture(content: bytes) -> np.ndarray:
    """RGB pixels uint8 `[SIDE, SIDE, 3]`, shrunk by Pillow; a large JPEG is decoded smaller, as Interlace does."""
    image = Image.open(io.BytesIO(content))
    least = 2 * SIDE
    draft = image.draft(None, (least, least)) if min(image.size) // least > 1 else None
    image = image.convert("RGB")
    if image.size != (SIDE, SIDE):
        box = draft[1] if draft else None
        image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    return np.asarray(image)


@lru_cache(maxsize=1)
def _tools(folder: str) -> tuple[Callable[[str], list[int]], np.ndarray, np.ndarray]:
    """The tokenizer, and mean and deviation of the numbers."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    known = json.loads(Path(folder, "numbers.json").read_text())
    return lambda text: tokenizer.encode(text).ids, np.array(known["means"]), np.array(known["stds"])


def collate(decoded: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """A batch of decoded samples."""
    batch = {
        "ids": np.array([d["id"] for d in decoded], np.int64),
        "labels": np.array([d["label"] for d in decoded], np.int64),
        "pixels": np.stack([d["pixels"] for d in decoded]),
    }
    if "tokens" in decoded[0]:
        batch |= {
            "tokens": np.stack([d["tokens"] for d in decoded]),
            "lengths": np.array([d["length"] for d in decoded], np.int64),
            "numbers": np.stack([d["numbers"] for d in decoded]),
        }
    return batch


def collate_tensors(decoded: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch as tensors, which torch's workers hand on through shared memory."""
    import torch

    return {name: torch.from_numpy(array) for name, array in collate(decoded).items()}


def sums(batch: Batch) -> np.ndarray:
    """What tells whether samples were decoded right: sum of the pixels plus sum of the tokens, int64 `[n]`."""
    pixels = np.asarray(batch["pixels"])
    found = pixels.reshape(len(pixels), -1).sum(1, dtype=np.int64)
    return found + np.asarray(batch["tokens"]).sum(1, dtype=np.int64) if "tokens" in batch else found


def read_rows(paths: Iterable[str], columns: Sequence[str]) -> Iterator[Sample]:
    """Samples of Parquet files, row group by row group."""
    import pyarrow.parquet as pq

    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group, columns=list(columns), use_threads=False).to_pylist()
