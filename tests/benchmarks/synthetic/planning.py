"""What loading, planning and dealing take in a process that has done nothing before: `plan_figures`, `task_figures`."""

import gc
import mmap
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from interlace.data.plan.plan import Plan, Schedule
from tests.benchmarks.synthetic.memory import forget_peak, memory
from tests.benchmarks.synthetic.reading import SyntheticReader, open_synthetic

SHARES = (0.01, 0.5, 0.99)
Figures = dict[str, float]
Result = TypeVar("Result")


def in_fresh_process(work: Callable[..., Result], *arguments: object) -> Result:
    """What a function returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


class Clock:
    """Gathers seconds of named stages: of the wall, and CPU seconds of this process."""

    def __init__(self) -> None:
        self.figures: Figures = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.figures |= {f"{name}_s": time.perf_counter() - wall, f"{name}_cpu_s": time.process_time() - cpu}


def plan_figures(folder: Path, ranks: int, epochs: int, parts: bool) -> Figures:
    """A driver: loads the table, plans some epochs, resumes at three places.

    Args:
        folder: of the index.
        ranks: packs of a step.
        epochs: planned.
        parts: whether the parts are there, so that windows can be dealt.
    """
    gc.collect()
    forget_peak()
    before, clock = memory(), Clock()
    with clock.stage("load"):
        reader = open_synthetic(folder, ranks=ranks)
    loaded = memory()
    with clock.stage("plan"):
        schedule = reader.plan().schedule(epochs=epochs)
    figures = {
        "rows": reader.manifest.num_rows,
        "groups": len(reader.manifest.groups),
        "packs_an_epoch": schedule.packs_an_epoch,
        "windows_an_epoch": len(schedule.counts[0]),
        "fill": reader.plan().fill(schedule),
    }
    for share in SHARES:
        with clock.stage(f"resume_{share:.0%}"):
            resume(reader, reader.plan(), schedule, share, deals=parts)
    after = memory()
    figures |= {"loaded_mb": loaded["rss"] - before["rss"], "planned_mb": after["rss"] - before["rss"]}
    return figures | {"peak_mb": after["peak"] - before["rss"]} | clock.figures


def resume(reader: SyntheticReader, plan: Plan, schedule: Schedule, share: float, *, deals: bool) -> None:
    """Find the window at a share of a run, and give its first pack."""
    position = int(schedule.stop * share)
    window = schedule.since(position)[0]
    if deals:
        pack = next(reader.read(window, first=position, stop=schedule.stop, plan=plan))
        assert pack.position == position


def task_figures(folder: Path, ranks: int, epochs: int) -> Figures:
    """A data task: is sent the reader as Ray sends it (arrays lie in shared memory) and reads the first window."""
    reader = open_synthetic(folder, ranks=ranks)
    window = reader.plan().schedule(epochs=epochs)
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(reader, protocol=5, buffer_callback=buffers.append)
    with TemporaryDirectory() as shared:
        sizes = []
        with (Path(shared) / "arrays").open("wb") as file:
            for buffer in buffers:
                sizes.append(file.write(buffer.raw()))
        return in_fresh_process(_task, pickled, Path(shared) / "arrays", sizes, window)


def _task(pickled: bytes, arrays: Path, sizes: list[int], schedule: Schedule) -> Figures:
    before, clock = memory(), Clock()
    with arrays.open("rb") as file:
        whole, views, at = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), [], 0
    for size in sizes:
        views.append(whole[at : at + size])
        at += size
    with clock.stage("load"):
        reader: SyntheticReader = pickle.loads(pickled, buffers=views)
        plan = reader.plan()
    with clock.stage("first_window"):
        packs = list(reader.read(schedule.windows[0], first=0, stop=schedule.stop, plan=plan))
    window_mb = sum(f.values.nbytes for p in packs for f in p.fields.values()) / 1e6
    first = memory()
    del packs
    with clock.stage("second_window"):
        for pack in reader.read(schedule.windows[1], first=0, stop=schedule.stop, plan=plan):
            assert pack.num_tokens
    after = memory()
    return clock.figures | {
        "pickled_mb": len(pickled) / 1e6,
        "arrays_mb": sum(sizes) / 1e6,
        "window_mb": window_mb,
        "start_mb": before["rss"],
        "added_mb": first["rss"] - before["rss"],
        "added_own_mb": first["own"] - before["own"],
        "peak_mb": after["peak"],
    }
