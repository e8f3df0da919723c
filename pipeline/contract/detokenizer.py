"""Ids -> strings: the way back from what `interlace.modalities.text` makes of a text.

In: the fitted state of a tokenizer, plain JSON. Both arms use it: a model that writes text has no data arm beside it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, final

from tokenizers import Tokenizer

from interlace.contract.sample import NUM_SPECIALS, UNKNOWN

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What stands for the unknown token in a text."""


@final
class Detokenizer:
    """Strings of ids; `BEGIN` and `END` are passed over.

    Args:
        fitted: state of a tokenizer: empty for bytes, else with `characters` or `tokenizer`.
    """

    def __init__(self, fitted: Mapping[str, Any]) -> None:
        self._characters: str | None = fitted.get("characters")
        file = fitted.get("tokenizer")
        self._pieces = None if file is None else Tokenizer.from_str(file)

    @property
    def vocab_size(self) -> int:
        """Number of ids, with the specials."""
        if self._pieces is not None:
            return max(self._pieces.get_vocab().values(), default=-1) + 1 + NUM_SPECIALS
        return NUM_SPECIALS + (256 if self._characters is None else len(self._characters))

    def __call__(self, ids: Sequence[int]) -> str:
        """The text of these ids, without space at its ends; what is unknown or no UTF-8 is `REPLACEMENT`."""
        kept = [i for i in ids if i == UNKNOWN or i >= NUM_SPECIALS]
        runs: list[list[int]] = [[]]
        for i in kept:
            if i == UNKNOWN:
                runs.append([])
            else:
                runs[-1].append(i - NUM_SPECIALS)
        return REPLACEMENT.join(self._known(run) for run in runs).strip()

    def _known(self, ids: list[int]) -> str:
        if self._pieces is not None:
            return str(self._pieces.decode(ids, skip_special_tokens=False))
        if self._characters is not None:
            return "".join(self._characters[i] for i in ids)
        return bytes(ids).decode(errors="replace")
