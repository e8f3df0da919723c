"""Models in MLflow's registry: a run's model becomes a version with an alias, if it is no worse than the one before.

    run (folder, id or name) -> its logged model -> version of a registered model -> alias

Everything may be done twice: a model that is a version already stays that version.
"""

import math
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from interlace.contract.better import is_better
from interlace.contract.errors import InterlaceError
from interlace.store.places import runs_of
from interlace.tracking.outbox import Outbox
from interlace.tracking.store import RUN_ID, clean_key, error_code, make_client, one_line
from interlace.tracking.target import resolve_uri
from interlace.tracking.tracker import sync

MODEL_ID = "interlace.model_id"
"""Tag of a version: the logged model that it is, which databases behind MLflow do not keep of it."""
LOWER_IS_BETTER = re.compile(r"(^|_)(loss|mae|mse|rmse|median_rank|wer|cer|perplexity)(_|$)")
"""In the last part of the names of metrics of which less is better."""
SHIP_S = 120.0
"""Seconds given to ship what a run folder still holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A metric in which a new version may not be worse than the one that has the alias; `mode` is what is better."""

    metric: str
    mode: Literal["max", "min"]


def make_bar(metric: str | None, mode: str | None) -> Bar | None:
    """The bar of the flags `--metric` and `--mode`; the mode follows from the metric's name where not given.

    Raises:
        InterlaceError: the mode is neither `max` nor `min`, or has no metric.
    """
    if mode not in (None, "max", "min"):
        raise InterlaceError(f"--mode: expected `max` or `min`, but is {mode!r}")
    if metric is None:
        if mode is not None:
            raise InterlaceError("--mode has no effect without --metric")
        return None
    if mode is None:
        mode = "min" if LOWER_IS_BETTER.search(metric.rpartition("/")[2]) else "max"
    return Bar(metric=metric, mode="min" if mode == "min" else "max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What became of a registration.

    Args:
        name, version, alias: of the registered model.
        uri: tracking URI of the store.
        new: whether the version was made now.
        before: the version that had the alias, if any.
        told: the values that were compared, as a sentence; empty without a bar.
    """

    name: str
    version: str
    alias: str
    uri: str
    new: bool
    before: str | None
    told: str


class Registry:
    """The registry of one MLflow store."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._client = make_client(uri)

    def register(self, place: str, name: str | None, alias: str, bar: Bar | None) -> Registered:
        """Make a run's model a version and give it the alias.

        Args:
            place: id or name of an MLflow run.
            name: of the registered model; the recipe's where None.
            alias: that the version gets.
            bar: what it must reach, if anything.

        Raises:
            InterlaceError: no such run, it has no model, or it is worse than the version that has the alias.
        """
        with _told(self.uri):
            run = self._run(place)
            model = self._model(run)
            name = name or run.data.params.get("name") or run.info.run_name
            before = self._holder(name, alias)
            told = self._compare(run, model, before, bar) if bar else ""
            version, new = self._version(name, run, model)
            self._client.set_registered_model_alias(name, alias, version)
        held = str(before.version) if before else None
        return Registered(
            name=name, version=version, alias=alias, uri=self.uri, new=new, before=held, told=told
        )  # fmt: skip

    def fetch(self, place: str, home: Path) -> Path:
        """The exported model of a run (id or name) or of a model URI (`models:/name@alias`), in a folder below `home`.

        Raises:
            InterlaceError: there is none.
        """
        with _told(self.uri):
            model_id = self._model_id(place)
            folder = home / model_id
            if not folder.exists():
                from mlflow.artifacts import download_artifacts

                place = self._client.get_logged_model(model_id).artifact_location
                partial = home / f"{uuid.uuid4().hex}.tmp"
                partial.mkdir(parents=True)
                try:
                    # by its place, since MLflow looks models up in the store of the environment, whatever it is told
                    there = download_artifacts(artifact_uri=place, dst_path=str(partial), tracking_uri=self.uri)
                    Path(there).rename(folder)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
        return folder / "artifacts" / "model"

    def _model_id(self, place: str) -> str:
        if not place.startswith("models:/"):
            return str(self._model(self._run(place)).model_id)
        inside = place.removeprefix("models:/").strip("/")
        name, at, alias = inside.partition("@")
        if at:
            version = self._client.get_model_version_by_alias(name, alias)
        elif "/" in inside:
            version = self._client.get_model_version(*inside.split("/", 1))
        else:
            return inside
        if MODEL_ID not in version.tags:
            raise InterlaceError(
                f"{place}: expected a version made by `interlace register`, but it has no `{MODEL_ID}`"
            )
        return str(version.tags[MODEL_ID])

    def _run(self, place: str) -> Any:
        if RUN_ID.fullmatch(place):
            return self._client.get_run(place)
        experiments = [e.experiment_id for e in self._client.search_experiments()]
        quoted = place.replace("'", "")
        found = self._client.search_runs(experiments, f"attributes.run_name = '{quoted}'") if experiments else []
        if len(found) == 1:
            return found[0]
        ids = ", ".join(run.info.run_id for run in found)
        what = f"there are {len(found)}: give one of their ids ({ids})" if found else "there is none"
        raise InterlaceError(f"expected a run folder, or an MLflow run `{place}` in {self.uri}, but {what}")

    def _model(self, run: Any) -> Any:
        """The run's newest whole model. Raises InterlaceError."""
        query = f"source_run_id = '{run.info.run_id}'"
        found = self._client.search_logged_models([run.info.experiment_id], query)
        whole = [model for model in found if str(model.status) == "READY"]
        if not whole:
            raise InterlaceError(
                f"run {run.info.run_name}: expected a logged model, but it has none (status {run.info.status});"
                " `interlace train` logs it at its end, and the same command goes on with a run that was stopped"
            )
        newest = max(whole, key=lambda model: model.creation_timestamp)
        return self._client.get_logged_model(newest.model_id)

    def _holder(self, name: str, alias: str) -> Any:
        """The version that has the alias; None where there is none."""
        try:
            return self._client.get_model_version_by_alias(name, alias)
        except Exception as error:
            if error_code(error) in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def _compare(self, run: Any, model: Any, before: Any, bar: Bar) -> str:
        """The two values as a sentence. Raises InterlaceError where the new one is worse, or one is not known."""
        new = self._value(run, model, bar.metric)
        if new is None:
            known = sorted({*run.data.metrics, *(m.key for m in model.metrics or ())})
            raise InterlaceError(
                f"run {run.info.run_name}: expected a metric `{bar.metric}`, but it has {', '.join(known) or 'none'}"
            )
        if before is None:
            if math.isnan(new):
                raise InterlaceError(f"not registered: {bar.metric} of run {run.info.run_name} is not a number")
            return f"{bar.metric} {new:.6g}; no version had the alias"
        own = self._client.get_logged_model(before.tags[MODEL_ID]) if MODEL_ID in before.tags else None
        old = self._value(self._client.get_run(before.run_id), own, bar.metric)
        if old is None:
            raise InterlaceError(
                f"version {before.version} has the alias, but no metric `{bar.metric}` to compare with; without"
                " `--metric` nothing is compared"
            )
        told = f"{bar.metric} {new:.6g}, version {before.version} has {old:.6g}"
        if is_better(old, new, higher=bar.mode == "max") or math.isnan(new):
            better = "higher" if bar.mode == "max" else "lower"
            raise InterlaceError(f"not registered: {told}, and {better} is better; the alias stays where it is")
        return told

    def _value(self, run: Any, model: Any, metric: str) -> float | None:
        """A metric of this very model; of the run's last step where it was not measured of the model alone."""
        key = clean_key(metric)
        if math.isnan(run.data.metrics.get(key, 0.0)):
            return math.nan  # of models MLflow keeps a 0 for it
        own = {m.key: m.value for m in (model.metrics if model is not None else None) or ()}
        value = own.get(key, run.data.metrics.get(key))
        return None if value is None else float(value)

    def _version(self, name: str, run: Any, model: Any) -> tuple[str, bool]:
        """The version of this model, and whether it was made now."""
        try:
            self._client.create_registered_model(name)
        except Exception as error:
            if error_code(error) != "RESOURCE_ALREADY_EXISTS":
                raise
        quoted = name.replace("'", "")
        for version in self._client.search_model_versions(f"name='{quoted}'"):
            if version.tags.get(MODEL_ID) == model.model_id:
                return str(version.version), False
        tags = {key: run.data.tags[key] for key in ("recipe_digest", "data_digest") if key in run.data.tags}
        made = self._client.create_model_version(
            name,
            source=model.artifact_location,
            run_id=run.info.run_id,
            tags={**tags, MODEL_ID: model.model_id},
            description=f"Run {run.info.run_name}",
            model_id=model.model_id,
        )
        return str(made.version), True


def tracked_run(folder: Path) -> tuple[str, str] | None:
    """Tracking URI and MLflow run id of a run folder, after shipping what it still holds; None if it is no such folder.

    Raises:
        InterlaceError: not everything could be shipped.
    """
    if not Outbox(folder).has_target:
        return None
    report = sync(folder, SHIP_S)
    if not report.shipped or report.run_id is None:
        raise InterlaceError(f"{folder}: expected a run that MLflow knows whole, but\n{report}")
    return Outbox(folder).target.uri, report.run_id


def registry_of(place: str, uri: str | None, storage: Path) -> tuple[Registry, str]:
    """The registry that a run is in, and the run as the registry knows it.

    Args:
        place: a run folder, the name of one in `storage`, id or name of an MLflow run, or a model URI.
        uri: tracking URI, where it is no folder; as in a recipe.
        storage: the folder of runs.
    """
    for folder in (Path(place), runs_of(storage) / place):
        if (known := tracked_run(folder)) is not None:
            return Registry(known[0]), known[1]
    return Registry(resolve_uri(uri, storage)), place


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Trouble with the store as an InterlaceError of one line."""
    try:
        yield
    except InterlaceError:
        raise
    except Exception as error:  # whatever a store or a network raises
        raise InterlaceError(f"{uri}: {one_line(error)}") from error
