"""How a pack travels through Ray: `pack_to_table` lays it in one row of flat Arrow buffers, `table_to_pack` reads it.

Apart from `sample`, so that what only computes on packs needs no Arrow.
"""

import json
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interlace.contract.sample import BadRecord, FieldPack, Pack, TargetPack


def _flat(values: NDArray[Any]) -> pa.LargeListArray:
    """One-row large_list column over the buffer of `values`."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.LargeListArray.from_arrays(pa.array([0, len(flat)], pa.int64()), flat)


def _numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    """The numbers of a one-row large_list column, without a copy (read-only)."""
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    values: NDArray[Any] = array.flatten().to_numpy(zero_copy_only=True)
    return values


def pack_to_table(pack: Pack) -> pa.Table:
    """The pack as an Arrow table of one row: scalars and flat `large_list` buffers, nothing pickled."""
    columns: dict[str, Any] = {
        "position": pa.array([pack.position], pa.int64()),
        "epoch": pa.array([pack.epoch], pa.int64()),
        "sample_ids": _flat(pack.sample_ids),
        "bad": pa.array([json.dumps([[b.shard, b.row, b.reason] for b in pack.bad])]),
    }
    for name, item in pack.fields.items():
        width = item.values.shape[1] if item.values.ndim == 2 else 0
        columns[f"field.{name}.width"] = pa.array([width], pa.int32())
        columns[f"field.{name}.values"] = _flat(item.values)
        columns[f"field.{name}.lengths"] = _flat(item.lengths)
        columns[f"field.{name}.grids"] = _flat(item.grids)
        if item.times is not None:
            columns[f"field.{name}.times"] = _flat(item.times)
    for name, target in pack.targets.items():
        columns[f"target.{name}.values"] = _flat(target.values)
        columns[f"target.{name}.lengths"] = _flat(target.lengths)
        columns[f"target.{name}.present"] = _flat(target.present.view(np.uint8))
    return pa.table(columns)


def table_to_pack(table: pa.Table) -> Pack:
    """The pack in a one-row table made by `pack_to_table`; arrays are read-only views of the Arrow buffers."""
    assert table.num_rows == 1, table.num_rows
    names = [n.split(".", 1)[1].rsplit(".", 1)[0] for n in table.column_names if n.endswith(".lengths")]
    kinds = [n.split(".", 1)[0] for n in table.column_names if n.endswith(".lengths")]
    fields: dict[str, FieldPack] = {}
    targets: dict[str, TargetPack] = {}
    for kind, name in zip(kinds, names, strict=True):
        values = _numpy(table[f"{kind}.{name}.values"])
        lengths = _numpy(table[f"{kind}.{name}.lengths"])
        if kind == "field":
            width = table[f"field.{name}.width"][0].as_py()
            values = values.reshape(-1, width) if width else values
            grids = _numpy(table[f"field.{name}.grids"]).reshape(-1, 2)
            clock = f"field.{name}.times"
            times = _numpy(table[clock]) if clock in table.column_names else None
            fields[name] = FieldPack(values=values, lengths=lengths, grids=grids, times=times)
        else:
            present = _numpy(table[f"target.{name}.present"]).view(np.bool_)
            targets[name] = TargetPack(values=values, lengths=lengths, present=present)
    bad = tuple(BadRecord(shard=s, row=r, reason=why) for s, r, why in json.loads(table["bad"][0].as_py()))
    return Pack(
        position=table["position"][0].as_py(),
        epoch=table["epoch"][0].as_py(),
        sample_ids=_numpy(table["sample_ids"]),
        fields=fields,
        targets=targets,
        bad=bad,
    )
