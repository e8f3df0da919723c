"""Packs on their way to the device, and numbers on their way back, while the device computes.

    pack -> pinned buffer -> copy on a stream of its own -> event -> the step's stream waits for it

On a GPU a thread copies up to `AHEAD` packs before they are asked for; one more waits in its hands. On a CPU a pack is
copied when the step wants it. The host never waits for a copy: the step's stream does. Pinned memory is torch's, which
gives it to nobody else before it was read; memory of the device is kept until the step's stream is done with it
(`record_stream`). Times are between events of a stream, read a step later.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from interlace.contract.batch import Batch, to_batch
from interlace.contract.sample import Pack
from interlace.train.prefetch import prefetch

AHEAD = 2
"""Packs that lie on a GPU before the step that reads them."""


@final
class Span:
    """Seconds of what a device does between two points of its work; the host doesn't wait when it sets them.

    Args:
        device: whose current stream is looked at; on a CPU there is nothing to measure.
    """

    def __init__(self, device: torch.device) -> None:
        self._ends: list[Any] = [_event(timed=True) for _ in range(2 * (device.type == "cuda"))]

    def begin(self) -> None:
        """From here on."""
        for event in self._ends[:1]:
            event.record()

    def end(self) -> None:
        """To here."""
        for event in self._ends[1:]:
            event.record()

    @property
    def ended(self) -> Any:
        """The event at the end; None on a CPU."""
        return self._ends[1] if self._ends else None

    @property
    def seconds(self) -> float | None:
        """Waits until the device has come to the end; None on a CPU."""
        if not self._ends:
            return None
        begun, ended = self._ends
        ended.synchronize()
        return float(begun.elapsed_time(ended)) / 1e3


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A pack and its way to the device.

    Args:
        pack: on the CPU.
        take: the pack on the device, for the stream that computes now.
        span: of filling the buffer and copying it, on a GPU.
    """

    pack: Pack
    take: Callable[[], Batch]
    span: Span


def arriving(packs: Iterator[Pack], device: torch.device) -> AbstractContextManager[Iterator[Arrival]]:
    """The packs in order, copied ahead to a GPU; within the context."""
    if device.type != "cuda":
        never = Span(device)
        return nullcontext(Arrival(pack=pack, take=partial(to_batch, pack, device), span=never) for pack in packs)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return closing(prefetch((_sent(pack, device, stream) for pack in packs), AHEAD, lambda _: None))


def _sent(pack: Pack, device: torch.device, stream: Any) -> Arrival:
    """A pack whose copy has been asked for, on a stream."""
    with torch.cuda.stream(stream):
        span = Span(device)
        span.begin()
        batch = to_batch(pack, device)
        span.end()

    def take() -> Batch:
        reader = torch.cuda.current_stream(device)
        reader.wait_event(span.ended)
        for tensor in batch.on_device:
            tensor.record_stream(reader)
        return batch

    return Arrival(pack=pack, take=take, span=span)


@final
class Reading:
    """Numbers on their way to the host: asked for now, read later without waiting for what the device was given since.

    Args:
        tensor: any shape; on a CPU it is what is read.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._host = tensor
        self._copied: Any = None
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._copied = _event(timed=False)
            self._copied.record()

    def numbers(self) -> Sequence[float]:
        """All of them, in order, once the device has computed them."""
        if self._copied is not None:
            self._copied.synchronize()
        return tuple(self._host.flatten().tolist())


def _event(*, timed: bool) -> Any:
    return torch.cuda.Event(enable_timing=timed)  # type: ignore[no-untyped-call]
