"""torch's `DataLoader` over a map-style data set: a folder of pictures, a table of the rest in memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, Dataset

from tests.benchmarks.peers.driver import PASSES, Peer, main, skipped
from tests.benchmarks.peers.work import Batch, Settings, Work, collate_tensors


@final
class Folder(Dataset[dict[str, Any]]):
    """Sample `i` is the picture file `i` with row `i` of the table."""

    def __init__(self, settings: Settings) -> None:
        self._files = Path(settings.folder, "files")
        self._work = Work(folder=settings.folder, workload=settings.workload)
        columns = [c for c in settings.columns if c != "image"]
        table = pq.read_table(settings.shards, columns=columns).to_pydict()
        self._columns = table if settings.workload == "mixed" else {k: torch.tensor(v) for k, v in table.items()}

    def __len__(self) -> int:
        return len(self._columns["id"])

    def __getitem__(self, at: int) -> dict[str, Any]:
        row = {name: column[at] for name, column in self._columns.items()}
        return self._work({**row, "image": (self._files / f"{at:08d}.jpg").read_bytes()})


@final
class TorchLoader(Peer):
    """Has no state: it begins its order again and reads up to where it was."""

    def stream(self, settings: Settings, state: Any) -> Iterator[Batch]:
        """See `Peer`."""
        loader = DataLoader(
            Folder(settings),
            batch_size=settings.batch,
            shuffle=True,
            num_workers=settings.workers,
            collate_fn=collate_tensors,
            persistent_workers=settings.workers > 0,
            generator=torch.Generator().manual_seed(settings.seed),
        )
        return skipped((batch for _ in range(PASSES) for batch in loader), state)


if __name__ == "__main__":
    main(TorchLoader())
