"""A reader that counts what it decodes, whichever process does it."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from interlace.data.index.records import RecordCodec
from interlace.data.read.reader import Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """A modality that leaves a byte in a file for each value it decodes."""

    inner: Any
    file: str

    def decode(self, value: Any) -> Any:
        descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, b".")
        os.close(descriptor)
        return self.inner.decode(value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)  # pickle asks before there is an inner one
        return getattr(self.inner, name)


def counting(reader: Reader, file: Path) -> Reader:
    """The reader, each value that it decodes counted in a file."""
    fields = {n: (Counting(inner=m, file=str(file)), columns) for n, (m, columns) in reader.codec.fields.items()}
    return replace(reader, codec=RecordCodec(fields=fields, targets=reader.codec.targets))  # type: ignore[arg-type]


def decoded(file: Path) -> int:
    """Values decoded so far."""
    return file.stat().st_size if file.exists() else 0
