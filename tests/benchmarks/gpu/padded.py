"""The same model as a plain padded PyTorch loop: the opponent of packs without padding.

It has the parameters of an Interlace network and computes the same, with what PyTorch itself recommends: samples padded
to one length, `scaled_dot_product_attention` with a mask, bf16 autocast, each layer by `torch.compile` with dynamic
shapes, fused AdamW, copies from pinned memory. Two savings are granted to it that plain loops rarely have: a field's
layers run over the samples that have it, and for the layers over all fields a sample's tokens lie side by side, so that
it is padded to the longest sample and not to the longest of each field.

    padded      a pack's samples as they come, so many at once as fit; one update for all of them
    bucketed    samples of many packs sorted by length, batches of a pack's number of padded tokens; an update for each
"""

# S samples of a batch, F those of them that have a field, L padded length, D width, H heads, K width of a head

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

from interlace.contract.batch import TargetBatch
from interlace.contract.sample import FieldPack, Pack
from interlace.model.embedding import FieldEmbedding, IdTable, PatchProjection, TimeEmbedding, scale_pixels
from interlace.model.fusion import key
from interlace.model.network import FieldState, Network
from interlace.model.transformer import Layer

GRAIN = 64
"""Padded lengths are multiples of it: kernels with a mask want 8 or 16, and few shapes are few surprises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedField:
    """One field of the samples that have it.

    Args:
        values: `[F, L]` int64, or `[F, L, patch_dim]`.
        row_FL, column_FL: cell of each token in its value's grid, int64.
        seen_FL: whether a place is a token.
        owner_F: number of the sample.
        times_FL: seconds, where the field has times.
    """

    values: Tensor
    row_FL: Tensor
    column_FL: Tensor
    seen_FL: Tensor
    owner_F: Tensor
    times_FL: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedBatch:
    """Samples, padded.

    Args:
        fields: by name; without those that no sample has.
        order_SL: place of each token of a sample in the fields' padded tokens laid end to end.
        seen_SL: whether it is one.
        labels: class of each sample, on the CPU.
        num_tokens: real ones.
    """

    fields: Mapping[str, PaddedField]
    order_SL: Tensor
    seen_SL: Tensor
    labels: TargetBatch
    num_tokens: int

    @property
    def num_samples(self) -> int:
        """Samples."""
        return len(self.seen_SL)

    def computed(self, layers: tuple[int, int]) -> int:
        """Tokens that so many layers within fields and over all fields compute, padding included."""
        return layers[0] * sum(item.seen_FL.numel() for item in self.fields.values()) + layers[1] * self.seen_SL.numel()

    def to(self, device: torch.device) -> "PaddedBatch":
        """Copied from pinned memory, without waiting."""

        def moved(tensor: Tensor | None) -> Any:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        fields = {
            name: PaddedField(**{part: moved(getattr(item, part)) for part in PaddedField.__slots__})
            for name, item in self.fields.items()
        }
        return PaddedBatch(
            fields=fields,
            order_SL=moved(self.order_SL),
            seen_SL=moved(self.seen_SL),
            labels=self.labels,
            num_tokens=self.num_tokens,
        )


def grown(length: int) -> int:
    """A padded length."""
    return max(-(-length // GRAIN) * GRAIN, GRAIN)


def pad_pack(pack: Pack, samples: NDArray[np.int64], *, pin: bool = False) -> PaddedBatch:
    """Some samples of a pack, on the CPU."""

    def tensor(array: NDArray[Any]) -> Tensor:
        made = torch.from_numpy(np.ascontiguousarray(array))
        return made.pin_memory() if pin else made

    fields, places, before = {}, [], 0
    for name, item in pack.fields.items():
        owners = np.flatnonzero(item.lengths[samples])
        if len(owners):
            arrays, seen_FL = _pad_field(item, samples[owners])
            fields[name] = PaddedField(**{n: None if a is None else tensor(a) for n, a in arrays.items()},
                                       seen_FL=tensor(seen_FL), owner_F=tensor(owners))  # fmt: skip
            rows, columns = np.nonzero(seen_FL)
            places.append((owners[rows], before + rows * seen_FL.shape[1] + columns))
            before += seen_FL.size
    owner, place = (np.concatenate(parts) for parts in zip(*places, strict=True))
    order = np.argsort(owner, kind="stable")
    lengths = np.bincount(owner, minlength=len(samples))
    seen_SL = np.arange(grown(int(lengths.max()))) < lengths[:, None]
    order_SL = np.zeros(seen_SL.shape, np.int64)
    order_SL[np.arange(seen_SL.shape[1]) < lengths[:, None]] = place[order]
    target = pack.targets["label"]
    return PaddedBatch(
        fields=fields,
        order_SL=tensor(order_SL),
        seen_SL=tensor(seen_SL),
        labels=TargetBatch(
            values=torch.from_numpy(target.values[samples]),
            lengths=torch.from_numpy(target.lengths[samples].astype(np.int64)),
            present=torch.from_numpy(target.present[samples]),
        ),
        num_tokens=len(owner),
    )


def _pad_field(item: FieldPack, samples: NDArray[np.int64]) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """Arrays of `PaddedField`, and where they hold tokens."""
    lengths, starts = item.lengths[samples], (np.cumsum(item.lengths) - item.lengths)[samples]
    inside = np.arange(grown(int(lengths.max())))
    seen_FL = inside < lengths[:, None]
    token_FL = np.where(seen_FL, starts[:, None] + inside, 0)
    width_F1 = item.grids[samples, 1].astype(np.int64)[:, None]
    place_FL = np.where(seen_FL, inside, 0)
    values = item.values[token_FL]
    arrays = {
        "values": values.astype(np.int64) if values.ndim == 2 else values,
        "row_FL": place_FL // width_F1,
        "column_FL": place_FL % width_F1,
        "times_FL": None if item.times is None else item.times[token_FL],
    }
    return arrays, seen_FL


class PaddedLayer(nn.Module):
    """A layer over padded samples, with the parameters of one over packed tokens."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.heads = layer.heads
        self.attention_norm, self.mlp_norm = layer.attention_norm, layer.mlp_norm
        self.qkv, self.attention_out = layer.qkv, layer.attention_out
        self.mlp_in, self.mlp_out = layer.mlp_in, layer.mlp_out

    def forward(self, x_SLD: Tensor, seen_S11L: Tensor) -> Tensor:
        """`[S, L, D]` in float32; dropout is 0 in what is compared."""
        qkv = self.qkv(self.attention_norm(x_SLD)).unflatten(2, (3, *self.heads))
        q_SHLK, k_SHLK, v_SHLK = (x.transpose(1, 2) for x in qkv.unbind(2))
        o_SHLK = scaled_dot_product_attention(q_SHLK, k_SHLK, v_SHLK, attn_mask=seen_S11L)
        x_SLD = x_SLD + self.attention_out(o_SHLK.transpose(1, 2).flatten(2))
        return x_SLD + self.mlp_out(gelu(self.mlp_in(self.mlp_norm(x_SLD))))


class PaddedNetwork(nn.Module):
    """A `mid` fusion of fields without stems, with a label, over padded samples.

    Args:
        network: whose parameters it has.
        compiled: whether its layers are compiled.
    """

    def __init__(self, network: Network, *, compiled: bool) -> None:
        super().__init__()
        self.embeddings, self.clock, self.task = network.embeddings, network.clock, network.tasks["label"]
        self.encoders = nn.ModuleDict(
            {name: _padded(encoder, compiled) for name, encoder in network.fusion.encoders.items()}
        )
        self.joint = _padded(network.fusion.joint, compiled)
        self.names = network.names

    def forward(self, batch: PaddedBatch) -> Tensor:
        """Sum of the losses of the samples."""
        parts, states = [], {}
        for name, item in batch.fields.items():
            x_FLD = self._embed(name, item)
            mask = item.seen_FL[:, None, None]
            for layer in self.encoders[key(name)]:
                x_FLD = layer(x_FLD, mask)
            parts.append(x_FLD.flatten(0, 1))
            states[name] = item.owner_F, pooled(x_FLD, item.seen_FL)
        x_SLD = torch.cat(parts).index_select(0, batch.order_SL.flatten()).unflatten(0, batch.order_SL.shape)
        seen_SL = batch.seen_SL.index_fill(1, batch.order_SL.new_zeros(1), True)  # one of no token must see something
        mask = seen_SL[:, None, None]
        for layer in self.joint:
            x_SLD = layer(x_SLD, mask)
        sample_SD = pooled(x_SLD, batch.seen_SL)
        fields = {name: _state(states.get(name), sample_SD) for name in self.names}
        loss: Tensor = self.task.loss(
            SimpleNamespace(sample_SD=sample_SD, fields=fields), SimpleNamespace(targets={"label": batch.labels})
        )
        return loss

    def _embed(self, name: str, item: PaddedField) -> Tensor:
        """`[F, L, D]` in float32."""
        embedding = self.embeddings[key(name)]
        assert isinstance(embedding, FieldEmbedding)
        content = embedding.content
        if isinstance(content, IdTable):
            x_FLD = content.table(item.values) * content.scale
        else:
            assert isinstance(content, PatchProjection)
            x_FLD = content.project(scale_pixels(item.values, content.zero)).float()
        x_FLD = x_FLD + embedding.field_D
        for table, cell_FL in ((embedding.position.rows, item.row_FL), (embedding.position.columns, item.column_FL)):
            if table is not None:
                x_FLD = x_FLD + table(cell_FL)
        if item.times_FL is not None:
            assert isinstance(self.clock, TimeEmbedding)
            flat = item.times_FL.flatten()
            x_FLD = x_FLD + self.clock(flat, len(flat)).unflatten(0, item.times_FL.shape)
        return x_FLD


def _padded(encoder: Any, compiled: bool) -> nn.ModuleList:
    layers = nn.ModuleList(PaddedLayer(layer) for layer in encoder.layers)
    for layer in layers if compiled else ():
        layer.compile(dynamic=True)  # layers share what is compiled, as PyTorch's recipe for repeated layers has it
    return layers


def pooled(x_SLD: Tensor, seen_SL: Tensor) -> Tensor:
    """The mean of the normalised tokens, float32 `[S, D]`; zeros where there is none."""
    seen_SL1 = seen_SL.unsqueeze(2)
    normal_SLD = layer_norm(x_SLD, x_SLD.shape[2:]).float()
    return (normal_SLD * seen_SL1).sum(1) / seen_SL1.sum(1).clamp(min=1)


def _state(found: tuple[Tensor, Tensor] | None, like_SD: Tensor) -> FieldState:
    """A field's state for all samples; zeros where it is missing."""
    states_SD = torch.zeros_like(like_SD)
    present_S = torch.zeros(len(like_SD), dtype=torch.bool, device=like_SD.device)
    if found is None:
        return FieldState(pooled_SD=states_SD, present_S=present_S)
    owner_F, own_FD = found
    return FieldState(
        pooled_SD=states_SD.index_copy(0, owner_F, own_FD), present_S=present_S.index_fill(0, owner_F, True)
    )


def in_turn(packs: Sequence[Pack], count: int, *, pin: bool = False) -> list[list[PaddedBatch]]:
    """A step for each pack: its samples as they come, `count` at once."""
    steps = []
    for pack in packs:
        samples = np.arange(len(pack.sample_ids))
        steps.append([pad_pack(pack, samples[i : i + count], pin=pin) for i in range(0, len(samples), count)])
    return steps


def bucketed(packs: Sequence[Pack], budget: int, *, pin: bool = False) -> list[list[PaddedBatch]]:
    """A step for each batch of samples of like length: all packs sorted together, at most `budget` padded tokens."""
    whole = joined(packs)
    lengths = sum((item.lengths for item in whole.fields.values()), np.zeros(len(whole.sample_ids), np.int32))
    batches = of_like_length(lengths, budget)
    order = np.random.default_rng(0).permutation(len(batches))
    return [[pad_pack(whole, np.array(batches[i]), pin=pin)] for i in order]


def of_like_length(lengths: NDArray[np.integer], budget: int) -> list[list[int]]:
    """Samples by length in batches of at most `budget` padded tokens; one that is longer by itself."""
    batches: list[list[int]] = [[]]
    for sample in np.argsort(lengths, kind="stable").tolist():
        if batches[-1] and (len(batches[-1]) + 1) * grown(int(lengths[sample])) > budget:
            batches.append([])
        batches[-1].append(sample)
    return batches


def joined(packs: Sequence[Pack]) -> Pack:
    """The samples of all packs as one."""

    def all_of(items: Sequence[Any]) -> dict[str, Any]:
        parts = {part: [getattr(item, part) for item in items] for part in type(items[0]).__slots__}
        return {part: None if arrays[0] is None else np.concatenate(arrays) for part, arrays in parts.items()}

    first = packs[0]
    return Pack(
        position=0,
        epoch=0,
        sample_ids=np.arange(sum(len(pack.sample_ids) for pack in packs)),
        fields={name: FieldPack(**all_of([pack.fields[name] for pack in packs])) for name in first.fields},
        targets={n: type(t)(**all_of([pack.targets[n] for pack in packs])) for n, t in first.targets.items()},
    )
