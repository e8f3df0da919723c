"""The index: fits modalities on the training rows, measures every row of every split, writes manifests. Torch-free.

    shards -> check columns and types -> fit (tokenizers, vocabularies, statistics) -> measure row groups -> manifest

Both are jobs over row groups; `mapper` decides where they run: in this process (`map`) or as a Ray Data job
(`pipeline.data.stream.map_units`). Results lie in a cache folder named by what they depend on, so a second run of the
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
import xxhash
from numpy.typing import NDArray

from pipeline import modalities
from pipeline.data.cache import CACHE_VERSION, LIBRARIES, Cache
from pipeline.data.fingerprint import fingerprint
from pipeline.data.fit import Fitted, fit
from pipeline.data.manifest import MISSING, Manifest, load_manifest, save_manifest
from pipeline.data.mix import MixSettings
from pipeline.data.plan import PlanSettings
from pipeline.data.reader import Reader, Recordings, field_value, num_tokens, record_hash
from pipeline.data.schema import check_schemas
from pipeline.data.sources import SPARSE, Mapper, RowGroup, ShardFormat, faults_of, find_shards, open_source
from pipeline.data.targets import Target, TextTarget, ctc_tokens, make_target
from pipeline.errors import BadShareError, DataError, RecordError
from pipeline.fields import AnyField
from pipeline.origin import pin
from pipeline.recipe.recipe import Recipe, Source
from pipeline.sample import BadRecord

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

    def reader(self, recipe: Recipe, split: str, *, training: bool) -> Reader:
        """The reader of one split."""
        return Reader(
            manifest=self.manifests[split],
            plan_settings=plan_settings(recipe, training=training),
            recordings=make_recordings(recipe, self.fitted),
            training=training,
            mix=mix_settings(recipe) if split == "train" and training else None,
            cache=decoded_cache(recipe, self.fitted),
        )


def decoded_cache(recipe: Recipe, fitted: Fitted) -> Cache | None:
    """The cache of decoded values of a recipe, None where it is turned off."""
    if not recipe.data.cache_gb:
        return None
    reads = {
        "code": CACHE_VERSION,
        "libraries": LIBRARIES,
        "fields": [(n, _reading(f)) for n, f in recipe.fields.items()],
        "targets": _targets(recipe),
        "fitted": fitted,
    }
    return Cache(
        folder=recipe.data.cache_folder or str(Path(recipe.storage).absolute() / "cache" / "decoded"),
        limit_bytes=int(recipe.data.cache_gb * 1e9),
        reads=hashlib.sha256(json.dumps(reads, sort_keys=True).encode()).hexdigest(),
    )


def mix_settings(recipe: Recipe) -> MixSettings | None:
    """The weights of the training sources, where there are several."""
    weights = tuple(source.weight for source in recipe.data.mix.values())
    return MixSettings(weights=weights, window_rows=recipe.data.mix_rows) if weights else None


def plan_settings(recipe: Recipe, *, training: bool) -> PlanSettings:
    """The settings of a plan: as the recipe says for training; in file order, one pack a step, for evaluation."""
    return PlanSettings(
        seed=recipe.seed,
        token_budget=recipe.batch.token_budget,
        global_batch=recipe.batch.global_batch if training else 1,
        lookahead=recipe.batch.lookahead,
        window_groups=recipe.data.window_groups,
        shuffle=training,
    )


def make_recordings(recipe: Recipe, fitted: Fitted) -> Recordings:
    """The modalities and targets of a recipe, with what was fitted."""
    return Recordings(
        fields={n: (modalities.make(n, f, fitted["fields"][n]), f.columns) for n, f in recipe.fields.items()},
        targets={n: (make_target(t, fitted["targets"][n]), t.columns) for n, t in recipe.tasks.items() if t.columns},
    )


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
    folder = Path(recipe.storage).absolute() / "cache" / "index"

    @cache
    def groups(split: str) -> list[RowGroup]:
        return list_groups(splits[split], shards[split], recipe)

    path = folder / _key(recipe, "train", prints["train"], "fit") / "fitted.json"
    if not path.exists():
        _save_fitted(fit(recipe, groups("train"), mapper), path)
    fitted: Fitted = json.loads(path.read_text(encoding="utf-8"))
    recordings = make_recordings(recipe, fitted)
    manifests = {}
    for name, sources in splits.items():
        path = folder / _key(recipe, name, prints[name], fitted) / "manifest.parquet"
        if not path.exists():
            save_manifest(build_manifest(sources, groups(name), recordings, mapper), path)
        manifests[name] = load_manifest(path)
        check_manifest(manifests[name], name, recipe, recordings)
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
    sources: Sequence[Source], groups: Sequence[RowGroup], recordings: Recordings, mapper: Mapper
) -> Manifest:
    """Measure every row group."""
    tables = mapper(MeasureGroup(tuple(open_source(s) for s in sources), recordings), groups)
    table = pa.concat_tables(tables)
    assert table.num_rows == sum(g.num_rows for g in groups)
    check_alignment(int(np.count_nonzero(table["unaligned"].to_numpy())), table.num_rows, recordings)
    reasons = table["reason"].to_pylist()
    places = [(g.shard, g.first_row + i) for g in groups for i in range(g.num_rows)]
    bad = tuple(
        BadRecord(shard=s, row=r, reason=why) for (s, r), why in zip(places, reasons, strict=True) if why is not None
    )
    return Manifest(
        sources=tuple(sources),
        groups=tuple(groups),
        hashes=table["hash"].to_numpy(),
        extents={
            n: np.stack([table[f"{n}.0"].to_numpy(), table[f"{n}.1"].to_numpy()], axis=1) for n in recordings.fields
        },
        bad=bad,
        unusable=np.array([why is not None for why in reasons], np.bool_),
    )


@dataclass(frozen=True, slots=True)
class MeasureGroup:
    """Measures the rows of a row group: hash, extents, and the reason where a record can't be used."""

    readers: tuple[ShardFormat, ...]
    recordings: Recordings

    def __call__(self, group: RowGroup) -> pa.Table:
        """One row a record: `hash`, `<field>.0`, `<field>.1`, `reason`, `unaligned`."""
        names = list(self.recordings.fields)
        try:
            table = self.readers[group.source].read(group, self.recordings.columns)
        except DataError as error:
            return self._table([(0, [(MISSING, MISSING)] * len(names), str(error), False)] * group.num_rows)
        rows = zip(table.to_pylist(), faults_of(table), strict=True)
        unread = [(MISSING, MISSING)] * len(names)
        return self._table([(0, unread, fault, False) if fault else self._measure(record) for record, fault in rows])

    def _measure(self, record: Mapping[str, Any]) -> tuple[int, list[tuple[int, int]], str | None, bool]:
        reason: str | None = None
        extents = [(MISSING, MISSING)] * len(self.recordings.fields)
        for i, (name, (modality, columns)) in enumerate(self.recordings.fields.items()):
            value = field_value(record, columns)
            if value is None:
                continue
            try:
                extents[i] = modality.measure(value)
            except RecordError as error:
                reason = reason or f"field `{name}`: {error}"
        unaligned = False
        try:
            for target, columns in self.recordings.targets.values():
                if (value := field_value(record, columns)) is not None:
                    unaligned |= self._is_unaligned(target, target.encode(value), extents)
        except RecordError as error:
            reason = reason or str(error)
        if reason is None and not self._has_token(extents):
            reason = "no field has a token: every field of the record is missing or empty"
        return record_hash(record, self.recordings.columns), extents, reason, unaligned

    def _is_unaligned(self, target: Target, ids: NDArray[Any], extents: Sequence[tuple[int, int]]) -> bool:
        """Whether the field that CTC reads is there, but has too few tokens for the text."""
        if not isinstance(target, TextTarget) or target.ctc_field is None:
            return False
        extent = extents[list(self.recordings.fields).index(target.ctc_field)]
        modality = self.recordings.fields[target.ctc_field][0]
        return extent[0] != MISSING and modality.num_tokens(extent) < ctc_tokens(ids)

    def _has_token(self, extents: Sequence[tuple[int, int]]) -> bool:
        pairs = zip(extents, self.recordings.fields.values(), strict=True)
        return any(e[0] != MISSING and m.num_tokens(e) > 0 for e, (m, _) in pairs)

    def _table(self, rows: list[tuple[int, list[tuple[int, int]], str | None, bool]]) -> pa.Table:
        columns: dict[str, pa.Array] = {
            "hash": pa.array([r[0] for r in rows], pa.uint64()),
            "reason": pa.array([r[2] for r in rows], pa.string()),
            "unaligned": pa.array([r[3] for r in rows], pa.bool_()),
        }
        for i, name in enumerate(self.recordings.fields):
            columns[f"{name}.0"] = pa.array([r[1][i][0] for r in rows], pa.int32())
            columns[f"{name}.1"] = pa.array([r[1][i][1] for r in rows], pa.int32())
        return pa.table(columns)


def check_alignment(unaligned: int, num_rows: int, recordings: Recordings) -> None:
    """Refuse data of which CTC could align less than half; fewer texts are left out of its loss. Raises DataError."""
    if unaligned * 2 > num_rows:
        fields = {t.ctc_field for t, _ in recordings.targets.values() if isinstance(t, TextTarget)} - {None}
        name = " or ".join(sorted(map(str, fields)))
        raise DataError(
            f"CTC needs a token of its field for each token of the text, and one more for each that repeats the one"
            f" before, but {unaligned} of {num_rows} texts have fewer: lower `fields.{name}.patch_frames` or `hop_ms`,"
            " or use a tokenizer of longer pieces"
        )


def check_manifest(manifest: Manifest, split: str, recipe: Recipe, recordings: Recordings) -> None:
    """Refuse a split whose bad records pass the limit, or with a sample longer than the token budget."""
    limit = recipe.data.max_bad_share
    share = len(manifest.bad) / manifest.num_rows
    if share > limit:
        listed = "".join(f"\n  - {b.shard} row {b.row}: {b.reason}" for b in manifest.bad[:5])
        raise BadShareError(
            f"{split}: {len(manifest.bad)} of {manifest.num_rows} records are bad ({share:.2%}), but"
            f" `data.max_bad_share` is {limit:.2%}; the first:{listed}"
        )
    tokens = num_tokens(manifest, recordings)
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
        "fields": {n: _reading(f) for n, f in recipe.fields.items()},
        "targets": _targets(recipe),
        "sources": [s.model_dump(mode="json", exclude={"paths", "weight"}) for s in recipe.data.splits()[split]],
        "fingerprints": fingerprints,
        "of": of,
    }
    return hashlib.sha256(json.dumps(reads, sort_keys=True).encode()).hexdigest()[:24]


def _targets(recipe: Recipe) -> dict[str, Any]:
    """What of the tasks' settings decides their targets."""
    return {n: t.model_dump(mode="json", include=set(t.target_keys)) for n, t in recipe.tasks.items() if t.columns}


def _reading(field: AnyField) -> dict[str, Any]:
    """What of a field's settings decides its tokens, a tokenizer file by its content."""
    settings: dict[str, Any] = field.model_dump(mode="json", exclude=set(field.training_only))
    file = settings.get("tokenizer_file")
    if file is not None and Path(file).exists():
        settings["tokenizer_file"] = xxhash.xxh3_64(Path(file).read_bytes()).hexdigest()
    if field.init is not None:
        settings["init"] = [field.init.digest, field.init.field]
    if (encoder := settings.pop("encoder", None)) is not None:
        settings["encoder"] = encoder["digest"]
    return settings
