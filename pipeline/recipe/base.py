"""What every part of a recipe is, a frozen node without unknown keys; and what all fields, and all tasks, have.

Settings of other packages (`interlace.recipe.plugins`) are made from these.
"""

from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Node(BaseModel):
    """A part of a recipe: frozen, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Start(Node):
    """Another run whose weights and fitted state are the start of a whole network."""

    run: str = Field(description="Folder of a run, of an exported model, or of a checkpoint.")
    digest: str | None = Field(
        None, description="Hash of what is started from; a run fills it in, and then `run` needs not be there any more."
    )


class FieldStart(Start):
    """A field of another run whose weights and fitted state are the start of a field."""

    field: str | None = Field(None, description="The field's name there; the same as here where not given.")


class PretrainedEncoder(Node):
    """A model of the `transformers` library in a local folder, as a field's encoder."""

    pretrained: str = Field(description="Folder of an AutoModel: `config.json`, `model.safetensors`, its tokenizer.")
    digest: str | None = Field(
        None, description="Hash of that folder; a run fills it in, and then the folder needs not be there any more."
    )
    freeze: bool = Field(True, description="Its weights stay as they are; the projection behind it learns.")
    lr_factor: float = Field(1.0, gt=0, le=1, description="Its learning rate over the field's, where it is not frozen.")

    @model_validator(mode="after")
    def _rate_of_what_learns(self) -> "PretrainedEncoder":
        if self.freeze and self.lr_factor != 1.0:
            raise ValueError("`lr_factor` has no effect with `freeze: true`")
        return self


ColumnKind: TypeAlias = Literal[
    "binary", "pictures", "sounds", "string", "integer", "number", "category", "date", "numbers", "rows", "categories",
    "labels", "anything",
]  # fmt: skip
"""What a column must hold to be read; `interlace.data.index.schema` says which Arrow types do."""

MODEL_SETTINGS = frozenset({"stem", "init", "freeze", "lr_factor"})
"""Settings of a field that only the model reads."""


class FieldSettings(Node):
    """What settings of every modality have. Each also has `modality`, `columns` and `holds`.

    `training_only` names the settings that do not decide which tokens a value gives outside training (the model's and
    augmentation): neither the index nor the cache of decoded values depends on them. `places` names those that are
    names of columns.
    """

    training_only: ClassVar[frozenset[str]] = MODEL_SETTINGS
    places: ClassVar[frozenset[str]] = frozenset({"column"})

    stem: Literal["linear", "cnn", "rnn"] = Field(
        "linear",
        description="What comes before the field's Transformer layers: a projection, convolutions over neighbouring"
        " tokens, or a bidirectional GRU over them (slow on long sequences).",
    )
    init: FieldStart | None = Field(
        None, description="Another run to start the field's embedding, stem, layers and fitted state from."
    )
    freeze: bool = Field(False, description="The field's embedding, stem and layers stay as they began.")
    lr_factor: float = Field(1.0, gt=0, le=100, description="The field's learning rate over `optim.lr`.")

    if TYPE_CHECKING:  # a field of settings may stand for each

        @property
        def modality(self) -> str:
            """Which modality reads the field."""

        @property
        def columns(self) -> tuple[str, ...]:
            """Columns of the source that this field reads, together."""

    def holds(self, column: str) -> ColumnKind:
        """What one of its columns must hold."""
        return "anything"

    @model_validator(mode="after")
    def _frozen_or_learning(self) -> "FieldSettings":
        if self.freeze and self.lr_factor != 1.0:
            raise ValueError("`lr_factor` has no effect with `freeze: true`")
        return self


class TaskSettings(Node):
    """What settings of every task have. Each also has `task`, `columns` and `holds`.

    `columns` are those of the target, read together; `target_keys` names the settings that decide what is read of them,
    `field_names` the fields that it names, `decides` whether it can combine a prediction of each field.
    """

    target_keys: ClassVar[tuple[str, ...]] = ("task",)
    decides: ClassVar[bool] = False

    weight: float = Field(1.0, gt=0, description="Weight of this task's loss.")

    if TYPE_CHECKING:  # a field of settings may stand for each

        @property
        def task(self) -> str:
            """Which task it is."""

        @property
        def columns(self) -> tuple[str, ...]:
            """Columns of the target, read together; none where it needs none."""

    @property
    def field_names(self) -> tuple[str, ...]:
        """Fields of the recipe that the task names."""
        return ()

    def holds(self, column: str) -> ColumnKind:
        """What one of its columns must hold."""
        return "anything"
