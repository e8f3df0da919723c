"""`interlace predict`: a trained model over shards as a Ray Data job, in input order, to Parquet."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from interlace.cluster.connect import connect
from interlace.contract.errors import InterlaceError
from interlace.data.stream import run_data_on, stream_units
from interlace.jobs.console import console, say
from interlace.jobs.silence import spoken
from interlace.recipe.start import MODEL
from interlace.results.bulk import Bulk, Predicted, plan_bulk, predict_bulk
from interlace.tracking import registry_of
from interlace.train.placement import readers

PLAIN_EVERY_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How predictions are made: see the flags of `interlace predict`."""

    keep: Sequence[str] = ()
    part_rows: int = 4096
    storage: Path = Path("output")
    tracking_uri: str | None = None
    address: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    fresh: bool = False


def run_predict(model: str, data: Sequence[str], output: Path, launch: Launch) -> Predicted:
    """Predict every row of the shards; finished parts of an earlier try are kept.

    Raises:
        InterlaceError: there is no such model or data, or the folder holds predictions of something else.
        DoesNotFitError: no node can do the work.
    """
    folder = find_model(model, launch.storage, launch.tracking_uri)
    bulk = plan_bulk(folder, data, output, keep=launch.keep, part_rows=launch.part_rows)
    say(f"model {folder}\n{bulk.num_rows:,} rows of {bulk.num_shards} shards, in {len(bulk.parts)} parts")
    if bulk.absent:
        say(f"columns in no shard, predicted without: {', '.join(bulk.absent)}")
    readers(connect(launch.address), "--label", launch.labels)
    run_data_on(launch.labels)
    with _Shown(bulk) as shown:
        done = predict_bulk(bulk, spoken(stream_units), fresh=launch.fresh, progress=shown.update)
    say(f"{done.num_rows:,} rows in {output}, {done.num_bad:,} of them with an error instead of predictions")
    for reason in done.reasons:
        say(f"  {reason}")
    return done


def find_model(model: str, storage: Path, tracking_uri: str | None) -> Path:
    """The folder of an exported model: given, inside a run folder, or fetched from MLflow. Raises InterlaceError."""
    for place in (Path(model), Path(model) / "model", storage / "runs" / model / "model"):
        if (place / MODEL).exists():
            return place.absolute()
    if Path(model).is_dir():
        raise InterlaceError(f"{model}: expected an exported model or the folder of a run that has ended")
    registry, place_there = registry_of(model, tracking_uri, storage)
    return registry.fetch(place_there, storage.absolute() / "cache" / "models")


class _Shown:
    """Progress: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, bulk: Bulk) -> None:
        self.rows = [part.num_rows for part in bulk.parts]
        self.bar = Progress(
            TextColumn("part"), MofNCompleteColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self.task = self.bar.add_task("starting", total=len(self.rows))
        self.began = self.printed = time.monotonic()
        self.first: int | None = None

    def __enter__(self) -> "_Shown":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, parts: int, rows: int) -> None:
        """So many parts and rows are done, those of an earlier try too."""
        now = time.monotonic()
        self.first = rows if self.first is None else self.first
        rate = (rows - self.first) / max(now - self.began, 1e-9)
        self.bar.update(self.task, completed=parts, description=f"{rows:,} rows, {rate:,.0f} rows/s")
        if not console.is_terminal and (parts == len(self.rows) or now - self.printed >= PLAIN_EVERY_S):
            self.printed = now
            left = f", left {(sum(self.rows) - rows) / rate:.0f} s" if rate else ""
            say(f"part {parts}/{len(self.rows)}  {rows:,} rows  {rate:,.0f} rows/s  {now - self.began:.0f} s{left}")
