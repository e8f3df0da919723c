"""One phase of one peer, watched from outside: its line of JSON, seconds from its start, the most memory it held."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.peers.environments import DRIVERS, LeftOutError, last_line
from tests.benchmarks.peers.work import Settings

ROOT = Path(__file__).parents[3]
POLL_S = 0.25
MOST_S = 600
QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "PYTHONWARNINGS": "ignore",
}
"""The tokenizer in one thread, nothing from the network, no reports of use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a phase gave.

    Args:
        figures: what its process printed.
        began: when it was started, seconds since 1970.
        wall_s: how long it took.
        peak_bytes: most memory of the process and all below it, shared pages counted once.
    """

    figures: dict[str, Any]
    began: float
    wall_s: float
    peak_bytes: int

    @property
    def first_s(self) -> float:
        """Seconds from the start of the process to its first batch."""
        return float(self.figures["first"]) - self.began


def phase(python: str, driver: str, name: str, settings: Settings, state: Path) -> Seen:
    """Run a phase to its end. Raises LeftOutError with what it said last where it fails."""
    command = [python, "-m", f"{DRIVERS}.{driver}", name, settings.to_json(), str(state)]
    out, err = state.with_suffix(".out"), state.with_suffix(".err")
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT)}
    with out.open("w") as stdout, err.open("w") as stderr:
        began = time.time()
        process = psutil.Popen(command, stdout=stdout, stderr=stderr, env=environment, cwd=state.parent)
        peak, known = _watch(process, began)
    wall_s = time.time() - began
    _end(known)
    if process.returncode:
        raise LeftOutError(f"{name} failed: {last_line(err.read_text(errors='replace'))}")
    return Seen(figures=json.loads(last_line(out.read_text())), began=began, wall_s=wall_s, peak_bytes=peak)


def _watch(process: psutil.Popen, began: float) -> tuple[int, list[psutil.Process]]:
    """Most memory until the process ends, and who was below it."""
    peak, known = 0, {}
    while process.poll() is None:
        tree = [process, *_below(process)]
        known |= {p.pid: p for p in tree[1:]}
        peak = max(peak, sum(map(_share, tree)))
        if time.time() - began > MOST_S:
            process.kill()
        time.sleep(POLL_S)
    return peak, list(known.values())


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _share(process: psutil.Process) -> int:
    """Resident memory, pages shared with others by their share."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.Error, OSError):
        return 0  # it has just ended


def _end(processes: Sequence[psutil.Process]) -> None:
    """End what a phase left behind."""
    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            continue  # it has ended itself
    psutil.wait_procs(list(processes), timeout=10)
