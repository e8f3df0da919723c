"""A stopped job goes on without doing a finished unit again; bad rows and other inputs are told plainly."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interlace.contract.errors import BadShareError, DataError, RecipeError, ResumeError
from interlace.data.prepare import Prepared, job, make_plan, prepare
from interlace.data.prepare.work import HIDDEN
from interlace.recipe.load import parse_tree
from interlace.recipe.prepare import PrepareRecipe, load_preparation
from interlace.store.lock import held
from tests.joined import preparation, write_parquet


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write_parquet(folder, 300, group_rows=40)
    return folder


class Killed(Exception):
    """Stands for kill -9."""


class Stumbling:
    """Runs units in process, from the last to the first, and dies after so many of them."""

    def __init__(self, units: int) -> None:
        self.left = units
        self.done: list[tuple[str, Any]] = []

    def __call__(self, work: Callable[[Any], pa.Table], units: Sequence[Any]) -> Iterator[pa.Table]:
        for unit in reversed(units):
            if not self.left:
                raise Killed
            self.left -= 1
            table = work(unit)
            self.done.append((type(work).__name__, unit))
            yield table


def run(folder: Path, out: Path, **settings: Any) -> Prepared:
    return prepare(make_plan(preparation(folder, out, **settings)))


def refused(error: type[Exception], folder: Path, out: Path, **settings: Any) -> str:
    with pytest.raises(error) as caught:
        run(folder, out, **settings)
    return str(caught.value)


def files(folder: Path) -> set[str]:
    return {f.name for f in folder.iterdir()}


@pytest.mark.parametrize("step", [1, 4])
def test_a_job_stopped_at_any_unit_goes_on_where_it_was(sources: Path, tmp_path: Path, step: int) -> None:
    plain = run(sources, tmp_path / "plain")
    plan = make_plan(preparation(sources, tmp_path / "out"))
    done: list[tuple[str, Any]] = []
    stops = 0
    while True:
        mapper = Stumbling(step)
        try:
            prepared = prepare(plan, mapper)
        except Killed:
            stops += 1
            assert not (tmp_path / "out" / "prepared.json").exists()
            assert not list((tmp_path / "out").glob("*.parquet"))
        else:
            break
        finally:
            done += mapper.done
        plan = make_plan(preparation(sources, tmp_path / "out", bucket_mb=0.5))  # the begun job keeps its own
    assert prepared == plain
    assert len(done) == len({(stage, repr(unit)) for stage, unit in done})
    assert {stage for stage, _ in done} == {"Scatter", "Join", "WriteShard"}
    assert stops >= 8 // step
    assert files(tmp_path / "out") == files(tmp_path / "plain")


def test_a_unit_that_was_half_written_is_done_again(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(sources, tmp_path / "plain")
    plan = make_plan(preparation(sources, tmp_path / "out"))
    for module, name in (("scatter", "write_batches"), ("join", "write_batches"), ("join", "mark_done"),
                         ("shards", "digest_table"), ("shards", "mark_done")):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(f"interlace.data.prepare.{module}.{name}", die)
            with pytest.raises(Killed):
                prepare(plan)
    assert prepare(plan) == plain


def die(*arguments: Any, **settings: Any) -> None:
    raise Killed


@pytest.mark.parametrize("last", ["prepared.json", "quarantine.parquet", "train"])
def test_a_job_stopped_while_it_hands_over_goes_on(
    sources: Path, tmp_path: Path, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(sources, tmp_path / "plain")
    plan = make_plan(preparation(sources, tmp_path / "out"))
    replace = Path.replace

    def dying(self: Path, target: Path) -> Path:
        if Path(target).parent == tmp_path / "out" and Path(target).name.startswith(last):
            if last == "train":
                replace(self, target)
            raise Killed
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(Killed):
            prepare(plan)
    assert prepare(plan) == plain
    assert files(tmp_path / "out") == files(tmp_path / "plain")


def test_a_finished_folder_is_left_alone_and_another_job_is_refused(sources: Path, tmp_path: Path) -> None:
    own, out = tmp_path / "own", tmp_path / "out"
    write_parquet(own, 120, group_rows=40)
    first = run(own, out)
    mapper = Stumbling(0)
    assert prepare(make_plan(preparation(own, out, max_bad_share=0.5, bucket_mb=1)), mapper) == first
    text = refused(ResumeError, own, out, join="inner", split={"by": "shop", "seed": 9})
    assert "`--fresh` begins anew" in text
    assert "join: the folder has outer, the recipe inner" in text
    assert "split.seed: the folder has 3, the recipe 9" in text
    write_parquet(own, 121, group_rows=40)
    text = refused(ResumeError, own, out)
    assert "inputs of `captions` changed: " in text
    assert f"{own}/captions-0.parquet" in text
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ResumeError, match=r"expected a new or empty folder, but .* holds notes\.txt"):
        prepare(make_plan(preparation(own, out)), fresh=True)
    (out / "notes.txt").unlink()
    again = prepare(make_plan(preparation(own, out, shard_mb=1)), fresh=True)
    assert again.digest != first.digest
    assert len(list(out.glob("train-*"))) == 1
    next(out.glob("train-*")).unlink()
    assert "it is gone or changed; `--fresh` begins anew" in refused(ResumeError, own, out, shard_mb=1)


def test_two_processes_never_write_one_folder(sources: Path, tmp_path: Path) -> None:
    plan = make_plan(preparation(sources, tmp_path / "out"))
    (tmp_path / "out").mkdir()
    with held(tmp_path / "out" / ".prepare.lock"), pytest.raises(ResumeError, match="held by another process"):
        prepare(plan)
    assert prepare(plan).digest


def test_bad_rows_are_quarantined_with_their_reasons(tmp_path: Path) -> None:
    write_bad(tmp_path)
    settings = {"sources": BAD, "split": {"shares": {"train": 1.0}}}
    text = refused(BadShareError, tmp_path, tmp_path / "out", **settings)
    assert "11 of 50 rows of the sources are in quarantine (22.00%), but `max_bad_share` is 1.00%" in text
    assert "a-0.parquet row 3: key `id` is null" in text
    assert pq.read_table(tmp_path / "out" / "quarantine.parquet").num_rows == 11
    text = refused(BadShareError, tmp_path, tmp_path / "out", max_bad_share=0.25, **settings)  # goes on
    assert "14 of 50 rows of the sources are in quarantine (28.00%), but `max_bad_share` is 25.00%" in text
    assert pq.read_table(tmp_path / "out" / "quarantine.parquet").num_rows == 14
    prepared = run(tmp_path, tmp_path / "out", max_bad_share=0.5, **settings)
    listed = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    short = {(r["source"], Path(r["shard"]).name, r["row"]): r["reason"] for r in listed}
    assert prepared.quarantined == len(listed) == len(short) == 14
    assert short["a", "a-0.parquet", 3] == "key `id` is null"
    assert short["a", "a-0.parquet", 7] == "key 5 was given before, in " + str(tmp_path / "a-0.parquet") + " row 5"
    assert short["a", "a-1.parquet", 0] == "key 5 was given before, in " + str(tmp_path / "a-0.parquet") + " row 5"
    assert short["b", "b-0.parquet", 1] == "key 0 was given before, in " + str(tmp_path / "b-0.parquet") + " row 0"
    damaged = {place: why for place, why in short.items() if "row group 1: damaged" in why}
    assert set(damaged) == {("b", "b-0.parquet", row) for row in range(10, 20)}
    table = pq.read_table(tmp_path / "out" / "train-00000-of-00001.parquet").sort_by("key").to_pylist()
    assert [r["key"] for r in table] == [k for k in range(30) if k != 20]
    assert table[5] == {"key": 5, "x": 5, "y": "v5"}
    assert [r["key"] for r in table if r["y"] is None] == [1, *range(10, 20), *range(21, 30)]


BAD = {"a": {"paths": ["a-*.parquet"], "key": "id"}, "b": {"paths": ["b-0.parquet"], "key": "id"}}


def write_bad(folder: Path) -> None:
    """`a`: a null key, key 5 thrice, else 0 .. 29 without 20; `b`: key 0 twice, its second row group of 10 damaged."""
    keys = [None if k == 3 else 5 if k == 7 else k for k in range(20)]
    pq.write_table(pa.table({"id": pa.array(keys, pa.int64()), "x": range(20)}), folder / "a-0.parquet")
    later = pa.table({"id": [5, *range(21, 30)], "x": range(20, 30)})
    pq.write_table(later, folder / "a-1.parquet")
    keys = [0 if k == 1 else k for k in range(20)]
    path = folder / "b-0.parquet"
    table = pa.table({"id": keys, "y": [f"v{i}" for i in range(20)]})
    pq.write_table(table, path, row_group_size=10, use_dictionary=False, compression="none")
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset : column.data_page_offset + 12] = b"\xff" * 12
    path.write_bytes(bytes(data))


def test_sources_that_do_not_fit_are_told_all_at_once(sources: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "x": [1]}), tmp_path / "a-0.parquet")
    pq.write_table(pa.table({"id": [1], "x": ["1"]}), tmp_path / "a-1.parquet")
    pq.write_table(pa.table({"id": [1.5], "x": [1]}), tmp_path / "b-0.parquet")
    tree = {
        "a": {"paths": ["a-*.parquet"], "key": "id"},
        "b": {"paths": ["b-0.parquet"], "key": "id"},
        "c": {"paths": ["b-0.parquet"], "key": "idd"},
    }
    text = refused(DataError, tmp_path, tmp_path / "out", sources=tree)
    for part in (
        "records: 3 errors in the sources",
        "sources.a: expected `x` to have one type in all shards, but it is int64 in",
        "a-0.parquet and string in",
        "sources.c: expected a column `idd` in",
        "did you mean `id`?",
        "sources.b.key: expected `id` to be integer or string, but it is double",
    ):
        assert part in text, text
    tree = {"a": {"paths": ["a-0.parquet"], "key": "id"}, "b": {"paths": ["a-0.parquet"], "key": "id"}}
    text = refused(DataError, tmp_path, tmp_path / "out", sources=tree, split={"by": "shpo"})
    assert "output column `x` comes from both sources.a and sources.b" in text
    assert "split.by: expected a column `shpo` in the output" in text
    pq.write_table(pa.table({"id": [1], "z": [1]}), tmp_path / "a-1.parquet")
    tree = {"a": {"paths": ["a-*.parquet"], "key": "id"}}
    assert "differ in `x`, `z`" in refused(DataError, tmp_path, tmp_path / "out", sources=tree, split={})
    pq.write_table(pa.table({"id": [2], "z": [1]}), tmp_path / "d-0.parquet")
    tree = {"a": {"paths": ["a-0.parquet"], "key": "id"}, "d": {"paths": ["d-0.parquet"], "key": "id"}}
    text = refused(DataError, tmp_path, tmp_path / "out", sources=tree, split={}, join="inner")
    assert "no key is in all of a (`id`), d (`id`)" in text


def test_errors_of_the_settings_are_told_all_at_once(tmp_path: Path) -> None:
    tree = {
        "name": "records",
        "out": "x",
        "sources": {"a": {"paths": ["a"], "key": "id", "colums": ["x"]}, "b": {"paths": ["b"]}},
        "split": {"shares": {"train": 0.5, "validation": 0.1}},
        "bucket": 3,
    }
    with pytest.raises(RecipeError) as caught:
        parse_tree(tree, ["join=left", "shard_mb=0"], "r.yaml", PrepareRecipe)
    for part in (
        "6 errors",
        "sources.a.colums: unknown key; did you mean `columns`?",
        "sources.b.key: required, but not given",
        "split.shares: shares must sum to 1, but sum to 0.6",
        "bucket: unknown key; did you mean `bucket_mb`?",
        "join: Input should be 'inner' or 'outer', but is 'left'",
        "shard_mb: Input should be greater than 0",
    ):
        assert part in str(caught.value), str(caught.value)
    (tmp_path / "r.yaml").write_text(
        "{name: r, out: x, sources: {a: {paths: [a], key: id, columns: [x]}, b: {paths: [b], key: id, columns: [x]}}}"
    )
    with pytest.raises(RecipeError, match=r"output column `x` comes from both `sources.a` and `sources.b`"):
        load_preparation(tmp_path / "r.yaml")
    assert load_preparation(tmp_path / "r.yaml", ["sources.b.columns={y: x}"]).sources["b"].columns == {"y": "x"}


def test_a_format_may_say_why_a_row_is_unreadable(tmp_path: Path) -> None:
    rows = [f"{i},{'no number' if i == 4 else i}" for i in range(10)]
    (tmp_path / "a.csv").write_text("\n".join(["id,x", *rows]) + "\n", encoding="utf-8")
    tree = {"a": {"format": "csv", "paths": ["a.csv"], "types": {"x": "integer"}, "key": "id"}}
    prepared = run(tmp_path, tmp_path / "out", sources=tree, split={}, max_bad_share=0.1)
    listed = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert [r["row"] for r in listed] == [4]
    assert "no number" in listed[0]["reason"]
    assert sum(s["rows"] for s in prepared.splits.values()) == 9
    assert HIDDEN not in files(tmp_path / "out")
    assert job.MOST_LISTED > 1
