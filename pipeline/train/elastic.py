"""A number of workers that follows the cluster: which numbers a run may have.

- Only numbers that divide `batch.global_batch`, so that the position law holds at each.
- CPUs stay free for data tasks: a group that took the last one would wait for its own data for ever.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA_CPUS = 1.0
"""CPUs of a data task."""
EPSILON = 1e-9
"""Shares of CPUs are decimal fractions: three of 0.1 are 0.3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a group of workers must keep.

    Args:
        sizes: numbers of workers allowed, ascending.
        cpus, gpus: of a worker.
        train_labels, data_labels: of the nodes that train, and of those that read data.
        run: folder of the run.
    """

    sizes: Sequence[int]
    cpus: float
    gpus: float
    train_labels: Mapping[str, str]
    data_labels: Mapping[str, str]
    run: Path

    def most(self, fitting: int, nodes: Sequence[Mapping[str, Any]]) -> int:
        """The largest allowed number of workers, at most `fitting`, that leaves data tasks a CPU; 0 if none does.

        A CPU must be left on a single node, wherever Ray puts the workers.

        Args:
            fitting: how many Ray could place.
            nodes: as `ray.nodes()` lists them.
        """
        alive = [n for n in nodes if n["Alive"]]
        room, blocking = sum(map(self._holds, alive)), self._blocking(alive)
        return max((size for size in self.sizes if size <= min(fitting, room) and size < blocking), default=0)

    def _holds(self, node: Mapping[str, Any]) -> int:
        """How many workers a node has room for."""
        if not has(node, self.train_labels):
            return 0
        there: Mapping[str, float] = node["Resources"]
        wanted = {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})
        return min(math.floor(there.get(kind, 0.0) / each + EPSILON) for kind, each in wanted.items())

    def _blocking(self, nodes: Sequence[Mapping[str, Any]]) -> float:
        """The fewest workers that, put at the worst nodes, leave no data task a place."""
        fewest = 0
        for node in nodes:
            cpus = node["Resources"].get("CPU", 0.0)
            if cpus < DATA_CPUS or not has(node, self.data_labels):
                continue
            taking = math.floor((cpus - DATA_CPUS) / self.cpus + EPSILON) + 1
            if taking > self._holds(node):
                return math.inf
            fewest += taking
        return fewest


def has(node: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a node (as `ray.nodes()` lists it) has all labels."""
    own = node.get("Labels", {})
    return all(own.get(name) == value for name, value in labels.items())
