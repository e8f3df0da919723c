"""Decoded values on disk: one file for the rows of a row group, shared by epochs, splits, runs and trials.

    reader.read -> Cache.open -> StoredGroup.row      hit: nothing is read from the shard, hashed or decoded
                -> Cache.writer -> GroupWriter.add    miss: each record is added as it is decoded for its pack

A file is named by what its values depend on: `CACHE_VERSION`, the libraries that decode, settings and fitted state of
the fields and targets, and hashes and extents of the rows. So it is never out of date; where shards lie does not count.

    values and index arrays, each from a multiple of 16 | JSON | length of the JSON, xxh3 of all before, `MAGIC`

The hash is verified whenever a file is opened (10 GB/s); a file that fails is deleted, and made anew by the reader. A
file appears by renaming a whole one, so writers of the same file need no lock: the last one wins. Whatever goes wrong
with the disk is said once a process, and costs no more than the cache.
"""

import json
import logging
import mmap
import os
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, final

import numpy as np
import xxhash
from numpy.typing import NDArray

from interlace.contract.errors import RecordError
from interlace.data.read.cache_room import forget, make_room, temporary

CACHE_VERSION = 1
"""Raised when values decode to something else, or files are laid out anew."""

LIBRARIES = {name: metadata.version(name) for name in ("numpy", "pillow", "soundfile", "soxr", "tokenizers")}
"""What decodes; another version may give other values."""

MAGIC = b"decoded1"
_LENGTH = _HASH = struct.Struct("<Q")
ALIGN = 16
_GAPS = tuple(bytes(n) for n in range(ALIGN))
FLUSH_BYTES = 1 << 20
TOUCH_S = 3600.0

NONE = -1
"""Offset of a value that a row lacks."""

log = logging.getLogger(__name__)
_said: set[str] = set()
_closed: set[str] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One record: an array for each field it has, and for each target."""

    values: Mapping[str, NDArray[Any]]
    targets: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """Where decoded values lie. Small, travels to any process.

    Args:
        folder: shared by all who read the same data; may be local to a node.
        limit_bytes: bound of the folder, see `cache_room`.
        reads: digest of all that values depend on besides the records.
    """

    folder: str
    limit_bytes: int
    reads: str

    def open(self, rows: bytes) -> "StoredGroup | None":
        """The stored values of the rows that these bytes stand for, None if there are none (any more)."""
        path = self._path(rows)
        try:
            with path.open("rb") as file:
                info = os.fstat(file.fileno())
                memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if info.st_size else b""
            if time.time() - info.st_mtime > TOUCH_S:
                os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            _say(f"cached values in {self.folder} can't be read, they are decoded again: {error.strerror}")
            return None
        footer = _footer(memory)
        if footer is None or footer["name"] != path.stem:
            log.warning("%s is damaged: it is deleted, and its values are decoded again", path)
            forget(path)
            return None
        return StoredGroup(memory, footer)

    def writer(self, rows: bytes, wanted: NDArray[np.int64]) -> "GroupWriter | None":
        """A writer of the values of these rows, None where nothing can be written."""
        return None if self.folder in _closed else GroupWriter(self, self._path(rows), wanted)

    def _path(self, rows: bytes) -> Path:
        return Path(self.folder) / f"{xxhash.xxh3_128(self.reads.encode() + rows).hexdigest()}.decoded"


@final
class StoredGroup:
    """Values of one row group, mapped from their file: arrays are read-only views."""

    def __init__(self, memory: mmap.mmap | bytes, footer: Mapping[str, Any]) -> None:
        self._memory = memory
        self._reasons = {int(row): str(reason) for row, reason in footer["reasons"].items()}
        rows = self._array("<i8", (footer["num_rows"],), footer["rows"])
        self._place = {row: i for i, row in enumerate(rows.tolist())}
        self._values = [self._column(n, c) for n, c in footer["values"].items()]
        self._targets = [self._column(n, c) for n, c in footer["targets"].items()]

    def covers(self, rows: NDArray[np.int64]) -> bool:
        """Whether every one of these rows of the group is here."""
        return self._place.keys() >= set(rows.tolist())

    def row(self, row: int) -> Decoded:
        """The values of a row. Raises RecordError as decoding did."""
        reason = self._reasons.get(row)
        if reason is not None:
            raise RecordError(reason)
        place = self._place[row]
        return Decoded(values=self._arrays(self._values, place), targets=self._arrays(self._targets, place))

    def _arrays(self, columns: "list[_Column]", place: int) -> dict[str, NDArray[Any]]:
        memory = self._memory
        return {
            name: np.ndarray(shapes[place], dtype, memory, offsets[place])
            for name, dtype, offsets, shapes in columns
            if offsets[place] != NONE
        }

    def _column(self, name: str, column: Mapping[str, Any]) -> "_Column":
        count = len(self._place)
        offsets = self._array("<i8", (count,), column["offsets"])
        shapes = self._array("<i8", (count, column["ndim"]), column["shapes"])
        return name, np.dtype(column["dtype"]), offsets.tolist(), shapes.tolist()

    def _array(self, dtype: str, shape: tuple[int, ...], offset: int) -> NDArray[Any]:
        return np.ndarray(shape, np.dtype(dtype), self._memory, offset)


_Column = tuple[str, np.dtype[Any], list[int], list[list[int]]]


@final
class GroupWriter:
    """Collects the values of a row group in the order of their decoding; its file appears with the last of them."""

    def __init__(self, cache: Cache, path: Path, wanted: NDArray[np.int64]) -> None:
        self._cache = cache
        self._path = path
        self._partial = temporary(path)
        self._missing = set(wanted.tolist())
        self._rows: list[int] = []
        self._reasons: dict[int, str] = {}
        self._columns: dict[str, dict[str, _Open]] = {"values": {}, "targets": {}}
        self._chunks: list[Any] = []
        self._at = self._flushed = 0
        self._hasher = xxhash.xxh3_64()
        self._open = True

    def add(self, row: int, decoded: Decoded | RecordError) -> None:
        """Take the values of a row of the group, or why it can't be decoded; a row that is here already is ignored."""
        if not self._open or row not in self._missing:
            return
        self._missing.remove(row)
        place = len(self._rows)
        self._rows.append(row)
        if isinstance(decoded, RecordError):
            self._reasons[row] = str(decoded)
        else:
            self._take(place, "values", decoded.values)
            self._take(place, "targets", decoded.targets)
        try:
            if self._at > self._cache.limit_bytes:
                self.discard()
            elif self._open and not self._missing:
                self._finish()
            elif self._at - self._flushed >= FLUSH_BYTES:
                self._write(self._drain())
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                folder = self._cache.folder
                _closed.add(folder)
                _say(f"the cache in {folder} can't be written, this process adds nothing to it: {error.strerror}")
            self.discard()

    def discard(self) -> None:
        """Give up what is not finished."""
        if self._open:
            self._open = False
            self._chunks.clear()
            if self._flushed:
                forget(self._partial)

    def _take(self, place: int, kind: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        columns = self._columns[kind]
        for name, array in arrays.items():
            column = columns.get(name)
            if column is None:
                column = columns[name] = _Open(array.dtype, array.ndim)
            elif array.dtype != column.dtype or array.ndim != column.ndim:
                _say(f"`{name}` decodes to arrays of several types: its values are not cached")
                self.discard()
                return
            if place > len(column.offsets):
                column.fill_up(place)
            column.offsets.append(self._append(array))
            column.shapes.append(array.shape)

    def _append(self, array: NDArray[Any]) -> int:
        """Put the bytes of an array at the end; returns where they begin."""
        gap = -self._at % ALIGN
        if gap:
            self._chunks.append(_GAPS[gap])
        offset = self._at + gap
        self._chunks.append(array)
        self._at = offset + array.nbytes
        return offset

    def _drain(self) -> bytes:
        """What has come together since the last time; the hash goes over it."""
        content = b"".join(self._chunks)
        self._chunks.clear()
        self._hasher.update(content)
        return content

    def _write(self, content: bytes) -> None:
        """Add to the partial file. It is open only in here: a window may hold many groups."""
        if not self._flushed:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
        with self._partial.open("r+b" if self._flushed else "xb") as file:
            file.seek(0, os.SEEK_END)
            self._flushed = self._at
            file.write(content)

    def _finish(self) -> None:
        footer: dict[str, Any] = {"name": self._path.stem, "num_rows": len(self._rows), "reasons": self._reasons}
        footer["rows"] = self._append(np.array(self._rows, np.int64))
        for kind, columns in self._columns.items():
            footer[kind] = {name: self._close(column) for name, column in columns.items()}
        text = json.dumps(footer).encode()
        self._chunks += [text, _LENGTH.pack(len(text))]
        content = self._drain()
        self._write(content + _HASH.pack(self._hasher.intdigest()) + MAGIC)
        make_room(self._path.parent, self._partial.stat().st_size, self._cache.limit_bytes, self._partial)
        self._partial.replace(self._path)
        self._open = False

    def _close(self, column: "_Open") -> dict[str, Any]:
        """Write the index of a column; returns what the footer says of it."""
        column.fill_up(len(self._rows))
        return {
            "dtype": column.dtype.str,
            "ndim": column.ndim,
            "offsets": self._append(np.array(column.offsets, np.int64)),
            "shapes": self._append(np.array(column.shapes, np.int64)),
        }


@dataclass(slots=True)
class _Open:
    """A column that is being written: where the values of the rows so far begin, and their shapes."""

    dtype: np.dtype[Any]
    ndim: int
    offsets: list[int] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def fill_up(self, count: int) -> None:
        """Rows up to this one lack the value."""
        lacking = count - len(self.offsets)
        self.offsets += [NONE] * lacking
        self.shapes += [(0,) * self.ndim] * lacking


def _footer(memory: mmap.mmap | bytes) -> Any:
    """The JSON at the end of a file that is whole, else None."""
    end = len(memory) - len(MAGIC) - _HASH.size
    if end < _LENGTH.size or memory[end + _HASH.size :] != MAGIC:
        return None
    with memoryview(memory) as view, view[:end] as content:
        if _HASH.unpack_from(view, end)[0] != xxhash.xxh3_64_intdigest(content):
            return None
        at = end - _LENGTH.size
        return json.loads(bytes(content[at - _LENGTH.unpack_from(content, at)[0] : at]))


def _say(what: str) -> None:
    """Warn, each sentence once a process."""
    if what not in _said:
        _said.add(what)
        log.warning(what)
