"""One MLflow run, spoken to in requests that may each be sent twice without a trace."""

import dataclasses
import json
import math
import os
import posixpath
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from interlace.contract.errors import InterlaceError
from interlace.store.journal import Point
from interlace.tracking.model import ModelCard, card_from_json, save_pyfunc
from interlace.tracking.outbox import Cursor, Operation, Outbox, shipped_bytes
from interlace.tracking.target import redact

RUN_KEY, OPERATION = "interlace.run_key", "interlace.operation"
"""Tags by which runs and models are found again."""

RUN_ID = re.compile(r"[0-9a-f]{32}")
"""What MLflow's own ids of runs look like."""

SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the thread tries again itself, looking first at what arrived
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # these print over the progress of the run
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_UV_AUTO_DETECT": "false",  # would put the current folder's pyproject.toml into the model
}
"""Environment of mlflow's client, set where the user has not set it."""


class MlflowRun:
    """The MLflow run of an outbox, found or created. Everything it sends may be sent twice without a trace."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._target = outbox.target
        self._cursor = outbox.cursor()
        self._client = make_client(self._target.uri)
        self._uploaded: set[Path] = set()
        given = self._given()
        experiment_id = str(given.info.experiment_id) if given else self._experiment()
        run_id = self._known() or self._find(self._target.run_key, experiment_id)
        run_id = run_id or (self._fill(given) if given else self._create(experiment_id))
        if run_id != self._cursor.run_id:  # another run than the cursor is about: ship everything
            self._keep(Cursor(uri=self._target.uri, experiment_id=experiment_id, run_id=run_id))
        self._id = run_id

    def ship(self) -> Iterator[None]:
        """Send what the outbox and the journal hold now; yields after each step that is sent and noted."""
        for operation in self._outbox.operations(self._cursor.ops):
            if operation.kind == "status":
                yield from self._points()
            self._send(operation)
            self._keep(dataclasses.replace(self._cursor, ops=operation.end))
            yield
        yield from self._points()

    def _points(self) -> Iterator[None]:
        """Send what is journaled now; lines that come meanwhile wait, or each request would carry one line only."""
        for journal, end in self._outbox.journal_sizes().items():
            while shipped_bytes(self._cursor, journal) < end:
                points, after = self._outbox.points(self._cursor, journal)
                if shipped_bytes(after, journal) == shipped_bytes(self._cursor, journal):
                    break
                self._send_points(points)
                self._keep(after)
                yield

    def _send_points(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key=clean_key(key), value=value, timestamp=point.time_ms, step=point.step)
            for point in points
            for key, value in point.metrics.items()
        ]
        for batch in _batches(metrics, 1000):
            self._client.log_batch(self._id, metrics=batch)

    def _send(self, operation: Operation) -> None:
        try:
            _SENDERS[operation.kind](self, operation)
        except Exception as error:
            if not isinstance(error, RefusedError) and error_code(error) != "INVALID_PARAMETER_VALUE":
                raise
            self._known()  # if the run itself is the trouble, this raises, and the operation stays
            reason = f"{operation.kind}: {one_line(error)}"
            self._keep(dataclasses.replace(self._cursor, rejected=(*self._cursor.rejected, reason)))

    def _keep(self, cursor: Cursor) -> None:
        self._outbox.save(cursor)
        self._cursor = cursor

    def _given(self) -> Any | None:
        """The run that is there to be filled, unless another run's records are in it. Raises InterlaceError."""
        if self._target.run_id is None:
            return None
        try:
            run = self._client.get_run(self._target.run_id)
        except Exception as error:
            if error_code(error) == "RESOURCE_DOES_NOT_EXIST":
                raise InterlaceError(
                    f"MLFLOW_RUN_ID: expected a run of {redact(self._target.uri)}, but"
                    f" {self._target.run_id} is none there"
                ) from error
            raise
        if run.info.lifecycle_stage == "deleted":
            raise InterlaceError(f"MLFLOW_RUN_ID: run {run.info.run_id} was deleted in MLflow: restore it there")
        return run if run.data.tags.get(RUN_KEY, self._target.run_key) == self._target.run_key else None

    def _fill(self, run: Any) -> str:
        """Make a run this one."""
        self._client.set_tag(run.info.run_id, RUN_KEY, self._target.run_key)
        return str(run.info.run_id)

    def _experiment(self) -> str:
        if (number := self._target.experiment_id) is not None:
            try:
                experiment = self._client.get_experiment(number)
            except Exception as error:
                if error_code(error) == "RESOURCE_DOES_NOT_EXIST":
                    raise InterlaceError(
                        f"MLFLOW_EXPERIMENT_ID: expected an experiment of"
                        f" {redact(self._target.uri)}, but {number} is none there"
                    ) from error
                raise
            name = experiment.name
        else:
            name = self._target.experiment
            experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            return str(self._client.create_experiment(name, artifact_location=self._target.artifacts))
        if experiment.lifecycle_stage == "deleted":
            raise InterlaceError(f"experiment {name!r} was deleted in MLflow: restore it there, or take another name")
        return str(experiment.experiment_id)

    def _known(self) -> str | None:
        """The cursor's run, if the store has it. Raises InterlaceError if someone deleted it."""
        if self._cursor.run_id is None:
            return None
        try:
            run = self._client.get_run(self._cursor.run_id)
        except Exception as error:
            if error_code(error) == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        if run.info.lifecycle_stage == "deleted":
            raise InterlaceError(f"run {run.info.run_id} was deleted in MLflow: restore it there")
        return self._cursor.run_id

    def _find_all(self, run_key: str, experiment_id: str) -> list[Any]:
        query = f"tags.`{RUN_KEY}` = '{run_key}'"
        return list(self._client.search_runs([experiment_id], query, order_by=["attributes.start_time ASC"]))

    def _find(self, run_key: str, experiment_id: str) -> str | None:
        runs = self._find_all(run_key, experiment_id)
        return str(runs[0].info.run_id) if runs else None

    def _create(self, experiment_id: str) -> str:
        tags = {RUN_KEY: self._target.run_key}
        if self._target.parent_key is not None:
            parent = self._find(self._target.parent_key, experiment_id)
            if parent is None:
                raise InterlaceError(f"the parent run {self._target.parent_key} is not in MLflow yet")
            tags["mlflow.parentRunId"] = parent
        run = self._client.create_run(
            experiment_id, start_time=self._target.created_ms, tags=tags, run_name=self._target.run_name
        )
        return str(run.info.run_id)

    def _start(self, operation: Operation) -> None:
        self._client.update_run(self._id, status="RUNNING")

    def _params(self, operation: Operation) -> None:
        from mlflow.entities import Param

        for batch in _batches([Param(clean_key(k), v) for k, v in operation.values["values"].items()], 100):
            self._client.log_batch(self._id, params=batch)

    def _tags(self, operation: Operation) -> None:
        from mlflow.entities import RunTag

        for batch in _batches([RunTag(clean_key(k), v) for k, v in operation.values["values"].items()], 100):
            self._client.log_batch(self._id, tags=batch)

    def _dataset(self, operation: Operation) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        values = operation.values
        dataset = Dataset(
            name=values["name"],
            digest=values["digest"],
            source_type="local",
            source=json.dumps({"uri": values["source"]}),
            profile=json.dumps(values["profile"]),
        )
        context = InputTag(key="mlflow.data.context", value=values["context"])
        self._client.log_inputs(self._id, [DatasetInput(dataset=dataset, tags=[context])])

    def _artifact(self, operation: Operation) -> None:
        path = Path(operation.values["path"])
        if not path.is_file():
            raise RefusedError(f"{path} was gone before it was shipped")
        self._client.log_artifact(self._id, str(path), operation.values["folder"] or None)

    def _status(self, operation: Operation) -> None:
        self._drop_twins()
        self._client.set_terminated(self._id, operation.values["status"], operation.values["at_ms"])

    def _drop_twins(self) -> None:
        """Delete empty runs of the same key: a creation that timed out here may still have been carried out there."""
        for run in self._find_all(self._target.run_key, self._cursor.experiment_id or ""):
            if run.info.run_id != self._id and not run.data.params and not run.data.metrics:
                self._client.delete_run(run.info.run_id)

    def _model(self, operation: Operation) -> None:
        """Log the model once for this operation; a model left half uploaded is taken up again."""
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        card = card_from_json(operation.values)
        if not card.folder.is_dir():
            raise RefusedError(f"{card.folder} was gone before it was shipped")
        model = self._logged_model(str(operation.start))
        if model.status == LoggedModelStatus.READY:
            return
        folder = self._draft(card, model)
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path not in self._uploaded):
            inside = str(path.parent.relative_to(folder))
            self._client.log_model_artifact(model.model_id, str(path), None if inside == "." else inside)
            self._uploaded.add(path)
        self._measured_of(model, card.metrics)
        outputs = self._client.get_run(self._id).outputs
        if model.model_id not in [output.model_id for output in (outputs.model_outputs if outputs else [])]:
            self._client.log_outputs(self._id, [LoggedModelOutput(model.model_id, step=0)])
        self._client.finalize_logged_model(model.model_id, "READY")
        shutil.rmtree(folder)

    def _measured_of(self, model: Any, prefix: str) -> None:
        """The journal's metrics that were measured of this model, said of it too; their last values.

        NaN is said of the run alone: of a model MLflow would keep a 0.
        """
        from mlflow.entities import Metric

        if not prefix:
            return
        last = {k: (v, p) for p in self._outbox.all_points() for k, v in p.metrics.items() if k.startswith(prefix)}
        metrics = [
            Metric(key=clean_key(key), value=value, timestamp=point.time_ms, step=point.step, model_id=model.model_id)
            for key, (value, point) in last.items()
            if not math.isnan(value)
        ]
        for batch in _batches(metrics, 1000):
            self._client.log_batch(self._id, metrics=batch)

    def _draft(self, card: ModelCard, model: Any) -> Path:
        """The model as MLflow wants it, in the run folder until it is shipped."""
        folder: Path = self._outbox.folder / model.model_id
        if not folder.exists():
            growing = folder.with_suffix(".tmp")
            shutil.rmtree(growing, ignore_errors=True)
            try:
                save_pyfunc(card, growing, model_id=model.model_id, location=model.artifact_location, run_id=self._id)
            except Exception as error:  # nothing remote is involved: trying again would not help
                raise RefusedError(error) from error
            growing.rename(folder)
        return folder

    def _logged_model(self, mark: str) -> Any:
        """The LoggedModel of one operation, found by its tag or created."""
        experiment_id = self._cursor.experiment_id
        query = f"source_run_id = '{self._id}' AND tags.`{OPERATION}` = '{mark}'"
        found = self._client.search_logged_models([experiment_id], query)
        if found:
            return found[0]
        return self._client.create_logged_model(
            experiment_id, name="model", source_run_id=self._id, tags={OPERATION: mark}
        )


_SENDERS: dict[str, Callable[[MlflowRun, Operation], None]] = {
    "start": MlflowRun._start,
    "params": MlflowRun._params,
    "tags": MlflowRun._tags,
    "dataset": MlflowRun._dataset,
    "artifact": MlflowRun._artifact,
    "model": MlflowRun._model,
    "status": MlflowRun._status,
}


class RefusedError(Exception):
    """An operation that can never be shipped."""


def error_code(error: BaseException) -> str | None:
    """MLflow's name for what went wrong, if it has one."""
    return getattr(error, "error_code", None)


def one_line(error: BaseException) -> str:
    """What went wrong, short and without passwords; of a network error only its innermost cause."""
    text = redact(" ".join(str(error).split()))
    cause = re.search(r"\[Errno -?\d+\] [^'\")]+|too many \d+ error responses|Read timed out", text)
    url = re.search(r"https?://[^/\s]+", text)
    if cause and url:
        text = f"{url[0]}: {cause[0]}"
    if error_code(error) in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"):
        text = f"not allowed (set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD): {text}"
    return textwrap.shorten(text, 300, placeholder=" ...") or type(error).__name__


def clean_key(key: str) -> str:
    """The key with what MLflow does not allow in names replaced."""
    allowed = re.sub(r"[^/\w.\- :]", "_", key)[:250]
    return posixpath.normpath(allowed).lstrip("./") or "_"


def make_client(uri: str) -> Any:
    """A client of the store; imports mlflow, which reads its settings from the environment."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
