"""The raw limit: a loop of the decoders over bytes in memory."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, final

import numpy as np

from tests.benchmarks.peers.driver import PASSES, Peer, main, skipped
from tests.benchmarks.peers.work import Batch, Settings, Work, collate, read_rows


@final
class Raw(Peer):
    """All bytes are read before the first batch."""

    def stream(self, settings: Settings, state: Any) -> Iterator[Batch]:
        """See `Peer`."""
        samples = list(islice(read_rows(settings.shards, settings.columns), settings.samples))
        work = Work(folder=settings.folder, workload=settings.workload)

        def batches() -> Iterator[Batch]:
            for number in range(PASSES):
                order = np.random.default_rng((settings.seed, number)).permutation(len(samples)).tolist()
                for first in range(0, len(order), settings.batch):
                    yield collate([work(samples[i]) for i in order[first : first + settings.batch]])

        return skipped(batches(), state)


if __name__ == "__main__":
    main(Raw())
