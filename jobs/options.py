"""Flags shared by all verbs that take a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.recipe import Recipe, load_recipe

RecipeFile = Annotated[Path, typer.Argument(help="Recipe file (YAML).", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a setting; may be given repeatedly.")
]
RunName = Annotated[str | None, typer.Option("--run-name", help="Name of the run; by default recipe name and digest.")]
Storage = Annotated[Path | None, typer.Option("--storage", help="Folder of runs, caches and the MLflow store.")]
TrackingUri = Annotated[str | None, typer.Option("--tracking-uri", help="MLflow tracking URI.")]
Address = Annotated[str | None, typer.Option("--address", help="Ray cluster (HOST:PORT); by default one is started.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print recipe and arithmetic, then stop.")]


def read_recipe(
    path: Path, overrides: list[str] | None, storage: Path | None = None, tracking_uri: str | None = None
) -> Recipe:
    """The recipe with the command line's settings in it."""
    changes = list(overrides or [])
    if storage is not None:
        changes.append(f"storage={storage}")
    if tracking_uri is not None:
        changes.append(f"tracking.uri={tracking_uri}")
    return load_recipe(path, changes)
