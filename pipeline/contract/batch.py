"""The pack as the model reads it: the torch side of the contract in `sample.py`.

`to_batch(pack, device)` copies a pack once into tensors. Token order is per field (see `sample.py`); the model makes
segments of it (`cu_seqlens`), never masks.

Only what is computed with goes to the device: values and times. What says how many there are and where (ids of samples,
lengths, grids, targets) stays on the CPU, so that nothing has to be read back to know the shape of the next operation;
what the device needs of it is moved there by `move`.
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
        values: int64 `[n]` or `[n, patch_dim]` in the field's patch dtype, samples in pack order, on the device.
        lengths: int64 `[S]`, tokens of each sample, on the CPU; 0 where the field is missing.
        grids: int64 `[S, 2]`, rows and columns, on the CPU; zeros where missing.
        times: float32 `[n]`, seconds on the sample's clock, on the device; None if the field is not clocked.
    """

    values: Tensor
    lengths: Tensor
    grids: Tensor
    times: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetBatch:
    """One target, on the CPU: `values` flat (int64 or float32), `lengths` int64 `[S]`, `present` bool `[S]`."""

    values: Tensor
    lengths: Tensor
    present: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One pack, its values on a device.

    Args:
        position: number of the pack in the run; with the seed it decides dropout.
        sample_ids: int64 `[S]`, on the CPU.
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


def move(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the CPU on the device, without waiting for what the device still has to do; itself on a CPU.

    Its memory is free again at once: the copy of memory that is not pinned goes through a buffer of the driver.
    """
    return tensor.to(device, non_blocking=True)


def to_batch(pack: Pack, device: torch.device | str = "cpu") -> Batch:
    """Copy a pack to a device (one copy: the pack's arrays are read-only views of shared memory)."""

    def tensor(array: object, dtype: torch.dtype | None = None, to: torch.device | str = "cpu") -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # read-only numpy memory: copied right below
            view = torch.as_tensor(array)
        return view.to(device=to, dtype=dtype or view.dtype, copy=True, non_blocking=True)

    return Batch(
        position=pack.position,
        sample_ids=tensor(pack.sample_ids),
        fields={
            name: FieldBatch(
                values=tensor(f.values, torch.int64 if f.values.ndim == 1 else None, device),
                lengths=tensor(f.lengths, torch.int64),
                grids=tensor(f.grids, torch.int64),
                times=None if f.times is None else tensor(f.times, to=device),
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
