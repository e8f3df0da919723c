"""`interlace plan` measures the run itself, leaves nothing behind, and its sentences follow from what it measured."""

from pathlib import Path

import pytest

from interlace.data.stream import map_units
from interlace.jobs.plan import tell
from interlace.train.estimate import estimate
from interlace.train.run import prepare
from tests.data import EmojiLike

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(240)]


def test_a_plan_measures_the_run_and_leaves_nothing(shapes: EmojiLike, tmp_path: Path) -> None:
    train = {"steps": 5000, "threads": 1, "cpus_per_worker": 0.5}
    prepared = prepare(shapes.recipe(tmp_path / "out", train=train), map_units)
    found = estimate(prepared, data_cpus=2.0, seconds=4.0)
    one = found.measured
    assert one.workers == 1
    assert one.steps > 10
    samples = prepared.index.manifests["train"].num_rows
    packs = sum(w.num_packs for w in prepared.schedule.windows if w.epoch == 0)
    assert one.samples == pytest.approx(samples / packs * prepared.recipe.batch.global_batch, rel=0.2)
    assert min(one.start_s, one.alone_s, one.busy_s, one.read_s, one.pack_bytes, one.checkpoint_bytes) > 0
    assert list((tmp_path / "out" / "plans").iterdir()) == []
    assert list((tmp_path / "out").glob("runs/*")) == []
    told = "\n".join(tell(found, price=3.6))
    assert f"expected: {found.samples_per_s:.1f} samples/s" in told
    assert f"{found.total_s / 3600 * 3.6:.2f} at 3.6 an hour" in told
    assert ("training binds" in told) != found.data_binds
