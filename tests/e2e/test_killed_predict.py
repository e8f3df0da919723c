"""`interlace predict` killed in the middle, and the same command again."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import Command
from tests.served import make_model, sounding_rows, write

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("part-*.parquet"))}


def test_killed_predict_goes_on_by_the_same_command(tmp_path: Path, interlace: Command) -> None:
    model = make_model(tmp_path / "model")
    rows = sounding_rows(1600, seed=5)
    for i in range(2):
        write(tmp_path / f"new-{i}.parquet", rows[i * 800 : (i + 1) * 800], group_rows=20)
    log = tmp_path / "command.log"

    def command(out: str) -> list[str]:
        return [
            "predict", str(model.folder), "--data", f"{tmp_path}/new-*.parquet", "--output", str(tmp_path / out),
            "--keep", "key", "--part-rows", "20",
        ]  # fmt: skip

    first = interlace(*command("out"))
    deadline = time.monotonic() + 300
    while len(digests(tmp_path / "out")) < 3:
        assert first.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("part-*.parquet")}
    assert len(kept) < 80, "it was killed in the middle"

    again = interlace(*command("out"))
    assert again.wait() == 0, log.read_text()
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in kept} == kept
    whole = interlace(*command("whole"))
    assert whole.wait() == 0, log.read_text()
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert len(digests(tmp_path / "whole")) == 80
    keys = [k for p in sorted((tmp_path / "out").glob("part-*")) for k in pq.read_table(p)["key"].to_pylist()]
    assert keys == list(range(1600))
    assert json.loads((tmp_path / "out" / "_predictions.json").read_text())["rows"] == 1600
    assert "1,600 rows in" in log.read_text()
    assert "part 80/80" in log.read_text()
