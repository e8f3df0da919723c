"""Fusion by attention from the tokens of a field to those of the others."""

# T rows of the queries, S samples, F fields, D width

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from interlace.contract.batch import move
from interlace.model.attention import Segments
from interlace.model.fusion import FieldTokens, Fused, Fusion, Joint, find_present, join_fields, key, mean_of_present
from interlace.model.fusions.attention_share import normalise, share_across
from interlace.model.transformer import CrossLayer
from interlace.recipe.model import Model


class CrossAttention(Fusion):
    """Tokens of a field attend to those of the other fields (Tsai et al. 2019, MulT; Lu et al. 2019, ViLBERT).

    Layers within each field, then for each querying field layers of its own: queries are its tokens, keys and values
    the others' tokens as their encoders left them (as in MulT; all others at once instead of one by one, and no
    further layers over the results).

    Each field queries, and the sample's state is the mean of the present fields' pooled tokens; or only the field
    `query` does, and the state is pooled from its tokens. A learned token stands in for it where it is missing.
    """

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        super().__init__(model, names)
        self.query = model.query
        querying = names if self.query is None else (self.query,)
        self.layers = nn.ModuleDict(
            {key(name): nn.ModuleList(CrossLayer(model) for _ in range(model.joint_layers)) for name in querying}
        )
        self.stand_in = None if self.query is None else nn.Embedding(1, model.dim)

    def forward(self, tokens: Mapping[str, FieldTokens], keep_SF: Tensor) -> Fused:
        """See `Fusion`; a field's weight is the attention in the last layer that it gets from the tokens that query."""
        present_SF = find_present(tokens, keep_SF)
        fields = self.states(tokens)
        if self.query is not None:
            sample_SD, attended, share_SF = self._one_field_queries(self.query, tokens, present_SF)
        else:
            sample_SD, attended, share_SF = self._every_field_queries(tokens, present_SF)
        return Fused(
            sample_SD=sample_SD,
            fields=fields,
            tokens=tokens,
            joint=join_fields({**tokens, **attended}, present_SF),
            weights_SF=normalise(share_SF) if self.measures else None,
        )

    def _every_field_queries(
        self, tokens: Mapping[str, FieldTokens], present_SF: Tensor
    ) -> tuple[Tensor, dict[str, FieldTokens], Tensor]:
        attended: dict[str, FieldTokens] = {}
        seen_SF = move(present_SF, next(iter(tokens.values())).segments.device)
        share_SF = torch.zeros_like(seen_SF, dtype=torch.float32)
        for i, (name, item) in enumerate(tokens.items()):
            x_TD, own_SF = self._attend(name, item, tokens, present_SF)
            attended[name] = FieldTokens(x_TD=x_TD, segments=item.segments)
            share_SF = share_SF + own_SF * seen_SF[:, i : i + 1]
        return mean_of_present(self.states(attended), present_SF), attended, share_SF

    def _one_field_queries(
        self, query: str, tokens: Mapping[str, FieldTokens], present_SF: Tensor
    ) -> tuple[Tensor, dict[str, FieldTokens], Tensor]:
        has_S = present_SF[:, list(tokens).index(query)]
        own = {"field": tokens[query], "stand_in": self._stand_in(present_SF)}
        joint = join_fields(own, torch.stack([has_S, present_SF.any(1) & ~has_S], dim=1))
        queries = FieldTokens(x_TD=joint.x_TD, segments=joint.segments)
        x_TD, share_SF = self._attend(query, queries, tokens, present_SF)
        back_TD = replace(joint, x_TD=x_TD).of_fields(own)["field"]
        attended = {query: FieldTokens(x_TD=back_TD, segments=tokens[query].segments)}
        return self.pool(x_TD, joint.segments), attended, share_SF

    def _stand_in(self, present_SF: Tensor) -> FieldTokens:
        """One learned token a sample."""
        assert self.stand_in is not None
        segments = Segments(torch.ones(len(present_SF), dtype=torch.int64), self.stand_in.weight.device)
        return FieldTokens(x_TD=self.stand_in.weight[segments.offset_T], segments=segments)

    def _attend(
        self, name: str, queries: FieldTokens, tokens: Mapping[str, FieldTokens], present_SF: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Vectors of a field's tokens after its layers, and the attention that each field got from them, `[S, F]`."""
        others_F = torch.tensor([other != name for other in tokens])
        source = join_fields(tokens, present_SF & others_F)
        x_TD, into_last, layers = queries.x_TD, queries.x_TD, self.layers[key(name)]
        assert isinstance(layers, nn.ModuleList)
        for layer in layers:
            into_last, x_TD = x_TD, layer(x_TD, queries.segments, source.x_TD, source.segments)
        share_SF = torch.zeros(present_SF.shape, device=x_TD.device)
        if self.measures and len(layers):
            share_SF = self._share(layers[-1], into_last, queries.segments, source)
        return x_TD, share_SF

    @staticmethod
    def _share(layer: nn.Module, x_TD: Tensor, segments: Segments, source: Joint) -> Tensor:
        assert isinstance(layer, CrossLayer)
        return segments.mean(share_across(layer, x_TD, segments, source))
