"""Laws of prediction over shards, in this process: order, equality with single predictions, kills, bad rows."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interlace.contract.errors import DataError, ResumeError
from interlace.data.sources import RowGroup
from interlace.results.bulk import Bulk, Part, plan_bulk, predict_bulk
from interlace.results.mistakes import WORST, worst_mistakes
from interlace.results.predictor import Predictor
from tests.served import SOUNDING, Model, make_model, sounding_rows, write


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def shards(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 50 rows as two shards; one picture is damaged, one row is empty."""
    folder = tmp_path_factory.mktemp("shards")
    rows = [dict(row) for row in model.rows]
    rows[7] |= {"image": b"\x89PNG broken"}
    rows[30] |= dict.fromkeys(("image", "caption", "sound", "width", "height", "year"))
    write(folder / "a.parquet", rows[:28], group_rows=10)
    write(folder / "b.parquet", rows[28:], group_rows=10)
    return folder


def plan(model: Model, shards: Path, out: Path, **settings: Any) -> Bulk:
    return plan_bulk(model.folder, [f"{shards}/*.parquet"], out, **{"part_rows": 15, "keep": ["key"], **settings})


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("part-*.parquet"))}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_every_row_is_predicted_in_order_as_in_process(model: Model, shards: Path, tmp_path: Path) -> None:
    bulk = plan(model, shards, tmp_path / "out")
    told: list[tuple[int, int]] = []
    done = predict_bulk(bulk, progress=lambda parts, rows: told.append((parts, rows)))
    rows = rows_of(tmp_path / "out")
    assert [row["key"] for row in rows] == list(range(50))
    assert [(Path(r["shard"]).name, r["row"]) for r in rows[26:30]] == [
        ("a.parquet", 26), ("a.parquet", 27), ("b.parquet", 0), ("b.parquet", 1),
    ]  # fmt: skip
    assert told == [(0, 0), (1, 20), (2, 38), (3, 50)]
    predictor = Predictor.load(model.folder)
    assert list(rows[0]) == ["shard", "row", "key", *predictor.columns]
    for part in bulk.parts:
        for group in part.groups:
            first = group.first_row + (28 if group.shard.endswith("b.parquet") else 0)
            given = pq.ParquetFile(group.shard).read_row_group(group.index).to_pylist()
            alone = predictor.predict(given)
            for offset, said in enumerate(alone):
                found = {name: rows[first + offset][name] for name in said}
                assert found == {k: pytest.approx(v, abs=1e-6) if isinstance(v, list) else v for k, v in said.items()}
    assert (done.num_rows, done.num_bad) == (50, 2)
    assert "a.parquet row 7: field `image`: expected a picture" in done.reasons[0]
    assert "b.parquet row 2: expected a value in at least one of the columns" in done.reasons[1]
    assert [i for i, row in enumerate(rows) if row["error"] is not None] == [7, 30]
    assert {rows[7][name] for name in predictor.columns if name != "error"} == {None}
    assert len({row["color_probability"] for row in rows}) > 30, "rows differ"
    assert {row["pair_left"] is None for row in rows} == {True, False}


class KilledError(Exception):
    pass


def test_a_killed_job_goes_on_and_ends_with_the_same_bytes(model: Model, shards: Path, tmp_path: Path) -> None:
    predict_bulk(plan(model, shards, tmp_path / "whole"))
    whole = digests(tmp_path / "whole")
    assert len(whole) == 3

    def dies(work: Callable[[Part], pa.Table], parts: Sequence[Part]) -> Iterator[pa.Table]:
        yield work(parts[-1])  # any order
        raise KilledError

    bulk = plan(model, shards, tmp_path / "out")
    with pytest.raises(KilledError):
        predict_bulk(bulk, dies)
    kept = tmp_path / "out" / bulk.parts[-1].name
    (tmp_path / "out" / bulk.parts[0].name).write_bytes(b"PAR1 torn")
    before = kept.stat().st_mtime_ns
    seen: list[str] = []

    def counted(work: Callable[[Part], pa.Table], parts: Sequence[Part]) -> Iterator[pa.Table]:
        seen.extend(part.name for part in parts)
        return map(work, parts)

    predict_bulk(bulk, counted)
    assert seen == [part.name for part in bulk.parts[:-1]]
    assert kept.stat().st_mtime_ns == before
    assert digests(tmp_path / "out") == whole
    predict_bulk(bulk, dies)  # nothing is left to do


def test_the_folder_is_read_as_a_table_by_others(model: Model, shards: Path, tmp_path: Path) -> None:
    """Whatever else lies in it; and what an older version called by another name still counts."""
    predict_bulk(plan(model, shards, tmp_path / "out"))
    table = pd.read_parquet(tmp_path / "out")
    assert table["key"].tolist() == list(range(50))
    (tmp_path / "out" / "_predictions.json").rename(tmp_path / "out" / "predictions.json")
    predict_bulk(plan(model, shards, tmp_path / "out"), lambda work, parts: pytest.fail("nothing is left to do"))
    assert pd.read_parquet(tmp_path / "out").equals(table)


@pytest.mark.parametrize("kind", [pa.int64(), pa.bool_()])
def test_labels_that_are_no_texts_are_predicted_as_what_they_are(kind: pa.DataType, tmp_path: Path) -> None:
    """Written, declared and compared with the truth as integers; a right answer is on no sheet of errors."""
    tables = {}
    for name, count in (("train", 64), ("other", 40)):
        label = pa.array([i % 2 for i in range(count)], pa.int64())
        labels = pa.array([[i % 2] for i in range(count)], pa.list_(pa.int64()))
        table = pa.Table.from_pylist(sounding_rows(count, seed=count), SOUNDING)
        table = table.append_column("label", label.cast(kind))
        tables[name] = table.append_column("labels", labels.cast(pa.list_(kind)))
    tasks = {
        "label": {"task": "classification", "column": "label"},
        "labels": {"task": "classification", "column": "labels", "multi_label": True},
    }
    model = make_model(tmp_path / "model", tasks, tables["train"])
    pq.write_table(tables["other"], tmp_path / "other.parquet")
    predict_bulk(plan_bulk(model.folder, [str(tmp_path / "other.parquet")], tmp_path / "out", part_rows=100))
    said = pq.read_table(tmp_path / "out")
    assert said.schema.field("label").type == pa.int64()
    values = said["label"].to_pylist()
    assert set(values) <= {0, 1}
    predictor = Predictor.load(model.folder)
    assert predictor.columns["label"] == "long"
    found = worst_mistakes(predictor, model.prepared.index.manifests["train"])
    rows = tables["train"].to_pylist()
    alone = predictor.predict(rows)
    wrong = sum(one["label"] != int(row["label"]) for row, one in zip(rows, alone, strict=True))
    assert 0 < wrong < len(rows)
    assert len(found["label"]) == min(wrong, WORST)
    sets = sum(set(json.loads(one["labels"])) != {int(row["label"])} for row, one in zip(rows, alone, strict=True))
    assert len(found["labels"]) == min(sets, WORST)


def test_a_folder_of_other_predictions_is_refused(model: Model, shards: Path, tmp_path: Path) -> None:
    predict_bulk(plan(model, shards, tmp_path / "out"))
    other = plan(model, shards, tmp_path / "out", keep=[])
    with pytest.raises(ResumeError, match=r"made from something else \(keep differ\)"):
        predict_bulk(other)
    predict_bulk(other, fresh=True)
    assert "key" not in rows_of(tmp_path / "out")[0]


def test_columns_may_be_absent_and_shards_damaged(model: Model, shards: Path, tmp_path: Path) -> None:
    table = pq.read_table(shards / "a.parquet")
    pq.write_table(table.select(["caption"]), tmp_path / "captions.parquet", row_group_size=14)
    bulk = plan_bulk(model.folder, [f"{tmp_path}/captions.parquet"], tmp_path / "out", part_rows=100)
    assert bulk.absent == ("image", "sound", "width", "height", "year")
    predict_bulk(bulk)
    rows = rows_of(tmp_path / "out")
    said = Predictor.load(model.folder).predict(table.select(["caption"]).slice(0, 14).to_pylist())
    assert [row["color"] for row in rows[:14]] == [row["color"] for row in said]

    content = bytearray((tmp_path / "captions.parquet").read_bytes())
    start = pq.ParquetFile(tmp_path / "captions.parquet").metadata.row_group(1).column(0).dictionary_page_offset
    content[start : start + 40] = b"\xff" * 40
    (tmp_path / "captions.parquet").write_bytes(content)
    bulk = plan_bulk(model.folder, [f"{tmp_path}/captions.parquet"], tmp_path / "damaged", part_rows=100)
    done = predict_bulk(bulk)
    again = rows_of(tmp_path / "damaged")
    assert done.num_bad == 14 + sum(row["error"] is not None for row in rows[:14])
    assert "damaged" in done.reasons[-1]
    assert [row["color"] for row in again[:14]] == [row["color"] for row in rows[:14]]
    assert {row["color"] for row in again[14:]} == {None}
    pq.write_table(table.select(["key"]), tmp_path / "keys.parquet")
    with pytest.raises(DataError, match="expected one of the columns image, caption"):
        plan_bulk(model.folder, [f"{tmp_path}/keys.parquet"], tmp_path / "none", part_rows=100)
    with pytest.raises(DataError, match="--keep nosuch"):
        plan(model, shards, tmp_path / "none", keep=["nosuch"])
    with pytest.raises(DataError, match="expected shards of one format"):
        plan_bulk(model.folder, ["a.parquet", "b.csv"], tmp_path / "none", part_rows=100)


def test_parts_end_with_the_row_group_that_fills_them() -> None:
    from interlace.results.bulk import cut_parts

    groups = [RowGroup(shard="s", index=i, first_row=0, num_rows=n, num_bytes=1) for i, n in enumerate([3, 3, 9, 1, 1])]
    parts = cut_parts(groups, 5)
    assert [[g.index for g in part.groups] for part in parts] == [[0, 1], [2], [3, 4]]
    assert [part.name for part in parts] == [f"part-0000{i}-of-00003.parquet" for i in range(3)]
