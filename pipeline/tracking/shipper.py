"""The thread that ships an outbox and its journal, and the report of how far it came."""

import os
import shlex
import sys
import threading
from dataclasses import dataclass

from pipeline.tracking.outbox import Cursor, Outbox
from pipeline.tracking.store import MlflowRun, error_code, one_line
from pipeline.tracking.target import redact

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
    """One background thread that ships an outbox and its journal until it is closed."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._error: str | None = None
        self._closing = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="interlace-tracking", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> TrackingReport:
        """Wait until all is shipped, at most `timeout_s`; then the thread ends (after a request that is under way)."""
        self._closing.set()
        self._thread.join(timeout_s)
        self._stop.set()
        self._thread.join(0.2)
        cursor, (ops, points) = self._outbox.cursor(), self._outbox.pending()
        return TrackingReport(
            run_id=cursor.run_id,
            open_with=open_with(cursor),
            pending_ops=ops,
            pending_points=points,
            rejected=cursor.rejected,
            error=self._error,
        )

    def _work(self) -> None:
        run: MlflowRun | None = None
        wait_s = 0.0
        while not self._stop.is_set():
            closing = self._closing.is_set()  # before the pass: what was put before close() is in it
            try:
                self._outbox.lock()
                if run is None:
                    run = MlflowRun(self._outbox)
                    _yield_to_training()
                for _ in run.ship():
                    self._error, wait_s = None, 0.0
                    if self._stop.is_set():
                        break
                if closing:
                    break
                self._closing.wait(POLL_S)  # returns at once when closing: one more pass, then the end
            except Exception as error:  # whatever a store or a network raises: wait, try again
                self._error = one_line(error)
                run = None if error_code(error) == "RESOURCE_DOES_NOT_EXIST" else run
                wait_s = min(max(2 * wait_s, 0.5), 1.0 if closing else MAX_WAIT_S)
                (self._stop if self._closing.is_set() else self._closing).wait(wait_s)
        self._outbox.unlock()


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
