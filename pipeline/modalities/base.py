"""How one kind of value becomes tokens: the protocol that every modality follows.

A modality is made for one field from its settings and its fitted state (a tokenizer, a vocabulary, statistics). Laws,
tested for each: `encode(decode(v))` has exactly `num_tokens(measure(v))` tokens; measuring reads headers only where the
format has one; decoding twice gives the same bytes; `augment` keeps the number of tokens; a value that can't be used
raises `RecordError` with a reason.

What a field must know of the training rows is learned by a `Learner`, a row group at a time and anywhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from interlace.contract.sample import FieldSpec, Tokens
from interlace.modalities.columns import Columns, Measured, measure_each

Fitted = Mapping[str, Any]
"""What a modality learned from the training rows: plain JSON values, saved with the model."""

Extent = tuple[int, int]
"""Size of a value before decoding, two integers whose meaning is the modality's own (pixels, tokens, samples)."""


class Modality(ABC):
    """One field's way from a raw value to tokens. `value` is the tuple of the field's columns, never all null."""

    varies: bool = True
    """Whether `augment` may change a value: where none of a recipe's fields does, no `rng` is made for samples."""

    @property
    @abstractmethod
    def spec(self) -> FieldSpec:
        """The shape of this field's tokens."""

    @abstractmethod
    def measure(self, value: tuple[Any, ...]) -> Extent:
        """Size of a value, from its header alone where it has one. Raises RecordError."""

    def measure_column(self, columns: Columns) -> Measured:
        """As `measure` of each row of a field's columns: extents, -1 where there is none, and reasons by row."""
        return measure_each(self.measure, columns)

    def measured_by(self, fitted: "Fitted") -> "Fitted":
        """The part of the fitted state that extents and refusals depend on: an index is made anew where it changes."""
        return fitted

    @abstractmethod
    def grid(self, extent: Extent) -> tuple[int, int]:
        """Rows and columns of the tokens of a value of this size; `num_tokens` is their product."""

    @abstractmethod
    def decode(self, value: tuple[Any, ...]) -> NDArray[Any]:
        """The value as an array (pixels, ids, numbers). Raises RecordError."""

    @abstractmethod
    def augment(self, decoded: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """A random variant for training with as many tokens as before; `rng` is the only source of randomness."""

    @abstractmethod
    def encode(self, decoded: NDArray[Any]) -> Tokens:
        """The tokens of a decoded value."""

    @abstractmethod
    def token_texts(self, decoded: NDArray[Any]) -> tuple[str | None, ...]:
        """Each token as a person reads it, None for an unknown one; empty where tokens are no words (patches)."""

    def num_tokens(self, extent: Extent) -> int:
        """Tokens of a value of this size."""
        rows, columns = self.grid(extent)
        return rows * columns


Values = Iterable[tuple[Any, ...]]
"""Raw values of one field over the training rows, for fitting; fields that are wholly null are left out."""


class Learner(ABC):
    """What one field (or target) learns from the training rows: `partial` for each row group, `merge`, then `finish`.

    Partials are merged in the order of the row groups, so the fitted state does not depend on where they were made.
    """

    @abstractmethod
    def partial(self, values: Values) -> Any:
        """What these values tell, as plain JSON that is small beside them; changes nothing here.

        It goes once over the values and passes over those that `measure` would refuse.
        """

    @abstractmethod
    def merge(self, partial: Any) -> None:
        """Take in a partial, possibly after a round trip through JSON. Raises DataError for values of no use at all."""

    @abstractmethod
    def finish(self) -> Fitted:
        """The state that all merged partials give. Raises DataError if it is not enough."""


@final
class FixedLearner(Learner):
    """The learner of a field whose state needs no values."""

    def __init__(self, fitted: Fitted) -> None:
        self._fitted = fitted

    def partial(self, values: Values) -> None:
        """Nothing; the values are not read."""

    def merge(self, partial: None) -> None:
        """Nothing."""

    def finish(self) -> Fitted:
        """The state as it was given."""
        return self._fitted
