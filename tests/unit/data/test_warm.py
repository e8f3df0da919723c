"""Laws of decoding ahead: every value once, nothing left to decode, nothing decoded that there is no room for."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from interlace.contract.sample import Pack
from interlace.contract.tables import pack_to_table
from interlace.data.index.build import build_index
from interlace.data.read import reader as reading
from interlace.data.read import warm as warming
from interlace.data.read.open import open_reader
from interlace.data.read.reader import Reader
from interlace.data.read.warm import warm
from interlace.recipe.load import parse_recipe
from tests.data import EmojiLike


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each record that is decoded."""
    done: list[int] = []
    decode = reading.decode_record

    def counted(*arguments: Any) -> Any:
        done.append(1)
        return decode(*arguments)

    monkeypatch.setattr(reading, "decode_record", counted)
    return done


def readers(shapes: EmojiLike, storage: Path, cache_gb: float) -> list[Reader]:
    tree = shapes.tree(storage)
    tree["data"]["cache_gb"] = cache_gb
    recipe = parse_recipe(tree)
    index = build_index(recipe)
    return [open_reader(index, recipe, s, training=s == "train") for s in ("train", "validation")]


def packs(reader: Reader) -> list[Pack]:
    plan = reader.plan()
    schedule = plan.schedule(epochs=1)
    return [p for w in schedule.windows for p in reader.read(w, first=0, stop=schedule.stop, plan=plan)]


def test_nothing_is_decoded_after_it_and_packs_are_the_same(
    shapes: EmojiLike, tmp_path: Path, count: list[int]
) -> None:
    both = readers(shapes, tmp_path, 1.0)
    found = warm(both, map)
    assert (found.records, found.whole) == (len(count), True)
    assert found.records == sum(r.manifest.num_rows for r in both) == 288
    assert found.num_bytes > 10_000
    read = [packs(r) for r in both]
    assert len(count) == 288
    again = warm(both, map)
    assert (again.records, again.whole) == (0, True)
    plain = [packs(r) for r in readers(shapes, tmp_path, 0.0)]
    assert len(count) > 288
    for own, other in zip(read, plain, strict=True):
        assert [pack_to_table(p) for p in own] == [pack_to_table(p) for p in other]


def test_only_a_sample_is_decoded_where_there_is_no_room(shapes: EmojiLike, tmp_path: Path, count: list[int]) -> None:
    found = warm(readers(shapes, tmp_path, 1e-5), map)
    assert not found.whole
    assert 0 < len(count) < 288 / 2
    assert not warm(readers(shapes, tmp_path, 0.0), map).whole


def test_what_takes_long_is_given_away(shapes: EmojiLike, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warming, "HERE_S", 0.0)
    given: list[Any] = []

    def away(work: Callable[[Any], pa.Table], groups: Sequence[Any]) -> Iterable[pa.Table]:
        given.extend(groups)
        yield pa.concat_tables(map(work, groups))

    found = warm(readers(shapes, tmp_path, 1.0), away)
    assert len(given) > 8
    assert found.records == 288
