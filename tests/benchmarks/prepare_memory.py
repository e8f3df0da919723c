"""Peak memory of `prepare` for 20,000 and 200,000 records of four sources: it should not grow with the data.

Run `python -m tests.benchmarks.prepare_memory [--ray] [--format four|parquet] [ROWS ...]`.

Each size runs in a process of its own, whose whole tree is watched: resident memory in process, and with `--ray` the
sum of proportional shares over the driver, Ray's own processes and its workers.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from interlace.data.prepare import make_plan, prepare
from tests.joined import four_formats, preparation, write_four_formats, write_parquet

POLL_S, RAY_POLL_S = 0.02, 0.5  # proportional shares cost the kernel much
SOURCE_GROUP_ROWS = 500
SETTINGS = {"bucket_mb": 1, "shard_mb": 2, "group_rows": 64}
WRITERS: dict[str, Callable[[Path, int, int], None]] = {"four": write_four_formats, "parquet": write_parquet}
"""Format -> writes the four sources: folder, rows, rows in a row group. `four`: tar, CSV, JSON Lines, Parquet."""


def child(sources: Path, out: Path, on_ray: bool) -> None:
    """One job."""
    before = psutil.Process().memory_info().rss / 2**20
    mixed = {"sources": four_formats(SOURCE_GROUP_ROWS)} if any(sources.glob("*.tar")) else {}
    plan = make_plan(preparation(sources, out, **SETTINGS, **mixed))
    if not on_ray:
        prepared = prepare(plan)
    else:
        from interlace.cluster.connect import connect
        from interlace.data.stream import stream_units

        connect(local_cpus=2)
        prepared = prepare(plan, stream_units)
    sys.stdout.write(f"  {len(plan.units)} units, {plan.num_buckets} buckets, {before:.0f} MiB before the job\n")
    assert prepared.digest


def tree_bytes(process: psutil.Process, on_ray: bool) -> int:
    """Memory of a process and all below it."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_full_info().pss if on_ray else one.memory_info().rss
        except psutil.Error:
            continue  # it has just ended
    return total


def measure(sources: Path, out: Path, on_ray: bool) -> tuple[float, float]:
    """Peak MiB and seconds of one job."""
    words = [sys.executable, "-m", "tests.benchmarks.prepare_memory", "--child", str(sources), str(out)]
    began, peak = time.monotonic(), 0
    process = psutil.Popen([*words, *(["--ray"] if on_ray else [])])
    while process.poll() is None:
        peak = max(peak, tree_bytes(process, on_ray))
        time.sleep(RAY_POLL_S if on_ray else POLL_S)
    assert process.returncode == 0
    return peak / 2**20, time.monotonic() - began


def main() -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*", type=int, default=[20_000, 200_000])
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--format", choices=WRITERS, default="four")
    parser.add_argument("--child", nargs=2, type=Path)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child, arguments.ray)
        return
    peaks = []
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            sources = Path(folder) / "sources"
            WRITERS[arguments.format](sources, rows, SOURCE_GROUP_ROWS)
            size = sum(f.stat().st_size for f in sources.iterdir()) / 2**20
            peak, seconds = measure(sources, Path(folder) / "out", arguments.ray)
        peaks.append(peak)
        sys.stdout.write(f"{rows} records, {size:.1f} MiB of sources: peak {peak:.0f} MiB, {seconds:.1f} s\n")
    sys.stdout.write(f"ratio of the peaks: {peaks[-1] / peaks[0]:.2f}\n")


if __name__ == "__main__":
    main()
