"""Counts CPU seconds of decoding in every Python process that has this folder on its PYTHONPATH.

Each process appends lines `SECONDS RECORDS` to `$DECODE_METER/PID`, every hundred records and at its end.
"""

import atexit
import importlib.abc
import importlib.machinery
import os
import sys
import threading
import time
from pathlib import Path

READER = "interlace.data.read.reader"
EVERY = 100


class Meter(importlib.abc.Loader):
    """Loads the reader, and counts what its `decode_record` takes."""

    def __init__(self, inner):
        self._inner, self._lock = inner, threading.Lock()
        self._seconds, self._records = 0.0, 0

    def create_module(self, spec):
        return self._inner.create_module(spec)

    def exec_module(self, module):
        self._inner.exec_module(module)
        decode = module.decode_record

        def counted(*arguments):
            began = time.thread_time()
            try:
                return decode(*arguments)
            finally:
                self._add(time.thread_time() - began)

        module.decode_record = counted
        atexit.register(self._write)

    def _add(self, seconds):
        with self._lock:
            self._seconds += seconds
            self._records += 1
        if self._records >= EVERY:
            self._write()

    def _write(self):
        with self._lock, (Path(os.environ["DECODE_METER"]) / str(os.getpid())).open("a") as file:
            file.write(f"{self._seconds} {self._records}\n")
            self._seconds, self._records = 0.0, 0


class Finder(importlib.abc.MetaPathFinder):
    """Finds the reader, once."""

    def find_spec(self, name, path, target=None):
        if name != READER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        spec.loader = Meter(spec.loader)
        return spec


if "DECODE_METER" in os.environ:
    sys.meta_path.insert(0, Finder())
