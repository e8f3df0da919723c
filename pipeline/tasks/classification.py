"""Classification: a fused head, a light head on each field's own state, and their metrics.

Single label: one class a sample, cross entropy. Multi label: any number of classes a sample, each decided by itself.
"""

# S samples, F fields, C classes, D width

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline import recipe
from pipeline.batch import Batch, TargetBatch
from pipeline.exhibits import Confusion, Exhibit, Listing
from pipeline.model.fusion import key
from pipeline.model.network import Outputs
from pipeline.tasks.base import Context, State, Task

ABSENT = -100
"""Class of a sample without target; what torch's cross entropy leaves out."""


class ClassificationTask(Task):
    """Predict one class of a label, or any number of them.

    Args:
        settings: the task's part of the recipe.
        context: `fitted` holds the classes in the order of their indices, and how often each occurs in training.
    """

    weights_C: Tensor
    higher_is_better = True

    def __init__(self, settings: recipe.ClassificationTask, context: Context) -> None:
        super().__init__()
        self.name = context.name
        self.settings = settings
        self.classes: tuple[str | int, ...] = tuple(context.fitted["classes"])
        dim, classes = context.model.dim, self.classes
        self.main_metric = "macro_f1" if settings.multi_label else "accuracy"
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
        wanted = self._wanted(target)
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
        with_target = present_S.nonzero().flatten()
        partner_S = torch.arange(len(present_S), device=present_S.device)
        partner_S[with_target] = with_target[torch.randperm(len(with_target), device=present_S.device)]
        alpha = torch.full((len(present_S),), self.settings.mixup, device=state_SD.device)
        share_S = torch.distributions.Beta(alpha, alpha).sample()
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
        """`loss` and `count`, and `confusion` `[C, C]` (rows are true) or `tp`, `fp`, `fn` `[C]`."""
        target = batch.targets[self.name]
        logits_SC, wanted = self.logits(outputs).detach(), self._wanted(target)
        loss = self._loss(logits_SC, wanted, 0.0).double().sum().cpu()
        state: State = {"loss": loss, "count": target.present.sum().cpu()}
        present_S = target.present
        if self.settings.multi_label:
            said_SC, true_SC = (logits_SC > 0)[present_S], wanted[present_S] > 0
            pairs = {"tp": said_SC & true_SC, "fp": said_SC & ~true_SC, "fn": ~said_SC & true_SC}
            return state | {name: hit.sum(0).cpu() for name, hit in pairs.items()}
        size = len(self.classes)
        pair_S = wanted[present_S] * size + logits_SC.argmax(1)[present_S]
        return state | {"confusion": torch.bincount(pair_S, minlength=size * size).view(size, size).cpu()}

    def compute(self, state: Mapping[str, Any]) -> dict[str, float]:
        """`loss` (per target, without smoothing), `accuracy` and `macro_f1` (over classes that occur or are predicted).

        Multi-label `accuracy` is the share of right decisions over all samples and classes.
        """
        count = int(state["count"])
        if not count:
            return dict.fromkeys(("loss", "accuracy", "macro_f1"), math.nan)
        if self.settings.multi_label:
            tp_C, fp_C, fn_C = state["tp"], state["fp"], state["fn"]
            accuracy = 1 - float((fp_C + fn_C).sum()) / (count * len(self.classes))
        else:
            tp_C = state["confusion"].diagonal()
            fp_C, fn_C = state["confusion"].sum(0) - tp_C, state["confusion"].sum(1) - tp_C
            accuracy = float(tp_C.sum()) / count
        seen_C = tp_C + fp_C + fn_C > 0
        f1_C = 2 * tp_C.double() / (2 * tp_C + fp_C + fn_C).clamp(min=1)
        macro_f1 = float(f1_C.sum() / seen_C.sum().clamp(min=1))
        return {"loss": float(state["loss"]) / count, "accuracy": accuracy, "macro_f1": macro_f1}

    def exhibits(self, state: Mapping[str, Any]) -> dict[str, Exhibit]:
        """`confusion` (single label), and `classes`: precision, recall, F1 and number of samples of each class."""
        if not int(state["count"]):
            return {}
        if self.settings.multi_label:
            tp_C, fp_C, fn_C = (state[name].numpy() for name in ("tp", "fp", "fn"))
        else:
            counts = state["confusion"].numpy()
            tp_C = counts.diagonal()
            fp_C, fn_C = counts.sum(0) - tp_C, counts.sum(1) - tp_C
        labels = [str(c) for c in self.classes]
        parts = ((tp_C, tp_C + fp_C), (tp_C, tp_C + fn_C), (2 * tp_C, 2 * tp_C + fp_C + fn_C))
        shares = [[float(a / b) if b else math.nan for a, b in zip(*part, strict=True)] for part in parts]
        rows = list(zip(labels, *shares, (tp_C + fn_C).tolist(), strict=True))
        shown: dict[str, Exhibit] = {
            "classes": Listing(columns=("class", "precision", "recall", "f1", "samples"), rows=rows)
        }
        if not self.settings.multi_label:
            shown["confusion"] = Confusion(counts=counts, labels=labels)
        return shown

    def predict(self, outputs: Outputs) -> list[dict[str, Any]]:
        """The label and its `probability`; multi label: a JSON list of those above one half, a JSON object of all."""
        logits_SC = self.logits(outputs)
        chances_SC = logits_SC.sigmoid() if self.settings.multi_label else logits_SC.softmax(1)
        rows = [dict(zip(self.classes, row, strict=True)) for row in chances_SC.tolist()]
        if self.settings.multi_label:
            likely = [[c for c, p in row.items() if p > 0.5] for row in rows]
            return [{"": _json(labels), "probability": _json(row)} for labels, row in zip(likely, rows, strict=True)]
        best = [max(row, key=lambda c: row[c]) for row in rows]
        return [{"": label, "probability": row[label]} for label, row in zip(best, rows, strict=True)]

    def _wanted(self, target: TargetBatch) -> Tensor:
        """Class of each sample, int64 `[S]`; multi label: 1 or 0 of each class, float32 `[S, C]`; `ABSENT` if none."""
        present_S = target.present
        owner = torch.arange(len(present_S), device=present_S.device).repeat_interleave(target.lengths)
        if self.settings.multi_label:
            wanted_SC = torch.zeros(len(present_S), len(self.classes), device=present_S.device)
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
