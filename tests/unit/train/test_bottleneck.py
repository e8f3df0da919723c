"""What binds a run is said in one sentence, from numbers that leave no choice."""

import json
import time
from pathlib import Path

import pytest

from interlace.contract.errors import InterlaceError
from interlace.jobs.progress import CLUSTER, PLACE
from interlace.jobs.watch import View, run_watch
from interlace.store.journal import Journal, journal_path
from interlace.train.bottleneck import bottleneck
from interlace.train.told import RANKS


def steps(wait: float, read: float, **more: float) -> list[dict[str, float]]:
    return [{"step_s": 0.1, "data/wait_s": wait * 0.1, "data/cpu_s": read * 0.1, **more}] * 20


def test_the_sentence_names_the_stage_that_the_others_wait_for() -> None:
    assert bottleneck(steps(0.0, 0.4), 1).startswith("training binds: data tasks keep 0.4 of 1 CPUs busy")
    assert bottleneck(steps(0.22, 3.1), 4).startswith(
        "decoding binds: data tasks keep 3.1 of 4 CPUs busy, workers wait for data 22% of the time"
    )
    assert bottleneck(steps(0.22, 0.5), 4).startswith("reading binds, not decoding")
    assert "wait for data 22%" in bottleneck(steps(0.22, 0.5), None)


def test_a_rank_that_holds_the_others_up_is_named() -> None:
    slow = {"rank/slowest": 3.0, "rank/slowest_s": 0.09, "rank/mean_s": 0.06}
    assert "rank 3 is 50% slower than the mean" in bottleneck(steps(0.0, 0.4, **slow), 1)
    even = {"rank/slowest": 3.0, "rank/slowest_s": 0.061, "rank/mean_s": 0.06}
    assert "rank" not in bottleneck(steps(0.0, 0.4, **even), 1)


def test_a_watched_run_tells_all_from_its_folder(tmp_path: Path) -> None:
    with pytest.raises(InterlaceError, match="expected the folder of a run"):
        run_watch(tmp_path, 1.0, once=True)
    view = View(tmp_path)
    assert list(view.lines()) == [f"{tmp_path.name}: no step yet"]
    journal = Journal(journal_path(tmp_path))
    for step in range(1, 61):
        numbers = {"train/loss": 2.5, "step_s": 0.1, "samples_per_s": 400.0, "data/wait_s": 0.03, "data/cpu_s": 0.31}
        numbers |= {"train/mfu": 0.4 + step % 2 / 10, "train/memory_peak_bytes": 2e9, "train/collectives_share": 0.125}
        journal.log(step, numbers)
    journal.log(60, {"val/color/accuracy": 0.75, "val/color/loss": 1.0})
    journal.close()
    (tmp_path / PLACE).write_text(json.dumps({"num_steps": 100, "data_cpus": 4}))
    (tmp_path / RANKS).write_text(
        json.dumps({"step": 60, "ranks": [{"wait_s": 0.03, "forward_s": 0.05}, {"wait_s": 0.031, "forward_s": 0.02}]})
    )
    used = {"nodes": 3, "cpus": 6, "cpus_reserved": 4, "store_bytes": 2e9, "store_used_bytes": 5e8, "spilled_bytes": 0}
    (tmp_path / CLUSTER).write_text(json.dumps({"t": time.time(), **used}) + "\n")
    told = "\n".join(view.lines())
    assert "step 60/100  loss 2.500  400.0 samples/s  10.00 steps/s  val/color/accuracy 0.750" in told
    assert "decoding binds: data tasks keep 3.1 of 4 CPUs busy, workers wait for data 30% of the time" in told
    assert (
        "  GPUs compute at 45% of their peak (MFU), a worker holds up to 2.0 GB, collectives are under way 12% " in told
    )
    assert "0: 50 + 30, 1: 20 + 31" in told
    assert "4 of 6 CPUs reserved; object store 500 of 2000 MB, spilled 0 MB" in told
