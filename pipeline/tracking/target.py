"""Where a run is recorded: the tracking URI, always absolute, and the identity of the MLflow run."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

from interlace.contract.errors import RecipeError


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
    """

    uri: str
    artifacts: str | None
    experiment: str
    run_name: str
    run_key: str
    parent_key: str | None
    created_ms: int


def make_target(
    *, uri: str | None, storage: Path, experiment: str, run_name: str, run_key: str, parent_key: str | None = None
) -> Target:
    """The target of a run that begins now; `uri` as in `resolve_uri`, the rest as in `Target`. Raises RecipeError."""
    assert "'" not in f"{run_key}{parent_key}", "keys stand in search queries"
    absolute = resolve_uri(uri, storage)
    return Target(
        uri=absolute,
        artifacts=None if absolute.startswith("http") else (storage.resolve() / "artifacts").as_uri(),
        experiment=experiment,
        run_name=run_name,
        run_key=run_key,
        parent_key=parent_key,
        created_ms=time.time_ns() // 1_000_000,
    )


def resolve_uri(uri: str | None, storage: Path) -> str:
    """The absolute tracking URI: the given one, or sqlite in the storage folder.

    Args:
        uri: `http(s)://host:port`, `sqlite:///file` (a relative file starts from `storage`, never from the current
            folder, which differs from process to process) or another database URI.
        storage: the folder of runs.

    Raises:
        RecipeError: the URI is of another kind, or holds a password for a server.
    """
    if uri is None:
        return f"sqlite:///{storage.resolve() / 'mlflow.db'}"
    scheme, _, rest = uri.partition("://")
    if scheme == "sqlite" and rest.strip("/"):
        return f"sqlite:///{storage.resolve() / rest.removeprefix('/')}"
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


def redact(text: str) -> str:
    """The text without the user names and passwords of URIs in it."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)
