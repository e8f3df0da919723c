"""The pack as the model reads it: the torch side of the contract in `sample.py`.

`to_batch(pack, device)` copies a pack once into tensors. Token order is per field (see `sample.py`); the model makes
segments of it (`cu_seqlens`), never masks.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from interlace.contract.sample import Pack


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldBatch:
    """Tokens of one field.

    Args:
        values: int64 `[n]` or `[n, patch_dim]` in the field's patch dtype, samples in pack order.
        lengths: int64 `[S]`, tokens of each sample; 0 where the field is missing.
        grids: int64 `[S, 2]`, rows and columns; zeros where missing.
        times: float32 `[n]`, seconds on the sample's clock; None if the field is not clocked.
    """

    values: Tensor
    lengths: Tensor
    grids: Tensor
    times: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetBatch:
    """One target: `values` flat (int64 or float32), `lengths` int64 `[S]`, `present` bool `[S]`."""

    values: Tensor
    lengths: Tensor
    present: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One pack on a device.

    Args:
        position: number of the pack in the run; with the seed it decides dropout.
        sample_ids: int64 `[S]`.
        fields, targets: by name.
    """

    position: int
    sample_ids: Tensor
    fields: Mapping[str, FieldBatch]
    targets: Mapping[str, TargetBatch]

    @property
    def num_samples(self) -> int:
        """Slots in the pack, empty ones included."""
        return int(self.sample_ids.shape[0])

    def only(self, names: frozenset[str]) -> "Batch":
        """The same samples with every other field missing from all of them."""
        fields = {
            name: item if name in names else FieldBatch(
                values=item.values[:0],
                lengths=torch.zeros_like(item.lengths),
                grids=torch.zeros_like(item.grids),
                times=None if item.times is None else item.times[:0],
            )
            for name, item in self.fields.items()
        }  # fmt: skip
        return dataclasses.replace(self, fields=fields)


def to_batch(pack: Pack, device: torch.device | str = "cpu") -> Batch:
    """Copy a pack to a device (one copy: the pack's arrays are read-only views of shared memory)."""

    def tensor(array: object, dtype: torch.dtype | None = None) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # read-only numpy memory: copied right below
            view = torch.as_tensor(array)
        return view.to(device=device, dtype=dtype or view.dtype, copy=True)

    return Batch(
        position=pack.position,
        sample_ids=tensor(pack.sample_ids),
        fields={
            name: FieldBatch(
                values=tensor(f.values, torch.int64 if f.values.ndim == 1 else None),
                lengths=tensor(f.lengths, torch.int64),
                grids=tensor(f.grids, torch.int64),
                times=None if f.times is None else tensor(f.times),
            )
            for name, f in pack.fields.items()
        },
        targets={
            name: TargetBatch(
                values=tensor(t.values), lengths=tensor(t.lengths, torch.int64), present=tensor(t.present)
            )
            for name, t in pack.targets.items()
        },
    )
