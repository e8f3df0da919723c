"""The position law under Ray Data: order, dealing to ranks, same bytes as the in-process reader."""

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray.data
from ray.data import DataContext, ExecutionOptions

from interlace.contract.tables import pack_to_table, table_to_pack
from interlace.data.index.build import build_index
from interlace.data.plan.plan import Schedule
from interlace.data.read.open import open_reader
from interlace.data.read.reader import Reader
from interlace.data.stream import CPU_SECONDS, GROUPS_PER_TASK, dataset, map_units
from tests.data import EmojiLike

pytestmark = pytest.mark.ray


def jitter(position: int) -> None:
    """Hold a pack back for 0 to 60 ms, differently for each."""
    time.sleep(float(np.random.default_rng(position).random()) * 0.06)


@pytest.fixture(scope="module")
def stream(shapes: EmojiLike, tmp_path_factory: pytest.TempPathFactory) -> tuple[Reader, Schedule]:
    recipe = shapes.recipe(tmp_path_factory.mktemp("stream"))
    reader = open_reader(build_index(recipe), recipe, "train", training=True)
    return reader, reader.plan().schedule(epochs=3)


def consume(
    stream: tuple[Reader, Schedule],
    world_size: int,
    *,
    ordered: bool,
    start: int = 0,
    each_pack: Callable[[int], None] = jitter,
    tasks: int | None = None,
) -> list[list[ray.data.Dataset]]:
    """Each rank's one-row tables, without what they cost, all ranks reading at the same time."""
    reader, schedule = stream
    data = dataset(reader, schedule, start, each_pack=each_pack, tasks=tasks)
    context: DataContext = data.context
    context.execution_options = ExecutionOptions(preserve_order=ordered)
    shards = data.streaming_split(world_size, equal=True)
    tables: list[list[ray.data.Dataset]] = [[] for _ in range(world_size)]

    def read(rank: int) -> None:
        for table in shards[rank].iter_batches(batch_size=None, batch_format="pyarrow"):
            assert table[CPU_SECONDS][0].as_py() > 0
            tables[rank].append(table.drop_columns(CPU_SECONDS))

    threads = [threading.Thread(target=read, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tables


def positions(tables: list) -> list[int]:
    return [t["position"][0].as_py() for t in tables]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_position_p_arrives_at_rank_p_mod_w_with_the_readers_bytes(
    stream: tuple[Reader, Schedule], world_size: int
) -> None:
    reader, schedule = stream
    assert len(schedule.windows) >= 9, "too few windows for tasks to overtake each other"
    expected = [pack_to_table(p) for w in schedule.windows for p in reader.read(w, first=0, stop=schedule.stop)]
    tables = consume(stream, world_size, ordered=True)
    for rank, own in enumerate(tables):
        assert positions(own) == list(range(rank, schedule.stop, world_size))
        assert all(t.num_rows == 1 for t in own)
        assert own == expected[rank::world_size]
    assert sum(len(own) for own in tables) == schedule.stop
    assert len({table_to_pack(t).epoch for own in tables for t in own}) >= 3, "no epoch end was crossed"


def test_without_preserve_order_the_law_breaks(stream: tuple[Reader, Schedule]) -> None:
    """The control: the same consumption with order off must fail, else the test above proves nothing."""
    _, schedule = stream
    tables = consume(stream, 2, ordered=False)
    wrong = [p for rank, own in enumerate(tables) for i, p in enumerate(positions(own)) if p != rank + 2 * i]
    assert len(wrong) > schedule.stop // 10


def test_a_stream_from_the_middle_is_the_rest(stream: tuple[Reader, Schedule]) -> None:
    _, schedule = stream
    start = schedule.stop // 2 // 4 * 4
    tables = consume(stream, 2, ordered=True, start=start)
    for rank, own in enumerate(tables):
        assert positions(own) == list(range(start + rank, schedule.stop, 2))


@pytest.mark.slow
def test_no_more_windows_are_read_at_once_than_are_allowed(stream: tuple[Reader, Schedule], tmp_path: Path) -> None:
    """Each window notes when its packs were made: with a bound of one, none begins before the one before it ended."""
    _, schedule = stream

    def note(position: int) -> None:
        jitter(position)
        (tmp_path / f"{position}").write_text(f"{time.time()}")

    for tasks in (1, 2, None):
        tables = consume(stream, 2, ordered=True, each_pack=note, tasks=tasks)
        for rank, own in enumerate(tables):
            assert positions(own) == list(range(rank, schedule.stop, 2))
        times = [float((tmp_path / f"{p}").read_text()) for p in range(schedule.stop)]
        spans = [(times[w.start], times[min(w.start + w.num_packs, schedule.stop) - 1]) for w in schedule.windows]
        most = max(sum(begin <= at <= end for begin, end in spans) for at, _ in spans)
        assert most <= (tasks or len(spans))
    assert len(spans) >= 9
    assert most > 2, "without a bound no more were read at once: nothing was tested"


def test_data_tasks_never_import_torch(stream: tuple[Reader, Schedule], tmp_path: Path) -> None:
    def probe(position: int) -> None:
        imported = sorted({"torch", "mlflow"} & set(sys.modules))
        (tmp_path / f"{position}").write_text(",".join(imported))

    consume(stream, 1, ordered=True, each_pack=probe)
    seen = {p.name: p.read_text() for p in tmp_path.iterdir()}
    assert len(seen) == stream[1].stop
    assert set(seen.values()) == {""}


def test_units_come_in_order_whoever_is_first() -> None:
    def late(unit: int) -> pa.Table:
        time.sleep(0.5 if unit < GROUPS_PER_TASK else 0.01)
        return pa.table({"twice": [2 * unit] * 3})

    tables = list(map_units(late, range(8 * GROUPS_PER_TASK)))
    assert pa.concat_tables(tables)["twice"].to_pylist() == [
        2 * n for n in range(8 * GROUPS_PER_TASK) for _ in range(3)
    ]
    assert len(tables) >= 8


def test_index_as_a_job_equals_the_index_in_process(shapes: EmojiLike, tmp_path: Path) -> None:
    text = {"modality": "text", "tokenizer": "bpe", "vocab_size": 300, "vocabulary": "joint"}
    fields = {n: {**text, "column": n} for n in ("caption", "color")}
    here = build_index(shapes.recipe(tmp_path / "here", fields=fields))
    there = build_index(shapes.recipe(tmp_path / "there", fields=fields), map_units)
    assert json.dumps(here.fitted) == json.dumps(there.fitted)
    assert len(json.loads(here.fitted["fields"]["color"]["tokenizer"])["model"]["merges"]) > 10
    assert {n: m.digest for n, m in here.manifests.items()} == {n: m.digest for n, m in there.manifests.items()}
    assert list(here.manifests["train"].groups) == list(there.manifests["train"].groups)
