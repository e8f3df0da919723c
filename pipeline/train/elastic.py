"""A number of workers that follows the cluster: which numbers a run may have.

- Only numbers that divide `batch.global_batch`, so that the position law holds at each.
- CPUs stay free for data tasks: a group that took the last one would wait for its own data for ever.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interlace.cluster.connect import living
from interlace.cluster.preflight import Need, Place, fits


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
        places = [
            Place(cpus=n.cpus, gpus=n.gpus, trains=n.has(self.train_labels), reads=n.has(self.data_labels))
            for n in living(nodes)
        ]
        return max((size for size in self.sizes if size <= fitting and fits(self._need(size), places)), default=0)

    def _need(self, size: int) -> Need:
        return Need(workers=size, cpus_per_worker=self.cpus, gpus_per_worker=self.gpus)
