"""The index: fits modalities on the training rows, measures every row of every split. Torch-free.

    shards -> check columns and types -> fit (tokenizers, vocabularies, statistics) -> measure row groups -> manifest

Both are jobs over row groups; `mapper` decides where they run: in this process (`map`) or as a Ray Data job
(`interlace.data.stream.map_units`). What they find is kept by shard, named by what it depends on: a second run of the
same recipe starts at once, a shard that is added is read alone, and a job that was killed goes on.

    <storage>/cache/index/  listings/  learned/  fitted/  parts/  groups/
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from interlace.contract.errors import BadShareError, DataError
from interlace.data.index.fit import Fitted, fit, learning
from interlace.data.index.groups import PartLines, load_groups, save_groups, sum_lines
from interlace.data.index.identity import reading, source_settings, target_settings
from interlace.data.index.listing import list_shard, numbered
from interlace.data.index.manifest import Manifest
from interlace.data.index.measure import MeasureGroup
from interlace.data.index.parts import Part, PartWriter, cut_parts, digest_of, keeping, make_parts, temporary
from interlace.data.index.records import RecordCodec, make_codec
from interlace.data.index.schema import check_schemas
from interlace.data.index.targets import TextTarget
from interlace.data.sources import SPARSE, Mapper, RowGroup, find_shards, open_source
from interlace.data.sources.fingerprint import fingerprint
from interlace.recipe.data import Source
from interlace.recipe.reads import Reads
from interlace.recipe.recipe import Recipe
from interlace.store.places import indexes_of

CODE_VERSION = 7
"""Raised when the meaning of a cached index changes, so that older ones are made anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """What a recipe's data is.

    Args:
        fitted: `{"fields": {name: state}, "targets": {name: state}}`, plain JSON.
        manifests: by split (`train`, `validation`, `test`).
    """

    fitted: Fitted
    manifests: Mapping[str, Manifest]


def build_index(recipe: Recipe, mapper: Mapper = map) -> Index:
    """The index of a recipe's splits, from the cache or made now; only shards that it lacks are read.

    Args:
        recipe: with all that it starts from pinned (`recipe.start.pin`).
        mapper: where row groups are read.

    Raises:
        DataError: shards, columns, types or the sizes of row groups are not as the recipe needs them.
        StartError: a field can't start from what its `init` names.
        BadShareError: too many records are bad.
    """
    folder = indexes_of(recipe.storage)
    splits = {name: find_split(sources, recipe.data.root) for name, sources in recipe.data.splits().items()}

    @cache
    def groups(split: str) -> list[list[RowGroup]]:
        return list_groups(splits[split], recipe.reads, folder / "listings")

    fitted = _fitted(recipe, splits["train"], lambda: groups("train"), mapper, folder)
    codec = make_codec(recipe.reads, fitted)
    reads = _measuring(recipe, codec, fitted)
    manifests = {}
    for name, split in splits.items():
        path = folder / "groups" / f"{digest_of([reads, split.key])}.parquet"
        table = load_groups(path) if path.exists() else None
        if table is None or not all((folder / "parts" / part).exists() for part in table.parts):
            measure_split(split, groups(name), codec, reads, path, mapper)
            table = load_groups(path)
        manifests[name] = Manifest(sources=split.sources, groups=table, folder=str(folder / "parts"))
        check_manifest(manifests[name], name, recipe)
    return Index(fitted=fitted, manifests=manifests)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The shards of a split: one entry a shard, source by source.

    Args:
        sources: how shards are read.
        shards: paths.
        prints: fingerprints.
        source_of: number of the source of each.
    """

    sources: tuple[Source, ...]
    shards: tuple[str, ...]
    prints: tuple[str, ...]
    source_of: tuple[int, ...]

    @property
    def key(self) -> list[Any]:
        """All that decides what its rows are."""
        return [[source_settings(s) for s in self.sources], self.prints, self.source_of]


def find_split(sources: Sequence[Source], root: str) -> Split:
    """The shards of all sources of a split. Raises DataError where a path names none."""
    found = [(number, shard) for number, s in enumerate(sources) for shard in find_shards(s.paths, root)]
    return Split(
        sources=tuple(sources),
        shards=tuple(shard for _, shard in found),
        prints=tuple(fingerprint(shard) for _, shard in found),
        source_of=tuple(number for number, _ in found),
    )


def list_groups(split: Split, reads: Reads, folder: Path) -> list[list[RowGroup]]:
    """The row groups of each shard, after their columns have been checked.

    Args:
        split: its shards.
        reads: fields and tasks, with their columns.
        folder: keeps what shards say of themselves.
    """
    listed: list[list[RowGroup]] = []
    for number, source in enumerate(split.sources):
        reader, schemas = open_source(source), {}
        for shard, own, print_ in zip(split.shards, split.source_of, split.prints, strict=True):
            if own == number:
                kept = folder / f"{digest_of([CODE_VERSION, source_settings(source), print_])}.arrow"
                schemas[shard], groups = list_shard(reader, shard, kept)
                listed.append(numbered(groups, number))
        check_schemas(reads, schemas, sparse=source.format in SPARSE)
        own_groups = [g for g, own in zip(listed, split.source_of, strict=False) if own == number]
        if not any(own_groups):
            raise DataError(f"expected at least one row, but {len(schemas)} shards hold none: {next(iter(schemas))}")
    return listed


def measure_split(
    split: Split, groups: Sequence[Sequence[RowGroup]], codec: RecordCodec, reads: str, path: Path, mapper: Mapper
) -> None:
    """Measure the shards that no part tells of, and write the table of the split's row groups."""
    parts = _parts(split, groups, reads, path.parents[1] / "parts")
    fields = tuple(codec.fields)
    make_parts(
        parts,
        MeasureGroup(tuple(open_source(s) for s in split.sources), codec),
        mapper,
        lambda group: group.num_rows,
        lambda part: PartWriter(part.path, PartLines(part.path, fields)),
    )
    check_alignment(sum_lines(parts, "unaligned"), sum_lines(parts, "num_rows"), codec)
    save_groups(parts, path)


def _parts(split: Split, groups: Sequence[Sequence[RowGroup]], reads: str, folder: Path) -> list[Part]:
    return [
        part
        for own, print_, number in zip(groups, split.prints, split.source_of, strict=True)
        for part in cut_parts(own, print_, digest_of([reads, source_settings(split.sources[number])]), folder)
    ]


def _fitted(
    recipe: Recipe, train: Split, groups: Callable[[], list[list[RowGroup]]], mapper: Mapper, folder: Path
) -> Fitted:
    """The fitted state, from the cache, or from partials of which only those of new shards are made."""
    learns = digest_of([CODE_VERSION, learning(recipe.reads)])
    everything = [learns, {n: reading(f) for n, f in recipe.fields.items()}, target_settings(recipe.reads), train.key]
    path = folder / "fitted" / f"{digest_of(everything)}.json"
    if not path.exists():
        parts = _parts(train, groups(), learns, folder / "learned")
        _save_fitted(
            fit(recipe.reads, train.sources, [g for own in groups() for g in own], keeping(mapper, parts)), path
        )
    fitted: Fitted = json.loads(path.read_text(encoding="utf-8"))
    return fitted


def _measuring(recipe: Recipe, codec: RecordCodec, fitted: Fitted) -> str:
    """Digest of all that measuring depends on besides the shards and their sources; order counts in record hashes."""
    fields = [
        (name, reading(field), codec.fields[name][0].measured_by(fitted["fields"][name]))
        for name, field in recipe.fields.items()
    ]
    settings = target_settings(recipe.reads)
    targets = [
        (name, settings[name], target.measured_by(fitted["targets"][name]))
        for name, (target, _) in codec.targets.items()
    ]
    return digest_of([CODE_VERSION, fields, targets])


def check_alignment(unaligned: int, num_rows: int, codec: RecordCodec) -> None:
    """Refuse data of which CTC could align less than half; fewer texts are left out of its loss. Raises DataError."""
    if unaligned * 2 > num_rows:
        fields = {t.ctc_field for t, _ in codec.targets.values() if isinstance(t, TextTarget)} - {None}
        name = " or ".join(sorted(map(str, fields)))
        raise DataError(
            f"CTC needs a token of its field for each token of the text, and one more for each that repeats the one"
            f" before, but {unaligned} of {num_rows} texts have fewer: lower `fields.{name}.patch_frames` or `hop_ms`,"
            " or use a tokenizer of longer pieces"
        )


def check_manifest(manifest: Manifest, split: str, recipe: Recipe) -> None:
    """Refuse a split whose bad records pass the limit, or with a sample longer than the token budget."""
    limit = recipe.data.max_bad_share
    share = manifest.num_bad / manifest.num_rows
    if share > limit:
        listed = "".join(f"\n  - {b.shard} row {b.row}: {b.reason}" for b in manifest.bad(5))
        raise BadShareError(
            f"{split}: {manifest.num_bad} of {manifest.num_rows} records are bad ({share:.2%}), but"
            f" `data.max_bad_share` is {limit:.2%}; the first:{listed}"
        )
    largest = manifest.groups.sizes.largest
    if (most := int(largest.max())) > recipe.batch.token_budget:
        number = int(largest.argmax())
        row = manifest.starts[number] + int(manifest.rows(number).num_tokens.argmax())
        shard, at = manifest.locate(int(row))
        raise DataError(
            f"`batch.token_budget` must be at least {most} (longest sample of {split}: {shard} row {at}),"
            f" but is {recipe.batch.token_budget}"
        )


def _save_fitted(fitted: Fitted, path: Path) -> None:
    """Write the state whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary(path)
    partial.write_text(json.dumps(fitted, ensure_ascii=False), encoding="utf-8")
    partial.replace(path)
