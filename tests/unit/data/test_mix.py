"""Laws of mixing: exact shares, every row as often as any other of its source, same draws from anywhere."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlace.contract.errors import RecipeError
from interlace.contract.tables import pack_to_table
from interlace.data.index.build import build_index
from interlace.data.plan.mix import Mix, MixSettings
from interlace.data.plan.plan import Plan, Schedule
from interlace.data.read.open import open_reader
from interlace.data.read.reader import Reader
from interlace.recipe.load import parse_recipe
from tests.data import EmojiLike
from tests.manifests import hashes

SIZES = (40, 700, 233)
WEIGHTS = (0.5, 0.3, 0.2)


def make_mix(weights: tuple[float, ...] = WEIGHTS, window_rows: int = 1000, seed: int = 0) -> Mix:
    starts = np.cumsum([0, *SIZES[: len(weights)]])
    bounds = [np.linspace(a, b, 6).astype(np.int64) for a, b in pairwise(starts)]
    usable = np.ones(int(starts[-1]), np.bool_)
    usable[::17] = False
    return Mix(
        settings=MixSettings(weights=weights, window_rows=window_rows),
        groups=tuple(np.stack([edges[:-1], edges[1:]], axis=1) for edges in bounds),
        usable=usable,
        seed=seed,
    )


def source_of(rows: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.cumsum(SIZES), rows, side="right")


def test_three_sources_have_their_shares_in_each_thousand():
    mix = make_mix()
    for window in range(12):
        counts = np.bincount(source_of(mix.draws(window) % len(mix.usable)), minlength=3)
        assert counts.tolist() == [500, 300, 200]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=2, max_size=3), st.integers(1, 1500), st.integers(0, 400))
def test_any_weights_are_exact_to_one_draw_in_each_window_and_over_the_run(weights, window_rows, window):
    mix = make_mix(tuple(weights), window_rows)
    ideal = np.array(weights) / sum(weights) * window_rows
    before, after = mix.counts_before(window), mix.counts_before(window + 1)
    assert int((after - before).sum()) == window_rows
    assert np.abs(after - before - ideal).max() < 1 + 1e-6
    assert int(after.sum()) == (window + 1) * window_rows
    assert np.abs(after - ideal * (window + 1)).max() < 8  # leftover draws are spread over the sources


def test_each_source_goes_round_its_usable_rows():
    mix = make_mix()
    draws = np.concatenate([mix.draws(w) for w in range(4)])
    rows, passes = draws % len(mix.usable), draws // len(mix.usable)
    assert mix.usable[rows].all()
    assert len(np.unique(draws)) == len(draws), "a row was drawn twice in one pass"
    for source in range(3):
        seen = np.bincount(rows[source_of(rows) == source], minlength=len(mix.usable))
        own = np.flatnonzero(mix.usable & (source_of(np.arange(len(mix.usable))) == source))
        assert seen[own].max() - seen[own].min() <= 1
    assert passes.max() > 40, "the smallest source was never begun anew: nothing was tested"
    first, second = (rows[(passes == p) & (source_of(rows) == 0)] for p in (0, 1))
    assert sorted(first.tolist()) == sorted(second.tolist())
    assert first.tolist() != second.tolist()


def mixed_tree(shapes: EmojiLike, storage: Path, **data: object) -> dict:
    tree = shapes.tree(storage)
    tree["data"].pop("train")
    tree["data"]["mix"] = {
        name: {"paths": [f"train-{i}.parquet"], "weight": weight}
        for i, (name, weight) in enumerate(zip("abc", WEIGHTS, strict=True))
    }
    tree["data"] |= {"mix_rows": 100} | data
    return tree


@pytest.fixture(scope="module")
def mixed(shapes: EmojiLike, tmp_path_factory: pytest.TempPathFactory) -> tuple[Reader, Plan, Schedule]:
    recipe = parse_recipe(mixed_tree(shapes, tmp_path_factory.mktemp("mixed")))
    reader = open_reader(build_index(recipe), recipe, "train", training=True)
    plan = reader.plan()
    return reader, plan, plan.schedule(steps=60)


def test_packs_of_a_mix_hold_each_thousands_shares(mixed: tuple[Reader, Plan, Schedule]):
    reader, plan, schedule = mixed
    starts = reader.manifest.starts
    source = np.repeat([g.source for g in reader.manifest.groups], np.diff(starts))
    whole = [w for w in schedule.windows if w.start + w.num_packs <= schedule.stop]
    for window in whole:
        packs = reader.read(window, first=0, stop=schedule.stop, plan=plan)
        ids = np.concatenate([p.sample_ids for p in packs])
        assert np.bincount(source[ids]).tolist() == [50, 30, 20]
    assert len(whole) >= 4


def test_a_mix_starting_anywhere_gives_the_same_packs(mixed: tuple[Reader, Plan, Schedule]):
    reader, plan, schedule = mixed

    def packs(first: int) -> dict[int, object]:
        found = {}
        for window in schedule.since(first):
            for pack in reader.read(window, first=first, stop=schedule.stop, plan=plan):
                found[pack.position] = pack_to_table(pack)
        return found

    whole = packs(0)
    assert list(whole) == list(range(schedule.stop))
    for first in (1, schedule.stop // 2, schedule.stop - 1):
        assert packs(first) == {p: t for p, t in whole.items() if p >= first}


def test_a_row_drawn_again_is_augmented_anew(shapes: EmojiLike, tmp_path: Path):
    tree = mixed_tree(shapes, tmp_path, mix_rows=400)
    tree["fields"]["image"] |= {"rotate_degrees": 40.0}
    recipe = parse_recipe(tree)
    reader = open_reader(build_index(recipe), recipe, "train", training=True)
    plan = reader.plan()
    window = plan.schedule(steps=100).windows[0]
    seen: dict[int, list[bytes]] = {}
    for pack in reader.read(window, first=0, stop=window.num_packs, plan=plan):
        item = pack.fields["image"]
        ends = np.cumsum(item.lengths)
        for row, length, end in zip(pack.sample_ids.tolist(), item.lengths.tolist(), ends.tolist(), strict=True):
            if length:
                seen.setdefault(row, []).append(item.values[end - length : end].tobytes())
    again = [values for values in seen.values() if len(values) > 1]
    assert len(again) > 20
    assert all(len(set(values)) == len(values) for values in again)


def test_train_and_mix_exclude_each_other(shapes: EmojiLike, tmp_path: Path):
    tree = mixed_tree(shapes, tmp_path)
    tree["data"]["train"] = {"paths": ["train-0.parquet"]}
    with pytest.raises(RecipeError, match="expected either `train` or `mix`"):
        parse_recipe(tree)
    tree = mixed_tree(shapes, tmp_path)
    tree["data"]["mix"]["a"]["weigth"] = tree["data"]["mix"]["a"].pop("weight")
    with pytest.raises(RecipeError, match=r"data.mix.a.weigth: unknown key; did you mean `weight`\?"):
        parse_recipe(tree)


def test_the_same_rows_from_one_source_and_from_a_mix_are_different_data(shapes: EmojiLike, tmp_path: Path):
    plain = build_index(shapes.recipe(tmp_path / "plain")).manifests["train"]
    mixed = build_index(parse_recipe(mixed_tree(shapes, tmp_path / "mixed"))).manifests["train"]
    assert mixed.num_rows == plain.num_rows == sum(pq.read_metadata(p).num_rows for p in shapes.folder.glob("train-*"))
    assert np.array_equal(hashes(mixed), hashes(plain))
    assert mixed.digest != plain.digest
