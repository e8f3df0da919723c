"""Every modality, stem and task that there is, in one recipe for each fusion, and packs of it with gaps.

Values are few and small. What is trained on them by a few steps shows that all parts compute the same elsewhere.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from interlace import modalities
from interlace.contract.sample import FieldPack, Pack, TargetPack
from interlace.modalities.base import Modality
from interlace.modalities.laws import learn
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from tests.unit.modalities.test_laws import PICTURES, READINGS, SOUNDS
from tests.unit.tasks.test_task_laws import CLASSES, NUMBERS, class_of, classes_of, number_of, text_of

WORDS = [("some text",), ("",), ("and more",)]
FIELDS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "picture": ({"modality": "image", "column": "c", "max_size": 24, "stem": "cnn"}, PICTURES),
    "photo": ({"modality": "image", "column": "c", "max_size": 24, "stem": "linear"}, PICTURES),
    "sound": ({"modality": "audio", "column": "c", "rate_hz": 8000, "stem": "cnn"}, SOUNDS),
    "words": ({"modality": "text", "column": "c", "stem": "rnn"}, WORDS),
    "letters": ({"modality": "text", "column": "c", "tokenizer": "characters", "stem": "cnn"}, WORDS),
    "numbers": ({"modality": "table", "numbers": ["a", "b"]}, [(1.5, None), (0.1, 7), (0.2, 3)]),
    "curve": ({"modality": "series", "channels": ["a", "b"], "stem": "cnn"}, [([1.5, None], [2, 3]), ([0.1], None)]),
    "readings": ({"modality": "series", "time": "t", "channel": "c", "value": "v"}, READINGS),
}
"""Settings of each field, and values of it."""

CLASSIFICATIONS: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
    "label": ({"task": "classification", "column": "c", "mixup": 0.2, "label_smoothing": 0.1}, CLASSES, class_of),
    "labels": ({"task": "classification", "column": "d", "multi_label": True}, CLASSES, classes_of),
}
OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
    "number": ({"task": "regression", "columns": ["n"]}, NUMBERS, number_of),
    "pair": ({"task": "retrieval", "left": ["picture"], "right": ["words", "curve"], "group": "g"}, {}, class_of),
    "fill": ({"task": "reconstruction", "fields": ["photo", "letters"]}, {}, None),
    "text": (
        {"task": "generation", "column": "t", "layers": 1, "ctc_field": "sound", "ctc_weight": 0.5}, {}, text_of,
    ),
}  # fmt: skip
"""Settings of each task, what its target learned, and what draws a target."""
SAMPLES = 6


def tasks_with(fusion: str) -> dict[str, tuple[dict[str, Any], dict[str, Any], Any]]:
    """All tasks that a fusion takes: only some predict from votes, and CTC needs layers within its field."""
    found = CLASSIFICATIONS if fusion == "decision" else CLASSIFICATIONS | OTHERS
    unfit = {"decision": ("mixup",), "early": ("ctc_field", "ctc_weight")}.get(fusion, ())
    return {
        name: ({k: v for k, v in settings.items() if k not in unfit}, *rest)
        for name, (settings, *rest) in found.items()
    }


def recipe_with(fusion: str, precision: str, optimizer: str = "adamw", negatives: str = "pack") -> Recipe:
    """All parts, two packs a step, with dropout of values and of fields; `by` in a fusion names the field that asks."""
    fusion, _, query = fusion.partition(" by ")
    tasks = {name: settings for name, (settings, *_) in tasks_with(fusion).items()}
    if "pair" in tasks:
        tasks["pair"] = tasks["pair"] | {"negatives": negatives}
    return parse_recipe(
        {
            "name": "parts",
            "data": {"train": {"paths": ["none.parquet"]}},
            "fields": {name: settings for name, (settings, _) in FIELDS.items()},
            "tasks": tasks,
            "model": {
                "dim": 32, "head_dim": 16, "field_layers": 1, "joint_layers": 1, "dropout": 0.1,
                "modality_dropout": 0.2, "fusion": fusion, "query": query or None,
            },
            "optim": {"task_weighting": "uncertainty", "name": optimizer, "ema": 0.9},
            "batch": {"global_batch": 2},
            "train": {"steps": 3, "precision": precision},
        }
    )  # fmt: skip


@functools.cache
def made_modalities() -> Mapping[str, Modality]:
    """The modality of each field, after it learned from the values."""
    settings = recipe_with("mid", "fp32").fields
    learned = {n: learn(functools.partial(modalities.learner, settings[n]), [FIELDS[n][1]]) for n in FIELDS}
    return {n: modalities.make(n, settings[n], state) for n, state in learned.items()}


def pack_at(position: int, fusion: str) -> Pack:
    """Samples with gaps: of each field the values in turn, of each task a target but for the last sample."""
    rng = np.random.default_rng(position)
    fields = {}
    for number, (name, made) in enumerate(made_modalities().items()):
        values = FIELDS[name][1]
        there = [(s + number) % 4 > 0 for s in range(SAMPLES)]
        tokens = [made.encode(made.decode(values[s % len(values)])) if t else None for s, t in enumerate(there)]
        given = [t for t in tokens if t is not None]
        fields[name] = FieldPack(
            values=np.concatenate([t.values for t in given]),
            lengths=np.array([0 if t is None else len(t.values) for t in tokens], np.int32),
            grids=np.array([(0, 0) if t is None else t.grid for t in tokens], np.int32),
            times=np.concatenate([t.times for t in given]) if made.spec.clocked else None,
        )
    targets = {}
    for name, (_, _, draw) in tasks_with(fusion).items():
        if draw is not None:
            drawn = [draw(rng) for _ in range(SAMPLES - 1)]
            lengths = np.array([*map(len, drawn), 0], np.int32)
            targets[name] = TargetPack(
                values=np.concatenate(drawn), lengths=lengths, present=np.arange(SAMPLES) < SAMPLES - 1
            )
    ids = np.arange(SAMPLES, dtype=np.int64)
    return Pack(position=position, epoch=0, sample_ids=ids, fields=fields, targets=targets)
