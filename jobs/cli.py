"""The command line: `interlace VERB`, also `python -m interlace.jobs VERB`. Verbs import what they need."""

from pathlib import Path
from typing import Annotated

import typer

from interlace.jobs.cluster_verbs import add_to
from interlace.jobs.console import reported_errors, say
from interlace.jobs.options import (
    Address,
    DryRun,
    Labels,
    Overrides,
    RecipeFile,
    RunName,
    Storage,
    TrackingUri,
    read_recipe,
    read_search,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train fused multimodal Transformers on heterogeneous data, from laptop to cluster.",
)


@app.command()
def demo(
    data: Annotated[Path, typer.Option(help="Folder the data set is built in.")] = Path("data/emoji"),
    overrides: Overrides = None,
    storage: Storage = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train anew even if the demo has run before.")] = False,
) -> None:
    """Build a real image-and-text set from installed packages, train on it, and show what fusion gives."""
    with reported_errors():
        from interlace.jobs.demo import run_demo

        run_demo(data, overrides or [], storage, fresh=fresh)


@app.command()
def dataset(
    name: Annotated[str, typer.Argument(help="emoji, watch or stamps.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder for the shards.", show_default=False)],
    source: Annotated[Path | None, typer.Option("--from", help="File or folder that the set is made from.")] = None,
    seed: Annotated[int, typer.Option(help="Decides splits and order.")] = 0,
) -> None:
    """Build an example data set as Parquet shards for a shipped recipe of the same name."""
    with reported_errors():
        from interlace.jobs.dataset import run_dataset

        run_dataset(name, out, seed, source)


@app.command()
def train(  # noqa: PLR0913 - one parameter a flag
    recipe: RecipeFile,
    overrides: Overrides = None,
    run_name: RunName = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    address: Address = None,
    resume: Annotated[bool, typer.Option("--resume", help="Insist on going on with a run that is there.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew under the next free name.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Train a recipe; the same command goes on with a run that was stopped or killed."""
    with reported_errors():
        settings = read_recipe(recipe, overrides, storage, tracking_uri)
        from interlace.jobs.start import connect_early

        connect_early(address)
        from interlace.jobs.listener import Shown
        from interlace.results.training import Launch
        from interlace.results.training import train as run

        run(settings, Launch(run_name=run_name, address=address, resume=resume, fresh=fresh, dry_run=dry_run), Shown())


@app.command()
def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    storage: Storage = None,
    address: Address = None,
    seconds: Annotated[float, typer.Option(help="How long to measure, after the first steps.", min=1)] = 15.0,
    price: Annotated[float | None, typer.Option(help="Of the cluster for an hour, in any currency.")] = None,
) -> None:
    """Say what a recipe takes on a cluster: what binds, CPUs for data, time, memory, checkpoints."""
    with reported_errors():
        settings = read_recipe(recipe, overrides, storage)
        from interlace.jobs.start import connect_early

        connect_early(address)
        from interlace.jobs.plan import run_plan

        run_plan(settings, address, seconds, price)


@app.command()
def watch(
    run: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    every: Annotated[float, typer.Option(help="Seconds between looks.", min=0.5)] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Look once.")] = False,
) -> None:
    """Follow a run that trains anywhere: throughput, waiting, ranks, object store, and what binds."""
    with reported_errors():
        from interlace.jobs.watch import run_watch

        run_watch(run, every, once=once)


@app.command()
def tune(  # noqa: PLR0913 - one parameter a flag
    recipe: Annotated[Path, typer.Argument(help="Recipe file with a section `search`.", show_default=False)],
    overrides: Overrides = None,
    run_name: RunName = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    address: Address = None,
    trials: Annotated[int | None, typer.Option("--trials", help="Trials in all.", min=1)] = None,
    time_s: Annotated[float | None, typer.Option("--time-s", help="Seconds after which trials are stopped.")] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train the best recipe at full length afterwards.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew under the next free name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print trials and arithmetic, then stop.")] = False,
) -> None:
    """Search a recipe's settings; the same command goes on with a search that was stopped or killed."""
    with reported_errors():
        settings, search = read_search(recipe, overrides, storage, tracking_uri, trials=trials, time_s=time_s)
        from interlace.jobs.start import connect_early

        connect_early(address)
        from interlace.jobs.listener import Shown
        from interlace.results.training import Launch
        from interlace.tune.tuning import tune as run

        launch = Launch(run_name=run_name, address=address, fresh=fresh, dry_run=dry_run)
        run(settings, search, launch, Shown(), retrain=retrain)


@app.command()
def index(recipe: RecipeFile, overrides: Overrides = None, storage: Storage = None, address: Address = None) -> None:
    """Measure a recipe's data as a Ray Data job and keep the manifest in the cache."""
    with reported_errors():
        settings = read_recipe(recipe, overrides, storage)
        from interlace.jobs.index import run_index

        run_index(settings, address)


@app.command()
def prepare(
    recipe: Annotated[Path, typer.Argument(help="Settings of the preparation (YAML).", show_default=False)],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the shards.")] = None,
    address: Address = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove what the folder holds and begin anew.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be joined, then stop.")] = False,
) -> None:
    """Join several sources by key into shards for training; the same command goes on after a kill."""
    with reported_errors():
        from interlace.recipe.given import changes_of
        from interlace.recipe.prepare import load_preparation

        settings = load_preparation(recipe, changes_of(overrides, {"out": out}))
        from interlace.jobs.prepare import Launch, run_prepare

        run_prepare(settings, Launch(address=address, fresh=fresh, dry_run=dry_run))


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of one of its checkpoints.", show_default=False)],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Folder for tables and figures.")] = None,
) -> None:
    """Evaluate a run's model over a split, for all its fields and for every subset of them."""
    with reported_errors():
        from interlace.jobs.evaluate import run_evaluate

        run_evaluate(run, split, overrides or [], out)


@app.command()
def predict(  # noqa: PLR0913 - one parameter a flag
    model: Annotated[
        str,
        typer.Argument(help="Run folder, exported model, MLflow run, or models:/NAME@ALIAS.", show_default=False),
    ],
    data: Annotated[
        list[str], typer.Option("--data", help="Shards: files or globs, repeatable; or a split of the recipe.")
    ],
    output: Annotated[Path, typer.Option("--output", help="Folder for the predictions as Parquet.")],
    keep: Annotated[list[str] | None, typer.Option("--keep", help="Column to copy, repeatable.")] = None,
    part_rows: Annotated[int, typer.Option("--part-rows", help="Rows of an output file, about.", min=1)] = 4096,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    address: Address = None,
    labels: Labels = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove what the folder holds and begin anew.")] = False,
) -> None:
    """Predict every row of shards as a Ray Data job, in order; the same command goes on after a kill."""
    with reported_errors():
        from interlace.jobs.listener import Shown
        from interlace.recipe.data import read_labels
        from interlace.results.prediction import PredictLaunch, predict_shards

        launch = PredictLaunch(
            keep=keep or [], part_rows=part_rows, storage=storage or Path("output"), tracking_uri=tracking_uri,
            address=address, labels=read_labels(labels or []), fresh=fresh,
        )  # fmt: skip
        predict_shards(model, data, output, launch, Shown())


@app.command()
def register(  # noqa: PLR0913 - one parameter a flag
    run: Annotated[str, typer.Argument(help="Run folder, or name or id of a run.", show_default=False)],
    alias: Annotated[str, typer.Option("--alias", help="Alias that the version gets.")] = "champion",
    name: Annotated[str | None, typer.Option("--name", help="Registered model; by default the recipe's name.")] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="What must not be worse than before.")] = None,
    mode: Annotated[str | None, typer.Option("--mode", help="max or min: what is better; by default by name.")] = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Make a run's model a version in MLflow's registry with an alias, unless it is worse than the one before."""
    with reported_errors():
        from interlace.jobs.register import run_register
        from interlace.tracking.registry import make_bar

        bar = make_bar(metric, mode)
        run_register(run, name, alias, bar, storage=storage or Path("output"), tracking_uri=tracking_uri)


@app.command()
def inspect(
    recipe: RecipeFile,
    overrides: Overrides = None,
    storage: Storage = None,
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("inspect.html"),
) -> None:
    """Show what a recipe's data holds: counts, missing shares, token lengths, and samples as one HTML page."""
    with reported_errors():
        settings = read_recipe(recipe, overrides, storage)
        from interlace.jobs.inspect import run_inspect

        run_inspect(settings, out)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    import json

    from interlace.tune.check import schema as whole_schema

    say(json.dumps(whole_schema(), indent=2))


add_to(app)

track = typer.Typer(no_args_is_help=True, help="Metrics and MLflow.")
app.add_typer(track, name="track")


@track.command()
def sync(
    run: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to try.")] = 120.0,
) -> None:
    """Ship what a run recorded while its MLflow server was away."""
    with reported_errors():
        from interlace.tracking import sync as ship

        report = ship(run, timeout_s)
        say(str(report))
        if not report.shipped:
            raise typer.Exit(1)


def main() -> None:
    """Entry point of the `interlace` command."""
    app()
