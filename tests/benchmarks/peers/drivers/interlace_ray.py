"""Interlace: packs read by tasks of Ray Data, as a training run reads them."""

import logging
from collections.abc import Iterator
from typing import Any, final

import ray
from ray.data import ExecutionOptions

from interlace.contract.tables import table_to_pack
from interlace.data.index.build import build_index
from interlace.data.read.open import open_reader
from interlace.data.stream import CPU_SECONDS, dataset
from tests.benchmarks.peers.driver import PASSES, Peer, main
from tests.benchmarks.peers.drivers.interlace_recipe import as_batch, recipe_of
from tests.benchmarks.peers.work import Batch, Settings


@final
class UnderRay(Peer):
    """Goes on from a position."""

    def __init__(self) -> None:
        self._next = 0
        self._task_s: list[float] = []
        self._samples: list[int] = []

    def prepare(self, settings: Settings) -> None:
        """See `Peer`."""
        build_index(recipe_of(settings))

    def stream(self, settings: Settings, state: Any) -> Iterator[Batch]:
        """See `Peer`."""
        recipe = recipe_of(settings)
        reader = open_reader(build_index(recipe), recipe, "train", training=True)
        ray.init(num_cpus=settings.workers, log_to_driver=False, logging_level=logging.ERROR)
        data = dataset(reader, reader.plan().schedule(epochs=PASSES), state or 0)
        data.context.execution_options = ExecutionOptions(preserve_order=True)
        for table in data.iter_batches(batch_size=None, batch_format="pyarrow"):
            pack = table_to_pack(table)
            self._next = pack.position + 1
            self._task_s.append(table[CPU_SECONDS][0].as_py())
            self._samples.append(len(pack.sample_ids))
            yield as_batch(pack)

    def state(self, batches: int) -> Any:
        """See `Peer`."""
        return self._next

    def own_figures(self) -> dict[str, Any]:
        """CPU seconds of the data tasks alone, of their starts too."""
        return {"tasks_s_per_1000": sum(self._task_s) / sum(self._samples) * 1000}

    def close(self) -> None:
        """End Ray."""
        ray.shutdown()


if __name__ == "__main__":
    main(UnderRay())
