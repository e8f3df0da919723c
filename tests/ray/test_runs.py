"""Whole runs under Ray Train against the undisturbed run in this process."""

import io
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
from PIL import Image

from interlace.data.read.open import open_reader
from interlace.data.stream import map_units
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from interlace.train.checkpoint import MODEL, checkpoint_folder, newest_checkpoint
from interlace.train.run import _job, fit, open_run, prepare
from interlace.train.worker import Worker
from tests.data import COLORS, SCHEMA, EmojiLike, make_rows, write_shards
from tests.ray.reference import read_traces, run_here

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

STEPS = 20


def train(recipe: Recipe) -> Path:
    """Train a recipe on the shared Ray; its run folder."""
    prepared = prepare(recipe, map_units)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with open_run(prepared) as run:
        fit(run, prepared)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    return run.folder


def journal_losses(folder: Path) -> dict[int, float]:
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [(x["step"], x["m"]["train/loss"]) for x in lines if "train/loss" in x["m"]]
    assert len(found) == len(dict(found)), "a step was journaled twice"
    return dict(found)


def kill_when(condition: Callable[[], bool], find: Callable[[], list[psutil.Process]], killed: list[int]) -> None:
    """Kill -9 the first process found once the condition holds."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if condition() and (found := find()):
            os.kill(found[0].pid, signal.SIGKILL)
            killed.append(found[0].pid)
            return
        time.sleep(0.02)


def processes(title: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if title in " ".join(process.info["cmdline"] or []):
            found.append(process)
    return found


def recipe_for(data: EmojiLike, storage: Path, **train: Any) -> Recipe:
    settings = {"steps": STEPS, "precision": "fp32", "trace": True, "threads": 1, "cpus_per_worker": 0.5, **train}
    return data.recipe(storage, train=settings)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> EmojiLike:
    """A set whose pictures take so long to decode that data tasks are at work during the whole run."""
    folder = tmp_path_factory.mktemp("slow")
    data = write_shards(folder, rows=96, seed=3)
    big = {name: png_of(color) for name, color in COLORS.items()}
    rows = make_rows(96, 3)
    for i in range(3):
        part = [{**r, "image": big[r["color"]]} for r in rows[i * 32 : (i + 1) * 32]]
        pq.write_table(pa.Table.from_pylist(part, schema=SCHEMA), folder / f"train-{i}.parquet", row_group_size=8)
    return data


def png_of(color: tuple[int, int, int], side: int = 1400) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), color).save(out, "PNG", compress_level=1)
    return out.getvalue()


@pytest.mark.slow
def test_two_workers_equal_one(shapes: EmojiLike, tmp_path: Path) -> None:
    """One worker is the loop in this process; that it equals one worker under Ray is seen in the test below."""
    reference = run_here(recipe_for(shapes, tmp_path / "reference"))
    assert len(reference.losses) == STEPS
    folder = train(recipe_for(shapes, tmp_path / "two", workers=2))
    traces, again = read_traces(folder)
    assert again == 0
    assert {k: ids for k, (ids, _) in traces.items()} == {k: ids for k, (ids, _) in reference.packs.items()}
    losses = journal_losses(folder)
    assert losses.keys() == reference.losses.keys()
    assert max(abs(losses[s] - reference.losses[s]) for s in losses) < 1e-5
    assert len(list(folder.glob("trace-*.jsonl"))) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sharded_workers_equal_one_and_one_goes_on_from_their_checkpoint(shapes: EmojiLike, tmp_path: Path) -> None:
    reference = run_here(recipe_for(shapes, tmp_path / "reference"))
    sharded = {"parallel": "fsdp", "checkpoint_every": 10, "eval_every": 10}
    folder = train(recipe_for(shapes, tmp_path / "run", workers=2, **sharded))
    losses = journal_losses(folder)
    assert losses.keys() == reference.losses.keys()
    assert max(abs(losses[s] - reference.losses[s]) for s in losses) < 1e-5
    values = [x["m"] for x in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())]
    assert sum("val/color/accuracy" in m for m in values) == 2

    shutil.rmtree(checkpoint_folder(folder, STEPS))
    assert len(list(checkpoint_folder(folder, STEPS // 2).glob("*-of-00002.safetensors"))) == 4
    before = len((folder / "trace-0.jsonl").read_text().splitlines())
    recipe = recipe_for(shapes, tmp_path / "run", **sharded)
    prepared = prepare(recipe, map)
    with open_run(prepared, folder.name) as run, Worker(_job(run, prepared), 0, 1) as worker:
        assert worker.state.step == STEPS // 2
        reader = open_reader(prepared.index, prepared.recipe, "train", training=True)
        first, stop = STEPS // 2 * recipe.batch.global_batch, prepared.schedule.stop
        worker.run(p for w in prepared.schedule.since(first) for p in reader.read(w, first=first, stop=stop))
    again: dict[int, float] = {}
    for line in (folder / "trace-0.jsonl").read_text().splitlines()[before:]:
        again[json.loads(line)["step"]] = again.get(json.loads(line)["step"], 0.0) + json.loads(line)["loss"]
    assert again.keys() == set(range(STEPS // 2 + 1, STEPS + 1))
    assert max(abs(again[s] - reference.losses[s]) for s in again) < 1e-5


def mixed(recipe: Recipe) -> Recipe:
    """The recipe with its shards as three sources of different weights."""
    tree = recipe.model_dump(mode="json")
    weights = zip("abc", (0.5, 0.3, 0.2), strict=True)
    mix = {n: {"paths": [f"train-{i}.parquet"], "weight": w} for i, (n, w) in enumerate(weights)}
    tree["data"] |= {"train": None, "mix": mix, "mix_rows": 40}
    return parse_recipe(tree)


@pytest.mark.slow
def test_killed_data_worker_and_killed_training_worker_change_nothing(slow: EmojiLike, tmp_path: Path) -> None:
    """One run of a mix, killed twice in an epoch: a data task's process first, then the training worker."""
    steps = 14
    recipe = mixed(recipe_for(slow, tmp_path / "run", steps=steps, checkpoint_every=3))
    reference = run_here(mixed(recipe_for(slow, tmp_path / "reference", steps=steps)))
    runs = Path(recipe.storage) / "runs"

    def packs_done(count: int) -> Callable[[], bool]:
        return lambda: any(len(p.read_text().splitlines()) > count for p in runs.glob("*/trace-0.jsonl"))

    data_tasks: list[int] = []
    workers: list[int] = []

    def kill_both() -> None:
        kill_when(packs_done(8), lambda: processes("ray::MapBatches(read)"), data_tasks)
        kill_when(packs_done(4 * 7), lambda: processes("ray::RayTrainWorker"), workers)

    killer = threading.Thread(target=kill_both)
    killer.start()
    folder = train(recipe)
    killer.join()
    assert data_tasks, "no data worker was killed"
    assert workers, "no training worker was killed"
    traces, again = read_traces(folder)
    assert again > 0, "no step was computed twice: the kill came too late"
    assert traces == reference.packs
    assert journal_losses(folder) == reference.losses
    newest = newest_checkpoint(folder)
    assert newest.folder is not None
    assert newest.state is not None
    assert newest.state.finished
    weights = safetensors.torch.load_file(newest.folder / MODEL)
    assert weights.keys() == reference.weights.keys()
    assert all(weights[k].equal(reference.weights[k]) for k in weights)
