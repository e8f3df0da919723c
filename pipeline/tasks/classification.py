"""Classification: a fused head, a light head on each field's own state, and their metrics.

Metrics count (`accuracy`, precision, recall and F1, from a confusion matrix) or rank (`interlace.tasks.ranking`, from
the scores of all samples: one float32 a sample and class is kept).

Single label: one class a sample, cross entropy. Multi label: any number of classes a sample, each decided by itself.
"""

# S samples, F fields, C classes, D width

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from interlace.contract.batch import Batch, TargetBatch, move
from interlace.contract.charts import Chart, Confusion, Table
from interlace.contract.errors import DataError
from interlace.model.fusion import key
from interlace.model.network import Outputs
from interlace.recipe import tasks as recipe
from interlace.tasks import ranking
from interlace.tasks.base import ColumnType, Context, State, Task

RANKED_CLASSES = 100
"""Tasks of more classes have no metrics of ranking: their scores would fill the memory."""

ABSENT = -100
"""Class of a sample without target; what torch's cross entropy leaves out."""


class ClassificationTask(Task):
    """Predict one class of a label, or any number of them.

    Args:
        settings: the task's part of the recipe.
        context: `fitted` holds the classes in the order of their indices, and how often each occurs in training.
    """

    weights_C: Tensor

    def __init__(self, settings: recipe.ClassificationTask, context: Context) -> None:
        super().__init__()
        self.name = context.name
        self.settings = settings
        self.classes = tuple(context.fitted["classes"])
        dim, classes = context.model.dim, self.classes
        self.main_metric = settings.best_by or ("macro_f1" if settings.multi_label else "accuracy")
        self.higher_is_better = self.main_metric != "loss"
        self._metrics = metric_names(len(classes), multi_label=settings.multi_label)
        if self.main_metric not in self._metrics:
            raise DataError(
                f"`tasks.{self.name}.best_by`: expected a metric of this task with {len(classes)} classes"
                f" ({', '.join(self._metrics)}), but is {self.main_metric}"
            )
        decides = context.model.fusion == "decision"
        self.head = None if decides else nn.Linear(dim, len(classes))
        lit = context.specs if settings.field_loss or decides else ()
        self.field_heads = nn.ModuleDict({key(name): nn.Linear(dim, len(classes)) for name in lit})
        self.register_buffer(
            "weights_C", class_weights(context.fitted["counts"], settings.class_weights), persistent=False
        )

    def count(self, batch: Batch) -> int:
        """Samples that have a label."""
        return int(batch.targets[self.name].present.sum())

    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Loss of the fused head plus `field_loss` times the mean loss of the present fields' heads, per sample."""
        target = batch.targets[self.name]
        wanted = move(self._wanted(target), outputs.sample_SD.device)
        if self.head is None:
            total = self._loss(self._decide(outputs), wanted, self.settings.label_smoothing).sum()
        else:
            total = self._fused_loss(self.head, outputs.sample_SD, wanted, target.present).sum()
        if self.settings.field_loss:
            states = [outputs.fields[name.removeprefix(key(""))] for name in self.field_heads]
            heads = zip(self.field_heads.values(), states, strict=True)
            loss_FS = torch.stack(
                [self._loss(apply_head(head, s.pooled_SD), wanted, self.settings.label_smoothing) for head, s in heads]
            )
            present_FS = torch.stack([s.present_S for s in states]).float()
            mean_S = (loss_FS * present_FS).sum(0) / present_FS.sum(0).clamp(min=1)
            total = total + self.settings.field_loss * mean_S.sum()
        return total

    def _fused_loss(self, head: nn.Module, state_SD: Tensor, wanted: Tensor, present_S: Tensor) -> Tensor:
        """Loss of each sample's fused state, `[S]`; in training with `mixup` of states mixed with another sample's.

        Mixup (Zhang et al. 2018) of states, not of values (Verma et al. 2019, "Manifold mixup"): samples of a pack have
        tokens of any number, so their values have no sum. The larger share is the sample's own.
        """
        smoothing = self.settings.label_smoothing
        if not (self.training and self.settings.mixup):
            return self._loss(apply_head(head, state_SD), wanted, smoothing)
        device = state_SD.device
        with_target = move(present_S.nonzero().flatten(), device)
        partner_S = torch.arange(len(present_S), device=device)
        partner_S[with_target] = with_target[torch.randperm(len(with_target), device=device)]
        alpha = torch.full((len(present_S),), self.settings.mixup, device=device)
        share_S = torch.distributions.Beta(alpha, alpha, validate_args=False).sample()  # a check would read them back
        share_S = torch.maximum(share_S, 1 - share_S)
        mixed_SD = share_S.unsqueeze(1) * state_SD + (1 - share_S.unsqueeze(1)) * state_SD[partner_S]
        logits_SC = apply_head(head, mixed_SD)
        own_S, other_S = (self._loss(logits_SC, w, smoothing) for w in (wanted, wanted[partner_S]))
        return share_S * own_S + (1 - share_S) * other_S

    def logits(self, outputs: Outputs) -> Tensor:
        """Float32 `[S, C]`: the fused head's, plus `field_vote` times those of each present field's own head.

        Both are made log-probabilities first (single label), so the prediction is a product of experts (Hinton 2002).
        Under `fusion: decision` there is no fused head: see `_decide`.
        """
        if self.head is None:
            return self._decide(outputs)
        logits_SC = self._log_odds(apply_head(self.head, outputs.sample_SD))
        if self.settings.field_vote:
            for name, head in self.field_heads.items():
                state = outputs.fields[name.removeprefix(key(""))]
                vote_SC = self._log_odds(apply_head(head, state.pooled_SD)) * state.present_S.unsqueeze(1)
                logits_SC = logits_SC + self.settings.field_vote * vote_SC
        return logits_SC

    def _decide(self, outputs: Outputs) -> Tensor:
        """The weighted mean of the log-probabilities (multi label: log-odds) by each present field's head, `[S, C]`."""
        assert outputs.votes_SF is not None
        votes = dict(zip(outputs.fields, outputs.votes_SF.unbind(1), strict=True))
        logits = []
        for name, head in self.field_heads.items():
            field = name.removeprefix(key(""))
            said_SC = self._log_odds(apply_head(head, outputs.fields[field].pooled_SD))
            logits.append(votes[field].unsqueeze(1) * said_SC)
        return torch.stack(logits).sum(0)

    def _log_odds(self, logits_SC: Tensor) -> Tensor:
        return logits_SC if self.settings.multi_label else logits_SC.log_softmax(1)

    def state(self, outputs: Outputs, batch: Batch) -> State:
        """`loss`, `count`, `confusion` `[C, C]` (rows are true) or `tp`, `fp`, `fn` `[C]`, and `scores`, `wanted`.

        Those two are lists of one array a batch: scores float32 `[n]` (log odds of the second of two classes), else
        `[n, C]`; classes int64 `[n]`, multi label bool `[n, C]`.
        """
        target = batch.targets[self.name]
        logits_SC = self.logits(outputs).detach()
        wanted = move(self._wanted(target), logits_SC.device)
        loss = self._loss(logits_SC, wanted, 0.0).double().sum().cpu()
        state: State = {"loss": loss, "count": target.present.sum().cpu()}
        logits_NC, wanted = logits_SC[target.present], wanted[target.present]
        if self.settings.multi_label:
            wanted = wanted > 0
        if len(self.classes) <= RANKED_CLASSES:
            state |= {"scores": [self._scores(logits_NC).cpu().numpy()], "wanted": [wanted.cpu().numpy()]}
        if self.settings.multi_label:
            said_NC = logits_NC > 0
            pairs = {"tp": said_NC & wanted, "fp": said_NC & ~wanted, "fn": ~said_NC & wanted}
            return state | {name: hit.sum(0).cpu() for name, hit in pairs.items()}
        size = len(self.classes)
        pairs_N = wanted * size + logits_NC.argmax(1)
        return state | {"confusion": torch.bincount(pairs_N, minlength=size * size).view(size, size).cpu()}

    def _scores(self, logits_NC: Tensor) -> Tensor:
        """What samples are ranked by. Single label: log-probabilities; of two classes one number says all."""
        if self.settings.multi_label:
            return logits_NC
        return logits_NC[:, 1] - logits_NC[:, 0] if len(self.classes) == 2 else logits_NC.log_softmax(1)

    def compute(self, state: Mapping[str, Any]) -> dict[str, float]:
        """The metrics that `metric_names` lists.

        `loss` is per target, without smoothing or mixup. `macro_precision`, `macro_recall` and `macro_f1` are means
        over the classes that occur or are predicted. Multi-label `accuracy` is the share of right decisions over all
        samples and classes.
        """
        count = int(state["count"])
        if not count:
            return dict.fromkeys(self._metrics, math.nan)
        tp_C, fp_C, fn_C = _hits_and_errors(state)
        right = 1 - float((fp_C + fn_C).sum()) / (count * len(self.classes))
        rows = [row for row in self.by_class(state) if not math.isnan(row["f1"])]
        metrics = {"loss": float(state["loss"]) / count}
        metrics["accuracy"] = right if self.settings.multi_label else float(tp_C.sum()) / count
        metrics |= {f"macro_{name}": sum(row[name] for row in rows) / max(len(rows), 1) for name in COUNTED}
        if "scores" in state:
            metrics |= self._ranked(np.concatenate(state["scores"]), np.concatenate(state["wanted"]))
        return metrics

    def _ranked(self, scores: NDArray[np.float32], wanted: NDArray[Any]) -> dict[str, float]:
        if scores.ndim == 1:
            return {name: metric(scores, wanted == 1) for name, metric in RANKED.items()}
        hits_NC = wanted if wanted.ndim == 2 else wanted[:, None] == np.arange(len(self.classes))
        return {name: ranking.macro(RANKED[name], scores, hits_NC) for name in RANKED_MACRO}

    def by_class(self, state: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Of each class `class`, `count`, `precision`, `recall` and `f1`.

        Nothing said of a class that occurs is precision 0, as nothing found is recall 0; nan if it does neither.
        """
        tp_C, fp_C, fn_C = _hits_and_errors(state)
        rows = zip(self.classes, tp_C.tolist(), fp_C.tolist(), fn_C.tolist(), strict=True)
        return [{"class": name, "count": tp + fn, **_counted(tp, fp, fn)} for name, tp, fp, fn in rows]

    def charts(self, state: Mapping[str, Any]) -> dict[str, Chart]:
        """`confusion` (single label), and `classes`: what `by_class` says of each."""
        if not int(state["count"]):
            return {}
        rows = [tuple(row.values()) for row in self.by_class(state)]
        shown: dict[str, Chart] = {
            "classes": Table(columns=("class", "samples", "precision", "recall", "f1"), rows=rows)
        }
        if not self.settings.multi_label:
            shown["confusion"] = Confusion(counts=state["confusion"].numpy(), labels=[str(c) for c in self.classes])
        return shown

    @property
    def prediction_types(self) -> Mapping[str, ColumnType]:
        """The label, an integer where labels are (booleans are 0 and 1); or labels and probabilities as JSON."""
        if self.settings.multi_label:
            return {"": "string", "probability": "string"}
        return {"": "long" if all(isinstance(c, int) for c in self.classes) else "string", "probability": "double"}

    def predict(self, outputs: Outputs) -> list[dict[str, Any]]:
        """The label and its `probability`; multi label: a JSON list of those above one half, a JSON object of all."""
        rows = [dict(zip(self.classes, row, strict=True)) for row in self.probabilities(outputs).tolist()]
        if self.settings.multi_label:
            likely = [[c for c, p in row.items() if p > 0.5] for row in rows]
            return [{"": _json(labels), "probability": _json(row)} for labels, row in zip(likely, rows, strict=True)]
        best = [max(row, key=lambda c: row[c]) for row in rows]
        return [{"": label, "probability": row[label]} for label, row in zip(best, rows, strict=True)]

    def probabilities(self, outputs: Outputs) -> Tensor:
        """Float32 `[S, C]`: softmax of the logits; multi label: sigmoid, each class by itself."""
        logits_SC = self.logits(outputs)
        return logits_SC.sigmoid() if self.settings.multi_label else logits_SC.softmax(1)

    def _wanted(self, target: TargetBatch) -> Tensor:
        """Class of each sample, int64 `[S]`; multi label: 1 or 0 of each class, float32 `[S, C]`; `ABSENT` if none.

        On the CPU, as the target is.
        """
        present_S = target.present
        owner = torch.arange(len(present_S)).repeat_interleave(target.lengths)
        if self.settings.multi_label:
            wanted_SC = torch.zeros(len(present_S), len(self.classes))
            wanted_SC[owner, target.values] = 1.0
            return wanted_SC.masked_fill(~present_S.unsqueeze(1), ABSENT)
        wanted_S = torch.full_like(present_S, ABSENT, dtype=torch.int64).index_copy(0, owner, target.values)
        return wanted_S.masked_fill(~present_S, ABSENT)

    def _loss(self, logits_SC: Tensor, wanted: Tensor, smoothing: float) -> Tensor:
        """Loss of each sample, `[S]`, zero where the target is absent; multi label: the mean over classes."""
        if not self.settings.multi_label:
            return functional.cross_entropy(
                logits_SC, wanted, self.weights_C, ignore_index=ABSENT, reduction="none", label_smoothing=smoothing
            )
        present_S1 = wanted[:, :1] != ABSENT
        smooth_SC = wanted.clamp(min=0) * (1 - smoothing) + smoothing / 2
        loss_SC = functional.binary_cross_entropy_with_logits(
            logits_SC, smooth_SC, reduction="none", pos_weight=self.weights_C
        )
        return (loss_SC * present_S1).mean(1)


COUNTED = ("precision", "recall", "f1")

RANKED = {
    "auroc": ranking.auroc,
    "auprc": ranking.average_precision,
    "min_recall_precision": ranking.min_recall_precision,
}
"""Of two classes: how well the second one (of the sorted labels) is ranked."""

RANKED_MACRO = ("auroc", "auprc")
"""Of several classes or labels: the mean over each against the rest (Hand and Till 2001 take pairs instead)."""


def metric_names(num_classes: int, *, multi_label: bool) -> tuple[str, ...]:
    """Names of the numbers that a task of so many classes computes."""
    counted = ("loss", "accuracy", *(f"macro_{name}" for name in COUNTED))
    if num_classes > RANKED_CLASSES:
        return counted
    return (*counted, *(RANKED if num_classes == 2 and not multi_label else RANKED_MACRO))


def _hits_and_errors(state: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """True positives, false positives and false negatives of each class, int64 `[C]`."""
    if "tp" in state:
        return state["tp"], state["fp"], state["fn"]
    confusion_CC: Tensor = state["confusion"]
    tp_C = confusion_CC.diagonal()
    return tp_C, confusion_CC.sum(0) - tp_C, confusion_CC.sum(1) - tp_C


def _counted(tp: int, fp: int, fn: int) -> dict[str, float]:
    if not tp + fp + fn:
        return dict.fromkeys(COUNTED, math.nan)
    return {"precision": tp / max(tp + fp, 1), "recall": tp / max(tp + fn, 1), "f1": 2 * tp / (2 * tp + fp + fn)}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def apply_head(head: nn.Module, state_SD: Tensor) -> Tensor:
    """Logits in float32: exact, and no bf16 kernel to compile for each number of samples (see `model.attention`)."""
    with torch.autocast(state_SD.device.type, enabled=False):
        logits_SC: Tensor = head(state_SD)
    return logits_SC


def class_weights(counts: Sequence[int], how: str) -> Tensor:
    """Weights of the classes, float32 `[C]`: all 1, or inverse to their counts so that the training mean is 1."""
    if how == "none":
        return torch.ones(len(counts))
    seen_C = torch.tensor(counts, dtype=torch.float32).clamp(min=1)
    return seen_C.sum() / (len(counts) * seen_C)
