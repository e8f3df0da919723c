"""What every part of a recipe is: a frozen node without unknown keys; and what parts may start from."""

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
