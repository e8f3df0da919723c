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


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How many values have which number of tokens: distinct numbers, ascending, and how often each occurs, int64."""

    values: NDArray[np.int64]
    counts: NDArray[np.int64]

    @property
    def num(self) -> int:
        """Values in all."""
        return int(self.counts.sum())

    @property
    def total(self) -> int:
        """Tokens of all."""
        return int(self.values @ self.counts)

    @property
    def mean(self) -> float:
        """Tokens of one; 0 without any."""
        return self.total / max(self.num, 1)

    @property
    def most(self) -> int:
        """Tokens of the longest; 0 without any."""
        return int(self.values.max(initial=0))


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """One split, of its usable records.

    Args:
        manifest: of the split.
        combinations: how many records have which fields, in the order of the fields.
        lengths: tokens of each field where it is there.
        total: tokens of each record over all fields.
        labels: for each classification task records by class; None for those without a label.
        hashes: uint64 `[U]`.
    """

    manifest: Manifest
    combinations: Mapping[tuple[bool, ...], int]
    lengths: Mapping[str, Lengths]
    total: Lengths
    labels: Mapping[str, Mapping[str | None, int]]
    hashes: NDArray[np.uint64]

    @property
    def num_usable(self) -> int:
        """Records that can be used."""
        return self.manifest.num_usable

    @cached_property
    def num_repeats(self) -> int:
        """Records that an earlier one equals."""
        return len(self.hashes) - len(np.unique(self.hashes))

    @property
    def bad_share(self) -> float:
        """Bad records over all records."""
        return self.manifest.num_bad / self.manifest.num_rows

    def missing_share(self, field: str) -> float:
        """Usable records without this field over all usable ones."""
        return self.manifest.missing_share(field)

    def num_missing(self, field: str) -> int:
        """Usable records without this field."""
        return self.num_usable - self.lengths[field].num

    def shared_with(self, other: "SplitFacts") -> int:
        """Records of this split that are also in another."""
        return int(np.isin(self.hashes, other.hashes).sum())

    def together(self, one: str, other: str) -> int:
        """Usable records that have both fields."""
        a, b = (list(self.lengths).index(name) for name in (one, other))
        return sum(count for there, count in self.combinations.items() if there[a] and there[b])

    def place(self, number: int) -> tuple[str, int]:
        """Shard and row in it of a usable record by its number among them."""
        sizes = self.manifest.groups.sizes.rows
        ends = np.cumsum(sizes)
        group = int(np.searchsorted(ends, number, side="right"))
        at = np.flatnonzero(self.manifest.rows(group).usable)[number - ends[group] + sizes[group]]
        return self.manifest.locate(int(self.manifest.starts[group] + at))


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
            longest = split.total.most
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
    codec = make_codec(recipe.reads, index.fitted)
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
    """Presence, token counts, labels and hashes of the usable records of one split, row group by row group."""
    combinations: Counter[tuple[bool, ...]] = Counter()
    lengths: dict[str, Counter[int]] = {name: Counter() for name in codec.fields}
    total: Counter[int] = Counter()
    hashes = np.empty(manifest.num_usable, np.uint64)
    at = 0
    for number, usable in enumerate(manifest.groups.sizes.rows.tolist()):
        if not usable:
            continue
        rows = manifest.rows(number)
        hashes[at : at + usable] = rows.hashes[rows.usable]
        at += usable
        there = {name: rows.present(name) & rows.usable for name in codec.fields}
        seen, counts = np.unique(np.stack(list(there.values()), axis=1)[rows.usable], axis=0, return_counts=True)
        combinations.update(dict(zip(map(tuple, seen.tolist()), counts.tolist(), strict=True)))
        for name, present in there.items():
            _count(lengths[name], rows.tokens[name][present])
        _count(total, rows.num_tokens[rows.usable])
    return SplitFacts(
        manifest=manifest,
        combinations=combinations,
        lengths={name: _lengths(counted) for name, counted in lengths.items()},
        total=_lengths(total),
        labels=count_labels(manifest, codec),
        hashes=hashes,
    )


def _count(counter: Counter[int], tokens: NDArray[np.int32]) -> None:
    values, counts = np.unique(tokens, return_counts=True)
    counter.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))


def _lengths(counter: Counter[int]) -> Lengths:
    pairs = np.array(sorted(counter.items()), np.int64).reshape(-1, 2)
    return Lengths(values=pairs[:, 0], counts=pairs[:, 1])


def source_facts(recipe: Recipe, manifest: Manifest) -> dict[str, SourceFacts]:
    """The training sources by name, where there are several."""
    total = sum(s.weight for s in recipe.data.mix.values())
    groups = manifest.groups
    facts = {}
    for number, (name, source) in enumerate(recipe.data.mix.items()):
        own = groups.source == number
        facts[name] = SourceFacts(
            format=source.format,
            num_rows=int(groups.num_rows[own].sum()),
            num_bad=int(groups.bad[own].sum()),
            share=source.weight / total,
        )
    return facts


def count_labels(manifest: Manifest, codec: RecordCodec) -> Mapping[str, Mapping[str | None, int]]:
    """How many usable records hold each class of each classification target; None counts those without a label."""
    targets = {n: (t, c) for n, (t, c) in codec.targets.items() if isinstance(t, ClassTarget)}
    counts: dict[str, Counter[str | None]] = {
        n: Counter(dict.fromkeys(map(str, t.classes), 0)) for n, (t, _) in targets.items()
    }
    readers = manifest.readers()
    for number, group in enumerate(manifest.groups if targets else ()):
        usable = manifest.rows(number).usable
        if not usable.any():
            continue  # a damaged row group can't be read again
        columns = [c for _, own in targets.values() for c in own]
        table = readers[group.source].read(group, list(dict.fromkeys(columns)))
        for name, (target, (column,)) in targets.items():
            for value in table[column].filter(usable).to_pylist():
                labels = [None] if value is None else [str(target.classes[i]) for i in target.encode((value,))]
                counts[name].update(labels)
    return counts
