"""Bad tar, CSV and JSON Lines: what is refused and with which words, and what costs one record only."""

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interlace.contract.errors import DataError, RecipeError
from interlace.data.index.build import build_index
from interlace.data.read.open import open_reader
from interlace.data.sources import csv as csv_module
from interlace.data.sources import jsonl, open_source
from tests.data import EmojiLike, make_rows
from tests.manifests import present
from tests.shards import (
    FORMATS,
    of_folder,
    read,
    refused,
    sections,
    source,
    write_csv,
    write_format,
    write_jsonl,
    write_tar,
)


@pytest.mark.parametrize("name", FORMATS)
def test_missing_empty_and_compressed_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "shard"
    kind = {"webdataset": "tar", "csv": "CSV", "jsonl": "JSON Lines"}[name]
    assert f"expected a {kind} file, but there is none" in refused(source(name), path)
    path.write_bytes(b"")
    assert f"expected a {kind} file, but it is empty (0 bytes)" in refused(source(name), path)
    path.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert f"expected a {kind} file, but it is compressed with gzip; unpack it" in refused(source(name), path)


@pytest.mark.parametrize("name", FORMATS)
def test_columns_and_types_get_the_messages_of_parquet(tmp_path: Path, name: str) -> None:
    data = of_folder(tmp_path / "data")
    for stem in ("train-0", "train-1", "validation"):
        write_format(name, data.folder, stem, make_rows(12, 0))
    fields = {
        "caption": {"modality": "text", "column": "captoin"},
        "image": {"modality": "image", "column": "color"},
    }
    with pytest.raises(DataError) as caught:
        build_index(data.recipe(tmp_path / "out", data=sections(name, 5, str(data.folder)), fields=fields))
    text = str(caught.value)
    assert "train-0." in text
    assert "fields.caption: expected a column `captoin`, but there is none; did you mean `caption`?" in text
    assert "fields.image: expected `color` to be binary (encoded pictures), but it is string" in text


def test_a_member_or_key_may_be_missing_from_a_whole_shard(tmp_path: Path) -> None:
    for name in ("webdataset", "jsonl"):
        data = of_folder(tmp_path / name)
        rows = make_rows(24, 0)
        write_format(name, data.folder, "train-0", rows)
        bare = [{**r, "caption": None, "image": None, "width": 1.5} for r in rows]
        if name == "jsonl":
            write_jsonl(data.folder / "train-1.jsonl", [{k: v for k, v in r.items() if v is not None} for r in bare])
        else:
            write_format(name, data.folder, "train-1", bare)
        write_format(name, data.folder, "validation", rows)
        index = build_index(data.recipe(tmp_path / "out", data=sections(name, 10, str(data.folder))))
        assert not present(index.manifests["train"], "caption")[24:].any()
        assert present(index.manifests["train"], "caption")[:24].any()
        assert not index.manifests["train"].num_bad


def bad_csv(data: EmojiLike) -> dict[int, str]:
    """Spoil rows of a table; row -> part of the reason."""
    path = data.folder / "train-0.csv"
    head, *lines = path.read_bytes().split(b"\r\n")
    parts = lines[3].split(b",")
    lines[3] = b",".join([*parts[:3], b"wide", *parts[4:]])
    lines[5] += b",extra"
    lines[8] = lines[8].replace(b"disc", b"d\xefsc") if b"disc" in lines[8] else lines[8].replace(b",", b",\xef", 1)
    lines[11] = b"11,gone/nothing.png,a red disc,1.5,2.5,red"
    path.write_bytes(b"\r\n".join([head, *lines]))
    return {
        3: "'wide'",
        5: "Expected 6 columns, got 7",
        8: "UTF",
        11: "expected a file at 'gone/nothing.png', but there",
    }


def bad_jsonl(data: EmojiLike) -> dict[int, str]:
    path = data.folder / "train-0.jsonl"
    lines = path.read_bytes().split(b"\n")
    spoiled = {3: b"[1, 2]", 5: b'{"key": 5', 8: b'{"color": "r\xef"}', 9: b'{"width": "wide"}', 11: b'{"image": ""}'}
    for row, line in spoiled.items():
        lines[row] = line
    path.write_bytes(b"\n".join(lines))
    return {3: "array", 5: "array", 8: "expected UTF-8", 9: "width", 11: "expected the path of a file, but it is empty"}


def bad_tar(data: EmojiLike) -> dict[int, str]:
    path = data.folder / "train-0.tar"
    with tarfile.open(path) as file:
        members = [(m.name, file.extractfile(m).read()) for m in file]  # type: ignore[union-attr]
    spoiled = []
    for name, content in members:
        if name == "a/00003.json":
            content = b'{"width": "wide"}'
        if name == "a/00005.color.text":
            content = b"r\xef"
        spoiled.append((name, content))
        if name == "a/00008.json":
            spoiled.append((name, content))
    write_tar(path, spoiled)
    return {3: "member `json` of 'a/00003'", 5: "expected UTF-8", 8: "expected one member `json`, but there are two"}


@pytest.mark.parametrize("name", FORMATS)
def test_one_bad_row_costs_one_record(tmp_path: Path, name: str) -> None:
    data = of_folder(tmp_path / "data")
    for stem in ("train-0", "validation"):
        rows = [{**r, "caption": r["caption"] or "a disc", "width": 0.5} for r in make_rows(40, 0)]
        write_format(name, data.folder, stem, rows)
    expected = {"csv": bad_csv, "jsonl": bad_jsonl, "webdataset": bad_tar}[name](data)
    section = {**sections(name, 9, str(data.folder)), "max_bad_share": 0.3}
    section["train"] |= {"types": {"width": "number"}}
    recipe = data.recipe(tmp_path / "out", data=section)
    index = build_index(recipe)
    listed = {b.row: b.reason for b in index.manifests["train"].bad()}
    assert listed.keys() == expected.keys(), listed
    assert {row: part for row, part in expected.items() if part not in listed[row]} == {}, listed
    reader = open_reader(index, recipe, "train", training=True)
    packs = [p for w in reader.plan().schedule(epochs=1).windows for p in reader.read(w, first=0, stop=10**9)]
    seen = np.unique(np.concatenate([p.sample_ids for p in packs]))
    assert len(seen) == 40 - len(expected)
    assert not any(p.bad for p in packs)


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_that_goes_bad_after_the_index_costs_one_record(tmp_path: Path, name: str) -> None:
    data = of_folder(tmp_path / "data")
    for stem in ("train-0", "validation"):
        rows = [{**r, "caption": "a disc"} for r in make_rows(20, 0)]
        write_format(name, data.folder, stem, rows)
    recipe = data.recipe(tmp_path / "out", data=sections(name, 9, str(data.folder)))
    reader = open_reader(build_index(recipe), recipe, "train", training=False)
    shard = next(data.folder.glob("train-0.*"))
    content = bytearray(shard.read_bytes())
    content[content.rindex(b"a disc")] = 0xFF
    shard.write_bytes(content)
    packs = [p for w in reader.plan().schedule(epochs=1).windows for p in reader.read(w, first=0, stop=10**9)]
    bad = {(b.row, "UTF" in b.reason) for p in packs for b in p.bad}
    assert bad == {(19, True)}


def test_headers_of_csv_that_can_not_be_meant(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a;b;c\n1;2;3\n")
    assert "expected columns separated by ',', but the header is one column 'a;b;c'; set `delimiter: ';'`" in refused(
        source("csv"), path
    )
    assert read(source("csv", delimiter=";"), path, "b") == ([{"b": 2}], {})
    path.write_text("a,b,a\n1,2,3\n")
    assert "expected each column once, but the header names a again" in refused(source("csv"), path)
    path.write_bytes("größe,b\n1,2\n".encode("latin-1"))
    assert "expected UTF-8, but the header has b'\\xf6\\xdfe,'" in refused(source("csv"), path)
    path.write_bytes("a,b\n1,2\n".encode("utf-16"))
    assert "expected a CSV header, but the first line is no text" in refused(source("csv"), path)
    path.write_bytes(b"a,b\r1,2\r")
    assert "but the header holds a CR alone" in refused(source("csv"), path)
    path.write_bytes(b"\n\r\n\n")
    assert "every line is blank" in refused(source("csv"), path)
    path.write_text('a,b\n1,2\n3,"four\n5,6\n')
    assert "the row at byte 8 opens a quote that is never closed" in refused(source("csv"), path)
    path.write_text("a,b\n1,2\n")
    assert "`types` names a column `ab`, but there is none; did you mean" in refused(
        source("csv", types={"ab": "string"}), path
    )
    assert "`rename.x` names a column `c`, but there is none; it has a, b" in refused(
        source("csv", rename={"x": "c"}), path
    )
    assert "`files` names a column `c`, but there is none" in refused(source("csv", files=["c"]), path)
    assert "`files` expects `a` to be string (paths), but it is int64" in refused(source("csv", files=["a"]), path)


def test_a_table_without_rows_says_so(tmp_path: Path) -> None:
    data = of_folder(tmp_path / "data")
    for stem in ("train-0", "validation"):
        (data.folder / f"{stem}.csv").write_text("key,image,caption,width,height,color\n")
    with pytest.raises(DataError, match="expected at least"):
        build_index(data.recipe(tmp_path / "out", data=sections("csv", 5, str(data.folder))))


@pytest.mark.parametrize("name", ["csv", "jsonl"])
def test_types_come_from_the_first_rows_and_can_be_named(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_module, "HEAD_BYTES", 200)
    monkeypatch.setattr(jsonl, "HEAD_BYTES", 200)
    path = tmp_path / "t"
    rows = [{"code": 7, "note": None, "n": 1} for _ in range(60)]
    rows += [{"code": "x7", "note": "at last", "n": 2.5}]
    (write_csv if name == "csv" else write_jsonl)(path, rows)
    found, errors = read(source(name), path, "code")
    assert (len(found), list(errors)) == (60, [60])
    assert "code" in errors[60]
    _, errors = read(source(name), path, "note")
    assert "the first rows of the shard hold no `note`, so its type is unknown: name it under `types`" in errors[60]
    given = {"note": "string", "n": "number", **({"code": "string"} if name == "csv" else {})}
    found, errors = read(source(name, types=given), path, "note", "n")
    assert (found[-1], errors) == ({"note": "at last", "n": 2.5}, {})


def test_files_that_can_not_be_read_name_their_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlace.data.sources.columns.MAX_FILE_BYTES", 10)
    (tmp_path / "small").write_bytes(b"12345")
    (tmp_path / "large").write_bytes(b"1" * 11)
    paths = ["small", "large", ".", "../t", "small/x", "none", "a\0b", "http://host/x", "x" * 300, "file://%zz/x"]
    write_jsonl(tmp_path / "t.jsonl", [{"f": p} for p in paths])
    rows, errors = read(source("jsonl", files=["f"]), tmp_path / "t.jsonl", "f")
    assert [r["f"] for r in rows] == [b"12345"]
    assert list(errors) == list(range(1, len(paths)))
    assert all(repr(paths[i])[:200] in reason for i, reason in errors.items()), errors
    assert "11 bytes, more than the 10 allowed" in errors[1]
    assert "it leaves the folder of its table" in errors[3]
    assert "there is no such file" in errors[5]


@pytest.mark.parametrize("name", ["csv", "jsonl"])
def test_a_gigabyte_line_costs_one_record_and_little_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "t"
    first = b"text\na\n" if name == "csv" else b'{"text": "a"}\n'
    with path.open("wb") as file:
        file.write(first)
        file.write(b'"' if name == "csv" else b'{"text": "')
        file.seek(1 << 30, io.SEEK_CUR)  # a hole: bytes of zero that take no disk
        file.write(b'"\nb\n' if name == "csv" else b'"}\n{"text": "b"}\n')
    tracemalloc.start()
    rows, errors = read(source(name), path, "text")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == [{"text": "a"}, {"text": "b"}]
    assert list(errors) == [1]
    assert "bytes, more than the 67108864 allowed" in errors[1]
    assert peak < 50e6


def test_deep_and_odd_json_never_ends_the_process(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    odd = [
        b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"a": 1} {"a": 2}',
        b'{"a": 1',
        b"}",
        b'{"a": "\\ud800"}',
    ]
    odd += [
        b'{"a": 1, "a": 2}',
        b'{"a": 1e400}',
        b"null",
        b'{"a": true}',
        b'{"a": 99999999999999999999}',
        b'{"a": 1.5}',
    ]
    path.write_bytes(b"\n".join([*odd, b'{"a": 3}', b'{"other": [[[1]]]}']))
    rows, errors = read(source("jsonl", types={"a": "integer"}), path, "a")
    assert [r["a"] for r in rows] == [3, None]
    assert list(errors) == list(range(len(odd)))
    assert read(source("jsonl"), path, "a")[1].keys() >= {0, 1, 2, 3}


def test_a_shard_that_changed_costs_its_row_groups(tmp_path: Path) -> None:
    for name in FORMATS:
        folder = tmp_path / name
        folder.mkdir()
        write_format(name, folder, "t", make_rows(20, 0))
        path = next(folder.glob("t.*"))
        reader = open_source(source(name, group_rows=9))
        last = reader.row_groups(str(path))[-1]
        path.write_bytes(path.read_bytes()[: last.offset + 30])
        with pytest.raises(DataError, match="row group 2: the shard changed after it was indexed"):
            reader.read(last, ["__key__"] if name == "webdataset" else ["key"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"files": ["image"], "format": "webdataset"}, "`files` has no effect with `format: webdataset`"),
        ({"delimiter": ";", "format": "jsonl"}, "`delimiter` has no effect with `format: jsonl`"),
        ({"group_rows": 9}, "`group_rows` has no effect with `format: parquet`"),
        ({"types": {"a": "string"}}, "`types` has no effect with `format: parquet`"),
        ({"format": "csv", "types": {"a": "numbers"}}, "`types.a` can't be a list with `format: csv`"),
        ({"format": "csv", "delimiter": '"'}, "`delimiter` must be an ASCII character that is no quote or newline"),
        ({"format": "cvs"}, "'cvs'"),
    ],
)
def test_settings_without_effect_are_errors(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        of_folder(tmp_path).recipe(tmp_path, data={"train": {"paths": ["x"], **settings}})
    assert "data.train" in str(caught.value)
    assert words in str(caught.value)
