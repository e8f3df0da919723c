"""The thread that ships an outbox and its journal, and the report of how far it came."""

import os
import shlex
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from interlace.tracking.outbox import Cursor, Outbox
from interlace.tracking.store import MlflowRun, error_code, one_line
from interlace.tracking.target import redact

POLL_S = 5.0
"""Seconds between two looks at outbox and journal."""
MAX_WAIT_S = 15.0
"""Longest wait after a failed try; 1 s once the run is closing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingReport:
    """What reached MLflow.

    Args:
        run_id: the MLflow run, once known.
        open_with: the address of the run, or the command that shows it.
        pending_ops, pending_points: operations and metric points that only the run folder holds so far.
        rejected: operations that the store refused for good, with its reason.
        error: the last trouble, in one line.
    """

    run_id: str | None
    open_with: str
    pending_ops: int
    pending_points: int
    rejected: tuple[str, ...]
    error: str | None

    @property
    def shipped(self) -> bool:
        """Whether nothing is left to ship."""
        return not self.pending_ops and not self.pending_points

    def __str__(self) -> str:
        lines = [f"MLflow: {self.open_with}"]
        if not self.shipped:
            left = f"{self.pending_points} points and {self.pending_ops} operations"
            lines.append(f"not shipped yet: {left} (kept in the run folder; `interlace track sync` ships them)")
            lines.append(f"last trouble: {self.error or 'none; there was not enough time'}")
        return "\n".join(lines + [f"refused by MLflow: {reason}" for reason in self.rejected])


class Shipper:
    """One background thread that ships outboxes and their journals until it is closed: a run's, and its children's."""

    def __init__(self, outbox: Outbox) -> None:
        self._all = [outbox]
        self._active = [outbox]
        self._retired: set[Outbox] = set()
        self._runs: dict[Outbox, MlflowRun] = {}
        self._error: str | None = None
        self._closing = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="interlace-tracking", daemon=True)
        self._thread.start()

    def add(self, outbox: Outbox) -> None:
        """Ship another outbox too, after those that are there (a child's run can only follow its parent's)."""
        self._all.append(outbox)
        self._active.append(outbox)

    def retire(self, outbox: Outbox) -> None:
        """Nothing more is put into this outbox: once it is shipped, it is not looked at again."""
        self._retired.add(outbox)

    def close(self, timeout_s: float) -> TrackingReport:
        """Wait until all is shipped, at most `timeout_s`; then the thread ends (after a request that is under way)."""
        self._closing.set()
        self._thread.join(timeout_s)
        self._stop.set()
        self._thread.join(0.2)
        cursors, left = [o.cursor() for o in self._all], [o.pending() for o in self._all]
        return TrackingReport(
            run_id=cursors[0].run_id,
            open_with=open_with(cursors[0]),
            pending_ops=sum(ops for ops, _ in left),
            pending_points=sum(points for _, points in left),
            rejected=tuple(reason for cursor in cursors for reason in cursor.rejected),
            error=self._error,
        )

    def _work(self) -> None:
        wait_s = 0.0
        while not self._stop.is_set():
            closing = self._closing.is_set()  # before the pass: what was put before close() is in it
            try:
                for _ in self._pass():
                    self._error, wait_s = None, 0.0
                    if self._stop.is_set():
                        break
                if closing:
                    break
                self._closing.wait(POLL_S)  # returns at once when closing: one more pass, then the end
            except Exception as error:  # whatever a store or a network raises: wait, try again
                self._error = one_line(error)
                if error_code(error) == "RESOURCE_DOES_NOT_EXIST":
                    self._runs.clear()
                wait_s = min(max(2 * wait_s, 0.5), 1.0 if closing else MAX_WAIT_S)
                (self._stop if self._closing.is_set() else self._closing).wait(wait_s)
        for outbox in tuple(self._active):
            outbox.unlock()

    def _pass(self) -> Iterator[None]:
        """Ship what is there now; yields after each step."""
        for outbox in tuple(self._active):
            retired = outbox in self._retired  # looked at before it is shipped: nothing comes after
            yield from self._run(outbox).ship()
            if retired:
                self._active.remove(outbox)
                del self._runs[outbox]
                outbox.unlock()

    def _run(self, outbox: Outbox) -> MlflowRun:
        """The MLflow run of an outbox, found or created at the first call."""
        outbox.lock()
        if outbox not in self._runs:
            first = not self._runs
            self._runs[outbox] = MlflowRun(outbox)
            if first:
                _yield_to_training()
        return self._runs[outbox]


def _yield_to_training() -> None:
    """Lower this thread's priority (Linux has one a thread): MLflow's sqlite store costs 0.2 ms of CPU a point.

    Not before mlflow is imported: other threads may wait for a module that this one is importing.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10))


def open_with(cursor: Cursor) -> str:
    """The address of a run, or the command that shows it where there is no server."""
    page = f"/#/experiments/{cursor.experiment_id}/runs/{cursor.run_id}" if cursor.run_id else ""
    if cursor.uri.startswith("http"):
        return cursor.uri + page
    return (
        f"mlflow ui --backend-store-uri {shlex.quote(redact(cursor.uri))} --port 5000, then http://127.0.0.1:5000{page}"
    )


def opened_with(run_folder: Path) -> str | None:
    """`open_with` of a run folder as far as it is shipped; None where the run was never tracked."""
    outbox = Outbox(run_folder)
    return open_with(outbox.cursor()) if outbox.has_target else None
