"""Laws of fusions and of modality dropout."""

import pytest
import torch

from pipeline.model.attention import Segments
from pipeline.model.fusion import FieldTokens, interlace
from pipeline.model.network import draw_kept
from tests.networks import FUSIONS, SPECS, build, draw_batch, without


def hide(monkeypatch: pytest.MonkeyPatch, name: str, sample: int) -> None:
    """Let modality dropout hide one field of one sample."""

    def draw(present_SF: torch.Tensor, rate: float) -> torch.Tensor:
        kept_SF = present_SF.clone()
        kept_SF[sample, list(SPECS).index(name)] = False
        return kept_SF

    monkeypatch.setattr("pipeline.model.network.draw_kept", draw)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_hidden_field_is_missing_from_the_fused_state_only(fusion: str, monkeypatch: pytest.MonkeyPatch):
    network, batch = build(fusion, modality_dropout=0.5), draw_batch(missing=0.0)
    whole, missing = network(batch), network(without(batch, "values", 2))
    hide(monkeypatch, "values", 2)
    hidden = network.train()(batch)
    torch.testing.assert_close(hidden.sample_SD, missing.sample_SD, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(hidden.fields["values"].pooled_SD, whole.fields["values"].pooled_SD)
    assert hidden.fields["values"].present_S[2]
    assert not torch.allclose(hidden.sample_SD[2], whole.sample_SD[2], atol=1e-3)


def test_interlaced_tokens_are_ordered_by_sample_then_field():
    def tokens(numbers: list[float], lengths: list[int]) -> FieldTokens:
        segments = Segments(torch.tensor(lengths))
        x = torch.full((segments.num_rows, 1), -1.0)
        x[: len(numbers), 0] = torch.tensor(numbers)
        return FieldTokens(x_TD=x, segments=segments)

    both = {"a": tokens([10.0, 11.0, 12.0], [2, 0, 1]), "b": tokens([20.0, 21.0, 22.0], [1, 1, 1])}
    joint = interlace(both, torch.ones(3, 2, dtype=torch.bool))
    assert joint.x_TD[:6, 0].tolist() == [10, 11, 20, 21, 12, 22]
    assert joint.segments.lengths_N.tolist() == [3, 1, 2]
    torch.testing.assert_close(joint.of_fields(both)["b"][:3, 0], torch.tensor([20.0, 21.0, 22.0]))
    joint = interlace(both, torch.tensor([[True, False], [True, False], [True, True]]))
    assert joint.x_TD[:4, 0].tolist() == [10, 11, 12, 22]
    assert joint.segments.lengths_N.tolist() == [2, 0, 2]
    assert joint.segments.num_tokens == 4
    torch.testing.assert_close(joint.of_fields(both)["b"][:3, 0], torch.tensor([0.0, 0.0, 22.0]))


def test_weights_are_shared_among_present_fields():
    network, batch = build("weighted_sum"), draw_batch(missing=0.4, samples=20)
    outputs = network(batch)
    weights, present = outputs.weights_SF, torch.stack([f.present_S for f in outputs.fields.values()], dim=1)
    torch.testing.assert_close(weights.sum(1), present.any(1).float())
    assert not weights[~present].any()
    assert not weights.requires_grad
    logits = torch.stack([network.fusion.logits[f"of_{name}"] for name in outputs.fields])
    sample = int(present.sum(1).argmax())
    torch.testing.assert_close(weights[sample][present[sample]], logits[present[sample]].softmax(0).detach())
    assert int(present[sample].sum()) > 1
    assert present.logical_not().any()


def test_other_fusions_weigh_nothing():
    assert build("mid")(draw_batch()).weights_SF is None
    assert build("early")(draw_batch()).weights_SF is None


def test_modality_dropout_hides_its_share_and_never_everything():
    torch.manual_seed(0)
    present = torch.rand(20_000, 3) < 0.7
    kept = draw_kept(present, 0.4)
    assert not (kept & ~present).any()
    assert torch.equal(kept.any(1), present.any(1))
    alone = present.sum(1) == 1
    assert torch.equal(kept[alone], present[alone])
    three = kept[present.all(1)]
    expected = (0.4 - 0.4**3 / 3) * 3  # each is hidden with chance 0.4, unless all were and it drew the largest
    assert abs(float((~three).sum(1).float().mean()) - expected) < 0.02
    assert torch.equal(draw_kept(present, 0.0), present)
    assert alone.any()
