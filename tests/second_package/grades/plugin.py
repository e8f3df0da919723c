"""What Interlace must know of this package before it imports its parts."""

from typing import ClassVar, Literal

from pydantic import Field

from interlace.recipe.base import MODEL_SETTINGS, ColumnKind, FieldSettings, TaskSettings
from interlace.recipe.plugins import ModalityPlugin, TaskPlugin


class BitsField(FieldSettings):
    """A column of integers from 0 on, as binary digits; one digit is one token."""

    training_only = MODEL_SETTINGS | frozenset({"noise"})

    modality: Literal["bits"]
    column: str = Field(description="Column of integers.")
    digits: int | None = Field(
        None, ge=1, le=62, description="Most digits; as many as the training rows need where not given."
    )
    noise: float = Field(0.0, ge=0, lt=1, description="Training: chance that the last digit is drawn anew.")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the source that this field reads."""
        return (self.column,)

    def holds(self, column: str) -> ColumnKind:
        """What the column must hold."""
        return "integer"


class OrdinalTask(TaskSettings):
    """Predict a grade: integers with an order and no distances."""

    target_keys: ClassVar[tuple[str, ...]] = ("task", "column")

    task: Literal["ordinal"]
    column: str = Field(description="Column of integers, of which each different one is a grade.")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the target."""
        return (self.column,)

    def holds(self, column: str) -> ColumnKind:
        """What the column must hold."""
        return "integer"


BITS = ModalityPlugin(interface=1, settings=BitsField, make="grades.bits:Bits", learner="grades.bits:BitsLearner")
ORDINAL = TaskPlugin(
    interface=1,
    settings=OrdinalTask,
    make="grades.ordinal:Ordinal",
    target="grades.target:GradeTarget",
    target_learner="grades.target:GradeLearner",
)
