"""Search for a likely text: greedy, and beam search, for all samples of a pack at once.

In: a `DecodingState` that has written nothing. Out: for each sample the ids of its text (without `END`) and their
log-probability under the model, `END` included where it was written. Samples that are done leave the batch.
"""

# S samples, W texts a sample, V ids

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from interlace.contract.sample import BEGIN, END, UNKNOWN
from interlace.model.decoder import DecodingState

NEVER = (UNKNOWN, BEGIN)
"""Ids that are never written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Ids without `END`, and the log-probability of writing them; `ended` unless cut at the longest length."""

    ids: tuple[int, ...]
    log_prob: float
    ended: bool

    def score(self, penalty: float) -> float:
        """What beam search ranks it by."""
        return self.log_prob / length_norm(len(self.ids) + self.ended, penalty)


@torch.no_grad()
def greedy(decoding: DecodingState, max_tokens: int) -> list[Text]:
    """The most likely token at each step, until `END` or `max_tokens` tokens."""
    device = decoding.table_VD.device
    live = torch.arange(decoding.num_samples, device=device)
    ids = torch.full((len(live), max_tokens), END, device=device)
    total_S = torch.zeros(len(live), device=device, dtype=torch.float64)
    last_S1 = torch.full((len(live), 1), BEGIN, device=device)
    for step in range(max_tokens):
        best_S, last_S = _writable(decoding.log_probs(last_S1)[:, 0]).max(1)
        total_S[live] += best_S.double()
        ids[live, step] = last_S
        going = (last_S != END).nonzero().flatten()
        if not len(going):
            break
        if len(going) < len(live):
            live = live[going]
            decoding.keep(going)
        last_S1 = last_S[going].unsqueeze(1)
    return [_text(row, total) for row, total in zip(ids.tolist(), total_S.tolist(), strict=True)]


def _writable(log_probs: Tensor) -> Tensor:
    log_probs[..., list(NEVER)] = -torch.inf
    return log_probs


def _text(row: list[int], log_prob: float) -> Text:
    ended = END in row
    return Text(ids=tuple(row[: row.index(END)] if ended else row), log_prob=log_prob, ended=ended)


def length_norm(length: int, penalty: float) -> float:
    """What a log-probability is divided by (Wu et al. 2016, GNMT, equation 14): 1 for a penalty of 0."""
    return float(((5 + length) / 6) ** penalty)


@dataclass(slots=True, kw_only=True)
class _Beams:
    """The texts of the samples that are still searched, `[S, W]`, best first; dead ones have -inf."""

    ids_SWL: Tensor
    total_SW: Tensor

    def take(self, samples: Tensor) -> "_Beams":
        return _Beams(ids_SWL=self.ids_SWL[samples], total_SW=self.total_SW[samples])


@torch.no_grad()
def beam_search(decoding: DecodingState, max_tokens: int, width: int, penalty: float) -> list[list[Text]]:
    """The texts that a beam of `width` texts finds for each sample, the best first; a width of 1 is greedy.

    Texts are ranked by log-probability over `length_norm`. One that ends leaves the beam and its place stays empty, so
    up to `width` are found (Wu et al. 2016). A sample is done when no open text can become better than its best.
    """
    device = decoding.table_VD.device
    live = torch.arange(decoding.num_samples, device=device)
    found: list[list[Text]] = [[] for _ in range(len(live))]
    beams = _Beams(
        ids_SWL=torch.zeros(len(live), 1, 0, dtype=torch.int64, device=device),
        total_SW=torch.zeros(len(live), 1, dtype=torch.float64, device=device),
    )
    last_SW = torch.full((len(live), 1), BEGIN, device=device)
    for step in range(1, max_tokens + 1):
        beams, parent_SW = _extend(beams, _writable(decoding.log_probs(last_SW)), width)
        own = [found[s] for s in live.tolist()]
        _finish(beams, own, cut=step == max_tokens)
        going = _open(beams, own, penalty, length_norm(max_tokens, penalty))
        if not len(going):
            break
        decoding.reorder(parent_SW)
        if len(going) < len(live):
            live, beams = live[going], beams.take(going)
            decoding.keep(going)
        last_SW = beams.ids_SWL[:, :, -1]
    return [sorted(texts, key=lambda text: -text.score(penalty)) for texts in found]


def _extend(beams: _Beams, log_probs_SWV: Tensor, width: int) -> tuple[_Beams, Tensor]:
    """The best continuations of all texts of a sample, at most as many as there are places, and their parents.

    A place whose text ended stays empty: its rank among the continuations is taken by -inf.
    """
    vocab = log_probs_SWV.shape[2]
    scores = (beams.total_SW.unsqueeze(2) + log_probs_SWV).flatten(1)
    total_SW, chosen_SW = scores.topk(min(width, scores.shape[1]), dim=1)
    places = beams.total_SW.isfinite().sum(1, keepdim=True) if beams.ids_SWL.shape[2] else width
    rank_W = torch.arange(total_SW.shape[1], device=total_SW.device)
    total_SW = total_SW.masked_fill(rank_W >= places, -torch.inf)
    parent_SW = chosen_SW // vocab
    before_SWL = beams.ids_SWL.gather(1, parent_SW.unsqueeze(2).expand(-1, -1, beams.ids_SWL.shape[2]))
    ids_SWL = torch.cat([before_SWL, (chosen_SW % vocab).unsqueeze(2)], dim=2)
    return _Beams(ids_SWL=ids_SWL, total_SW=total_SW), parent_SW


def _finish(beams: _Beams, found: list[list[Text]], *, cut: bool) -> None:
    """Take the texts that ended (all, at the longest length) out of the beam."""
    done_SW = ((beams.ids_SWL[:, :, -1] == END) | cut) & beams.total_SW.isfinite()
    for s, w in done_SW.nonzero().tolist():
        found[s].append(_text(beams.ids_SWL[s, w].tolist(), float(beams.total_SW[s, w])))
    beams.total_SW[done_SW] = -torch.inf


def _open(beams: _Beams, found: list[list[Text]], penalty: float, largest_norm: float) -> Tensor:
    """Samples with an open text that could still beat what they found: log-probabilities only fall with length."""
    bounds = (beams.total_SW.amax(1) / largest_norm).tolist()
    best = [max((text.score(penalty) for text in texts), default=-math.inf) for texts in found]
    going = [s for s, (bound, value) in enumerate(zip(bounds, best, strict=True)) if bound > value]
    return torch.tensor(going, dtype=torch.int64, device=beams.total_SW.device)
