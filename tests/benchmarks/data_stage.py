"""CPU of the data stage against a plain loop of the same decoding.

Run `python -m tests.benchmarks.data_stage RECIPE [ROOT] [no-ray]`.

Reads the training split of an image-and-text recipe (emoji.yaml) several times over and prints CPU seconds for 1,000
samples: a plain loop (read Parquet, Pillow, tokenizer, numpy; no hashes, no packs), the reader in this process, and the
same under Ray Data (CPU of the data tasks only), each without augmentation; then the reader with it.
"""

import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from ray.data import ExecutionOptions
from tokenizers import Tokenizer

from interlace.cluster.connect import connect
from interlace.data.index.build import Index, build_index
from interlace.data.read.open import open_reader
from interlace.data.sources import find_shards
from interlace.data.stream import dataset
from interlace.recipe.fields import ImageField, TextField
from interlace.recipe.load import load_recipe
from interlace.recipe.recipe import Recipe

EPOCHS = 4


def cpu(work: Callable[[], int]) -> float:
    """CPU seconds for 1,000 samples of `work`, which returns how many samples it saw."""
    began = time.process_time()
    count = work()
    return (time.process_time() - began) / count * 1000


def plain(recipe: Recipe, index: Index) -> int:
    """The decoding by hand."""
    count = 0
    texts = {n: tokenize(f, index.fitted["fields"][n]) for n, f in recipe.fields.items() if isinstance(f, TextField)}
    for _ in range(EPOCHS):
        for shard in find_shards(recipe.data.splits()["train"][0].paths, recipe.data.root):
            for row in pq.read_table(shard, columns=list(recipe.columns()), use_threads=False).to_pylist():
                for name, field in recipe.fields.items():
                    value = row[field.columns[0]]
                    if value is None:
                        continue
                    if isinstance(field, ImageField):
                        decode_picture(value, field)
                    else:
                        np.array(texts[name](value), np.int32)
                count += 1
    return count


def tokenize(field: TextField, fitted: Mapping[str, Any]) -> Callable[[str], list[int]]:
    """A tokenizer by hand."""
    if field.tokenizer == "bytes":
        return lambda text: list(text.encode())
    if field.tokenizer == "bpe":
        pairs = Tokenizer.from_str(fitted["tokenizer"])
        return lambda text: pairs.encode(text).ids
    known = {piece: i for i, piece in enumerate(fitted["characters" if field.tokenizer == "characters" else "grams"])}
    if field.tokenizer == "characters":
        return lambda text: [known.get(c, 0) for c in text]
    length = field.ngram
    return lambda text: [
        known.get(word[i : i + length], 0)
        for word in (f" {w} " for w in text.casefold().split())
        for i in range(max(1, len(word) - length + 1))
    ]


def decode_picture(value: bytes, field: ImageField) -> np.ndarray:
    """Pillow by hand: composite on white, shrink, cut into patches."""
    image = Image.open(io.BytesIO(value))
    if image.mode in ("RGBA", "LA", "P"):
        whole = image.convert("RGBA")
        paper = Image.new("RGBA", whole.size, (255, 255, 255, 255))
        image = Image.alpha_composite(paper, whole)
    image = image.convert("RGB")
    if max(image.size) > field.max_size:
        scale = field.max_size / max(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    side, patch = pixels.shape[0] // field.patch, field.patch
    return pixels[: side * patch, : side * patch].reshape(side, patch, side, patch, 3).swapaxes(1, 2).copy()


def in_process(recipe: Recipe, index: Index, *, training: bool) -> int:
    """The reader without Ray."""
    reader = open_reader(index, recipe, "train", training=training)
    plan = reader.plan()
    schedule = plan.schedule(epochs=EPOCHS)
    packs = (p for w in schedule.windows for p in reader.read(w, first=0, stop=schedule.stop, plan=plan))
    return sum(len(p.sample_ids) for p in packs)


def under_ray(recipe: Recipe, index: Index) -> float:
    """CPU seconds for 1,000 samples inside data tasks, from their first pack on."""
    reader = open_reader(index, recipe, "train", training=False)
    schedule = reader.plan().schedule(epochs=EPOCHS)
    notes = Path(tempfile.mkdtemp())

    def note(position: int) -> None:
        path = notes / str(os.getpid())
        times = json.loads(path.read_text()) if path.exists() else [time.process_time(), 0.0, 0]
        path.write_text(json.dumps([times[0], time.process_time(), times[2] + 1]))

    data = dataset(reader, schedule, 0, each_pack=note)
    data.context.execution_options = ExecutionOptions(preserve_order=True)
    samples = sum(len(t["sample_ids"][0]) for t in data.iter_batches(batch_size=None, batch_format="pyarrow"))
    found = [json.loads(p.read_text()) for p in notes.iterdir()]
    packs = sum(n for _, _, n in found)
    seconds = sum(last - first for first, last, _ in found)
    return seconds / (packs - len(found)) * packs / samples * 1000


def main() -> None:
    """Measure and print a table."""
    words = [word for word in sys.argv[1:] if word != "no-ray"]
    root = [f"data.root={words[1]}"] if len(words) > 1 else []
    recipe = load_recipe(words[0], [f"storage={tempfile.mkdtemp()}", *root])
    index = build_index(recipe)
    plain(recipe, index)  # warm
    base = cpu(lambda: plain(recipe, index))
    rows = {
        "plain loop": base,
        "reader in process": cpu(lambda: in_process(recipe, index, training=False)),
    }
    if "no-ray" not in sys.argv:
        connect()
        rows["data tasks under Ray"] = under_ray(recipe, index)
    rows["reader in process, with augmentation"] = cpu(lambda: in_process(recipe, index, training=True))
    for name, value in rows.items():
        sys.stdout.write(f"{name:40s} {value:7.3f} CPU-s per 1,000 samples   {value / base:5.2f} x\n")


if __name__ == "__main__":
    main()
