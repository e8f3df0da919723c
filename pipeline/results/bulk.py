"""Prediction over whole shards: which rows make which output file, and the work of one file.

    shards -> row groups -> parts of neighbouring row groups -> part-00000-of-00012.parquet, ...

A part is written whole or not at all and depends on its own rows only, so parts may be done anywhere, in any order and
twice: a job that was killed goes on by the same call, and the files have the same bytes. Rows keep their order; a row
that can't be read stays in its place with the reason in the column `error`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from interlace.contract.errors import DataError, InterlaceError, ResumeError
from interlace.data.prepare.work import whole, write_json
from interlace.data.sources import SPARSE, RowGroup, ShardFormat, find_shards, open_source
from interlace.data.sources.base import ROW_ERROR
from interlace.data.sources.fingerprint import fingerprint
from interlace.recipe.data import Source
from interlace.recipe.load import load_kept
from interlace.recipe.plugins import kinds
from interlace.recipe.recipe import Recipe
from interlace.recipe.start import FITTED, MODEL, RECIPE
from interlace.results.predictor import Predictor
from interlace.store.hashes import hash_file
from interlace.store.lock import held

JOB = "_predictions.json"
"""File of an output folder: what its parts are made from, and once all are there, what came of it."""
LOCK = "_driver.lock"
"""Readers of a folder of Parquet files pass over names that begin with `_`, and over no others."""
BEFORE = "predictions.json"
"""What `JOB` was called once."""
SHARD, ROW, ERROR = "shard", "row", "error"
"""Columns that every output has: where a row is from, and why it has no predictions."""
FORMATS = {".parquet": "parquet", ".tar": "webdataset", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"} | {
    ending: name for name, found in kinds("sources").found.items() for ending in found.plugin.endings
}
ARROW = {"string": pa.string(), "long": pa.int64(), "double": pa.float64(), "doubles": pa.list_(pa.float32())}
MOST_LISTED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One output file: its number, its name, the row groups it is made of."""

    number: int
    name: str
    groups: tuple[RowGroup, ...]

    @property
    def num_rows(self) -> int:
        """Rows of the file."""
        return sum(group.num_rows for group in self.groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """A job: all that decides its output.

    Args:
        model: the exported model.
        output: folder of the parts.
        reader: of the shards.
        columns: those of the model that are read.
        absent: columns of the model that are in no shard.
        keep: further columns, copied to the output, with their types.
        parts: in input order.
        made_from: digests of model and shards and the settings, as JSON can hold it.
    """

    model: Path
    output: Path
    reader: ShardFormat
    columns: tuple[str, ...]
    absent: tuple[str, ...]
    keep: Mapping[str, pa.DataType]
    parts: tuple[Part, ...]
    made_from: Mapping[str, Any]

    @property
    def num_rows(self) -> int:
        """Rows of all parts."""
        return sum(part.num_rows for part in self.parts)

    @property
    def num_shards(self) -> int:
        """Shards that are read."""
        return len({group.shard for part in self.parts for group in part.groups})

    @property
    def work(self) -> "WritePart":
        """What does one part."""
        return WritePart(
            model=self.model, output=self.output, reader=self.reader, columns=self.columns, keep=self.keep
        )  # fmt: skip

    def predicted(self, predictor: Predictor, *, probabilities: bool = False) -> Iterator[dict[str, Any]]:
        """All rows in order, predicted in this process; nothing is written."""
        for group in (group for part in self.parts for group in part.groups):
            yield from self.work.predicted(group, predictor, probabilities=probabilities)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What came of a job: rows, those with an error, and the first few of their reasons."""

    num_rows: int
    num_bad: int
    reasons: tuple[str, ...]


Mapper = Callable[[Callable[[Part], pa.Table], Sequence[Part]], Iterable[Any]]
"""Does work on parts, here or anywhere, in any order; a table for each."""
Progress = Callable[[int, int], None]
"""Told of parts and rows that are done."""


def plan_bulk(model: Path, data: Sequence[str], output: Path, *, keep: Sequence[str] = (), part_rows: int) -> Bulk:
    """Find the rows and cut them into parts.

    Args:
        model: folder of the exported model.
        data: files or globs of shards, local or URIs; or the name of a split of the recipe.
        output: folder for the parts.
        keep: columns of the shards to copy to the output.
        part_rows: a part ends with the row group that reaches so many rows.

    Raises:
        DataError: no shards, none of the model's columns in them, or a column to keep that is not there.
    """
    recipe = load_kept(model / RECIPE)
    source, root = _source(recipe, data)
    reader = open_source(source)
    shards = find_shards(source.paths, root, "--data")
    wanted = tuple(dict.fromkeys(c for field in recipe.fields.values() for c in field.columns))
    schemas = {shard: reader.schema(shard) for shard in shards}
    there = [c for c in wanted if all(c in schema.names for schema in schemas.values())]
    if source.format in SPARSE:
        there = [c for c in wanted if any(c in schema.names for schema in schemas.values())]
    if not there:
        raise DataError(f"expected one of the columns {', '.join(wanted)} in {shards[0]}, but it has none of them")
    groups = [group for shard in shards for group in reader.row_groups(shard) if group.num_rows]
    files = {name: hash_file(model / name) for name in (RECIPE, FITTED, MODEL)}
    prints = [fingerprint(shard) for shard in shards]
    return Bulk(
        model=model.absolute(),
        output=output.absolute(),
        reader=reader,
        columns=tuple(there),
        absent=tuple(c for c in wanted if c not in there),
        keep=_kept(keep, schemas),
        parts=cut_parts(groups, part_rows),
        made_from={"model": files, "shards": prints, "keep": list(keep), "part_rows": part_rows},
    )


def _source(recipe: Recipe, data: Sequence[str]) -> tuple[Source, str]:
    """The source of a split, or of paths with the recipe's settings for their format; and the root of its paths."""
    splits = recipe.data.splits()
    if len(data) == 1 and data[0] in splits:
        if len(splits[data[0]]) > 1:
            raise DataError(f"--data {data[0]}: a mix of sources has several formats; give the paths of one")
        return splits[data[0]][0], recipe.data.root
    endings = {Path(path).suffix for path in data}
    kinds = {FORMATS.get(ending) for ending in endings}
    if None in kinds or len(kinds) != 1:
        raise DataError(f"--data: expected shards of one format ({', '.join(FORMATS)}), but are {', '.join(data)}")
    kind = kinds.pop()
    for source in (source for sources in splits.values() for source in sources):
        if source.format == kind:
            return Source(**{**source.model_dump(exclude={"weight"}), "paths": tuple(data)}), "."
    return Source(format=kind, paths=tuple(data)), "."


def _kept(names: Sequence[str], schemas: Mapping[str, pa.Schema]) -> dict[str, pa.DataType]:
    found = {}
    for name in names:
        for shard, schema in schemas.items():
            if name not in schema.names:
                raise DataError(f"--keep {name}: expected the column in {shard}, but it has {', '.join(schema.names)}")
            found[name] = schema.field(name).type
    if taken := {SHARD, ROW, ERROR} & set(names):
        raise DataError(f"--keep {sorted(taken)[0]}: the output has a column of this name")
    return found


def cut_parts(groups: Sequence[RowGroup], part_rows: int) -> tuple[Part, ...]:
    """Neighbouring row groups together until they reach so many rows."""
    lists: list[list[RowGroup]] = []
    size = part_rows
    for group in groups:
        if size >= part_rows:
            lists.append([])
            size = 0
        lists[-1].append(group)
        size += group.num_rows
    names = [f"part-{i:05d}-of-{len(lists):05d}.parquet" for i in range(len(lists))]
    return tuple(Part(number=i, name=names[i], groups=tuple(own)) for i, own in enumerate(lists))


def predict_bulk(
    bulk: Bulk, mapper: Mapper = map, *, fresh: bool = False, progress: Progress | None = None
) -> Predicted:
    """Do the parts that are not done.

    Args:
        bulk: the job.
        mapper: where parts are done.
        fresh: remove what an earlier job wrote.
        progress: told how far it is.

    Raises:
        ResumeError: the folder holds predictions of something else, or another process writes there.
    """
    told = progress or (lambda parts, rows: None)
    bulk.output.mkdir(parents=True, exist_ok=True)
    with held(bulk.output / LOCK):
        _begin(bulk, fresh)
        left = [part for part in bulk.parts if not is_done(bulk.output, part)]
        parts, rows = len(bulk.parts) - len(left), bulk.num_rows - sum(part.num_rows for part in left)
        told(parts, rows)
        for table in mapper(bulk.work, left) if left else ():
            parts, rows = parts + table.num_rows, rows + sum(table["rows"].to_pylist())
            told(parts, rows)
        done = _result(bulk)
        for torn in bulk.output.glob("part-*.tmp"):
            torn.unlink()  # of a job that was killed
        facts = {"rows": done.num_rows, "errors": done.num_bad, "parts": [part.name for part in bulk.parts]}
        write_json(bulk.output / JOB, {"made_from": bulk.made_from, **facts})
    return done


def is_done(output: Path, part: Part) -> bool:
    """Whether a part is there and whole."""
    path = output / part.name
    if not path.exists():
        return False
    try:
        return bool(pq.ParquetFile(path).metadata.num_rows == part.num_rows)
    except pa.ArrowInvalid:
        return False


def _begin(bulk: Bulk, fresh: bool) -> None:
    """Note what the parts are made from; refuse a folder that says something else."""
    path = bulk.output / JOB
    if (bulk.output / BEFORE).exists():
        (bulk.output / BEFORE).replace(path)
    if fresh:
        for old in bulk.output.glob("part-*.parquet*"):
            old.unlink()
        path.unlink(missing_ok=True)
    if not path.exists():
        if any(bulk.output.glob("part-*.parquet")):
            raise ResumeError(f"{bulk.output}: expected a folder of ours, but its parts have no {JOB}; or use --fresh")
        write_json(path, {"made_from": bulk.made_from})
        return
    before = json.loads(path.read_text(encoding="utf-8"))["made_from"]
    now = json.loads(json.dumps(bulk.made_from))
    if different := [key for key in now if before.get(key) != now[key]]:
        raise ResumeError(
            f"{bulk.output} holds predictions made from something else ({', '.join(different)} differ);"
            " use another --output, or --fresh to begin anew"
        )


def _result(bulk: Bulk) -> Predicted:
    """Count the rows of the parts and gather the first reasons."""
    bad = 0
    reasons: list[str] = []
    for part in bulk.parts:
        table = pq.read_table(bulk.output / part.name, columns=[SHARD, ROW, ERROR])
        wrong = table.filter(table[ERROR].is_valid())
        bad += wrong.num_rows
        for row in wrong.slice(0, MOST_LISTED - len(reasons)).to_pylist():
            reasons.append(f"{row[SHARD]} row {row[ROW]}: {row[ERROR]}")
    return Predicted(num_rows=bulk.num_rows, num_bad=bad, reasons=tuple(reasons))


@dataclass(frozen=True, slots=True, kw_only=True)
class WritePart:
    """Does one part; each process loads the model once."""

    model: Path
    output: Path
    reader: ShardFormat
    columns: tuple[str, ...]
    keep: Mapping[str, pa.DataType]

    def __call__(self, part: Part) -> pa.Table:
        """Write the part; one row: its number, its rows."""
        predictor = _load(self.model)
        schema = self.schema(predictor)
        with (
            whole(self.output / part.name, sync=True) as partial,
            pq.ParquetWriter(partial, schema, compression="zstd") as writer,
        ):
            for group in part.groups:
                writer.write_table(self._group(group, predictor, schema), row_group_size=group.num_rows)
        return pa.table({"part": pa.array([part.number]), "rows": pa.array([part.num_rows])})

    def schema(self, predictor: Predictor) -> pa.Schema:
        """Columns of the output: shard, row, kept ones, predictions, error."""
        said = [(name, ARROW[kind]) for name, kind in predictor.columns.items()]
        if taken := {SHARD, ROW, *self.keep} & {name for name, _ in said}:
            raise InterlaceError(f"--keep {', '.join(sorted(taken))}: predictions have a column of this name")
        return pa.schema([(SHARD, pa.string()), (ROW, pa.int64()), *self.keep.items(), *said])

    def _group(self, group: RowGroup, predictor: Predictor, schema: pa.Schema) -> pa.Table:
        return pa.Table.from_pylist(list(self.predicted(group, predictor)), schema=schema)

    def predicted(
        self, group: RowGroup, predictor: Predictor, *, probabilities: bool = False
    ) -> Iterator[dict[str, Any]]:
        """The rows of a row group in order, each with its place, the kept columns and its predictions."""
        rows = list(self._rows(group))
        read = (({c: row.get(c) for c in self.columns}, row.pop(ROW_ERROR, None)) for row in rows)
        predictions = predictor.stream(read, probabilities=probabilities)
        for i, (row, said) in enumerate(zip(rows, predictions, strict=True)):
            yield {SHARD: group.shard, ROW: group.first_row + i, **{c: row.get(c) for c in self.keep}, **said}

    def _rows(self, group: RowGroup) -> Iterator[dict[str, Any]]:
        """The rows of a row group; where it can't be read, as many rows with the reason."""
        try:
            table = self.reader.read(group, tuple(dict.fromkeys((*self.columns, *self.keep))))
        except DataError as error:
            yield from ({ROW_ERROR: str(error)} for _ in range(group.num_rows))
            return
        yield from table.to_pylist()


@lru_cache(maxsize=1)
def _load(model: Path) -> Predictor:
    return Predictor.load(model)
