"""Headers of a tar file: where each member's bytes lie. Nothing is extracted, payloads are passed over.

Reads ustar, GNU (long names, sizes in base 256) and pax (`path`, `size`). Own code, because `tarfile` takes
four times as long over small members (tests/benchmarks/sources.py).
"""

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from interlace.contract.errors import DataError

BLOCK = 512
WINDOW_BYTES = 32 << 10
"""Read ahead from a header: several small members at once, little of a large one."""
MAX_EXTENDED_BYTES = 1 << 20
REGULAR, EXTENDED, LONG_NAME, SPARSE = (b"0", b"\0", b"7"), b"x", b"L", b"S"
ADLER_BASE = 65521
WITHOUT_PAYLOAD = (b"1", b"2", b"3", b"4", b"5", b"6")
PAX = re.compile(rb"(\d{1,20}) ([^=]+)=")

Read = Callable[[int, int], bytes]
"""Bytes from an offset, at most so many; fewer at the end."""


@dataclass(slots=True)
class Member:
    """One member (not frozen: that would treble what making one costs).

    Args:
        name: as stored.
        start: first byte of its first header.
        offset: first byte of its payload.
        size: bytes of its payload, as the header says; may pass the end of the file.
        stop: byte after its last block.
        regular: whether it is a file, not a folder, link, device or sparse.
    """

    name: bytes
    start: int
    offset: int
    size: int
    stop: int
    regular: bool


class Window:
    """Reads small pieces of a file that lie ahead of each other through one buffer."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self._start = 0
        self._held = b""

    def __call__(self, offset: int, size: int) -> bytes:
        """Bytes from an offset, at most `size`."""
        at = offset - self._start
        if at < 0 or at + size > len(self._held):
            self._held = self._file.read_at(max(size, WINDOW_BYTES), offset)
            self._start, at = offset, 0
        return self._held[at : at + size]


def members(read: Read, start: int, end: int, place: str) -> Iterator[Member | None]:
    """Members between two bytes in order; at last None if headers are cut off there.

    Raises:
        DataError: names the byte of a damaged header.
    """
    at = first = start
    extended: dict[bytes, bytes] = {}
    while at < end:
        header = read(at, BLOCK)
        if len(header) < BLOCK or at + BLOCK > end:
            yield None
            return
        if not any(header):
            return
        kind, size = header[156:157], _checked(header, at, place)
        if kind in (EXTENDED, LONG_NAME, b"K", b"g"):
            if size > MAX_EXTENDED_BYTES:
                raise DataError(f"{place}: the tar header at byte {at} announces {size} bytes of names; it is damaged")
            if at + BLOCK + size > end:
                yield None
                return
            if kind in (EXTENDED, LONG_NAME):
                extended |= _extended(kind, read(at + BLOCK, size), at, place)
            at += BLOCK + _padded(size)
            continue
        name = extended.get(b"path") or _name(header)
        size = int(extended.get(b"size", size))
        size = 0 if kind in WITHOUT_PAYLOAD or (kind == b"\0" and name.endswith(b"/")) else size
        regular = kind in REGULAR and not name.endswith(b"/") and not any(k.startswith(b"GNU.sparse") for k in extended)
        stop = at + BLOCK + _padded(size)
        yield Member(name, first, at + BLOCK, size, stop, regular)
        at = first = stop
        extended = {}


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _checked(header: bytes, at: int, place: str) -> int:
    """The size in a header whose checksum is right."""
    try:
        good = (_number(header[148:156]) - _sum(header) + _sum(header[148:156]) - 8 * ord(" ")) % ADLER_BASE == 0
        size = _number(header[124:136])
    except ValueError:
        good, size = False, 0
    if not good or size < 0:
        what = "expected a tar file, but it has no tar header" if at == 0 else f"the tar header at byte {at} is damaged"
        raise DataError(f"{place}: {what}")
    if header[156:157] == SPARSE:
        raise DataError(
            f"{place}: the member at byte {at} is sparse, which is not read; write the tar without `--sparse`"
        )
    return size


def _sum(data: bytes) -> int:
    """Sum of the bytes modulo `ADLER_BASE`: the lower half of Adler-32, 20 times as fast as `sum`."""
    return (zlib.adler32(data) & 0xFFFF) - 1


def _number(field: bytes) -> int:
    """Octal digits, or base 256 where the first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
    return int(field.partition(b"\0")[0].strip() or b"0", 8)


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _extended(kind: bytes, payload: bytes, at: int, place: str) -> dict[bytes, bytes]:
    """What an extended header says of the next member."""
    if kind == LONG_NAME:
        return {b"path": payload.partition(b"\0")[0]}
    found: dict[bytes, bytes] = {}
    done = 0
    while done < len(payload):
        match = PAX.match(payload, done)
        length = int(match[1]) if match else 0
        if match is None or done + length > len(payload) or match.end() >= done + length:
            raise DataError(f"{place}: the extended tar header at byte {at} is damaged")
        found[match[2]] = payload[match.end() : done + length - 1]
        done += length
    size = found.get(b"size", b"0")
    if not size.isdigit() or len(size) > 20:
        raise DataError(f"{place}: the extended tar header at byte {at} is damaged")
    return found
