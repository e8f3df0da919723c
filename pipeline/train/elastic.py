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


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a group of workers must keep.

    Args:
        sizes: numbers of workers allowed, ascending.
        cpus: CPUs of a worker.
        train_labels, data_labels: of the nodes that train, and of those that read data.
        run: folder of the run.
    """

    sizes: Sequence[int]
    cpus: float
    train_labels: Mapping[str, str]
    data_labels: Mapping[str, str]
    run: Path

    def most(self, fitting: int, nodes: Sequence[Mapping[str, Any]]) -> int:
        """The largest allowed number of workers, at most `fitting`, that leaves data tasks a CPU; 0 if none does.

        Args:
            fitting: how many Ray could place.
            nodes: as `ray.nodes()` lists them.
        """
        alone = shared = 0.0
        for node in nodes:
            cpus = node["Resources"].get("CPU", 0.0) if node["Alive"] else 0.0
            if has(node, self.train_labels):
                if has(node, self.data_labels):
                    shared += cpus
                else:
                    alone += cpus
        elsewhere = any(
            n["Alive"] and n["Resources"].get("CPU", 0.0) >= DATA_CPUS and has(n, self.data_labels)
            for n in nodes
            if not has(n, self.train_labels)
        )
        left = alone + shared - (0.0 if elsewhere else DATA_CPUS)
        room = math.floor(left / self.cpus + 1e-9)
        return max((size for size in self.sizes if size <= min(fitting, room)), default=0)


def has(node: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a node (as `ray.nodes()` lists it) has all labels."""
    own = node.get("Labels", {})
    return all(own.get(name) == value for name, value in labels.items())
