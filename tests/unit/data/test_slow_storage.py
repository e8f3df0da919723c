"""Laws of reading from a store: few requests, fetched ahead, tried again, and what fails for good costs its rows."""

import errno
import gc
import itertools
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interlace.contract.sample import Pack
from interlace.contract.tables import pack_to_table
from interlace.data.index.build import build_index
from interlace.data.read import ahead as ahead_module
from interlace.data.read.ahead import FETCHES, Ahead
from interlace.data.read.open import open_reader
from interlace.data.read.reader import Reader
from interlace.data.sources import open_source, retry
from interlace.data.sources.retry import GaveUpError, may_pass
from interlace.data.stream import tasks_within
from interlace.recipe.load import parse_recipe
from interlace.train.quarantine import Quarantine
from tests.data import EmojiLike, make_rows
from tests.shards import FORMATS, SETTINGS, source, write_format
from tests.storage import stored


@pytest.fixture(scope="module")
def reader(shapes: EmojiLike, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    recipe = shapes.recipe(tmp_path_factory.mktemp("stored"), data={"window_packs": 8})
    return open_reader(build_index(recipe), recipe, "train", training=True)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.001)


def stream(reader: Reader) -> list[Pack]:
    """The packs of two epochs, by one stream."""
    schedule = reader.plan().schedule(epochs=2)
    return list(reader.stream(schedule.windows, first=0, stop=schedule.stop))


def tables(packs: list[Pack]) -> list[pa.Table]:
    return [pack_to_table(p) for p in packs]


def test_a_stream_is_its_windows_read_alone(reader: Reader) -> None:
    schedule = reader.plan().schedule(epochs=2)
    assert len(schedule.windows) >= 4
    alone = [p for w in schedule.windows for p in reader.read(w, first=0, stop=schedule.stop)]
    assert tables(stream(reader)) == tables(alone)
    half = schedule.stop // 2 + 1
    rest = reader.stream(schedule.since(half), first=half, stop=schedule.stop)
    assert [p.position for p in rest] == list(range(half, schedule.stop))


def test_a_store_that_fails_twice_changes_nothing(reader: Reader) -> None:
    expected = tables(stream(reader))
    faults: dict[tuple[str, str], int] = {}
    kinds = itertools.cycle(
        (TimeoutError("timed out"), ConnectionResetError("reset"), OSError("AWS Error SLOW_DOWN (HTTP status 503)"))
    )

    def fault(kind: str, path: str, offset: int) -> BaseException | None:
        faults[kind, path] = faults.get((kind, path), 0) + 1
        return next(kinds) if faults[kind, path] <= 2 else None

    with stored(fault=fault):
        assert tables(stream(reader)) == expected
    assert {kind for kind, _ in faults} >= {"open", "read"}
    assert all(count > 2 for count in faults.values())


def test_what_fails_for_ever_costs_its_rows_alone(reader: Reader, tmp_path: Path) -> None:
    expected = stream(reader)
    victim = next(g for g in reader.manifest.groups if g.shard.endswith("train-1.parquet") and g.index == 1)
    first = int(reader.manifest.starts[list(reader.manifest.groups).index(victim)])
    lost = set(range(first, first + victim.num_rows))
    pages = [pq.ParquetFile(victim.shard).metadata.row_group(victim.index).column(c) for c in range(6)]
    begin, end = (pages[0].dictionary_page_offset or pages[0].data_page_offset), pages[5].data_page_offset
    failed: list[int] = []

    def fault(kind: str, path: str, offset: int) -> BaseException | None:
        if kind != "read" or path != victim.shard or not begin <= offset <= end:
            return None
        failed.append(offset)
        return OSError(errno.EIO, "Input/output error")

    with stored(fault=fault):
        packs = stream(reader)
    assert len(failed) >= 2 * retry.TRIES
    assert [p.position for p in packs] == [p.position for p in expected]
    assert [p.sample_ids.tolist() for p in packs] == [p.sample_ids.tolist() for p in expected]
    bad = [b for p in packs for b in p.bad]
    assert {b.row for b in bad} == set(range(victim.first_row, victim.first_row + victim.num_rows))
    assert {b.shard for b in bad} == {victim.shard}
    assert all("storage failed at each of 5 tries" in b.reason and "Input/output error" in b.reason for b in bad)
    for pack, whole in zip(packs, expected, strict=True):
        for slot, row in enumerate(pack.sample_ids.tolist()):
            assert all(
                f.lengths[slot] == (0 if row in lost else whole.fields[n].lengths[slot]) for n, f in pack.fields.items()
            )
    quarantine = Quarantine(tmp_path, 0, 1, num_rows=reader.manifest.num_rows, num_bad=0, limit=1.0)
    assert [quarantine.add(p.bad) for p in packs][-1] == victim.num_rows


def test_a_missing_file_is_said_at_once(reader: Reader) -> None:
    (shard,) = {g.shard for g in reader.manifest.groups if "train-2" in g.shard}

    def fault(kind: str, path: str, offset: int) -> BaseException | None:
        return FileNotFoundError(errno.ENOENT, "gone", path) if path == shard else None

    window = reader.plan().schedule(epochs=1).windows[0]
    with stored(fault=fault) as requests:
        packs = list(reader.read(window, first=0, stop=10**9))
    bad = [b for p in packs for b in p.bad]
    groups = {reader.manifest.group(g).shard for g in range(len(reader.manifest.groups))}
    assert shard in groups
    assert {b.shard for b in bad} == {shard}
    assert all("expected a Parquet file, but there is none" in b.reason for b in bad)
    parts = {(b.row - b.row % 5) for b in bad}
    assert len([r for r in requests.made if r[1] == shard]) <= len(parts), "it was tried again"


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (TimeoutError(), True),
        (ConnectionRefusedError(), True),
        (OSError(errno.ETIMEDOUT, "x"), True),
        (OSError("AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 28, Timeout was reached"), True),
        (OSError("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation"), True),
        (OSError("google::cloud::Status(UNAVAILABLE: try again)"), True),
        (OSError("AWS Error ACCESS_DENIED (HTTP status 403) during HeadObject operation"), False),
        (OSError("Couldn't deserialize thrift: TProtocolException: Invalid data"), False),
        (OSError("Corrupt snappy compressed data."), False),
        (FileNotFoundError(errno.ENOENT, "connection"), False),
        (PermissionError(errno.EACCES, "x"), False),
        (GaveUpError("timed out"), False),
    ],
)
def test_what_may_pass_is_tried_again_and_nothing_else(error: OSError, passes: bool) -> None:
    assert may_pass(error) is passes
    tries = 0

    def read() -> None:
        nonlocal tries
        tries += 1
        raise error

    with pytest.raises(GaveUpError if passes else type(error)):
        retry.retried(read, "a shard")
    assert tries == (retry.TRIES if passes else 1)


def test_tries_end_after_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "LIMIT_S", 0.1)
    tries = 0

    def read() -> None:
        nonlocal tries
        tries += 1
        threading.Event().wait(0.06)
        raise TimeoutError("timed out")

    with pytest.raises(GaveUpError, match="each of 2 tries"):
        retry.retried(read, "a shard")
    assert tries == 2


def test_an_index_does_not_take_an_outage_for_bad_rows(shapes: EmojiLike, tmp_path: Path) -> None:
    recipe = shapes.recipe(tmp_path)

    def fault(kind: str, path: str, offset: int) -> BaseException | None:
        return TimeoutError("timed out") if kind == "read" and "train-1" in path else None

    with stored(fault=fault), pytest.raises(GaveUpError, match=r"train-1\.parquet"):
        build_index(recipe)
    assert build_index(recipe).manifests["train"].num_bad == 0


def test_a_row_group_is_one_request_for_columns_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    rng = np.random.default_rng(0)
    columns = {name: [rng.bytes(2000) for _ in range(400)] for name in ("a", "b", "c", "far", "d")}
    pq.write_table(pa.table(columns), path, row_group_size=100, write_statistics=False)
    reader = open_source(source("parquet"))
    group = reader.row_groups(str(path))[2]
    with stored() as requests:
        assert reader.read(group, ["a", "b", "c"]).num_rows == 100
        assert [r[0] for r in requests.made] == ["open", "read", "read"], "expected the footer, then one range"
        requests.made.clear()
        assert reader.read(group, ["a", "b", "c", "d"]).num_rows == 100
        assert [r[0] for r in requests.made] == ["open", "read", "read", "read"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_group_of_spans_is_one_request(name: str, tmp_path: Path) -> None:
    rows = [r for r in make_rows(40, 3) if r["image"] is not None]
    write_format(name, tmp_path, "t", rows)
    path = str(next(p for p in tmp_path.iterdir() if p.is_file()))
    reader = open_source(source(name, group_rows=8, rename=SETTINGS[name].get("rename", {})))
    groups = reader.row_groups(path)
    reader.read(groups[0], ["caption"])
    with stored() as requests:
        for group in groups:
            requests.made.clear()
            assert reader.read(group, ["caption"]).num_rows == group.num_rows
            assert [r[2:] for r in requests.of("read")] == [(group.offset, group.num_bytes)]
    assert len(groups) > 3


def test_files_beside_a_table_in_a_store_are_read_several_at_a_time(tmp_path: Path) -> None:
    rows = [r for r in make_rows(80, 3) if r["image"] is not None]
    write_format("csv", tmp_path, "t", rows)
    reader = open_source(source("csv", files=("image",)))
    (group,) = reader.row_groups(f"{tmp_path}/t.csv")
    with stored(latency_s=0.01) as requests:
        table = reader.read(type(group)(**{**_fields(group), "shard": f"store://{group.shard}"}), ["image"])
    assert table["image"].to_pylist() == [r["image"] for r in rows]
    assert requests.most_at_once == 8


def _fields(group: object) -> dict[str, object]:
    return {name: getattr(group, name) for name in type(group).__dataclass_fields__}


def test_latency_is_hidden_by_fetching_ahead(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    def timed() -> float:
        began = time.perf_counter()
        packs.append(tables(stream(reader)))
        return time.perf_counter() - began

    packs: list[list[pa.Table]] = []
    with stored(latency_s=0.02) as requests:
        ahead = timed()
        most = requests.most_at_once
        monkeypatch.setattr(ahead_module, "AHEAD_BYTES", 0)
        monkeypatch.setattr(Ahead.__init__, "__defaults__", (0,))
        requests.most_at_once = 0
        alone = timed()
    assert packs[0] == packs[1]
    assert 1 < most <= FETCHES
    assert requests.most_at_once == 1
    assert ahead < 0.6 * alone


def test_results_come_in_order_and_bounded() -> None:
    sizes = [5, 50, 1, 1, 200, 3, 3, 3, 90, 7] * 5
    held: list[int] = []
    done: list[int] = []

    def work(job: int) -> int:
        threading.Event().wait(float(np.random.default_rng(job).random()) * 0.01)
        done.append(job)
        return job

    with Ahead(work, lambda job: sizes[job], 100) as ahead:
        ahead.offer(range(len(sizes)))
        for job in range(len(sizes)):
            under_way = [size for _, size in ahead._ahead]
            held.append(sum(under_way))
            assert sum(under_way) <= 100 or len(under_way) == 1
            assert ahead.take() == job
    assert done != sorted(done), "nothing overtook anything"
    assert max(held) == 200


def test_an_error_comes_at_its_place_and_the_rest_goes_on() -> None:
    def work(job: int) -> int:
        if job == 2:
            raise ValueError("two")
        return job

    with Ahead(work, lambda _: 1, 2) as ahead:
        ahead.offer(range(4))
        assert [ahead.take(), ahead.take()] == [0, 1]
        with pytest.raises(ValueError, match="two"):
            ahead.take()
        assert ahead.take() == 3


def test_a_window_holds_its_raw_bytes_once(tmp_path: Path) -> None:
    """Of 24 MB of incompressible records, no second copy: neither tables beside the records, nor all of the columns."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    schema = pa.schema([("t", pa.string()), ("n", pa.float64()), ("unused", pa.binary())])
    for stem, count in (("train-0", 240), ("validation", 8)):
        rows = [{"t": rng.bytes(50_000).hex(), "n": rng.random(), "unused": rng.bytes(50_000)} for _ in range(count)]
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / f"{stem}.parquet", row_group_size=10)
    fields = {"n": {"modality": "table", "numbers": ["n"]}, "t": {"modality": "text", "column": "t", "max_tokens": 8}}
    tree = EmojiLike(folder=folder, rows=240).tree(tmp_path / "out")
    tree |= {"fields": fields, "tasks": {"n": {"task": "regression", "columns": ["n"]}}}
    recipe = parse_recipe(tree)
    reader = open_reader(build_index(recipe), recipe, "train", training=True)
    (window, *_) = reader.plan().schedule(epochs=1).windows
    raw = 240 * 100_000
    pool = pa.default_memory_pool()
    gc.collect()
    before = pool.bytes_allocated()
    tracemalloc.start()
    packs = reader.read(window, first=0, stop=10**9)
    first = next(packs)
    gc.collect()
    python, arrow = tracemalloc.get_traced_memory()[0], pool.bytes_allocated() - before
    tracemalloc.stop()
    share = sum(1 for _ in reader.plan().rows(0, 0)[0]) / 240
    assert len(first.sample_ids) > 0
    assert 0.5 * share * raw < python < 1.1 * share * raw + 2e6
    assert arrow < 0.1 * share * raw
    del packs


def test_windows_in_flight_are_bounded_by_bytes(reader: Reader) -> None:
    assert tasks_within(None, 10) is None
    assert [tasks_within(100, n) for n in (1, 10, 34, 50, 51, 1000)] == [100, 10, 2, 2, 1, 1]
    plan, num_bytes = reader.plan(), reader.manifest.groups.num_bytes
    windows = [
        sum(int(num_bytes[g]) for g in set(_groups(reader, plan.rows(0, w)[0]))) for w in range(len(plan.counts(0)))
    ]
    assert len(set(windows)) > 1
    assert plan.most_in_window(num_bytes) == max(windows)


def _groups(reader: Reader, rows: np.ndarray) -> list[int]:
    return (np.searchsorted(reader.manifest.starts, rows, side="right") - 1).tolist()
