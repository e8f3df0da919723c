"""How the losses of several tasks are weighed against each other when the weights are learned."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from interlace.model.fusion import key


class UncertaintyWeights(nn.Module):
    """A learned weight for each task: `exp(-s) * loss + s / 2` with `s = log sigma^2` (Kendall et al. 2018).

    A task of large loss is weighed down; the second term keeps it from being weighed to nothing. Every task begins with
    weight 1. The factor 1/2 that the paper gives losses of numbers belongs to the weight in the recipe.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.log_variances = nn.ParameterDict({key(name): nn.Parameter(torch.zeros(())) for name in tasks})

    def weight(self, task: str) -> Tensor:
        """The factor of a task's loss."""
        found: Tensor = (-self.log_variances[key(task)]).exp()
        return found

    def penalty(self, task: str) -> Tensor:
        """What is added to the loss of a step in which the task has a target."""
        found: Tensor = self.log_variances[key(task)] / 2
        return found
