"""Interlace: an index of the Parquet files, and packs read in this process."""

from collections.abc import Iterator
from typing import Any, final

from interlace.data.index.build import build_index
from interlace.data.read.open import open_reader
from tests.benchmarks.peers.driver import PASSES, Peer, main
from tests.benchmarks.peers.drivers.interlace_recipe import as_batch, recipe_of
from tests.benchmarks.peers.work import Batch, Settings


@final
class InProcess(Peer):
    """Goes on from a position."""

    def prepare(self, settings: Settings) -> None:
        """See `Peer`."""
        build_index(recipe_of(settings))

    def stream(self, settings: Settings, state: Any) -> Iterator[Batch]:
        """See `Peer`."""
        recipe = recipe_of(settings)
        reader = open_reader(build_index(recipe), recipe, "train", training=True)
        plan = reader.plan()
        schedule = plan.schedule(epochs=PASSES)
        for window in schedule.since(state or 0):
            for pack in reader.read(window, first=state or 0, stop=schedule.stop, plan=plan):
                self._next = pack.position + 1
                yield as_batch(pack)

    def state(self, batches: int) -> Any:
        """See `Peer`."""
        return self._next


if __name__ == "__main__":
    main(InProcess())
