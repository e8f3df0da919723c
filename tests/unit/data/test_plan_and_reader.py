"""Laws of the plan and the reader, without Ray."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from interlace.contract.tables import pack_to_table, table_to_pack
from interlace.data.index.build import build_index
from interlace.data.plan.plan import Plan, PlanSettings, Rows, Work, all_work, plan_of_rows
from interlace.data.read.open import open_reader
from tests.data import EmojiLike


def make_plan(num_rows: int, seed: int, budget: int = 64, groups: int = 7, window: int = 3) -> Plan:
    rng = np.random.default_rng(seed)
    starts = np.linspace(0, num_rows, groups + 1).astype(np.int64)
    tokens = rng.integers(0, budget + 1, num_rows).astype(np.int64)
    made = PlanSettings(seed=seed, token_budget=budget, global_batch=4, window_packs=window)
    cost = rng.random(num_rows) * tokens
    return plan_of_rows(Work(tokens=tokens, cost=cost), starts, made)


def tokens_of(plan: Plan) -> NDArray[np.int64]:
    """Tokens of every row of a plan whose rows are known."""
    return all_work(plan.look, len(plan.sizes.rows)).tokens


def packs_of(plan: Plan, epoch: int) -> list[Rows]:
    """The packs of an epoch."""
    return [p for w in range(len(plan.counts(epoch))) for p in plan.packs(epoch, w)]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(0, 10**6), st.integers(1, 5))
def test_every_usable_row_is_in_exactly_one_pack_of_an_epoch(num_rows: int, seed: int, window: int) -> None:
    plan = make_plan(num_rows, seed, window=window)
    for epoch in (0, 3):
        packs = packs_of(plan, epoch)
        rows = np.concatenate([np.zeros(0, np.int64), *packs])
        assert sorted(rows.tolist()) == np.flatnonzero(tokens_of(plan) > 0).tolist()
        assert all(0 < tokens_of(plan)[p].sum() <= plan.settings.token_budget for p in packs)


def test_epochs_differ_and_the_same_seed_gives_the_same_packs() -> None:
    plan, again, other = make_plan(300, 5), make_plan(300, 5), make_plan(300, 6)

    def order(plan: Plan, epoch: int) -> list[int]:
        return np.concatenate(packs_of(plan, epoch)).tolist()

    assert order(plan, 0) == order(again, 0)
    assert order(plan, 0) != order(plan, 1)
    assert order(plan, 0) != order(other, 0)


def test_positions_run_on_over_epoch_ends_and_nothing_is_dropped() -> None:
    plan = make_plan(211, 1)
    schedule = plan.schedule(epochs=3)
    per_epoch = [sum(w.num_packs for w in schedule.windows if w.epoch == e) for e in range(3)]
    assert any(n % plan.settings.global_batch for n in per_epoch), "no epoch ends inside a step: nothing was tested"
    assert schedule.stop % plan.settings.global_batch == 0
    assert sum(per_epoch) <= schedule.stop < sum(per_epoch) + plan.settings.global_batch
    positions = [w.start + i for w in schedule.windows for i in range(w.num_packs)]
    assert positions == list(range(len(positions)))
    assert len(positions) >= schedule.stop
    ids = [
        row
        for w in schedule.windows
        if w.epoch < 3
        for p in plan.packs(w.epoch, w.index, w.num_packs)
        for row in p.tolist()
    ]
    usable = np.flatnonzero(tokens_of(plan) > 0)
    assert np.bincount(ids, minlength=211)[usable].tolist() == [3] * len(usable)


def test_steps_and_epochs_name_the_same_stream() -> None:
    plan = make_plan(200, 2)
    by_epochs = plan.schedule(epochs=2)
    by_steps = plan.schedule(steps=by_epochs.num_steps)
    assert by_epochs.stop == by_steps.stop
    assert by_epochs.windows[: len(by_steps.windows)] == by_steps.windows


def test_since_starts_at_the_window_of_a_position() -> None:
    schedule = make_plan(200, 2).schedule(epochs=3)
    for position in range(schedule.stop):
        window = schedule.since(position)[0]
        assert window.start <= position < window.start + window.num_packs


def test_packing_loses_less_than_half_a_pack_and_a_bit_a_window() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(10, 60, 5000)
    made = PlanSettings(seed=0, token_budget=1024, global_batch=1, window_packs=1000)
    plan = plan_of_rows(Work(tokens=tokens, cost=tokens.astype(np.float64)), np.array([0, 5000]), made)
    packs = plan.packs(0, 0)
    assert len(packs) <= np.ceil(tokens.sum() / 1024) + 1
    assert plan.fill(plan.schedule(epochs=1)) >= 0.98


def test_starting_anywhere_gives_the_same_packs(shapes: EmojiLike, tmp_path: Path) -> None:
    recipe = shapes.recipe(tmp_path)
    reader = open_reader(build_index(recipe), recipe, "train", training=True)
    schedule = reader.plan().schedule(epochs=2)
    whole = [p for w in schedule.windows for p in reader.read(w, first=0, stop=schedule.stop)]
    assert [p.position for p in whole] == list(range(schedule.stop))
    assert len({p.epoch for p in whole}) >= 2
    tables = [pack_to_table(p) for p in whole]
    for start in (1, 5, schedule.stop // 2, schedule.stop - 1):
        rest = [p for w in schedule.since(start) for p in reader.read(w, first=start, stop=schedule.stop)]
        assert [pack_to_table(p) for p in rest] == tables[start:]


def test_a_pack_survives_arrow_without_a_copy(shapes: EmojiLike, tmp_path: Path) -> None:
    recipe = shapes.recipe(tmp_path)
    reader = open_reader(build_index(recipe), recipe, "train", training=True)
    window = reader.plan().schedule(epochs=1).windows[0]
    for pack in reader.read(window, first=0, stop=3):
        back = table_to_pack(pack_to_table(pack))
        assert back.position == pack.position
        assert list(back.fields) == list(pack.fields)
        for name, item in pack.fields.items():
            np.testing.assert_array_equal(back.fields[name].values, item.values)
            assert back.fields[name].values.dtype == item.values.dtype
            assert not back.fields[name].values.flags.writeable
            assert item.lengths.sum() == len(item.values)
        for name, target in pack.targets.items():
            np.testing.assert_array_equal(back.targets[name].present, target.present)
            np.testing.assert_array_equal(back.targets[name].values, target.values)
    assert any(0 in p.fields["image"].lengths for p in reader.read(window, first=0, stop=99)), "no missing field seen"


def test_num_tokens_of_the_plan_are_those_of_the_packs(shapes: EmojiLike, tmp_path: Path) -> None:
    recipe = shapes.recipe(tmp_path)
    reader = open_reader(build_index(recipe), recipe, "train", training=True)
    plan = reader.plan()
    seen = 0
    for window in plan.schedule(epochs=1).windows:
        for pack in reader.read(window, first=0, stop=10**9):
            lengths = sum(f.lengths for f in pack.fields.values())
            assert lengths.tolist() == tokens_of(plan)[pack.sample_ids].tolist()  # type: ignore[union-attr]
            seen += len(pack.sample_ids)
    assert seen == shapes.rows


def test_a_schedule_is_asked_for_by_epochs_or_by_steps() -> None:
    with pytest.raises(AssertionError):
        make_plan(10, 0).schedule()
