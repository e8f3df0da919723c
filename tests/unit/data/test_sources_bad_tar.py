"""Bad tar files: what is refused and with which words, and what costs one record only."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from interlace.contract.errors import DataError
from interlace.data.sources import open_source, webdataset
from tests.data import make_rows
from tests.shards import read, refused, source, tar_members, write_tar


def whole_tar(folder: Path) -> tuple[Path, bytes]:
    path = folder / "t.tar"
    write_tar(path, tar_members([{**r, "image": b"p" * 3000, "caption": "c"} for r in make_rows(10, 0)]))
    return path, path.read_bytes()


def test_a_truncated_tar_loses_the_sample_that_is_cut(tmp_path: Path) -> None:
    path, content = whole_tar(tmp_path)
    cut = content.index(b"a/00006.png") + 512 + 100
    path.write_bytes(content[:cut])
    rows, errors = read(source("webdataset", group_rows=4), path, "png", "txt")
    assert len(rows) == 6
    assert errors == {6: "'a/00006.png': 3000 bytes are announced, but the file ends after 100"}
    path.write_bytes(content[: content.index(b"a/00006.txt") + 300])
    rows, errors = read(source("webdataset", group_rows=4), path, "png", "txt")
    assert (len(rows), list(errors)) == (6, [6])
    assert "cut off" in errors[6]


def tar_header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    info = tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT)
    block = bytearray(info)
    block[124:136], block[156:157] = size, kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("size", [b"\x80" + b"\xff" * 11, b"77777777777\0", b"\x80" + b"\0" * 3 + b"\x7f" * 8])
def test_an_absurd_size_in_a_tar_costs_its_sample(tmp_path: Path, size: bytes) -> None:
    path, content = whole_tar(tmp_path)
    end = content.index(b"a/00009.png")
    path.write_bytes(content[:end] + tar_header("a/9.png", size) + b"x" * 700)
    rows, errors = read(source("webdataset"), path, "png")
    assert (len(rows), list(errors)) == (9, [9])
    assert "bytes are announced, but the file ends after 700" in errors[9]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"n,o\n1,2\n" * 100, "expected a tar file, but it has no tar header"),
        (tar_header("a.png", b"\xff" * 12), "expected a tar file, but it has no tar header"),
        (tar_header("x", b"77777777777\0", b"L"), "the tar header at byte 0 announces 8589934591 bytes of names"),
        (tar_header("x", b"\x80" + b"\xff" * 11, b"x"), "bytes of names; it is damaged"),
        (tar_header("x", b"00000000012\0", b"x") + b"99999 a=b\n".ljust(512, b"\0"), "extended tar header at byte 0"),
        (tar_header("x", b"00000000012\0", b"x") + b"10 size=x\n".ljust(512, b"\0"), "extended tar header at byte 0"),
        (tar_header("x", b"00000000000\0", b"S"), "is sparse, which is not read"),
    ],
)
def test_damaged_tar_headers_are_refused(tmp_path: Path, header: bytes, words: str) -> None:
    path = tmp_path / "t.tar"
    path.write_bytes(header + b"\0" * 1024)
    assert words in refused(source("webdataset"), path)


def test_a_damaged_header_within_a_tar_names_its_byte(tmp_path: Path) -> None:
    path, content = whole_tar(tmp_path)
    at = content.index(b"a/00004.txt")
    path.write_bytes(content[:at] + b"b" + content[at + 1 :])
    assert f"the tar header at byte {at} is damaged" in refused(source("webdataset"), path)


def test_members_of_a_tar_that_do_not_convert(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    numbers = [b"7", b" 8\n", b"x", b"9" * 30, b"9" * 6000, b"", b"1.5"]
    write_tar(path, [(f"{i}.cls", n) for i, n in enumerate(numbers)])
    rows, errors = read(source("webdataset", types={"cls": "integer"}), path, "cls")
    assert [r["cls"] for r in rows] == [7, 8]
    assert list(errors) == [2, 3, 4, 5, 6]
    assert all("member `cls` of" in f and "expected a number" in f for f in errors.values())
    rows, _ = read(source("webdataset", types={"cls": "number"}), path, "cls")
    assert [r["cls"] for r in rows][-1] == 1.5


def test_a_huge_member_and_groups_of_large_records_keep_memory_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.tar"
    with path.open("wb") as file:
        write = [(f"{i}.bin", b"b" * 100) for i in range(3)]
        write_tar(path, write)
        file.seek(3 * 1024)
        file.write(tar_header("3.bin", b"%011o\0" % (300 << 20)))
        file.seek(300 << 20, io.SEEK_CUR)
        file.write(tar_header("4.bin", b"%011o\0" % 5) + b"after" + b"\0" * 2000)
    rows, errors = read(source("webdataset"), path, "bin")
    assert [len(r["bin"]) for r in rows] == [100, 100, 100, 5]
    assert "bytes, more than the 268435456 allowed" in errors[3]
    assert list(errors) == [3]
    monkeypatch.setattr("interlace.data.sources.spans.MAX_GROUP_BYTES", 4096)
    path = tmp_path / "many.tar"
    write_tar(path, [(f"{i}.bin", b"b" * 1000) for i in range(20)])
    groups = open_source(source("webdataset")).row_groups(str(path))
    assert [g.num_rows for g in groups] == [2] * 10


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rename": {"x": "jpg;txt"}}, "`rename.x`: expected extensions of one type, but jpg is binary, txt is string"),
        ({"rename": {"x": "jpg;json.a"}}, "`rename.x`: expected extensions between `;`"),
        ({"types": {"jpg": "numbers"}}, "`types.jpg`: a member of a tar can't be list<"),
    ],
)
def test_settings_that_no_tar_can_meet_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError) as caught:
        open_source(source("webdataset", **settings))
    assert words in str(caught.value)


def test_meta_members_are_no_samples() -> None:
    assert [webdataset._split(n) for n in ("a/b.seg.PNG", "__x__.json", "a/._b.jpg", "folder.x/name")] == [
        ("a/b", "seg.png"),
        ("__x__.json", ""),
        ("a/._b.jpg", ""),
        ("folder.x/name", ""),
    ]
