"""What shards say of themselves, columns and row groups, kept by fingerprint: an unchanged shard is not opened again.

Formats without row groups of their own find them by a pass over the whole file.
"""

from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa

from interlace.data.index.parts import temporary
from interlace.data.sources import RowGroup, ShardFormat

COLUMNS = pa.schema([(n, pa.int64()) for n in ("index", "first_row", "num_rows", "num_bytes", "offset")])


def list_shard(reader: ShardFormat, shard: str, kept: Path) -> tuple[pa.Schema, list[RowGroup]]:
    """Columns and row groups of a shard.

    Args:
        reader: of its format.
        shard: path or URI.
        kept: where they are kept, named by fingerprint and settings.

    Raises:
        DataError: the file can't be read.
    """
    if not kept.exists():
        schema, groups = reader.schema(shard), reader.row_groups(shard)
        _save(schema, groups, kept)
        return schema, groups
    table = pa.ipc.open_file(kept.read_bytes()).read_all()
    schema = pa.ipc.read_schema(pa.py_buffer(table.schema.metadata[b"schema"]))
    return schema, [RowGroup(shard=shard, **row) for row in table.to_pylist()]


def numbered(groups: list[RowGroup], source: int) -> list[RowGroup]:
    """The row groups that hold a row, of a source by its number."""
    return [replace(group, source=source) for group in groups if group.num_rows]


def _save(schema: pa.Schema, groups: list[RowGroup], path: Path) -> None:
    rows = [{name: value for name, value in asdict(g).items() if name in COLUMNS.names} for g in groups]
    table = pa.Table.from_pylist(rows, COLUMNS).replace_schema_metadata({b"schema": schema.serialize().to_pybytes()})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary(path)
    with pa.ipc.new_file(str(partial), table.schema) as writer:
        writer.write_table(table)
    partial.replace(path)
