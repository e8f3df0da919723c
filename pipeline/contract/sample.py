"""What passes from the data arm to the model arm, in numpy: tokens of one value, and packs of many samples.

A *pack* holds whole samples end to end without padding. Its tokens lie per field (all tokens of field `a` of sample 0,
then of sample 1, ...) beside the number of tokens each sample has there; a missing field is zero tokens. The model
interlaces them. `tables` carries a pack through Ray as one row of flat Arrow buffers.

Worked example: two samples, fields `image` (4 and 0 tokens) and `name` (2 and 3 tokens):
`fields["image"].lengths == [4, 0]`, `fields["name"].lengths == [2, 3]`, 9 tokens in all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
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
