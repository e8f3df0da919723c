"""Flags shared by all verbs that take a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from interlace.recipe.given import changes_of
from interlace.recipe.load import load_recipe
from interlace.recipe.recipe import Recipe
from interlace.tune.check import load_search
from interlace.tune.search import Search

RecipeFile = Annotated[Path, typer.Argument(help="Recipe file (YAML).", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a setting; may be given repeatedly.")
]
RunName = Annotated[str | None, typer.Option("--run-name", help="Name of the run; by default recipe name and digest.")]
Storage = Annotated[Path | None, typer.Option("--storage", help="Folder of runs, caches and the MLflow store.")]
TrackingUri = Annotated[str | None, typer.Option("--tracking-uri", help="MLflow tracking URI.")]
Address = Annotated[str | None, typer.Option("--address", help="Ray cluster (HOST:PORT); by default one is started.")]
Labels = Annotated[
    list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Label of the nodes to run on, repeatable.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print recipe and arithmetic, then stop.")]


def read_recipe(
    path: Path, overrides: list[str] | None, storage: Path | None = None, tracking_uri: str | None = None
) -> Recipe:
    """The recipe with the command line's settings in it."""
    return load_recipe(path, changes_of(overrides, {"storage": storage, "tracking.uri": tracking_uri}))


def read_search(
    path: Path,
    overrides: list[str] | None,
    storage: Path | None,
    tracking_uri: str | None,
    *,
    trials: int | None,
    time_s: float | None,
) -> tuple[Recipe, Search]:
    """The recipe and its section `search` with the command line's settings in them."""
    own = {"search.trials": trials, "search.time_s": time_s}
    return load_search(path, changes_of(overrides, {"storage": storage, "tracking.uri": tracking_uri, **own}))
