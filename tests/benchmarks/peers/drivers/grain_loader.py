"""grain: ArrayRecord files, `MapDataset`, and an iterator with its state."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

from array_record.python.array_record_module import ArrayRecordWriter
from grain import python as grain

from tests.benchmarks.peers.driver import Peer, main
from tests.benchmarks.peers.work import Batch, Settings, Work, collate, read_rows


@final
class Grain(Peer):
    """Goes on by `set_state`."""

    def prepare(self, settings: Settings) -> None:
        """See `Peer`."""
        Path(settings.own).mkdir(parents=True, exist_ok=True)
        for number, path in enumerate(settings.shards):
            writer = ArrayRecordWriter(str(Path(settings.own, f"{number:03d}.arrayrecord")), "group_size:1")
            for row in read_rows([path], settings.columns):
                writer.write(pickle.dumps(dict(row)))
            writer.close()

    def stream(self, settings: Settings, state: Any) -> Iterator[Batch]:
        """See `Peer`."""
        files = sorted(str(path) for path in Path(settings.own).glob("*.arrayrecord"))
        work = Work(folder=settings.folder, workload=settings.workload)
        data = grain.MapDataset.source(grain.ArrayRecordDataSource(files)).seed(settings.seed).shuffle().repeat()
        data = data.map(pickle.loads).map(work).batch(settings.batch, batch_fn=collate).to_iter_dataset()
        if settings.workers:
            data = data.mp_prefetch(grain.MultiprocessingOptions(num_workers=settings.workers))
        self._iterator = iter(data)
        if state is not None:
            self._iterator.set_state(state)
        return self._iterator

    def state(self, batches: int) -> Any:
        """See `Peer`."""
        return self._iterator.get_state()


if __name__ == "__main__":
    from absl import flags

    flags.FLAGS(["driver"])  # grain's workers read absl's flags
    main(Grain())
