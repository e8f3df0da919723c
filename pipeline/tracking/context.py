"""Tags that say under which circumstances a run was made."""

import getpass
import platform
import subprocess
from importlib import metadata

from interlace.recipe.identity import digest, packages
from interlace.recipe.recipe import Recipe


def context_tags(recipe: Recipe, *, data_digest: str, world_size: int) -> dict[str, str]:
    """Digests, git state of the current folder, versions, and the settings that runs are grouped by.

    Versions are also those of the packages whose plug-ins the recipe uses (tag `plugins`, `name==version`).

    Imports nothing (versions come from the installed distributions), runs `git` twice, never fails: what can't be found
    out is left out.
    """
    tags = {
        "recipe_digest": digest(recipe),
        "data_digest": data_digest,
        "world_size": str(world_size),
        "precision": recipe.train.precision,
        "fusion": recipe.model.fusion,
        "fields": ",".join(recipe.fields),
        "version.python": platform.python_version(),
        "mlflow.source.name": "interlace",
        "mlflow.source.type": "LOCAL",
    }
    for package in ("interlace", "ray", "torch", "mlflow"):
        if (version := version_of(package)) is not None:
            tags[f"version.{package}"] = version
    if brought := packages(recipe):
        tags["plugins"] = ",".join(brought)
    if (user := _user()) is not None:
        tags["mlflow.user"] = user
    if commit := _git("rev-parse", "HEAD"):
        tags["mlflow.source.git.commit"] = commit
        tags["git_dirty"] = str(bool(_git("status", "--porcelain"))).lower()
    return tags


def version_of(package: str) -> str | None:
    """The installed version of a distribution, if it is installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return None


def _git(*arguments: str) -> str:
    """What git prints; nothing where there is no git or no repository."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
