"""What `interlace inspect` finds out: facts of each split, and a sheet of decoded training samples. No Ray, no torch.

Decoding, augmenting and encoding are those of the modalities, with the random numbers that the reader would give them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.index import Index, make_recordings
from pipeline.data.manifest import Manifest
from pipeline.data.reader import Record, Recordings, field_tokens, field_value
from pipeline.data.targets import ClassTarget
from pipeline.errors import RecordError
from pipeline.figures import picture_png
from pipeline.modalities.base import Modality
from pipeline.recipe import Recipe

SHEET_SAMPLES = 24
SHEET_GROUPS = 8
"""Row groups that the sheet's samples are drawn from: bounds what is read."""
PICTURE_SIDE = 256
"""Pictures with a longer side are thinned out for the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldView:
    """One field of a sample as the model gets it; all empty where it is missing.

    Args:
        name: the field.
        size: how many tokens, in words.
        text: the raw string, for fields of one.
        pictures: PNG files, the decoded picture and then an augmented variant if there is one.
        words: each token as a person reads it, None where unknown.
        variant_words: the same after augmentation, where that changed anything.
        fault: why it could not be decoded.
    """

    name: str
    size: str = ""
    text: str | None = None
    pictures: tuple[bytes, ...] = ()
    words: tuple[str | None, ...] = ()
    variant_words: tuple[str | None, ...] | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleView:
    """One sample of the sheet: where it is, its labels by task (None: no label), its fields."""

    place: str
    labels: Mapping[str, str | None]
    fields: tuple[FieldView, ...]


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """One split; all arrays are over its usable records.

    Args:
        manifest: of the split.
        rows: int64 `[U]`, manifest rows of the usable records.
        present: bool `[U]` for each field.
        tokens: int32 `[U]` for each field.
        labels: for each classification task records by class; None for those without a label.
        hashes: uint64 `[U]`.
    """

    manifest: Manifest
    rows: NDArray[np.int64]
    present: Mapping[str, NDArray[np.bool_]]
    tokens: Mapping[str, NDArray[np.int32]]
    labels: Mapping[str, Mapping[str | None, int]]
    hashes: NDArray[np.uint64]

    @cached_property
    def total_tokens(self) -> NDArray[np.int64]:
        """Tokens of each record over all fields."""
        total: NDArray[np.int64] = np.sum(list(self.tokens.values()), axis=0, dtype=np.int64)
        return total

    @property
    def num_repeats(self) -> int:
        """Records that an earlier one equals."""
        return len(self.hashes) - len(np.unique(self.hashes))

    @property
    def bad_share(self) -> float:
        """Bad records over all records."""
        return len(self.manifest.bad) / self.manifest.num_rows

    def missing_share(self, field: str) -> float:
        """Usable records without this field over all usable ones."""
        return float(1 - self.present[field].mean()) if len(self.rows) else 0.0

    def shared_with(self, other: "SplitFacts") -> int:
        """Records of this split that are also in another."""
        return int(np.isin(self.hashes, other.hashes).sum())

    def combinations(self) -> dict[tuple[bool, ...], int]:
        """How many records have which fields, in the order of the fields."""
        seen, counts = np.unique(np.stack(list(self.present.values()), axis=1), axis=0, return_counts=True)
        return {tuple(c): int(n) for c, n in zip(seen.tolist(), counts, strict=True)}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that the page shows: a recipe's settings, its splits, and a sheet of training samples."""

    name: str
    root: str
    max_bad_share: float
    token_budget: int
    fields: Mapping[str, str]
    tasks: Mapping[str, str]
    splits: Mapping[str, SplitFacts]
    sheet: Sequence[SampleView]

    def warnings(self) -> list[str]:
        """What would stop a run, and what makes its results worth less."""
        found = []
        for name, split in self.splits.items():
            longest = int(split.total_tokens.max(initial=0))
            if split.bad_share > self.max_bad_share:
                found.append(
                    f"{name}: {split.bad_share:.2%} of the records are bad, but `data.max_bad_share` is"
                    f" {self.max_bad_share:.2%}: `train` refuses it"
                )
            if longest > self.token_budget:
                found.append(
                    f"{name}: the longest sample has {longest} tokens, but `batch.token_budget` is"
                    f" {self.token_budget}: `train` refuses it"
                )
        for (a, first), (b, second) in combinations(self.splits.items(), 2):
            if shared := second.shared_with(first):
                found.append(f"{plural(shared, 'record')} of {b} also in {a}")
        return found


def plural(count: int, noun: str) -> str:
    """`1 token`, `2 tokens`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def gather(recipe: Recipe, index: Index) -> Facts:
    """Everything that the page shows."""
    recordings = make_recordings(recipe, index.fitted)
    return Facts(
        name=recipe.name,
        root=recipe.data.root,
        max_bad_share=recipe.data.max_bad_share,
        token_budget=recipe.batch.token_budget,
        fields={n: f.modality for n, f in recipe.fields.items()},
        tasks={n: t.column for n, t in recipe.tasks.items()},
        splits={n: split_facts(m, recordings) for n, m in index.manifests.items()},
        sheet=sample_sheet(index.manifests["train"], recordings, recipe.seed),
    )


def split_facts(manifest: Manifest, recordings: Recordings) -> SplitFacts:
    """Presence, token counts, labels and hashes of the usable records of one split."""
    usable = ~manifest.unusable
    return SplitFacts(
        manifest=manifest,
        rows=np.flatnonzero(usable),
        present={n: ~manifest.missing(n)[usable] for n in recordings.fields},
        tokens={n: field_tokens(manifest, n, m)[usable] for n, (m, _) in recordings.fields.items()},
        labels=count_labels(manifest, recordings),
        hashes=manifest.hashes[usable],
    )


def count_labels(manifest: Manifest, recordings: Recordings) -> Mapping[str, Mapping[str | None, int]]:
    """How many usable records hold each class of each classification target; None counts those without a label."""
    targets = {n: (t, c) for n, (t, c) in recordings.targets.items() if isinstance(t, ClassTarget)}
    counts: dict[str, Counter[str | None]] = {
        n: Counter(dict.fromkeys(map(str, t.classes), 0)) for n, (t, _) in targets.items()
    }
    starts = manifest.group_starts()
    for number, group in enumerate(manifest.groups):
        usable = ~manifest.unusable[starts[number] : starts[number + 1]]
        if not usable.any():
            continue  # a damaged row group can't be read again
        columns = [c for _, c in targets.values()]
        table = manifest.readers()[group.source].read(group, list(dict.fromkeys(columns)))
        for name, (target, column) in targets.items():
            for value in table[column].filter(usable).to_pylist():
                labels = [None] if value is None else [str(target.classes[i]) for i in target.encode(value)]
                counts[name].update(labels)
    return counts


def sample_sheet(manifest: Manifest, recordings: Recordings, seed: int) -> list[SampleView]:
    """Usable records drawn at random from a few row groups, decoded, each with its variant of epoch 0."""
    rng = np.random.default_rng(seed)
    starts = manifest.group_starts()
    groups = rng.permutation(len(manifest.groups))[:SHEET_GROUPS]
    rows = np.concatenate([np.arange(starts[g], starts[g + 1]) for g in groups])
    rows = rows[~manifest.unusable[rows]]
    chosen = np.sort(rng.choice(rows, min(SHEET_SAMPLES, len(rows)), replace=False))
    views = []
    for number in sorted(groups.tolist()):
        inside = chosen[(chosen >= starts[number]) & (chosen < starts[number + 1])]
        if not len(inside):
            continue
        group = manifest.groups[number]
        table = manifest.readers()[group.source].read(group, recordings.columns)
        records = table.take(inside - starts[number]).to_pylist()
        for row, record in zip(inside.tolist(), records, strict=True):
            shard, at = manifest.locate(row)
            views.append(view_sample(record, recordings, np.random.default_rng((seed, 0, row)), f"{shard} row {at}"))
    return views


def view_sample(record: Record, recordings: Recordings, rng: np.random.Generator, place: str) -> SampleView:
    """One record as the model gets it; `rng` is used as the reader uses it, so variants are those of training."""
    views: list[FieldView] = []
    for name, (modality, columns) in recordings.fields.items():
        value = field_value(record, columns)
        try:
            views.append(FieldView(name=name) if value is None else _view_field(name, modality, value, rng))
        except RecordError as error:
            views.append(FieldView(name=name, fault=str(error)))
    return SampleView(
        place=place,
        labels={name: _label_text(record[column]) for name, (_, column) in recordings.targets.items()},
        fields=tuple(views),
    )


def _view_field(name: str, modality: Modality, value: tuple[Any, ...], rng: np.random.Generator) -> FieldView:
    decoded = modality.decode(value)
    variant = modality.augment(decoded, rng)
    grid = modality.encode(decoded).grid
    changed = not np.array_equal(variant, decoded, equal_nan=decoded.dtype.kind == "f")
    pictures = [_picture(a) for a in ([decoded, variant] if changed else [decoded]) if modality.spec.channels]
    return FieldView(
        name=name,
        size=f"{grid[0]} x {grid[1]} patches" if modality.spec.channels else plural(grid[0] * grid[1], "token"),
        text=value[0] if isinstance(value[0], str) and len(value) == 1 else None,
        pictures=tuple(pictures),
        words=modality.words(decoded),
        variant_words=modality.words(variant) if changed else None,
    )


def _picture(pixels: NDArray[Any]) -> bytes:
    step = -(-max(pixels.shape[:2]) // PICTURE_SIDE)
    return picture_png(pixels[::step, ::step])


def _label_text(value: Any) -> str | None:
    return ", ".join(map(str, value)) if isinstance(value, list) else None if value is None else str(value)
