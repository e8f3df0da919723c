"""What is true of every format of shards, as checks for the tests of any package that brings one."""

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from interlace.contract.errors import DataError
from interlace.data.sources import SPARSE, open_source, row_errors
from interlace.recipe.data import Source


def read_rows(source: Source, shard: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Every row by row groups, by a reader that was sent to another process; the groups follow each other, none bad.

    Raises:
        AssertionError: a row group has other rows than it says, or one that can't be used.
    """
    reader = pickle.loads(pickle.dumps(open_source(source)))
    groups = reader.row_groups(shard)
    tables = [reader.read(group, columns) for group in groups]
    read, said = [t.num_rows for t in tables], [g.num_rows for g in groups]
    assert read == said, f"expected row groups of {said} rows, but read {read}"
    firsts, sums = [g.first_row for g in groups], [sum(said[:i]) for i in range(len(groups))]
    assert firsts == sums, f"expected row groups to begin at rows {sums}, but they say {firsts}"
    bad = [fault for table in tables for fault in row_errors(table) if fault]
    assert not bad, f"expected rows that can be used, but one can't: {bad[0]}"
    return [row for table in tables for row in table.to_pylist()]


def check_source(source: Source, shard: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A reader tells the rows of a shard: whole and by column, in any order of groups, the same each time.

    Args:
        source: settings; its format may be one of an installed plug-in.
        shard: a file in that format.
        rows: what it holds, each row with every column, None where there is no value.

    Raises:
        AssertionError: with what was expected.
    """
    columns = list(rows[0])
    reader = open_source(source)
    twin = pickle.loads(pickle.dumps(reader))
    assert (twin, hash(twin)) == (reader, hash(reader)), "expected a reader that is frozen, equal and hashed by value"
    schema = reader.schema(shard)
    lacking = [column for column in columns if column not in schema.names]
    assert not lacking, f"expected columns {', '.join(columns)} in the schema, but {', '.join(lacking)} are not"
    assert read_rows(source, shard, columns) == [dict(row) for row in rows], "expected the rows that were written"
    for column in columns:
        alone = [row[column] for row in read_rows(source, shard, [column])]
        assert alone == [row[column] for row in rows], f"`{column}` read alone differs from what was written"
    groups = reader.row_groups(shard)
    turned = columns[::-1]
    tables = [reader.read(group, turned) for group in groups]
    for group, table in reversed(list(zip(groups, tables, strict=True))):
        again = twin.read(group, turned).select(turned)
        assert again.equals(table.select(turned)), f"row group {group.index} read again differs"
        for column in columns:
            kind, said = table.schema.field(column).type, schema.field(column).type
            assert kind == said, f"`{column}`: the schema says {said}, but read is {kind}"
    _check_what_is_not_there(source, shard, columns)


def _check_what_is_not_there(source: Source, shard: str, columns: Sequence[str]) -> None:
    reader = open_source(source)
    for look in (reader.schema, reader.row_groups):
        try:
            look(f"{shard}.is.not.there")
        except (DataError, OSError):
            continue
        raise AssertionError("expected a shard that is not there to raise DataError")
    unknown = "_".join([*columns, "unknown"])
    group = reader.row_groups(shard)[0]
    if source.format in SPARSE:
        values = reader.read(group, [unknown])[unknown].to_pylist()
        assert values == [None] * group.num_rows, "expected a column that a sparse format lacks to be null"
        return
    try:
        reader.read(group, [unknown])
    except DataError:
        return
    raise AssertionError(f"expected the unknown column `{unknown}` to raise DataError")
