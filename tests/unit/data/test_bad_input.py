"""Bad input gets a message that says what was expected, what it is, where, and which knob; one bad record costs one."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from interlace.contract.errors import BadShareError, DataError
from interlace.contract.sample import Pack
from interlace.data.index.build import build_index
from interlace.data.read.open import open_reader
from interlace.data.sources.parquet import Parquet
from tests.data import EmojiLike, make_rows, write_shards, write_table


@pytest.fixture
def data(tmp_path: Path) -> EmojiLike:
    return write_shards(tmp_path / "data", rows=60, seed=1)


def rewrite(data: EmojiLike, shard: str, **changes: Any) -> None:
    """Rewrite a shard with `column={row: value}` changes."""
    rows = pq.read_table(data.folder / shard).to_pylist()
    for column, values in changes.items():
        for row, value in values.items():
            rows[row][column] = value
    write_table(data.folder / shard, rows, 4)


def message(made: EmojiLike, error: type[Exception], tmp_path: Path, **sections: Any) -> str:
    with pytest.raises(error) as caught:
        build_index(made.recipe(tmp_path / "out", **sections))
    return str(caught.value)


def test_missing_column_and_wrong_type_name_key_column_and_nearest(data: EmojiLike, tmp_path: Path) -> None:
    table = pq.read_table(data.folder / "train-1.parquet")
    wrong = table.rename_columns([c if c != "caption" else "captoin" for c in table.column_names])
    wrong = wrong.set_column(1, "image", pa.array(["x"] * len(wrong)))
    pq.write_table(wrong, data.folder / "train-1.parquet")
    text = message(data, DataError, tmp_path)
    assert "train-1.parquet" in text
    assert "fields.caption: expected a column `caption`, but there is none; did you mean `captoin`?" in text
    assert "fields.image: expected `image` to be binary (encoded pictures), but it is string" in text


def test_no_file_empty_file_truncated_file(data: EmojiLike, tmp_path: Path) -> None:
    text = message(data, DataError, tmp_path, data={"train": {"paths": ["trian-*.parquet"]}})
    assert "expected at least one shard at" in text
    assert "trian-*.parquet" in text
    assert "`data.root`" in text
    shard = data.folder / "train-2.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    assert "train-2.parquet: expected a Parquet file, but its footer can't be read" in message(
        data, DataError, tmp_path
    )
    shard.write_bytes(b"")
    assert "train-2.parquet: expected a Parquet file, but it is empty (0 bytes)" in message(data, DataError, tmp_path)


def test_sample_longer_than_the_budget_names_shard_row_and_knob(data: EmojiLike, tmp_path: Path) -> None:
    rewrite(data, "train-1.parquet", caption={3: "long " * 30})
    text = message(data, DataError, tmp_path, batch={"token_budget": 64, "global_batch": 4})
    assert "`batch.token_budget` must be at least 15" in text
    assert "train-1.parquet row 3), but is 64" in text


def test_bad_records_are_listed_one_by_one_and_cost_only_themselves(data: EmojiLike, tmp_path: Path) -> None:
    rewrite(data, "train-0.parquet", image={2: b"not a picture", 5: b""})
    rewrite(data, "train-1.parquet", image={1: None}, caption={1: None}, width={1: None}, height={1: None})
    rewrite(data, "validation.parquet", color={0: "purple"})
    recipe = data.recipe(tmp_path / "out", data={"max_bad_share": 0.2})
    index = build_index(recipe)
    train, validation = index.manifests["train"], index.manifests["validation"]
    listed = {(Path(b.shard).name, b.row): b.reason for b in train.bad()}
    assert listed.keys() == {("train-0.parquet", 2), ("train-0.parquet", 5), ("train-1.parquet", 1)}
    assert "field `image`" in listed["train-0.parquet", 2]
    assert "no field has a token" in listed["train-1.parquet", 1]
    assert [b.row for b in validation.bad()] == [0]
    assert "'purple'" in next(validation.bad()).reason
    assert "`color`" in next(validation.bad()).reason
    plan = open_reader(index, recipe, "train", training=True).plan()
    used = np.concatenate([p for w in range(len(plan.counts(0))) for p in plan.packs(0, w)])
    assert len(used) == 60 - 3


def test_too_many_bad_records_stop_with_the_first_reasons(data: EmojiLike, tmp_path: Path) -> None:
    rewrite(data, "train-0.parquet", image=dict.fromkeys(range(5), b"broken"))
    text = message(data, BadShareError, tmp_path)
    assert "train: 5 of 60 records are bad (8.33%), but `data.max_bad_share` is 1.00%" in text
    assert "train-0.parquet row 0: field `image`" in text


def cut_png() -> bytes:
    """A picture whose header is whole and whose pixels are not."""
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()[: out.tell() // 2]


def read_all(data: EmojiLike, tmp_path: Path, between: Any = None) -> list[Pack]:
    recipe = data.recipe(tmp_path / "out", data={"max_bad_share": 0.2})
    reader = open_reader(build_index(recipe), recipe, "train", training=True)
    if between is not None:
        between()
    windows = [w for w in reader.plan().schedule(epochs=1).windows if w.epoch == 0]
    return [p for w in windows for p in reader.read(w, first=0, stop=10**9)]


def test_a_picture_that_does_not_decode_leaves_an_empty_slot(data: EmojiLike, tmp_path: Path) -> None:
    before = read_all(data, tmp_path)
    rewrite(data, "train-0.parquet", image={4: cut_png()})
    after = read_all(data, tmp_path / "again")
    bad = [b for p in after for b in p.bad]
    assert [(Path(b.shard).name, b.row) for b in bad] == [("train-0.parquet", 4)]
    assert "field `image`" in bad[0].reason
    pack = next(p for p in after if p.bad)
    slot = pack.sample_ids.tolist().index(4)
    assert all(f.lengths[slot] == 0 for f in pack.fields.values())
    assert not pack.targets["color"].present[slot]
    assert len({p.position for p in after}) == len(after)
    assert sum(len(p.sample_ids) for p in after) == sum(len(p.sample_ids) for p in before) == 60


def test_a_record_changed_after_the_index_is_never_trained_on(data: EmojiLike, tmp_path: Path) -> None:
    packs = read_all(data, tmp_path, between=lambda: rewrite(data, "train-2.parquet", caption={7: "a forged disc"}))
    bad = [b for p in packs for b in p.bad]
    assert [(Path(b.shard).name, b.row) for b in bad] == [("train-2.parquet", 7)]
    assert "hash differs" in bad[0].reason


def test_a_damaged_page_costs_its_row_group(data: EmojiLike, tmp_path: Path) -> None:
    shard = data.folder / "train-1.parquet"

    def damage() -> None:
        group = Parquet().row_groups(str(shard))[1]
        start = pq.ParquetFile(shard).metadata.row_group(group.index).column(1).data_page_offset
        content = bytearray(shard.read_bytes())
        content[start : start + 400] = b"\xff" * 400
        shard.write_bytes(bytes(content))

    packs = read_all(data, tmp_path, between=damage)
    bad = [b for p in packs for b in p.bad]
    assert sorted(b.row for b in bad) == [5, 6, 7, 8, 9]
    assert {Path(b.shard).name for b in bad} == {"train-1.parquet"}


def test_the_cache_is_used_and_follows_the_files(data: EmojiLike, tmp_path: Path) -> None:
    def fail(*_: Any) -> Any:
        raise AssertionError("measured again")

    recipe = data.recipe(tmp_path / "out")
    first = build_index(recipe)
    again = build_index(recipe, fail)
    assert {n: m.digest for n, m in again.manifests.items()} == {n: m.digest for n, m in first.manifests.items()}
    assert json.dumps(again.fitted) == json.dumps(first.fitted)
    write_table(data.folder / "train-0.parquet", make_rows(20, 77), 4)
    assert build_index(recipe).manifests["train"].digest != first.manifests["train"].digest


def test_training_settings_share_one_index(data: EmojiLike, tmp_path: Path) -> None:
    def fail(*_: Any) -> Any:
        raise AssertionError("measured again")

    build_index(data.recipe(tmp_path / "out"))
    other = data.tree(tmp_path / "out", optim={"lr": 0.1}, model={"fusion": "early"})
    other["fields"]["image"] |= {"stem": "cnn", "flip": True, "rotate_degrees": 10}
    other["fields"]["caption"] |= {"word_dropout": 0.5}
    from interlace.recipe.load import parse_recipe

    build_index(parse_recipe(other), fail)
