"""Interlace: train fused multimodal Transformers, from laptop to cluster.

The verbs of the command line are functions here, with the names of its flags; what they give back shows itself in a
notebook. Everything else is in the rooms (`interlace.recipe`, `interlace.data`, ...), which are imported when used:
`import interlace` loads neither torch nor Ray.

    import interlace

    run = interlace.train("recipe.yaml", set={"train.epochs": 3})
    run.metrics(), run.evaluate("test"), run.predict(frame)

Recipes are given as a path, a mapping or a `Recipe`; `set` is a mapping of dotted paths, or texts `path=value`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import interlace.train as _train_room  # these two are only a docstring each
import interlace.tune as _tune_room

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike
    from pathlib import Path

    from interlace.recipe.given import Changes, Given
    from interlace.recipe.recipe import Recipe
    from interlace.results.evaluation import Evaluation
    from interlace.results.inspection.inspected import Inspected
    from interlace.results.listener import Listener
    from interlace.results.outcomes import Indexed, PreparedShards
    from interlace.results.predictor import Predictor
    from interlace.results.trained import TrainedRun
    from interlace.tune.searched import Searched

    Place = str | PathLike[str]

__all__ = [
    "evaluate", "index", "inspect", "load_model", "load_recipe", "load_run", "predict", "prepare", "train", "tune",
]  # fmt: skip


def load_recipe(
    recipe: Given, *, set: Changes = None, storage: Place | None = None, tracking_uri: str | None = None
) -> Recipe:
    """Read a recipe and check all of it.

    Args:
        recipe: path of a YAML file, its content as a mapping, or a Recipe.
        set: changes, `{"train.epochs": 3}` or `["train.epochs=3"]`.
        storage: folder of runs, caches and the MLflow store.
        tracking_uri: of MLflow.

    Raises:
        RecipeError: all faults.
    """
    from interlace.recipe.given import settings_of
    from interlace.recipe.recipe import Recipe

    return settings_of(recipe, _changes(set, storage, tracking_uri), Recipe)


def inspect(recipe: Given, *, set: Changes = None, storage: Place | None = None, out: Place | None = None) -> Inspected:
    """What a recipe's data holds, as a page: counts, missing shares, token lengths, samples.

    Arguments are those of `load_recipe`, and `out`: an HTML file to write; `write` of what comes back does so later.
    """
    from interlace.results.inspection.inspect import inspect as look
    from interlace.results.inspection.inspected import Inspected

    found = Inspected(look(load_recipe(recipe, set=set, storage=storage)))
    if out is not None:
        found.write(out)
    return found


def prepare(  # noqa: PLR0913 - one parameter a flag
    recipe: Given,
    *,
    set: Changes = None,
    out: Place | None = None,
    address: str | None = None,
    fresh: bool = False,
    dry_run: bool = False,
    listener: Listener | None = None,
) -> PreparedShards | None:
    """Join several sources by key into shards; the same call goes on after a kill.

    Args:
        recipe: settings of the preparation: path, mapping, or `PrepareRecipe`.
        set: as in `load_recipe`.
        out: folder for the shards.
        address: of a Ray cluster; by default one is started.
        fresh: remove what the folder holds, and begin anew.
        dry_run: say what would be joined, then give back None.
        listener: is told of what happens; lines on standard output by default.
    """
    from interlace.data.prepare import make_plan
    from interlace.recipe.given import changes_of, settings_of
    from interlace.recipe.prepare import PrepareRecipe
    from interlace.results.data_jobs import prepare_shards
    from interlace.results.outcomes import PreparedShards

    plan = make_plan(settings_of(recipe, changes_of(set, {"out": out}), PrepareRecipe))
    told = _listener(listener)
    if dry_run:
        told.say("\n".join(f"{side.name}: {plan.num_rows(i):,} rows" for i, side in enumerate(plan.sides)))
        return None
    return PreparedShards(plan=plan, prepared=prepare_shards(plan, address, told, fresh=fresh))


def index(
    recipe: Given,
    *,
    set: Changes = None,
    storage: Place | None = None,
    address: str | None = None,
    listener: Listener | None = None,
) -> Indexed:
    """Measure a recipe's data as a Ray Data job, and keep the manifest in the cache; arguments as in `train`."""
    from interlace.results.data_jobs import index_data
    from interlace.results.outcomes import Indexed

    settings = load_recipe(recipe, set=set, storage=storage)
    return Indexed(name=settings.name, index=index_data(settings, address, _listener(listener)))


def train(  # noqa: PLR0913 - one parameter a flag
    recipe: Given,
    *,
    set: Changes = None,
    run_name: str | None = None,
    storage: Place | None = None,
    tracking_uri: str | None = None,
    address: str | None = None,
    resume: bool = False,
    fresh: bool = False,
    dry_run: bool = False,
    listener: Listener | None = None,
) -> TrainedRun | None:
    """Train a recipe; the same call goes on with a run that was stopped or killed.

    Args:
        recipe: path of a YAML file, its content as a mapping, or a Recipe.
        set: changes, `{"train.epochs": 3}` or `["train.epochs=3"]`.
        storage: folder of runs, caches and the MLflow store.
        tracking_uri: of MLflow.
        run_name: by default the recipe's name and digest.
        address: of a Ray cluster; by default one is started.
        resume: insist on going on with a run that is there.
        fresh: begin anew under the next free name.
        dry_run: say recipe and arithmetic, then give back None.
        listener: is told of what happens; lines on standard output by default.

    Raises:
        InterlaceError, DoesNotFitError, NotReadyError: recipe, data, cluster or folder are not as needed.
    """
    from interlace.results.trained import TrainedRun
    from interlace.results.training import Launch
    from interlace.results.training import train as run

    told = _listener(listener)
    settings = load_recipe(recipe, set=set, storage=storage, tracking_uri=tracking_uri)
    launch = Launch(run_name=run_name, address=address, resume=resume, fresh=fresh, dry_run=dry_run)
    done = run(settings, launch, told)
    return TrainedRun(done.run, told) if done is not None else None


def tune(  # noqa: PLR0913 - one parameter a flag
    recipe: Given,
    *,
    set: Changes = None,
    run_name: str | None = None,
    storage: Place | None = None,
    tracking_uri: str | None = None,
    address: str | None = None,
    trials: int | None = None,
    time_s: float | None = None,
    retrain: bool = False,
    fresh: bool = False,
    dry_run: bool = False,
    listener: Listener | None = None,
) -> Searched | None:
    """Search a recipe's settings; the same call goes on with a search that was stopped or killed.

    Args:
        recipe: path of a YAML file with a section `search`, or its content as a mapping.
        set: changes, `{"search.scheduler": "none"}`.
        run_name: of the search; by default the recipe's name and a digest.
        storage: folder of runs, caches and the MLflow store.
        tracking_uri: of MLflow.
        address: of a Ray cluster; by default one is started.
        trials: in all.
        time_s: seconds after which trials are stopped.
        retrain: train the best recipe at full length afterwards.
        fresh: begin anew under the next free name.
        dry_run: say trials and arithmetic, then give back None.
        listener: is told of what happens; lines on standard output by default.
    """
    from interlace.recipe.given import changes_of, tree_of
    from interlace.results.training import Launch
    from interlace.tune.check import parse_search
    from interlace.tune.searched import Searched
    from interlace.tune.tuning import tune as run

    tree, source = tree_of(recipe)
    own = changes_of(None, {"search.trials": trials, "search.time_s": time_s})
    settings, search = parse_search(tree, [*_changes(set, storage, tracking_uri), *own], source)
    launch = Launch(run_name=run_name, address=address, fresh=fresh, dry_run=dry_run)
    done = run(settings, search, launch, _listener(listener), retrain=retrain)
    return Searched(done) if done is not None else None


def evaluate(
    run: Place,
    split: str = "test",
    *,
    set: Changes = None,
    out: Place | None = None,
    listener: Listener | None = None,
) -> Evaluation:
    """Evaluate a run's model over a split, for all its fields and for every subset of them.

    Args:
        run: a run, its folder, or that of one of its checkpoints.
        split: `train`, `validation` or `test`.
        set: changes of settings that say where data are.
        out: folder for tables and figures; in the run's folder by default.
        listener: as in `train`.
    """
    from pathlib import Path

    from interlace.recipe.given import changes_of
    from interlace.results.evaluation import evaluate_run

    return evaluate_run(Path(run), split, changes_of(set), Path(out) if out else None, _listener(listener))


def predict(  # noqa: PLR0913 - one parameter a flag
    model: Place,
    data: Any,
    output: Place | None = None,
    *,
    keep: Sequence[str] = (),
    part_rows: int = 4096,
    storage: Place | None = None,
    tracking_uri: str | None = None,
    address: str | None = None,
    labels: Mapping[str, str] | Sequence[str] = (),
    fresh: bool = False,
    listener: Listener | None = None,
) -> Any:
    """Predict rows with a trained model.

    Args:
        model: a run or its folder, an exported model, an MLflow run, or `models:/NAME@ALIAS`.
        data: a DataFrame, rows (dicts), or shards: a file, a glob, several of them, or a split of the recipe.
        output: folder for the predictions of shards as Parquet: a Ray Data job, and the same call goes on after a kill.
            Without it, this process predicts.
        keep: columns of shards to copy.
        part_rows: rows of an output file, about.
        storage: folder of runs.
        tracking_uri: of MLflow.
        address: of a Ray cluster; by default one is started.
        labels: of the nodes to run on, a mapping or `name=value`.
        fresh: remove what the output folder holds, and begin anew.
        listener: as in `train`.

    Returns:
        A DataFrame with the predictions and the probability of every class (`task[class]`); with `output`, a
        `PredictedShards`.

    Raises:
        InterlaceError: there is no such model or data.
    """
    from interlace.contract.errors import InterlaceError
    from interlace.results.outcomes import predict_to
    from interlace.results.prediction import PredictLaunch, find_model, predict_here

    place, home = _place(model), _storage(storage)
    if output is None:
        given = {"part_rows": part_rows != 4096, "address": address, "labels": labels, "fresh": fresh}
        if idle := [name for name, value in given.items() if value]:
            raise InterlaceError(f"predict: {', '.join(idle)} is of no effect without `output`")
        return predict_here(find_model(place, home, tracking_uri), data, keep=keep)
    launch = PredictLaunch(
        keep=keep, part_rows=part_rows, storage=home, tracking_uri=tracking_uri, address=address,
        labels=_labels(labels), fresh=fresh,
    )  # fmt: skip
    return predict_to(place, data, output, launch, _listener(listener))


def load_model(model: Place, *, storage: Place | None = None, tracking_uri: str | None = None) -> Predictor:
    """A trained model, on this machine's CPU; its `predict` takes rows and DataFrames.

    Args:
        model: a run or its folder, an exported model, an MLflow run, or `models:/NAME@ALIAS`.
        storage: folder of runs.
        tracking_uri: of MLflow.

    Raises:
        InterlaceError: there is no such model.
    """
    from interlace.results.prediction import find_model
    from interlace.results.predictor import Predictor

    return Predictor.load(find_model(_place(model), _storage(storage), tracking_uri))


def load_run(run: Place, *, storage: Place | None = None, listener: Listener | None = None) -> TrainedRun:
    """A run that was trained before, or is being trained: its folder, or its name in `storage`."""
    from pathlib import Path

    from interlace.results.trained import TrainedRun

    named = _storage(storage) / "runs" / run
    return TrainedRun(run if Path(run).exists() or not named.exists() else named, listener)


def _changes(set: Changes, storage: Place | None, tracking_uri: str | None) -> list[str]:
    from interlace.recipe.given import changes_of

    return changes_of(set, {"storage": storage, "tracking.uri": tracking_uri})


def _listener(given: Listener | None) -> Listener:
    from interlace.results.lines import Lines

    return Lines() if given is None else given


def _place(model: Place) -> str:
    from os import fspath

    return fspath(model)


def _storage(given: Place | None) -> Path:
    from pathlib import Path

    return Path("output" if given is None else given)


def _labels(given: Mapping[str, str] | Sequence[str]) -> Mapping[str, str]:
    from collections.abc import Mapping

    from interlace.recipe.data import read_labels

    return dict(given) if isinstance(given, Mapping) else read_labels(list(given))


class _Verb(ModuleType):
    """A room that has the name of a verb: calling it calls the verb, everything else is the room's."""

    __wrapped__: Callable[..., Any]

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return self.__wrapped__(*arguments, **settings)

    def __reduce__(self) -> tuple[Callable[[str], ModuleType], tuple[str]]:
        return _room, (self.__name__,)  # as pickle tools do with other modules: by its name


def _room(name: str) -> ModuleType:
    return sys.modules[name]


def _make_callable(room: ModuleType, verb: Callable[..., Any]) -> None:
    """Give a room its verb, and the room's name here back to it: whatever imports it sets that name too."""
    room.__class__ = _Verb
    vars(room)["__wrapped__"] = verb
    globals()[verb.__name__] = room


_make_callable(_train_room, train)
_make_callable(_tune_room, tune)


if "ipykernel" in sys.modules:  # Ray and tqdm would ask for widgets of notebooks, which nothing here draws
    import logging
    import warnings

    logging.getLogger("ray.widgets").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="IProgress not found")
