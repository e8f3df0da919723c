"""The whole model: `Network(batch) -> Outputs`, which the tasks in it read."""

# S samples, F fields, D width

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.batch import Batch
from pipeline.fields import AnyField
from pipeline.model.attention import Segments
from pipeline.model.embedding import Clock, FieldEmbedding
from pipeline.model.fusion import FUSIONS, FieldTokens, Fusion, key
from pipeline.model.transformer import Layer
from pipeline.recipe import Model
from pipeline.sample import FieldSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldState:
    """What one field says by itself.

    Args:
        pooled_SD: float32 `[S, D]`; zeros where the field is missing.
        present_S: bool `[S]`, whether the sample has any token of it.
    """

    pooled_SD: Tensor
    present_S: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What the network says of the samples of a pack.

    Args:
        sample_SD: float32 `[S, D]`, the fused state; finite even for a sample without any token.
        fields: by name, in the recipe's order.
        weights_SF: what the fusion weighs each field with, detached, columns in the order of `fields`; None where the
            fusion has no such weights.
    """

    sample_SD: Tensor
    fields: Mapping[str, FieldState]
    weights_SF: Tensor | None = None


class Network(nn.Module):
    """Embeddings, fusion and the tasks' heads.

    Args:
        specs: the shape of each field's tokens, by name.
        fields: each field's settings, by the same names.
        model: the model's settings.
        tasks: modules that turn `Outputs` into losses and predictions, by name (`pipeline.tasks`).
    """

    def __init__(
        self,
        specs: Mapping[str, FieldSpec],
        fields: Mapping[str, AnyField],
        model: Model,
        tasks: Mapping[str, nn.Module],
    ) -> None:
        super().__init__()
        self.names = tuple(specs)
        self.modality_dropout = model.modality_dropout
        self.clock = Clock(model.dim) if any(spec.clocked for spec in specs.values()) else None
        self.embeddings = nn.ModuleDict(
            {key(name): FieldEmbedding(spec, fields[name], model.dim) for name, spec in specs.items()}
        )
        self.fusion: Fusion = FUSIONS[model.fusion](model, self.names)
        self.heads = nn.ModuleDict({key(name): task for name, task in tasks.items()})
        initialise(self, model)

    @property
    def tasks(self) -> Mapping[str, Any]:
        """The tasks (`pipeline.tasks.Task`) by their names in the recipe."""
        return {name.removeprefix(key("")): task for name, task in self.heads.items()}

    def forward(self, batch: Batch) -> Outputs:
        """States of the samples; in training, fields are hidden at random (`modality_dropout`)."""
        tokens = {}
        for name in self.names:
            item = batch.fields[name]
            segments = Segments(item.lengths)
            x_TD = self.embeddings[key(name)](item, segments, self.clock)
            tokens[name] = FieldTokens(x_TD=x_TD, segments=segments)
        present_SF = torch.stack([batch.fields[name].lengths > 0 for name in self.names], dim=1)
        hidden = self.modality_dropout if self.training else 0.0
        fused = self.fusion(tokens, draw_kept(present_SF, hidden) if hidden else present_SF)
        fields = {
            name: FieldState(pooled_SD=fused.fields[name], present_S=present_SF[:, i])
            for i, name in enumerate(self.names)
        }
        return Outputs(sample_SD=fused.sample_SD, fields=fields, weights_SF=fused.weights_SF)


def draw_kept(present_SF: Tensor, rate: float) -> Tensor:
    """Modality dropout (Neverova et al. 2016, ModDrop): hide each present field with chance `rate`, never the last one.

    The field with the largest draw of a sample always stays, so at least one does.
    """
    draw_SF = torch.rand(present_SF.shape, device=present_SF.device).masked_fill(~present_SF, -1.0)
    stays_SF = (draw_SF >= rate) | (draw_SF == draw_SF.amax(1, keepdim=True))
    return stays_SF & present_SF


def initialise(network: nn.Module, model: Model) -> None:
    """Set all weights from torch's global generator.

    Matrices: normal, cut at two deviations, of 0.02 (Radford et al. 2019, GPT-2) or of 1 / root of the inputs
    (LeCun et al. 1998), as `init` says; what writes to the residual stream is divided by the root of twice the number
    of layers (GPT-2). Tables: 0.02. Convolutions: by fan-in (He et al. 2015). Biases zero, gains one.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            by_inputs = model.init == "fan_in" and isinstance(module, nn.Linear)
            std = 1 / math.sqrt(module.weight.shape[1]) if by_inputs else 0.02
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, Layer):
            for matrix in (module.attention_out, module.mlp_out):
                matrix.weight.data.div_(math.sqrt(2 * (model.field_layers + model.joint_layers)))
