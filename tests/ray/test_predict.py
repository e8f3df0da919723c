"""Prediction over shards as a Ray Data job gives the files that this process gives, whatever the order of the parts."""

import hashlib
from pathlib import Path

import pytest

from interlace.data.stream import stream_units
from interlace.results.bulk import plan_bulk, predict_bulk
from tests.served import make_model, write

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(240)]


def test_ray_writes_the_bytes_that_this_process_writes(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    rows = [dict(row) for row in model.rows]
    rows[3] |= {"sound": b"fLaC broken"}
    for i in range(2):
        write(tmp_path / f"shard-{i}.parquet", rows[i * 25 : (i + 1) * 25], group_rows=5)
    told: list[int] = []
    for name, mapper in (("here", map), ("ray", stream_units)):
        bulk = plan_bulk(model.folder, [f"{tmp_path}/shard-*.parquet"], tmp_path / name, keep=["key"], part_rows=10)
        done = predict_bulk(bulk, mapper, progress=lambda parts, rows: told.append(rows))
        assert (done.num_rows, done.num_bad) == (50, 1)
    digests = [
        {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / name).glob("part-*")}
        for name in ("here", "ray")
    ]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 5
    assert told[-1] == 50
