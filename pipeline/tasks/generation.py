"""Generation: a decoder that writes a text from a sample's tokens, and CTC that spells it by a field's own tokens.

Loss: `(1 - ctc_weight)` x cross entropy of each next token + `ctc_weight` x CTC, per target token (Watanabe et al.
2017, hybrid CTC/attention). Writing: greedy, or by a beam whose texts are ranked by both; from CTC alone its best path.
"""

# T rows of the packed texts (tokens, then slack), S samples, D width, V ids

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from interlace.contract.batch import Batch, TargetBatch, move
from interlace.contract.detokenizer import Detokenizer
from interlace.contract.sample import BEGIN, END
from interlace.model.attention import Segments
from interlace.model.decoder import Decoder, Memory
from interlace.model.embedding import IdVectors
from interlace.model.fusion import FieldTokens
from interlace.model.network import Outputs
from interlace.model.next_token import ABSENT, vocabulary_loss
from interlace.recipe import tasks as recipe
from interlace.tasks.base import ColumnType, Context, State, Task
from interlace.tasks.beam_search import Text, beam_search, greedy, length_norm
from interlace.tasks.ctc import CtcHead, best_path, can_align, ctc_losses
from interlace.tasks.text_metrics import bleu, character_errors, chrf, word_errors


class GenerationTask(Task):
    """Write a text.

    Args:
        settings: the task's part of the recipe.
        context: `fitted` is the state of the target's tokenizer.
    """

    def __init__(self, settings: recipe.GenerationTask, context: Context) -> None:
        super().__init__()
        self.name = context.name
        self.settings = settings
        self.main_metric = settings.metric
        self.higher_is_better = settings.metric in ("bleu", "chrf")
        self.reads_sample = settings.ctc_weight < 1
        self.detokenize = Detokenizer(context.fitted)
        dim, vocab_size = context.model.dim, self.detokenize.vocab_size
        self.shares = _field_of(settings, context)
        self.decoder = self.table = self.project = self.ctc = None
        if self.reads_sample:
            self.decoder = Decoder(context.model, settings.layers, settings.max_tokens + 1)
            self.table = None if self.shares else IdVectors(vocab_size, dim)
            self.project = None if settings.tied else nn.Linear(dim, vocab_size, bias=False)
        if settings.ctc_field is not None:
            self.ctc = CtcHead(dim, vocab_size)

    def count(self, batch: Batch) -> int:
        """Target tokens, with those that end the texts."""
        return len(batch.targets[self.name].values)

    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Sum over the target tokens; texts that CTC can't align count in the decoder's part only."""
        target, weight = batch.targets[self.name], self.settings.ctc_weight
        total = outputs.sample_SD.sum() * 0.0  # layers that nothing reads take part, with no gradient
        if self.decoder is not None:
            segments = Segments(target.lengths, total.device)
            x_TD, out_VD = self._states(outputs, target, segments)
            smoothing = self.settings.label_smoothing
            entropy = vocabulary_loss(x_TD, out_VD, _wanted(target, segments), smoothing)
            total = total + (1 - weight) * entropy
        if self.ctc is not None:
            total = total + weight * self._ctc_losses(outputs, target).sum()
        return total

    def _states(self, outputs: Outputs, target: TargetBatch, segments: Segments) -> tuple[Tensor, Tensor]:
        """State after each token of the packed texts, which `BEGIN` opens, `[T, D]`, and the output matrix."""
        assert self.decoder is not None
        read_N = target.values.roll(1)
        opens = (target.lengths.cumsum(0) - target.lengths)[target.lengths > 0]
        read_N[opens] = BEGIN
        table_VD, out_VD = self.tables(outputs)
        return self.decoder(table_VD, move(read_N, segments.device), segments, memory_of(outputs)), out_VD

    def tables(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """Vectors of the ids, and the output matrix."""
        table_VD = self.table.weight if self.table is not None else outputs.tables[self.shares]
        return table_VD, table_VD if self.project is None else self.project.weight

    def _ctc_tokens(self, outputs: Outputs) -> FieldTokens:
        return outputs.tokens[str(self.settings.ctc_field)]

    def _ctc_log_probs(self, outputs: Outputs) -> Tensor:
        assert self.ctc is not None
        tokens = self._ctc_tokens(outputs)
        log_probs_MSV: Tensor = self.ctc(tokens.x_TD, tokens.segments)
        return log_probs_MSV

    def _ctc_losses(self, outputs: Outputs, target: TargetBatch) -> Tensor:
        losses_S = ctc_losses(self._ctc_log_probs(outputs), self._ctc_tokens(outputs).segments, *_spelled(target))
        return losses_S.masked_fill(~move(target.present, losses_S.device), 0.0)  # no text is not the empty text

    @torch.no_grad()
    def generate(self, outputs: Outputs) -> list[Text]:
        """The text of each sample."""
        settings = self.settings
        if self.decoder is None:
            return best_path(self._ctc_log_probs(outputs), self._ctc_tokens(outputs).segments)
        decoding = self.decoder.start(*self.tables(outputs), memory_of(outputs))
        if settings.beam == 1:
            return greedy(decoding, settings.max_tokens)
        found = beam_search(decoding, settings.max_tokens, settings.beam, settings.length_penalty)
        return [texts[0] for texts in found] if self.ctc is None else self._agreed(found, outputs)

    def _agreed(self, found: list[list[Text]], outputs: Outputs) -> list[Text]:
        """Of the texts found for each sample, the one that decoder and CTC together score best."""
        settings, weight = self.settings, self.settings.ctc_weight
        texts = [text for own in found for text in own]
        owner = torch.tensor([s for s, own in enumerate(found) for _ in own])
        ids = torch.tensor([i for text in texts for i in text.ids], dtype=torch.int64)
        lengths = torch.tensor([len(text.ids) for text in texts])
        tokens = self._ctc_tokens(outputs)
        spelled = Segments(tokens.segments.host_N[owner], tokens.segments.device)
        costs = ctc_losses(self._ctc_log_probs(outputs)[:, owner], spelled, ids, lengths)
        costs = costs.cpu().masked_fill(~can_align(spelled.host_N, ids, lengths), torch.inf)
        scores = [
            ((1 - weight) * text.log_prob - weight * cost)
            / length_norm(len(text.ids) + text.ended, settings.length_penalty)
            for text, cost in zip(texts, costs.tolist(), strict=True)
        ]
        best, first = [], 0
        for own in found:
            ranked = scores[first : first + len(own)]
            best.append(own[ranked.index(max(ranked))])
            first += len(own)
        return best

    @property
    def prediction_types(self) -> Mapping[str, ColumnType]:
        """The text and its score."""
        return {"": "string", "score": "double"}

    def predict(self, outputs: Outputs) -> list[dict[str, Any]]:
        """The text, and its `score`: the log-probability (from CTC alone: of the best path)."""
        return [{"": self.detokenize(text.ids), "score": text.log_prob} for text in self.generate(outputs)]

    @torch.no_grad()
    def state(self, outputs: Outputs, batch: Batch) -> State:
        """Sums over target tokens, texts that CTC can't align, and written texts beside their references.

        Texts are written for the first `eval_samples` rows of the split, for all if `thorough`.
        """
        target = batch.targets[self.name]
        state: State = {"count": torch.tensor(len(target.values))}
        if self.decoder is not None:
            segments = Segments(target.lengths, outputs.sample_SD.device)
            logits_TV = functional.linear(*self._states(outputs, target, segments)).float()
            wanted_T = _wanted(target, segments)
            entropy = functional.cross_entropy(logits_TV, wanted_T, reduction="sum")
            state["entropy"], state["right"] = entropy.double().cpu(), (logits_TV.argmax(1) == wanted_T).sum().cpu()
        if self.ctc is not None:
            ids_N, lengths_S = _spelled(target)
            tokens_S = self._ctc_tokens(outputs).segments.host_N
            state["ctc"] = self._ctc_losses(outputs, target).double().sum().cpu()
            state["unaligned"] = (target.present & ~can_align(tokens_S, ids_N, lengths_S)).sum().cpu()
        state["present"] = target.present.sum().cpu()
        chosen_S = target.present & (self.thorough | (batch.sample_ids < self.settings.eval_samples))
        return state | self._compare(outputs, target, chosen_S)

    def _compare(self, outputs: Outputs, target: TargetBatch, chosen_S: Tensor) -> State:
        """Written texts of chosen samples, their references, and errors in words and characters."""
        if not bool(chosen_S.any()):
            return {"written": [], "references": [], "errors": torch.zeros(4, dtype=torch.int64)}
        chosen = chosen_S.nonzero().flatten().tolist()
        said = [self.detokenize(text.ids) for text in self.generate(outputs)]
        ids = [part.tolist() for part in torch.split(target.values, target.lengths.tolist())]
        written, references = [said[s] for s in chosen], [self.detokenize(ids[s]) for s in chosen]
        pairs = list(zip(references, written, strict=True))
        errors = torch.tensor([(*word_errors(*pair), *character_errors(*pair)) for pair in pairs]).sum(0)
        return {"written": written, "references": references, "errors": errors}

    def compute(self, state: Mapping[str, Any]) -> dict[str, float]:
        """The loss per token, without smoothing; of written texts WER and CER in percent, BLEU and chrF.

        `token_accuracy` (next token given those before it) with a decoder, `ctc_unaligned` (share of texts) with CTC.
        """
        count, weight = max(int(state["count"]), 1), self.settings.ctc_weight
        loss = 0.0
        metrics: dict[str, float] = {}
        if self.decoder is not None:
            loss += (1 - weight) * float(state["entropy"])
            metrics["token_accuracy"] = float(state["right"]) / count
        if self.ctc is not None:
            loss += weight * float(state["ctc"])
            metrics["ctc_unaligned"] = float(state["unaligned"]) / max(int(state["present"]), 1)
        metrics = {"loss": loss / count, **metrics}
        if not int(state["present"]):
            metrics = dict.fromkeys(metrics, math.nan)
        return metrics | _text_metrics(state["references"], state["written"], state["errors"].tolist())


def _text_metrics(references: Sequence[str], written: Sequence[str], errors: Sequence[int]) -> dict[str, float]:
    if not references:
        return dict.fromkeys(("wer", "cer", "bleu", "chrf"), math.nan)
    words, of_words, characters, of_characters = errors
    rates = {"wer": 100 * words / max(of_words, 1), "cer": 100 * characters / max(of_characters, 1)}
    return rates | {"bleu": bleu(references, written), "chrf": chrf(references, written)}


def _field_of(settings: recipe.GenerationTask, context: Context) -> str:
    """The field whose table of vectors the task uses; empty where it has its own."""
    if settings.vocabulary is None or not settings.tied:
        return ""
    fields = (n for n, f in context.fields.items() if getattr(f, "vocabulary", None) == settings.vocabulary)
    return next(fields, "")


def memory_of(outputs: Outputs) -> Memory:
    """What a decoder looks at: the samples' tokens after all layers."""
    return Memory(x_UD=outputs.joint.x_TD, segments=outputs.joint.segments)


def _wanted(target: TargetBatch, segments: Segments) -> Tensor:
    """The token to predict at each row, `ABSENT` at slack."""
    wanted_T = functional.pad(target.values, (0, segments.num_rows - len(target.values)), value=ABSENT)
    return move(wanted_T, segments.device)


def _spelled(target: TargetBatch) -> tuple[Tensor, Tensor]:
    """The packed texts without `END`, and their lengths, on the CPU."""
    owner_N = torch.arange(len(target.lengths)).repeat_interleave(target.lengths)
    kept_N = target.values != END
    lengths_S = torch.zeros_like(target.lengths).index_add_(0, owner_N, kept_N.long())
    return target.values[kept_N], lengths_S
