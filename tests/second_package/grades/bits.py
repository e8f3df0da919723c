"""Integers -> binary digits, the highest first."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from grades.plugin import BitsField
from interlace.contract.errors import DataError, RecordError
from interlace.contract.sample import FieldSpec, Tokens
from interlace.modalities.base import Extent, Fitted, Learner, Modality, Values


def natural(value: Any) -> int:
    """The value if it is an integer from 0 on. Raises RecordError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RecordError(f"expected an integer from 0 on, but is {value!r}")
    return value


class BitsLearner(Learner):
    """`{"digits": n}`: as the settings say, or enough for the largest number of the training rows."""

    def __init__(self, field: BitsField) -> None:
        self._field, self._largest = field, -1

    def partial(self, values: Values) -> int:
        """The largest number, -1 where there is none."""
        found = -1
        for (value,) in values:
            try:
                found = max(found, natural(value))
            except RecordError:
                continue
        return found

    def merge(self, partial: int) -> None:
        """The larger of both."""
        self._largest = max(self._largest, partial)

    def finish(self) -> Fitted:
        """The number of digits. Raises DataError where there is no number and none is set."""
        if self._field.digits is not None:
            return {"digits": self._field.digits}
        if self._largest < 0:
            raise DataError(
                f"expected an integer in column `{self._field.column}` of the training rows, but found none"
            )
        return {"digits": max(1, self._largest.bit_length())}


class Bits(Modality):
    """Extent: (digits, 0)."""

    def __init__(self, name: str, field: BitsField, fitted: Fitted) -> None:
        self._field, self._digits = field, int(fitted["digits"])
        self._spec = FieldSpec(name=name, kind="ids", vocab_size=2, max_grid=(self._digits, 1))

    @property
    def spec(self) -> FieldSpec:
        """Two ids."""
        return self._spec

    def measure(self, value: tuple[Any, ...]) -> Extent:
        """All values have the same digits. Raises RecordError for one that needs more."""
        if natural(value[0]).bit_length() > self._digits:
            raise RecordError(f"expected an integer below {2**self._digits}, but is {value[0]}; see `digits`")
        return self._digits, 0

    def grid(self, extent: Extent) -> tuple[int, int]:
        """One column of digits."""
        return extent[0], 1

    def decode(self, value: tuple[Any, ...]) -> NDArray[np.int32]:
        """Digits, int32 `[n]`. Raises RecordError."""
        digits, _ = self.measure(value)
        return np.array([value[0] >> i & 1 for i in reversed(range(digits))], np.int32)

    def augment(self, decoded: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """The last digit drawn anew with the chance `noise`."""
        if rng.random() >= self._field.noise:
            return decoded
        return np.append(decoded[:-1], rng.integers(0, 2, 1, dtype=np.int32))

    def encode(self, decoded: NDArray[Any]) -> Tokens:
        """The digits themselves."""
        return Tokens(values=decoded, grid=(len(decoded), 1))

    def token_texts(self, decoded: NDArray[Any]) -> tuple[str | None, ...]:
        """Digits as people write them."""
        return tuple(map(str, decoded.tolist()))
