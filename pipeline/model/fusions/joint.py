"""Fusions whose layers attend over tokens of several fields at once."""

# T rows of a sequence, S samples, F fields, B bottleneck tokens of a sample, D width

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from interlace.contract.batch import move
from interlace.model.attention import Segments
from interlace.model.fusion import (
    FieldTokens,
    Fused,
    Fusion,
    Joint,
    Pool,
    find_present,
    join_fields,
    key,
    mean_of_present,
)
from interlace.model.fusions.attention_share import normalise, share_within
from interlace.model.transformer import Encoder, Layer
from interlace.recipe.model import Model


class Mid(Fusion):
    """Layers within each field, then layers within the sample (Nagrani et al. 2021, without their bottlenecks)."""

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        super().__init__(model, names)
        self.joint = Encoder(model, model.joint_layers)

    def forward(self, tokens: Mapping[str, FieldTokens], keep_SF: Tensor) -> Fused:
        """See `Fusion`."""
        sample_SD, joint, weights_SF = join(self.joint, self.pool, join_fields(tokens, keep_SF), measure=self.measures)
        return Fused(sample_SD=sample_SD, fields=self.states(tokens), tokens=tokens, joint=joint, weights_SF=weights_SF)


class Early(Mid):
    """Every layer attends within the sample (Kim et al. 2021, ViLT). A field's state is pooled from its embedding."""

    encodes = False


def join(layers: Encoder, pool: Pool, joint: Joint, *, measure: bool) -> tuple[Tensor, Joint, Tensor | None]:
    """Layers over all kept tokens of a sample: its state, its tokens, and the attention that each field gets.

    The last is that of the last layer, mean over its heads and the sample's tokens.
    """
    x_TD, into_last = joint.x_TD, joint.x_TD
    for layer in layers.layers:
        into_last, x_TD = x_TD, layer(x_TD, joint.segments)
    weights_SF = None
    if measure and len(layers.layers):
        last = layers.layers[-1]
        assert isinstance(last, Layer)
        weights_SF = joint.segments.mean(share_within(last, into_last, joint))
    return pool(x_TD, joint.segments), replace(joint, x_TD=x_TD), weights_SF


class Bottleneck(Fusion):
    """Fields meet only through a few tokens that they share in each sample (Nagrani et al. 2021, MBT).

    Layers within each field, then layers in which each field's tokens and the sample's bottleneck tokens attend
    together, each field by weights of its own; after each layer the bottleneck tokens are the mean of what the present
    fields made of them. The sample's state is the mean over its fields of their tokens and bottleneck tokens, pooled
    together (there: of one prediction a field, made from a CLS token).
    """

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        super().__init__(model, names)
        self.shared = nn.Embedding(model.bottleneck_tokens, model.dim)
        self.layers = nn.ModuleList(
            nn.ModuleDict({key(name): Layer(model) for name in names}) for _ in range(model.joint_layers)
        )

    def forward(self, tokens: Mapping[str, FieldTokens], keep_SF: Tensor) -> Fused:
        """See `Fusion`; a field's weight is the attention of the bottleneck tokens to it in the last layer."""
        present_SF = find_present(tokens, keep_SF)
        shared = self._shared(keep_SF)
        pairs = {name: self._pair(item, shared) for name, item in tokens.items()}
        joints = {name: join_fields(pair, present_SF[:, [i, i]]) for i, (name, pair) in enumerate(pairs.items())}
        weights_SF = None
        for number, layers in enumerate(self.layers, start=1):
            assert isinstance(layers, nn.ModuleDict)
            joints = {name: replace(joint, x_TD=joint.gather(pairs[name])) for name, joint in joints.items()}
            if self.measures and number == len(self.layers):
                weights_SF = normalise(self._share(layers, joints, pairs))
            for name, joint in joints.items():
                joints[name] = replace(joint, x_TD=layers[key(name)](joint.x_TD, joint.segments))
            pairs = self._exchange(joints, pairs, present_SF)
        pooled = {name: self.pool(joint.x_TD, joint.segments) for name, joint in joints.items()}
        after = {name: pair["field"] for name, pair in pairs.items()}
        return Fused(
            sample_SD=mean_of_present(pooled, present_SF),
            fields=self.states(tokens),
            tokens=tokens,
            joint=join_fields(after, present_SF),
            weights_SF=weights_SF,
        )

    def _shared(self, keep_SF: Tensor) -> FieldTokens:
        """The bottleneck tokens of every sample before the first layer."""
        samples, each = len(keep_SF), self.shared.num_embeddings
        segments = Segments(torch.full((samples,), each), self.shared.weight.device)
        return FieldTokens(x_TD=self.shared.weight[segments.offset_T], segments=segments)

    @staticmethod
    def _pair(field: FieldTokens, shared: FieldTokens) -> dict[str, FieldTokens]:
        return {"field": field, "shared": shared}

    def _exchange(
        self, joints: Mapping[str, Joint], pairs: Mapping[str, dict[str, FieldTokens]], present_SF: Tensor
    ) -> dict[str, dict[str, FieldTokens]]:
        """Each field's tokens after a layer, beside the mean of the bottleneck tokens that the present ones left."""
        after = {name: joint.of_fields(pairs[name]) for name, joint in joints.items()}
        segments = next(iter(pairs.values()))["shared"].segments
        count_T = move(pad(present_SF.sum(1).clamp(min=1), (0, 1), value=1), segments.device)[segments.owner_T]
        x_TD = torch.stack([parts["shared"] for parts in after.values()]).sum(0) / count_T.unsqueeze(1)
        shared = FieldTokens(x_TD=x_TD, segments=segments)
        return {
            name: self._pair(FieldTokens(x_TD=parts["field"], segments=pairs[name]["field"].segments), shared)
            for name, parts in after.items()
        }

    @staticmethod
    def _share(
        layers: nn.ModuleDict, joints: Mapping[str, Joint], pairs: Mapping[str, dict[str, FieldTokens]]
    ) -> Tensor:
        """Share of the bottleneck tokens' attention that goes to each field's own tokens, `[S, F]`."""
        columns = []
        for name, joint in joints.items():
            layer, pair = layers[key(name)], pairs[name]
            assert isinstance(layer, Layer)
            share_T2 = replace(joint, x_TD=share_within(layer, joint.x_TD, joint)).of_fields(pair)["shared"]
            columns.append(pair["shared"].segments.mean(share_T2)[:, 0])
        return torch.stack(columns, dim=1)
