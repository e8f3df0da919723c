"""FLOPs of a sample in a model, from its tokens by field: `model_flops(...) -> Flops`, `Flops.of_rows(tokens)`.

What the plan makes equal, and what the use of a device is measured by. Counted are matrix products of a forward pass
(2 a multiply-add), without heads of tasks; training takes three times as many. Padding, norms, softmax and additions
are left out. A layer of width `D` takes `24 D^2 t + 4 D t^2` for `t` tokens that see each other, if `mlp_ratio` is 4.

    row + joint T + joint_quadratic T^2 + sum over present fields of (each + linear t + quadratic t^2 + cross t T)

where `t` are the field's tokens and `T` those of all fields.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from interlace.contract.sample import FieldSpec

Floats = NDArray[np.float64]

NUM_WAVES = 48
"""Numbers that a clocked token's time becomes before its linear map."""
WIDTH = ("hidden_size", "dim", "d_model", "n_embd")
DEPTH = ("num_hidden_layers", "n_layers", "num_layers", "n_layer")
HIDDEN = ("intermediate_size", "hidden_dim", "d_ff", "n_inner")
"""What configurations of pretrained models call their sizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The settings of a model that decide its FLOPs, named as in the recipe's section `model`."""

    fusion: str
    dim: int
    mlp_ratio: float
    field_layers: int
    joint_layers: int
    bottleneck_tokens: int = 0
    query: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldFlops:
    """Coefficients of one field: see the module's formula."""

    each: float = 0.0
    linear: float = 0.0
    quadratic: float = 0.0
    cross: float = 0.0

    def __add__(self, other: "FieldFlops") -> "FieldFlops":
        return FieldFlops(
            each=self.each + other.each,
            linear=self.linear + other.linear,
            quadratic=self.quadratic + other.quadratic,
            cross=self.cross + other.cross,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """FLOPs of samples: coefficients of fields by name, and of what all share."""

    fields: Mapping[str, FieldFlops]
    joint: float = 0.0
    joint_quadratic: float = 0.0
    row: float = 0.0

    def of_rows(self, tokens: Mapping[str, NDArray[np.integer]]) -> Floats:
        """Forward FLOPs of each sample, float64 `[N]`; the same to the last bit on every CPU.

        Args:
            tokens: `[N]` of each field by name; 0 where it is missing.
        """
        counts = {name: tokens[name].astype(np.float64) for name in self.fields}
        total = sum(counts.values(), np.zeros(1))
        cost = self.row + total * self.joint + total * total * self.joint_quadratic
        for name, part in self.fields.items():
            t = counts[name]
            cost = cost + (t > 0) * part.each + t * part.linear + t * t * part.quadratic + t * total * part.cross
        return cost


def model_flops(model: ModelShape, specs: Mapping[str, FieldSpec], stems: Mapping[str, str]) -> Flops:
    """The FLOPs of a model's samples.

    Args:
        model: its settings.
        specs: the shape of each field's tokens, by name.
        stems: of each field: `linear`, `cnn` or `rnn`; not read where the field has a pretrained encoder.

    Raises:
        KeyError: no such fusion.
    """
    fields = {name: embedding_flops(spec, stems.get(name, "linear"), model.dim) for name, spec in specs.items()}
    if model.fusion != "early":
        fields = {name: part + _layers(model, model.field_layers) for name, part in fields.items()}
    shared = _FUSIONS[model.fusion](model, tuple(fields))
    return Flops(
        fields={name: part + shared.fields.get(name, FieldFlops()) for name, part in fields.items()},
        joint=shared.joint,
        joint_quadratic=shared.joint_quadratic,
        row=shared.row,
    )


def _layers(model: ModelShape, number: int) -> FieldFlops:
    """So many layers over a field's own tokens."""
    return FieldFlops(linear=number * _per_token(model), quadratic=number * 4.0 * model.dim)


def _per_token(model: ModelShape) -> float:
    """Queries, keys, values, what leaves attention, and the feed-forward block of a layer."""
    hidden = round(model.dim * model.mlp_ratio)
    return 8.0 * model.dim**2 + 4.0 * model.dim * hidden


def _joint(model: ModelShape, names: tuple[str, ...]) -> Flops:
    layers = _layers(model, model.joint_layers)
    return Flops(fields={}, joint=layers.linear, joint_quadratic=layers.quadratic)


def _bottleneck(model: ModelShape, names: tuple[str, ...]) -> Flops:
    """Layers of each field over its tokens and the shared ones: `(t + b)` and `(t + b)^2`."""
    layers, shared = _layers(model, model.joint_layers), model.bottleneck_tokens
    part = FieldFlops(
        each=layers.linear * shared + layers.quadratic * shared**2,
        linear=layers.linear + 2 * layers.quadratic * shared,
        quadratic=layers.quadratic,
    )
    return Flops(fields=dict.fromkeys(names, part))


def _cross(model: ModelShape, names: tuple[str, ...]) -> Flops:
    """Each asking field's tokens attend to the `T - t` of the others, whose keys and values it makes for itself."""
    layers, dim = model.joint_layers, float(model.dim)
    keys = layers * 4 * dim**2
    asks = FieldFlops(
        linear=layers * (_per_token(model) - 4 * dim**2) - keys, quadratic=-layers * 4 * dim, cross=layers * 4 * dim
    )
    asking = names if model.query is None else (model.query,)
    return Flops(fields=dict.fromkeys(asking, asks), joint=keys * len(asking))


def _states(model: ModelShape, names: tuple[str, ...]) -> Flops:
    return Flops(fields={})


def _projected(model: ModelShape, names: tuple[str, ...]) -> Flops:
    """A square matrix for the state of each field."""
    return Flops(fields={}, row=2.0 * model.dim**2 * len(names))


def _gated(model: ModelShape, names: tuple[str, ...]) -> Flops:
    """And for the gate of each field one for each field."""
    return Flops(fields={}, row=2.0 * model.dim**2 * len(names) * (len(names) + 1))


_FUSIONS = {
    "early": _joint,
    "mid": _joint,
    "bottleneck": _bottleneck,
    "cross_attention": _cross,
    "weighted_sum": _states,
    "decision": _states,
    "product": _projected,
    "concat": _projected,
    "gated": _gated,
}
"""Fusion -> what it adds to the layers within each field."""


def embedding_flops(spec: FieldSpec, stem: str, dim: int) -> FieldFlops:
    """What comes before a field's layers: projection or pretrained model, clock and stem."""
    if spec.pretrained:
        content = _pretrained(spec, dim)
    elif spec.kind == "ids":
        content = FieldFlops()
    elif spec.channels and stem == "cnn":
        content = FieldFlops(linear=_convolutions(spec, dim))
    else:
        content = FieldFlops(linear=2.0 * spec.patch_dim * dim)
    linear = 2.0 * NUM_WAVES * dim if spec.clocked else 0.0
    if stem == "rnn":
        half = (dim + 1) // 2
        linear += 2 * 6.0 * half * (dim + half) + 4.0 * half * dim  # both ways, three gates; then the projection
    elif stem == "cnn" and not spec.channels and not spec.pretrained:
        linear += 2 * 6.0 * dim**2
    return content + FieldFlops(linear=linear)


def _convolutions(spec: FieldSpec, dim: int) -> float:
    """Of a patch: 3 x 3 at each halving from pixels to one cell, channels growing in even steps; then a projection."""
    side = math.isqrt(spec.patch_dim // spec.channels)
    steps = side.bit_length() - 1
    widths = [spec.channels, *(max(8, dim * i // (steps + 1) // 8 * 8) for i in range(1, steps + 1))]
    cells = [(side >> i) ** 2 for i in range(steps)]
    convolutions = sum(18.0 * a * b * n for (a, b), n in zip(pairwise(widths), cells, strict=True))
    return convolutions + 2.0 * widths[-1] * dim


def _pretrained(spec: FieldSpec, dim: int) -> FieldFlops:
    """A Transformer of the configuration's sizes and a projection; pictures have a token more.

    Where the configuration has other names for its sizes, the projection alone is counted.
    """
    settings = json.loads(spec.pretrained)
    width, depth, hidden = (_first_of(settings, names) for names in (WIDTH, DEPTH, HIDDEN))
    per_token = depth * (8.0 * width**2 + 4.0 * width * (hidden or 4 * width))
    own = 1 if spec.channels else 0
    quadratic = depth * 4.0 * width
    return FieldFlops(
        each=own * (per_token + quadratic),
        linear=per_token + 2 * own * quadratic + 2.0 * width * (dim + spec.patch_dim),
        quadratic=quadratic,
    )


def _first_of(settings: Mapping[str, object], names: tuple[str, ...]) -> int:
    """The first whole number under one of these names, 0 where there is none."""
    return next((n for name in names if isinstance(n := settings.get(name), int)), 0)
