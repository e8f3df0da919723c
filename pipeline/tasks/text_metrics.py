"""Metrics of written texts, from strings to statistics that add: edit distances, and those of BLEU and chrF.

Word and character error rates count as jiwer does by default: texts without space at their ends, words between spaces.
BLEU (Papineni et al. 2002) and chrF (Popović 2015) are sacrebleu's, with its default settings, over the whole corpus.
"""

from collections.abc import Sequence

import numpy as np
import sacrebleu


def edit_distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Fewest insertions, deletions and substitutions that make one sequence of the other (Levenshtein 1966).

    By rows of the table, each a running minimum: `row[j] = min(row[j - 1] + 1, cheapest way from the row above)`.
    """
    index = {item: i for i, item in enumerate(dict.fromkeys((*one, *other)))}
    other_ids = np.array([index[item] for item in other], np.int64)
    ramp = np.arange(len(other) + 1)
    row = ramp.copy()
    for i, item in enumerate(one, start=1):
        from_above = np.minimum(row[1:] + 1, row[:-1] + (other_ids != index[item]))
        row = np.minimum.accumulate(np.concatenate([[i], from_above]) - ramp) + ramp
    return int(row[-1])


def word_errors(reference: str, written: str) -> tuple[int, int]:
    """Edit distance in words, and words of the reference."""
    words = reference.split()
    return edit_distance(words, written.split()), len(words)


def character_errors(reference: str, written: str) -> tuple[int, int]:
    """Edit distance in characters, and characters of the reference."""
    reference = reference.strip()
    return edit_distance(reference, written.strip()), len(reference)


def bleu(references: Sequence[str], written: Sequence[str]) -> float:
    """Corpus BLEU in 0..100, one reference a text, tokenizer `13a`."""
    return float(sacrebleu.corpus_bleu(list(written), [list(references)]).score)


def chrf(references: Sequence[str], written: Sequence[str]) -> float:
    """Corpus chrF2 in 0..100."""
    return float(sacrebleu.corpus_chrf(list(written), [list(references)]).score)
