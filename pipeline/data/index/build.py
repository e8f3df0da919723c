"""The index: fits modalities on the training rows, measures every row of every split, writes manifests. Torch-free.

    shards -> check columns and types -> fit (tokenizers, vocabularies, statistics) -> measure row groups -> manifest

Both are jobs over row groups; `mapper` decides where they run: in this process (`map`) or as a Ray Data job
(`interlace.data.stream.map_units`). Results lie in a cache folder named by what they depend on, so a second run of the
same recipe starts at once.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from interlace.contract.errors import BadShareError, DataError
from interlace.contract.sample import BadRecord
from interlace.data.index.fit import Fitted, fit
from interlace.data.index.identity import reading, source_settings, target_settings
from interlace.data.index.manifest import Manifest, load_manifest, save_manifest
from interlace.data.index.measure import MeasureGroup
from interlace.data.index.records import RecordCodec, make_codec
from interlace.data.index.schema import check_schemas
from interlace.data.index.targets import TextTarget
from interlace.data.index.tokens import num_tokens
from interlace.data.sources import SPARSE, Mapper, RowGroup, find_shards, open_source
from interlace.data.sources.fingerprint import fingerprint
from interlace.recipe.data import Source
from interlace.recipe.recipe import Recipe
from interlace.recipe.start import pin
from interlace.store.places import indexes_of

CODE_VERSION = 6
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
    """The index of a recipe's splits, from the cache or made now.

    Raises:
        DataError: shards, columns, types or the sizes of row groups are not as the recipe needs them.
        StartError: a field can't start from what its `init` names.
        BadShareError: too many records are bad.
    """
    recipe = pin(recipe)
    splits = recipe.data.splits()
    shards = {n: [find_shards(s.paths, recipe.data.root) for s in sources] for n, sources in splits.items()}
    prints = {n: [[fingerprint(s) for s in found] for found in lists] for n, lists in shards.items()}
    folder = indexes_of(recipe.storage)

    @cache
    def groups(split: str) -> list[RowGroup]:
        return list_groups(splits[split], shards[split], recipe)

    path = folder / _key(recipe, "train", prints["train"], "fit") / "fitted.json"
    if not path.exists():
        _save_fitted(fit(recipe, groups("train"), mapper), path)
    fitted: Fitted = json.loads(path.read_text(encoding="utf-8"))
    codec = make_codec(recipe, fitted)
    manifests = {}
    for name, sources in splits.items():
        path = folder / _key(recipe, name, prints[name], fitted) / "manifest.parquet"
        if not path.exists():
            save_manifest(build_manifest(sources, groups(name), codec, mapper), path)
        manifests[name] = load_manifest(path)
        check_manifest(manifests[name], name, recipe, codec)
    return Index(fitted=fitted, manifests=manifests)


def list_groups(sources: Sequence[Source], shards: Sequence[Sequence[str]], recipe: Recipe) -> list[RowGroup]:
    """The row groups of all shards of all sources, after their columns have been checked."""
    groups: list[RowGroup] = []
    for number, (source, own) in enumerate(zip(sources, shards, strict=True)):
        reader = open_source(source)
        check_schemas(recipe, {s: reader.schema(s) for s in own}, sparse=source.format in SPARSE)
        found = [replace(g, source=number) for shard in own for g in reader.row_groups(shard) if g.num_rows]
        if not found:
            raise DataError(f"expected at least one row, but {len(own)} shards hold none: {own[0]}")
        groups += found
    return groups


def build_manifest(
    sources: Sequence[Source], groups: Sequence[RowGroup], codec: RecordCodec, mapper: Mapper
) -> Manifest:
    """Measure every row group."""
    tables = mapper(MeasureGroup(tuple(open_source(s) for s in sources), codec), groups)
    table = pa.concat_tables(tables)
    assert table.num_rows == sum(g.num_rows for g in groups)
    check_alignment(int(np.count_nonzero(table["unaligned"].to_numpy())), table.num_rows, codec)
    reasons = table["reason"].to_pylist()
    places = [(g.shard, g.first_row + i) for g in groups for i in range(g.num_rows)]
    bad = tuple(
        BadRecord(shard=s, row=r, reason=why) for (s, r), why in zip(places, reasons, strict=True) if why is not None
    )
    return Manifest(
        sources=tuple(sources),
        groups=tuple(groups),
        hashes=table["hash"].to_numpy(),
        extents={n: np.stack([table[f"{n}.0"].to_numpy(), table[f"{n}.1"].to_numpy()], axis=1) for n in codec.fields},
        bad=bad,
        unusable=np.array([why is not None for why in reasons], np.bool_),
    )


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


def check_manifest(manifest: Manifest, split: str, recipe: Recipe, codec: RecordCodec) -> None:
    """Refuse a split whose bad records pass the limit, or with a sample longer than the token budget."""
    limit = recipe.data.max_bad_share
    share = len(manifest.bad) / manifest.num_rows
    if share > limit:
        listed = "".join(f"\n  - {b.shard} row {b.row}: {b.reason}" for b in manifest.bad[:5])
        raise BadShareError(
            f"{split}: {len(manifest.bad)} of {manifest.num_rows} records are bad ({share:.2%}), but"
            f" `data.max_bad_share` is {limit:.2%}; the first:{listed}"
        )
    tokens = num_tokens(manifest, codec)
    longest = int(tokens.argmax())
    if tokens[longest] > recipe.batch.token_budget:
        shard, row = manifest.locate(longest)
        raise DataError(
            f"`batch.token_budget` must be at least {tokens[longest]} (longest sample of {split}: {shard} row {row}),"
            f" but is {recipe.batch.token_budget}"
        )


def _save_fitted(fitted: Fitted, path: Path) -> None:
    """Write the state whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{np.random.default_rng().integers(1 << 60)}.tmp")
    partial.write_text(json.dumps(fitted, ensure_ascii=False), encoding="utf-8")
    partial.replace(path)


def _key(recipe: Recipe, split: str, fingerprints: Sequence[Sequence[str]], of: Any) -> str:
    """Name of a cache folder: everything that its content depends on."""
    reads = {
        "code": CODE_VERSION,
        "fields": {n: reading(f) for n, f in recipe.fields.items()},
        "targets": target_settings(recipe),
        "sources": [source_settings(s) for s in recipe.data.splits()[split]],
        "fingerprints": fingerprints,
        "of": of,
    }
    return hashlib.sha256(json.dumps(reads, sort_keys=True).encode()).hexdigest()[:24]
