"""What a network says on a GPU is what it says on a CPU: metrics, predictions, texts, with any field missing."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from interlace.contract.batch import Batch
from interlace.tasks.generation import GenerationTask
from interlace.train.loop import Losses, autocast, evaluate
from tests.gpu.runs import CPU, batches, network_of
from tests.gpu.stored import FUSIONS, Made, Stored

pytestmark = pytest.mark.gpu
SHORT = ("tasks.text.max_tokens=12",)


def same(got: Any, want: Any) -> bool:
    """Equal values, numbers to 1e-3: metrics count and rank, so they may not differ by more than rounding."""
    if isinstance(want, float):
        return math.isclose(got, want, rel_tol=1e-3, abs_tol=1e-3) or (math.isnan(got) and math.isnan(want))
    if isinstance(want, dict):
        return got.keys() == want.keys() and all(same(got[k], want[k]) for k in want)
    if isinstance(want, list | tuple):
        return len(got) == len(want) and all(map(same, got, want))
    return bool(got == want)


def made_of(stored: Stored, fusion: str, *overrides: str) -> Made:
    return stored.made(fusion, *(() if fusion == "decision" else SHORT), *overrides)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_metrics_and_predictions_equal_those_of_a_cpu(fusion: str, stored: Stored, device: torch.device) -> None:
    made = made_of(stored, fusion)
    here, there = network_of(made, CPU).eval(), network_of(made, device).eval()
    pairs = list(zip(batches(stored, 3, CPU), batches(stored, 3, device), strict=True))
    for own, other in pairs:
        with torch.no_grad():
            want, got = here(own, mask_tokens=False), there(other, mask_tokens=False)
        torch.testing.assert_close(got.sample_SD.cpu(), want.sample_SD, atol=1e-4, rtol=1e-4)
        for name, task in here.tasks.items():
            if not task.masked_fields:
                assert same(there.tasks[name].predict(got), task.predict(want)), name
    metrics = [
        evaluate(network, own, made.recipe, to)
        for network, own, to in (
            (here, [a for a, _ in pairs], CPU),
            (there, [b for _, b in pairs], device),
        )
    ]
    assert same(metrics[1], metrics[0])
    assert {name.partition("/")[0] for name in metrics[0]} == set(made.recipe.tasks)


@pytest.mark.parametrize("beam", [1, 3])
def test_texts_are_those_of_a_cpu(beam: int, stored: Stored, device: torch.device) -> None:
    made = made_of(stored, "mid", f"tasks.text.beam={beam}")
    found = []
    for to in (CPU, device):
        network = network_of(made, to).eval()
        task = network.tasks["text"]
        assert isinstance(task, GenerationTask)
        (batch,) = batches(stored, 1, to)
        with torch.no_grad():
            found.append(task.generate(network(batch, mask_tokens=False)))
    here, there = found
    assert [text.ids for text in there] == [text.ids for text in here]
    assert [text.log_prob for text in there] == pytest.approx([text.log_prob for text in here], abs=1e-3)
    assert any(text.ids for text in here)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_any_field_may_be_missing(fusion: str, stored: Stored, device: torch.device) -> None:
    """From all samples, and all fields from all."""
    made = made_of(stored, fusion)
    here, there = network_of(made, CPU).eval(), network_of(made, device).eval()
    (own,), (other,) = batches(stored, 1, CPU), batches(stored, 1, device)
    every = frozenset(made.specs)
    states = []
    for kept in (*(every - {name} for name in every), frozenset({"words"}), frozenset[str]()):
        with torch.no_grad():
            want, got = (n(b.only(kept), mask_tokens=False) for n, b in ((here, own), (there, other)))
        assert got.sample_SD.isfinite().all()
        torch.testing.assert_close(got.sample_SD.cpu(), want.sample_SD, atol=1e-4, rtol=1e-4)
        for name in every - kept:
            assert not got.fields[name].pooled_SD.any()
        states.append(want.sample_SD)
    assert all(not torch.equal(a, b) for i, a in enumerate(states) for b in states[:i])


def test_gradients_flow_with_fields_missing(stored: Stored, device: torch.device) -> None:
    """Of what is there, the same as on a CPU; of what is not, none."""
    made = stored.made("mid")
    grads = []
    for to in (CPU, device):
        network = network_of(made, to).train()
        (batch,) = batches(stored, 1, to)
        batch = without(batch, "picture")
        torch.manual_seed(0)
        task = network.tasks["label"]
        (task.loss(network(batch), batch) / task.count(batch)).backward()
        grads.append({name: p.grad.cpu() for name, p in network.named_parameters() if p.grad is not None})
    here, there = grads
    assert here.keys() == there.keys()
    for name, grad in here.items():
        torch.testing.assert_close(
            there[name], grad, atol=1e-5, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert not any(there[name].any() for name in there if "of_picture" in name)
    assert any(grad.any() for name, grad in there.items() if "of_words" in name)


def without(batch: Batch, name: str) -> Batch:
    """A batch with a field missing from all samples."""
    return dataclasses.replace(batch.only(frozenset(batch.fields) - {name}))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_step_in_bf16_is_finite_whatever_field_is_missing(fusion: str, stored: Stored, device: torch.device) -> None:
    made = stored.made(fusion, "train.precision=bf16")
    losses = Losses(network_of(made, device).train(), made.recipe)
    (batch,) = batches(stored, 1, device)
    every = frozenset(made.specs)
    for kept in (*(every - {name} for name in every), frozenset({"words"})):
        losses.zero_grad()
        own = batch.only(kept)
        counts = {name: float(task.count(own)) for name, task in losses.network.tasks.items()}
        with autocast(made.recipe, device):
            loss, _ = losses(own, counts)
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in losses.parameters() if p.grad is not None)
