"""Laws of the whole network, for each fusion."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from interlace.contract.batch import Batch
from interlace.model import transformer
from interlace.model.attention import Segments
from interlace.model.network import Network, Outputs
from interlace.recipe.base import FieldStart
from interlace.recipe.model import Model
from interlace.train.start import prefixes
from tests.networks import FIELDS, FUSIONS, SPECS, build, draw_batch, one_sample, rows_of, with_fields, without
from tests.written import batch_of, texts_of
from tests.written import build as writer

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def other_tokens(batch: Batch, sample: int) -> Batch:
    """The batch with every token of one sample replaced."""
    fields = {}
    for name, item in batch.fields.items():
        values = item.values.clone()
        rows = rows_of(item, sample)
        values[rows] = (values[rows] + 3) % 4 if values.dtype == torch.int64 else 200 - values[rows]
        fields[name] = replace(item, values=values)
    return with_fields(batch, fields)


def states(outputs: Outputs) -> list[Tensor]:
    return [outputs.sample_SD, *(f.pooled_SD for f in outputs.fields.values())]


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_tokens_of_a_sample_change_no_other_sample(fusion: str, pool: str):
    network, batch, sample = build(fusion, pool=pool), draw_batch(), 3
    before, after = states(network(batch)), states(network(other_tokens(batch, sample)))
    others = [s for s in range(batch.num_samples) if s != sample]
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[others], b[others])
    assert (before[0][sample] - after[0][sample]).abs().max() > 1e-3


@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradients_of_a_sample_reach_no_other_samples_tokens(fusion: str):
    network, batch, sample = build(fusion), draw_batch(), 3
    embedded: dict[str, Tensor] = {}
    for name, module in network.embeddings.items():
        content = module.content

        def keep(_: object, __: object, out: Tensor, name: str = name) -> Tensor:
            embedded[name] = out.detach().requires_grad_()
            return embedded[name]

        content.register_forward_hook(keep)
    outputs = network(batch)
    sum(state[sample].square().sum() for state in states(outputs)).backward()
    reached = 0.0
    for name, item in batch.fields.items():
        grad, rows = embedded[f"of_{name}"].grad, rows_of(item, sample)
        assert grad is not None
        reached += float(grad[rows].abs().sum())
        assert not grad[: rows.start].any()
        assert not grad[rows.stop :].any()
    assert reached > 0
    assert len(embedded) == len(SPECS)


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_pack_equals_its_samples_one_at_a_time(fusion: str, pool: str):
    network, batch = build(fusion, pool=pool), draw_batch(samples=9)
    packed = states(network(batch))
    for sample in range(batch.num_samples):
        for a, b in zip(packed, states(network(one_sample(batch, sample))), strict=True):
            torch.testing.assert_close(a[sample], b[0], **TOLERANCE)
    assert packed[0].std(0).max() > 0.1


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_pack_equals_a_dense_mask(fusion: str, monkeypatch: pytest.MonkeyPatch):
    network, batch, calls = build(fusion), draw_batch(), []

    def dense(qkv_T3HK: Tensor, segments: Segments) -> Tensor:
        q, k, v = (x.transpose(0, 1) for x in qkv_T3HK.unbind(1))
        same = segments.owner_T[:, None] == segments.owner_T[None]
        scores = (q @ k.transpose(1, 2) * q.shape[2] ** -0.5).masked_fill(~same, -torch.inf)
        calls.append(segments.num_tokens)
        return (scores.softmax(-1) @ v).transpose(0, 1)

    packed = states(network(batch))
    monkeypatch.setattr(transformer, "attend", dense)
    for a, b in zip(packed, states(network(batch)), strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)
    assert sum(calls) >= sum(int(f.lengths.sum()) for f in batch.fields.values())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_order_of_fields_changes_nothing(fusion: str):
    network, batch = build(fusion), draw_batch(missing=0.4)
    turned = build(fusion, names=tuple(reversed(SPECS)), seed=1)
    turned.load_state_dict(network.state_dict())
    with network.measuring(), turned.measuring():
        a, b = network(batch), turned(batch)
    torch.testing.assert_close(a.sample_SD, b.sample_SD, atol=1e-6, rtol=1e-5)
    if a.weights_SF is not None:
        torch.testing.assert_close(a.weights_SF, b.weights_SF.flip(1), atol=1e-6, rtol=1e-5)
    if a.votes_SF is not None:
        logits = [n.tasks["label"].logits(o) for n, o in ((network, a), (turned, b))]
        torch.testing.assert_close(*logits, atol=1e-6, rtol=1e-5)
    for name in SPECS:
        torch.testing.assert_close(a.fields[name].pooled_SD, b.fields[name].pooled_SD, **TOLERANCE)
    assert list(b.fields) == list(reversed(a.fields))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_first_weights_depend_on_names_and_not_on_order(fusion: str):
    first, turned = (fresh(fusion, names) for names in (tuple(SPECS), tuple(reversed(SPECS))))
    fewer, other = fresh(fusion, tuple(SPECS)[1:]), fresh(fusion, tuple(SPECS), seed=1)
    assert list(first) != list(turned)
    assert first.keys() == turned.keys()
    assert all(torch.equal(weight, turned[name]) for name, weight in first.items())
    assert all(torch.equal(weight, first[name]) for name, weight in fewer.items())
    assert sum(not torch.equal(weight, other[name]) for name, weight in first.items()) > 10


def fresh(fusion: str, names: tuple[str, ...], seed: int = 0) -> dict[str, Tensor]:
    """Weights before training."""
    network = build(fusion, names=names)
    torch.manual_seed(seed)
    again = Network({n: SPECS[n] for n in names}, {n: FIELDS[n] for n in names}, network.model, network.tasks)
    return {name: weight.detach().clone() for name, weight in again.named_parameters()}


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_missing_field_changes_nothing_else(fusion: str, pool: str):
    network, batch, sample = build(fusion, pool=pool), draw_batch(missing=0.0), 2
    before, after = network(batch), network(without(batch, "photo", sample))
    others = [s for s in range(batch.num_samples) if s != sample]
    torch.testing.assert_close(before.sample_SD[others], after.sample_SD[others], **TOLERANCE)
    for name in SPECS:
        here = others if name == "photo" else list(range(batch.num_samples))
        torch.testing.assert_close(before.fields[name].pooled_SD[here], after.fields[name].pooled_SD[here], **TOLERANCE)
    assert not after.fields["photo"].pooled_SD[sample].any()
    assert not after.fields["photo"].present_S[sample]
    assert (before.sample_SD[sample] - after.sample_SD[sample]).abs().max() > 1e-4


def backward(network: Network, batch: Batch) -> None:
    network.train()
    task = network.tasks["label"]
    (task.loss(network(batch), batch) / max(task.count(batch), 1)).backward()


@pytest.mark.parametrize("absent", [*SPECS, "all"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_parameter_gets_a_gradient(fusion: str, absent: str):
    network = build(fusion, dropout=0.1, modality_dropout=0.3)
    kept = frozenset(SPECS) - {absent} if absent != "all" else frozenset[str]()
    backward(network, draw_batch().only(kept))
    grads = {name: p.grad for name, p in network.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None] == []
    assert all(bool(grad.isfinite().all()) for grad in grads.values() if grad is not None)
    gone = [grad for name, grad in grads.items() if absent != "all" and f"embeddings.of_{absent}." in name]
    assert all(not grad.any() for grad in gone if grad is not None)
    fewest = 11 if kept else int(fusion != "decision")  # where each field decides, no field decides nothing
    assert sum(bool(grad.any()) for grad in grads.values() if grad is not None) >= fewest


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_parameter_moves_on_a_full_pack(fusion: str):
    network = build(fusion)
    backward(network, draw_batch(samples=40, missing=0.2))
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_a_field_has_to_itself_is_what_its_own_state_depends_on(fusion: str):
    """So a frozen field's states stay, however the fusion names what it learns where fields meet."""
    plain = build(fusion)
    frozen = {"init": FieldStart(run="elsewhere"), "freeze": True}
    network = Network(SPECS, {n: f.model_copy(update=frozen) for n, f in FIELDS.items()}, plain.model, plain.tasks)
    parameters = dict(network.named_parameters())
    stay = {n for n, p in parameters.items() if not p.requires_grad}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    fields, everyones = network(draw_batch(missing=0.0)).fields, set[str]()
    for name in SPECS:
        grads = torch.autograd.grad(
            fields[name].pooled_SD.square().sum(), list(parameters.values()), retain_graph=True, allow_unused=True
        )
        reached = {n for n, grad in zip(parameters, grads, strict=True) if grad is not None}
        assert reached == {n for n in parameters if n.startswith(prefixes(name))}
        assert len(reached) >= 2
        everyones |= reached
    assert everyones == stay


@pytest.mark.parametrize("fusion", FUSIONS)
def test_sample_without_tokens_has_a_finite_state(fusion: str):
    network, batch, sample = build(fusion), draw_batch(missing=0.0), 4
    for name in SPECS:
        batch = without(batch, name, sample)
    outputs = network(batch)
    assert all(bool(state.isfinite().all()) for state in states(outputs))
    assert not outputs.sample_SD[sample].any()
    assert outputs.sample_SD[0].any()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_state_of_a_group_is_that_of_its_fields_alone(fusion: str):
    network, batch = build(fusion), draw_batch(missing=0.4, samples=20)
    group = ("values", "photo")
    network.tasks["label"].groups = (group,)
    asking = Network({n: SPECS[n] for n in SPECS}, FIELDS, network.model, network.tasks)
    asking.load_state_dict(network.state_dict())
    found = asking.eval()(batch).groups[group]
    alone = network(batch.only(frozenset(group)))
    torch.testing.assert_close(found.pooled_SD, alone.sample_SD, **TOLERANCE)
    assert torch.equal(found.present_S, alone.fields["values"].present_S | alone.fields["photo"].present_S)
    assert not found.present_S.all()


@pytest.mark.parametrize("name", SPECS)
def test_what_a_task_hides_is_seen_by_nothing(name: str):
    batch = draw_batch(missing=0.0)
    item = batch.fields[name]
    mask = torch.arange(len(item.values)) % 3 == 0
    plain = build()
    plain.tasks["label"].masked_fields = (name,)
    plain.tasks["label"].mask = lambda batch: {name: mask}
    network = Network(SPECS, FIELDS, plain.model, plain.tasks).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    other = item.values.flip(0)
    mask_N = mask if other.ndim == 1 else mask[:, None]
    there = with_fields(batch, {name: replace(item, values=torch.where(mask_N, other, item.values))})
    here = with_fields(batch, {name: replace(item, values=torch.where(mask_N, item.values, other))})
    want, got = network(batch), network(there)
    assert not torch.equal(there.fields[name].values, item.values)
    torch.testing.assert_close(got.sample_SD, want.sample_SD)
    torch.testing.assert_close(got.joint.x_TD, want.joint.x_TD)
    assert (network(here).sample_SD - want.sample_SD).abs().max() > 1e-4


@pytest.mark.parametrize("fusion", FUSIONS)
def test_seed_decides_training_output(fusion: str):
    network, batch = build(fusion, dropout=0.2, modality_dropout=0.2).train(), draw_batch()

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        out: Tensor = network(batch).sample_SD
        return out

    first = run(0)
    assert torch.equal(first, run(0))
    assert not torch.equal(first, run(1))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_bf16_autocast_is_close_to_fp32(fusion: str):
    network, batch = build(fusion), draw_batch()
    exact = network(batch).sample_SD
    with torch.autocast("cpu", torch.bfloat16):
        half = network(batch).sample_SD
    assert half.dtype == torch.float32
    assert not torch.equal(exact, half)
    assert (half - exact).norm() / exact.norm() < 0.02


@pytest.mark.parametrize("kind", ["small", "unit"])
def test_vectors_of_ids_begin_at_the_deviation_that_first_tables_says(kind: str):
    """As they are read, and no other table with them; a task's own table is one of ids too."""
    network, batch = writer(first_tables=kind, scale=0.0), batch_of(texts_of([1] * 40))
    table_VD = network.tasks["text"].table.weight.detach()
    size = torch.tensor([0.0])
    network.embeddings["of_values"].content.register_forward_hook(lambda *a: size.copy_(a[-1].detach().std()))
    network(batch)
    assert float(table_VD.std()) == pytest.approx(0.88 * (32**-0.5 if kind == "unit" else 0.02), rel=0.1)
    assert float(size) == pytest.approx(0.88 if kind == "unit" else 0.0176, rel=0.1)
    assert float(network.embeddings["of_values"].position.rows.weight.detach().std()) == pytest.approx(0.0176, rel=0.1)


@pytest.mark.parametrize("kind", ["small", "fan_in"])
def test_matrices_begin_at_the_deviation_that_first_weights_says(kind: str):
    model = Model.model_validate({"dim": 128, "first_weights": kind, "field_layers": 1, "joint_layers": 1})
    torch.manual_seed(0)
    network = Network({n: SPECS[n] for n in ("photo", "type")}, FIELDS, model, {})
    ratios = []
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear) and module.weight.numel() > 2000:
            want = 0.02 if kind == "small" else module.in_features**-0.5
            want /= 2 if name.endswith("_out") else 1  # two layers: the root of 2 * 2
            ratios.append(float(module.weight.detach().std()) / want)
    assert len(ratios) > 10
    assert 0.85 < min(ratios) <= max(ratios) < 0.92  # a normal cut at two deviations has 0.88 of its own
