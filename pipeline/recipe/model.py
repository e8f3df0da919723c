"""Settings of the fused Transformer."""

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from interlace.recipe.base import Node, Start
from interlace.recipe.plugins import extended


class Model(Node):
    """The fused Transformer."""

    fusion: Literal[
        "early", "mid", "bottleneck", "cross_attention", "weighted_sum", "product", "gated", "concat", "decision"
    ] = Field("mid", description="How the fields meet.")
    dim: int = Field(128, ge=8, description="Width of the residual stream.")
    head_dim: int = Field(64, ge=8, description="Width of an attention head; divides `dim`.")
    field_layers: int = Field(2, ge=0, description="Layers within each field (not used by `early`).")
    joint_layers: int = Field(2, ge=0, description="Layers in which fields meet (not used by fusions of states).")
    bottleneck_tokens: int = Field(4, ge=1, description="`bottleneck`: tokens of a sample that its fields share.")
    query: str | None = Field(None, description="`cross_attention`: the field that queries; each where not given.")
    mlp_ratio: float = Field(4.0, gt=0, description="Hidden width of a feed-forward block over `dim`.")
    pool: Literal["mean", "max"] = Field("mean", description="How the tokens of a field or sample become one state.")
    first_weights: Literal["small", "fan_in"] = Field(
        "small",
        description="First matrices: deviation 0.02, or 1 / root of inputs, which learns faster in runs of few steps.",
    )
    first_tables: Literal["small", "unit"] = Field(
        "small",
        description="First vectors of ids: deviation 0.02, or 1 as they are read (1 / root of `dim`, times that root),"
        " which learns faster where texts are written.",
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of activations dropped in training.")
    modality_dropout: float = Field(0.0, ge=0, lt=1, description="Chance that training hides a field of a sample.")
    init: Start | None = Field(
        None,
        description="Another run to start from: every field of a name that it has too, as `fields.<name>.init` would,"
        " and the layers and tables of the same names; heads of tasks begin anew.",
    )

    @property
    def id_scale(self) -> float:
        """What vectors of ids are multiplied by where they are read, never where they are an output matrix."""
        return math.sqrt(self.dim) if self.first_tables == "unit" else 1.0

    @model_validator(mode="after")
    def _heads(self) -> "Model":
        if self.dim % self.head_dim:
            raise ValueError(f"`head_dim` must divide `dim`, but {self.dim} % {self.head_dim} is not 0")
        return self

    @model_validator(mode="after")
    def _of_fusion(self) -> "Model":
        for name, fusion in (("bottleneck_tokens", "bottleneck"), ("query", "cross_attention")):
            if self.fusion != fusion and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` has no effect with `fusion: {self.fusion}`; it is for `{fusion}`")
        return self


if not TYPE_CHECKING:
    Model = extended("fusions", Model)
