"""Tries again what may pass: time-outs, broken connections, a store that is overloaded. The rest is said at once.

A read that fails for good raises `GaveUpError`, an OSError: the index then stops, to go on where it was, and the reader
makes the rows of that row group bad records.
"""

import errno
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from interlace.data.sources.base import RowGroup, ShardFormat

TRIES = 5
FIRST_WAIT_S = 0.5
"""Before the second try; twice as long before each after it, less up to half by chance, so that tasks spread out."""
LIMIT_S = 60.0
"""No try begins later than this after the first: a store that hangs until its own time-outs costs minutes otherwise."""

PASSING = frozenset(
    getattr(errno, name)
    for name in (
        "EAGAIN", "EBUSY", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "EINTR", "EIO",
        "EMFILE", "ENETDOWN", "ENETRESET", "ENETUNREACH", "ENFILE", "ENOBUFS", "EPIPE", "ESTALE", "ETIMEDOUT",
    )
)  # fmt: skip
"""Numbers of errors that may pass: of networks, of mounts over them, of too many open files."""
PASSING_TEXT = re.compile(
    r"(?:http|status)\D{0,16}(?:5\d\d|408|429)|timed?.?out|connection|network|slow.?down|throttl|unavailable"
    r"|internal.(?:failure|error|server)|too.many.requests|curlcode",
    re.IGNORECASE,
)
"""What object stores say of such errors, which carry no number."""

Found = TypeVar("Found")


class GaveUpError(OSError):
    """Storage failed at every try."""


def may_pass(error: OSError) -> bool:
    """Whether trying again may help."""
    if isinstance(error, GaveUpError | FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        return False
    if isinstance(error, TimeoutError | ConnectionError) or error.errno in PASSING:
        return True
    return error.errno is None and PASSING_TEXT.search(str(error)) is not None


def retried(read: Callable[[], Found], what: str) -> Found:
    """What a read gives, tried up to `TRIES` times within `LIMIT_S` while its errors may pass.

    Args:
        read: has no effect but what it returns.
        what: is read, for the message.

    Raises:
        GaveUpError: every try failed.
        OSError: at once, one that can't pass.
    """
    began = time.monotonic()
    for done in range(1, TRIES + 1):
        try:
            return read()
        except OSError as error:
            if not may_pass(error):
                raise
            wait = FIRST_WAIT_S * 2 ** (done - 1) * random.uniform(0.5, 1)
            spent = time.monotonic() - began
            if done == TRIES or spent + wait > LIMIT_S:
                reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
                raise GaveUpError(
                    f"{what}: storage failed at each of {done} tries within {spent:.1f} s, at last: {reason}"
                ) from error
            time.sleep(wait)
    raise AssertionError("TRIES is less than 1")


@dataclass(frozen=True, slots=True)
class Retried(ShardFormat):
    """A reader that tries again where storage fails.

    Args:
        inner: reads the shard.
    """

    inner: ShardFormat

    def schema(self, shard: str) -> pa.Schema:
        """As the inner reader says."""
        return retried(lambda: self.inner.schema(shard), shard)

    def row_groups(self, shard: str) -> list[RowGroup]:
        """As the inner reader lists them."""
        return retried(lambda: self.inner.row_groups(shard), shard)

    def read(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """As the inner reader reads it."""
        return retried(lambda: self.inner.read(group, columns), f"{group.shard} row group {group.index}")
