"""Laws of formats: the same samples give the same packs, and row groups hold what an independent reader finds."""

import csv
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlace.contract.tables import pack_to_table
from interlace.data.index.build import build_index
from interlace.data.index.manifest import Manifest
from interlace.data.read.open import open_reader
from interlace.data.sources import jsonl as jsonl_module
from interlace.data.sources import open_source
from interlace.data.sources.laws import check_source, read_rows
from interlace.recipe.data import Source
from interlace.recipe.recipe import Recipe
from tests.data import SCHEMA, EmojiLike, make_rows, write_table
from tests.manifests import present
from tests.shards import FORMATS, of_folder, sections, write_csv, write_format, write_jsonl, write_tar

GROUP = 7
SPLITS = {"train-0": 31, "train-1": 20, "validation": 12}


def made(folder: Path, name: str) -> EmojiLike:
    """The same rows in a format, or as Parquet with row groups of the same sizes."""
    data = of_folder(folder / name)
    for seed, (stem, count) in enumerate(SPLITS.items()):
        rows = make_rows(count, seed)
        if name == "parquet":
            table = pa.Table.from_pylist(rows, schema=SCHEMA)
            pq.write_table(table, data.folder / f"{stem}.parquet", row_group_size=GROUP)
        else:
            write_format(name, data.folder, stem, rows)
    return data


def packs(recipe: Recipe) -> tuple[dict[str, Manifest], list[pa.Table]]:
    """Manifests and every pack of two epochs and of the validation split."""
    index = build_index(recipe, map)
    found = []
    for split, training in (("train", True), ("validation", False)):
        reader = open_reader(index, recipe, split, training=training)
        schedule = reader.plan().schedule(epochs=2 if training else 1)
        for window in schedule.windows:
            found += [pack_to_table(p) for p in reader.read(window, first=0, stop=10**9)]
    return dict(index.manifests), found


@pytest.mark.parametrize("uri", [False, True])
def test_every_format_gives_the_same_packs(tmp_path: Path, uri: bool) -> None:
    augmented = {"image": {"modality": "image", "column": "image", "max_size": 16, "patch": 8, "flip": True}}
    expected, tables = packs(made(tmp_path, "parquet").recipe(tmp_path / "out", fields=augmented))
    for name in FORMATS:
        data = made(tmp_path, name)
        root = f"file://{data.folder}" if uri else str(data.folder)
        recipe = data.recipe(tmp_path / "out", data=sections(name, GROUP, root), fields=augmented)
        manifests, found = packs(recipe)
        assert {n: m.digest for n, m in manifests.items()} == {n: m.digest for n, m in expected.items()}, name
        assert found == tables, name
    assert len(tables) > 8
    assert sum((~present(m, "image")).sum() for m in expected.values()) > 3


def test_real_pictures_and_names_give_the_same_packs_in_every_format(tmp_path: Path, real_data: Path) -> None:
    path = real_data / "emoji" / "images_google.parquet"
    if not path.exists():
        pytest.skip(f"no {path}")
    columns = ["image", "unicode_name", "subgroup"]
    rows = pq.ParquetFile(path).read_row_group(0, columns=columns).slice(0, 120).to_pylist()
    real = [
        {
            "key": i,
            "image": r["image"],
            "caption": r["unicode_name"],
            "width": None,
            "height": i / 3,
            "color": r["subgroup"],
        }
        for i, r in enumerate(rows)
    ]
    tables = {}
    for name in ("parquet", *FORMATS):
        data = of_folder(tmp_path / name)
        for stem, part in (("train-0", real), ("validation", real[::3])):
            if name == "parquet":
                write_table(data.folder / f"{stem}.parquet", part, -(-len(part) // 32))
            else:
                write_format(name, data.folder, stem, part)
        group = -(-120 // -(-120 // 32)), -(-40 // -(-40 // 32))
        section = sections(name, group[0], str(data.folder)) if name != "parquet" else {}
        if section:
            section["validation"]["group_rows"] = group[1]
        _, tables[name] = packs(data.recipe(tmp_path / "out", data=section, batch={"token_budget": 512}))
    assert all(found == tables["parquet"] for found in tables.values())
    assert len(tables["parquet"]) > 3


def read_all(source: Source, shard: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Every row by row groups, none bad or longer than asked for."""
    assert all(g.num_rows <= source.group_rows for g in open_source(source).row_groups(shard))
    return read_rows(source, shard, columns)


@pytest.mark.parametrize("name", ["parquet", *FORMATS])
def test_every_format_keeps_the_laws_of_the_kit(tmp_path: Path, name: str) -> None:
    columns = ("image", "caption", "width", "height", "color")
    rows = [{c: row[c] for c in columns} for row in make_rows(31, seed=4)]
    data = made(tmp_path, name)
    keyed = [{"key": i, **row} for i, row in enumerate(rows)]
    if name == "parquet":
        write_table(data.folder / "shard.parquet", keyed, 5)
    else:
        write_format(name, data.folder, "shard", keyed)
    path = next(data.folder.glob("shard.*"))
    section = sections(name, GROUP, str(data.folder))["train"] if name != "parquet" else {}
    source = Source.model_validate({**section, "paths": ["x"]})
    check_source(source, str(path), rows)
    assert len(open_source(source).row_groups(str(path))) == 5
    with pytest.raises(AssertionError, match="rows that were written"):
        check_source(source, str(path), [*rows[:-1], {**rows[-1], "color": "pink"}])


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), max_size=12)
CELLS = TEXTS | st.text(st.sampled_from('",;\n\r a\u2028é'), max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=30),
    group_rows=st.integers(1, 8),
    delimiter=st.sampled_from(",;\t"),
    ending=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    bom=st.booleans(),
    chunk=st.sampled_from([1, 2, 7, 1 << 20]),
)
def test_csv_rows_are_those_of_pythons_reader(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    group_rows: int,
    delimiter: str,
    ending: str,
    quoting: int,
    bom: bool,
    chunk: int,
) -> None:
    out = io.StringIO()
    if any("\r" in cell for row in rows for cell in row):
        quoting = csv.QUOTE_ALL  # before 3.13 the writer leaves carriage returns bare, which end rows for every reader
    writer = csv.writer(out, delimiter=delimiter, lineterminator=ending, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([("first", "second one"), *rows])
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + out.getvalue().encode())
    types = {"first": "string", "second one": "string"}
    source = Source(format="csv", paths=("x",), group_rows=group_rows, delimiter=delimiter, types=types)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interlace.data.sources.csv.CHUNK_BYTES", chunk)
        found = read_all(source, str(path), ["second one", "first"])
    expected = list(csv.reader(io.StringIO(out.getvalue(), newline=""), delimiter=delimiter))[1:]
    assert [(r["first"] or "", r["second one"] or "") for r in found] == [tuple(r) for r in expected if r]


def test_csv_quotes_inside_plain_values_mean_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('size,name\n5" disc,a\n"a"b"c,d\n\n"",e\nx,"f\n""g"""\n', encoding="utf-8")
    found = read_all(Source(format="csv", paths=("x",), group_rows=2), str(path), ["size", "name"])
    expected = list(csv.reader(io.StringIO(path.read_bytes().decode(), newline="")))[1:]
    assert [[r["size"] or "", r["name"]] for r in found] == [r for r in expected if r]


JSON_VALUES = st.none() | st.integers(-(2**53), 2**53)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"text": st.none() | TEXTS, "size": JSON_VALUES, "values": st.lists(st.floats(-1e9, 1e9), min_size=1)}
        ),
        min_size=1,
        max_size=25,
    ),
    group_rows=st.integers(1, 8),
    escaped=st.booleans(),
    gap=st.sampled_from(["", "\n", " \r\n\n"]),
    chunk=st.sampled_from([1, 3, 1 << 20]),
)
def test_json_lines_are_those_of_pythons_parser(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, Any]],
    group_rows: int,
    escaped: bool,
    gap: str,
    chunk: int,
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "t.jsonl"
    path.write_text("".join(json.dumps(r, ensure_ascii=escaped) + "\n" + gap for r in rows), encoding="utf-8")
    source = Source(format="jsonl", paths=("x",), group_rows=group_rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl_module, "CHUNK_BYTES", chunk)
        assert read_all(source, str(path), ["text", "size", "values"]) == rows


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_members_are_those_of_tarfile(tmp_path: Path, form: int) -> None:
    folder = "long/" * 18
    samples = {f"{folder}{'n' * 40}{i}": {"JPG": bytes([i]) * (i * 300), "txt": f"é{i}".encode()} for i in range(20)}
    if form != tarfile.USTAR_FORMAT:
        samples |= {f"{'deep/' * 60}ключ{i}": {"Seg.Png": b"s" * i, "cls": b"%d\n" % i} for i in range(9)}
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w", format=form) as tar:
        for key, members in samples.items():
            link = tarfile.TarInfo(f"{key}.lnk")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size, info.mtime = len(content), 1.5 if form == tarfile.PAX_FORMAT else 1
                tar.addfile(info, io.BytesIO(content))
        tar.addfile(tarfile.TarInfo("__meta__.json"))
        hidden = tarfile.TarInfo("x/.DS_Store")
        tar.addfile(hidden)
    source = Source(format="webdataset", paths=("x",), group_rows=6)
    schema = open_source(source).schema(str(path))
    assert ("lnk" in schema.names, "jpg" in schema.names) == (False, True)
    found = read_all(source, str(path), ["__key__", "jpg", "txt", "seg.png", "cls", "gone"])
    expected = []
    with tarfile.open(path) as tar:
        for key in samples:
            held = {
                m.name.removeprefix(key + "."): tar.extractfile(m)
                for m in tar
                if m.isreg() and m.name.startswith(f"{key}.")
            }
            files = {n.lower(): f.read() for n, f in held.items() if f is not None}
            text, number = files.get("txt"), files.get("cls")
            expected.append(
                {
                    "__key__": key,
                    "jpg": files.get("jpg"),
                    "txt": None if text is None else text.decode(),
                    "seg.png": files.get("seg.png"),
                    "cls": None if number is None else int(number),
                    "gone": None,
                }
            )
    assert found == expected


def test_types_names_and_alternatives_of_a_tar(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    docs = [b'{"n": 1, "tags": ["a"]}', b"[1]", b'{"n": 2.5,\n "late": 3}', b'"x"', b"{}"]
    members = []
    for i, doc in enumerate(docs):
        members += [(f"{i}.meta.json", doc), (f"{i}.{'jpg' if i % 2 else 'png'}", b"p%d" % i), (f"{i}.name", b"n")]
    write_tar(path, [*members, ("9.pyd", b"\x80\x04."), ("9.npy", b"raw")])
    source = Source(
        format="webdataset",
        paths=("x",),
        rename={"image": "jpg;png", "n": "meta.json.n", "word": "name"},
        types={"word": "string", "audio": "binary"},
    )
    reader = open_source(source)
    schema = reader.schema(str(path))
    kinds = {n: str(schema.field(n).type) for n in ("image", "n", "word", "audio", "pyd", "npy", "meta.json")}
    assert list(kinds.values()) == ["binary", "double", "string", "binary", "binary", "binary", "string"]
    table = reader.read(reader.row_groups(str(path))[0], ["image", "n", "word", "audio", "meta.json.tags", "pyd"])
    assert table["image"].to_pylist() == [b"p0", b"p1", b"p2", b"p3", b"p4", None]
    assert table["n"].to_pylist() == [1.0, None, 2.5, None, None, None]
    assert table["word"].to_pylist() == ["n"] * 5 + [None]
    assert table["meta.json.tags"].to_pylist() == [["a"], *[None] * 5]
    assert table["pyd"].to_pylist()[-1] == b"\x80\x04."
    assert (table["audio"].type, table["audio"].null_count) == (pa.binary(), 6)


@pytest.mark.parametrize("name", ["parquet", "csv", "jsonl"])
def test_renamed_columns_and_files_anywhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.bin").write_bytes(b"A")
    table = tmp_path / "near" / "t"
    (tmp_path / "near" / "in").mkdir(parents=True)
    (tmp_path / "near" / "in" / "b c#.bin").write_bytes(b"B")
    rows = [{"path": p, "n": 1} for p in (f"{tmp_path}/far/a.bin", f"file://{tmp_path}/far/a.bin", "in/../in/b c#.bin")]
    rows.append({"path": None, "n": 2})
    if name == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), table)
    else:
        (write_csv if name == "csv" else write_jsonl)(table, rows)
    source = Source(format=name, paths=("x",), rename={"image": "path", "size": "n"}, files=("image",))  # type: ignore[arg-type]
    for place in (str(table), f"file://{table}"):
        assert open_source(source).schema(place).names == ["image", "size"]
        assert [r["image"] for r in read_all(source, place, ["size", "image"])] == [b"A", b"A", b"B", None]


def test_a_manifest_keeps_how_its_source_is_read(tmp_path: Path) -> None:
    data = made(tmp_path, "webdataset")
    recipe = data.recipe(tmp_path / "out", data=sections("webdataset", GROUP, str(data.folder)))
    manifest = build_index(recipe).manifests["train"]
    again = build_index(recipe, lambda *_: pytest.fail("measured again")).manifests["train"]
    assert again.sources == (recipe.data.train,)
    assert list(again.groups) == list(manifest.groups)
    assert again.groups[1].offset > 0
    assert open_source(again.sources[0]) == open_source(recipe.data.train)
