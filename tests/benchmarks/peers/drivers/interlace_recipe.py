"""The workloads as recipes, and packs as the batches that peers give."""

from pathlib import Path
from typing import Any

import numpy as np

from interlace.contract.sample import NUM_SPECIALS, Pack
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from tests.benchmarks.peers.work import MOST_TOKENS, NUMBERS, SIDE, Settings

PATCH = 8
PICTURE_TOKENS = (SIDE // PATCH) ** 2
MEAN_TEXT = 32
"""Tokens of a text and its numbers, about."""


def recipe_of(settings: Settings) -> Recipe:
    """The recipe: as many tokens in a pack as samples in a batch have."""
    mixed = settings.workload == "mixed"
    fields: dict[str, Any] = {"image": {"modality": "image", "column": "image", "max_size": SIDE, "patch": PATCH}}
    if mixed:
        tokenizer = str(Path(settings.folder, "tokenizer.json"))
        text = {"modality": "text", "column": "text", "tokenizer": "bpe", "tokenizer_file": tokenizer}
        fields |= {"text": {**text, "max_tokens": MOST_TOKENS}, "numbers": {"modality": "table", "numbers": NUMBERS}}
    tree = {
        "name": "peers",
        "storage": settings.own,
        "seed": settings.seed,
        "data": {"root": settings.folder, "train": {"paths": ["parquet/*.parquet"]}},
        "fields": fields,
        "tasks": {"label": {"task": "classification", "column": "label"}},
        "model": {"dim": 64, "head_dim": 32},
        "batch": {"token_budget": settings.batch * (PICTURE_TOKENS + MEAN_TEXT * mixed), "global_batch": 1},
        "train": {"epochs": 1},
    }
    return parse_recipe(tree)


def as_batch(pack: Pack) -> dict[str, Any]:
    """Views of a pack; texts without padding, cut into samples only where somebody looks (see `Texts`)."""
    assert not pack.bad, pack.bad
    ids = pack.sample_ids
    batch = {
        "ids": ids,
        "labels": pack.targets["label"].values,
        "pixels": pack.fields["image"].values.reshape(len(ids), -1),
    }
    if "text" in pack.fields:
        batch |= {"tokens": Texts(pack), "numbers": pack.fields["numbers"].values}
    return batch


class Texts:
    """The tokens of a pack, padded when an array is asked for."""

    def __init__(self, pack: Pack) -> None:
        self._text = pack.fields["text"]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """Ids without the specials, int32 `[n, MOST_TOKENS]`."""
        padded = np.zeros((len(self._text.lengths), MOST_TOKENS), np.int32)
        parts = np.split(self._text.values - NUM_SPECIALS, np.cumsum(self._text.lengths)[:-1])
        for row, part in zip(padded, parts, strict=True):
            row[: len(part)] = part
        return padded
