"""WebDataset: tar files in which neighbouring members of one key are a sample, as https://github.com/webdataset says.

    a/0001.jpg, a/0001.txt, a/0001.json -> __key__ "a/0001", columns `jpg`, `txt`, `json`, `json.<key>`

The key is the path up to the first dot of its last part, the column what follows, in lower case. Column types follow
from the name alone (`KINDS`, else bytes), those of `json.<key>` from the first rows of the shard; `types` overrides
both. A sample that lacks a member is null there. Members are read by name and never extracted or unpickled. Folders,
links and other members that are no files are passed over, as are names without an extension and `__meta__` names.

A sample longer than `MAX_SAMPLE_BYTES`, with two members of one name, or cut off by the file's end is a bad record.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from interlace.contract.errors import DataError
from interlace.data.sources.base import ROW_ERROR, RowGroup, ShardFormat, row_errors
from interlace.data.sources.jsonl import documents, infer
from interlace.data.sources.spans import (
    HEAD_BYTES,
    Types,
    bad_rows,
    changed,
    open_plain,
    read_span,
    remembered,
    row_groups,
    too_long,
)
from interlace.data.sources.tar import Read, Window, members

MAX_SAMPLE_BYTES = 256 << 20
KEY = "__key__"
JSON_KEY = re.compile(r"(?P<member>(?:.*\.)?json)\.(?P<key>.+)")
KINDS: dict[str, pa.DataType] = {
    "txt": pa.string(),
    "text": pa.string(),
    "json": pa.string(),
    "cls": pa.int64(),
    "cls2": pa.int64(),
    "id": pa.int64(),
}
"""Type by the last part of an extension."""
PARSERS: dict[pa.DataType, Callable[[memoryview], Any]] = {
    pa.binary(): bytes,  # pyarrow 25 never lets go of a memoryview that it made an array of
    pa.string(): lambda view: str(view, "utf-8"),
    pa.int64(): lambda view: _int64(bytes(view)),
    pa.float64(): lambda view: float(bytes(view)),
}


@dataclass(slots=True, kw_only=True)
class Sample:
    """Members of one key: offset and size by extension."""

    key: str
    start: int
    stop: int
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebDataset(ShardFormat):
    """Reader of tar files.

    Args:
        group_rows: samples in a row group.
        names: columns that read members of other names: the first that a sample has.
        types: types of columns that do not follow from their names.
    """

    group_rows: int
    names: tuple[tuple[str, tuple[str, ...]], ...] = ()
    types: Types = ()

    def schema(self, shard: str) -> pa.Schema:
        """Columns that a sample of the shard has, `json.<key>` as far as the first rows show; and those of `types`."""
        _, extensions = _listed(self, shard)
        inferred = _json_types(self, shard)
        there = {KEY: pa.string(), **{e: _kind((e,)) for e in extensions}, **dict(inferred)}
        for column, alternatives in self.names:
            found = [a for a in alternatives if a in there]
            if found:
                there[column] = there[found[0]]
        return pa.schema(list({**there, **dict(self.types)}.items()))

    def row_groups(self, shard: str) -> list[RowGroup]:
        """Runs of samples."""
        return list(_listed(self, shard)[0])

    def read(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """Columns of a row group, of which all bytes are read; a column that no sample has is null."""
        if error := too_long(group, MAX_SAMPLE_BYTES):
            schema = pa.schema([(c, self._type(group, c)) for c in columns])
            return bad_rows(schema, [error])
        data = read_span(group)
        first = group.offset

        def read(offset: int, size: int) -> bytes:
            return data[offset - first : offset - first + size]

        found = list(_samples(read, first, first + group.num_bytes, group.shard))
        if len(found) != group.num_rows:
            raise changed(group)
        view = memoryview(data)
        arrays = [self._column(group, c, found, view) for c in columns]
        table = pa.table(arrays, names=list(columns)) if columns else pa.table({KEY: _keys(found)}).select([])
        errors = [s.error for s in found]
        return table.append_column(ROW_ERROR, pa.array(errors, pa.string())) if any(errors) else table

    def _column(self, group: RowGroup, column: str, found: Sequence[Sample], view: memoryview) -> pa.Array:
        if column == KEY:
            return _keys(found)
        names = self._members(column)
        kind = self._type(group, column)
        match = JSON_KEY.fullmatch(names[0])
        if match:
            docs = list(_values(found, (match["member"],), bytes, view, group.offset))
            return _json_column(docs, match, kind, found)
        return pa.array(list(_values(found, names, PARSERS[kind], view, group.offset)), kind)

    def _members(self, column: str) -> tuple[str, ...]:
        return next((names for name, names in self.names if name == column), (column,))

    def _type(self, group: RowGroup, column: str) -> pa.DataType:
        names = self._members(column)
        given = dict(self.types).get(column)
        if given is not None:
            return given
        if JSON_KEY.fullmatch(names[0]):
            return dict(_json_types(self, group.shard)).get(names[0], pa.null())
        return pa.string() if column == KEY else _kind(names)


def check_names(source: WebDataset) -> None:
    """Refuse alternatives and types that no member can have.

    Raises:
        DataError: names the setting.
    """
    given = dict(source.types)
    for column, names in source.names:
        if len(names) > 1 and any(JSON_KEY.fullmatch(n) for n in names):
            raise DataError(
                f"`rename.{column}`: expected extensions between `;`, but a key of a JSON member is among them"
            )
        if column not in given and len({_kind((n,)) for n in names}) > 1:
            kinds = ", ".join(f"{n} is {_kind((n,))}" for n in names)
            raise DataError(f"`rename.{column}`: expected extensions of one type, but {kinds}; name it under `types`")
    renamed = dict(source.names)
    for column, kind in source.types:
        names = renamed.get(column, (column,))
        if kind not in PARSERS and not JSON_KEY.fullmatch(names[0]):
            raise DataError(f"`types.{column}`: a member of a tar can't be {kind}; a key of a JSON member can")


def _kind(names: Sequence[str]) -> pa.DataType:
    return KINDS.get(names[0].rpartition(".")[2], pa.binary())


def _int64(data: bytes) -> int:
    value = int(data)
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{value} is over 64 bits")
    return value


def _keys(found: Sequence[Sample]) -> pa.Array:
    return pa.array([s.key.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for s in found], pa.string())


def _values(
    found: Sequence[Sample], names: Sequence[str], parse: Callable[[memoryview], Any], view: memoryview, first: int
) -> Iterator[Any]:
    """The parsed member of each sample, None where it has none; one that doesn't parse gives its sample an error."""
    for sample in found:
        name = next((n for n in names if n in sample.members), None)
        if name is None or sample.error:
            yield None
            continue
        try:
            offset, size = sample.members[name]
            yield parse(view[offset - first : offset - first + size])
        except ValueError as error:
            what = "UTF-8" if isinstance(error, UnicodeDecodeError) else "a number"
            sample.error = f"member `{name}` of {sample.key!r}: expected {what}, but {error}"[:240]
            yield None


def _json_column(
    docs: Sequence[bytes | None], match: re.Match[str], kind: pa.DataType, found: Sequence[Sample]
) -> pa.Array:
    """One key of JSON documents; a document that is no object has none."""
    key = match["key"]
    table = documents([b"{}" if d is None or _no_object(d) else d for d in docs], pa.schema([(key, kind)]))
    for sample, reason in zip(found, row_errors(table), strict=True):
        if reason:
            reason = reason.replace(f"`{key}`", f"`{match[0]}`")
            sample.error = sample.error or f"member `{match['member']}` of {sample.key!r}: {reason}"
    return table[key].combine_chunks()


def _no_object(doc: bytes) -> bool:
    """Whether a document is JSON, but no object."""
    if doc.lstrip()[:1] == b"{":
        return False
    try:
        json.loads(doc)
    except (ValueError, RecursionError):
        return False
    return True


def _samples(read: Read, start: int, end: int, shard: str) -> Iterator[Sample]:
    """Samples between two bytes."""
    sample: Sample | None = None
    for member in members(read, start, end, shard):
        if member is None:
            if sample is not None:
                sample.error = sample.error or f"{sample.key!r}: the file ends in the header after it; it is cut off"
                sample.stop = end
            break
        name = member.name.decode("utf-8", "surrogateescape")
        key, extension = _split(name)
        if not member.regular or not extension:
            continue
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = Sample(key=key, start=member.start, stop=member.stop)
        if extension in sample.members:
            sample.error = f"{key!r}: expected one member `{extension}`, but there are two"
        if member.offset + member.size > end:
            sample.error = f"{name!r}: {member.size} bytes are announced, but the file ends after {end - member.offset}"
        sample.members[extension] = (member.offset, member.size)
        sample.stop = min(member.stop, end)
    if sample is not None:
        yield sample


def _split(path: str) -> tuple[str, str]:
    """Key and extension of a member; no extension for names that are none of a sample's."""
    folder, slash, base = path.rpartition("/")
    stem, _, extension = base.partition(".")
    if not stem or (not folder and base.startswith("__")):
        return path, ""
    return folder + slash + stem, extension.lower()


@remembered("tar")
def _listed(source: WebDataset, shard: str) -> tuple[tuple[RowGroup, ...], tuple[str, ...]]:
    """Row groups and extensions, from one pass over the headers."""
    extensions: dict[str, None] = {}

    def spans(file: pa.NativeFile) -> Iterator[tuple[int, int]]:
        for sample in _samples(Window(file), 0, file.size(), shard):
            extensions.update(dict.fromkeys(sample.members))
            yield sample.start, sample.stop

    with open_plain(shard, "tar") as file:
        groups = row_groups(shard, spans(file), source.group_rows, MAX_SAMPLE_BYTES)
    return tuple(groups), tuple(extensions)


@remembered("tar")
def _json_types(source: WebDataset, shard: str) -> Types:
    """Types of `json.<key>` columns, from JSON members of the first rows."""
    docs: dict[str, list[bytes]] = {}
    left = HEAD_BYTES
    with open_plain(shard, "tar") as file:
        read = Window(file)
        for number, sample in enumerate(_samples(read, 0, file.size(), shard)):
            own = {e: m for e, m in sample.members.items() if e.rpartition(".")[2] == "json" and not sample.error}
            for extension, (offset, length) in own.items():
                left -= length
                if left >= 0:
                    docs.setdefault(extension, []).append(read(offset, length))
            if left < 0 or number + 1 == source.group_rows:
                break
    return tuple((f"{e}.{key}", kind) for e, found in docs.items() for key, kind in infer(found).items())
