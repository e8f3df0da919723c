"""Hashes of files: of checkpoints, of what runs start from, of models that predict."""

from pathlib import Path

import xxhash


def hash_file(path: Path) -> str:
    """xxh3 of a file's content, 128 bits, as 32 hexadecimal digits. Raises OSError."""
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            hasher.update(chunk)
    return hasher.hexdigest()
