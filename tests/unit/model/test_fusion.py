"""Laws of fusions and of modality dropout."""

import pytest
import torch

from interlace.model.attention import Segments
from interlace.model.fusion import FieldTokens, join_fields
from interlace.model.network import Network, draw_kept
from interlace.model.transformer import Block
from interlace.tasks import ClassificationTask
from tests.networks import FUSIONS, SPECS, build, draw_batch, without


def hide(monkeypatch: pytest.MonkeyPatch, name: str, sample: int) -> None:
    """Let modality dropout hide one field of one sample."""

    def draw(present_SF: torch.Tensor, rate: float) -> torch.Tensor:
        kept_SF = present_SF.clone()
        kept_SF[sample, list(SPECS).index(name)] = False
        return kept_SF

    monkeypatch.setattr("interlace.model.network.draw_kept", draw)


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
    joint = join_fields(both, torch.ones(3, 2, dtype=torch.bool))
    assert joint.x_TD[:6, 0].tolist() == [10, 11, 20, 21, 12, 22]
    assert joint.segments.lengths_N.tolist() == [3, 1, 2]
    torch.testing.assert_close(joint.of_fields(both)["b"][:3, 0], torch.tensor([20.0, 21.0, 22.0]))
    joint = join_fields(both, torch.tensor([[True, False], [True, False], [True, True]]))
    assert joint.x_TD[:4, 0].tolist() == [10, 11, 12, 22]
    assert joint.segments.lengths_N.tolist() == [2, 0, 2]
    assert joint.segments.num_tokens == 4
    torch.testing.assert_close(joint.of_fields(both)["b"][:3, 0], torch.tensor([0.0, 0.0, 22.0]))


WEIGHING = ("weighted_sum", "gated", "decision")
MEASURED = ("early", "mid", "bottleneck", "cross_attention", "cross_attention by values")


def weighed(fusion: str) -> tuple[Network, torch.Tensor, torch.Tensor]:
    """A network, what it weighs fields with, and which are present."""
    network, batch = build(fusion), draw_batch(missing=0.5, samples=20)
    with network.measuring():
        outputs = network(batch)
    assert outputs.weights_SF is not None
    assert not outputs.weights_SF.requires_grad
    return network, outputs.weights_SF, torch.stack([f.present_S for f in outputs.fields.values()], dim=1)


@pytest.mark.parametrize("fusion", WEIGHING + MEASURED)
def test_weights_are_shared_among_present_fields(fusion: str):
    _, weights, present = weighed(fusion)
    alone = present.sum(1) == 1
    asked = present.sum(1) > 1  # a field alone has nothing to ask for
    torch.testing.assert_close(weights[asked].sum(1), torch.ones(int(asked.sum())))
    if not fusion.startswith("cross_attention"):
        torch.testing.assert_close(weights[alone], present[alone].float())
    assert not weights[~present].any()
    assert weights[asked].std() > 1e-3
    assert (weights >= 0).all()
    assert alone.any()
    assert present.logical_not().any()


@pytest.mark.parametrize("fusion", ["weighted_sum", "decision"])
def test_learned_weights_are_a_softmax_over_present_fields(fusion: str):
    network, weights, present = weighed(fusion)
    logits = torch.stack([network.fusion.logits[f"of_{name}"] for name in SPECS])
    for row, here in zip(weights, present, strict=True):
        torch.testing.assert_close(row[here], logits[here].softmax(0).detach())
    assert not weights[~present.any(1)].any()


def test_a_field_that_asks_gives_itself_no_weight():
    _, weights, present = weighed("cross_attention by values")
    here = list(SPECS).index("values")
    assert not weights[:, here].any()
    assert present[:, here].any()
    assert present[:, here].logical_not().any()


@pytest.mark.parametrize("fusion", MEASURED)
def test_attention_is_measured_on_demand_and_changes_nothing(fusion: str):
    network, batch = build(fusion), draw_batch()
    plain = network(batch)
    with network.measuring():
        measured = network(batch)
    assert plain.weights_SF is None
    assert measured.weights_SF is not None
    assert network(batch).weights_SF is None
    assert torch.equal(plain.sample_SD, measured.sample_SD)


@pytest.mark.parametrize("fusion", ["product", "concat"])
def test_fusions_without_weights_give_none(fusion: str):
    network = build(fusion)
    with network.measuring():
        assert network(draw_batch()).weights_SF is None


def test_a_product_of_one_field_is_its_projection():
    network, batch = build("product"), draw_batch(missing=0.0).only(frozenset({"values"}))
    outputs = network(batch)
    want = network.fusion.project["of_values"](outputs.fields["values"].pooled_SD).tanh()
    torch.testing.assert_close(outputs.sample_SD, want, atol=1e-6, rtol=1e-5)
    assert want.abs().max() > 0.1


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


@pytest.mark.parametrize("fusion", FUSIONS)
def test_recomputed_activations_change_no_fusion(fusion: str) -> None:
    network = build(fusion, dropout=0.3, modality_dropout=0.3, field_layers=2, joint_layers=2).train()
    blocks = [m for m in network.modules() if isinstance(m, Block)]
    found = []
    for recompute in (False, True):
        for block in blocks:
            block.recompute = recompute
        network.zero_grad()
        torch.manual_seed(1)
        batch = draw_batch()
        task = network.tasks["label"]
        assert isinstance(task, ClassificationTask)
        total = task.loss(network(batch), batch)
        total.backward()
        found.append([total.detach(), *(p.grad for p in network.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert len(blocks) >= 2
