"""What passes from the data arm to the model arm, in numpy: tokens of one value, and packs of many samples.

A *pack* holds whole samples end to end without padding. Its tokens lie per field (all tokens of field `a` of sample 0,
then of sample 1, ...) beside the number of tokens each sample has there; a missing field is zero tokens. The model
interlaces them. `pack_to_table` and `table_to_pack` carry a pack through Ray as one row of flat Arrow buffers.

Worked example: two samples, fields `image` (4 and 0 tokens) and `name` (2 and 3 tokens):
`fields["image"].lengths == [4, 0]`, `fields["name"].lengths == [2, 3]`, 9 tokens in all.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

TokenKind = Literal["ids", "patches"]

UNKNOWN, BEGIN, END = 0, 1, 2
NUM_SPECIALS = 3
"""Ids of texts before those of every tokenizer; see `interlace.modalities.text`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSpec:
    """What the model must know of a field: the shape of its tokens, never its modality.

    Args:
        name: the field's name in the recipe.
        kind: `ids` (int32 `[n]`) or `patches` (`[n, patch_dim]`).
        vocab_size: number of ids; 0 for patches.
        patch_dim: numbers in a patch; 0 for ids.
        patch_dtype: dtype of patches; uint8 patches are pixels in 0..255, others are used as they are.
        max_grid: the most rows and columns that tokens of one value can form; `(n, 1)` for sequences.
        channels: colour channels if a patch is a square of pixels laid out `[height, width, channel]`, else 0.
        clocked: whether each token carries its time; all clocked fields of a sample share one clock.
        pretrained: configuration (JSON) of the pretrained model that reads these tokens; empty where none does.
    """

    name: str
    kind: TokenKind
    vocab_size: int = 0
    patch_dim: int = 0
    patch_dtype: Literal["uint8", "float16", "float32"] = "float32"
    max_grid: tuple[int, int] = (1, 1)
    channels: int = 0
    clocked: bool = False
    pretrained: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The tokens of one value of one field.

    Args:
        values: int32 `[n]` or `[n, patch_dim]`.
        grid: rows and columns of the tokens, `rows * columns == n`, row-major; sequences are `(n, 1)`.
        times: float32 `[n]`, seconds since the sample's clock began at the middle of each token; None if not clocked.
    """

    values: NDArray[Any]
    grid: tuple[int, int]
    times: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRecord:
    """A record that can't be used: where it is and why."""

    shard: str
    row: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldPack:
    """Tokens of one field for all samples of a pack.

    Args:
        values: int32 `[n]` or `[n, patch_dim]`, samples in pack order.
        lengths: int32 `[S]`, tokens of each sample; 0 where the field is missing.
        grids: int32 `[S, 2]`, rows and columns; zeros where missing.
        times: float32 `[n]`, seconds on the sample's clock; None if the field is not clocked.
    """

    values: NDArray[Any]
    lengths: NDArray[np.int32]
    grids: NDArray[np.int32]
    times: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPack:
    """One target for all samples of a pack.

    Args:
        values: int64 class indices or float32 numbers, flat, samples in pack order.
        lengths: int32 `[S]`, values of each sample (single-label: 1, or 0 if absent; multi-label: any number).
        present: bool `[S]`, whether the sample has this target at all.
    """

    values: NDArray[Any]
    lengths: NDArray[np.int32]
    present: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Whole samples packed end to end: the row that Ray Data carries.

    Args:
        position: number of this pack in the run, from 0, across epochs.
        epoch: the epoch its samples belong to.
        sample_ids: int64 `[S]`, row numbers in the manifest.
        fields, targets: by name, in the recipe's order.
        bad: records found bad while reading; their slots have no tokens and no target.
    """

    position: int
    epoch: int
    sample_ids: NDArray[np.int64]
    fields: Mapping[str, FieldPack]
    targets: Mapping[str, TargetPack]
    bad: tuple[BadRecord, ...] = field(default=())

    @property
    def num_tokens(self) -> int:
        """Tokens of all fields together."""
        return int(sum(int(f.lengths.sum()) for f in self.fields.values()))


def _flat(values: NDArray[Any]) -> pa.LargeListArray:
    """One-row large_list column over the buffer of `values`."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.LargeListArray.from_arrays(pa.array([0, len(flat)], pa.int64()), flat)


def _numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    """The numbers of a one-row large_list column, without a copy (read-only)."""
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    values: NDArray[Any] = array.flatten().to_numpy(zero_copy_only=True)
    return values


def pack_to_table(pack: Pack) -> pa.Table:
    """The pack as an Arrow table of one row: scalars and flat `large_list` buffers, nothing pickled."""
    columns: dict[str, Any] = {
        "position": pa.array([pack.position], pa.int64()),
        "epoch": pa.array([pack.epoch], pa.int64()),
        "sample_ids": _flat(pack.sample_ids),
        "bad": pa.array([json.dumps([[b.shard, b.row, b.reason] for b in pack.bad])]),
    }
    for name, item in pack.fields.items():
        width = item.values.shape[1] if item.values.ndim == 2 else 0
        columns[f"field.{name}.width"] = pa.array([width], pa.int32())
        columns[f"field.{name}.values"] = _flat(item.values)
        columns[f"field.{name}.lengths"] = _flat(item.lengths)
        columns[f"field.{name}.grids"] = _flat(item.grids)
        if item.times is not None:
            columns[f"field.{name}.times"] = _flat(item.times)
    for name, target in pack.targets.items():
        columns[f"target.{name}.values"] = _flat(target.values)
        columns[f"target.{name}.lengths"] = _flat(target.lengths)
        columns[f"target.{name}.present"] = _flat(target.present.view(np.uint8))
    return pa.table(columns)


def table_to_pack(table: pa.Table) -> Pack:
    """The pack in a one-row table made by `pack_to_table`; arrays are read-only views of the Arrow buffers."""
    assert table.num_rows == 1, table.num_rows
    names = [n.split(".", 1)[1].rsplit(".", 1)[0] for n in table.column_names if n.endswith(".lengths")]
    kinds = [n.split(".", 1)[0] for n in table.column_names if n.endswith(".lengths")]
    fields: dict[str, FieldPack] = {}
    targets: dict[str, TargetPack] = {}
    for kind, name in zip(kinds, names, strict=True):
        values = _numpy(table[f"{kind}.{name}.values"])
        lengths = _numpy(table[f"{kind}.{name}.lengths"])
        if kind == "field":
            width = table[f"field.{name}.width"][0].as_py()
            values = values.reshape(-1, width) if width else values
            grids = _numpy(table[f"field.{name}.grids"]).reshape(-1, 2)
            clock = f"field.{name}.times"
            times = _numpy(table[clock]) if clock in table.column_names else None
            fields[name] = FieldPack(values=values, lengths=lengths, grids=grids, times=times)
        else:
            present = _numpy(table[f"target.{name}.present"]).view(np.bool_)
            targets[name] = TargetPack(values=values, lengths=lengths, present=present)
    bad = tuple(BadRecord(shard=s, row=r, reason=why) for s, r, why in json.loads(table["bad"][0].as_py()))
    return Pack(
        position=table["position"][0].as_py(),
        epoch=table["epoch"][0].as_py(),
        sample_ids=_numpy(table["sample_ids"]),
        fields=fields,
        targets=targets,
        bad=bad,
    )
