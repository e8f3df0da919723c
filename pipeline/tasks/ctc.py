"""CTC (Graves et al. 2006): a text spelled by a field's own tokens in their order, such as the frames of a speech.

Each token says one id or nothing; repeats are merged, then what says nothing is left out. `BEGIN`, which no text holds,
stands for nothing. A text needs at least as many tokens as it has ids, and one more for each id that repeats the one
before.
"""

# T rows of the field's sequence (tokens, then slack), S samples, M most tokens of a sample, V ids

import torch
from torch import Tensor, nn

from interlace.contract.batch import move
from interlace.contract.sample import BEGIN, END, UNKNOWN
from interlace.model.attention import Segments
from interlace.model.decoder import padded_rows
from interlace.tasks.beam_search import Text

BLANK = BEGIN


class CtcHead(nn.Module):
    """Log-probabilities of ids at each token of a field."""

    def __init__(self, dim: int, vocab_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, vocab_size)

    def forward(self, x_TD: Tensor, segments: Segments) -> Tensor:
        """`[T, D]` -> float32 `[M, S, V]`, padded; what lies beyond a sample's tokens means nothing."""
        with torch.autocast(x_TD.device.type, enabled=False):
            log_probs_TV = self.project(self.norm(x_TD)).log_softmax(1)
            if not len(log_probs_TV):
                log_probs_TV = log_probs_TV.new_zeros(1, log_probs_TV.shape[1]) + 0 * self.project.bias
            out_MSV: Tensor = log_probs_TV[padded_rows(segments)[0]].transpose(0, 1)
        return out_MSV


def ctc_losses(log_probs_MSV: Tensor, segments: Segments, ids_N: Tensor, lengths_S: Tensor) -> Tensor:
    """-log of the probability of each sample's text, `[S]`; 0 with zero gradient where it can't be aligned.

    Args:
        log_probs_MSV: of `CtcHead`.
        segments: tokens of the field.
        ids_N: the texts end to end, int64, without `END`, on the CPU.
        lengths_S: their lengths, on the CPU.
    """
    fits_S, device = can_align(segments.host_N, ids_N, lengths_S), log_probs_MSV.device
    # Within `torch.nn.functional.ctc_loss`, which would copy the texts back from a GPU to see which kernel takes them.
    losses_S, _ = torch.ops.aten._ctc_loss(
        log_probs_MSV, move(ids_N, device), segments.host_N.tolist(), lengths_S.tolist(), BLANK, True
    )
    losses_S = torch.where(losses_S == torch.inf, 0.0, losses_S)
    return losses_S.masked_fill(~move(fits_S, device), 0.0)


def can_align(tokens_S: Tensor, ids_N: Tensor, lengths_S: Tensor) -> Tensor:
    """Whether each sample has tokens enough for its text, bool `[S]`; a sample without tokens has not. On the CPU."""
    owner_N = torch.arange(len(lengths_S)).repeat_interleave(lengths_S)
    repeats_N = (ids_N[1:] == ids_N[:-1]) & (owner_N[1:] == owner_N[:-1])
    needed_S = lengths_S + torch.zeros_like(lengths_S).index_add_(0, owner_N[1:], repeats_N.long())
    return (tokens_S >= needed_S) & (tokens_S > 0)


@torch.no_grad()
def best_path(log_probs_MSV: Tensor, segments: Segments) -> list[Text]:
    """The text of each sample's most likely path, repeats merged, and the log-probability of that path."""
    log_probs_MSV = log_probs_MSV.clone()
    log_probs_MSV[..., [UNKNOWN, END]] = -torch.inf
    best_MS, said_MS = log_probs_MSV.max(2)
    texts = []
    for s, length in enumerate(segments.host_N.tolist()):
        said = said_MS[:length, s]
        changes = torch.ones_like(said, dtype=torch.bool)
        changes[1:] = said[1:] != said[:-1]
        ids = said[changes & (said != BLANK)].tolist()
        texts.append(Text(ids=tuple(ids), log_prob=float(best_MS[:length, s].double().sum()), ended=False))
    return texts
