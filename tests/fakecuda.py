"""CUDA without a GPU: tensors on `cuda:0` have shapes and no values, so whatever reads one on the host fails.

`torch`'s fake tensors, with two differences. Tensors on the CPU are real, since the host may read what it has itself.
And copies between host and device must not wait: they are asked not to, and what comes back lands in pinned memory.
Streams and events are those of `Stream` and `Event` here, which only take notes.
"""

import ctypes
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.function import BackwardCFunction
from torch.utils._pytree import tree_leaves

from interlace.train import transfer

DEVICE = torch.device("cuda:0")
"""With its number: a build without CUDA can't be asked for the current one."""
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class WaitError(AssertionError):
    """The host waited for the device."""


class FakeCuda(FakeTensorMode):
    """Inside, tensors on `DEVICE` are fake and those on the CPU are real.

    Attributes:
        ops: how many operations ran on the device.
        kinds: which ones.
        stream: that which operations are given to.
        crossed: stream and bytes of each copy to the device, and whether its memory was pinned.
        pinned: memory that is by its address, kept so that no other gets it.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.ops = 0
        self.kinds: set[Any] = set()
        self.stream = Stream()
        self.crossed: list[tuple[Stream, int, bool]] = []
        self.pinned: dict[int, Tensor] = {}

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether a tensor of the CPU lies in pinned memory."""
        return tensor.untyped_storage().data_ptr() in self.pinned

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation on real tensors; find the shapes of one that has to do with the device."""
        kwargs = dict(kwargs or {})
        leaves = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        fake = any(isinstance(x, FakeTensor) for x in leaves)
        device = kwargs.get("device")
        if not fake and func is torch.ops.aten.is_pinned.default:
            return self.is_pinned(args[0])
        if func is torch.ops.aten._pin_memory.default or kwargs.pop("pin_memory", False):
            made: Tensor = args[0].clone() if leaves else func(*args, **kwargs)
            self.pinned[made.untyped_storage().data_ptr()] = made
            return made
        if not fake and (device is None or torch.device(device).type == "cpu"):
            return func(*args, **kwargs)
        if func in COPIES and self._crosses_back(func, leaves, args, kwargs):
            return leaves[0]
        self.ops += 1
        self.kinds.add(func)
        if (shapes := SHAPES.get(func.overloadpacket)) is not None:
            with self:
                return shapes(*args, **kwargs)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _crosses_back(
        self, func: Any, leaves: Sequence[Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> bool:
        """Whether a copy goes to the host. Raises WaitError where it waits for the device, in either direction."""
        if func is torch.ops.aten.copy_.default:
            to, source, asynchronous = leaves[0].device.type, leaves[1], len(args) > 2 and bool(args[2])
        else:
            to, source = torch.device(kwargs.get("device") or leaves[0].device).type, leaves[0]
            asynchronous = bool(kwargs.get("non_blocking", False))
        if to == source.device.type:
            return False
        back = to == "cpu" and func is torch.ops.aten.copy_.default and self.is_pinned(leaves[0])
        if not (asynchronous and (back or to != "cpu")):
            raise WaitError(f"a copy from {source.device.type} to {to} of {tuple(source.shape)} waits for the device")
        if not back:
            self.crossed.append((self.stream, source.nbytes, self.is_pinned(source)))
        return back


class Stream:
    """Notes for which events it was told to wait, and which memory it reads that belongs to another."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.waits: list[Event] = []
        self.kept: list[Tensor] = []

    def wait_event(self, event: "Event") -> None:
        """Nothing that comes later begins before the event."""
        self.waits.append(event)


class Event:
    """Notes the stream it was set on, and after how many operations; the host's waits for it are counted."""

    mode: FakeCuda
    waited: list["Event"]

    def __init__(self, enable_timing: bool = False) -> None:
        self.timed = enable_timing
        self.ops: int | None = None
        self.stream: Stream | None = None

    def record(self) -> None:
        """Here."""
        self.ops, self.stream = self.mode.ops, self.mode.stream

    def synchronize(self) -> None:
        """The host waits for what came before, and for nothing that came after."""
        assert self.ops is not None, "was never set"
        self.waited.append(self)

    def elapsed_time(self, other: "Event") -> float:
        """Milliseconds: one for each operation."""
        assert self.timed
        assert other.timed
        assert other in self.waited, "not known to be over"
        assert self.ops is not None
        assert other.ops is not None
        return float(other.ops - self.ops)


def _ahead(items: Iterator[Any], depth: int, *_: Any, **__: Any) -> Iterator[Any]:
    """As `prefetch`, without a thread: modes of torch belong to one."""
    waiting: deque[Any] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > depth:
            yield waiting.popleft()
    yield from waiting


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """A build without CUDA can do everything but compute there: autograd needs a guard of the device and an engine."""
    mode = FakeCuda()
    own = type("OwnEvent", (Event,), {"mode": mode, "waited": []})
    with (
        _replaced(Tensor, "backward", lambda self, *_, **__: backward(self)),
        _replaced(Tensor, "record_stream", lambda self, stream: stream.kept.append(self)),
        _replaced(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        _replaced(torch.cuda, "is_bf16_supported", lambda *_, **__: True),
        _replaced(torch.cuda, "Event", own),
        _replaced(torch.cuda, "Stream", Stream),
        _replaced(torch.cuda, "current_stream", lambda *_: mode.stream),
        _replaced(torch.cuda, "stream", lambda stream: _replaced(mode, "stream", stream)),
        _replaced(transfer, "prefetch", _ahead),
        _replaced(torch.nn.utils.clip_grad, "_has_foreach_support", lambda *_: True),  # refuses classes of tensors
        _guard(),
        mode,
    ):
        yield mode


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _guard() -> Iterator[None]:
    """Let CUDA have the guard of the CPU, which does nothing, where it has none."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * 2).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    before = guards[1]
    guards[1] = before or guards[0]
    try:
        yield
    finally:
        guards[1] = before


def _gru_cell(x: Tensor, h: Tensor, hx: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(hx), hx.new_empty(len(hx), 5 * hx.shape[1])


def _gru_cell_backward(grad: Tensor, workspace: Tensor, bias: bool) -> tuple[Tensor, ...]:
    rows, width = grad.shape
    gates = [grad.new_empty(rows, 3 * width) for _ in range(2)]
    return (*gates, torch.empty_like(grad), *(grad.new_empty(3 * width) for _ in range(2)))


def _ctc_loss(log_probs: Tensor, ids: Tensor, tokens: Sequence[int], lengths: Sequence[int], *_: Any) -> Any:
    samples = log_probs.shape[1]
    return log_probs.new_empty(samples), log_probs.new_empty(samples, max(tokens), 2 * max(lengths) + 1)


def _ctc_loss_backward(grad: Tensor, log_probs: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(log_probs)


SHAPES: Mapping[Any, Callable[..., Any]] = {
    torch.ops.aten._thnn_fused_gru_cell: _gru_cell,
    torch.ops.aten._thnn_fused_gru_cell_backward: _gru_cell_backward,
    torch.ops.aten._ctc_loss: _ctc_loss,
    torch.ops.aten._ctc_loss_backward: _ctc_loss_backward,
    torch.ops.aten._sample_dirichlet: lambda alpha, *_: torch.empty_like(alpha),
    torch.ops.aten._fused_sgd_: lambda *_, **__: None,
}
"""What kernels give of which torch does not say the shapes."""


@torch.no_grad()
def backward(loss: Tensor) -> None:
    """What `Tensor.backward` does, by the same nodes; torch's engine refuses a device that its build has not."""
    assert loss.grad_fn is not None
    grads: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    for node in _from_the_loss(loss.grad_fn):
        own = grads.pop(node, {})
        if hasattr(node, "variable"):
            for grad in own.values():
                node.variable.grad = grad if node.variable.grad is None else node.variable.grad + grad
        elif own:
            given = [own.get(i) for i in range(len(node._input_metadata))]
            found = node.apply(*given) if isinstance(node, BackwardCFunction) else node(*given)
            found = found if isinstance(found, tuple) else (found,)
            for (to, number), grad in zip(node.next_functions, found, strict=False):  # what is no tensor comes last
                if to is not None and grad is not None:
                    grad = grad.sum_to_size(to._input_metadata[number].shape)
                    slots = grads.setdefault(to, {})
                    slots[number] = slots[number] + grad if number in slots else grad


def _from_the_loss(root: Any) -> list[Any]:
    """All nodes, each before those that it gives gradients to."""
    order: list[Any] = []
    seen: set[Any] = set()
    waiting = [(root, False)]
    while waiting:
        node, done = waiting.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            waiting.append((node, True))
            waiting += [(to, False) for to, _ in node.next_functions if to is not None]
    return order[::-1]
