"""Peak memory with more and more data: the same pictures, written again and again as further shards.

However much there is, as many samples are read of it: the more windows, the larger the largest of them.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.peers.environments import Contestant, LeftOutError, python_of
from tests.benchmarks.peers.material import make
from tests.benchmarks.peers.measure import phase
from tests.benchmarks.peers.work import Settings

READ_PASSES = 2
"""Passes over the smallest set that are measured, after half a one: all but the rest of the third that a peer gives."""


def grow(given: argparse.Namespace, contestants: Sequence[Contestant]) -> None:
    """Print the peak of each contestant for each size, and its ratio to the first."""
    first = make(given.cache, given.samples, tuple(given.sides))
    for contestant in contestants:
        python, peaks = python_of(contestant, given.cache), []
        for times in given.times:
            folder = _repeated(first, times)
            settings = Settings(
                folder=str(folder),
                own=str(folder / f"own-{contestant.name}-mixed"),
                workload="mixed",
                samples=READ_PASSES * given.samples,
                batch=given.batch,
                workers=max(contestant.workers),
            )
            try:
                found = [_peak(python, contestant, name, settings, folder) for name in ("prepare", "run")]
            except LeftOutError as error:
                sys.stdout.write(f"left out: {contestant.name}: {error}\n")
                break
            peaks.append(found)
            ratios = ", ".join(f"{name} {peak:.0f} MiB ({peak / base:.2f})" for name, peak, base in _named(peaks))
            sys.stdout.write(f"{contestant.name}, {given.samples * times:,} samples: {ratios}\n")
            sys.stdout.flush()


def _named(peaks: Sequence[Sequence[float]]) -> list[tuple[str, float, float]]:
    return list(zip(("prepare", "read"), peaks[-1], peaks[0], strict=True))


def _peak(python: str, contestant: Contestant, name: str, settings: Settings, folder: Path) -> float:
    """MiB of one phase."""
    seen = phase(python, contestant.driver, name, replace(settings), folder / f"state-{contestant.name}")
    return seen.peak_bytes / 2**20


def _repeated(first: Path, times: int) -> Path:
    """The material so many times over: shards are links to the first ones."""
    folder = first.with_name(f"{first.name}-times-{times}")
    (folder / "parquet").mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "numbers.json"):
        shutil.copy(first / name, folder / name)
    for number in range(times):
        for shard in sorted((first / "parquet").glob("*.parquet")):
            link = folder / "parquet" / f"{number:03d}-{shard.name}"
            if not link.exists():
                link.symlink_to(shard)
    return folder
