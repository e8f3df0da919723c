"""The bound of a folder of cached files: least recently used ones make room.

A scan takes 0.1 s for 40,000 files, so a process looks only after each 1/128 of the bound that it wrote, and keeps 1/32
free: up to four writers at once stay below the bound, each further one may pass it by 1/128. Files vanish at any time
without harm: who maps one keeps it (on NFS until its pages are dropped), who looks for one decodes again.
"""

import contextlib
import os
import re
import secrets
import time
from pathlib import Path

OWN = re.compile(r"[0-9a-f]{32}\.(decoded|[0-9a-f]{16}\.partial)")
"""Names of the cache's files: the folder may hold others, which are never counted or touched."""

STALE_S = 6 * 3600.0
"""Age at which a partial file is taken to be that of a killed process."""

_unseen: dict[Path, int] = {}


def temporary(path: Path) -> Path:
    """A name beside a file under which a writer of its own prepares it."""
    return path.with_suffix(f".{secrets.token_hex(8)}.partial")


def forget(path: Path) -> None:
    """Delete a file, if that can be done."""
    with contextlib.suppress(OSError):  # in a folder that is read-only it has to stay
        path.unlink(missing_ok=True)


def make_room(folder: Path, num_bytes: int, limit_bytes: int, own: Path) -> None:
    """Bring the folder below its bound.

    Args:
        folder: of cached files; all of them count, partial ones too.
        num_bytes: size of the file that the caller adds.
        limit_bytes: the bound.
        own: the file that the caller adds, which stays.
    """
    unseen = _unseen.get(folder, limit_bytes) + num_bytes
    if unseen < limit_bytes // 128:
        _unseen[folder] = unseen
        return
    _unseen[folder] = 0
    files = sorted(_files(folder))
    total = sum(size for _, _, size in files)
    if total <= limit_bytes - limit_bytes // 32:
        return
    now = time.time()
    for used_s, name, size in files:
        if total <= limit_bytes - limit_bytes // 16:
            return
        if name != own.name and (name.endswith(".decoded") or now - used_s > STALE_S):
            forget(folder / name)
            total -= size


def _files(folder: Path) -> list[tuple[float, str, int]]:
    """Time of use, name and size of each of the cache's files."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if OWN.fullmatch(entry.name):
                try:
                    info = entry.stat()
                except FileNotFoundError:
                    continue  # another process made room
                found.append((info.st_mtime, entry.name, info.st_size))
    return found
