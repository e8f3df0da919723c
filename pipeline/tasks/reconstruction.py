"""Reconstruction: tokens of some fields are masked and predicted from all that is left, without labels.

Ids by cross entropy (Devlin et al. 2019, BERT, without its random replacements), patches by squared error on their
numbers, pixels in -1..1 (He et al. 2022, MAE; here the encoder sees the masked places, so there is no decoder but a
head). A token is predicted from its own vector after all layers, plus the sample's state: so fusions whose tokens never
meet see the other fields too.
"""

# S samples, T rows of a field's sequence (N tokens, then slack), P numbers of a patch or ids, D width

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from interlace.contract.batch import Batch, FieldBatch, move
from interlace.contract.sample import FieldSpec
from interlace.model.embedding import scale_pixels
from interlace.model.fusion import Joint, key
from interlace.model.network import Outputs
from interlace.recipe import tasks as recipe
from interlace.tasks.base import ColumnType, Context, State, Task
from interlace.tasks.classification import apply_head


class ReconstructionTask(Task):
    """Predict the masked tokens of fields.

    A sample's loss is the mean over its fields of the mean over masked tokens: long fields weigh no more than short
    ones. Fields that modality dropout hides from the sample are not predicted.

    Args:
        settings: the task's part of the recipe.
        context: the shapes of the fields' tokens are read.
    """

    main_metric = "loss"
    higher_is_better = False

    def __init__(self, settings: recipe.ReconstructionTask, context: Context) -> None:
        super().__init__()
        self.name = context.name
        self.settings = settings
        self.masked_fields = settings.fields
        self.specs = {name: context.specs[name] for name in settings.fields}
        dim = context.model.dim
        self.decoders = nn.ModuleDict({key(name): decoder(dim, spec) for name, spec in self.specs.items()})

    def mask(self, batch: Batch) -> dict[str, Tensor]:
        """`share` of each sample's tokens of each field: drawn by torch in training, from sample ids in evaluation."""
        found = {}
        for i, name in enumerate(self.masked_fields):
            lengths_S, ids_S = batch.fields[name].lengths, batch.sample_ids
            offset_N = offsets(lengths_S)
            if self.training:
                draw_N, draw_S = torch.rand(len(offset_N)), torch.rand(len(lengths_S))
            else:
                draw_N = fixed_draw(ids_S.repeat_interleave(lengths_S), offset_N, salt=i)
                draw_S = fixed_draw(ids_S, torch.full_like(ids_S, -1), salt=i)
            mask_N = choose(draw_N, lengths_S, (lengths_S * self.settings.share + draw_S).floor().long())
            found[name] = move(mask_N, batch.fields[name].values.device)
        return found

    def count(self, batch: Batch) -> int:
        """Samples that have a token of any of the fields."""
        return int(torch.stack([batch.fields[n].lengths > 0 for n in self.masked_fields]).any(0).sum())

    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Sum over samples of the mean over fields of the mean loss of their masked tokens."""
        loss_S, _ = sample_losses(self._tokens(outputs, batch), batch)
        return loss_S.sum()

    @property
    def prediction_types(self) -> Mapping[str, ColumnType]:
        """The sample's state."""
        return {"": "doubles"}

    def predict(self, outputs: Outputs) -> list[dict[str, Any]]:
        """The sample's fused state as a list of numbers: what the encoders learned without labels."""
        return [{"": row} for row in outputs.sample_SD.tolist()]

    def state(self, outputs: Outputs, batch: Batch) -> State:
        """`loss` and `count` over samples; of each field `<field>_loss`, `_right` and `_tokens` over masked tokens."""
        tokens = self._tokens(outputs, batch)
        loss_S, there_S = sample_losses(tokens, batch)
        state: State = {"loss": loss_S.double().sum().cpu(), "count": there_S.sum().cpu()}
        for name, (loss_N, asked_N, right_N) in tokens.items():
            state[f"{name}_loss"] = (loss_N.double() * asked_N).sum().cpu()
            state[f"{name}_right"] = (right_N & asked_N).sum().cpu()
            state[f"{name}_tokens"] = asked_N.sum().cpu()
        return state

    def compute(self, state: Mapping[str, Any]) -> dict[str, float]:
        """`loss`; over masked tokens `mse_<field>` of patches, `perplexity_<field>` and `accuracy_<field>` of ids."""
        found = {"loss": ratio(state["loss"], state["count"])}
        for name, spec in self.specs.items():
            tokens = state[f"{name}_tokens"]
            mean = ratio(state[f"{name}_loss"], tokens)
            if spec.kind == "ids":
                found[f"perplexity_{name}"] = math.exp(min(mean, 700.0)) if mean == mean else mean
                found[f"accuracy_{name}"] = ratio(state[f"{name}_right"], tokens)
            else:
                found[f"mse_{name}"] = mean
        return found

    def _tokens(self, outputs: Outputs, batch: Batch) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """Of each field's tokens `[N]`: loss, whether it counts (masked, and its field kept), whether it is right."""
        joint_TD = outputs.joint.of_fields(outputs.tokens)
        kept_T = kept_tokens(outputs.joint, {n: t.segments.num_rows for n, t in outputs.tokens.items()})
        found = {}
        for name, spec in self.specs.items():
            item = batch.fields[name]
            count = len(item.values)
            owner_N = move(owners(item.lengths), item.values.device)
            x_ND = functional.layer_norm(joint_TD[name][:count], joint_TD[name].shape[1:])
            said_NP = apply_head(self.decoders[key(name)], x_ND + outputs.sample_SD[owner_N])
            asked_N = outputs.masks[name] & kept_T[name][:count]
            found[name] = (*self._judge(said_NP, item, spec), asked_N)
        return {name: (loss_N, asked_N, right_N) for name, (loss_N, right_N, asked_N) in found.items()}

    def _judge(self, said_NP: Tensor, item: FieldBatch, spec: FieldSpec) -> tuple[Tensor, Tensor]:
        """The loss of each token, float32 `[N]`, and whether the likeliest id is its id (False for patches)."""
        if spec.kind == "ids":
            loss_N = functional.cross_entropy(said_NP, item.values, reduction="none")
            return loss_N, said_NP.argmax(1) == item.values
        wanted_NP = scale_pixels(item.values)
        if self.settings.normalise:
            mean_N1, variance_N1 = wanted_NP.mean(1, keepdim=True), wanted_NP.var(1, keepdim=True, correction=0)
            wanted_NP = (wanted_NP - mean_N1) / (variance_N1 + 1e-6).sqrt()
        loss_N = (said_NP - wanted_NP).square().mean(1)
        return loss_N, torch.zeros_like(loss_N, dtype=torch.bool)


def decoder(dim: int, spec: FieldSpec) -> nn.Module:
    """From a token's vector to scores of its ids, or the numbers of its patch."""
    out = spec.vocab_size if spec.kind == "ids" else spec.patch_dim
    return nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim), nn.Linear(dim, out))


def owners(lengths_S: Tensor) -> Tensor:
    """The sample of each token, int64 `[N]`."""
    return torch.arange(len(lengths_S)).repeat_interleave(lengths_S)


def offsets(lengths_S: Tensor) -> Tensor:
    """The place of each token in its sample, int64 `[N]`."""
    starts_S = lengths_S.cumsum(0) - lengths_S
    return torch.arange(int(lengths_S.sum())) - starts_S.repeat_interleave(lengths_S)


def choose(draw_N: Tensor, lengths_S: Tensor, wanted_S: Tensor) -> Tensor:
    """The `wanted_S` tokens of each sample that have the least draws, bool `[N]`."""
    owner_N = owners(lengths_S)
    order_N = draw_N.argsort(stable=True)
    order_N = order_N[owner_N[order_N].argsort(stable=True)]  # by sample, then by draw
    mask_N = torch.zeros_like(owner_N, dtype=torch.bool)
    mask_N[order_N] = offsets(lengths_S) < wanted_S.repeat_interleave(lengths_S)
    return mask_N


def fixed_draw(ids_N: Tensor, offset_N: Tensor, salt: int) -> Tensor:
    """Numbers in [0, 1) that depend on sample, place and salt only: float64, by splitmix64 (Steele et al. 2014).

    So the same tokens are masked whatever else is in their pack, and evaluations repeat.
    """
    x_N = ids_N * 0x5851F42D4C957F2D + offset_N * 0x14057B7EF767814F + salt + 1
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x_N = (x_N ^ ((x_N >> shift) & ((1 << (64 - shift)) - 1))) * factor
    x_N = x_N ^ ((x_N >> 31) & ((1 << 33) - 1))
    return ((x_N >> 11) & ((1 << 53) - 1)).double() / (1 << 53)


def kept_tokens(joint: Joint, rows: Mapping[str, int]) -> dict[str, Tensor]:
    """Which tokens of each field are among the joint ones, bool `[T]`; `rows` are the lengths of the sequences."""
    kept = torch.zeros(sum(rows.values()), dtype=torch.bool, device=joint.order_T.device)
    kept[joint.order_T[: joint.segments.num_tokens]] = True
    return dict(zip(rows, torch.split(kept, list(rows.values())), strict=True))


def mean_of(value_N: Tensor, asked_N: Tensor, lengths_S: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over asked tokens of each sample `[S]`, 0 where there is none, and whether there is one."""
    owner_N = move(owners(lengths_S), value_N.device)
    nothing_S = value_N.new_zeros(len(lengths_S))
    count_S = nothing_S.index_add(0, owner_N, asked_N.float())
    return nothing_S.index_add(0, owner_N, value_N * asked_N) / count_S.clamp(min=1), count_S > 0


def sample_losses(tokens: Mapping[str, tuple[Tensor, Tensor, Tensor]], batch: Batch) -> tuple[Tensor, Tensor]:
    """The loss of each sample `[S]`, 0 where nothing of it was masked, and whether something was."""
    means = [mean_of(loss_N, asked_N, batch.fields[n].lengths) for n, (loss_N, asked_N, _) in tokens.items()]
    fields_S = torch.stack([there_S for _, there_S in means]).sum(0)
    return torch.stack([mean_S for mean_S, _ in means]).sum(0) / fields_S.clamp(min=1), fields_S > 0


def ratio(total: Tensor, count: Tensor) -> float:
    """Their quotient, nan over zero."""
    return float(total) / int(count) if int(count) else math.nan
