"""How long a rank's exchange of weights and gradients with others takes, as `train/collectives_share`.

    a bucket of DDP, rows of FSDP -> begin -> collective -> end;  all of a step -> seconds in which one was under way

Computing goes on meanwhile where it can, so the share says how busy the network is, not how much it costs: a step that
it binds has one near 1. On a GPU both points are events of a stream, read a step later. What hosts tell each other
(`contract.ranks`), negatives of retrieval, and gradients between copies (`train.shard_over`) are not counted.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Span = tuple[Any, Any]
"""Where a collective begins and ends: events of a GPU, seconds on a CPU."""


@final
class Busy:
    """The collectives of one step.

    Args:
        spans: of each.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = spans

    @property
    def seconds(self) -> float:
        """Of which at least one was under way; waits for the device until all are over."""
        if not self._spans:
            return 0.0
        first, total, reached = self._spans[0][0], 0.0, float("-inf")
        for begin, end in sorted((_since(first, begin), _since(first, end)) for begin, end in self._spans):
            total += max(0.0, end - max(begin, reached))
            reached = max(reached, end)
        return total


def _since(first: Any, mark: Any) -> float:
    if isinstance(first, float):
        return float(mark - first)
    mark.synchronize()
    return float(first.elapsed_time(mark)) / 1e3


@final
class Collectives:
    """Notes when collectives of a rank begin and end.

    Args:
        device: of the rank.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._spans: list[Span] = []

    def taken(self) -> Busy:
        """All that were noted since this was last asked."""
        spans, self._spans = self._spans, []
        return Busy(spans)

    def begin(self) -> Callable[[], None]:
        """One begins on the current stream; what is returned is called where it ends."""
        spans, begin = self._spans, self._mark()
        return lambda: spans.append((begin, self._mark()))

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def watch_buckets(self, replicas: DistributedDataParallel) -> None:
        """Note those of DDP: the mean of each bucket over the ranks, computed as DDP itself does."""
        share = 1.0 / dist.get_world_size()

        def exchange(
            _: object,
            bucket: dist.GradBucket,  # type: ignore[name-defined] # torch looks at it
        ) -> torch.futures.Future[Tensor]:
            end = self.begin()
            work = dist.all_reduce(bucket.buffer().mul_(share), async_op=True)
            assert work is not None

            def done(future: torch.futures.Future[list[Tensor]]) -> Tensor:
                end()
                return future.value()[0]

            mean: torch.futures.Future[Tensor] = work.get_future().then(done)
            return mean

        replicas.register_comm_hook(None, exchange)

    def watch_rows(self, shards: nn.Module) -> None:
        """Note those of FSDP: gathering of weights, and the mean of gradients over the ranks that hold rows."""
        from torch.distributed.fsdp import FSDPModule  # with fsdp, a second that other runs need not pay
        from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter

        for module in shards.modules():
            if isinstance(module, FSDPModule):
                module.set_custom_all_gather(_Noted(DefaultAllGather(), self.begin))  # type: ignore[arg-type]
                module.set_custom_reduce_scatter(_Noted(DefaultReduceScatter(), self.begin))  # type: ignore[arg-type]


@final
class _Noted:
    """A collective of FSDP that is noted."""

    def __init__(self, collective: Any, begin: Callable[[], Callable[[], None]]) -> None:
        self._collective, self._begin = collective, begin

    def allocate(self, *args: Any, **kwargs: Any) -> Any:
        """Memory for what comes."""
        return self._collective.allocate(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The collective; without work to wait for, the stream that comes after it already waits."""
        end = self._begin()
        work = self._collective(*args, **kwargs)
        if work is None:
            end()
        else:
            work.get_future().then(lambda _: end())
        return work
