"""What `interlace inspect` finds out: facts of each split, and decoded training samples. No Ray, no torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from interlace.data.index.build import Index
from interlace.data.index.manifest import Manifest
from interlace.data.index.records import RecordCodec, make_codec
from interlace.data.index.targets import ClassTarget
from interlace.data.index.tokens import field_tokens
from interlace.recipe.recipe import Recipe
from interlace.results.inspection.html import plural
from interlace.results.inspection.values import COMPARED, LEAKING, SharedValues, hash_values, shared_values
from interlace.results.inspection.views import SampleView, sample_sheet


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """One of several training sources: format, records, bad ones, and the share of the samples drawn from it."""

    format: str
    num_rows: int
    num_bad: int
    share: float


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

    def together(self, one: str, other: str) -> int:
        """Usable records that have both fields."""
        return int(np.count_nonzero(self.present[one] & self.present[other]))

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
    sources: Mapping[str, SourceFacts]
    shared: Sequence[SharedValues]
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
        for again in self.shared:
            if again.count and again.of != again.within and self.fields[again.field] in LEAKING:
                found.append(
                    f"{plural(again.count, 'other record')} of {again.of} with a `{again.field}` that is also in"
                    f" {again.within}"
                )
        return found


def gather(recipe: Recipe, index: Index) -> Facts:
    """Everything that the page shows."""
    codec = make_codec(recipe, index.fitted)
    compared = {n: f.columns for n, f in recipe.fields.items() if f.modality in COMPARED}
    return Facts(
        name=recipe.name,
        root=recipe.data.root,
        max_bad_share=recipe.data.max_bad_share,
        token_budget=recipe.batch.token_budget,
        fields={n: f.modality for n, f in recipe.fields.items()},
        tasks={n: ", ".join(t.columns) for n, t in recipe.tasks.items()},
        splits={n: split_facts(m, codec) for n, m in index.manifests.items()},
        sources=source_facts(recipe, index.manifests["train"]),
        shared=shared_values({n: hash_values(m, compared) for n, m in index.manifests.items()}),
        sheet=sample_sheet(index.manifests["train"], codec, recipe.seed),
    )


def split_facts(manifest: Manifest, codec: RecordCodec) -> SplitFacts:
    """Presence, token counts, labels and hashes of the usable records of one split."""
    usable = ~manifest.unusable
    return SplitFacts(
        manifest=manifest,
        rows=np.flatnonzero(usable),
        present={n: ~manifest.missing(n)[usable] for n in codec.fields},
        tokens={n: field_tokens(manifest, n, m)[usable] for n, (m, _) in codec.fields.items()},
        labels=count_labels(manifest, codec),
        hashes=manifest.hashes[usable],
    )


def source_facts(recipe: Recipe, manifest: Manifest) -> dict[str, SourceFacts]:
    """The training sources by name, where there are several."""
    total = sum(s.weight for s in recipe.data.mix.values())
    starts = manifest.group_starts()
    facts = {}
    for number, (name, source) in enumerate(recipe.data.mix.items()):
        own = [i for i, g in enumerate(manifest.groups) if g.source == number]
        facts[name] = SourceFacts(
            format=source.format,
            num_rows=sum(manifest.groups[i].num_rows for i in own),
            num_bad=sum(int(manifest.unusable[starts[i] : starts[i + 1]].sum()) for i in own),
            share=source.weight / total,
        )
    return facts


def count_labels(manifest: Manifest, codec: RecordCodec) -> Mapping[str, Mapping[str | None, int]]:
    """How many usable records hold each class of each classification target; None counts those without a label."""
    targets = {n: (t, c) for n, (t, c) in codec.targets.items() if isinstance(t, ClassTarget)}
    counts: dict[str, Counter[str | None]] = {
        n: Counter(dict.fromkeys(map(str, t.classes), 0)) for n, (t, _) in targets.items()
    }
    starts = manifest.group_starts()
    for number, group in enumerate(manifest.groups):
        usable = ~manifest.unusable[starts[number] : starts[number + 1]]
        if not usable.any():
            continue  # a damaged row group can't be read again
        columns = [c for _, own in targets.values() for c in own]
        table = manifest.readers()[group.source].read(group, list(dict.fromkeys(columns)))
        for name, (target, (column,)) in targets.items():
            for value in table[column].filter(usable).to_pylist():
                labels = [None] if value is None else [str(target.classes[i]) for i in target.encode((value,))]
                counts[name].update(labels)
    return counts
