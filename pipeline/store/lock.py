"""Locks of a folder, so that no two processes ever write one run or data set. The system frees them with a process."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from interlace.contract.errors import ResumeError

DRIVER = "driver.lock"
POLL_S = 0.1


def worker_lock(rank: int | str) -> str:
    """Name of the lock that a training worker holds; rank `*` for all of them."""
    return f"worker-{rank}.lock"


@contextmanager
def held(path: Path, *, wait_s: float = 0.0, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a lock file during the body.

    Workers outlive a killed driver by a moment, so their locks are worth waiting for.

    Args:
        path: of the lock file.
        wait_s: how long to wait for another process to let go.
        say: told once that there is somebody to wait for.

    Raises:
        ResumeError: another process holds it still.
    """
    deadline = time.monotonic() + wait_s
    told = False
    with path.open("a+", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                file.seek(0)
                holder = file.read().strip()
                if time.monotonic() >= deadline:
                    raise ResumeError(f"{path.parent.name}: held by another process ({holder})") from error
                if say is not None and not told:
                    say(f"waiting for {holder}, which still holds {path.name}")
                    told = True
                time.sleep(POLL_S)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield
