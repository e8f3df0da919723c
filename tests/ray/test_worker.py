"""The worker's duties around the loop, without a trainer: quarantine, early stop, checkpoints, resume rules."""

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from interlace.contract.errors import BadShareError, ResumeError
from interlace.contract.sample import Pack
from interlace.data.index.build import build_index
from interlace.data.read.open import open_reader
from interlace.data.read.share import read_share
from interlace.recipe.recipe import Recipe
from interlace.store.lock import DRIVER, held
from interlace.train.checkpoint import checkpoint_folder, chosen_checkpoint, newest_checkpoint
from interlace.train.run import Prepared, _job, open_run, prepare
from interlace.train.worker import Worker
from tests.counting import counting, decoded
from tests.data import EmojiLike, make_rows, write_shards, write_table

pytestmark = pytest.mark.ray


def packs(prepared: Prepared, start: int = 0) -> Iterator[Pack]:
    reader = open_reader(prepared.index, prepared.recipe, "train", training=True)
    for window in prepared.schedule.since(start):
        yield from reader.read(window, first=start, stop=prepared.schedule.stop)


def work(recipe: Recipe, name: str = "run") -> tuple[Path, Worker]:
    """Run a recipe through one worker in this process."""
    prepared = prepare(recipe, map)
    with open_run(prepared, name) as run, Worker(_job(run, prepared), 0, 1) as worker:
        worker.run(packs(prepared, worker.state.step * recipe.batch.global_batch))
    return run.folder, worker


def spoil(data: EmojiLike, rows: range) -> None:
    """Cut pictures of the first shard in half, so that their headers are whole and their pixels are not."""
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(out, "PNG")
    table = pq.read_table(data.folder / "train-0.parquet").to_pylist()
    for row in rows:
        table[row]["image"] = out.getvalue()[: out.tell() // 2]
    write_table(data.folder / "train-0.parquet", table, 4)


def test_one_bad_record_is_quarantined_once_and_the_run_ends_well(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", rows=120, seed=1)
    spoil(data, range(3, 4))
    folder, _ = work(data.recipe(tmp_path / "out", train={"steps": 12}))
    lines = [json.loads(x) for x in (folder / "quarantine-0.jsonl").read_text().splitlines()]
    assert [(Path(x["shard"]).name, x["row"]) for x in lines] == [("train-0.parquet", 3)]
    assert "field `image`" in lines[0]["reason"]
    points = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    epochs = {x["m"]["train/epoch"] for x in points if "train/epoch" in x["m"]}
    assert len(epochs) >= 3, "the record was met only once"
    assert points[-1]["m"].get("data/bad_records", 1.0) == 1.0
    state = newest_checkpoint(folder).state
    assert state is not None
    assert state.finished


def test_too_many_bad_records_stop_the_run(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", rows=120, seed=1)
    spoil(data, range(10))
    with pytest.raises(BadShareError, match=r"of 120 training records are bad .* `data.max_bad_share` is 1.00%"):
        work(data.recipe(tmp_path / "out", train={"steps": 12}))


def test_early_stop_ends_the_run_and_resuming_does_nothing(shapes: EmojiLike, tmp_path: Path) -> None:
    recipe = shapes.recipe(
        tmp_path, train={"steps": 200, "eval_every": 2, "patience": 2}, optim={"lr": 1e-9, "schedule": "constant"}
    )
    folder, worker = work(recipe)
    assert worker.state.finished
    assert worker.state.evaluations_since_best == 2
    assert worker.state.step < 200
    said = f"stopped early, after step {worker.state.step}: 2 evaluations were no better than that of step 2"
    assert said in (folder / "events.jsonl").read_text()
    again, resumed = work(recipe)
    assert (again, resumed.state) == (folder, worker.state)


def test_a_metric_that_is_not_a_number_is_neither_the_best_nor_without_improvement(tmp_path: Path) -> None:
    """A validation split without labels: the run goes to its end, and its last checkpoint is the model's."""
    data = write_shards(tmp_path / "data", rows=60, seed=1)
    path = data.folder / "validation.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("color")
    field = table.schema.field(place)
    pq.write_table(table.set_column(place, field, pa.nulls(table.num_rows, field.type)), path)
    folder, worker = work(data.recipe(tmp_path / "out", train={"steps": 8, "eval_every": 2, "patience": 1}))
    state = worker.state
    assert (state.step, state.best_step, state.evaluations_since_best) == (8, -1, 0)
    assert chosen_checkpoint(folder, "best") == (checkpoint_folder(folder, 8), None)
    assert "color/accuracy is not a number" in (folder / "events.jsonl").read_text()


def test_a_rate_that_follows_evaluations_goes_on_after_a_kill(shapes: EmojiLike, tmp_path: Path) -> None:
    """Accuracy stands still at so small a rate, so the rate falls again and again."""
    optim = {"lr": 1e-7, "schedule": "plateau", "patience": 1, "gamma": 0.5, "warmup": 0.0, "final_share": 0.05}

    def recipe(folder: str, **train: Any) -> Recipe:
        return shapes.recipe(tmp_path / folder, optim=optim, train={"steps": 9, "eval_every": 1, **train})

    def rates(folder: Path) -> dict[int, float]:
        points = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
        return {x["step"]: x["m"]["train/lr"] / 1e-7 for x in points if "train/lr" in x["m"]}

    whole, worker = work(recipe("whole", checkpoint_every=4))
    assert worker.state.rate_scale < 0.2
    killed, _ = work(recipe("killed", checkpoint_every=4))
    shutil.rmtree(checkpoint_folder(killed, 9))
    shutil.rmtree(checkpoint_folder(killed, 8))
    again, resumed = work(recipe("killed", checkpoint_every=4))
    assert again == killed
    assert rates(killed) == rates(whole)
    assert resumed.state == worker.state
    assert len(set(rates(whole).values())) >= 3


def refused(recipe: Recipe) -> str:
    with pytest.raises(ResumeError) as caught, open_run(prepare(recipe, map), "run"):
        pass
    return str(caught.value)


def test_a_run_refuses_to_go_on_as_something_else_and_says_what_differs(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", rows=60, seed=1)

    def recipe(**sections: Any) -> Recipe:
        return data.recipe(tmp_path / "out", **sections)

    work(recipe(train={"steps": 3}))
    assert "batch.token_budget: the run has 256, the recipe 200" in refused(
        recipe(train={"steps": 3}, batch={"token_budget": 200, "global_batch": 4})
    )
    text = refused(recipe(train={"steps": 3}, model={"dim": 64, "head_dim": 16}, seed=3))
    assert "model.dim: the run has 32, the recipe 64" in text
    assert "seed: the run has 0, the recipe 3" in text
    assert "length: the run has 3 steps, the recipe 2; it can only grow" in refused(recipe(train={"steps": 2}))
    work(recipe(train={"steps": 3, "workers": 2, "cpus_per_worker": 0.5}))  # another place is no other run
    write_table(data.folder / "train-0.parquet", make_rows(20, 77), 4)
    assert "data of split `train`: the run has manifest" in refused(recipe(train={"steps": 3}))
    build_index(recipe(train={"steps": 3}))


def test_a_finished_run_goes_on_to_a_greater_length(shapes: EmojiLike, tmp_path: Path) -> None:
    """Each step once, by the samples of a run that was so long from the start, at the rate of that length."""

    def recipe(folder: str, steps: int, **train: Any) -> Recipe:
        return shapes.recipe(tmp_path / folder, train={"steps": steps, "eval_every": 4, "checkpoint_every": 4, **train})

    def points(folder: Path, name: str) -> list[tuple[int, float]]:
        lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
        return [(x["step"], x["m"][name]) for x in lines if name in x["m"]]

    whole, _ = work(recipe("whole", 12))
    folder, first = work(recipe("grown", 6))
    assert first.state.finished
    for _ in range(2):  # the second time nothing is left
        again, worker = work(recipe("grown", 12))
        assert (again, worker.state.step, worker.state.finished) == (folder, 12, True)
        losses, rates = points(folder, "train/loss"), points(folder, "train/lr")
        assert [step for step, _ in losses] == list(range(1, 13))
        assert rates[6:] == points(whole, "train/lr")[6:]
        assert rates[:6] != points(whole, "train/lr")[:6]
    assert points(folder, "train/epoch")[6:] == points(whole, "train/epoch")[6:]
    assert "it can only grow" in refused(recipe("grown", 6))


def test_a_run_that_stopped_early_stays_ended_however_long_it_may_be(shapes: EmojiLike, tmp_path: Path) -> None:
    def recipe(steps: int) -> Recipe:
        train = {"steps": steps, "eval_every": 2, "patience": 2}
        return shapes.recipe(tmp_path, train=train, optim={"lr": 1e-9, "schedule": "constant"})

    _, worker = work(recipe(200))
    _, again = work(recipe(400))
    assert again.state == worker.state
    assert worker.state.step < 200


def test_two_processes_never_hold_one_run(shapes: EmojiLike, tmp_path: Path) -> None:
    prepared = prepare(shapes.recipe(tmp_path), map)
    with (
        open_run(prepared, "run") as run,
        pytest.raises(ResumeError, match="held by another process"),
        held(run.folder / DRIVER),
    ):
        pass
    with (
        pytest.raises(ResumeError, match=r"--resume: expected a run `none`.*\(there: run\)"),
        open_run(prepared, "none", resume=True),
    ):
        pass
    with open_run(prepared, "run", fresh=True) as other:
        assert other.name == "run-2"


def test_validation_is_decoded_once(shapes: EmojiLike, tmp_path: Path) -> None:
    prepared = prepare(shapes.recipe(tmp_path), map)
    reader = prepared.reader("validation")
    share = partial(read_share, counting(reader, tmp_path / "decoded"))
    with open_run(prepared, "run") as run, Worker(replace(_job(run, prepared), validation=share), 0, 1) as worker:
        validation = worker.validation
        assert validation is not None
        first = list(validation.packs())
        once = decoded(tmp_path / "decoded")
        assert [p.position for p in validation.packs()] == [p.position for p in first]
    assert decoded(tmp_path / "decoded") == once > 0
    assert sum(len(p.sample_ids) for p in first) == reader.manifest.num_rows
