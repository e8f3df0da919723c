"""Laws of reconstruction: what is hidden is not seen, and predicted as plain loops over tokens say."""

import math

import pytest
import torch
from torch.nn import functional

from interlace.contract.batch import Batch, FieldBatch
from interlace.contract.errors import RecipeError
from interlace.recipe.load import parse_recipe
from interlace.tasks.reconstruction import fixed_draw
from tests.networks import FUSIONS, SPECS, draw_batch, one_sample, rows_of, with_fields
from tests.tasked import network_of, summed, task_of

MASKED = ("photo", "series", "values")


def made(fusion: str = "mid", **settings):
    """Task, network in evaluation mode."""
    task = task_of("reconstruction", **({"fields": MASKED} | settings))
    return task, network_of({"it": task}, fusion)


def changed(batch: Batch, masks: dict[str, torch.Tensor]) -> Batch:
    """The batch with other values in all hidden places."""
    fields = {}
    for name, mask_N in masks.items():
        item = batch.fields[name]
        values = item.values.clone()
        other = 1 - values[mask_N].clamp(0, 1) if values.dtype != torch.float32 else -values[mask_N] + 1
        values[mask_N] = other
        fields[name] = FieldBatch(values=values, lengths=item.lengths, grids=item.grids, times=item.times)
    return with_fields(batch, fields)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_is_hidden_changes_nothing_but_the_target(fusion: str):
    task, network = made(fusion, share=0.5)
    batch = draw_batch(1)
    outputs = network(batch)
    other = changed(batch, outputs.masks)
    torch.testing.assert_close(network(other).sample_SD, outputs.sample_SD)
    assert not torch.allclose(network(other, mask_tokens=False).sample_SD, network(batch, mask_tokens=False).sample_SD)
    assert not torch.isclose(task.loss(network(other), other), task.loss(outputs, batch))
    assert set(outputs.masks) == set(MASKED)
    assert all(0 < int(h.sum()) < len(h) for h in outputs.masks.values())


@pytest.mark.parametrize("normalise", [False, True])
@torch.no_grad()
def test_loss_and_metrics_equal_plain_loops_over_hidden_tokens(normalise: bool):
    task, network = made(share=0.5, normalise=normalise)
    batches = [draw_batch(seed) for seed in range(3)]
    total, samples, tokens = 0.0, 0, {name: [] for name in MASKED}
    right = 0
    for batch in batches:
        outputs = network(batch)
        states = outputs.joint.of_fields(outputs.tokens)
        for sample in range(batch.num_samples):
            means = []
            for name in MASKED:
                item, losses = batch.fields[name], []
                for row in range(*rows_of(item, sample).indices(len(item.values))):
                    if not outputs.masks[name][row]:
                        continue
                    x = functional.layer_norm(states[name][row], (32,)) + outputs.sample_SD[sample]
                    said, value = task.decoders[f"of_{name}"](x), item.values[row]
                    if SPECS[name].kind == "ids":
                        losses.append(float(functional.cross_entropy(said, value)))
                        right += int(said.argmax()) == int(value)
                        continue
                    want = value.float() / 127.5 - 1 if name == "photo" else value
                    if normalise:
                        want = (want - want.mean()) / (want.var(correction=0) + 1e-6).sqrt()
                    losses.append(float((said - want).square().mean()))
                tokens[name] += losses
                means += [sum(losses) / len(losses)] if losses else []
            total += sum(means) / len(means) if means else 0.0
            samples += bool(means)
    got = task.compute(summed([task.state(network(b), b) for b in batches]))
    mean = {name: sum(found) / len(found) for name, found in tokens.items()}
    want = {
        "loss": total / samples,
        "mse_photo": mean["photo"],
        "mse_series": mean["series"],
        "perplexity_values": math.exp(mean["values"]),
        "accuracy_values": right / len(tokens["values"]),
    }
    assert got == pytest.approx(want, rel=1e-4)
    assert float(sum(task.loss(network(b), b) for b in batches)) == pytest.approx(total, rel=1e-4)
    assert right
    assert task.main_metric in got


def test_evaluation_hides_the_same_tokens_whatever_else_is_in_the_pack():
    task, _ = made(share=0.4)
    batch = draw_batch(2)
    whole = task.mask(batch)
    assert all(torch.equal(whole[n], h) for n, h in task.mask(batch).items())
    seen = 0
    for sample in range(batch.num_samples):
        alone = task.mask(one_sample(batch, sample))
        for name in MASKED:
            assert torch.equal(alone[name], whole[name][rows_of(batch.fields[name], sample)])
            seen += len(alone[name])
    assert seen > 50


def test_training_hides_by_torchs_generator_and_exactly_the_share_on_average():
    task, _ = made(share=0.3)
    task.train()
    batch = draw_batch(2)
    torch.manual_seed(5)
    first = task.mask(batch)
    again = task.mask(batch)
    torch.manual_seed(5)
    assert all(torch.equal(first[n], h) for n, h in task.mask(batch).items())
    assert any(not torch.equal(first[n], h) for n, h in again.items())
    counts = torch.stack([task.mask(batch)["values"].sum() for _ in range(400)])
    length = int(batch.fields["values"].lengths.sum())
    assert float(counts.float().mean()) / length == pytest.approx(0.3, abs=0.02)
    assert int(counts.max() - counts.min()) <= batch.num_samples
    whole, _ = made(share=1.0)
    assert all(h.all() for h in whole.mask(batch).values())


def test_fixed_draws_are_even():
    ids, places = torch.arange(50_000) // 20, torch.arange(50_000) % 20
    draws = fixed_draw(ids, places, salt=0)
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.005)
    counts = torch.histc(draws.float(), 20, 0, 1)
    assert counts.min() > 2300
    assert counts.max() < 2700
    assert len(torch.unique(draws)) == 50_000
    assert not torch.equal(draws, fixed_draw(ids, places, salt=1))
    by_place = draws.view(-1, 20).mean(0)
    assert float((by_place - 0.5).abs().max()) < 0.03


def test_fields_that_modality_dropout_hides_are_not_predicted():
    task, _ = made(share=1.0)
    network = network_of({"it": task}, modality_dropout=0.9).train()
    batch = draw_batch(1, missing=0.0)
    torch.manual_seed(0)
    outputs = network(batch)
    outputs.sample_SD.retain_grad()
    tokens = task._tokens(outputs, batch)
    asked = sum(int(asked_N.sum()) for _, asked_N, _ in tokens.values())
    hidden = sum(int(h.sum()) for h in outputs.masks.values())
    assert 0 < asked < hidden / 2


def test_no_token_at_all_gives_zero_with_gradients():
    task, network = made()
    none = draw_batch(0).only(frozenset({"type"}))
    total = task.loss(network(none), none)
    total.backward()
    assert float(total.detach()) == task.count(none) == 0
    assert all(p.grad is not None and not p.grad.any() for p in task.parameters())
    assert all(math.isnan(v) for v in task.compute(task.state(network(none), none)).values())


def test_prediction_is_the_fused_state_of_what_is_there():
    task, network = made()
    batch = draw_batch(0)
    outputs = network(batch, mask_tokens=False)
    assert [row[""] for row in task.predict(outputs)] == outputs.sample_SD.tolist()
    assert len(task.predict(outputs)[0][""]) == 32


def test_a_recipe_must_leave_something_to_predict_from():
    tree = {
        "name": "x",
        "data": {"train": {"paths": ["x"]}},
        "fields": {n: {"modality": "text", "column": n} for n in ("a", "b")},
        "tasks": {"it": {"task": "reconstruction", "fields": ["a", "b"], "share": 1.0}},
        "train": {"steps": 1},
    }
    with pytest.raises(RecipeError, match=r"`tasks.it.share: 1` hides every field"):
        parse_recipe(tree)
    with pytest.raises(RecipeError, match=r"`tasks.it` names the field `c`; did you mean"):
        parse_recipe(tree, ["tasks.it.fields=[a, c]"])
    assert parse_recipe(tree, ["tasks.it.fields=[a]"]).columns() == ("a", "b")
