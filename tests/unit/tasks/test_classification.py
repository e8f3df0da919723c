"""Laws of classification: losses as sums, metrics as sums, equal to whole-set references."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torchmetrics.functional.classification as reference
from torch import Tensor
from torch.nn import functional

from interlace.contract.batch import Batch, TargetBatch
from interlace.contract.errors import DataError
from interlace.contract.sample import FieldSpec
from interlace.model.attention import Segments
from interlace.model.fusion import Joint
from interlace.model.network import FieldState, Outputs
from interlace.recipe import tasks as recipe
from interlace.recipe.model import Model
from interlace.tasks import TASKS, ClassificationTask, Context
from interlace.tasks.base import State
from interlace.tasks.classification import RANKED_CLASSES, class_weights, metric_names
from interlace.train.loop import add_states

CLASSES = ("cat", "dog", "owl", "yak", "zebu")
DIM = 8


def make(
    counts: tuple[int, ...] = (4, 3, 2, 1, 0),
    fields: tuple[str, ...] = (),
    classes: tuple[str, ...] = CLASSES,
    **settings: object,
) -> ClassificationTask:
    torch.manual_seed(0)
    fusion = settings.pop("fusion", "mid")
    given = {"task": "classification", "column": "label", "field_loss": 0.0} | settings
    context = Context(
        name="label",
        model=Model.model_validate({"dim": DIM, "head_dim": DIM, "fusion": fusion}),
        fields={},
        specs={name: FieldSpec(name=name, kind="ids", vocab_size=2) for name in fields},
        fitted={"classes": classes, "counts": counts},
    )
    return TASKS["classification"](recipe.ClassificationTask.model_validate(given), context)


def outputs(samples: int, fields: dict[str, list[bool]] | None = None, seed: int = 0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    states = {
        name: FieldState(pooled_SD=torch.randn(samples, DIM, generator=generator), present_S=torch.tensor(present))
        for name, present in (fields or {}).items()
    }
    return outputs_of(torch.randn(samples, DIM, generator=generator), states)


def outputs_of(sample_SD: Tensor, states: dict[str, FieldState]) -> Outputs:
    segments = Segments(torch.zeros(len(sample_SD), dtype=torch.int64))
    none = torch.zeros(0, dtype=torch.int64)
    nothing = Joint(x_TD=torch.zeros(0, DIM), segments=segments, order_T=none, ends_F=none)
    return Outputs(sample_SD=sample_SD, fields=states, tokens={}, joint=nothing, groups={}, masks={})


def holding(target: TargetBatch) -> Batch:
    return Batch(position=0, sample_ids=torch.arange(len(target.present)), fields={}, targets={"label": target})


def single(classes: list[int | None]) -> Batch:
    present = torch.tensor([c is not None for c in classes])
    return holding(
        TargetBatch(
            values=torch.tensor([c for c in classes if c is not None], dtype=torch.int64),
            lengths=present.long(),
            present=present,
        )
    )


def multi(classes: list[list[int] | None]) -> Batch:
    return holding(
        TargetBatch(
            values=torch.tensor([c for row in classes if row for c in row], dtype=torch.int64),
            lengths=torch.tensor([len(row or []) for row in classes]),
            present=torch.tensor([row is not None for row in classes]),
        )
    )


def part(out: Outputs, rows: slice) -> Outputs:
    return outputs_of(out.sample_SD[rows], {})


def added(states: list[State]) -> State:
    total: dict[str, State] = {"label": {}}
    for state in states:
        add_states(total, {"label": state})
    return total["label"]


@pytest.mark.parametrize("field_loss", [0.0, 0.5])
def test_decision_is_the_weighted_mean_of_the_fields_log_probabilities(field_loss: float):
    task = make(fields=("a", "b"), field_loss=field_loss, fusion="decision")
    votes = torch.tensor([[0.7, 0.3], [1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    out = replace(outputs(3, {"a": [True, True, False], "b": [True, False, False]}), votes_SF=votes)
    said = [task.field_heads[f"of_{n}"](out.fields[n].pooled_SD).log_softmax(1) for n in "ab"]
    want = votes[:, :1] * said[0] + votes[:, 1:] * said[1]
    torch.testing.assert_close(task.logits(out), want)
    assert task.head is None
    assert not want[2].any()  # no field, no opinion
    loss = task.loss(out, single([1, 2, None]))
    own = functional.cross_entropy(want[:2], torch.tensor([1, 2]), reduction="none")
    per_field = torch.stack([functional.cross_entropy(x[:2], torch.tensor([1, 2]), reduction="none") for x in said])
    extra = field_loss * (per_field[:, 0].mean() + per_field[0, 1])
    torch.testing.assert_close(loss, own.sum() + extra)
    loss.backward()
    assert votes.grad is not None
    assert votes.grad[0].all()
    assert all(p.grad is not None and p.grad.any() for p in task.parameters())


def test_loss_is_a_sum_over_present_targets():
    task, out = make(), outputs(6)
    classes = [0, None, 2, 1, None, 3]
    total = task.loss(out, single(classes))
    wanted = torch.tensor([c for c in classes if c is not None])
    kept = torch.tensor([c is not None for c in classes])
    torch.testing.assert_close(total, functional.cross_entropy(task.logits(out)[kept], wanted, reduction="sum"))
    assert task.count(single(classes)) == 4


def test_samples_without_target_have_no_gradient():
    task, out = make(fields=("a",), field_loss=0.5), outputs(3, {"a": [True, True, True]})
    out.sample_SD.requires_grad_()
    task.loss(out, single([1, None, 2])).backward()
    assert out.sample_SD.grad is not None
    assert not out.sample_SD.grad[1].any()
    assert out.sample_SD.grad[0].any()


@pytest.mark.parametrize("multi_label", [False, True])
def test_no_target_at_all_gives_zero_with_gradients(multi_label: bool):
    task = make(fields=("a",), field_loss=0.5, multi_label=multi_label)
    target = multi([None, None]) if multi_label else single([None, None])
    total = task.loss(outputs(2, {"a": [True, False]}), target)
    total.backward()
    assert float(total.detach()) == 0
    assert task.count(target) == 0
    assert all(p.grad is not None and not p.grad.any() for p in task.parameters())
    assert all(math.isnan(value) for value in task.compute(task.state(outputs(2), target)).values())


def test_field_loss_is_the_mean_over_present_fields():
    task = make(fields=("a", "b"), field_loss=0.5)
    out = outputs(3, {"a": [True, True, False], "b": [True, False, False]})
    wanted = torch.tensor([0, 1, 2])
    loss = {
        name: functional.cross_entropy(task.field_heads[f"of_{name}"](state.pooled_SD), wanted, reduction="none")
        for name, state in out.fields.items()
    }
    fused = functional.cross_entropy(task.logits(out), wanted, reduction="sum")
    want = fused + 0.5 * ((loss["a"][0] + loss["b"][0]) / 2 + loss["a"][1])
    torch.testing.assert_close(task.loss(out, single([0, 1, 2])), want)
    assert not make(fields=("a", "b")).field_heads


def test_smoothing_is_for_training_only():
    task, out, target = make(label_smoothing=0.2), outputs(4), single([0, 1, 2, 3])
    wanted = target.targets["label"].values
    plain = functional.cross_entropy(task.logits(out), wanted, reduction="sum")
    smooth = functional.cross_entropy(task.logits(out), wanted, reduction="sum", label_smoothing=0.2)
    torch.testing.assert_close(task.loss(out, target), smooth)
    torch.testing.assert_close(task.state(out, target)["loss"].float(), plain)
    assert not torch.isclose(plain, smooth)


@pytest.mark.parametrize("multi_label", [False, True])
def test_mixup_is_the_loss_of_soft_targets_between_samples_that_have_one(multi_label: bool):
    task, out = make(mixup=0.4, multi_label=multi_label), outputs(4)
    target = multi([[0], [1, 2], None, [3]]) if multi_label else single([0, 1, None, 3])
    task.train()
    torch.manual_seed(1)
    order = torch.randperm(3)
    partner = torch.arange(4)
    partner[torch.tensor([0, 1, 3])] = torch.tensor([0, 1, 3])[order]
    share = torch.distributions.Beta(torch.full((4,), 0.4), torch.full((4,), 0.4)).sample()
    share = torch.maximum(share, 1 - share).unsqueeze(1)
    logits = task.head(share * out.sample_SD + (1 - share) * out.sample_SD[partner])
    hot = torch.zeros(4, len(CLASSES))
    for sample, labels in enumerate([[0], [1, 2] if multi_label else [1], [], [3]]):
        hot[sample, labels] = 1.0
    soft = share * hot + (1 - share) * hot[partner]
    if multi_label:
        want = functional.binary_cross_entropy_with_logits(logits, soft, reduction="none").mean(1)
    else:
        want = functional.cross_entropy(logits, soft, reduction="none")
    torch.manual_seed(1)
    got = task.loss(out, target)
    torch.testing.assert_close(got, want[[0, 1, 3]].sum())
    assert partner.tolist() != [0, 1, 2, 3], "nothing was mixed"
    assert task.count(target) == 3
    plain = make(multi_label=multi_label).train().loss(out, target)
    torch.testing.assert_close(task.eval().loss(out, target), plain)
    assert not torch.isclose(got, plain)


def test_balanced_weights_have_mean_one_over_the_training_data():
    counts = (6, 3, 1)
    weights = class_weights(counts, "balanced")
    assert float((weights * torch.tensor(counts)).sum() / 10) == pytest.approx(1)
    assert float(weights[0] * 6) == pytest.approx(float(weights[2]))
    assert class_weights((2, 0), "balanced").isfinite().all()
    assert class_weights(counts, "none").tolist() == [1, 1, 1]
    task, out, target = make((6, 3, 1, 1, 1), class_weights="balanced"), outputs(2), single([0, 2])
    want = functional.cross_entropy(
        task.logits(out), target.targets["label"].values, class_weights((6, 3, 1, 1, 1), "balanced"), reduction="sum"
    )
    torch.testing.assert_close(task.loss(out, target), want)


def test_single_label_metrics_add_and_equal_the_reference():
    task, out = make(), outputs(300)
    classes = torch.randint(0, 4, (300,), generator=torch.Generator().manual_seed(1)).tolist()
    classes[5] = classes[250] = None
    slices = [slice(0, 10), slice(10, 11), slice(11, 300)]
    state = added([task.state(part(out, rows), single(classes[rows])) for rows in slices])
    kept = torch.tensor([c is not None for c in classes])
    logits, wanted = task.logits(out).detach()[kept], torch.tensor([c for c in classes if c is not None])
    got = task.compute(state)
    many = {"num_classes": 5}
    assert got["accuracy"] == pytest.approx(
        float(reference.multiclass_accuracy(logits, wanted, average="micro", **many))
    )
    assert got["macro_f1"] == pytest.approx(
        float(reference.multiclass_f1_score(logits, wanted, average="macro", **many))
    )
    assert got["loss"] == pytest.approx(float(functional.cross_entropy(logits, wanted)), rel=1e-5)
    assert torch.equal(state["confusion"], reference.multiclass_confusion_matrix(logits, wanted, **many))
    for ours, theirs in (("macro_precision", "multiclass_precision"), ("macro_recall", "multiclass_recall")):
        want = getattr(reference, theirs)(logits, wanted, average="macro", **many)
        assert got[ours] == pytest.approx(float(want)), ours
    for ours, theirs in (("auroc", reference.binary_auroc), ("auprc", reference.binary_average_precision)):
        each = [float(theirs(logits.softmax(1)[:, c], (wanted == c).long())) for c in range(4)]  # class 4 never occurs
        assert got[ours] == pytest.approx(sum(each) / 4, abs=1e-6), ours
    assert tuple(got) == metric_names(5, multi_label=False)
    assert task.main_metric in got
    assert int(state["count"]) == 298


def test_a_class_that_never_occurs_has_no_part_in_macro_f1():
    task, out = make(), outputs(50)
    with torch.no_grad():
        task.head.bias[4] = -100.0
    wanted = torch.arange(50) % 4
    got = task.compute(task.state(out, single(wanted.tolist())))["macro_f1"]
    want = reference.multiclass_f1_score(task.logits(out).detach(), wanted, num_classes=5, average="macro")
    assert got == pytest.approx(float(want))


def test_multi_label_metrics_add_and_equal_the_reference():
    task, out = make(multi_label=True), outputs(200)
    hits = torch.rand(200, 5, generator=torch.Generator().manual_seed(1)) < 0.3
    classes: list[list[int] | None] = [row.nonzero().flatten().tolist() for row in hits]
    classes[7] = None
    slices = [slice(0, 3), slice(3, 100), slice(100, 200)]
    state = added([task.state(part(out, rows), multi(classes[rows])) for rows in slices])
    kept = torch.arange(200) != 7
    logits, wanted = task.logits(out).detach()[kept], hits[kept].long()
    got = task.compute(state)
    many = {"num_labels": 5}
    assert got["accuracy"] == pytest.approx(
        float(reference.multilabel_accuracy(logits, wanted, average="micro", **many))
    )
    assert got["macro_f1"] == pytest.approx(
        float(reference.multilabel_f1_score(logits, wanted, average="macro", **many))
    )
    for ours, theirs in (("auroc", "multilabel_auroc"), ("auprc", "multilabel_average_precision")):
        want = getattr(reference, theirs)(logits.sigmoid(), wanted, average="macro", **many)
        assert got[ours] == pytest.approx(float(want), abs=1e-6), ours
    want = functional.binary_cross_entropy_with_logits(logits, wanted.float())
    assert got["loss"] == pytest.approx(float(want), rel=1e-5)
    assert tuple(got) == metric_names(5, multi_label=True)
    assert [] in classes
    assert task.main_metric == "macro_f1"


def test_two_classes_are_ranked_by_the_second_one():
    task, out = make((5, 3), classes=("dead", "fine")), outputs(120)
    wanted = torch.rand(120, generator=torch.Generator().manual_seed(2)) < 0.2
    classes: list[int | None] = wanted.long().tolist()
    classes[3] = None
    kept = torch.arange(120) != 3
    state = added([task.state(part(out, rows), single(classes[rows])) for rows in (slice(0, 50), slice(50, 120))])
    got = task.compute(state)
    chances, hits = task.logits(out).detach().softmax(1)[kept, 1], wanted[kept].long()
    assert got["auroc"] == pytest.approx(float(reference.binary_auroc(chances, hits)), abs=1e-6)
    assert got["auprc"] == pytest.approx(float(reference.binary_average_precision(chances, hits)), abs=1e-6)
    precision, recall, _ = reference.binary_precision_recall_curve(chances, hits)
    assert got["min_recall_precision"] == pytest.approx(float(torch.minimum(precision, recall).max()), abs=1e-6)
    assert tuple(got) == metric_names(2, multi_label=False)
    assert hits.any()


def test_the_best_checkpoint_is_chosen_by_a_metric_that_the_task_has():
    task = make(best_by="auroc")
    assert (task.main_metric, task.higher_is_better) == ("auroc", True)
    assert not make(best_by="loss").higher_is_better
    with pytest.raises(DataError, match=r"`tasks.label.best_by`: .* of this task with 5 classes .*, but is min_recall"):
        make(best_by="min_recall_precision")
    with pytest.raises(ValueError, match="best_by"):
        make(best_by="speed")


def test_many_classes_keep_no_scores():
    names = tuple(f"c{i}" for i in range(RANKED_CLASSES + 1))
    task = make((1,) * len(names), classes=names)
    state = task.state(outputs(4), single([0, 1, 2, 3]))
    assert "scores" not in state
    assert tuple(task.compute(state)) == metric_names(len(names), multi_label=False)
    with pytest.raises(DataError, match="best_by"):
        make((1,) * len(names), classes=names, best_by="auroc")


def test_multi_label_loss_weighs_rare_positives():
    plain, rare = make(multi_label=True), make((9, 1, 1, 1, 1), multi_label=True, class_weights="balanced")
    target = multi([[0, 3], [], None])
    out = outputs(3)
    wanted = torch.zeros(2, 5)
    wanted[0, [0, 3]] = 1
    bce = functional.binary_cross_entropy_with_logits
    logits = plain.logits(out)[:2]
    torch.testing.assert_close(plain.loss(out, target), bce(logits, wanted, reduction="none").mean(1).sum())
    weights = class_weights((9, 1, 1, 1, 1), "balanced")
    want = bce(logits, wanted, reduction="none", pos_weight=weights).mean(1).sum()
    torch.testing.assert_close(rare.loss(out, target), want)
    assert plain.count(target) == 2


def test_prediction_is_the_likeliest_label_and_its_probability():
    task, out = make(), outputs(4)
    chances = task.logits(out).softmax(1)
    said = task.predict(out)
    assert [s[""] for s in said] == [CLASSES[i] for i in chances.argmax(1).tolist()]
    assert [s["probability"] for s in said] == pytest.approx(chances.amax(1).tolist())
    task = make(multi_label=True)
    chances = task.logits(out).sigmoid()
    for row, answer in zip(chances.tolist(), task.predict(out), strict=True):
        assert json.loads(answer[""]) == [c for c, p in zip(CLASSES, row, strict=True) if p > 0.5]
        assert json.loads(answer["probability"]) == pytest.approx(dict(zip(CLASSES, row, strict=True)))
    assert (chances > 0.5).any()


def test_states_are_on_the_cpu_in_exact_types():
    state = make().state(outputs(3), single([0, 1, None]))
    tensors = [value for value in state.values() if isinstance(value, Tensor)]
    assert {t.dtype for t in tensors} == {torch.float64, torch.int64}
    assert all(t.device.type == "cpu" and not t.requires_grad for t in tensors)
    assert [(a.shape, str(a.dtype)) for name in ("scores", "wanted") for a in state[name]] == [
        ((2, 5), "float32"),
        ((2,), "int64"),
    ]
    state = make(multi_label=True).state(outputs(3), multi([[0], [], None]))
    assert {value.dtype for value in state.values() if isinstance(value, Tensor)} == {torch.float64, torch.int64}
    assert [(a.shape, str(a.dtype)) for a in state["wanted"]] == [((2, 5), "bool")]


def test_heads_are_exact_under_autocast():
    task, out = make(), outputs(5)
    with torch.autocast("cpu", torch.bfloat16):
        logits = task.logits(out)
    assert torch.equal(logits, task.logits(out))
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_table_of_classes_equals_the_reference(multi_label: bool):
    task, out = make(multi_label=multi_label), outputs(200)
    hits = torch.rand(200, 5, generator=torch.Generator().manual_seed(1)) < 0.3
    hits[:, 4] = False
    with torch.no_grad():
        task.head.bias[4] = -100.0
    wanted = torch.randint(0, 4, (200,), generator=torch.Generator().manual_seed(1))
    target = multi([row.nonzero().flatten().tolist() for row in hits]) if multi_label else single(wanted.tolist())
    shown = task.charts(task.state(out, target))
    rows = shown["classes"].rows
    logits = task.logits(out).detach()
    if multi_label:
        kind, many, true = "multilabel", {"num_labels": 5}, hits.long()
    else:
        kind, many, true = "multiclass", {"num_classes": 5}, wanted
    for column, metric in ((2, "precision"), (3, "recall"), (4, "f1_score")):
        want = getattr(reference, f"{kind}_{metric}")(logits, true, average="none", **many).tolist()
        got = [0.0 if math.isnan(row[column]) else row[column] for row in rows]
        assert got == pytest.approx(want)
    assert [row[0] for row in rows] == list(CLASSES)
    assert rows[4][1] == 0
    assert all(math.isnan(value) for value in rows[4][2:])
    assert set(shown) == ({"classes"} if multi_label else {"classes", "confusion"})
