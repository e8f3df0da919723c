"""Settings of tasks, one class a kind: which columns are predicted, from what, by which loss.

A task's `columns` are those of its target, read together; `target_keys` names the settings that decide what is read of
them, `field_names` the fields that it names, `decides` whether it can combine a prediction of each field.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.fields import Node


class _Task(Node):
    target_keys: ClassVar[tuple[str, ...]] = ("task",)
    decides: ClassVar[bool] = False

    weight: float = Field(1.0, gt=0, description="Weight of this task's loss.")

    @property
    def field_names(self) -> tuple[str, ...]:
        """Fields of the recipe that the task names."""
        return ()


class ClassificationTask(_Task):
    """Predict one class of a label column, or any number of them."""

    target_keys: ClassVar[tuple[str, ...]] = ("task", "column", "multi_label")
    decides: ClassVar[bool] = True

    task: Literal["classification"]
    column: str = Field(description="Column of the label (string or integer), or of a list of labels.")
    multi_label: bool = Field(False, description="The column holds a list of labels, each predicted by itself.")
    class_weights: Literal["none", "balanced"] = Field("none", description="Weigh classes by inverse frequency.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the target spread over all classes.")
    mixup: float = Field(0.0, ge=0, description="Training: fused states mixed in pairs, shares from Beta(this, this).")
    field_loss: float = Field(0.5, ge=0, description="Weight of the light loss on each field's own pooled state.")
    field_vote: float = Field(0.0, ge=0, description="Weight of the present fields' own heads in the prediction.")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the target, read together."""
        return (self.column,)

    @model_validator(mode="after")
    def _heads_to_vote(self) -> "ClassificationTask":
        if self.field_vote and not self.field_loss:
            raise ValueError("`field_vote` needs heads of the fields, which `field_loss: 0` leaves out")
        return self


class RegressionTask(_Task):
    """Predict one or several numbers, each standardised by the training rows and reported in its own unit."""

    target_keys: ClassVar[tuple[str, ...]] = ("task", "columns")

    task: Literal["regression"]
    columns: tuple[str, ...] = Field(min_length=1, description="Columns of numbers; any may be missing in any row.")
    loss: Literal["huber", "mse"] = Field("huber", description="Huber's loss, or the squared error.")
    delta: float = Field(1.0, gt=0, description="`huber`: standard deviations from which on errors count linearly.")
    field_loss: float = Field(0.5, ge=0, description="Weight of the light loss on each field's own pooled state.")

    @model_validator(mode="after")
    def _delta_of_huber(self) -> "RegressionTask":
        if self.loss != "huber" and self.delta != type(self).model_fields["delta"].default:
            raise ValueError("`delta` has no effect with `loss: mse`")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"`columns` names a column twice: {', '.join(self.columns)}")
        return self


class RetrievalTask(_Task):
    """Bring two groups of fields of a sample together and those of other samples apart: each side finds the other."""

    target_keys: ClassVar[tuple[str, ...]] = ("task", "group")

    task: Literal["retrieval"]
    left: tuple[str, ...] = Field(min_length=1, description="Fields of one side.")
    right: tuple[str, ...] = Field(min_length=1, description="Fields of the other side.")
    embedding_dim: int = Field(128, ge=1, description="Width of the embeddings that are compared.")
    temperature: float = Field(
        0.07, ge=0.01, le=1, description="Where the learned temperature starts; never under 0.01."
    )
    negatives: Literal["pack", "ranks"] = Field(
        "pack", description="Which samples a pair is told from: those of its pack, or also those of all ranks' packs."
    )
    group: str | None = Field(
        None, description="Column of strings or integers; samples of equal value are never negatives of each other."
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the target, read together."""
        return () if self.group is None else (self.group,)

    @property
    def field_names(self) -> tuple[str, ...]:
        """Both sides."""
        return self.left + self.right

    @model_validator(mode="after")
    def _apart(self) -> "RetrievalTask":
        if len(set(self.field_names)) < len(self.field_names):
            raise ValueError("`left` and `right` must name each field once")
        return self


class ReconstructionTask(_Task):
    """Predict hidden tokens of fields from all that is left: needs no label."""

    task: Literal["reconstruction"]
    fields: tuple[str, ...] = Field(min_length=1, description="Fields of which tokens are hidden and predicted.")
    share: float = Field(0.3, gt=0, le=1, description="Share of their tokens hidden; 1 hides these fields as a whole.")
    normalise: bool = Field(False, description="Each patch is predicted relative to its own mean and deviation.")

    @property
    def columns(self) -> tuple[str, ...]:
        """It has no target column."""
        return ()

    @property
    def field_names(self) -> tuple[str, ...]:
        """The fields it hides tokens of."""
        return self.fields

    @model_validator(mode="after")
    def _once(self) -> "ReconstructionTask":
        if len(set(self.fields)) < len(self.fields):
            raise ValueError("`fields` must name each field once")
        return self


AnyTask = Annotated[
    ClassificationTask | RegressionTask | RetrievalTask | ReconstructionTask, Field(discriminator="task")
]
