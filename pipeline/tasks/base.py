"""What every task is: a head on the network's states, its loss, and metrics as states that add.

A task reads `Outputs` and `Batch`, and names what it needs of them (`groups`, `masked_fields`, `reads_sample`).
`state` of a batch adds over batches and workers, `compute` turns the sum into numbers: averages are never averaged.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from interlace.contract.batch import Batch
from interlace.contract.charts import Chart
from interlace.contract.sample import FieldSpec
from interlace.model.network import Outputs
from interlace.recipe.fields import AnyField
from interlace.recipe.model import Model

State: TypeAlias = dict[str, Tensor | list[Any]]
"""Metrics of a batch: tensors on the CPU and lists of plain values; two states of a task add by `+`, key by key."""

ColumnType: TypeAlias = Literal["string", "long", "double", "doubles"]
"""Type of a predicted value: text, number, list of numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a task is made from besides its own settings.

    Args:
        name: the task's name in the recipe; its target in a batch has the same.
        model: the model's settings.
        fields, specs: settings and token shapes of the fields by name, in the recipe's order.
        fitted: what the task's target learned from the training rows; empty for a task without target.
    """

    name: str
    model: Model
    fields: Mapping[str, AnyField]
    specs: Mapping[str, FieldSpec]
    fitted: Mapping[str, Any]


class Task(nn.Module, ABC):
    """A head and everything that is said of its predictions.

    Outputs lie on the model's device; of the batch only values and times do, targets and lengths lie on the CPU.
    """

    name: str
    main_metric: str
    """The number, among those of `compute`, that the best checkpoint is chosen by."""
    higher_is_better: bool
    reads_sample: bool = True
    """Whether it reads the fused state or tokens of all fields."""
    groups: tuple[tuple[str, ...], ...] = ()
    """Groups of fields whose fused state, made from them alone, it reads as `outputs.groups[group]`."""
    masked_fields: tuple[str, ...] = ()
    """Fields of which it masks tokens; see `mask`."""
    classes: tuple[str | int, ...] = ()
    """Of which `probabilities` gives one each; none for a task that does not choose among classes."""
    thorough: bool = False
    """Whether `state` spares no cost, as for the evaluation at the end; while training it may look at some samples."""

    def mask(self, batch: Batch) -> dict[str, Tensor]:
        """Which tokens the network must not see: bool `[n]` for each field in `masked_fields`, on the device."""
        return {}

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """How many targets the batch has: what the sum of the losses of a step is divided by. Nothing is read back."""

    @abstractmethod
    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Sum of the training loss over the targets, scalar float32; samples without target contribute nothing.

        It has a gradient (zero) for every parameter of the task, also where the batch has no target at all.
        """

    @abstractmethod
    def predict(self, outputs: Outputs) -> list[dict[str, Any]]:
        """Plain columns for each sample: key `""` is the prediction itself, others are named after the task's name."""

    @property
    @abstractmethod
    def prediction_types(self) -> Mapping[str, ColumnType]:
        """The type of each column of `predict`, in its order."""

    def probabilities(self, outputs: Outputs) -> Tensor | None:
        """Float32 `[S, C]`, that of every class of `classes` by the same decision as `predict`; None without classes.

        Single label: each row sums to 1, and its greatest is the prediction. Multi label: each class by itself.
        """
        return None

    @abstractmethod
    def state(self, outputs: Outputs, batch: Batch) -> State:
        """Metrics of a batch, as values that add over batches and workers."""

    @abstractmethod
    def compute(self, state: Mapping[str, Any]) -> dict[str, float]:
        """The numbers of a summed state; every metric is nan where no target was seen."""

    def charts(self, state: Mapping[str, Any]) -> dict[str, Chart]:
        """Figures and tables of a summed state, by what they show; none where no target was seen."""
        return {}
