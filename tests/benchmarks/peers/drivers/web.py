"""WebDataset: tar files read in sequence, shuffled in a buffer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import webdataset as wds

from tests.benchmarks.peers.driver import PASSES, Peer, main, skipped
from tests.benchmarks.peers.work import Batch, Settings, Work, collate_tensors, read_rows

BUFFER = 1000


@final
class FromTar:
    """A sample of a tar file, decoded."""

    def __init__(self, settings: Settings) -> None:
        self._work = Work(folder=settings.folder, workload=settings.workload)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Its JSON and its picture as arrays."""
        return self._work({**json.loads(sample["json"]), "image": sample["jpg"]})


@final
class Web(Peer):
    """Has no state: it begins its order again and reads up to where it was."""

    def prepare(self, settings: Settings) -> None:
        """See `Peer`."""
        Path(settings.own).mkdir(parents=True, exist_ok=True)
        for number, path in enumerate(settings.shards):
            with wds.TarWriter(str(Path(settings.own, f"{number:03d}.tar"))) as tar:
                for row in read_rows([path], settings.columns):
                    rest = {name: value for name, value in row.items() if name != "image"}
                    tar.write({"__key__": f"{row['id']:08d}", "jpg": row["image"], "json": rest})

    def stream(self, settings: Settings, state: Any) -> Iterator[Batch]:
        """See `Peer`."""
        tars = sorted(str(path) for path in Path(settings.own).glob("*.tar"))
        data = wds.WebDataset(tars, shardshuffle=len(tars), detshuffle=True, seed=settings.seed)
        data = data.shuffle(BUFFER).map(FromTar(settings)).batched(settings.batch, collation_fn=collate_tensors)
        loader = wds.WebLoader(
            data, batch_size=None, num_workers=settings.workers, persistent_workers=settings.workers > 0
        )
        return skipped((batch for _ in range(PASSES) for batch in loader), state)


if __name__ == "__main__":
    main(Web())
