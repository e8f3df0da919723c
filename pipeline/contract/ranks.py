"""What the processes of a run tell each other from host to host: counts, times, what each was asked, states of metrics.

    numbers on a CPU -> gloo -> numbers of all ranks

Gradients and what devices compute go from device to device (NCCL), and whoever reads them waits for a device. What
hosts know by themselves goes by a group of its own over gloo, made on first use, which no device holds up. Where gloo
is all that ranks have, it is that group. All ranks must call the same function of these at the same point.
"""

from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT_S = 600
"""After which a rank that nobody answers fails."""

T = TypeVar("T")
_made: list[tuple[object, object]] = []  # the process group of all ranks, and that of their hosts


def are_several() -> bool:
    """Whether this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def host_group() -> dist.ProcessGroup | None:
    """The group by which hosts talk; None is the one that all ranks have."""
    if dist.get_backend() == "gloo":
        return None
    every = dist.group.WORLD
    if not _made or _made[0][0] is not every:
        _made[:] = [(every, dist.new_group(backend="gloo", timeout=timedelta(seconds=TIMEOUT_S)))]
    group = _made[0][1]
    assert isinstance(group, dist.ProcessGroup)
    return group


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """A tensor of the CPU summed over all ranks; itself where there is one."""
    if not are_several():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total, group=host_group())
    return total


def most_over_ranks(number: int) -> int:
    """The largest of all ranks' numbers."""
    if not are_several():
        return number
    most = torch.tensor(number)
    dist.all_reduce(most, dist.ReduceOp.MAX, group=host_group())
    return int(most)


def gather_objects(own: T) -> list[T]:
    """What each rank gave, by rank."""
    if not are_several():
        return [own]
    gathered = [own] * dist.get_world_size()
    dist.all_gather_object(gathered, own, group=host_group())
    return gathered
