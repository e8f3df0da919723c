"""Ray Data as its documents show it: `read_parquet`, `map_batches`, `iter_torch_batches`."""

import logging
from collections.abc import Iterator
from typing import Any, final

import ray
import ray.data

from tests.benchmarks.peers.driver import PASSES, Peer, main, skipped
from tests.benchmarks.peers.work import Batch, Settings, Work


@final
class RayData(Peer):
    """Files are shuffled; has no state: it reads up to where it was."""

    def stream(self, settings: Settings, state: Any) -> Iterator[Batch]:
        """See `Peer`."""
        ray.init(num_cpus=settings.workers, log_to_driver=False, logging_level=logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        shuffle = ray.data.FileShuffleConfig(seed=settings.seed)
        data = ray.data.read_parquet(settings.shards, columns=list(settings.columns), shuffle=shuffle)
        work = Work(folder=settings.folder, workload=settings.workload)
        data = data.map_batches(work.columns, batch_size=settings.batch)
        passes = (b for _ in range(PASSES) for b in data.iter_torch_batches(batch_size=settings.batch))
        return skipped(passes, state)

    def close(self) -> None:
        """End Ray."""
        ray.shutdown()


if __name__ == "__main__":
    main(RayData())
