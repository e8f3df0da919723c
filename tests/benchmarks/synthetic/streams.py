"""The control path under Ray Data: seconds to the first pack from a warm index, and what simulated ranks cost.

All is as in training but for the ranks, which are threads of this process that take packs and do nothing with them, and
for records, which are made up: index, plan, dealing, `stream.dataset`, its executor and `streaming_split` are real.
"""

import json
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import ray.data
from ray.data import DataContext, ExecutionOptions

from interlace.data.stream import CPU_SECONDS, dataset
from tests.benchmarks.synthetic.memory import memory
from tests.benchmarks.synthetic.reading import open_synthetic

MOST_PACKS = 400
"""Packs taken after the first."""
COORDINATOR = "SplitCoordinator"
Figures = dict[str, float | str]


def first_pack(folder: Path, ranks: int, epochs: int, at: float) -> Figures:
    """From nothing but files to the first pack of a run, at a share of it; Ray runs already."""
    with TemporaryDirectory() as told:
        before, wall, cpu = memory()["rss"], time.perf_counter(), time.process_time()
        reader = open_synthetic(folder, ranks=ranks, told=told)
        schedule = reader.plan().schedule(epochs=epochs)
        start = int(schedule.stop * at) // ranks * ranks
        data = dataset(reader, schedule, start)
        _context(data).execution_options = ExecutionOptions(preserve_order=True)
        packs = iter(data.iter_batches(batch_size=None, batch_format="pyarrow"))
        first = next(packs)
        seconds, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        assert first["position"][0].as_py() == start
        rest = [table[CPU_SECONDS][0].as_py() for table in islice(packs, MOST_PACKS)]
        del packs
        tasks = [json.loads(file.read_text(encoding="utf-8")) for file in Path(told).glob("*.json")]
    return {
        "rows": reader.manifest.num_rows,
        "windows": len(schedule.windows),
        "from": f"{at:.0%}",
        "first_s": seconds,
        "driver_cpu_s": cpu_s,
        "driver_mb": memory()["rss"] - before,
        "task_cpu_ms": 1e3 * sum(rest) / len(rest),
        "task_mb": max(own["after"]["rss"] for own in tasks),
        "task_own_mb": max(own["after"]["own"] for own in tasks),
    }


def _context(data: "ray.data.Dataset") -> DataContext:
    context: DataContext = data.context
    return context


def simulated(folder: Path, ranks: int, packs: int) -> Figures:
    """So many ranks take the first packs of a run: each checks that they are its own, in order."""
    reader = open_synthetic(folder, ranks=ranks)
    data = dataset(reader, reader.plan().schedule(steps=packs // ranks), 0)
    _context(data).execution_options = ExecutionOptions(preserve_order=True)
    shards = data.streaming_split(ranks, equal=True)
    taken, begun = [0] * ranks, threading.Event()

    def take(rank: int) -> None:
        for table in shards[rank].iter_batches(batch_size=None, batch_format="pyarrow"):
            assert table["position"][0].as_py() == rank + taken[rank] * ranks
            taken[rank] += 1
            begun.set()

    threads = [threading.Thread(target=take, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    begun.wait()
    coordinator = next(_coordinators())
    before, wall = sum(taken), time.perf_counter()
    cpu, driver = sum(coordinator.cpu_times()[:2]), time.process_time()
    for thread in threads:
        thread.join()
    assert taken == [packs // ranks] * ranks
    number = sum(taken) - before
    return {
        "ranks": ranks,
        "packs": number,
        "packs_a_s": number / (time.perf_counter() - wall),
        "coordinator_ms_a_pack": 1e3 * (sum(coordinator.cpu_times()[:2]) - cpu) / number,
        "rank_ms_a_pack": 1e3 * (time.process_time() - driver) / number,
        "coordinator_mb": coordinator.memory_info().rss / 1e6,
    }


def _coordinators() -> Iterator[psutil.Process]:
    """The processes that deal packs out to ranks, of those that this one started; the newest first."""
    found = [p for p in psutil.Process().children(recursive=True) if COORDINATOR in " ".join(p.cmdline())]
    return iter(sorted(found, key=lambda p: -p.create_time()))
