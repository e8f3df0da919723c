"""What a rank evaluates: its packs in turn, kept by all ranks or by none."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from interlace.contract.errors import PositionError
from interlace.contract.sample import Pack
from interlace.contract.tables import pack_to_table, table_to_pack
from interlace.train import validation
from interlace.train.validation import Validation, in_turn, owned
from tests.networks import draw_pack


def made(position: int) -> Pack:
    return draw_pack(position, 3)


class Reads:
    """A share that counts how often it is read."""

    def __init__(self, packs: list[Pack]) -> None:
        self.packs = packs
        self.times = 0

    def __call__(self, rank: int, world_size: int) -> Iterator[Pack]:
        self.times += 1
        return iter(self.packs[rank::world_size])


def passes(share: Reads, number: int) -> list[list[int]]:
    own = Validation(share, 1, 2, print)
    return [[p.position for p in own.packs()] for _ in range(number)]


def test_small_packs_are_read_once_and_large_ones_in_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    share = Reads([made(i) for i in range(7)])
    assert passes(share, 3) == [[1, 3, 5]] * 3
    assert share.times == 1
    size = sum(f.values.nbytes for p in share.packs[1::2] for f in p.fields.values())
    monkeypatch.setattr(validation, "KEPT_BYTES", size - 1)
    again = Reads(share.packs)
    assert passes(again, 3) == [[1, 3, 5]] * 3
    assert again.times == 3
    monkeypatch.setattr(validation, "KEPT_BYTES", size)
    assert passes(again, 3) == [[1, 3, 5]] * 3
    assert again.times == 4


def test_no_rank_keeps_its_packs_where_another_can_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray deals packs to all ranks at once: a rank that kept its own would leave the others waiting."""
    told: list[int] = []

    def another_is_large(own: torch.Tensor) -> torch.Tensor:
        told.append(int(own))
        return own + 1

    monkeypatch.setattr(validation, "sum_over_ranks", another_is_large)
    share = Reads([made(i) for i in range(4)])
    assert passes(share, 3) == [[1, 3]] * 3
    assert share.times == 3
    assert told == [0], "ranks must agree once, all of them"


def test_packs_that_are_not_in_turn_are_refused() -> None:
    packs = [made(i) for i in range(1, 9, 2)]
    assert [p.position for p in in_turn(packs, 6, 1, 2)] == [1, 3, 5], "7 fills up"
    with pytest.raises(PositionError, match=r"at position 3 on rank 1 of 2, but got position 5"):
        list(in_turn([packs[0], packs[2]], 6, 1, 2))
    with pytest.raises(PositionError, match=r"at position 0 on rank 0 of 2, but got position 1"):
        list(in_turn(packs, 6, 0, 2))
    with pytest.raises(PositionError, match=r"at position 9 on rank 1 of 2, but got the end"):
        list(in_turn(packs, 10, 1, 2))
    assert list(in_turn([made(1)], 1, 1, 2)) == [], "a split of one pack has none for rank 1"


def test_a_kept_pack_holds_nothing_of_what_it_came_in() -> None:
    came = table_to_pack(pack_to_table(made(3)))
    kept = owned(came)
    assert pack_to_table(kept) == pack_to_table(came)
    arrays = [(kept.sample_ids, came.sample_ids)]
    arrays += [(kept.fields[n].values, came.fields[n].values) for n in came.fields]
    arrays += [(kept.fields[n].lengths, came.fields[n].lengths) for n in came.fields]
    arrays += [(kept.targets[n].values, came.targets[n].values) for n in came.targets]
    assert len(arrays) > 3
    assert not any(np.shares_memory(a, b) for a, b in arrays if a.size)
    assert all(a.base is None for a, _ in arrays)
