"""The whole model: `Network(batch) -> Outputs`, which the tasks in it read."""

# S samples, F fields, D width

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from interlace.contract.batch import Batch, move
from interlace.contract.sample import FieldSpec
from interlace.model.attention import Segments
from interlace.model.decoder import Decoder
from interlace.model.embedding import FieldEmbedding, IdTable, IdVectors, TimeEmbedding, stands_apart
from interlace.model.fusion import FieldTokens, Fusion, Joint, join_fields, key
from interlace.model.fusions import FUSIONS
from interlace.model.pretrained import Pretrained
from interlace.model.transformer import CrossLayer, Layer
from interlace.recipe.fields import AnyField
from interlace.recipe.model import Model

FIELD_PARTS = ("embeddings", "fusion.encoders")
"""Where in the network the modules are that a field has to itself, each under the field's `key`.

They are what the field's own state depends on. What a fusion learns where fields meet is no field's own, also where it
is named after one (layers of `bottleneck` and `cross_attention`; weights, gates and projections in `fusions.late`).
"""


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
        masks: tokens that tasks mask, bool `[n]` by field.
        weights_SF: what the fusion weighs each field with, detached, columns in the order of `fields`; None where the
            fusion has no such weights. Those that are attention are there only while `Network.measuring`.
        votes_SF: weights, with their gradient, by which tasks combine predictions that they make from each field alone;
            None where they predict from `sample_SD`.
        tables: the vectors `[V, D]` of each field of ids, for tasks that write in the same vocabulary.
    """

    sample_SD: Tensor
    fields: Mapping[str, FieldState]
    tokens: Mapping[str, FieldTokens]
    joint: Joint
    groups: Mapping[tuple[str, ...], FieldState]
    masks: Mapping[str, Tensor]
    weights_SF: Tensor | None = None
    votes_SF: Tensor | None = None
    tables: Mapping[str, Tensor] = field(default_factory=dict)


class Network(nn.Module):
    """Embeddings, fusion and the tasks' heads.

    Args:
        specs: the shape of each field's tokens, by name.
        fields: each field's settings, by the same names.
        model: the model's settings.
        tasks: modules that turn `Outputs` into losses and predictions, by name (`interlace.tasks`).
        weighting: learned weights of the tasks' losses (`interlace.tasks.weighting`), None where they are fixed.
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
        masked = {name for task in tasks.values() for name in task.masked_fields}
        shared = [spec.clocked and not stands_apart(fields[name]) for name, spec in specs.items()]
        self.clock = TimeEmbedding(model.dim) if any(shared) else None
        self.embeddings = nn.ModuleDict(
            {
                key(name): FieldEmbedding(
                    spec, fields[name], model.dim, maskable=name in masked, id_scale=model.id_scale
                )
                for name, spec in specs.items()
            }
        )
        self.fusion: Fusion = FUSIONS[model.fusion](model, self.names)
        self.heads = nn.ModuleDict({key(name): task for name, task in tasks.items()})
        self.weighting = weighting
        self._groups = tuple(dict.fromkeys(group for task in tasks.values() for group in task.groups))
        self._reads_sample = any(task.reads_sample for task in tasks.values())
        initialise(self, model)
        frozen = [m for name in specs if fields[name].freeze for m in self.encoder_of(name)]
        for module in frozen:
            module.requires_grad_(False)
        pretrained = [m.model for m in self.modules() if isinstance(m, Pretrained) and m.frozen]
        self._frozen: tuple[nn.Module, ...] = (*frozen, *pretrained)

    @property
    def tasks(self) -> Mapping[str, Any]:
        """The tasks (`interlace.tasks.Task`) by their names in the recipe."""
        return {name.removeprefix(key("")): task for name, task in self.heads.items()}

    def encoder_of(self, name: str) -> tuple[nn.Module, ...]:
        """What a field has to itself: its embedding with stem, and its layers where the fusion has such."""
        modules = dict(self.named_modules())
        return tuple(modules[path] for part in FIELD_PARTS if (path := f"{part}.{key(name)}") in modules)

    def train(self, mode: bool = True) -> "Network":
        """As of every module, but what is frozen stays as in evaluation: no dropout."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, batch: Batch, *, mask_tokens: bool = True) -> Outputs:
        """States of the samples; in training, fields are hidden at random (`modality_dropout`).

        Args:
            batch: of one pack.
            mask_tokens: whether tasks mask tokens; what one masks is masked for all.
        """
        masks = self._masks(batch) if mask_tokens else {}
        tokens = {}
        for name in self.names:
            item = batch.fields[name]
            segments = Segments(item.lengths, item.values.device)
            x_TD = self.embeddings[key(name)](item, segments, self.clock, masks.get(name))
            tokens[name] = FieldTokens(x_TD=x_TD, segments=segments)
        present_SF = torch.stack([batch.fields[name].lengths > 0 for name in self.names], dim=1)
        rate = self.model.modality_dropout if self.training else 0.0
        encoded = self.fusion.encode(tokens)
        kept_SF = draw_kept(present_SF, rate) if rate else present_SF
        fused = self.fusion(encoded, kept_SF & self._reads_sample)
        fields = {
            name: FieldState(pooled_SD=fused.fields[name], present_S=seen_S)
            for name, seen_S in zip(self.names, move(present_SF, fused.sample_SD.device).unbind(1), strict=True)
        }
        return Outputs(
            sample_SD=fused.sample_SD,
            fields=fields,
            tokens=fused.tokens,
            joint=fused.joint or join_fields(fused.tokens, kept_SF & self._reads_sample),
            groups={group: self._group(group, encoded, present_SF) for group in self._groups},
            masks=masks,
            weights_SF=fused.weights_SF,
            votes_SF=fused.votes_SF,
            tables=self._tables(),
        )

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Meanwhile the share of attention that each field gets is found too, by a second pass through one layer."""
        self.fusion.measures = True
        try:
            yield
        finally:
            self.fusion.measures = False

    def _group(self, group: tuple[str, ...], tokens: Mapping[str, FieldTokens], present_SF: Tensor) -> FieldState:
        """The fused state of some fields alone; the others take part with no token."""
        inside_F = torch.tensor([name in group for name in self.names])
        keep_SF = present_SF & inside_F
        pooled_SD = self.fusion(tokens, keep_SF).sample_SD
        return FieldState(pooled_SD=pooled_SD, present_S=move(keep_SF.any(1), pooled_SD.device))

    def _tables(self) -> dict[str, Tensor]:
        """The vectors of the ids of each field that has ids."""
        contents = {name: self.embeddings[key(name)].content for name in self.names}
        return {name: content.table.weight for name, content in contents.items() if isinstance(content, IdTable)}

    def _masks(self, batch: Batch) -> dict[str, Tensor]:
        """Tokens that the tasks mask; what one task masks is masked for all."""
        found: dict[str, Tensor] = {}
        for task in self.tasks.values():
            for name, mask in task.mask(batch).items():
                found[name] = found[name] | mask if name in found else mask
        return found


def draw_kept(present_SF: Tensor, rate: float) -> Tensor:
    """Modality dropout (Neverova et al. 2016, ModDrop): hide each present field with chance `rate`, never the last one.

    The field with the largest draw of a sample always stays, so at least one does. Drawn on the CPU: how many tokens
    there are depends on it.
    """
    draw_SF = torch.rand(present_SF.shape).masked_fill(~present_SF, -1.0)
    stays_SF = (draw_SF >= rate) | (draw_SF == draw_SF.amax(1, keepdim=True))
    return stays_SF & present_SF


def initialise(network: nn.Module, model: Model) -> None:
    """Set all weights; each module's are drawn from torch's seed and its name, whatever other modules there are.

    So the order of fields, and fields that come or go, change no other weights. Matrices: normal, cut at two
    deviations, of 0.02 (Radford et al. 2019, GPT-2) or of 1 / root of the inputs (LeCun et al. 1998), as
    `first_weights` says; what writes to the residual stream is divided by the root of the number of matrices that do
    (GPT-2). Tables: 0.02; those of ids also 1 / root of the width (Vaswani et al. 2017), as `first_tables` says.
    Convolutions: by fan-in (He et al. 2015). Recurrent cells: uniform up to one over the root of their width, as torch
    has it. Biases zero, gains one. Pretrained models keep what they have.
    """
    pretrained = {id(m) for p in network.modules() if isinstance(p, Pretrained) for m in p.model.modules()}
    for name, module in network.named_modules():
        if id(module) in pretrained:
            continue
        if isinstance(module, nn.Linear | nn.Embedding):
            by_width = (model.first_weights == "fan_in" and isinstance(module, nn.Linear)) or (
                model.first_tables == "unit" and isinstance(module, IdVectors)
            )
            std = 1 / math.sqrt(module.weight.shape[1]) if by_width else 0.02
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std, generator=_generator(name))
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=_generator(name))
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.GRU):
            _uniform(module, _generator(name))
    for module in network.modules():
        if isinstance(module, Layer | CrossLayer):
            _divide((module.attention_out, module.mlp_out), 2 * (model.field_layers + model.joint_layers))
        elif isinstance(module, Decoder):
            _divide(matrices := module.residual_matrices(), len(matrices))


def _uniform(cells: nn.GRU, generator: torch.Generator) -> None:
    limit = 1 / math.sqrt(cells.hidden_size)
    for name, parameter in cells.named_parameters():
        if name.startswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.uniform_(parameter, -limit, limit, generator=generator)


def _generator(name: str) -> torch.Generator:
    seed = hashlib.sha256(f"{torch.initial_seed()}/{name}".encode()).digest()[:8]
    return torch.Generator().manual_seed(int.from_bytes(seed, "little"))


def _divide(matrices: Sequence[nn.Linear], writers: int) -> None:
    """Shrink what each of so many matrices adds to one stream."""
    for matrix in matrices:
        matrix.weight.data.div_(math.sqrt(writers))
