"""The plan: what the sources hold, whether they fit together, and how the job is cut into units. Reads footers only."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
from pyarrow import types

from interlace.contract.errors import DataError
from interlace.data.sources import SPARSE, RowGroup, find_shards, open_source
from interlace.data.sources.base import ROW_ERROR
from interlace.data.sources.fingerprint import fingerprint
from interlace.recipe.prepare import JoinedSource, PrepareRecipe

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One source of the join, as tasks need it.

    Args:
        name: in the recipe.
        source: its settings.
        columns: name in the output -> column of the source.
        schema: of the output's columns.
        shards: its files, in order; rows are numbered within each.
    """

    name: str
    source: JoinedSource
    columns: Mapping[str, str]
    schema: pa.Schema
    shards: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScatterUnit:
    """Adjacent row groups of one source, each with the number of its shard: what one task of stage 1 reads."""

    number: int
    side: int
    groups: tuple[tuple[int, RowGroup], ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a job will do.

    Args:
        recipe: its settings.
        sides: the sources, in the recipe's order.
        groups: row groups of each side.
        prints: fingerprint of each shard of each source, by name.
        key_type: integer if all keys are, else string.
        bucket_bytes: of the sources, in a bucket; a restarted job keeps the one it began with.
    """

    recipe: PrepareRecipe
    sides: tuple[Side, ...]
    groups: tuple[tuple[tuple[int, RowGroup], ...], ...]
    prints: Mapping[str, Mapping[str, str]]
    key_type: pa.DataType
    bucket_bytes: int

    def num_rows(self, side: int) -> int:
        """Rows of a source."""
        return sum(g.num_rows for _, g in self.groups[side])

    def num_bytes(self, side: int) -> int:
        """Bytes of a source, unpacked."""
        return sum(g.num_bytes for _, g in self.groups[side])

    @property
    def num_buckets(self) -> int:
        """Buckets of the join."""
        return max(1, -(-sum(self.num_bytes(i) for i in range(len(self.sides))) // self.bucket_bytes))

    @cached_property
    def units(self) -> tuple[ScatterUnit, ...]:
        """Units of stage 1: of up to `bucket_bytes`, at least one row group."""
        cut = [(i, run) for i, groups in enumerate(self.groups) for run in _runs(groups, self.bucket_bytes)]
        return tuple(ScatterUnit(number=n, side=i, groups=run) for n, (i, run) in enumerate(cut))

    @property
    def schema(self) -> pa.Schema:
        """Of the output: the key, then the sources' columns."""
        return pa.schema([(self.recipe.keep_key, self.key_type), *(f for side in self.sides for f in side.schema)])


def make_plan(recipe: PrepareRecipe) -> Plan:
    """Look at the footers of all sources.

    Raises:
        DataError: a source has no shards, its shards differ, columns are missing or collide, keys can't be compared.
    """
    errors: list[str] = []
    sides, groups, keys = [], [], {}
    for name, source in recipe.sources.items():
        shards = find_shards(source.paths, recipe.root, "root")
        schema = _schema(name, source, shards, errors)
        if schema is None:
            continue
        keys[name] = schema.field(source.key).type
        columns = source.columns or {c: c for c in schema.names if c not in (source.key, ROW_ERROR)}
        out = pa.schema([pa.field(o, schema.field(c).type) for o, c in columns.items()])
        sides.append(Side(name=name, source=source, columns=dict(columns), schema=out, shards=tuple(shards)))
        reader = open_source(source)
        groups.append(tuple((n, g) for n, s in enumerate(shards) for g in reader.row_groups(s) if g.num_rows))
        if not groups[-1]:
            errors.append(f"sources.{name}: expected at least one row, but {len(shards)} shards hold none: {shards[0]}")
    errors += _key_errors(keys, recipe) + _column_errors(sides, recipe)
    if errors:
        raise DataError("\n  - ".join([f"{recipe.name}: {len(errors)} errors in the sources", *errors]))
    integers = all(types.is_integer(k) and k != pa.uint64() for k in keys.values())
    return Plan(
        recipe=recipe,
        sides=tuple(sides),
        groups=tuple(groups),
        prints={s.name: {shard: fingerprint(shard) for shard in s.shards} for s in sides},
        key_type=pa.int64() if integers else pa.string(),
        bucket_bytes=max(1, int(recipe.bucket_mb * MIB)),
    )


def _runs(groups: tuple[tuple[int, RowGroup], ...], most: int) -> Iterator[tuple[tuple[int, RowGroup], ...]]:
    run: list[tuple[int, RowGroup]] = []
    size = 0
    for item in groups:
        if run and size + item[1].num_bytes > most:
            yield tuple(run)
            run, size = [], 0
        run.append(item)
        size += item[1].num_bytes
    if run:
        yield tuple(run)


def _schema(name: str, source: JoinedSource, shards: list[str], errors: list[str]) -> pa.Schema | None:
    """Types of the key and the columns taken, equal in all shards; None where there are errors.

    In formats where a shard need not have every column, one shard that has it is enough.
    """
    reader = open_source(source)
    sparse = source.format in SPARSE
    known: dict[str, tuple[pa.DataType, str]] = {}
    before = len(errors)
    for shard in shards:
        schema = reader.schema(shard)
        wanted = [source.key, *(source.columns.values() if source.columns is not None else schema.names)]
        if source.columns is None and not sparse and known and set(schema.names) != set(known):
            odd = ", ".join(f"`{c}`" for c in sorted(set(schema.names) ^ set(known)))
            errors.append(
                f"sources.{name}: expected equal columns in all shards, but {shards[0]} and {shard} differ in {odd}"
            )
            continue
        for column in dict.fromkeys(wanted):
            if column not in schema.names:
                if not (sparse and (column in known or shard != shards[-1])):
                    errors.append(_no_column(f"sources.{name}", column, schema.names, f" in {shard}"))
                continue
            kind = _plain(schema.field(column).type)
            first, where = known.setdefault(column, (kind, shard))
            if types.is_null(first):
                known[column] = (kind, shard)
            elif kind != first and not types.is_null(kind):
                errors.append(
                    f"sources.{name}: expected `{column}` to have one type in all shards,"
                    f" but it is {first} in {where} and {kind} in {shard}"
                )
    return None if len(errors) > before else pa.schema([(c, t) for c, (t, _) in known.items()])


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _key_errors(keys: Mapping[str, pa.DataType], recipe: PrepareRecipe) -> list[str]:
    return [
        f"sources.{name}.key: expected `{recipe.sources[name].key}` to be integer or string, but it is {kind}"
        for name, kind in keys.items()
        if not (types.is_integer(kind) or _is_text(kind) or types.is_null(kind))
    ]


def _column_errors(sides: list[Side], recipe: PrepareRecipe) -> list[str]:
    """Names that collide in the output, and a `split.by` that is not there or can't be compared."""
    errors = []
    seen: dict[str, tuple[str, pa.DataType]] = {recipe.keep_key: ("the key", pa.string())}
    for side in sides:
        for field in side.schema:
            if field.name in seen:
                errors.append(
                    f"output column `{field.name}` comes from both {seen[field.name][0]} and sources.{side.name};"
                    f" give one another name by `sources.{side.name}.columns`"
                )
            seen[field.name] = (f"sources.{side.name}", field.type)
    by = recipe.split.by
    if by is not None and len(sides) == len(recipe.sources):
        if by not in seen:
            errors.append(_no_column("split.by", by, list(seen), " in the output"))
        elif types.is_nested(seen[by][1]):
            errors.append(f"split.by: expected one value a row in `{by}`, but it is {seen[by][1]}")
    return errors


def _no_column(where: str, column: str, names: list[str], place: str) -> str:
    near = difflib.get_close_matches(column, names, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"it has {', '.join(names)}"
    return f"{where}: expected a column `{column}`{place}, but there is none; {hint}"
