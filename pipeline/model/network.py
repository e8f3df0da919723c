"""The whole model: `Network(batch) -> Outputs`, which the tasks in it read."""

# S samples, F fields, D width

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.batch import Batch
from pipeline.fields import AnyField
from pipeline.model.attention import Segments
from pipeline.model.decoder import Decoder
from pipeline.model.embedding import Clock, FieldEmbedding, IdTable
from pipeline.model.fusion import FUSIONS, FieldTokens, Fusion, Joint, interlace, key
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
    """What the network says of the samples of a pack; `sample_SD` and `joint` only where a task reads all fields.

    Args:
        sample_SD: float32 `[S, D]`, the fused state; finite even for a sample without any token.
        fields: by name, in the recipe's order.
        tokens: each field's tokens after the layers within it.
        joint: the samples' tokens after all layers; after those within the fields, where the fusion has no others.
        groups: fused state of each group of fields that a task asks for, made from those fields alone, and whether any
            of them is there.
        hidden: tokens that tasks hid from the network, bool `[n]` by field.
        weights_SF: what the fusion weighs each field with, detached, columns in the order of `fields`; None where the
            fusion has no such weights.
        tables: the vectors `[V, D]` of each field of ids, for tasks that write in the same vocabulary.
    """

    sample_SD: Tensor
    fields: Mapping[str, FieldState]
    tokens: Mapping[str, FieldTokens]
    joint: Joint
    groups: Mapping[tuple[str, ...], FieldState]
    hidden: Mapping[str, Tensor]
    weights_SF: Tensor | None = None
    tables: Mapping[str, Tensor] = field(default_factory=dict)


class Network(nn.Module):
    """Embeddings, fusion and the tasks' heads.

    Args:
        specs: the shape of each field's tokens, by name.
        fields: each field's settings, by the same names.
        model: the model's settings.
        tasks: modules that turn `Outputs` into losses and predictions, by name (`pipeline.tasks`).
        weighting: learned weights of the tasks' losses (`pipeline.tasks.weighting`), None where they are fixed.
    """

    def __init__(
        self,
        specs: Mapping[str, FieldSpec],
        fields: Mapping[str, AnyField],
        model: Model,
        tasks: Mapping[str, Any],
        weighting: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.names = tuple(specs)
        self.model = model
        hides = {name for task in tasks.values() for name in task.hides}
        self.clock = Clock(model.dim) if any(spec.clocked for spec in specs.values()) else None
        self.embeddings = nn.ModuleDict(
            {
                key(name): FieldEmbedding(spec, fields[name], model.dim, hides=name in hides)
                for name, spec in specs.items()
            }
        )
        self.fusion: Fusion = FUSIONS[model.fusion](model, self.names)
        self.heads = nn.ModuleDict({key(name): task for name, task in tasks.items()})
        self.weighting = weighting
        self._groups = tuple(dict.fromkeys(group for task in tasks.values() for group in task.groups))
        self._reads_sample = any(task.reads_sample for task in tasks.values())
        initialise(self, num_layers=model.field_layers + model.joint_layers)

    @property
    def tasks(self) -> Mapping[str, Any]:
        """The tasks (`pipeline.tasks.Task`) by their names in the recipe."""
        return {name.removeprefix(key("")): task for name, task in self.heads.items()}

    def forward(self, batch: Batch, *, hide: bool = True) -> Outputs:
        """States of the samples; in training, fields are hidden at random (`modality_dropout`).

        Args:
            batch: of one pack.
            hide: whether tasks hide tokens; what one hides is hidden from all.
        """
        hidden = self._hidden(batch) if hide else {}
        tokens = {}
        for name in self.names:
            item = batch.fields[name]
            segments = Segments(item.lengths)
            x_TD = self.embeddings[key(name)](item, segments, self.clock, hidden.get(name))
            tokens[name] = FieldTokens(x_TD=x_TD, segments=segments)
        present_SF = torch.stack([batch.fields[name].lengths > 0 for name in self.names], dim=1)
        rate = self.model.modality_dropout if self.training else 0.0
        encoded = self.fusion.encode(tokens)
        kept_SF = draw_kept(present_SF, rate) if rate else present_SF
        fused = self.fusion(encoded, kept_SF & self._reads_sample)
        fields = {
            name: FieldState(pooled_SD=fused.fields[name], present_S=present_SF[:, i])
            for i, name in enumerate(self.names)
        }
        return Outputs(
            sample_SD=fused.sample_SD,
            fields=fields,
            tokens=fused.tokens,
            joint=fused.joint or interlace(fused.tokens, kept_SF & self._reads_sample),
            groups={group: self._group(group, encoded, present_SF) for group in self._groups},
            hidden=hidden,
            weights_SF=fused.weights_SF,
            tables=self._tables(),
        )

    def _group(self, group: tuple[str, ...], tokens: Mapping[str, FieldTokens], present_SF: Tensor) -> FieldState:
        """The fused state of some fields alone; the others take part with no token."""
        inside_F = torch.tensor([name in group for name in self.names], device=present_SF.device)
        keep_SF = present_SF & inside_F
        return FieldState(pooled_SD=self.fusion(tokens, keep_SF).sample_SD, present_S=keep_SF.any(1))

    def _tables(self) -> dict[str, Tensor]:
        """The vectors of the ids of each field that has ids."""
        contents = {name: self.embeddings[key(name)].content for name in self.names}
        return {name: content.table.weight for name, content in contents.items() if isinstance(content, IdTable)}

    def _hidden(self, batch: Batch) -> dict[str, Tensor]:
        """Tokens that the tasks hide; what one task hides is hidden from all."""
        found: dict[str, Tensor] = {}
        for task in self.tasks.values():
            for name, hidden in task.hidden(batch).items():
                found[name] = found[name] | hidden if name in found else hidden
        return found


def draw_kept(present_SF: Tensor, rate: float) -> Tensor:
    """Modality dropout (Neverova et al. 2016, ModDrop): hide each present field with chance `rate`, never the last one.

    The field with the largest draw of a sample always stays, so at least one does.
    """
    draw_SF = torch.rand(present_SF.shape, device=present_SF.device).masked_fill(~present_SF, -1.0)
    stays_SF = (draw_SF >= rate) | (draw_SF == draw_SF.amax(1, keepdim=True))
    return stays_SF & present_SF


def initialise(network: nn.Module, num_layers: int) -> None:
    """Set all weights from torch's global generator.

    Matrices and tables: normal, cut at two deviations of 0.02; what writes to the residual stream is divided by the
    root of the number of matrices that do (Radford et al. 2019, GPT-2). Convolutions: by fan-in (He et al. 2015).
    Biases zero, gains one.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, Layer):
            _divide((module.attention_out, module.mlp_out), 2 * num_layers)
        elif isinstance(module, Decoder):
            _spread([own for own in module.modules() if isinstance(own, nn.Linear)])
            _divide(matrices := module.residual_matrices(), len(matrices))


def _spread(matrices: Sequence[nn.Linear]) -> None:
    """Draw matrices anew by fan-in (LeCun et al. 1998): at 0.02 narrow attention starts out even."""
    for matrix in matrices:
        std = matrix.in_features**-0.5
        nn.init.trunc_normal_(matrix.weight, std=std, a=-2 * std, b=2 * std)


def _divide(matrices: Sequence[nn.Linear], writers: int) -> None:
    """Shrink what each of so many matrices adds to one stream."""
    for matrix in matrices:
        matrix.weight.data.div_(math.sqrt(writers))
