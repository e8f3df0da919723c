"""One pass over a split in this process, and its parts for those who read it elsewhere."""

from collections.abc import Iterator
from typing import NamedTuple

from interlace.contract.sample import Pack
from interlace.data.plan.plan import Schedule, Window
from interlace.data.read.reader import Reader

PACKS_A_PART = 8
"""Packs that one part of a pass has: enough to pay for the 20 ms that a data task costs, few enough for many CPUs."""


class Part(NamedTuple):
    """The packs of a window at positions `first .. stop - 1`."""

    window: Window
    first: int
    stop: int


def read_share(reader: Reader, rank: int = 0, world_size: int = 1) -> Iterator[Pack]:
    """The packs of one pass over a split at positions `p % world_size == rank`; those of other ranks are not decoded.

    With several ranks a row group is read once for each of its packs, so this is for one rank or for few packs.
    """
    plan = reader.plan()
    for window in plan.schedule(epochs=1).windows:
        stop = window.start + window.num_packs
        if world_size == 1:
            yield from reader.read(window, first=window.start, stop=stop, plan=plan)
            continue
        for position in range(window.start + (rank - window.start) % world_size, stop, world_size):
            yield from reader.read(window, first=position, stop=position + 1, plan=plan)


def parts(reader: Reader, schedule: Schedule) -> list[Part]:
    """A pass in parts that are read each for itself, in order.

    Few packs each, since a split may have fewer windows than there are CPUs. Where a row group lies on both sides of a
    cut its shard is read twice, its records are decoded once. With a cache parts are whole windows, since it takes
    only row groups that are read whole.
    """
    found = []
    for window in schedule.windows:
        stop = window.start + window.num_packs
        size = window.num_packs if reader.cache else PACKS_A_PART
        found += [Part(window, first, min(first + size, stop)) for first in range(window.start, stop, size)]
    return found
