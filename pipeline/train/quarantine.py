"""Bad records met while training: listed once, counted over all ranks, limited in their share."""

import json
from pathlib import Path
from typing import Any

import torch

from interlace.contract.errors import BadShareError
from interlace.contract.ranks import gather_objects, sum_over_ranks
from interlace.contract.sample import BadRecord


class Quarantine:
    """Records that turned out bad while training: each listed once in the run folder, and their share limited.

    Args:
        run: the run's folder.
        rank: of this process.
        world_size: of the group.
        num_rows: training records.
        num_bad: those of them that the index found bad.
        limit: largest share of bad ones.
    """

    def __init__(self, run: Path, rank: int, world_size: int, *, num_rows: int, num_bad: int, limit: float) -> None:
        self.world_size = world_size
        self.num_rows = num_rows
        self.num_bad = num_bad
        self.limit = limit
        self.path = run / f"quarantine-{rank}.jsonl"
        self.seen: set[tuple[str, int]] = set()
        for path in run.glob("quarantine-*.jsonl"):
            for line in path.read_text(encoding="utf-8").splitlines():
                self.seen.add(_place(json.loads(line)))

    def add(self, bad: tuple[BadRecord, ...]) -> int:
        """Note the bad records of a step on all ranks; how many there are in the run by now.

        Raises:
            BadShareError: their share of the training records passes `data.max_bad_share`.
        """
        own = [b for b in bad if (b.shard, b.row) not in self.seen]
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"shard": b.shard, "row": b.row, "reason": b.reason}) + "\n" for b in own)
        new = self._gather(own)
        self.seen.update((b.shard, b.row) for b in new)
        total = len(self.seen) + self.num_bad
        if new and total / self.num_rows > self.limit:
            last = new[-1]
            raise BadShareError(
                f"{total} of {self.num_rows} training records are bad ({total / self.num_rows:.2%}), but"
                f" `data.max_bad_share` is {self.limit:.2%}; the last: {last.shard} row {last.row}: {last.reason}"
            )
        return total

    def _gather(self, own: list[BadRecord]) -> list[BadRecord]:
        """The new bad records of all ranks, so that every rank decides alike."""
        if int(sum_over_ranks(torch.tensor([len(own)]))) == 0 or self.world_size == 1:
            return own
        return [b for rank in gather_objects(own) for b in rank]


def _place(entry: dict[str, Any]) -> tuple[str, int]:
    return entry["shard"], entry["row"]
