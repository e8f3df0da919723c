"""What is true of every task, as a check for the tests of any package that brings one."""

# S samples

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interlace.contract.batch import Batch, TargetBatch, to_batch
from interlace.contract.sample import FieldPack, FieldSpec, Pack, TargetPack
from interlace.model.network import Network
from interlace.recipe.fields import AnyField, TableField, TextField
from interlace.recipe.model import Model
from interlace.recipe.tasks import AnyTask
from interlace.tasks import TASKS
from interlace.tasks.base import Context, Task

NAME = "it"
"""The task's name here."""
FIELDS: Mapping[str, AnyField] = {
    "words": TextField(modality="text", column="words"),
    "numbers": TableField(modality="table", numbers=("a", "b")),
}
"""The fields that a task is checked with; those that its settings name must be among them."""
SPECS: Mapping[str, FieldSpec] = {
    "words": FieldSpec(name="words", kind="ids", vocab_size=20, max_grid=(6, 1)),
    "numbers": FieldSpec(name="numbers", kind="patches", patch_dim=4, max_grid=(5, 1)),
}
SAMPLES = 8
CLOSE = 1e-4
"""Most absolute or relative difference of what is the same but for roundings."""

Draw = Callable[[np.random.Generator], NDArray[Any]]
"""The numbers of a target of one sample, as its `Target.encode` gives them."""


def check_task(
    settings: AnyTask,
    fitted: Mapping[str, Any] | None = None,
    draw: Draw | None = None,
    *,
    apart: bool = True,
    model: Model | None = None,
) -> Task:
    """Every law of a task: sums over targets, states that add, no word from samples without one.

    Args:
        settings: of the task, which may be one of an installed plug-in.
        fitted: what its target learned; none for a task without columns.
        draw: a target of one sample; none for a task without columns.
        apart: whether a sample's loss does not depend on the other samples of the pack.
        model: settings of the network; a small one where not given.

    Returns:
        The task, in a network with untrained weights.

    Raises:
        AssertionError: with the law that does not hold.
    """
    assert (draw is not None) == bool(settings.columns), "expected `draw` for a task with columns, and only there"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _network(settings, fitted or {}, model or small_model())
    task: Task = network.tasks[NAME]
    batch = draw_batch(draw)
    _check_said(network, task, batch)
    _check_loss(network, task, batch, apart=apart)
    _check_states(network, task, batch)
    if draw is not None:
        _check_without_targets(network, task, batch, apart=apart)
    return task


def small_model(**settings: Any) -> Model:
    """Settings of a network of width 32 without dropout."""
    small = {"dim": 32, "head_dim": 16, "dropout": 0.0, "field_layers": 1, "joint_layers": 1}
    return Model.model_validate(small | settings)


def _network(settings: AnyTask, fitted: Mapping[str, Any], model: Model) -> Network:
    context = Context(name=NAME, model=model, fields=FIELDS, specs=SPECS, fitted=fitted)
    network = Network(SPECS, FIELDS, model, {NAME: TASKS[settings.task](settings, context)})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


def draw_batch(draw: Draw | None, seed: int = 0, samples: int = SAMPLES) -> Batch:
    """A batch of both fields with gaps; every fourth sample has no target."""
    rng = np.random.default_rng(seed)
    fields = {}
    for name, spec in SPECS.items():
        lengths = rng.integers(1, spec.max_grid[0] + 1, samples).astype(np.int32)
        lengths[1 if name == "words" else 2] = 0
        count = int(lengths.sum())
        ids = rng.integers(0, spec.vocab_size, count).astype(np.int32) if spec.kind == "ids" else None
        values = rng.normal(size=(count, spec.patch_dim)).astype(np.float32) if ids is None else ids
        grids = np.stack([lengths, (lengths > 0).astype(np.int32)], axis=1)
        fields[name] = FieldPack(values=values, lengths=lengths, grids=grids)
    targets = {}
    if draw is not None:
        present = np.arange(samples) % 4 != 3
        drawn = [draw(rng) if there else None for there in present]
        targets[NAME] = TargetPack(
            values=np.concatenate([values for values in drawn if values is not None]),
            lengths=np.array([0 if values is None else len(values) for values in drawn], np.int32),
            present=present,
        )
    numbers = np.arange(samples, dtype=np.int64)
    return to_batch(Pack(position=0, epoch=0, sample_ids=numbers, fields=fields, targets=targets))


def select(batch: Batch, samples: slice) -> Batch:
    """Some neighbouring samples of a batch as one of their own."""

    def rows(lengths: Tensor) -> slice:
        ends = lengths.cumsum(0)
        first, last = samples.start, min(samples.stop, len(lengths)) - 1
        return slice(int(ends[first] - lengths[first]), int(ends[last]))

    fields = {
        name: type(item)(
            values=item.values[rows(item.lengths)], lengths=item.lengths[samples], grids=item.grids[samples]
        )
        for name, item in batch.fields.items()
    }
    targets = {
        name: type(item)(
            values=item.values[rows(item.lengths)], lengths=item.lengths[samples], present=item.present[samples]
        )
        for name, item in batch.targets.items()
    }
    return Batch(position=batch.position, sample_ids=batch.sample_ids[samples], fields=fields, targets=targets)


def _ones(batch: Batch) -> list[Batch]:
    return [select(batch, slice(s, s + 1)) for s in range(batch.num_samples)]


def _check_said(network: Network, task: Task, batch: Batch) -> None:
    """Predictions need no target, are plain, and are those that the task says it gives."""
    bare = Batch(position=0, sample_ids=batch.sample_ids, fields=batch.fields, targets={})
    kinds = {"string": str, "long": int, "double": float, "doubles": list}
    with torch.no_grad():
        said = task.predict(network(bare, mask_tokens=False))
        alone = [task.predict(network(one, mask_tokens=False))[0] for one in _ones(bare)]
    assert len(said) == batch.num_samples, f"expected a prediction of each of {batch.num_samples}, but are {len(said)}"
    for row, single in zip(said, alone, strict=True):
        assert list(row) == list(task.prediction_types), (
            f"expected the columns {list(task.prediction_types)}, but are {list(row)}"
        )
        assert json.loads(json.dumps(row)) == row, f"expected plain values, but is {row}"
        for key, kind in task.prediction_types.items():
            right = row[key] is None or isinstance(row[key], kinds[kind])
            assert right, f"{key!r}: expected a {kind} or None, but is {row[key]!r}"
            assert _near(row[key], single[key]), f"{key!r}: {row[key]!r} among others, but {single[key]!r} alone"


def _check_loss(network: Network, task: Task, batch: Batch, *, apart: bool) -> None:
    """The loss is a sum over targets, with a gradient for each parameter of the task."""
    network.zero_grad()
    total = task.loss(network(batch), batch)
    assert total.shape == () and total.dtype == torch.float32, "expected the loss as one float32"  # noqa: PT018
    assert bool(total.isfinite()), f"expected a finite loss, but is {total}"
    count = task.count(batch)
    assert count > 0, "expected the drawn batch to have targets"
    total.backward()  # type: ignore[no-untyped-call]
    whole = float(total.detach())
    lacking = [n for n, p in task.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())]
    assert not lacking, f"expected a finite gradient of every parameter, but not of {', '.join(lacking)}"
    moved = sum(int(p.grad is not None and bool(p.grad.any())) for p in network.parameters())
    assert moved > 0, "expected the loss to move a weight"
    if apart:
        with torch.no_grad():
            parts = [(float(task.loss(network(one), one)), task.count(one)) for one in _ones(batch)]
        losses, counts = zip(*parts, strict=True)
        assert sum(counts) == count, f"expected counts that add to {count}, but are {counts}"
        assert _near(sum(losses), whole), f"expected losses that add to {whole:g}, but are {losses}"
        silent = [i for i, (loss, number) in enumerate(parts) if not number and loss]
        assert not silent, f"expected no loss of samples without target, but samples {silent} have one"


def _check_states(network: Network, task: Task, batch: Batch) -> None:
    """States add: the metrics of a set are those of the sum over its parts."""
    halves = [select(batch, slice(0, SAMPLES // 2)), select(batch, slice(SAMPLES // 2, SAMPLES))]
    with torch.no_grad():
        states = [task.state(network(part), part) for part in halves]
        again = [task.state(network(part), part) for part in halves]
    for state in states:
        away = [k for k, v in state.items() if isinstance(v, Tensor) and v.device.type != "cpu"]
        assert not away, f"expected states on the CPU, but {', '.join(away)} are not"
    summed = {key: states[0][key] + states[1][key] for key in states[0]}  # type: ignore[operator]
    turned = {key: again[1][key] + again[0][key] for key in again[0]}  # type: ignore[operator]
    found, other = task.compute(summed), task.compute(turned)
    assert task.main_metric in found, f"expected the main metric `{task.main_metric}`, but there are {', '.join(found)}"
    assert all(isinstance(v, float) for v in found.values()), f"expected metrics as floats, but are {found}"
    assert not math.isnan(found[task.main_metric]), f"expected `{task.main_metric}` where targets were seen"
    assert _near(found, other), f"expected metrics that no order of batches changes, but are {found} and {other}"
    with torch.no_grad():
        whole = task.compute(task.state(network(batch), batch))
    assert whole.keys() == found.keys(), f"expected the metrics {list(found)}, but are {list(whole)}"
    for chart in task.charts(summed):
        assert isinstance(chart, str) and chart, "expected charts by what they show"  # noqa: PT018


def _check_without_targets(network: Network, task: Task, batch: Batch, *, apart: bool) -> None:
    """Samples without target teach nothing; where there is none at all, metrics are nan."""
    network.zero_grad()
    outputs = network(batch)
    outputs.sample_SD.retain_grad()
    task.loss(outputs, batch).backward()  # type: ignore[no-untyped-call]
    if apart and outputs.sample_SD.grad is not None:
        taught = outputs.sample_SD.grad.abs().sum(1)[~batch.targets[NAME].present]
        assert not bool(taught.any()), "expected no gradient of samples without target"
    item = batch.targets[NAME]
    nothing = {
        NAME: TargetBatch(
            values=item.values[:0], lengths=torch.zeros_like(item.lengths), present=torch.zeros_like(item.present)
        )
    }
    empty = Batch(position=0, sample_ids=batch.sample_ids, fields=batch.fields, targets=nothing)
    network.zero_grad()
    total = task.loss(network(empty), empty)
    none = float(total.detach()) == task.count(empty) == 0
    assert none, f"expected no loss and the count 0 without targets, but are {total} and {task.count(empty)}"
    total.backward()  # type: ignore[no-untyped-call]
    wrong = [n for n, p in task.named_parameters() if p.grad is None or bool(p.grad.any())]
    assert not wrong, f"expected gradients of zero without targets, but not of {', '.join(wrong)}"
    with torch.no_grad():
        state = task.state(network(empty), empty)
    found = task.compute(state)
    assert all(math.isnan(v) for v in found.values()), f"expected nan without targets, but are {found}"
    assert not task.charts(state), "expected no charts without targets"


def _near(one: Any, other: Any) -> bool:
    """Whether predictions or metrics are the same but for roundings."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_near(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_near, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.isclose(one, other, equal_nan=True, atol=CLOSE, rtol=CLOSE))
    if isinstance(one, str) and isinstance(other, str) and one[:1] == other[:1] == "{":
        return _near(json.loads(one), json.loads(other))  # numbers by name, as a text
    return bool(one == other)
