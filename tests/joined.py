"""Four generated sources of one set of records (pictures, captions, sensors, a table), each with some missing."""

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interlace.recipe.load import parse_tree
from interlace.recipe.prepare import PrepareRecipe

WORDS = np.array(["red", "green", "blue", "grey", "disc", "square", "very", "small", "large", "a", "the", "of"])
SCHEMAS = {
    "pictures": pa.schema([("id", pa.int64()), ("jpeg", pa.binary())]),
    "captions": pa.schema([("name", pa.int64()), ("caption", pa.string())]),
    "sensors": pa.schema([("id", pa.int32()), ("readings", pa.list_(pa.float32())), ("unit", pa.string())]),
    "products": pa.schema(
        [("product", pa.int64()), ("shop", pa.string()), ("price", pa.float64()), ("sold", pa.bool_())]
    ),
}
KEYS = {name: schema.names[0] for name, schema in SCHEMAS.items()}
CHUNK = 4096


def _values(name: str, rng: np.random.Generator, count: int) -> list[Any]:
    """The columns beside the key."""
    if name == "pictures":
        return [[rng.bytes(int(n)) for n in rng.integers(40, 200, count)]]
    if name == "captions":
        return [[" ".join(rng.choice(WORDS, int(n))) for n in rng.integers(1, 8, count)]]
    if name == "sensors":
        return [
            [rng.normal(size=int(n)) for n in rng.integers(0, 12, count)],
            [None if i % 5 else "mV" for i in range(count)],
        ]
    shops = [None if rng.random() < 0.1 else f"shop {int(s)}" for s in rng.integers(0, 40, count)]
    return [shops, rng.normal(size=count), rng.random(count) < 0.5]


def chunks(name: str, rows: int, seed: int = 0) -> Iterator[pa.Table]:
    """A source's rows in an order of its own, a chunk at a time; a tenth of the keys `0 .. rows - 1` are absent."""
    rng = np.random.default_rng([seed, list(SCHEMAS).index(name)])
    keys = rng.permutation(rows)[: rows - rows // 10]
    for at in range(0, len(keys), CHUNK):
        part = keys[at : at + CHUNK]
        yield pa.table([part, *_values(name, rng, len(part))], schema=SCHEMAS[name])


def write_parquet(folder: Path, rows: int, group_rows: int, num_shards: int = 2) -> None:
    """Write the four sources, each as so many shards."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in SCHEMAS.items():
        writers = [pq.ParquetWriter(folder / f"{name}-{i}.parquet", schema) for i in range(num_shards)]
        for number, table in enumerate(chunks(name, rows)):
            half = -(-table.num_rows // num_shards)
            for i, writer in enumerate(writers if number == 0 else [writers[number % num_shards]]):
                writer.write_table(table.slice(i * half, half) if number == 0 else table, row_group_size=group_rows)
        for writer in writers:
            writer.close()


FOUR_FORMATS: dict[str, dict[str, Any]] = {
    "pictures": {"format": "webdataset", "paths": ["pictures-*.tar"], "key": "__key__", "columns": ["jpeg"]},
    "captions": {"format": "csv", "paths": ["captions-*.csv"], "key": "name"},
    "sensors": {"format": "jsonl", "paths": ["sensors-*.jsonl"], "key": "id", "types": {"readings": "numbers"}},
    "products": {"paths": ["products-*.parquet"], "key": "product"},
}
"""The section `sources` over what `write_four_formats` writes; rows in a row group are for the caller to set."""


def write_four_formats(folder: Path, rows: int, group_rows: int, num_shards: int = 2) -> None:
    """Write each source in a format of its own, chunks dealt out to so many shards."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        tars = [stack.enter_context(tarfile.open(folder / f"pictures-{i}.tar", "w")) for i in range(num_shards)]
        for number, table in enumerate(chunks("pictures", rows)):
            for row in table.to_pylist():
                info = tarfile.TarInfo(f"{row['id']}.jpeg")
                info.size = len(row["jpeg"])
                tars[number % num_shards].addfile(info, io.BytesIO(row["jpeg"]))
        for name, ending in (("captions", "csv"), ("sensors", "jsonl")):
            files = [
                stack.enter_context((folder / f"{name}-{i}.{ending}").open("w", encoding="utf-8", newline=""))
                for i in range(num_shards)
            ]
            for file in files if ending == "csv" else []:
                csv.writer(file).writerow(SCHEMAS[name].names)
            for number, table in enumerate(chunks(name, rows)):
                file = files[number % num_shards]
                if ending == "csv":
                    csv.writer(file).writerows(row.values() for row in table.to_pylist())
                else:
                    file.writelines(json.dumps(row) + "\n" for row in table.to_pylist())
        schema = SCHEMAS["products"]
        tables = [
            stack.enter_context(pq.ParquetWriter(folder / f"products-{i}.parquet", schema)) for i in range(num_shards)
        ]
        for number, table in enumerate(chunks("products", rows)):
            tables[number % num_shards].write_table(table, row_group_size=group_rows)


def four_formats(group_rows: int) -> dict[str, Any]:
    """`FOUR_FORMATS` with rows in a row group."""
    return {
        name: section if name == "products" else section | {"group_rows": group_rows}
        for name, section in FOUR_FORMATS.items()
    }


def tree(folder: Path, out: Path, **settings: Any) -> dict[str, Any]:
    """A preparation of these sources; settings replace its own."""
    return {
        "name": "records",
        "root": str(folder),
        "out": str(out),
        "sources": {
            name: {"paths": [f"{name}-*.parquet"], "key": key} for name, key in KEYS.items()
        },
        "split": {"by": "shop", "seed": 3},
        "bucket_mb": 0.02,
        "shard_mb": 0.05,
        "group_rows": 16,
        **settings,
    }  # fmt: skip


def preparation(folder: Path, out: Path, **settings: Any) -> PrepareRecipe:
    """The settings of `tree`."""
    return parse_tree(tree(folder, out, **settings), (), "preparation", PrepareRecipe)
