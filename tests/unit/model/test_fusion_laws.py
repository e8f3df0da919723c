"""The laws that the kit offers to other packages hold for every fusion, and a fusion that breaks one is found."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from interlace.model.fusion import FieldTokens, Fused, Fusion
from interlace.model.fusions import FUSIONS as TABLE
from interlace.model.fusions.late import WeightedSum
from interlace.model.fusions.laws import check_fusion
from interlace.recipe.model import Model
from tests.networks import FUSIONS


def small(fusion: str, **settings: Any) -> Model:
    name, _, query = fusion.partition(" by ")
    more = {"query": "second"} if query else {}
    layers = {"field_layers": 1, "joint_layers": 1, "dropout": 0.0}
    return Model.model_validate({"fusion": name, "dim": 32, "head_dim": 16, **layers, **more, **settings})


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_keeps_the_laws_of_the_kit(fusion: str, pool: str) -> None:
    model = small(fusion, pool=pool)
    check_fusion(model)
    assert isinstance(TABLE[model.fusion](model, ("first", "second")), Fusion)
    assert {name.partition(" by ")[0] for name in FUSIONS} == set(TABLE)


class Mixing(WeightedSum):
    """Samples that hear of each other."""

    def forward(self, tokens: Mapping[str, FieldTokens], keep_SF: Tensor) -> Fused:
        fused = super().forward(tokens, keep_SF)
        return replace(fused, sample_SD=fused.sample_SD + fused.sample_SD.mean(0))


class Gapless(WeightedSum):
    """Fields that are not kept and yet count."""

    def forward(self, tokens: Mapping[str, FieldTokens], keep_SF: Tensor) -> Fused:
        return super().forward(tokens, torch.ones_like(keep_SF))


class Ordered(WeightedSum):
    """The first field counts twice."""

    def forward(self, tokens: Mapping[str, FieldTokens], keep_SF: Tensor) -> Fused:
        fused = super().forward(tokens, keep_SF)
        return replace(fused, sample_SD=fused.sample_SD + fused.fields[next(iter(tokens))] * keep_SF[:, :1])


class Idle(WeightedSum):
    """A parameter that nothing reads."""

    def __init__(self, model: Model, names: Any) -> None:
        super().__init__(model, names)
        self.spare = torch.nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Mixing, "alone to have the state that it has among others"),
        (Gapless, "not kept to be as `first` missing"),
        (Ordered, "order of the fields"),
        (Idle, "a gradient of `spare`"),
    ],
)
def test_a_fusion_that_breaks_a_law_is_found(broken: Any, law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlace.model.fusions.laws.FUSIONS", {"weighted_sum": broken})
    with pytest.raises(AssertionError, match=law):
        check_fusion(small("weighted_sum"))
