"""Laws of preparing: the join is a join, splits keep groups together, shards are even, the digest is of the content."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from interlace.data.prepare import Prepared, make_plan, prepare
from interlace.data.prepare.content import digest_table, num_bytes
from tests.joined import KEYS, four_formats, preparation, write_four_formats, write_parquet

ROWS = 600


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write_parquet(folder, ROWS, group_rows=40)
    return folder


def run(folder: Path, out: Path, **settings: Any) -> Prepared:
    return prepare(make_plan(preparation(folder, out, **settings)))


def shards(prepared: Prepared, split: str) -> list[str]:
    return [s["file"] for s in prepared.splits[split]["shards"]]


def rows_of(out: Path, prepared: Prepared) -> pd.DataFrame:
    tables = [pq.read_table(out / f).to_pandas().assign(split=s) for s in prepared.splits for f in shards(prepared, s)]
    return pd.concat(tables, ignore_index=True)


def reference(sources: Path, how: str) -> pd.DataFrame:
    """The same join by pandas."""
    joined: pd.DataFrame | None = None
    for name, key in KEYS.items():
        paths = sorted(sources.glob(f"{name}-*.parquet"))
        table = pd.concat(pq.read_table(p).to_pandas() for p in paths).rename(columns={key: "key"})
        joined = table if joined is None else joined.merge(table, on="key", how=how)
    assert joined is not None
    return joined.sort_values("key", ignore_index=True)


def plain(table: pd.DataFrame) -> list[list[Any]]:
    """Rows as plain values, every kind of missing as None."""

    def value(v: Any) -> Any:
        if isinstance(v, np.ndarray | list):
            return [float(x) for x in v]
        return None if pd.isna(v) else v

    return [[value(v) for v in row] for row in table.itertuples(index=False)]


@pytest.mark.parametrize("how", ["inner", "outer"])
def test_the_join_is_that_of_pandas(sources: Path, tmp_path: Path, how: str) -> None:
    prepared = run(sources, tmp_path / "out", join=how)
    made = rows_of(tmp_path / "out", prepared).drop(columns="split").sort_values("key", ignore_index=True)
    wanted = reference(sources, how)
    assert list(made.columns) == list(wanted.columns)
    assert plain(made) == plain(wanted)
    assert prepared.quarantined == 0
    assert pq.read_table(tmp_path / "out" / "quarantine.parquet").num_rows == 0
    present = {n: sum(s["present"][n] for s in prepared.splits.values()) for n in KEYS}
    left_out = {n: ROWS - ROWS // 10 - count for n, count in present.items()}
    assert prepared.unmatched == left_out
    assert (sum(left_out.values()) > 0) == (how == "inner")
    assert not (tmp_path / "out" / ".prepare").exists()
    assert 0 < len(made) <= ROWS


def test_no_group_is_on_two_sides_and_shares_are_as_asked(sources: Path, tmp_path: Path) -> None:
    by_shop = rows_of(tmp_path / "shop", run(sources, tmp_path / "shop"))
    assert by_shop.dropna(subset="shop").groupby("shop")["split"].nunique().max() == 1
    assert by_shop["shop"].nunique() == 40
    assert set(by_shop[by_shop["shop"].isna()]["split"]) == {"train", "validation", "test"}  # by their keys
    shares = {"train": 0.6, "validation": 0.3, "test": 0.1}
    by_key = rows_of(tmp_path / "key", run(sources, tmp_path / "key", split={"shares": shares, "seed": 1}))
    for name, share in shares.items():
        deviation = (len(by_key) * share * (1 - share)) ** 0.5
        assert abs((by_key["split"] == name).sum() - len(by_key) * share) < 4 * deviation
    other = rows_of(tmp_path / "seed", run(sources, tmp_path / "seed", split={"shares": shares, "seed": 2}))
    sides = by_key.merge(other, on="key")
    assert (sides["split_x"] != sides["split_y"]).mean() > 0.2


def test_the_digest_is_the_same_for_any_number_of_buckets_and_sees_any_value(sources: Path, tmp_path: Path) -> None:
    few = run(sources, tmp_path / "few", bucket_mb=64)
    plans = [make_plan(preparation(sources, tmp_path / "x", bucket_mb=mb)).num_buckets for mb in (64, 0.005)]
    many = run(sources, tmp_path / "many", bucket_mb=0.005)
    assert plans[0] == 1
    assert plans[1] > 20
    assert few.digest == many.digest
    assert few.splits == many.splits
    for name in shards(few, "train"):
        assert (tmp_path / "few" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()
    assert run(sources, tmp_path / "packed", compression="snappy").digest == few.digest
    assert run(sources, tmp_path / "seed", split={"by": "shop", "seed": 4}).digest != few.digest
    assert run(sources, tmp_path / "inner", join="inner").digest != few.digest


def test_shards_and_row_groups_are_even(sources: Path, tmp_path: Path) -> None:
    prepared = run(sources, tmp_path / "out", shard_mb=0.02)
    names = shards(prepared, "train")
    assert len(names) > 3
    assert names == [f"train-{i:05d}-of-{len(names):05d}.parquet" for i in range(len(names))]
    sizes = [s["bytes"] for s in prepared.splits["train"]["shards"]]
    assert max(sizes) < 1.1 * min(sizes)
    for shard in prepared.splits["train"]["shards"]:
        meta = pq.ParquetFile(tmp_path / "out" / shard["file"]).metadata
        groups = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        assert sum(groups) == shard["rows"]
        assert max(groups) <= 16
        assert max(groups) - min(groups) <= 1
    small = run(sources, tmp_path / "small", group_mb=0.001)
    meta = pq.ParquetFile(tmp_path / "small" / shards(small, "train")[0]).metadata
    assert meta.num_rows / meta.num_row_groups < 8


def test_columns_are_chosen_and_named_and_text_keys_meet_numbers(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2, 3], "a": [1.0, 2.0, 3.0], "b": [0, 0, 0]}), tmp_path / "x-0.parquet")
    dictionary = pa.array(["u", None, "v"]).dictionary_encode()
    pq.write_table(pa.table({"name": ["3", "2", "9"], "b": dictionary}), tmp_path / "y-0.parquet")
    tree = {
        "x": {"paths": ["x-0.parquet"], "key": "id", "columns": ["a"]},
        "y": {"paths": ["y-*.parquet"], "key": "name", "columns": {"label": "b"}},
    }
    prepared = run(tmp_path, tmp_path / "out", sources=tree, split={"shares": {"train": 1.0}}, keep_key="id")
    table = pq.read_table(tmp_path / "out" / "train-00000-of-00001.parquet").sort_by("id")
    assert table.to_pydict() == {
        "id": ["1", "2", "3", "9"],
        "a": [1.0, 2.0, 3.0, None],
        "label": [None, None, "u", "v"],
    }
    assert prepared.splits["train"]["present"] == {"x": 3, "y": 3}
    assert json.loads((tmp_path / "out" / "prepared.json").read_text())["digest"] == prepared.digest


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, None, 3, 4]),
        pa.array([True, False, None, True]),
        pa.array(["a", "bc", None, ""]),
        pa.array([b"a", b"bc", None, b""], pa.large_binary()),
        pa.array([[1, 2], None, [], [3]]),
        pa.array([[1, 2], None, [3, 4], [5, 6]], pa.list_(pa.int32(), 2)),
        pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}, {"a": 2, "b": None}]),
        pa.array([[("a", 1)], None, [], [("b", 2)]], pa.map_(pa.string(), pa.int64())),
        pa.array([None, None, None, None]),
    ],
    ids=lambda v: str(v.type),
)
def test_digest_and_size_of_values_know_nothing_of_memory(values: pa.Array) -> None:
    def digest(column: pa.Array | pa.ChunkedArray) -> str:
        hasher = xxhash.xxh3_128()
        digest_table(hasher, pa.table({"c": column}))
        return hasher.hexdigest()

    again = pa.array(values.to_pylist(), values.type)
    padded = pa.concat_arrays([values.slice(2), values]).slice(2)
    chunked = pa.chunked_array([values.slice(0, 1), padded.slice(1)])
    assert digest(values) == digest(again) == digest(padded) == digest(chunked)
    parts = [values.slice(i, 1) for i in range(4)]
    assert num_bytes(values) == num_bytes(padded) == num_bytes(chunked.combine_chunks())
    if not pa.types.is_map(values.type):
        assert num_bytes(values) == sum(num_bytes(p) for p in parts)
    if not pa.types.is_null(values.type):
        assert digest(values) != digest(values.take(pa.array([1, 0, 2, 3])))


def test_four_formats_give_the_same_records_as_parquet(tmp_path: Path) -> None:
    write_parquet(tmp_path / "plain", 300, 32)
    write_four_formats(tmp_path / "four", 300, 32, num_shards=1)
    made = {
        "plain": run(tmp_path / "plain", tmp_path / "out" / "plain", max_bad_share=0.0),
        "four": run(tmp_path / "four", tmp_path / "out" / "four", sources=four_formats(32), max_bad_share=0.0),
    }

    def records(name: str) -> dict[str, Any]:
        table = rows_of(tmp_path / "out" / name, made[name])
        return {str(key): row for key, row in zip(table["key"], plain(table.drop(columns="key")), strict=True)}

    def close(a: list[Any], b: list[Any]) -> bool:
        return all(np.allclose(x, y, rtol=1e-6) if isinstance(x, list) else x == y for x, y in zip(a, b, strict=True))

    one, other = records("plain"), records("four")
    names = list(rows_of(tmp_path / "out" / "plain", made["plain"]).columns)
    assert names == list(rows_of(tmp_path / "out" / "four", made["four"]).columns)
    split = names.index("split") - 1
    assert one.keys() == other.keys()
    assert len(one) > 290
    drop = lambda row: [v for i, v in enumerate(row) if i != split]  # noqa: E731 - text keys hash otherwise than integers
    assert all(close(drop(one[k]), drop(other[k])) for k in one)
