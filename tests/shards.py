"""The rows of the generated set as shards of every format: each tells the same samples."""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from interlace.contract.errors import DataError
from interlace.data.sources import open_source, row_errors, usable_rows
from interlace.recipe.data import Source
from tests.data import EmojiLike

Row = dict[str, Any]


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write members as a tar file."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def tar_members(rows: list[Row]) -> Iterable[tuple[str, bytes]]:
    """Each row as members of one key: picture, caption, numbers as JSON, label."""
    for row in rows:
        key = f"a/{row['key']:05d}"
        if row["image"] is not None:
            yield f"{key}.png", row["image"]
        if row["caption"] is not None:
            yield f"{key}.txt", row["caption"].encode()
        yield f"{key}.json", json.dumps({n: row[n] for n in ("width", "height")}, indent=1).encode()
        yield f"{key}.color.text", row["color"].encode()


def write_pictures(folder: Path, stem: str, rows: list[Row]) -> list[Row]:
    """Write the pictures as files beside the table; rows with paths in their place."""
    (folder / stem).mkdir()
    found = []
    for row in rows:
        path = None if row["image"] is None else f"{stem}/{row['key']}.png"
        if path is not None:
            (folder / path).write_bytes(row["image"])
        found.append({**row, "image": path})
    return found


def write_csv(path: Path, rows: list[Row], **dialect: Any) -> None:
    """Write rows as CSV, null as an empty value."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), **dialect)
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path: Path, rows: list[Row]) -> None:
    """Write rows as JSON Lines."""
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")


FORMATS = ("webdataset", "csv", "jsonl")
ENDINGS = {"webdataset": "tar", "csv": "csv", "jsonl": "jsonl"}
SETTINGS: dict[str, dict[str, Any]] = {
    "webdataset": {
        "rename": {
            "image": "jpg;png",
            "caption": "txt",
            "width": "json.width",
            "height": "json.height",
            "color": "color.text",
        }
    },
    "csv": {"files": ["image"]},
    "jsonl": {"files": ["image"]},
}


def write_format(name: str, folder: Path, stem: str, rows: list[Row]) -> None:
    """Write rows as one shard of a format."""
    if name == "webdataset":
        write_tar(folder / f"{stem}.tar", tar_members(rows))
        return
    write: Callable[[Path, list[Row]], None] = {"csv": write_csv, "jsonl": write_jsonl}[name]
    write(folder / f"{stem}.{ENDINGS[name]}", write_pictures(folder, stem, rows))


def sections(name: str, group_rows: int, root: str) -> dict[str, Any]:
    """The section `data` of a recipe over shards of a format."""
    common = {"format": name, "group_rows": group_rows, **SETTINGS[name]}
    return {
        "root": root,
        "train": {"paths": [f"train-*.{ENDINGS[name]}"], **common},
        "validation": {"paths": [f"validation.{ENDINGS[name]}"], **common},
    }


def of_folder(folder: Path) -> EmojiLike:
    """A recipe maker over a folder that a test fills by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    return EmojiLike(folder=folder, rows=0)


def source(name: str, **settings: Any) -> Source:
    return Source(format=name, paths=("x",), **settings)


def read(made: Source, path: Path, *columns: str) -> tuple[list[Row], dict[int, str]]:
    """Usable rows of all columns, and reasons by row."""
    reader = open_source(made)
    rows: list[Row] = []
    errors: dict[int, str] = {}
    for group in reader.row_groups(str(path)):
        table = reader.read(group, columns)
        assert table.num_rows == group.num_rows
        errors |= {group.first_row + i: f for i, f in enumerate(row_errors(table)) if f}
        rows += usable_rows(table).to_pylist()
    return rows, errors


def refused(made: Source, path: Path) -> str:
    """The message of a shard that can't be read at all."""
    reader = open_source(made)
    with pytest.raises(DataError) as caught:
        [reader.schema(str(path)), reader.row_groups(str(path))]
    assert str(path) in str(caught.value)
    return str(caught.value)
