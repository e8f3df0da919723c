"""Predictions over shards with a trained model, wherever the model lies: a Ray Data job, in input order, to Parquet."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlace.cluster.connect import connect
from interlace.contract.errors import InterlaceError
from interlace.data.stream import run_data_on, stream_units
from interlace.recipe.start import MODEL
from interlace.results.bulk import ROW, SHARD, Predicted, plan_bulk, predict_bulk
from interlace.results.listener import Listener
from interlace.results.predictor import Predictor
from interlace.store.places import models_of, runs_of
from interlace.tracking import registry_of
from interlace.train.placement import readers

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictLaunch:
    """How predictions are made: see the flags of `interlace predict`."""

    keep: Sequence[str] = ()
    part_rows: int = 4096
    storage: Path = Path("output")
    tracking_uri: str | None = None
    address: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    fresh: bool = False


def predict_shards(
    model: str, data: Sequence[str], output: Path, launch: PredictLaunch, listener: Listener
) -> Predicted:
    """Predict every row of the shards; finished parts of an earlier try are kept.

    Raises:
        InterlaceError: there is no such model or data, or the folder holds predictions of something else.
        DoesNotFitError: no node can do the work.
    """
    folder = find_model(model, launch.storage, launch.tracking_uri)
    bulk = plan_bulk(folder, data, output, keep=launch.keep, part_rows=launch.part_rows)
    listener.say(f"model {folder}\n{bulk.num_rows:,} rows of {bulk.num_shards} shards, in {len(bulk.parts)} parts")
    if bulk.absent:
        listener.say(f"columns in no shard, predicted without: {', '.join(bulk.absent)}")
    readers(connect(launch.address), "--label", launch.labels)
    run_data_on(launch.labels)
    with listener.predicting([part.num_rows for part in bulk.parts]) as progress:
        done = predict_bulk(bulk, listener.data_job(stream_units), fresh=launch.fresh, progress=progress)
    listener.say(f"{done.num_rows:,} rows in {output}, {done.num_bad:,} of them with an error instead of predictions")
    for reason in done.reasons:
        listener.say(f"  {reason}")
    return done


def predict_here(
    model: Path, data: Any, *, keep: Sequence[str] = (), predictor: Predictor | None = None
) -> "pd.DataFrame":
    """Predict in this process: a table with the predictions, the probability of every class, and `error`.

    Args:
        model: folder of an exported model.
        data: a DataFrame or rows (dicts) of raw values; or shards: a file, a glob, several of them, or a split of the
            model's recipe.
        keep: columns of shards to copy to the table.
        predictor: of the model, where it is loaded already.

    Returns:
        One row a row of the data, in order. Its index is that of a DataFrame; `shard` and `row` of shards.

    Raises:
        InterlaceError: there are no such data, or none of the model's columns in them.
    """
    from interlace.results.frames import frame_of, indexed_frame  # no job of whole shards waits for pandas

    predictor = predictor or Predictor.load(model)
    names = predictor.names(probabilities=True)
    if isinstance(data, str | PathLike):
        data = [data]
    if not isinstance(data, Sequence):
        _nothing_kept(keep)
        said: pd.DataFrame = predictor.predict(data, probabilities=True)
        return said
    if any(isinstance(part, str | PathLike) for part in data):
        bulk = plan_bulk(model, [fspath(part) for part in data], model, keep=keep, part_rows=PredictLaunch().part_rows)
        if bulk.absent:
            warnings.warn(f"columns in no shard, predicted without: {', '.join(bulk.absent)}", stacklevel=3)
        return indexed_frame(bulk.predicted(predictor, probabilities=True), (SHARD, ROW), [*keep, *names])
    _nothing_kept(keep)
    return frame_of(predictor.predict(data, probabilities=True), names)


def _nothing_kept(keep: Sequence[str]) -> None:
    if keep:
        raise InterlaceError("keep: is for shards; a table or rows keep their order, so their columns fit beside")


def find_model(model: str, storage: Path, tracking_uri: str | None) -> Path:
    """The folder of an exported model: given, inside a run folder, or fetched from MLflow. Raises InterlaceError."""
    for place in (Path(model), Path(model) / "model", runs_of(storage) / model / "model"):
        if (place / MODEL).exists():
            return place.absolute()
    if Path(model).is_dir():
        raise InterlaceError(f"{model}: expected an exported model or the folder of a run that has ended")
    registry, place_there = registry_of(model, tracking_uri, storage)
    return registry.fetch(place_there, models_of(storage))
