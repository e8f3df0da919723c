"""The driver's side of tracking: what it says about its run, kept in the outbox at once and shipped when possible."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from interlace.contract.errors import InterlaceError
from interlace.tracking.model import ModelCard, card_to_json
from interlace.tracking.outbox import Outbox
from interlace.tracking.shipper import Shipper, TrackingReport
from interlace.tracking.target import Target, redact

Status = Literal["FINISHED", "FAILED", "KILLED"]

MAX_PARAM, MAX_TAG, MAX_DIGEST = 6000, 8000, 36
"""Characters that MLflow keeps."""


class Tracker:
    """The driver's way to say things about its run. No method waits for MLflow or fails because of it.

    A run that goes on (same folder) keeps its MLflow run, which becomes RUNNING again; settings that differ from those
    said first become tags `resume.N.*`, for MLflow's params can't be changed. A child (a trial of a search) has a
    folder and a target of its own; its parent's thread ships it.
    """

    def __init__(self, run_folder: Path, target: Target, parent: "Tracker | None" = None) -> None:
        self._outbox = Outbox(run_folder)
        self._outbox.open(target)
        earlier = list(self._outbox.operations())
        self._params = {k: v for op in earlier if op.kind == "params" for k, v in op.values["values"].items()}
        self._num_starts = sum(op.kind == "start" for op in earlier)
        self._outbox.put("start")
        self._shipper: Shipper = Shipper(self._outbox) if parent is None else parent._shipper
        if parent is not None:
            self._shipper.add(self._outbox)

    def params(self, values: Mapping[str, Any]) -> None:
        """Settings by dotted path: anything JSON can hold, cut to 6,000 characters."""
        said = {key: _text(value)[:MAX_PARAM] for key, value in values.items()}
        new = {key: text for key, text in said.items() if key not in self._params}
        changed = {key: text for key, text in said.items() if self._params.get(key, text) != text}
        self._params.update(new)
        if new:
            self._outbox.put("params", values=new)
        self.tags({f"resume.{self._num_starts}.{key}": text for key, text in changed.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        """Facts about the run; a later value replaces an earlier one."""
        if values:
            self._outbox.put("tags", values={key: redact(value)[:MAX_TAG] for key, value in values.items()})

    def dataset(self, name: str, digest: str, *, source: str, context: str, profile: Mapping[str, Any]) -> None:
        """What the run reads.

        Args:
            name: shown in MLflow.
            digest: the manifest digest; MLflow keeps 36 characters.
            source: where the shards are.
            context: what for (`training`, `validation`, `test`).
            profile: counts worth showing (rows, tokens, missing shares).
        """
        told = {"name": name, "digest": digest[:MAX_DIGEST], "source": redact(source), "context": context}
        self._outbox.put("dataset", **told, profile=dict(profile))

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file, or all files in a folder, into a folder of the run's artifacts; it must stay until it is shipped."""
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            inside = file.parent.relative_to(path) if path.is_dir() else Path()
            parts = [part for part in (folder, str(inside)) if part not in ("", ".")]
            self._outbox.put("artifact", path=str(file.resolve()), folder="/".join(parts))

    def model(self, card: ModelCard) -> None:
        """The trained model, as a pyfunc named `model` that predicts from raw rows."""
        self._outbox.put("model", **card_to_json(card))

    def status(self, status: Status) -> None:
        """How the run ended. What was journaled before is shipped first."""
        self._outbox.put("status", status=status)

    def retire(self) -> None:
        """A child's end: nothing more is said about it; it is shipped once more and then left alone."""
        self._outbox.close()
        self._shipper.retire(self._outbox)

    def close(self, timeout_s: float) -> TrackingReport:
        """Give the thread this long to ship what is left, children too, and end it."""
        report = self._shipper.close(timeout_s)
        self._outbox.close()
        return report


def sync(run_folder: Path, timeout_s: float) -> TrackingReport:
    """Ship what the folder of a run or a search still holds. Raises InterlaceError if it was never tracked."""
    outbox = Outbox(run_folder)
    if not outbox.has_target:
        raise InterlaceError(f"{run_folder}: expected a run folder with a folder `tracking`, but there is none")
    shipper = Shipper(outbox)
    for child in sorted(run_folder.glob("trials/*")):
        if (own := Outbox(child)).has_target:
            shipper.add(own)
    return shipper.close(timeout_s)


def is_concluded(run_folder: Path) -> bool:
    """Whether the last thing said about a run is how it ended, and all of it is shipped."""
    outbox = Outbox(run_folder)
    if not outbox.has_target:
        return False
    last = [operation.kind for operation in outbox.operations()][-1:]
    return last == ["status"] and outbox.pending() == (0, 0)


def _text(value: Any) -> str:
    return redact(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
