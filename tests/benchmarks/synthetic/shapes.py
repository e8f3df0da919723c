"""Lengths of synthetic samples, and models in which they cost unlike amounts: `SHAPES`, `MODELS`.

The mixes are pictures of four sizes, sounds and texts with heavy tails, each missing in some samples; fields after the
third hold a few numbers of a table. Nothing is read or decoded: a sample is its tokens by field.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interlace.contract.flops import FieldFlops, Flops

Tokens = NDArray[np.int32]
Rng = np.random.Generator
Draw = Callable[[int, int, Rng], Tokens]
"""Samples, fields and a generator -> tokens, int32 `[fields, samples]`; 0 where a field is missing."""

BUDGET = 16_384
DIM = 1024


def pictures(count: int, rng: Rng) -> Tokens:
    """Of four sizes; 15 % are missing."""
    sizes = np.array([64, 144, 256, 576], np.int32)[np.searchsorted([0.2, 0.5, 0.8], rng.random(count, np.float32))]
    return np.where(rng.random(count, np.float32) < 0.85, sizes, np.int32(0))


def sounds(count: int, rng: Rng) -> Tokens:
    """Log-normal, up to 3,000; half are missing."""
    return _log_normal(count, rng, (5.0, 0.8, 10, 3000, 0.5))


def texts(count: int, rng: Rng) -> Tokens:
    """Log-normal, up to 1,500; a tenth are missing."""
    return _log_normal(count, rng, (3.8, 0.9, 4, 1500, 0.9))


def _log_normal(count: int, rng: Rng, law: tuple[float, float, int, int, float]) -> Tokens:
    mean, deviation, least, most, share = law
    drawn = np.exp(mean + deviation * rng.standard_normal(count, np.float32))
    sizes = np.minimum(drawn.astype(np.int32) + least, most).astype(np.int32)
    return np.where(rng.random(count, np.float32) < share, sizes, np.int32(0))


def numbers(count: int, rng: Rng) -> Tokens:
    """One to six numbers of a table."""
    return rng.integers(1, 7, count, np.int32)


def mixed(count: int, fields: int, rng: Rng) -> Tokens:
    """Pictures, sounds, texts, and tables after these."""
    kinds = (pictures, sounds, texts, *[numbers] * max(0, fields - 3))
    return np.stack([kind(count, rng) for kind in kinds[:fields]])


def uniform(count: int, fields: int, rng: Rng) -> Tokens:
    """Each field 1 to 255 tokens."""
    return rng.integers(1, 256, (fields, count), np.int32)


def equal(count: int, fields: int, rng: Rng) -> Tokens:
    """Each field 100 tokens."""
    return np.full((fields, count), 100, np.int32)


def heavy(count: int, fields: int, rng: Rng) -> Tokens:
    """Pareto tails (exponent 1.2) from 16 tokens up to what all fields may take of the budget."""
    drawn = 16 * (1 + rng.pareto(1.2, (fields, count)))
    return np.minimum(drawn, BUDGET // fields).astype(np.int32)


SHAPES: Mapping[str, Draw] = {"mixed": mixed, "uniform": uniform, "equal": equal, "heavy": heavy}
"""Name of a shape of lengths -> how samples of it are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """Layers of the encoders of the first three fields, and those over all tokens."""

    fields: Sequence[int]
    joint: int

    def flops(self, fields: int) -> Flops:
        """What samples of so many fields cost; fields after the third have no layers of their own."""
        own = [*self.fields, *[0] * fields][:fields]
        linear, quadratic = 24.0 * DIM**2, 4.0 * DIM
        return Flops(
            fields={
                n: FieldFlops(linear=k * linear, quadratic=k * quadratic)
                for n, k in zip(names(fields), own, strict=True)
            },
            joint=self.joint * linear,
            joint_quadratic=self.joint * quadratic,
        )


MODELS: Mapping[str, Layers] = {
    "early": Layers(fields=(0, 0, 0), joint=24),
    "three-encoders": Layers(fields=(24, 12, 6), joint=6),
    "one-deep-encoder": Layers(fields=(32, 4, 0), joint=4),
}
"""The three mixes: one Transformer over all tokens, encoders of unlike depth, and one much deeper than the others."""


def names(fields: int) -> list[str]:
    """Names of so many fields."""
    return [f"field_{i}" for i in range(fields)]
