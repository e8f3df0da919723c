"""Fusion by attention from the tokens of a field to those of the others."""

# T rows of the queries, S samples, F fields, D width

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from interlace.model.attention import Segments
from interlace.model.fusion import FieldTokens, Fused, Fusion, Joint, find_present, interlace, key, mean_of_present
from interlace.model.fusions.mass import mass_across, normalise
from interlace.model.transformer import CrossLayer
from interlace.recipe.model import Model


class CrossAttention(Fusion):
    """Tokens of a field attend to those of the other fields (Tsai et al. 2019, MulT; Lu et al. 2019, ViLBERT).

    Layers within each field, then for each asking field layers of its own, whose queries are its tokens and whose keys
    are the others' tokens as their encoders left them (as in MulT; all others at once instead of one by one, and no
    further layers over the results).

    Each field asks, and the sample's state is the mean of the present fields' pooled tokens; or only `query` asks, and
    the state is pooled from its tokens. A learned token asks for it where it is missing.
    """

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        super().__init__(model, names)
        self.query = model.query
        asking = names if self.query is None else (self.query,)
        self.layers = nn.ModuleDict(
            {key(name): nn.ModuleList(CrossLayer(model) for _ in range(model.joint_layers)) for name in asking}
        )
        self.stand_in = None if self.query is None else nn.Embedding(1, model.dim)

    def forward(self, tokens: Mapping[str, FieldTokens], keep_SF: Tensor) -> Fused:
        """See `Fusion`; a field's weight is the attention in the last layer that it gets from the tokens that ask."""
        present_SF = find_present(tokens, keep_SF)
        fields = self.states(tokens)
        if self.query is not None:
            sample_SD, asked, mass_SF = self._one_asks(self.query, tokens, present_SF)
        else:
            sample_SD, asked, mass_SF = self._each_asks(tokens, present_SF)
        return Fused(
            sample_SD=sample_SD,
            fields=fields,
            tokens=tokens,
            joint=interlace({**tokens, **asked}, present_SF),
            weights_SF=normalise(mass_SF) if self.measures else None,
        )

    def _each_asks(
        self, tokens: Mapping[str, FieldTokens], present_SF: Tensor
    ) -> tuple[Tensor, dict[str, FieldTokens], Tensor]:
        asked, mass_SF = {}, torch.zeros_like(present_SF, dtype=torch.float32)
        for i, (name, item) in enumerate(tokens.items()):
            x_TD, own_SF = self._ask(name, item, tokens, present_SF)
            asked[name] = FieldTokens(x_TD=x_TD, segments=item.segments)
            mass_SF = mass_SF + own_SF * present_SF[:, i : i + 1]
        return mean_of_present(self.states(asked), present_SF), asked, mass_SF

    def _one_asks(
        self, query: str, tokens: Mapping[str, FieldTokens], present_SF: Tensor
    ) -> tuple[Tensor, dict[str, FieldTokens], Tensor]:
        has_S = present_SF[:, list(tokens).index(query)]
        own = {"field": tokens[query], "stand_in": self._stand_in(present_SF)}
        joint = interlace(own, torch.stack([has_S, present_SF.any(1) & ~has_S], dim=1))
        asking = FieldTokens(x_TD=joint.x_TD, segments=joint.segments)
        x_TD, mass_SF = self._ask(query, asking, tokens, present_SF)
        back_TD = replace(joint, x_TD=x_TD).of_fields(own)["field"]
        asked = {query: FieldTokens(x_TD=back_TD, segments=tokens[query].segments)}
        return self.pool(x_TD, joint.segments), asked, mass_SF

    def _stand_in(self, present_SF: Tensor) -> FieldTokens:
        """One learned token a sample."""
        assert self.stand_in is not None
        segments = Segments(torch.ones(len(present_SF), dtype=torch.int64, device=present_SF.device))
        return FieldTokens(x_TD=self.stand_in.weight[segments.offset_T], segments=segments)

    def _ask(
        self, name: str, asking: FieldTokens, tokens: Mapping[str, FieldTokens], present_SF: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Vectors of a field's tokens after its layers, and the attention that each field got from them, `[S, F]`."""
        others_F = torch.tensor([other != name for other in tokens], device=present_SF.device)
        source = interlace(tokens, present_SF & others_F)
        x_TD, into_last, layers = asking.x_TD, asking.x_TD, self.layers[key(name)]
        assert isinstance(layers, nn.ModuleList)
        for layer in layers:
            into_last, x_TD = x_TD, layer(x_TD, asking.segments, source.x_TD, source.segments)
        mass_SF = torch.zeros_like(present_SF, dtype=torch.float32)
        if self.measures and len(layers):
            mass_SF = self._mass(layers[-1], into_last, asking.segments, source)
        return x_TD, mass_SF

    @staticmethod
    def _mass(layer: nn.Module, x_TD: Tensor, segments: Segments, source: Joint) -> Tensor:
        assert isinstance(layer, CrossLayer)
        return segments.mean(mass_across(layer, x_TD, segments, source))
