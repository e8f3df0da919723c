"""A store for tests: local files behind requests that take a while, that are counted, and that may fail."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import RawIOBase
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import fs

from interlace.data.sources import base, columns, spans
from interlace.data.sources import parquet as parquet_source

Fault = Callable[[str, str, int], BaseException | None]
"""What a request (its kind `info`, `open` or `read`, the path, the first byte) fails with, None where it works."""


@dataclass(slots=True)
class Requests:
    """What was asked of the store: kind, path, first byte, bytes; and the most requests under way at once."""

    latency_s: float = 0.0
    fault: Fault | None = None
    made: list[tuple[str, str, int, int]] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def make(self, kind: str, path: str, offset: int = 0, size: int = 0) -> None:
        """One request: noted, waited for, and failed where it is to."""
        with self._lock:
            self.made.append((kind, path, offset, size))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            time.sleep(self.latency_s)
            error = self.fault(kind, path, offset) if self.fault else None
            if error is not None:
                raise error
        finally:
            with self._lock:
                self._now -= 1

    def of(self, kind: str) -> list[tuple[str, str, int, int]]:
        """The requests of a kind."""
        return [r for r in self.made if r[0] == kind]


class _File(RawIOBase):
    def __init__(self, path: str, requests: Requests) -> None:
        self._file, self._path, self._requests = open(path, "rb"), path, requests  # noqa: SIM115 - closed by `close`

    def read(self, size: int = -1) -> bytes:
        self._requests.make("read", self._path, self._file.tell(), size)
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


class _Handler(fs.FileSystemHandler):
    def __init__(self, requests: Requests) -> None:
        self._requests, self._local = requests, fs.LocalFileSystem()

    def get_type_name(self) -> str:
        return "store"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        self._requests.make("info", paths[0])
        return self._local.get_file_info(paths)

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        return self._local.get_file_info(selector)

    def open_input_file(self, path: str) -> pa.NativeFile:
        self._requests.make("open", path)
        return pa.PythonFile(_File(path, self._requests), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("the store is only read")

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = delete_file = _refuse
    move = copy_file = open_output_stream = open_append_stream = _refuse


@contextmanager
def stored(latency_s: float = 0.0, fault: Fault | None = None) -> Iterator[Requests]:
    """Every shard is read through the store in here."""
    requests = Requests(latency_s=latency_s, fault=fault)
    system = fs.PyFileSystem(_Handler(requests))
    with pytest.MonkeyPatch.context() as patch:
        for module in (base, columns, spans, parquet_source):
            patch.setattr(module, "split_uri", lambda path: (system, path.partition("://")[2] or path))
        yield requests
