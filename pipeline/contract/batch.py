"""The pack as the model reads it: the torch side of the contract in `sample.py`.

`to_batch(pack, device)` copies a pack once into tensors. Token order is per field (see `sample.py`); the model makes
segments of it (`cu_seqlens`), never masks.

Only what is computed with goes to the device: values and times. What says how many there are and where (ids of samples,
lengths, grids, targets) stays on the CPU, so that nothing has to be read back to know the shape of the next operation;
what the device needs of it is moved there by `move`.

To a GPU all arrays of a pack cross in one pinned buffer by one copy, as they lie in the pack: pixels as uint8, ids as
int32.
"""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interlace.contract.sample import Pack

ALIGNMENT = 256
"""Bytes at multiples of which arrays begin in a buffer: what CUDA's own allocations are aligned to."""


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

    @property
    def on_device(self) -> Iterator[Tensor]:
        """What lies on the device: values and times."""
        for item in self.fields.values():
            yield item.values
            if item.times is not None:
                yield item.times


def move(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the CPU on the device, without waiting for what the device still has to do; itself on a CPU.

    Through pinned memory, which torch keeps until it was read: a copy of other memory may wait for the device.
    """
    if _crosses(device):
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def to_batch(pack: Pack, device: torch.device | str = "cpu") -> Batch:
    """Copy a pack to a device (one copy: the pack's arrays are read-only views of shared memory)."""

    def tensor(array: object, dtype: torch.dtype | None = None) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # read-only numpy memory: copied right below
            view = torch.as_tensor(array)
        return view.to(dtype=dtype or view.dtype, copy=True)

    def there(array: NDArray[Any], dtype: torch.dtype | None = None) -> Tensor:
        if crossed is None:
            return tensor(array, dtype)
        moved = next(crossed)
        return moved.to(dtype or moved.dtype)

    crossed = None
    if _crosses(device):
        crossed = iter(cross([x for f in pack.fields.values() for x in (f.values, f.times) if x is not None], device))
    return Batch(
        position=pack.position,
        sample_ids=tensor(pack.sample_ids),
        fields={
            name: FieldBatch(
                values=there(f.values, torch.int64 if f.values.ndim == 1 else None),
                lengths=tensor(f.lengths, torch.int64),
                grids=tensor(f.grids, torch.int64),
                times=None if f.times is None else there(f.times),
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


def _crosses(device: torch.device | str) -> bool:
    return torch.device(device).type == "cuda"


def cross(arrays: Sequence[NDArray[Any]], device: torch.device | str) -> list[Tensor]:
    """Arrays as tensors on a device, by one copy that nobody waits for; on a GPU from pinned memory.

    The tensors share one memory, in which each begins at a multiple of `ALIGNMENT` bytes.
    """
    sizes = [-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays]
    host = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=torch.device(device).type == "cuda")
    for array, part in zip(arrays, torch.split(host, sizes), strict=True):
        part.numpy()[: array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    moved = torch.split(host.to(device, non_blocking=True), sizes)
    return [
        part[: array.nbytes].view(torch.from_numpy(np.empty(0, array.dtype)).dtype).view(array.shape)
        for array, part in zip(arrays, moved, strict=True)
    ]
