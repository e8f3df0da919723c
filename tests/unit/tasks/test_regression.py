"""Laws of regression: counts by value, own units, sums equal to whole-set references."""

import math

import pytest
import torch
import torchmetrics.functional.regression as reference
from torch.nn import functional

from tests.networks import draw_batch
from tests.tasked import NUMBERS, network_of, numbers, summed, task_of, with_targets

NAN = math.nan
ROWS = [[0.5, -1.0], [NAN, 2.0], None, [1.5, NAN], [NAN, NAN], [-3.0, 0.25], [0.0, 0.0]]
MEANS, STDS = (torch.tensor(NUMBERS[name], dtype=torch.float64) for name in ("means", "stds"))


def target() -> torch.Tensor:
    return torch.tensor([[NAN, NAN] if row is None else row for row in ROWS])


def said(task, outputs) -> torch.Tensor:
    return torch.tensor([[row["a"], row["b"]] for row in task.predict(outputs)], dtype=torch.float64)


def made(**settings):
    """Task, network, batch."""
    task = task_of("regression", columns=("a", "b"), **settings)
    return task, network_of({"it": task}), with_targets(draw_batch(3), it=numbers(ROWS))


@pytest.mark.parametrize("settings", [{"loss": "mse"}, {}, {"delta": 0.25}])
def test_loss_is_a_sum_over_the_values_that_are_there(settings):
    task, network, batch = made(field_loss=0.0, **settings)
    outputs = network(batch)
    there = ~target().isnan()
    got = ((said(task, outputs) - MEANS) / STDS).float()[there]
    want = target()[there]
    if settings.get("loss") == "mse":
        total = functional.mse_loss(got, want, reduction="sum")
    else:
        total = functional.huber_loss(got, want, reduction="sum", delta=settings.get("delta", 1.0))
    torch.testing.assert_close(task.loss(outputs, batch), total)
    assert task.count(batch) == int(there.sum()) == 8


def test_field_loss_is_the_mean_over_present_fields():
    task, network, batch = made(loss="mse", field_loss=0.5)
    outputs = network(batch)
    wanted, there = target().nan_to_num(), ~target().isnan()
    per_field = torch.stack(
        [
            (task.field_heads[f"of_{name}"](s.pooled_SD) - wanted).square().masked_fill(~there, 0.0).sum(1)
            * s.present_S
            for name, s in outputs.fields.items()
        ]
    )
    present = torch.stack([s.present_S for s in outputs.fields.values()])
    fused = (task.head(outputs.sample_SD) - wanted).square()[there].sum()
    want = fused + 0.5 * (per_field.sum(0) / present.sum(0)).sum()
    torch.testing.assert_close(task.loss(outputs, batch), want)
    assert 0 < int(present.sum()) < present.numel()


def test_samples_without_a_number_have_no_gradient():
    task, network, batch = made()
    outputs = network(batch)
    outputs.sample_SD.retain_grad()
    task.loss(outputs, batch).backward()
    rows = outputs.sample_SD.grad.abs().sum(1) > 0
    assert rows.tolist() == [True, True, False, True, False, True, True]
    nothing = with_targets(draw_batch(3), it=numbers([None, [NAN, NAN]] + [None] * 5))
    network.zero_grad()
    total = task.loss(network(nothing), nothing)
    total.backward()
    assert float(total.detach()) == task.count(nothing) == 0
    assert all(p.grad is not None and not p.grad.any() for p in task.parameters())
    assert all(math.isnan(v) for v in task.compute(task.state(network(nothing), nothing)).values())


def test_metrics_add_are_in_own_units_and_equal_the_reference():
    task, network, _ = made()
    generator = torch.Generator().manual_seed(0)
    states, wanted, answers = [], [], []
    for seed in range(6):
        rows = torch.randn(7, 2, generator=generator)
        rows[torch.rand(7, 2, generator=generator) < 0.2] = NAN
        batch = with_targets(draw_batch(seed), it=numbers([None, *rows[1:].tolist()]))
        outputs = network(batch)
        states.append(task.state(outputs, batch))
        wanted.append(rows[1:].double() * STDS + MEANS)
        answers.append(said(task, outputs)[1:])
    y, y_hat = torch.cat(wanted), torch.cat(answers)
    got = task.compute(summed(states))
    parts = []
    for i, column in enumerate("ab"):
        there = ~y[:, i].isnan()
        pair = y_hat[there, i], y[there, i]
        want = {
            "mae": float(reference.mean_absolute_error(*pair)),
            "rmse": float(reference.mean_squared_error(*pair, squared=False)),
            "r2": float(reference.r2_score(*pair)),
        }
        assert {k: got[f"{k}_{column}"] for k in want} == pytest.approx(want, rel=1e-5)
        parts.append(want)
    assert {k: got[k] for k in parts[0]} == pytest.approx({k: (parts[0][k] + parts[1][k]) / 2 for k in parts[0]})
    assert task.main_metric in got
    assert 0 < int(y.isnan().sum()) < y.numel() / 2


def test_one_column_has_no_name_in_predictions_and_metrics():
    task = task_of("regression", columns=("a",))
    network, batch = network_of({"it": task}), with_targets(draw_batch(), it=numbers([[float(i)] for i in range(7)]))
    outputs = network(batch)
    head = task.head(outputs.sample_SD).double() * STDS[0] + MEANS[0]
    assert [row[""] for row in task.predict(outputs)] == pytest.approx(head.flatten().tolist())
    assert set(task.compute(task.state(outputs, batch))) == {"loss", "mae", "rmse", "r2"}
    assert set(task.charts(task.state(outputs, batch))) == {"scatter"}


def test_the_scatter_holds_every_value_once_at_its_place():
    task, network, batch = made()
    outputs = network(batch)
    shown = task.charts(task.state(outputs, batch))
    assert set(shown) == {"scatter-a", "scatter-b"}
    counts, y = shown["scatter-a"].counts, target()[:, 0].double() * STDS[0] + MEANS[0]
    bins = (y[~y.isnan()] / 20 * 48).floor().clamp(0, 47).long()  # lows and highs of column a are 0 and 20
    assert counts.sum(1).tolist() == torch.bincount(bins, minlength=48).tolist()
    assert counts.sum() == 4


def test_equal_targets_have_no_r2():
    task = task_of("regression", columns=("a",))
    network, batch = network_of({"it": task}), with_targets(draw_batch(), it=numbers([[0.5]] * 7))
    found = task.compute(task.state(network(batch), batch))
    assert math.isnan(found["r2"])
    assert found["mae"] > 0
