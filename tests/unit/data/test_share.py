"""A pass over a split in this process: a rank's packs are those of the whole pass, and no other is decoded."""

from dataclasses import replace
from pathlib import Path

import pytest

from interlace.contract.sample import Pack
from interlace.contract.tables import pack_to_table
from interlace.data.index.build import build_index
from interlace.data.read.open import open_reader
from interlace.data.read.reader import Reader
from interlace.data.read.share import PACKS_A_PART, parts, read_share
from tests.counting import counting, decoded
from tests.data import EmojiLike


@pytest.fixture
def reader(shapes: EmojiLike, tmp_path: Path) -> Reader:
    """Of several windows, none of which ends where a round of three ranks ends."""
    recipe = shapes.recipe(tmp_path, batch={"token_budget": 100}, data={"window_packs": 20})
    return open_reader(build_index(recipe), recipe, "train", training=False)


def whole(reader: Reader) -> list[Pack]:
    plan = reader.plan()
    windows = plan.schedule(epochs=1).windows
    return [p for w in windows for p in reader.read(w, first=0, stop=w.start + w.num_packs, plan=plan)]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_each_rank_decodes_its_own_packs_and_no_other(reader: Reader, tmp_path: Path, world_size: int) -> None:
    expected = whole(reader)
    assert any(w.start % 3 for w in reader.plan().schedule(epochs=1).windows)
    seen = 0
    for rank in range(world_size):
        file = tmp_path / f"{rank}"
        own = list(read_share(counting(reader, file), rank, world_size))
        assert [pack_to_table(p) for p in own] == [pack_to_table(p) for p in expected[rank::world_size]]
        assert decoded(file) == sum(int((f.lengths > 0).sum()) for p in own for f in p.fields.values()) > 0
        seen += len(own)
    assert seen == len(expected)


def test_parts_of_a_pass_are_the_pass_each_value_decoded_once(reader: Reader, tmp_path: Path) -> None:
    expected = whole(reader)
    schedule = reader.plan().schedule(epochs=1)
    units = parts(reader, schedule)
    assert len(units) > len(schedule.windows), "no window was cut"
    assert max(u.stop - u.first for u in units) <= PACKS_A_PART
    counted = counting(reader, tmp_path / "decoded")
    found = [p for u in units for p in counted.read(u.window, first=u.first, stop=u.stop)]
    assert [pack_to_table(p) for p in found] == [pack_to_table(p) for p in expected]
    fields = [f for p in expected for f in p.fields.values()]
    assert decoded(tmp_path / "decoded") == sum(int((f.lengths > 0).sum()) for f in fields)


def test_with_a_cache_parts_are_windows_so_that_it_gets_whole_row_groups(shapes: EmojiLike, tmp_path: Path) -> None:
    recipe = shapes.recipe(tmp_path, batch={"token_budget": 100}, data={"window_packs": 20})
    section = recipe.data.model_copy(update={"cache_gb": 1.0})
    cached = open_reader(build_index(recipe), recipe.model_copy(update={"data": section}), "train", training=False)
    schedule = cached.plan().schedule(epochs=1)
    assert [u.window for u in parts(cached, schedule)] == list(schedule.windows)
    assert len(parts(replace(cached, cache=None), schedule)) > len(schedule.windows)
    for unit in parts(cached, schedule):
        list(cached.read(unit.window, first=unit.first, stop=unit.stop))
    usable = cached.manifest.groups.sizes.rows
    assert usable.sum() > 0
    assert all(cached.is_stored(n) for n, rows in enumerate(usable) if rows)
