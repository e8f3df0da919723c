"""Laws of the cache of decoded values: it changes no pack, is bounded, and survives damage and other writers."""

import io
import logging
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from interlace.contract.sample import Pack
from interlace.contract.tables import pack_to_table
from interlace.data.index.build import build_index
from interlace.data.read import cache_room
from interlace.data.read.open import open_reader
from interlace.data.read.reader import Reader
from interlace.recipe.identity import digest
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from tests.data import SCHEMA, make_rows
from tests.unit.data.test_bad_input import cut_png

AUGMENTED = {
    "image": {"rotate_degrees": 20, "flip": True, "color": 0.2},
    "caption": {"word_dropout": 0.3},
    "sound": {"gain_db": 6, "shift_s": 0.05, "noise_db": 20, "time_mask": 0.3},
}
NUM_GROUPS = 6


def wav(rng: np.random.Generator) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, rng.normal(0, 0.1, int(rng.integers(1000, 3000))), 8000, format="WAV")
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shard of 60 rows with missing values, pictures that do not decode, and one that can't be measured."""
    rng = np.random.default_rng(0)
    rows = make_rows(60, seed=3)
    for row in rows:
        row["sound"] = None if rng.random() < 0.3 else wav(rng)
    rows[5]["image"] = rows[31]["image"] = cut_png()
    rows[40]["image"] = b"no picture"
    made = tmp_path_factory.mktemp("cache")
    table = pa.Table.from_pylist(rows, schema=SCHEMA.append(pa.field("sound", pa.binary())))
    pq.write_table(table, made / "train.parquet", row_group_size=60 // NUM_GROUPS)
    return made


def recipe_of(folder: Path, storage: Path, *, data: dict[str, Any] | None = None, **fields: dict[str, Any]) -> Recipe:
    """A recipe with the cache on and augmentation; `fields` change settings."""
    base: dict[str, dict[str, Any]] = {
        "image": {"modality": "image", "column": "image", "max_size": 16},
        "caption": {"modality": "text", "column": "caption"},
        "size": {"modality": "table", "numbers": ["width", "height"]},
        "sound": {"modality": "audio", "column": "sound", "rate_hz": 8000, "num_mels": 16},
    }
    return parse_recipe(
        {
            "name": "kept",
            "storage": str(storage),
            "data": {
                "root": str(folder),
                "train": {"paths": ["train.parquet"]},
                "window_packs": 2,
                "max_bad_share": 0.1,
                "cache_gb": 1.0,
                **(data or {}),
            },
            "fields": {n: {**base[n], **AUGMENTED.get(n, {}), **fields.get(n, {})} for n in base},
            "tasks": {"color": {"task": "classification", "column": "color"}},
            "batch": {"token_budget": 200},
            "train": {"steps": 20},
        }
    )


def reader_of(recipe: Recipe, *, training: bool = True) -> Reader:
    return open_reader(build_index(recipe), recipe, "train", training=training)


def read(reader: Reader, epoch: int = 0) -> list[Pack]:
    """The packs of an epoch."""
    windows = [w for w in reader.plan().schedule(epochs=epoch + 1).windows if w.epoch == epoch]
    return [p for w in windows for p in reader.read(w, first=0, stop=10**9)]


def tables(packs: list[Pack]) -> list[pa.Table]:
    return [pack_to_table(p) for p in packs]


def files(reader: Reader) -> list[Path]:
    assert reader.cache is not None
    return sorted(Path(reader.cache.folder).glob("*"))


@pytest.fixture
def reader(folder: Path, tmp_path: Path) -> Reader:
    return reader_of(recipe_of(folder, tmp_path))


@pytest.fixture(autouse=True)
def _new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process remembers of folders is forgotten between tests."""
    monkeypatch.setattr("interlace.data.read.cache._said", set())
    monkeypatch.setattr("interlace.data.read.cache._closed", set())
    monkeypatch.setattr(cache_room, "_unseen", {})


def forbid_decoding(monkeypatch: pytest.MonkeyPatch, reader: Reader) -> None:
    """From now on nothing may be decoded, hashed or read from a shard."""

    def fail(*_: Any) -> Any:
        raise AssertionError("not from the cache")

    for modality, _ in reader.codec.fields.values():
        monkeypatch.setattr(type(modality), "decode", fail)
    monkeypatch.setattr("interlace.data.read.reader.record_hash", fail)
    monkeypatch.setattr("interlace.data.index.manifest.open_source", fail)


@pytest.mark.parametrize("training", [True, False])
def test_packs_are_the_same_without_cold_warm_and_half_warm(folder: Path, tmp_path: Path, training: bool) -> None:
    reader = reader_of(recipe_of(folder, tmp_path), training=training)
    without = [tables(read(replace(reader, cache=None), epoch)) for epoch in (0, 1)]
    assert tables(read(reader)) == without[0]
    assert len(files(reader)) == NUM_GROUPS
    assert [tables(read(reader, epoch)) for epoch in (0, 1)] == without
    for file in files(reader)[::2]:
        file.unlink()
    assert [tables(read(reader, epoch)) for epoch in (0, 1)] == without
    assert len(files(reader)) == NUM_GROUPS
    bad = [b for p in read(reader) for b in p.bad]
    assert sorted(b.row for b in bad) == [5, 31]
    assert all(b.reason.startswith("field `image`: ") for b in bad)
    assert any(0 in p.fields["sound"].lengths for p in read(reader)), "no missing field seen"


def test_a_warm_epoch_decodes_nothing(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tables(read(reader, 1))
    forbid_decoding(monkeypatch, reader)
    assert tables(read(reader, 1)) == expected
    files(reader)[0].unlink()
    with pytest.raises(AssertionError, match="not from the cache"):
        read(reader, 1)


def test_values_from_the_cache_and_fresh_ones_are_read_only(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    modality = type(reader.codec.fields["sound"][0])
    augment: Callable[..., Any] = modality.augment

    def look(self: Any, decoded: Any, rng: Any) -> Any:
        seen.append(decoded.flags.writeable)
        return augment(self, decoded, rng)

    monkeypatch.setattr(modality, "augment", look)
    read(reader)
    fresh = len(seen)
    read(reader)
    assert len(seen) == 2 * fresh > 0
    assert not any(seen)


def places(file: Path) -> Iterator[int]:
    """A byte of each part of a cache file: begin, values, footer, its length, the hash, the end."""
    size = file.stat().st_size
    yield from (0, size // 3, size - 200, size - 20, size - 12, size - 1)


def test_a_flipped_bit_anywhere_is_found_and_the_file_made_anew(
    reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    expected = tables(read(reader))
    file = files(reader)[0]
    for place in places(file):
        content = bytearray(file.read_bytes())
        content[place] ^= 16
        file.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            assert tables(read(reader)) == expected
        assert [r for r in caplog.records if "is damaged" in r.message and file.name in r.message]
        assert file.read_bytes() != content
        caplog.clear()
        assert tables(read(reader)) == expected
        assert not caplog.records, "it was not made anew"


def test_truncated_empty_foreign_and_swapped_files_are_made_anew(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tables(read(reader))
    one, two, *_ = files(reader)
    whole = one.read_bytes()
    for content in (b"", b"x", whole[:100], whole[:-1], whole + b"\0", b"\0" * 5000, two.read_bytes()):
        one.write_bytes(content)
        assert tables(read(reader)) == expected
        assert one.stat().st_size == len(whole)
    forbid_decoding(monkeypatch, reader)
    assert tables(read(reader)) == expected


def test_a_file_may_vanish_while_it_is_read(reader: Reader) -> None:
    expected = tables(read(reader))
    packs = []
    for window in [w for w in reader.plan().schedule(epochs=1).windows if w.epoch == 0]:
        for pack in reader.read(window, first=0, stop=10**9):
            packs.append(pack)
            for file in files(reader):
                file.unlink()
    assert tables(packs) == expected


def test_a_resumed_window_writes_no_part_and_gives_the_same(reader: Reader) -> None:
    window = reader.plan().schedule(epochs=1).windows[0]
    whole = tables(list(reader.read(window, first=0, stop=10**9)))
    assert window.num_packs > 2
    for file in files(reader):
        file.unlink()
    assert tables(list(reader.read(window, first=2, stop=10**9))) == whole[2:]
    assert files(reader) == []
    stopped = reader.read(window, first=0, stop=10**9)
    assert pack_to_table(next(stopped)) == whole[0]
    stopped.close()
    assert files(reader) == []
    assert tables(list(reader.read(window, first=0, stop=10**9))) == whole
    kept = len(files(reader))
    assert kept == 2
    assert tables(list(reader.read(window, first=2, stop=10**9))) == whole[2:]


def test_large_values_go_to_the_file_bit_by_bit(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tables(read(replace(reader, cache=None)))
    monkeypatch.setattr("interlace.data.read.cache.FLUSH_BYTES", 1)
    assert tables(read(reader)) == expected
    forbid_decoding(monkeypatch, reader)
    assert tables(read(reader)) == expected


def test_a_shard_that_changed_is_not_cached_and_a_cached_one_is_not_needed(folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(folder, tmp_path)
    reader = reader_of(recipe)
    expected = tables(read(reader))
    table = pq.read_table(folder / "train.parquet")
    captions = table["caption"].to_pylist()
    captions[0] = "forged"
    forged = tmp_path / "forged"
    forged.mkdir()
    pq.write_table(table.set_column(2, "caption", pa.array(captions)), forged / "train.parquet", row_group_size=10)
    groups = replace(reader.manifest.groups, shards=(str(forged / "train.parquet"),))
    moved = replace(reader, manifest=replace(reader.manifest, groups=groups))
    by_row = [t.drop_columns("bad") for t in expected]
    assert [t.drop_columns("bad") for t in tables(read(moved))] == by_row, "what is cached belongs to the hashes"
    for file in files(reader):
        file.unlink()
    for _ in range(2):
        bad = [b for p in read(moved) for b in p.bad if "hash differs" in b.reason]
        assert [b.row for b in bad] == [0]
        assert len(files(reader)) == NUM_GROUPS - 1


def test_settings_that_decide_values_have_files_of_their_own(folder: Path, tmp_path: Path) -> None:
    first = reader_of(recipe_of(folder, tmp_path))
    read(first)
    same = reader_of(recipe_of(folder, tmp_path, image={"flip": False, "stem": "cnn"}, caption={"word_dropout": 0.0}))
    assert same.cache == first.cache
    read(same)
    assert len(files(first)) == NUM_GROUPS
    for other in ({"image": {"max_size": 8}}, {"caption": {"max_tokens": 7}}, {"sound": {"hop_ms": 5.0}}):
        changed = reader_of(recipe_of(folder, tmp_path, **other))
        before = len(files(first))
        assert tables(read(changed)) == tables(read(replace(changed, cache=None)))
        assert len(files(first)) == before + NUM_GROUPS


def test_data_that_moved_shares_the_files(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = reader_of(recipe_of(folder, tmp_path / "out"))
    expected = tables(read(first))
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "train.parquet").write_bytes((folder / "train.parquet").read_bytes())
    reader = reader_of(recipe_of(moved, tmp_path / "out"))
    forbid_decoding(monkeypatch, reader)
    assert [t.drop_columns("bad") for t in tables(read(reader))] == [t.drop_columns("bad") for t in expected]


def test_other_code_or_libraries_have_files_of_their_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(folder, tmp_path)
    caches = [reader_of(recipe).cache]
    monkeypatch.setattr("interlace.data.read.open.CACHE_VERSION", 10**6)
    caches.append(reader_of(recipe).cache)
    monkeypatch.setattr("interlace.data.read.open.LIBRARIES", {"pillow": "0"})
    caches.append(reader_of(recipe).cache)
    assert len({c.reads for c in caches if c}) == 3


def test_the_cache_is_no_part_of_the_digest_and_can_be_placed_or_turned_off(folder: Path, tmp_path: Path) -> None:
    here = recipe_of(folder, tmp_path, data={"cache_folder": str(tmp_path / "local")})
    off = recipe_of(folder, tmp_path, data={"cache_gb": 0})
    assert digest(here) == digest(off)
    read(reader_of(here))
    assert len(list((tmp_path / "local").iterdir())) == NUM_GROUPS
    assert reader_of(off).cache is None
    assert not (tmp_path / "cache" / "decoded").exists()
    with pytest.raises(Exception, match="no effect with `cache_gb: 0`"):
        recipe_of(folder, tmp_path, data={"cache_gb": 0, "cache_folder": "x"})


def test_a_folder_that_can_t_be_written_is_said_once_and_stops_nothing(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    reader = reader_of(recipe_of(folder, tmp_path, data={"cache_folder": str(tmp_path / "file" / "kept")}))
    expected = tables(read(replace(reader, cache=None)))
    assert tables(read(reader)) == expected
    assert tables(read(reader)) == expected
    assert len([r for r in caplog.records if "can't be written" in r.message]) == 1
    assert len([r for r in caplog.records if "can't be read" in r.message]) <= 1


def test_a_full_disk_leaves_no_part_and_stops_nothing(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tables(read(replace(reader, cache=None)))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("interlace.data.read.cache.make_room", full)
    assert tables(read(reader)) == expected
    assert files(reader) == []


def test_threads_and_processes_that_write_the_same_files_agree(folder: Path, tmp_path: Path) -> None:
    reader = reader_of(recipe_of(folder, tmp_path))
    expected = tables(read(replace(reader, cache=None)))
    found: list[list[pa.Table]] = []
    threads = [threading.Thread(target=lambda: found.append(tables(read(reader)))) for _ in range(3)]
    spawned = multiprocessing.get_context("spawn").Process(target=read, args=(reader,))
    spawned.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spawned.join(60)
    assert spawned.exitcode == 0
    assert found == [expected] * 3
    assert len(files(reader)) == NUM_GROUPS
    assert tables(read(reader)) == expected
