"""What the scripts of all peers share: a peer is measured in a process of its own, which prints one line of JSON.

    prepare   write the peer's own format
    run       passes over the samples, of which one is measured: from the middle of the first to the middle of the
              second, with a third to come, so that as much is decoded ahead at its end as at its beginning; the state
              is saved where it begins
    resume    start from that state, as a process that was killed does

Run as `python -m tests.benchmarks.peers.drivers.NAME PHASE SETTINGS STATE`.
"""

import json
import os
import pickle
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests.benchmarks.peers.work import Batch, Settings, sums

PASSES = 3
AFTER = 2
"""Batches after the state that tell whether the same samples come."""
CHECKED = 2
"""Batches whose samples are compared with what decoding should give."""


class Peer(ABC):
    """A way to read, decode and batch samples."""

    def prepare(self, settings: Settings) -> None:  # noqa: B027 - who reads the Parquet files has nothing to do
        """Write the samples in the peer's own format to `settings.own`."""

    @abstractmethod
    def stream(self, settings: Settings, state: Any) -> Iterator[Batch]:
        """Batches of `PASSES` passes, from the beginning or from a state."""

    def state(self, batches: int) -> Any:
        """What to go on from after so many batches of the first pass; they themselves for who has no state."""
        return batches

    def own_figures(self) -> dict[str, Any]:
        """What the peer knows of its own cost."""
        return {}

    def close(self) -> None:  # noqa: B027 - most have none
        """End processes that outlive this one."""


def skipped(stream: Iterator[Batch], state: Any) -> Iterator[Batch]:
    """The stream of a peer without a state: what was seen is read again and thrown away."""
    return stream if state is None else islice(stream, state, None)


def tree_cpu_s() -> float:
    """CPU seconds of this process and all below it, those that have ended included."""
    ended = os.times()
    total = time.process_time() + ended.children_user + ended.children_system
    for process in psutil.Process().children(recursive=True):
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.Error:
            continue  # it has just ended, and its parent counts it
    return total


def run(peer: Peer, settings: Settings, state: Path) -> dict[str, Any]:
    """Passes, of which one is measured."""
    middle = settings.samples // 2
    ids: list[np.ndarray] = []
    seen = batches = left = 0
    figures: dict[str, Any] = {}
    checked: list[list[int]] = []
    after: list[list[int]] = []
    began = cpu = 0.0
    for batch in peer.stream(settings, None):
        ids.append(np.asarray(batch["ids"]))
        seen, batches = seen + len(ids[-1]), batches + 1
        if batches == 1:
            figures["first"] = time.time()
        if batches <= CHECKED:
            checked += np.stack([ids[-1], sums(batch)], 1).tolist()
        if left:
            after, left = [*after, ids[-1].tolist()], left - 1
        if not began and seen >= middle:
            state.write_bytes(pickle.dumps(peer.state(batches)))
            left, start = AFTER, seen
            began, cpu = time.time(), tree_cpu_s()
        elif began and seen >= start + settings.samples:
            figures |= {"cpu_s": tree_cpu_s() - cpu, "wall_s": time.time() - began, "measured": seen - start}
            break
    assert "cpu_s" in figures, f"the stream ended after {seen} of {PASSES * settings.samples} samples"
    once = np.concatenate(ids)[: settings.samples]
    figures |= {"checked": checked, "after": after, "distinct": len(np.unique(once))}
    return figures | peer.own_figures()


def resume(peer: Peer, settings: Settings, state: Path) -> dict[str, Any]:
    """The batches after the state."""
    after = []
    first = 0.0
    for batch in islice(peer.stream(settings, pickle.loads(state.read_bytes())), AFTER):
        first = first or time.time()
        after.append(np.asarray(batch["ids"]).tolist())
    return {"first": first, "after": after}


def main(peer: Peer) -> None:
    """One phase of a peer."""
    phase, settings, state = sys.argv[1], Settings(**json.loads(sys.argv[2])), Path(sys.argv[3])
    if phase == "prepare":
        peer.prepare(settings)
        found: dict[str, Any] = {}
    else:
        found = {"run": run, "resume": resume}[phase](peer, settings, state)
    peer.close()
    sys.stdout.write(f"\n{json.dumps(found)}\n")
    sys.stdout.flush()
    os._exit(0)  # streams that were left in the middle have threads and workers, which some peers wait for
