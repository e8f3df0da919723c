"""Packs for the loop: read ahead in a thread, so that waiting can be timed and never stays silent."""

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar, cast

T = TypeVar("T")
_END = object()
NEED_CPU = (
    "Ray Data needs at least one free CPU beside the training workers (`train.workers` x `train.cpus_per_worker`)"
)


def prefetch(
    packs: Iterable[T],
    depth: int,
    warn: Callable[[str], None],
    warn_after_s: float = 30.0,
    why: str = NEED_CPU,
) -> Generator[T, None, None]:
    """The packs in order, up to `depth` of them fetched before they are asked for.

    Args:
        packs: iterated in a thread of its own; its exceptions are raised here.
        depth: packs held at most.
        warn: gets a sentence each `warn_after_s` seconds of waiting for one pack.
        warn_after_s: seconds.
        why: that may be, in a sentence.
    """
    waiting: queue.Queue[object] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: object) -> None:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def fill() -> None:
        try:
            for pack in packs:
                put(pack)
                if stopped.is_set():
                    return
            put(_END)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=fill, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := _take(waiting, warn, warn_after_s, why)) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield cast(T, item)
    finally:
        stopped.set()


def _take(waiting: "queue.Queue[object]", warn: Callable[[str], None], warn_after_s: float, why: str) -> object:
    waited = 0.0
    while True:
        try:
            return waiting.get(timeout=warn_after_s)
        except queue.Empty:
            waited += warn_after_s
            warn(f"waiting for data for {waited:.0f} s: no data task has delivered the next pack. {why}")
