"""Where a run is recorded: the tracking URI, always absolute, and the identity of the MLflow run."""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from interlace.contract.errors import RecipeError

EXPERIMENT = "interlace"
"""The experiment of runs that name none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The MLflow run that a run folder is recorded in.

    Args:
        uri: absolute tracking URI.
        artifacts: URI of the folder for artifacts of a new experiment; None where the server decides.
        experiment: name of the MLflow experiment.
        run_name: name shown in MLflow.
        run_key: identity of the run, unique over everything that shares the store (kept as a tag). A start with a known
            key goes on with that MLflow run.
        parent_key: `run_key` of the MLflow run that this one is a child of (a trial of a search), if any.
        created_ms: when the run began, unix milliseconds.
        experiment_id: of the experiment, where it was named by that.
        run_id: of the MLflow run to go on with, where one is there already.
    """

    uri: str
    artifacts: str | None
    experiment: str
    run_name: str
    run_key: str
    parent_key: str | None
    created_ms: int
    experiment_id: str | None = None
    run_id: str | None = None


def make_target(
    *,
    uri: str | None,
    storage: Path,
    experiment: str | None,
    run_name: str,
    run_key: str,
    parent_key: str | None = None,
) -> Target:
    """The target of a run that begins now; `uri` as in `resolve_uri`, the rest as in `Target`. Raises RecipeError.

    What is not given comes from the environment, as MLflow has it: `MLFLOW_EXPERIMENT_NAME` or `MLFLOW_EXPERIMENT_ID`
    name the experiment, `MLFLOW_RUN_ID` a run that is there to be filled (a child of a search is none).
    """
    assert "'" not in f"{run_key}{parent_key}", "keys stand in search queries"
    absolute = resolve_uri(uri, storage)
    named = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    return Target(
        uri=absolute,
        artifacts=None if absolute.startswith("http") else (storage.resolve() / "artifacts").as_uri(),
        experiment=named or EXPERIMENT,
        run_name=run_name,
        run_key=run_key,
        parent_key=parent_key,
        created_ms=time.time_ns() // 1_000_000,
        experiment_id=None if named else os.environ.get("MLFLOW_EXPERIMENT_ID") or None,
        run_id=None if parent_key else os.environ.get("MLFLOW_RUN_ID") or None,
    )


def resolve_uri(uri: str | None, storage: Path) -> str:
    """The absolute tracking URI: the given one, that of the environment, or sqlite in the storage folder.

    Args:
        uri: `http(s)://host:port`, `sqlite:///file` (a relative file starts from `storage`, never from the current
            folder, which differs from process to process) or another database URI. Where not given, the
            environment's `MLFLOW_TRACKING_URI`.
        storage: the folder of runs.

    Raises:
        RecipeError: the URI is of another kind, or holds a password for a server.
    """
    uri = tracking_server(uri)
    if uri is None:
        return sqlite_uri(storage.resolve() / "mlflow.db")
    scheme, _, rest = uri.partition("://")
    if scheme == "sqlite" and rest.strip("/"):
        inside = rest.removeprefix("/")
        return f"sqlite:///{inside}" if inside.startswith("/") else f"{sqlite_uri(storage.resolve())}/{inside}"
    if scheme in ("http", "https") and rest:
        if "@" in rest.split("/", 1)[0]:
            wanted = "expected no password in it (set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)"
            raise RecipeError((f"tracking.uri: {wanted}, but is {redact(uri)!r}",))
        return uri.rstrip("/")
    if re.match(r"(postgresql|mysql|mssql)(\+\w+)?://.", uri):
        return uri
    wanted = (
        "http(s)://host:port, sqlite:///file or another database URI (MLflow keeps no runs in plain files any more)"
    )
    raise RecipeError((f"tracking.uri: expected {wanted}, but is {redact(uri)!r}",))


def tracking_server(uri: str | None) -> str | None:
    """The tracking URI that is given, or that the environment gives, as it stands there."""
    return uri if uri is not None else os.environ.get("MLFLOW_TRACKING_URI") or None


def sqlite_uri(path: Path) -> str:
    """The URI of a file, with what would end a path or stand for another character in a URI written as `%XX`."""
    return f"sqlite:///{quote(str(path), safe=_PLAIN)}"


_PLAIN = "".join(chr(code) for code in range(32, 127) if chr(code) not in "%?#")
"""What a path keeps in the URI of a database; MLflow makes folders by the URI's own letters, so as few as can be."""


def redact(text: str) -> str:
    """The text without the user names and passwords of URIs in it."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)
