"""Laws of the journal: one point for a step and a metric whatever happens, and a reader that sees whole lines only."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlace.store.journal import Journal, Point, read

WRITER = """
import sys
from pathlib import Path
from interlace.store.journal import Journal
journal = Journal(Path(sys.argv[1]))
for step in range(10_000_000):
    journal.log(step, {"train/loss": step / 7, "rate": 1.0})
"""


def values(points: list[Point]) -> list[tuple[int, str, float]]:
    return [(point.step, key, value) for point in points for key, value in point.metrics.items()]


def test_what_is_logged_is_read_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run" / "metrics.jsonl")
    for step in range(100):
        journal.log(step, {"train/loss": step / 3, "val/准确率": 1e-300 * step})
    points, offset = read(tmp_path / "run" / "metrics.jsonl")
    assert values(points) == [
        (s, k, v) for s in range(100) for k, v in (("train/loss", s / 3), ("val/准确率", 1e-300 * s))
    ]
    assert [p.time_ms for p in points] == sorted(p.time_ms for p in points)
    assert offset == (tmp_path / "run" / "metrics.jsonl").stat().st_size
    journal.close()


def test_values_that_are_not_finite_come_back_from_strict_json(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "m")
    journal.log(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.1})
    journal.close()

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    json.loads((tmp_path / "m").read_text(), parse_constant=refuse)
    metrics = read(tmp_path / "m")[0][0].metrics
    assert math.isnan(metrics["a"])
    assert (metrics["b"], metrics["c"], metrics["d"]) == (math.inf, -math.inf, 0.1)


def test_steps_computed_again_keep_their_first_line(tmp_path: Path) -> None:
    path = tmp_path / "m"
    first = Journal(path)
    for step in range(10):
        first.log(step, {"loss": float(step)})
    first.log(9, {"val": 0.5})
    first.close()
    before = path.read_bytes()
    again = Journal(path)  # restarted from a checkpoint at step 4
    for step in range(4, 12):
        again.log(step, {"loss": float(step)})
        if step == 9:
            again.log(step, {"val": 0.5, "late": 1.0})
    again.close()
    after = path.read_bytes()
    assert after.startswith(before)
    new = values(read(path, len(before))[0])
    assert new == [(9, "late", 1.0), (10, "loss", 10.0), (11, "loss", 11.0)]


@pytest.mark.parametrize("tail", ['{"t":1,"step":3,"m":{"lo', '{"t":1,"step":3,"m":{"loss":1.0}}', "\0\0\0\0", "{"])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "m"
    journal = Journal(path)
    journal.log(1, {"loss": 1.0})
    journal.close()
    with path.open("ab") as file:
        file.write(tail.encode())
    assert values(read(path)[0]) == [(1, "loss", 1.0)], "a reader leaves what has no newline"
    journal = Journal(path)
    journal.log(3, {"loss": 3.0})
    journal.close()
    assert values(read(path)[0]) == [(1, "loss", 1.0), (3, "loss", 3.0)]


def test_a_file_of_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"x" * 200_000)
    Journal(path).close()
    assert path.read_bytes() == b""


def test_a_damaged_line_in_the_middle_costs_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "m"
    damaged = [b"\xff\xfe", b"[]", b"{}", b'{"t":1,"step":2,"m":{"loss":"x"}}', b""]
    good = b'{"t":1,"step":%d,"m":{"loss":1.0}}\n'
    path.write_bytes(good % 1 + b"\n".join(damaged) + b"\n" + good % 2)
    points, offset = read(path)
    assert [p.step for p in points] == [1, 2]
    assert offset == path.stat().st_size
    Journal(path).close()


def test_a_missing_journal_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "none", 7) == ([], 7)


@given(steps=st.lists(st.integers(0, 30), max_size=40), num_bytes=st.integers(1, 300))
def test_reading_in_any_portions_gives_the_same_points(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], num_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "m"
    journal = Journal(path)
    for step in steps:
        journal.log(step, {"a": step / 3, "b" * (step + 1): 1.0})
    journal.close()
    got, offset = read(path, 0, num_bytes)
    portions, after = list(got), offset
    while after != 0 and got:
        got, after = read(path, after, num_bytes)
        portions += got
    assert portions == read(path)[0]
    logged = [step for step, key, _ in values(portions) if key == "a"]
    assert logged == sorted(set(logged)), "steps of a metric only grow"


def test_a_writer_killed_at_any_moment_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "m"
    steps = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=Path(__file__).parents[2])
        target = (path.stat().st_size if path.exists() else 0) + 50_000
        while not path.exists() or path.stat().st_size < target:
            assert process.poll() is None
            os.sched_yield()
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen = [(step, key) for step, key, _ in values(all_points(path))]
        assert len(seen) == len(set(seen))
        assert {s for s, _ in seen} == set(range(len(seen) // 2)), "no step is missing, none is there twice"
        assert len(seen) > steps
        steps = len(seen)


def all_points(path: Path) -> list[Point]:
    points, offset = read(path)
    while True:
        more, after = read(path, offset)
        if after == offset:
            return points
        points, offset = points + more, after
