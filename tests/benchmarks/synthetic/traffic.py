"""What one training step of the real loop does on a GPU, counted without one: kernels, bytes moved, memory.

The step (`train.loop`: forward, backward, clipping, AdamW) runs on CUDA tensors that have shapes and no values
(`tests/fakecuda.py`), and every operation that PyTorch hands to the device is counted:

    bytes = sum over operations of (bytes of each tensor it reads + bytes of each tensor it writes)

as if nothing stayed in a cache from one operation to the next, which holds for tensors larger than the L2 cache (50 MB
on an H100). Views and allocations cost nothing. Looking up rows of a table reads as many as it writes. An operation is
counted as one kernel; some are two or three (backward of attention, of LayerNorm), so launches are a lower limit.
"""

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from interlace.contract.batch import to_batch
from interlace.train.loop import Loop
from interlace.train.optim import make_optimizer
from interlace.train.transfer import Arrival, Span
from tests.benchmarks.synthetic.sizes import Sized
from tests.fakecuda import DEVICE, fake_cuda

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "_varlen_attn", "_varlen_attn_backward")
"""Operations that tensor cores compute; all others are bound by memory."""
LOOKUPS = ("embedding", "index_select", "index", "gather")
UPDATE = ("_foreach_", "_fused_")
"""How names of operations of clipping and of the optimizer begin."""
READ_ONLY = ("grads",)
"""Arguments that a schema says are written, and are not without a scale of gradients (fused AdamW)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """One step.

    Args:
        kernels: operations on the device.
        moved: bytes by kind: `weights` (read in fp32, cast to bf16, read again in forward and backward), `activations`
            (all else in forward and backward, the gradients of weights as they are made included), `update` (gradients,
            weights and both moments of AdamW in fp32, clipping).
        products: of these bytes, those that matrix products and attention move.
        peak: most bytes alive at once, weights and the optimizer's state included; too many by up to the gradients of
            the weights, since activations are kept to the end of the backward pass here.
    """

    kernels: int
    moved: Mapping[str, int]
    products: int
    peak: int


class Meter(TorchDispatchMode):
    """Counts what runs on `DEVICE` while it is entered; see the module.

    Args:
        weights: parameters on the device.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()
        self.products = self.alive = self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()
        self._of_weights = {w.untyped_storage()._cdata for w in weights}
        for weight in weights:
            self._hold(weight)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation, and count it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given, made = _on_device((args, kwargs)), _on_device(result)
        for tensor in made:
            self._hold(tensor)
        written = list(_written(func, args, kwargs))
        storages = {t.untyped_storage()._cdata for t in given}
        made = [t for t in made if t.untyped_storage()._cdata not in storages]
        if (given or made) and (written or (made and "empty" not in func.__name__)):
            self._count(func.overloadpacket.__name__, given, [*made, *written])
        return result

    def _count(self, name: str, read: Sequence[Tensor], written: Sequence[Tensor]) -> None:
        self.kernels[name] += 1
        writes = sum(map(_bytes, written))
        limit = writes if name in LOOKUPS else None
        if name == "_to_copy" and any(self._is_weight(t) for t in read):
            self._of_weights |= {t.untyped_storage()._cdata for t in written}
        total, update = 0, name.startswith(UPDATE)
        for tensor, size in [*((t, _bytes(t, limit)) for t in read), *((t, _bytes(t)) for t in written)]:
            kind = "update" if update else "weights" if self._is_weight(tensor) else "activations"
            self.moved[kind] += size
            total += size
        self.products += total if name in PRODUCTS else 0

    def _is_weight(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._of_weights

    def _hold(self, tensor: Tensor) -> None:
        """Count a storage as memory until nothing holds it."""
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen.add(storage)
            self.alive += storage.nbytes()
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._free, storage.nbytes(), storage._cdata)

    def _free(self, size: int, identity: int) -> None:
        self.alive -= size
        self._of_weights.discard(identity)  # another storage may get it


def _on_device(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor) and x.device == DEVICE and x.numel()]


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """The arguments that an operation changes in place."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write and argument.name not in READ_ONLY:
            yield from _on_device(args[place] if place < len(args) else kwargs.get(argument.name))


def _bytes(tensor: Tensor, limit: int | None = None) -> int:
    """Of its elements, of a repeated one once; at most the limit."""
    size = min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes())
    return size if limit is None else min(size, limit)


def _to_device(network: nn.Module) -> None:
    """Lay parameters and buffers that have no values on the device; `to_empty` can't swap fake tensors for others."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(torch.empty(parameter.shape, device=DEVICE)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=DEVICE))


def measured(sized: Sized, pack: int = 0) -> Traffic:
    """The second step on a pack of the plan: the optimizer's state is there by then."""
    rows = next(r for i, r in enumerate(sized.packs()) if i == pack)
    with fake_cuda():
        network = sized.network()
        _to_device(network)
        loop = Loop(
            network=network,
            optimizer=make_optimizer(sized.recipe.optim, network),
            recipe=sized.recipe,
            num_steps=2,
            device=DEVICE,
        )
        own = sized.pack(rows)
        arrival = Arrival(pack=own, take=partial(to_batch, own, DEVICE), span=Span(torch.device("cpu")))
        with Meter([*network.parameters()]) as meter:
            loop._step(0, [arrival], 0.0, 0.0, None)
            meter.kernels.clear()
            meter.moved.clear()
            meter.products = 0
            loop._step(1, [arrival], 0.0, 0.0, None)
    return Traffic(kernels=meter.kernels.total(), moved=dict(meter.moved), products=meter.products, peak=meter.peak)
