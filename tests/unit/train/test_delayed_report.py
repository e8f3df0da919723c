"""A worker writes each step down one step later, but always before it evaluates, keeps or ends."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from interlace.contract.errors import NonFiniteLossError
from interlace.contract.sample import Pack
from interlace.data.read.open import open_reader
from interlace.store.journal import journal_path, read
from interlace.train.checkpoint import newest_checkpoint
from interlace.train.run import Prepared, _job, open_run, prepare
from interlace.train.worker import Worker
from tests.data import EmojiLike

STEPS = 5


def prepared_for(shapes: EmojiLike, tmp_path: Path, every: int) -> Prepared:
    train = {"steps": STEPS, "checkpoint_every": every, "eval_every": STEPS}
    return prepare(
        shapes.recipe(tmp_path / "out", train=train, batch={"global_batch": 1}, tracking={"log_every": 1}), map
    )


def packs(prepared: Prepared) -> Iterator[Pack]:
    reader = open_reader(prepared.index, prepared.recipe, "train", training=True)
    for window in prepared.schedule.since(0):
        yield from reader.read(window, first=0, stop=prepared.schedule.stop)


def journaled(folder: Path, key: str) -> list[int]:
    """The steps with this metric, in the order of the journal."""
    points, _ = read(journal_path(folder), 0)
    return [point.step for point in points if key in point.metrics]


def test_every_step_is_journaled_once_and_in_order(shapes: EmojiLike, tmp_path: Path) -> None:
    prepared = prepared_for(shapes, tmp_path, every=2)
    with open_run(prepared, "run") as run, Worker(_job(run, prepared), 0, 1) as worker:
        worker.run(packs(prepared))
    assert worker.unread is None
    assert journaled(run.folder, "train/loss") == [*range(1, STEPS + 1)]
    assert journaled(run.folder, "time/checkpoint_s") == [2, 4, 5]


def test_no_checkpoint_is_written_of_a_step_that_went_wrong(shapes: EmojiLike, tmp_path: Path) -> None:
    prepared = prepared_for(shapes, tmp_path, every=1)
    with open_run(prepared, "run") as run, Worker(_job(run, prepared), 0, 1) as worker:
        steps = iter(range(1, STEPS + 1))
        worker.loop.losses.register_forward_hook(
            lambda module, given, out: (out[0] * (float("nan") if next(steps) == 3 else 1.0), out[1])
        )
        with pytest.raises(NonFiniteLossError, match="step 3: loss nan"):
            worker.run(packs(prepared))
    assert journaled(run.folder, "train/loss") == [1, 2]
    found = newest_checkpoint(run.folder)
    assert found.state is not None
    assert found.state.step == 2


def test_what_ends_a_run_leaves_its_last_step_in_the_journal(shapes: EmojiLike, tmp_path: Path) -> None:
    prepared = prepared_for(shapes, tmp_path, every=STEPS)

    def broken() -> Iterator[Pack]:
        for pack in packs(prepared):
            if pack.position == 3:
                raise OSError("the storage is gone")
            yield pack

    with (
        open_run(prepared, "run") as run,
        Worker(_job(run, prepared), 0, 1) as worker,
        pytest.raises(OSError, match="gone"),
    ):
        worker.run(broken())
    assert journaled(run.folder, "train/loss") == [1, 2, 3]
