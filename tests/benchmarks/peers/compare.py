"""All contestants on one workload: who is ready, turn after turn, and what is known of each afterwards."""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np

from tests.benchmarks.peers.environments import RAW, Contestant, LeftOutError, python_of, version_of
from tests.benchmarks.peers.measure import Seen, phase
from tests.benchmarks.peers.work import Settings

RAW_SAMPLES = 6_000
"""Samples of a pass of the raw limit: two seconds of CPU."""


@dataclass(slots=True, kw_only=True)
class Row:
    """A contestant with a number of workers, and what was measured of it; the middle of its repetitions counts.

    Args:
        contestant: who.
        python: its interpreter.
        settings: what of.
        version: of its package.
        prepare_s: seconds to write its own format or its index.
        cpu_s: CPU seconds for 1,000 samples, of each repetition.
        ratios: of these to the raw limit.
        first_s: seconds to the first batch.
        peaks: bytes.
        tasks: CPU of data tasks alone as a ratio to the raw limit, where the contestant knows it.
        resume_s: seconds to the first batch after a restart, NaN where not measured.
        same: whether the samples after it were those without the restart.
        distinct: whether every sample came once in the first pass.
    """

    contestant: Contestant
    python: str
    settings: Settings
    version: str = ""
    prepare_s: float = 0.0
    cpu_s: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    tasks: list[float] = field(default_factory=list)
    resume_s: float = float("nan")
    same: bool | None = None
    distinct: bool = True

    @property
    def name(self) -> str:
        """Of the contestant and its workers."""
        return f"{self.contestant.name}/{self.settings.workers}"

    @property
    def ratio(self) -> float:
        """Of its CPU to the raw limit."""
        return median(self.ratios)


Found = tuple[list[Row], dict[str, str]]


def compare(given: argparse.Namespace, contestants: Sequence[Contestant], workload: str, folder: Path) -> Found:
    """Measure contestants on a workload; the rows, that of the raw limit first, and who was left out and why."""
    settings = Settings(
        folder=str(folder), own="", workload=workload, samples=given.samples, batch=given.batch, workers=0
    )
    state = folder / "states"
    state.mkdir(exist_ok=True)
    raw = Row(
        contestant=RAW,
        python=python_of(RAW, given.cache),
        settings=replace(settings, samples=min(given.samples, RAW_SAMPLES)),
    )
    rows, left_out = _ready(given, contestants, settings, state)
    sums = np.load(folder / f"sums-{workload}.npy")
    for repetition in range(given.repetitions):
        before = _raw(raw, state)
        for row in rows if repetition % 2 == 0 else rows[::-1]:
            if row.name in left_out:
                continue
            try:
                seen = phase(row.python, row.contestant.driver, "run", row.settings, _state(state, row))
                _check(row, seen, sums)
                if repetition == 0 and not given.no_resume:
                    _resume(row, seen, state)
            except LeftOutError as error:
                left_out[row.name] = str(error)
                continue
            before, after = _raw(raw, state), before
            _note(row, seen, (before + after) / 2)
    return [raw, *(r for r in rows if r.ratios and r.name not in left_out)], left_out


def _ready(
    given: argparse.Namespace, contestants: Sequence[Contestant], settings: Settings, state: Path
) -> tuple[list[Row], dict[str, str]]:
    """Environments made and formats written."""
    rows, left_out = [], {}
    for contestant in contestants:
        own = Path(settings.folder) / f"own-{contestant.name}-{settings.workload}"
        try:
            python = python_of(contestant, given.cache)
            one = replace(settings, own=str(own))
            row = Row(contestant=contestant, python=python, settings=one, version=version_of(contestant, python))
            if not own.with_suffix(".done").exists():
                seconds = phase(python, contestant.driver, "prepare", one, _state(state, row)).wall_s
                own.with_suffix(".done").write_text(f"{seconds:.2f}")
            row.prepare_s = float(own.with_suffix(".done").read_text())
        except LeftOutError as error:
            left_out[contestant.name] = str(error)
            continue
        rows += [replace(row, settings=replace(one, workers=workers)) for workers in contestant.workers]
    return [replace(r, cpu_s=[], ratios=[], first_s=[], peaks=[], tasks=[]) for r in rows], left_out


def _state(folder: Path, row: Row) -> Path:
    return folder / f"{row.contestant.name}-{row.settings.workload}-{row.settings.workers}"


def _raw(raw: Row, state: Path) -> float:
    """CPU seconds for 1,000 samples of the raw limit, now."""
    seen = phase(raw.python, raw.contestant.driver, "run", raw.settings, _state(state, raw))
    _note(raw, seen, 1000 * seen.figures["cpu_s"] / seen.figures["measured"])
    return raw.cpu_s[-1]


def _note(row: Row, seen: Seen, raw: float) -> None:
    """Add a repetition to a row."""
    row.cpu_s.append(1000 * seen.figures["cpu_s"] / seen.figures["measured"])
    row.ratios.append(row.cpu_s[-1] / raw)
    row.first_s.append(seen.first_s)
    row.peaks.append(seen.peak_bytes)
    if "tasks_s_per_1000" in seen.figures:
        row.tasks.append(seen.figures["tasks_s_per_1000"] / raw)
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {row.name}: {row.cpu_s[-1]:.3f} s, {row.ratios[-1]:.3f}\n")


def _check(row: Row, seen: Seen, sums: np.ndarray) -> None:
    """The samples were decoded as they should be. Raises LeftOutError."""
    wrong = [number for number, found in seen.figures["checked"] if found != sums[number]]
    if wrong:
        raise LeftOutError(f"decodes {len(wrong)} of {len(seen.figures['checked'])} samples to something else")
    row.distinct &= seen.figures["distinct"] == row.settings.samples


def _resume(row: Row, seen: Seen, state: Path) -> None:
    """Go on at 50 % in a new process."""
    again = phase(row.python, row.contestant.driver, "resume", row.settings, _state(state, row))
    row.resume_s = again.first_s
    row.same = again.figures["after"] == seen.figures["after"]
