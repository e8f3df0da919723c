"""Seconds of an evaluation while training: packs through Ray Data against packs read by the worker itself.

Run `python -m tests.benchmarks.validation [ROWS]`.

Trains one worker on a Ray of four CPUs, so that three are left to data tasks, on pictures that fill the memory of no
worker, once with each way of reading. Prints the seconds of each evaluation and compares the
metrics of both, which must be the same; then the seconds of reading the same packs for the report.
"""

import io
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from interlace.cluster.connect import connect
from interlace.data.read.share import read_share
from interlace.data.stream import map_units, read_split
from interlace.recipe.recipe import Recipe
from interlace.train import run as running
from interlace.train.run import Prepared, fit, open_run, prepare
from tests.data import EmojiLike, make_rows, write_table
from tests.training import Lines

ROWS, SIDE, STEPS = 1500, 640, 12
CPUS = 4


def photographs(folder: Path, rows: int) -> EmojiLike:
    """Shards of JPEGs as large as a photograph of a shop; each with noise of its own."""
    rng = np.random.default_rng(0)
    made = make_rows(rows, 0)
    for row in made:
        coarse = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))
        out = io.BytesIO()
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        row["image"] = out.getvalue()
    folder.mkdir()
    write_table(folder / "train-0.parquet", made[: rows // 10], 4)
    write_table(folder / "validation.parquet", made, 16)
    return EmojiLike(folder=folder, rows=rows)


def evaluations(prepared: Prepared, name: str) -> list[tuple[float, dict[str, float]]]:
    """Seconds and metrics of each evaluation of a run."""
    with open_run(prepared, name) as run:
        fit(run, prepared)
    points = [json.loads(x)["m"] for x in (run.folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in m.items() if k.startswith("val/")} for m in points]
    return [(m["time/evaluate_s"], own) for m, own in zip(points, metrics, strict=True) if "time/evaluate_s" in m]


def recipe_of(data: EmojiLike, folder: Path) -> Recipe:
    """Pictures of so many pixels that their packs are not kept."""
    return data.recipe(
        folder,
        fields={"image": {"modality": "image", "column": "image", "max_size": 256, "patch": 16}},
        batch={"token_budget": 2048, "global_batch": 1},
        train={"steps": STEPS, "eval_every": STEPS // 3, "precision": "fp32", "threads": 1},
    )


def main(rows: int) -> int:
    """Measure and print; 1 if the metrics differ."""
    lines = Lines()
    with tempfile.TemporaryDirectory() as place:
        connect(local_cpus=CPUS)
        prepared = prepare(recipe_of(photographs(Path(place) / "data", rows), Path(place)), map_units)
        reader = prepared.reader("validation")
        ray = evaluations(prepared, "ray")
        running.dealt = lambda num_packs, rank, world_size: read_share(reader, rank, world_size)
        here = evaluations(prepared, "here")
        print(f"{rows} pictures of {SIDE} x {SIDE}, {reader.plan().schedule(epochs=1).stop} packs")  # noqa: T201
        for name, found in (("through Ray Data", ray), ("read by the worker", here)):
            print(f"{name}: " + ", ".join(f"{s:.1f} s" for s, _ in found))  # noqa: T201
        lines.check("the metrics are the same", [m for _, m in ray] == [m for _, m in here] and len(ray) == 3)
        for name, packs in (("data tasks", read_split(reader)), ("this process", read_share(reader))):
            began = time.perf_counter()
            count = sum(1 for _ in packs)
            print(f"{count} packs for a report by {name}: {time.perf_counter() - began:.1f} s")  # noqa: T201
    return lines.failed


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS))
