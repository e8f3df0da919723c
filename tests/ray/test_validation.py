"""Validation through Ray Data: each rank its own packs, decoded once; metrics as by reading here, to the bit."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.data
import torch
from ray.data import ExecutionOptions, ExecutionResources

from interlace.contract.batch import to_batch
from interlace.contract.tables import pack_to_table, table_to_pack
from interlace.data.index.build import build_index
from interlace.data.read.open import open_reader
from interlace.data.read.reader import Reader
from interlace.data.read.share import read_share
from interlace.data.stream import CPU_SECONDS, dataset, dataset_beside, read_split
from interlace.recipe.recipe import Recipe
from interlace.results.evaluation import evaluate_model
from interlace.results.predictor import export_model
from interlace.train.build import network_for
from interlace.train.checkpoint import load_weights, newest_checkpoint
from interlace.train.loop import add_states, metric_states
from interlace.train.placement import beside
from interlace.train.run import Prepared, fit, fit_here, open_run, prepare
from interlace.train.validation import in_turn
from tests.counting import counting, decoded
from tests.data import EmojiLike
from tests.ray.test_position_law import jitter
from tests.ray.test_runs import recipe_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

MOST_RANKS = 4


@pytest.fixture(scope="module")
def recipe(shapes: EmojiLike, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return shapes.recipe(tmp_path_factory.mktemp("validation"), batch={"token_budget": 105})


@pytest.fixture(scope="module")
def reader(recipe: Recipe) -> Reader:
    """A split of about fifty packs in file order."""
    return open_reader(build_index(recipe), recipe, "train", training=False)


def ordered(data: ray.data.Dataset, memory: float | None = None) -> ray.data.Dataset:
    limits = ExecutionResources(object_store_memory=memory)
    data.context.execution_options = ExecutionOptions(preserve_order=True, resource_limits=limits)
    return data


def one_pass(shards: list[ray.data.DataIterator], num_packs: int) -> list[list[Any]]:
    """The tables of each rank without what they cost, all ranks reading at the same time and checking their turn."""
    found: list[list[Any]] = [[] for _ in shards]

    def read(rank: int) -> None:
        tables = shards[rank].iter_batches(batch_size=None, batch_format="pyarrow")
        packs = in_turn((table_to_pack(t.drop_columns(CPU_SECONDS)) for t in tables), num_packs, rank, len(shards))
        found[rank] = [pack_to_table(p) for p in packs]

    threads = [threading.Thread(target=read, args=(rank,)) for rank in range(len(shards))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_each_rank_gets_its_own_validation_packs_and_nothing_is_decoded_twice(
    recipe: Recipe, reader: Reader, tmp_path: Path, world_size: int
) -> None:
    expected = [pack_to_table(p) for p in read_share(reader)]
    values = sum(int((f.lengths > 0).sum()) for p in read_share(reader) for f in p.fields.values())
    schedule = reader.plan().schedule(epochs=1)
    assert schedule.stop == len(expected) > 16
    assert schedule.stop % MOST_RANKS, "every rank would have as many packs without those that fill up"
    how = beside(recipe.train, recipe.world_sizes[0], recipe.data.labels, ray.nodes())
    assert how.tasks >= 3, "too few data tasks at a time to overtake each other"
    counted = counting(reader, tmp_path / "decoded")
    data = ordered(dataset_beside(counted, schedule, MOST_RANKS, how, each_pack=jitter))
    shards = data.streaming_split(world_size, equal=True)
    for number in (1, 2):
        found = one_pass(shards, schedule.stop)
        assert found == [expected[rank::world_size] for rank in range(world_size)]
        assert decoded(tmp_path / "decoded") == number * values


@contextmanager
def cpus_left(number: int) -> Iterator[None]:
    """All CPUs of the shared Ray but so many are held by another job's actor during the body."""

    @ray.remote
    class Holder:
        def ready(self) -> bool:
            return True

    holder: Any = Holder.options(num_cpus=int(ray.cluster_resources()["CPU"]) - number).remote()  # type: ignore[attr-defined]
    assert ray.get(holder.ready.remote())
    try:
        yield
    finally:
        ray.kill(holder)


def read_in_thread(data: ray.data.Dataset, found: list[int]) -> threading.Thread:
    shard = data.streaming_split(1, equal=True)[0]

    def read() -> None:
        found.extend(t["position"][0].as_py() for t in shard.iter_batches(batch_size=None, batch_format="pyarrow"))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_training_stream_that_holds_every_cpu_does_not_stop_an_evaluation(
    shapes: EmojiLike, recipe: Recipe, reader: Reader, tmp_path: Path
) -> None:
    """The control, a stream that waits for a CPU, gives nothing until training takes its packs."""
    wide = shapes.recipe(tmp_path, fields={"image": {"modality": "image", "column": "image", "max_size": 256}})
    train = open_reader(build_index(wide), wide, "train", training=True)
    schedule, own = train.plan().schedule(epochs=3), reader.plan().schedule(epochs=1)
    with cpus_left(1):
        shard = ordered(dataset(train, schedule, 0), memory=1e6).streaming_split(1, equal=True)[0]
        training = iter(shard.iter_batches(batch_size=None, batch_format="pyarrow"))
        taken = [next(training)]
        time.sleep(3)
        assert ray.available_resources().get("CPU", 0.0) == 0.0, "the stream of training holds no CPU"
        waiting: list[int] = []
        control = read_in_thread(ordered(dataset(reader, own, 0)), waiting)
        found: list[int] = []
        read_in_thread(
            ordered(
                dataset_beside(
                    reader, own, 1, beside(recipe.train, recipe.world_sizes[0], recipe.data.labels, ray.nodes())
                )
            ),
            found,
        ).join(60)
        assert found == list(range(own.stop))
        assert not waiting, "the control got a CPU, so nothing was shown"
        taken += list(training)
        control.join(60)
    assert [t["position"][0].as_py() for t in taken] == list(range(schedule.stop))
    assert waiting == found


def evaluations(folder: Path) -> dict[int, dict[str, float]]:
    """Validation metrics by step."""
    points = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [(p["step"], {k: v for k, v in p["m"].items() if k.startswith("val/")}) for p in points]
    return {step: metrics for step, metrics in found if metrics}


def read_here(prepared: Prepared, folder: Path, world_size: int) -> dict[str, float]:
    """Metrics of the newest checkpoint, each rank's share read in this process and summed rank by rank."""
    torch.set_num_threads(1)
    network = network_for(prepared.recipe, prepared.index.fitted)
    newest = newest_checkpoint(folder).folder
    assert newest is not None
    load_weights(newest, network)
    total: Any = {name: {} for name in network.tasks}
    for rank in range(world_size):
        packs = read_share(prepared.reader("validation"), rank, world_size)
        batches = [to_batch(p) for p in packs]
        assert batches, "a rank without packs shows nothing"
        add_states(total, metric_states(network, batches, prepared.recipe, torch.device("cpu")))
    return {f"val/{n}/{k}": v for n, s in total.items() for k, v in network.tasks[n].compute(s).items()}


def check(recipe: Recipe, steps: int) -> None:
    """Train, and compare what the last evaluation gave with the checkpoint's metrics by reading here."""
    prepared = prepare(recipe, map)
    with open_run(prepared) as run:
        fit(run, prepared)
    found = evaluations(run.folder)
    assert sorted(found) == [steps // 2, steps]
    assert found[steps] == read_here(prepared, run.folder, recipe.world_sizes[-1])
    assert found[steps] != found[steps // 2]
    assert len(found[steps]) >= 2


def small(shapes: EmojiLike, folder: Path, **train: Any) -> Recipe:
    recipe = recipe_for(shapes, folder, steps=6, eval_every=3, trace=False, **train)
    batch = recipe.batch.model_copy(update={"token_budget": 100})
    return recipe.model_copy(update={"batch": batch})


@pytest.mark.slow
def test_validation_through_ray_equals_reading_here(shapes: EmojiLike, tmp_path: Path) -> None:
    check(small(shapes, tmp_path), 6)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_validation_of_two_workers_equals_reading_here(shapes: EmojiLike, tmp_path: Path, parallel: str) -> None:
    check(small(shapes, tmp_path, workers=2, parallel=parallel), 6)


@pytest.mark.slow
def test_one_cpu_for_data_is_enough(shapes: EmojiLike, tmp_path: Path) -> None:
    with cpus_left(2):
        check(small(shapes, tmp_path, cpus_per_worker=1.0), 6)


def test_the_report_by_data_tasks_is_the_report_by_reading_here(
    shapes: EmojiLike, recipe: Recipe, reader: Reader, tmp_path: Path
) -> None:
    prepared = prepare(small(shapes, tmp_path), map)
    with open_run(prepared) as run:
        fit_here(run, prepared)
    newest = newest_checkpoint(run.folder).folder
    assert newest is not None
    export_model(prepared.recipe, prepared.index.fitted, newest, tmp_path / "model")
    counted = counting(prepared.reader("train"), tmp_path / "decoded")
    there = evaluate_model(tmp_path / "model", counted, "train", read_split)
    once = decoded(tmp_path / "decoded")
    here = evaluate_model(tmp_path / "model", counted, "train")
    assert decoded(tmp_path / "decoded") == 2 * once > 0
    assert [(r.fields, r.metrics, r.weights) for r in there.results] == [
        (r.fields, r.metrics, r.weights) for r in here.results
    ]
    assert len(there.results) == 7
    assert [pack_to_table(p) for p in read_split(reader)] == [pack_to_table(p) for p in read_share(reader)]
