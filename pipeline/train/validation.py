"""What a rank evaluates while training: its packs of the validation split, pass after pass.

position p of the split -> rank p mod W, read ahead -> kept in memory after the first pass, if small on every rank
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
import torch

from interlace.contract.errors import PositionError
from interlace.contract.ranks import sum_over_ranks
from interlace.contract.sample import FieldPack, Pack, TargetPack
from interlace.train.prefetch import prefetch

KEPT_BYTES = 256 * 1024 * 1024
"""Most bytes of decoded packs that a rank keeps."""
DEPTH = 4

Share = Callable[[int, int], Iterator[Pack]]
"""From (rank, world size) to this rank's packs of one pass over the split, in order."""

Item = TypeVar("Item", Pack, FieldPack, TargetPack)


class Validation:
    """The packs of one rank.

    Args:
        share: of the ranks; read again in every pass unless all ranks keep what they have read.
        rank, world_size: of this process.
        warn: gets a sentence now and then while packs do not come.
    """

    def __init__(self, share: Share, rank: int, world_size: int, warn: Callable[[str], None]) -> None:
        self._share = share
        self._rank, self._world_size = rank, world_size
        self._warn = warn
        self._kept: list[Pack] | None = None
        self._small = True

    def packs(self) -> Iterator[Pack]:
        """This rank's packs in order. All ranks must take all of theirs at the same time.

        Ranks keep their packs together or not at all: Ray deals packs only to all ranks at once.
        """
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Pack] = []
        size = 0
        why = "Data tasks of an evaluation wait for no CPU: storage may be slow, or their processes start slowly"
        for pack in prefetch(self._share(self._rank, self._world_size), DEPTH, self._warn, why=why):
            size += sum(f.values.nbytes for f in pack.fields.values())
            if self._small and size <= KEPT_BYTES:
                kept.append(owned(pack))
            else:
                kept.clear()
            yield pack
        if self._small:
            self._small = not sum_over_ranks(torch.tensor([int(size > KEPT_BYTES)])).item()
            self._kept = kept if self._small else None


def in_turn(packs: Iterable[Pack], num_packs: int, rank: int, world_size: int) -> Iterator[Pack]:
    """The packs that were dealt to a rank, of those at positions below `num_packs`.

    Raises:
        PositionError: one of them is missing, comes twice, or is another rank's.
    """
    expected = rank
    for pack in packs:
        if pack.position >= num_packs:
            continue  # fills the last round up
        if pack.position != expected:
            raise PositionError(
                f"expected the validation pack at position {expected} on rank {rank} of {world_size}, but got position"
                f" {pack.position}"
            )
        expected += world_size
        yield pack
    if expected < num_packs:
        raise PositionError(
            f"expected the validation pack at position {expected} on rank {rank} of {world_size}, but got the end of"
            " the stream"
        )


def owned(pack: Pack) -> Pack:
    """The pack in memory of its own: what came by Ray would stay in the object store as long as it is kept."""
    return replace(
        _own_arrays(pack),
        fields={name: _own_arrays(field) for name, field in pack.fields.items()},
        targets={name: _own_arrays(target) for name, target in pack.targets.items()},
    )


def _own_arrays(item: Item) -> Item:
    """A copy of a dataclass with arrays of its own."""
    values: dict[str, Any] = {f.name: getattr(item, f.name) for f in fields(item)}
    values = {name: value.copy() for name, value in values.items() if isinstance(value, np.ndarray)}
    return replace(item, **values)
