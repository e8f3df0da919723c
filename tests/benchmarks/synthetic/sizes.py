"""Models of three sizes over the heavy-tailed mix of pictures, sounds and texts: recipe, network, plan and packs.

Weights are never made: networks lie on torch's `meta` device, where tensors have shapes only. Packs are those that the
real plan deals, their tokens zeros of the right number; a picture of 576 tokens has 24 x 24 of 16 x 16 pixels, a sound
0.04 s a token, a text a byte a token.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from interlace.contract.flops import Flops
from interlace.contract.sample import FieldPack, FieldSpec, Pack, TargetPack
from interlace.data.index.records import RecordCodec, make_codec
from interlace.data.plan.plan import Plan, Work, plan_of_rows
from interlace.data.read.open import plan_settings, recipe_flops
from interlace.model.network import Network
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from interlace.train.build import build_network
from tests.benchmarks.synthetic.shapes import BUDGET, SHAPES

FIELDS = {
    "picture": {"modality": "image", "column": "picture", "max_size": 384, "patch": 16},
    "sound": {"modality": "audio", "column": "sound", "max_seconds": 120, "num_mels": 64, "patch_frames": 4},
    "text": {"modality": "text", "column": "text", "tokenizer": "bytes", "max_tokens": 1500},
}
"""In the order of `shapes.mixed`."""
CLASSES = 100
SIZES: Mapping[str, Mapping[str, int]] = {
    "20M": {"dim": 384, "head_dim": 64, "field_layers": 2, "joint_layers": 4},
    "150M": {"dim": 768, "head_dim": 64, "field_layers": 4, "joint_layers": 8},
    "1B": {"dim": 2048, "head_dim": 128, "field_layers": 4, "joint_layers": 8},
}
"""Settings of a `mid` fusion by name; a token passes `field_layers` of its own field and all `joint_layers`."""
GROUP_ROWS = 250


def recipe_of(size: Mapping[str, int]) -> Recipe:
    """A recipe of that size: a pack of 16,384 tokens a step, AdamW, bf16, without dropout, one label of 100 classes."""
    return parse_recipe(
        {
            "name": "roofline",
            "data": {"train": {"paths": ["none.parquet"]}},
            "fields": FIELDS,
            "tasks": {"label": {"task": "classification", "column": "label"}},
            "model": {"fusion": "mid", "dropout": 0.0, **size},
            "batch": {"token_budget": BUDGET, "global_batch": 1},
            "train": {"steps": 1, "precision": "bf16"},
        }
    )


@dataclass(frozen=True, kw_only=True)
class Sized:
    """A model and the samples of the mix that it reads.

    Args:
        recipe: as `recipe_of` makes it.
        rows: samples that are drawn.
    """

    recipe: Recipe
    rows: int

    @cached_property
    def tokens(self) -> Mapping[str, NDArray[np.int32]]:
        """Tokens of each sample `[rows]` by field; 0 where it is missing."""
        drawn = SHAPES["mixed"](self.rows, len(FIELDS), np.random.default_rng(0))
        return dict(zip(FIELDS, drawn, strict=True))

    @cached_property
    def specs(self) -> Mapping[str, FieldSpec]:
        """The shape of each field's tokens."""
        return {name: modality.spec for name, (modality, _) in self._codec.fields.items()}

    @cached_property
    def flops(self) -> Flops:
        """What samples cost, as the plan has it."""
        return recipe_flops(self.recipe, self._codec)

    @cached_property
    def plan(self) -> Plan:
        """As training has it."""
        total = sum(self.tokens.values(), np.zeros(self.rows, np.int64))
        work = Work(tokens=total, cost=self.flops.of_rows(self.tokens))
        starts = np.append(np.arange(0, self.rows, GROUP_ROWS), self.rows)
        return plan_of_rows(work, starts, plan_settings(self.recipe, training=True))

    def packs(self) -> Iterator[NDArray[np.int64]]:
        """The samples of each pack of the first epoch."""
        for window in self.plan.schedule(epochs=1).windows:
            yield from self.plan.packs(window.epoch, window.index, window.num_packs)

    def pack(self, rows: NDArray[np.int64]) -> Pack:
        """A pack with these samples."""
        fields = {name: _zeros(spec, self.tokens[name][rows]) for name, spec in self.specs.items()}
        label = TargetPack(
            values=np.zeros(len(rows), np.int64),
            lengths=np.ones(len(rows), np.int32),
            present=np.ones(len(rows), np.bool_),
        )
        return Pack(position=0, epoch=0, sample_ids=rows, fields=fields, targets={"label": label})

    def network(self) -> Network:
        """On the `meta` device."""
        with torch.device("meta"):
            return build_network(self.recipe, self.specs, self.targets)

    @property
    def targets(self) -> Mapping[str, Mapping[str, Any]]:
        """What the target of each task learned."""
        return self._fitted["targets"]

    @cached_property
    def _codec(self) -> RecordCodec:
        return make_codec(self.recipe.reads, self._fitted)

    @property
    def _fitted(self) -> Mapping[str, Mapping[str, Any]]:
        label = {"classes": list(range(CLASSES)), "counts": [1] * CLASSES}
        return {"fields": {name: {} for name in FIELDS}, "targets": {"label": label}}


def _zeros(spec: FieldSpec, lengths: NDArray[np.int32]) -> FieldPack:
    """Tokens of so many: pictures are square, others a row."""
    sides = np.array([math.isqrt(n) if spec.channels else n for n in lengths.tolist()], np.int32)
    total = int(lengths.sum())
    shape = (total, spec.patch_dim) if spec.kind == "patches" else (total,)
    return FieldPack(
        values=np.zeros(shape, spec.patch_dtype if spec.kind == "patches" else np.int32),
        lengths=lengths,
        grids=np.stack([sides, sides if spec.channels else (lengths > 0).astype(np.int32)], axis=1),
        times=np.zeros(total, np.float32) if spec.clocked else None,
    )
