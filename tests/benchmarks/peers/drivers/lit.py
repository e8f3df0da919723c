"""litdata: chunks made by `optimize`, `StreamingDataset`, `StreamingDataLoader` with its state."""

from collections.abc import Iterator
from typing import Any, final

import pyarrow.parquet as pq
from litdata import StreamingDataLoader, StreamingDataset, optimize

from tests.benchmarks.peers.driver import PASSES, Peer, main
from tests.benchmarks.peers.work import Batch, Settings, Work, collate_tensors


@final
class Decoded(StreamingDataset):
    """Samples decoded where they are read."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.own, shuffle=True, seed=settings.seed)
        self._work = Work(folder=settings.folder, workload=settings.workload)

    def __getitem__(self, at: Any) -> Any:
        return self._work(super().__getitem__(at))


def rows_of(task: tuple[str, int, tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    """Samples of a row group."""
    path, group, columns = task
    yield from pq.ParquetFile(path).read_row_group(group, columns=list(columns)).to_pylist()


@final
class Lit(Peer):
    """Goes on by `load_state_dict`."""

    def prepare(self, settings: Settings) -> None:
        """See `Peer`."""
        groups = [(path, g) for path in settings.shards for g in range(pq.ParquetFile(path).num_row_groups)]
        tasks = [(path, group, settings.columns) for path, group in groups]
        optimize(fn=rows_of, inputs=tasks, output_dir=settings.own, chunk_bytes="16MB", num_workers=1)

    def stream(self, settings: Settings, state: Any) -> Iterator[Batch]:
        """See `Peer`."""
        self._loader = StreamingDataLoader(
            Decoded(settings),
            batch_size=settings.batch,
            num_workers=settings.workers,
            collate_fn=collate_tensors,
            persistent_workers=settings.workers > 0,
        )
        if state is not None:
            self._loader.load_state_dict(state)
        return (batch for _ in range(PASSES) for batch in self._loader)

    def state(self, batches: int) -> Any:
        """See `Peer`."""
        return self._loader.state_dict()


if __name__ == "__main__":
    main(Lit())
