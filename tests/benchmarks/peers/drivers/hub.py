"""Hugging Face `datasets`: Parquet files as an iterable data set, shuffled in a buffer, with its state."""

from collections.abc import Iterator
from typing import Any, final

from datasets import load_dataset
from torch.utils.data import DataLoader

from tests.benchmarks.peers.driver import PASSES, Peer, main, skipped
from tests.benchmarks.peers.work import Batch, Settings, Work, collate_tensors

BUFFER = 1000


@final
class Hub(Peer):
    """Goes on by `load_state_dict` where it reads in one process; workers of torch's loader keep no state."""

    def stream(self, settings: Settings, state: Any) -> Iterator[Batch]:
        """See `Peer`."""
        self._workers = settings.workers
        data = load_dataset(
            "parquet", data_files={"train": settings.shards}, split="train", streaming=True,
            columns=list(settings.columns), cache_dir=settings.own,
        )  # fmt: skip
        work = Work(folder=settings.folder, workload=settings.workload)
        self._data = data.shuffle(seed=settings.seed, buffer_size=BUFFER).map(work)
        loader = DataLoader(
            self._data,
            batch_size=settings.batch,
            num_workers=settings.workers,
            collate_fn=collate_tensors,
            persistent_workers=settings.workers > 0,
        )
        if state is not None and not settings.workers:
            self._data.load_state_dict(state)
            state = None

        def batches() -> Iterator[Batch]:
            for number in range(PASSES):
                self._data.set_epoch(number)
                yield from loader

        return skipped(batches(), state)

    def state(self, batches: int) -> Any:
        """See `Peer`."""
        return batches if self._workers else self._data.state_dict()


if __name__ == "__main__":
    main(Hub())
