"""Laws of Parquet row groups too large to be read at once: slices of rows give the same rows, in bounded memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interlace.contract.errors import DataError
from interlace.data.index.build import build_index
from interlace.data.read.open import open_reader
from interlace.data.sources import parquet
from interlace.data.sources.parquet import Parquet
from tests.data import EmojiLike, make_rows, write_table
from tests.manifests import extents, hashes


def write(path: Path, rows: int, groups: Sequence[int]) -> pa.Table:
    """A file of so many rows of 1,000 bytes and a number, in row groups of these sizes."""
    rng = np.random.default_rng(0)
    table = pa.table({"data": [rng.bytes(1000) for _ in range(rows)], "n": range(rows)})
    with pq.ParquetWriter(path, table.schema) as writer:
        for first, size in zip(np.cumsum([0, *groups[:-1]]).tolist(), groups, strict=True):
            writer.write_table(table.slice(first, size), row_group_size=size)
    return table


def test_slices_are_the_rows_of_the_file_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    table = write(path, 137, (100, 7, 30))
    whole = Parquet().row_groups(str(path))
    assert [g.num_rows for g in whole] == [100, 7, 30]
    assert all(g.offset == 0 for g in whole)
    for limit in (10_000, 25_001, 99_999):
        monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", limit)
        groups = Parquet().row_groups(str(path))
        assert len(groups) > 3
        assert all(g.num_bytes <= limit for g in groups)
        assert sorted({g.index for g in groups}) == [0, 1, 2]
        assert [g.first_row for g in groups] == np.cumsum([0, *(g.num_rows for g in groups[:-1])]).tolist()
        read = pa.concat_tables([Parquet().read(g, ["n", "data"]) for g in groups])
        assert read.equals(table.select(["n", "data"]))
        assert all(Parquet().read(g, ["n"]).num_rows == g.num_rows for g in groups)


def test_a_slice_of_a_file_that_shrank_is_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    write(path, 100, (100,))
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 20_000)
    last = Parquet().row_groups(str(path))[-1]
    write(path, 90, (90,))
    assert Parquet().read(last, ["n"]).num_rows < last.num_rows
    write(path, 10, (10,))
    assert Parquet().read(last, ["n"]).num_rows == 0
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"t\.parquet"):
        Parquet().read(last, ["n"])


def test_slices_bound_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    write(path, 20_000, (20_000,))
    pa.default_memory_pool().release_unused()
    limit = 1_000_000
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", limit)
    groups = Parquet().row_groups(str(path))
    assert len(groups) > 15
    pool = pa.system_memory_pool()
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        rows = sum(Parquet().read(g, ["data", "n"]).num_rows for g in groups[-3:])
        sliced = pool.max_memory() - pool.bytes_allocated()
        monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 1 << 40)
        (whole,) = Parquet().row_groups(str(path))
        assert Parquet().read(whole, ["data", "n"]).num_rows == 20_000
        at_once = pool.max_memory()
    finally:
        pa.set_memory_pool(before)
    assert rows == sum(g.num_rows for g in groups[-3:])
    assert sliced < 8 * limit
    assert at_once > 20_000_000


def test_an_index_of_slices_tells_of_the_same_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows(60, seed=1)
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train-0", "validation"):
        write_table(folder / f"{name}.parquet", rows, 1)
    data = EmojiLike(folder=folder, rows=60)
    whole = build_index(data.recipe(tmp_path / "whole")).manifests["train"]
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 20_000)
    recipe = data.recipe(tmp_path / "sliced")
    index = build_index(recipe)
    sliced = index.manifests["train"]
    assert (len(whole.groups), whole.num_rows) == (1, 60)
    assert len(sliced.groups) > 3
    assert np.array_equal(hashes(whole), hashes(sliced))
    assert all(np.array_equal(extents(whole, n), extents(sliced, n)) for n in whole.fields)
    assert [sliced.locate(row) for row in range(60)] == [whole.locate(row) for row in range(60)]
    reader = open_reader(index, recipe, "train", training=True)
    plan = reader.plan()
    windows = [w for w in plan.schedule(epochs=1).windows if w.epoch == 0]
    packs = [p for w in windows for p in reader.read(w, first=0, stop=10**9, plan=plan)]
    assert sorted(np.concatenate([p.sample_ids for p in packs]).tolist()) == list(range(60))
    assert not any(p.bad for p in packs)
