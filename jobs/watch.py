"""`interlace watch`: a run that trains somewhere, from its folder alone: stages, ranks, object store, what binds."""

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from interlace.contract.errors import InterlaceError
from interlace.jobs.console import say
from interlace.jobs.progress import CLUSTER, PLACE
from interlace.store.journal import Point, journal_path, read_on
from interlace.train.bottleneck import bottleneck
from interlace.train.checkpoint import newest_checkpoint
from interlace.train.told import RANKS

WINDOW = 50
SILENT_S = 60.0
"""After so long without a step the run is said to be silent."""


def run_watch(run: Path, every_s: float, *, once: bool) -> None:
    """Print what a run does until it is finished.

    Raises:
        InterlaceError: the folder is none of a run.
    """
    if not (run / "run.json").exists():
        raise InterlaceError(f"{run}: expected the folder of a run (with run.json), but it is none")
    view = View(run)
    while True:
        for line in view.lines():
            say(line)
        if once or finished(run):
            return
        time.sleep(every_s)


def finished(run: Path) -> bool:
    """Whether training has come to its end."""
    state = newest_checkpoint(run).state
    return state is not None and state.finished


class View:
    """What is known of a run from its folder."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.offset = 0
        self.steps: deque[Point] = deque(maxlen=WINDOW)
        self.evaluation: dict[str, float] = {}

    def lines(self) -> Iterator[str]:
        """Where the run is now; empty before its first step but for a word on that."""
        self._read()
        if not self.steps:
            yield f"{self.run.name}: no step yet"
            return
        last = self.steps[-1]
        metrics = [p.metrics for p in self.steps]
        seconds = sum(m["step_s"] for m in metrics)
        place = _json(self.run / PLACE)
        of = f"/{place['num_steps']}" if "num_steps" in place else ""
        yield (
            f"step {last.step}{of}  loss {last.metrics['train/loss']:.3f}"
            f"  {sum(m['samples_per_s'] * m['step_s'] for m in metrics) / seconds:.1f} samples/s"
            f"  {len(metrics) / seconds:.2f} steps/s"
            + "".join(f"  {name} {value:.3f}" for name, value in self.evaluation.items())
        )
        silent_s = time.time() - last.time_ms / 1000
        if finished(self.run):
            yield "  training is finished"
        elif silent_s > SILENT_S:
            yield f"  no step for {silent_s:.0f} s: the run was stopped, restarts, or waits (see events.jsonl)"
        yield f"  {bottleneck(metrics, place.get('data_cpus'))}"
        if used := engine(metrics):
            yield f"  {used}"
        yield from self._ranks()
        yield from self._cluster()

    def _read(self) -> None:
        for points, after in read_on(journal_path(self.run), self.offset):
            self.offset = after
            for point in points:
                if "train/loss" in point.metrics and point.step > 1:  # the first step waits for the start of data tasks
                    self.steps.append(point)
                found = {k: v for k, v in point.metrics.items() if k.startswith("val/") and not k.endswith("loss")}
                self.evaluation |= dict(list(found.items())[:1])

    def _ranks(self) -> Iterator[str]:
        ranks = _json(self.run / RANKS).get("ranks", [])
        if ranks:
            each = ", ".join(f"{i}: {r['forward_s'] * 1e3:.0f} + {r['wait_s'] * 1e3:.0f}" for i, r in enumerate(ranks))
            yield f"  ranks, ms of forward passes + waiting for data: {each}"

    def _cluster(self) -> Iterator[str]:
        path = self.run / CLUSTER
        if path.exists() and (lines := path.read_text(encoding="utf-8").splitlines()):
            now = json.loads(lines[-1])
            yield (
                f"  {now['nodes']} nodes, {now['cpus_reserved']:g} of {now['cpus']:g} CPUs reserved; object store"
                f" {now['store_used_bytes'] / 1e6:.0f} of {now['store_bytes'] / 1e6:.0f} MB,"
                f" spilled {now['spilled_bytes'] / 1e6:.0f} MB"
            )


def engine(steps: Sequence[Mapping[str, float]]) -> str:
    """How well the devices are used, in one line; empty where nothing is known of it."""
    told = []
    if of_peak := [m["train/mfu"] for m in steps if "train/mfu" in m]:
        told.append(f"GPUs compute at {sum(of_peak) / len(of_peak):.0%} of their peak (MFU)")
    if held := [m["train/memory_peak_bytes"] for m in steps if "train/memory_peak_bytes" in m]:
        told.append(f"a worker holds up to {max(held) / 1e9:.1f} GB")
    if shares := [m["train/collectives_share"] for m in steps if "train/collectives_share" in m]:
        told.append(f"collectives are under way {sum(shares) / len(shares):.0%} of the time")
    return ", ".join(told)


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found
