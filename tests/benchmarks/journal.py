"""What a metric point costs the training process: `python tests/benchmarks/journal.py`.

Measures `Journal.log` for 20,000 steps of three and of ten metrics, reopening that journal, and reading it whole.
"""

import sys
import tempfile
import time
from pathlib import Path

from interlace.store.journal import Journal, read

STEPS = 20_000


def main() -> None:
    """Print microseconds a line, median and 99th percentile, and seconds to reopen and to read."""
    for num_metrics in (3, 10):
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder) / "metrics.jsonl", [f"train/metric_{i}" for i in range(num_metrics)])


def measure(path: Path, names: list[str]) -> None:
    """Time all of one journal's operations."""
    journal = Journal(path)
    costs = []
    for step in range(STEPS):
        metrics = dict.fromkeys(names, step * 0.123456789)
        start = time.perf_counter()
        journal.log(step, metrics)
        costs.append(time.perf_counter() - start)
    journal.close()
    start = time.perf_counter()
    Journal(path).close()
    reopen = time.perf_counter() - start
    start = time.perf_counter()
    points, _ = read(path)
    took = time.perf_counter() - start
    costs.sort()
    sys.stdout.write(
        f"{len(names)} metrics: {sum(costs) / STEPS * 1e6:.1f} us a line (median {costs[STEPS // 2] * 1e6:.1f}, "
        f"99 % {costs[STEPS * 99 // 100] * 1e6:.1f}); reopen {reopen:.2f} s, read {took:.2f} s "
        f"({len(points)} points, {path.stat().st_size / 1e6:.1f} MB)\n"
    )


if __name__ == "__main__":
    main()
