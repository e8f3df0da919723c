"""A running average of the weights (Polyak and Juditsky 1992): steadier than the last step's, and the model kept.

    after step t:  average <- d * average + (1 - d) * weights,  d = min(decay, (1 + t) / (10 + t))

The smaller decay of the first steps is TensorFlow's (`ExponentialMovingAverage` with `num_updates`): it forgets the
random start, so nothing has to be divided out. The average is a pure function of the weights of all steps, in float32,
hence the same on every rank.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from interlace.train.parallel import own_rows


def decay_at(decay: float, step: int) -> float:
    """The decay after step `step`, from 1."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def blend(averages: Sequence[Tensor], weights: Sequence[Tensor], share: Tensor) -> None:
    """Move averages towards weights by a share that lies on the device, a single number; by 0 they stay as they are."""
    owned = [own_rows(x) for x in averages]
    ways = torch._foreach_sub([own_rows(x) for x in weights], owned)
    torch._foreach_mul_(ways, share.to(torch.float32))
    torch._foreach_add_(owned, ways)


@final
class WeightAverage:
    """The average of a network's parameters; it begins with the weights that the network has now.

    Args:
        network: whose parameters are averaged; its buffers are not.
        decay: `optim.ema`, above 0 and below 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network = network
        self._decay = decay
        self._average = [p.detach().clone() for p in network.parameters()]

    @torch.no_grad()
    def update(self, step: int, wrong: Tensor | None = None) -> None:
        """Take in the network's weights after step `step`, from 1.

        Args:
            step: number of the step.
            wrong: bool, a single number: whether the step was skipped, so that there is nothing to take in. On a GPU it
                is not read.
        """
        now, share = [p.detach() for p in self._network.parameters()], 1.0 - decay_at(self._decay, step)
        if wrong is not None and wrong.device.type != "cpu":
            blend(self._average, now, torch.where(wrong, 0.0, share))
        elif not wrong:
            torch._foreach_lerp_(self._average, now, share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network has the averaged weights inside, and its own again after."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def tensors(self) -> dict[str, Tensor]:
        """The averages by parameter name."""
        names = [name for name, _ in self._network.named_parameters()]
        return dict(zip(names, self._average, strict=True))

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the averages of a checkpoint; names of other tensors are passed over."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchange values, not memory: optimizers and other wrappers hold the parameters themselves."""
        for parameter, average in zip(self._network.parameters(), self._average, strict=True):
            own = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(own)
