"""MosaicML Streaming: MDS shards, `StreamingDataset`, `StreamingDataLoader` with its state."""

from collections.abc import Iterator
from typing import Any, final

import streaming
from streaming import MDSWriter, StreamingDataLoader, StreamingDataset

from tests.benchmarks.peers.driver import PASSES, Peer, main
from tests.benchmarks.peers.work import Batch, Settings, Work, collate_tensors, read_rows

TYPES = {"id": "int", "label": "int", "image": "bytes", "text": "str", "a": "float64", "b": "float64", "c": "float64"}


@final
class Decoded(StreamingDataset):
    """Samples decoded where they are read."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            local=settings.own, shuffle=True, shuffle_seed=settings.seed, batch_size=settings.batch,
            num_canonical_nodes=1,
        )  # fmt: skip
        self._work = Work(folder=settings.folder, workload=settings.workload)

    def __getitem__(self, at: Any) -> Any:
        return self._work(super().__getitem__(at))


@final
class Mosaic(Peer):
    """Goes on by `load_state_dict`."""

    def prepare(self, settings: Settings) -> None:
        """See `Peer`."""
        columns = {name: TYPES[name] for name in settings.columns}
        with MDSWriter(out=settings.own, columns=columns, size_limit="16mb") as writer:
            for row in read_rows(settings.shards, settings.columns):
                writer.write(dict(row))

    def stream(self, settings: Settings, state: Any) -> Iterator[Batch]:
        """See `Peer`."""
        streaming.base.util.clean_stale_shared_memory()
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
    main(Mosaic())
