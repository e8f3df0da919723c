"""What a running group of workers is asked from outside: write a checkpoint, or stop after the step.

Whoever asks puts a file into the run's folder, which every node sees: the command when it is told to end, the
controller before it changes the number of workers. Rank 0 looks for the files, and Ray tells all ranks of nodes that
are going away; what was seen travels with the numbers that ranks sum in each step, so all of them act on it after the
same step.

A node's notice ends the group at that checkpoint where the workers on other nodes are enough of them: the next group
starts at once, on nodes that stay, instead of going on until its own are taken away.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from interlace.train.stop import is_asked

SAVE = "save"
"""File of a run's folder that asks for a checkpoint; it says why."""

LOOK_EVERY_S = 1.0
LOOK_AT_NODES_EVERY_S = 5.0


class PreemptedError(Exception):
    """Workers end, with a checkpoint, since nodes of theirs go away; a group of fewer goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What all ranks know to be asked after a step: stop, write a checkpoint, ask Ray about nodes going away."""

    stop: bool = False
    save: bool = False
    look_at_nodes: bool = False


def enough_stay(leaving: Collection[int], world_size: int, sizes: Sequence[int]) -> bool:
    """Whether ranks must leave their nodes and those that stay are enough for a group of an allowed size.

    Args:
        leaving: ranks on nodes that go away.
        world_size: ranks in all.
        sizes: numbers of workers allowed, ascending.
    """
    return bool(leaving) and world_size - len(leaving) >= sizes[0]


def ask_for_checkpoint(run: Path, reason: str) -> None:
    """Ask the workers of a run for a checkpoint after the step at hand."""
    partial = run / f"{SAVE}.tmp"
    partial.write_text(reason, encoding="utf-8")
    partial.replace(run / SAVE)


def checkpoint_wanted(run: Path) -> str | None:
    """Why somebody waits for a checkpoint, if so."""
    try:
        return (run / SAVE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def checkpoint_given(run: Path) -> None:
    """Nobody waits for a checkpoint any more."""
    (run / SAVE).unlink(missing_ok=True)


class SignalWatcher:
    """What one rank has seen since the last step, as numbers that ranks can sum.

    Args:
        run: the run's folder.
        rank: only rank 0 looks at files and at the clock.
        nodes: whether Ray watches nodes for these workers.
        clock: seconds.

    Attributes:
        read_cpu_s: CPU seconds that data tasks spent on the packs that have come since the last step.
    """

    def __init__(self, run: Path, rank: int, *, nodes: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.run = run
        self.rank = rank
        self.nodes = nodes
        self.clock = clock
        self.looked = self.looked_at_nodes = clock()
        self.read_cpu_s = 0.0

    def numbers(self) -> tuple[float, float, float, float]:
        """Stop, save, look at nodes (above zero where asked for), and CPU seconds that the packs cost meanwhile."""
        now, spent = self.clock(), self.read_cpu_s
        self.read_cpu_s = 0.0
        if self.rank or now - self.looked < LOOK_EVERY_S:
            return 0.0, 0.0, 0.0, spent
        self.looked = now
        look = self.nodes and now - self.looked_at_nodes >= LOOK_AT_NODES_EVERY_S
        if look:
            self.looked_at_nodes = now
        return float(is_asked(self.run)), float((self.run / SAVE).exists()), float(look), spent
