"""Laws of retrieval: InfoNCE over those that have both sides, ranks over the whole set, however it is cut."""

import math

import pytest
import torch
import torch.nn.functional as functional

from interlace.tasks import retrieval
from interlace.tasks.retrieval import ranks_of
from tests.networks import draw_batch, without
from tests.tasked import classes, network_of, summed, task_of, with_targets

LEFT, RIGHT = ("photo", "scan"), ("values",)


def made(**settings):
    """Task, network."""
    task = task_of("retrieval", left=LEFT, right=RIGHT, embedding_dim=12, **settings)
    return task, network_of({"it": task})


def sides(task, outputs, batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embeddings and which samples have both sides, from the plain definition."""
    states = [outputs.groups[LEFT].pooled_SD, outputs.groups[RIGHT].pooled_SD]
    left, right = (functional.normalize(head(x), dim=1) for head, x in zip(task.sides, states, strict=True))
    lengths = {name: batch.fields[name].lengths for name in (*LEFT, *RIGHT)}
    return left, right, ((lengths["photo"] > 0) | (lengths["scan"] > 0)) & (lengths["values"] > 0)


def test_loss_is_symmetric_cross_entropy_over_pairs_that_have_both_sides():
    task, network = made(temperature=0.2)
    batch = draw_batch(1, samples=11, missing=0.4)
    outputs = network(batch)
    left, right, both = sides(task, outputs, batch)
    logits = left[both] @ right[both].T / 0.2
    with torch.no_grad():
        task.log_scale.fill_(-math.log(0.2))
    wanted = torch.arange(int(both.sum()))
    want = sum(functional.cross_entropy(x, wanted, reduction="sum") for x in (logits, logits.T)) / 2
    torch.testing.assert_close(task.loss(outputs, batch), want)
    assert task.count(batch) == int(both.sum())
    assert 2 < int(both.sum()) < 11
    torch.testing.assert_close(task.state(outputs, batch)["loss"].float(), want.detach())


def test_a_sample_without_a_side_changes_nothing_and_learns_nothing():
    task, network = made()
    batch = draw_batch(0, missing=0.0)
    lacking = without(without(batch, "photo", 2), "scan", 2)
    outputs = network(lacking)
    pooled = outputs.groups[RIGHT].pooled_SD
    pooled.retain_grad()
    task.loss(outputs, lacking).backward()
    assert not pooled.grad[2].any()
    assert all(pooled.grad[i].any() for i in (0, 1, 3, 4, 5, 6))
    assert task.count(lacking) == 6
    none = batch.only(frozenset({"photo"}))
    network.zero_grad()
    total = task.loss(network(none), none)
    total.backward()
    assert float(total.detach()) == task.count(none) == 0
    assert all(p.grad is not None and not p.grad.any() for p in task.parameters())
    assert math.isnan(task.compute(task.state(network(none), none))["recall_10"])


def test_no_side_sees_the_other():
    task, network = made()
    batch = draw_batch(0, missing=0.0)
    whole = task.predict(network(batch))
    half = task.predict(network(batch.only(frozenset(LEFT))))
    for all_fields, left_only in zip(whole, half, strict=True):
        assert left_only["left"] == pytest.approx(all_fields["left"], abs=1e-5)
        assert left_only["right"] is None
    assert all(sum(x * x for x in row["left"]) == pytest.approx(1) for row in whole)


def test_samples_of_one_group_are_not_negatives():
    task, network = made(group="caption")
    groups = [4, 7, None, 4, None, 7, 9]
    batch = with_targets(draw_batch(0, missing=0.0), it=classes(groups))
    outputs = network(batch)
    left, right, _ = sides(task, outputs, batch)
    total = torch.zeros(())
    for logits in (left @ right.T, right @ left.T):
        logits = logits * task.log_scale.exp()
        for i, group in enumerate(groups):
            kept = [j for j in range(7) if j == i or group is None or groups[j] != group]
            total = total + (logits[i, kept].logsumexp(0) - logits[i, i]) / 2
    torch.testing.assert_close(task.loss(outputs, batch), total)
    plain = task_of("retrieval", left=LEFT, right=RIGHT, embedding_dim=12)
    plain.load_state_dict(task.state_dict())
    assert float(plain.loss(outputs, batch).detach()) > float(total.detach())


def full_matrix_ranks(matrix: torch.Tensor) -> torch.Tensor:
    order = matrix.argsort(dim=1, descending=True)
    return (order == torch.arange(len(matrix)).unsqueeze(1)).float().argmax(1) + 1.0


def test_metrics_add_and_equal_a_full_matrix(monkeypatch):
    task, network = made()
    monkeypatch.setattr(retrieval, "BLOCK_NUMBERS", 100)  # several blocks, the last one smaller
    batches = [draw_batch(seed, samples=9, missing=0.2) for seed in range(5)]
    states, left, right = [], [], []
    for batch in batches:
        outputs = network(batch)
        states.append(task.state(outputs, batch))
        one, other, both = sides(task, outputs, batch)
        left.append(one[both])
        right.append(other[both])
    got = task.compute(summed(states))
    matrix = torch.cat(left) @ torch.cat(right).T
    means = []
    for name, likeness in (("left_to_right", matrix), ("right_to_left", matrix.T)):
        ranks = full_matrix_ranks(likeness)
        want = {f"recall_{k}": float((ranks <= k).float().mean()) for k in (1, 5, 10)}
        want["median_rank"] = float(ranks.quantile(0.5))
        assert {k: got[f"{name}_{k}"] for k in want} == pytest.approx(want)
        means.append(want)
    assert got["recall_10"] == pytest.approx((means[0]["recall_10"] + means[1]["recall_10"]) / 2)
    assert got["pairs"] == len(matrix) > 20
    assert 0 < got["recall_1"] < got["recall_10"] < 1
    back = task.compute(summed(states[::-1]))
    assert {k: v for k, v in back.items() if k != "loss"} == {k: v for k, v in got.items() if k != "loss"}
    curves = task.charts(summed(states))["ranks"]
    assert curves.lines["left to right"][0] == pytest.approx(got["left_to_right_recall_1"])
    assert curves.lines["chance"][-1] == 1


def test_ranks_count_the_best_of_a_group_and_ties_by_half():
    queries = torch.eye(3)
    gallery = torch.tensor([[0.5, 0.0, 0.1], [0.9, 0.2, 0.1], [0.1, 0.3, 0.1]])
    alone, first_two = torch.arange(3), torch.tensor([0, 0, 1])
    assert ranks_of(queries, gallery, alone).tolist() == [2.0, 2.0, 2.0]
    assert ranks_of(queries, gallery, first_two).tolist() == [1.0, 2.0, 2.0]
    same = torch.ones(5, 2)
    assert ranks_of(same, same, torch.arange(5)).tolist() == [3.0] * 5


def test_groups_are_joined_over_batches_in_metrics():
    task, network = made(group="caption")
    batches = [with_targets(draw_batch(seed, missing=0.0), it=classes([5] * 3 + [None] * 4)) for seed in range(2)]
    state = summed([task.state(network(b), b) for b in batches])
    left, right = torch.cat(state["left"]), torch.cat(state["right"])
    matrix = left @ right.T
    members = [0, 1, 2, 7, 8, 9]
    want = []
    for i in range(14):
        own = members if i in members else [i]
        others = [j for j in range(14) if j not in own]
        want.append(1 + int((matrix[i, others] > matrix[i, own].max()).sum()))
    found = task.compute(state)
    assert found["left_to_right_median_rank"] == pytest.approx(float(torch.tensor(want).float().quantile(0.5)))
    assert found["left_to_right_recall_5"] == pytest.approx(sum(r <= 5 for r in want) / 14)


def test_the_temperature_never_falls_below_its_bound():
    task, network = made(temperature=0.01)
    batch = draw_batch(0, missing=0.0)
    with torch.no_grad():
        task.log_scale.add_(1.0)
    task.loss(network(batch), batch).backward()
    assert float(task.log_scale.detach().exp()) == pytest.approx(100)
    assert task.log_scale.grad is not None
    assert float(task.log_scale.grad) != 0
