"""Laws of the index in parts: a new shard is read alone, a killed job goes on, sums are those of the rows."""

import json
import pickle
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interlace.contract.errors import DataError
from interlace.data.index import parts
from interlace.data.index.build import Index, build_index
from interlace.data.index.fit import FitGroup
from interlace.data.index.manifest import Manifest
from interlace.data.index.measure import MeasureGroup
from interlace.data.plan.sizes import GroupSizes, group_sizes
from interlace.data.sources import RowGroup, Work
from interlace.recipe.recipe import Recipe
from interlace.store.places import indexes_of
from tests.data import EmojiLike, make_rows, write_table
from tests.manifests import all_rows, extents, hashes, num_tokens, present, tokens, usable


class Counted:
    """A mapper that notes which row groups were read to fit and to measure, and may break off after some of them."""

    def __init__(self, stop: int = 10**9) -> None:
        self.read: list[tuple[str, str, int]] = []
        self._stop = stop

    def __call__(self, work: Work, groups: Sequence[RowGroup]) -> Iterator[pa.Table]:
        kind = {FitGroup: "fit", MeasureGroup: "measure"}[type(work)]
        for group in groups:
            if len(self.read) == self._stop:
                raise KeyboardInterrupt
            self.read.append((kind, Path(group.shard).name, group.index))
            yield work(group)

    def shards(self, kind: str) -> set[str]:
        return {shard for k, shard, _ in self.read if k == kind}


@pytest.fixture
def data(tmp_path: Path) -> EmojiLike:
    """Two shards of four row groups each, and one of validation."""
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(2):
        write_table(folder / f"train-{i}.parquet", make_rows(40, seed=i), 4)
    write_table(folder / "validation.parquet", make_rows(12, seed=9), 2)
    return EmojiLike(folder=folder, rows=80)


def recipe_of(data: EmojiLike, storage: Path, **sections: Any) -> Recipe:
    return data.recipe(storage, data={"max_bad_share": 0.5, **sections.pop("data", {})}, **sections)


def digests(index: Index) -> dict[str, str]:
    return {name: manifest.digest for name, manifest in index.manifests.items()}


def same(one: Index, other: Index) -> None:
    """Both tell the same of every row."""
    assert json.dumps(one.fitted) == json.dumps(other.fitted)
    assert digests(one) == digests(other)
    for name, manifest in one.manifests.items():
        again = other.manifests[name]
        assert list(manifest.groups) == list(again.groups)
        assert np.array_equal(hashes(manifest), hashes(again))
        for field in manifest.fields:
            assert np.array_equal(extents(manifest, field), extents(again, field))
            assert np.array_equal(tokens(manifest, field), tokens(again, field))


def test_a_shard_that_is_added_is_read_alone(data: EmojiLike, tmp_path: Path) -> None:
    build_index(recipe_of(data, tmp_path / "out"))
    write_table(data.folder / "train-2.parquet", make_rows(40, seed=5), 4)
    counted = Counted()
    grown = build_index(recipe_of(data, tmp_path / "out"), counted)
    assert counted.read == [(k, "train-2.parquet", i) for k in ("fit", "measure") for i in range(4)]
    same(grown, build_index(recipe_of(data, tmp_path / "fresh")))
    assert grown.manifests["train"].num_rows == 120


def test_a_shard_that_changed_is_read_alone(data: EmojiLike, tmp_path: Path) -> None:
    first = build_index(recipe_of(data, tmp_path / "out"))
    write_table(data.folder / "train-1.parquet", make_rows(30, seed=6), 3)
    counted = Counted()
    again = build_index(recipe_of(data, tmp_path / "out"), counted)
    assert counted.shards("fit") == counted.shards("measure") == {"train-1.parquet"}
    assert digests(again)["train"] != digests(first)["train"]
    assert digests(again)["validation"] == digests(first)["validation"]
    same(again, build_index(recipe_of(data, tmp_path / "fresh")))


def test_what_measuring_does_not_depend_on_measures_nothing_anew(data: EmojiLike, tmp_path: Path) -> None:
    """New rows move means; they change no extent. They change byte pairs, and then every text is counted anew."""
    pairs = {"caption": {"modality": "text", "column": "caption", "tokenizer": "bpe", "vocab_size": 290}}
    for kind, expected in (({}, {"train-2.parquet"}), (pairs, None)):
        storage = tmp_path / f"out{len(kind)}"
        before = build_index(recipe_of(data, storage, fields=kind))
        added = [{**row, "caption": f"another text {i} of words"} for i, row in enumerate(make_rows(40, seed=5))]
        write_table(data.folder / "train-2.parquet", added, 4)
        counted = Counted()
        after = build_index(recipe_of(data, storage, fields=kind), counted)
        (data.folder / "train-2.parquet").unlink()
        assert before.fitted["fields"]["size"] != after.fitted["fields"]["size"]
        everything = {f"train-{i}.parquet" for i in range(3)} | {"validation.parquet"}
        assert counted.shards("measure") == (expected or everything)
        assert counted.shards("fit") == {"train-2.parquet"}


@pytest.mark.parametrize("stop", [0, 1, 5, 8, 11, 13, 17])
def test_a_killed_index_goes_on_with_the_parts_that_are_done(data: EmojiLike, tmp_path: Path, stop: int) -> None:
    recipe = recipe_of(data, tmp_path / "out")
    killed = Counted(stop)
    with pytest.raises(KeyboardInterrupt):
        build_index(recipe, killed)
    assert not list(indexes_of(recipe.storage).rglob("*.tmp"))
    rest = Counted()
    index = build_index(recipe, rest)
    same(index, build_index(recipe_of(data, tmp_path / "fresh")))
    assert len(killed.read) == stop
    assert 18 <= len(killed.read) + len(rest.read) <= 18 + 3  # a part holds 4 row groups: 3 of them are done twice
    done = {r[:2] for r in killed.read if sum(r[:2] == other[:2] for other in killed.read) == 4}
    assert not done & {r[:2] for r in rest.read}


def test_parts_are_cut_between_row_groups_and_change_nothing(
    data: EmojiLike, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build_index(recipe_of(data, tmp_path / "whole"))
    for rows, count in ((25, 2), (10, 4), (1, 4)):
        monkeypatch.setattr(parts, "PART_ROWS", rows)
        cut = build_index(recipe_of(data, tmp_path / f"cut{rows}"))
        same(cut, whole)
        assert len(cut.manifests["train"].groups.parts) == 2 * count
    assert len(whole.manifests["train"].groups.parts) == 2


def test_the_digest_is_of_the_content_not_of_the_place(data: EmojiLike, tmp_path: Path) -> None:
    here = build_index(recipe_of(data, tmp_path / "out"))
    shutil.copytree(data.folder, tmp_path / "moved")
    moved = EmojiLike(folder=tmp_path / "moved", rows=80)
    assert digests(build_index(recipe_of(moved, tmp_path / "out"))) == digests(here)
    whole = pa.concat_tables([pq.read_table(data.folder / f"train-{i}.parquet") for i in range(2)])
    for file in moved.folder.glob("train-*"):
        file.unlink()
    pq.write_table(whole, moved.folder / "train-all.parquet", row_group_size=10)
    one = build_index(recipe_of(moved, tmp_path / "out"))
    assert one.manifests["train"].groups.shards == (str(moved.folder / "train-all.parquet"),)
    assert digests(one) == digests(here)
    pq.write_table(whole, moved.folder / "train-all.parquet", row_group_size=20)
    assert digests(build_index(recipe_of(moved, tmp_path / "out"))) != digests(here)
    pq.write_table(whole.slice(10).slice(0), moved.folder / "train-all.parquet", row_group_size=10)
    assert digests(build_index(recipe_of(moved, tmp_path / "out"))) != digests(here)


def dirty(data: EmojiLike) -> None:
    """Pictures that are none, rows without anything, and a whole row group of both."""
    path = data.folder / "train-1.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in (2, 3, 20, *range(30, 40)):
        rows[row] |= {"image": b"no picture"}
    rows[7] |= {"image": None, "caption": None, "width": None, "height": None}
    write_table(path, rows, 4)


def test_sums_are_those_of_the_rows(data: EmojiLike, tmp_path: Path) -> None:
    dirty(data)
    manifest = build_index(recipe_of(data, tmp_path / "out")).manifests["train"]
    groups, every = manifest.groups, all_rows(manifest)
    expected = group_sizes(num_tokens(manifest), manifest.starts)
    for field in fields(GroupSizes):
        assert np.array_equal(getattr(groups.sizes, field.name), getattr(expected, field.name)), field.name
    assert groups.sizes.rows.tolist() == [int(rows.usable.sum()) for rows in every]
    assert groups.bad.tolist() == [int((~rows.usable).sum()) for rows in every]
    for name, sums in groups.fields.items():
        own = [rows.tokens[name][rows.usable].astype(np.int64) for rows in every]
        assert sums.tokens.tolist() == [int(t.sum()) for t in own]
        assert sums.squares.tolist() == [int((t**2).sum()) for t in own]
        assert sums.largest.tolist() == [int(t.max(initial=0)) for t in own]
        assert sums.present.tolist() == [int((rows.present(name) & rows.usable).sum()) for rows in every]
        there = present(manifest, name)[usable(manifest)]
        assert manifest.missing_share(name) == pytest.approx(1 - there.mean())
    assert groups.sizes.rows.tolist()[-1] == 0
    assert 0 < manifest.num_bad == manifest.num_rows - manifest.num_usable == int((~usable(manifest)).sum())


def test_rows_and_bad_records_are_found_again(data: EmojiLike, tmp_path: Path) -> None:
    dirty(data)
    manifest = build_index(recipe_of(data, tmp_path / "out")).manifests["train"]
    places = [(g.shard, g.first_row + i) for g in manifest.groups for i in range(g.num_rows)]
    assert [manifest.locate(row) for row in range(manifest.num_rows)] == places
    bad = list(manifest.bad())
    assert [(b.shard, b.row) for b in bad] == [p for p, ok in zip(places, usable(manifest), strict=True) if not ok]
    assert all(b.reason for b in bad)
    for limit in (0, 1, 3, 4, 100):
        assert list(manifest.bad(limit)) == bad[:limit]
    assert len(bad) == 14


def test_a_part_that_is_lost_is_an_error_and_is_made_anew(data: EmojiLike, tmp_path: Path) -> None:
    recipe = recipe_of(data, tmp_path / "out")
    first = build_index(recipe)
    expected = hashes(first.manifests["train"])
    parts._open.cache_clear()
    lost = indexes_of(recipe.storage) / "parts" / first.manifests["train"].groups.parts[1]
    lost.unlink()
    with pytest.raises(DataError, match="expected this part of the index"):
        hashes(first.manifests["train"])
    counted = Counted()
    again = build_index(recipe, counted)
    assert counted.shards("measure") == {"train-1.parquet"}
    assert np.array_equal(hashes(again.manifests["train"]), expected)


def test_what_travels_is_the_table_of_row_groups(tmp_path: Path) -> None:
    """Ten times the rows in as many row groups: not a byte a row more."""
    sizes = []
    for rows in (200, 2000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        made = [{**row, "image": None, "caption": "a disc"} for row in make_rows(rows, seed=1)]
        write_table(folder / "train-0.parquet", made, 20)
        write_table(folder / "validation.parquet", made[:10], 1)
        data = EmojiLike(folder=folder, rows=rows)
        manifest = build_index(recipe_of(data, tmp_path / "out")).manifests["train"]
        sizes.append(len(pickle.dumps(manifest)))
        again: Manifest = pickle.loads(pickle.dumps(manifest))
        assert np.array_equal(hashes(again), hashes(manifest))
        assert len(manifest.groups) == 20
    assert sizes[1] < sizes[0] + 20 * 8  # counts of a histogram may take another byte
