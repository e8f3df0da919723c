"""What every task is: a head on the network's states, its loss, and metrics as states that add.

`state` of a batch adds over batches and workers, `compute` turns the sum into numbers: averages are never averaged.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pipeline.batch import TargetBatch
from pipeline.model.network import Outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSum:
    """A loss as a sum, so that a step can divide by the number of targets of all its packs and workers.

    Args:
        total: scalar float32, the sum over the targets; has a gradient even without targets.
        count: scalar int64, the number of targets.
    """

    total: Tensor
    count: Tensor


class Task(nn.Module, ABC):
    """A head and everything that is said of its predictions. Inputs lie on the model's device."""

    main_metric: str
    """The number, among those of `compute`, that the best checkpoint is chosen by."""
    higher_is_better: bool

    @abstractmethod
    def losses(self, outputs: Outputs, target: TargetBatch) -> LossSum:
        """The training loss; samples without this target contribute nothing."""

    @abstractmethod
    def predict(self, outputs: Outputs) -> Tensor:
        """Logits, float32 `[S, C]`."""

    @abstractmethod
    def state(self, outputs: Outputs, target: TargetBatch) -> dict[str, Tensor]:
        """Metrics of a batch as float64 or int64 tensors on the CPU that add over batches and workers."""

    @abstractmethod
    def compute(self, state: Mapping[str, Tensor]) -> dict[str, float]:
        """The numbers of a summed state; every metric is nan where no target was seen."""

    @abstractmethod
    def decode(self, logits: Tensor) -> list[dict[str, Any]]:
        """What `predict` says of each sample, in the labels' own words."""
