"""`interlace register`: a run's model becomes a version in MLflow's registry, with an alias."""

import shlex
from pathlib import Path

from interlace.jobs.console import say
from interlace.tracking import Bar, registry_of
from interlace.tracking.target import redact


def run_register(
    run: str, name: str | None, alias: str, bar: Bar | None, *, storage: Path, tracking_uri: str | None
) -> None:
    """Register the model of a run and say where it is.

    Args:
        run: a run folder, the name of one in `storage`, or id or name of an MLflow run.
        name: of the registered model; the recipe's where None.
        alias: that the version gets.
        bar: what it must reach, if anything.
        storage: the folder of runs.
        tracking_uri: of runs that are no folder.

    Raises:
        InterlaceError: there is no such model, or it is worse than the one that has the alias.
    """
    registry, run_id = registry_of(run, tracking_uri, storage)
    done = registry.register(run_id, name, alias, bar)
    before = f", which version {done.before} had" if done.before not in (None, done.version) else ""
    if done.told:
        say(done.told)
    say(f"version {done.version} of `{done.name}`{'' if done.new else ' (as before)'} is {done.alias}{before}")
    uri = f"models:/{done.name}@{done.alias}"
    say(f"model {uri} in {redact(done.uri)}")
    say(
        f"serve it: MLFLOW_TRACKING_URI={shlex.quote(redact(done.uri))} mlflow models serve -m {shlex.quote(uri)}"
        " --env-manager local --host 127.0.0.1 --port 5001"
    )
