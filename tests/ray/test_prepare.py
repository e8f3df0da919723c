"""Preparing as a Ray Data job gives what it gives in process."""

from pathlib import Path

import pytest

from interlace.data.prepare import make_plan, prepare
from interlace.data.stream import stream_units
from tests.joined import preparation, write_parquet

pytestmark = pytest.mark.ray


def test_a_ray_job_prepares_as_this_process_does(tmp_path: Path) -> None:
    write_parquet(tmp_path / "sources", 300, group_rows=40)
    here = prepare(make_plan(preparation(tmp_path / "sources", tmp_path / "here")))
    told: list[tuple[str, int, int]] = []
    plan = make_plan(preparation(tmp_path / "sources", tmp_path / "there"))
    there = prepare(plan, stream_units, progress=lambda *facts: told.append(facts))
    assert there == here
    assert {stage for stage, done, of in told if done == of} == {"scatter", "join", "shards"}
    for shard in (s["file"] for facts in here.splits.values() for s in facts["shards"]):
        assert (tmp_path / "here" / shard).read_bytes() == (tmp_path / "there" / shard).read_bytes()
    assert plan.num_buckets > 3
