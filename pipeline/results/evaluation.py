"""Results of a trained model: a table over subsets of fields, files for people and programs, the model's card."""

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import device

from interlace.contract.charts import Chart
from interlace.contract.errors import InterlaceError
from interlace.contract.sample import Pack
from interlace.data.index.build import build_index
from interlace.data.read.open import open_reader
from interlace.data.read.reader import Reader
from interlace.data.read.share import read_share
from interlace.data.sources import usable_rows
from interlace.data.stream import connected, read_split
from interlace.recipe.identity import packages
from interlace.recipe.load import load_kept
from interlace.results.evaluate import SubsetResult, evaluate_subsets, field_subsets
from interlace.results.figures import bars_figure, write_chart
from interlace.results.inspection.html import plural
from interlace.results.listener import Listener
from interlace.results.notebook import card, numbers
from interlace.results.predictor import Predictor, export_model
from interlace.tracking import ColumnType, ModelCard
from interlace.train.checkpoint import chosen_checkpoint, verify
from interlace.train.run import Prepared

if TYPE_CHECKING:
    import pandas as pd

EXAMPLE_ROWS = 3
METRICS_SHOWN = 4
"""Of each task in a notebook's table."""

Read = Callable[[Reader], Iterable[Pack]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Results over one split.

    Args:
        split: `test`, `validation` or `train`.
        num_samples: samples read.
        results: one for each subset of fields, all fields first.
        charts: figures and tables with all fields given, by file name without its ending.
    """

    split: str
    num_samples: int
    results: tuple[SubsetResult, ...]
    charts: Mapping[str, Chart]

    def journal_metrics(self) -> dict[str, float]:
        """`test/task/metric` with all fields, `test_only/field/task/metric` for each alone; files have all subsets.

        `test_weight/field` is the mean of what the fusion weighs the field with, where it weighs fields.
        """
        metrics = {f"{self.split}/{k}": v for k, v in self.results[0].metrics.items()}
        metrics |= {f"{self.split}_weight/{field}": w.mean for field, w in self.results[0].weights.items()}
        for result in self.results[1:]:
            if len(result.fields) == 1:
                metrics |= {f"{self.split}_only/{result.fields[0]}/{k}": v for k, v in result.metrics.items()}
        return metrics

    def frame(self) -> "pd.DataFrame":
        """The metrics of every subset: index `fields` (joined by `+`), a column a metric, NaN where it has no value."""
        from interlace.results.frames import indexed_frame  # no training waits for pandas

        rows = [{"fields": "+".join(r.fields), **r.metrics} for r in self.results]
        return indexed_frame(rows, ["fields"], list(self.results[0].metrics)).astype(float)

    def _repr_html_(self) -> str:
        note = f"{self.num_samples:,} samples, by the fields given to the model"
        return card(f"Evaluation over {self.split}", note, results_table(self.frame()))

    def __repr__(self) -> str:
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in self.results[0].metrics.items())
        return f"Evaluation({self.split}, {self.num_samples} samples: {metrics})"

    def write(self, folder: Path) -> None:
        """`fields.csv`, `evaluation.json`, what each task shows as PNG or CSV, and the weights of the fusion.

        A metric that has no value (a task without targets, or given none of its fields) is empty, null in JSON.
        """
        folder.mkdir(parents=True, exist_ok=True)
        names = list(self.results[0].metrics)
        with (folder / "fields.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["fields", *names])
            writer.writerows(["+".join(r.fields), *_known(r.metrics).values()] for r in self.results)
        whole: dict[str, Any] = {
            "split": self.split,
            "samples": self.num_samples,
            "subsets": [{"fields": list(r.fields), "metrics": _known(r.metrics)} for r in self.results],
        }
        if weights := self.results[0].weights:
            whole["weights"] = {field: {"mean": w.mean, "std": w.std} for field, w in weights.items()}
            bars = {field: (w.mean, w.std) for field, w in weights.items()}
            title = f"what the fusion weighs each field with ({self.split})"
            bars_figure(bars, title, "mean over samples, and standard deviation", folder / "fields-model.png")
        (folder / "evaluation.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")
        for name, chart in self.charts.items():
            write_chart(chart, f"{name} ({self.split})", folder / name)


def results_table(frame: "pd.DataFrame", first: Sequence[str] = ()) -> str:
    """HTML of the results by fields: all, each left out, each alone, of each task the first few metrics.

    Args:
        frame: of `Evaluation.frame`, all fields first.
        first: metrics that come before the others.
    """
    rows = {str(name): {str(k): float(v) for k, v in row.items()} for name, row in frame.iterrows()}
    whole = next(iter(rows))
    most = whole.count("+") + 1
    shown = {name: row for name, row in rows.items() if name.count("+") + 1 in (1, most - 1, most)}
    kept: list[str] = []
    for name in (*first, *(name for name in map(str, frame.columns) if name not in first)):
        task = name.partition("/")[0]
        kept += [name] if sum(k.partition("/")[0] == task for k in kept) < METRICS_SHOWN else []
    left = [(len(rows) - len(shown), "subset"), (len(frame.columns) - len(kept), "metric")]
    more = " and ".join(plural(count, noun) for count, noun in left if count)
    return numbers(shown, kept, [whole]) + (f"<p>and {more} more</p>" if more else "")


def _known(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """The metrics with None for those that have no value."""
    return {name: None if math.isnan(value) else value for name, value in metrics.items()}


def evaluate_model(folder: Path, reader: Reader, split: str, read: Read = read_share) -> Evaluation:
    """Evaluate an exported model over a split, for every subset of its fields.

    Args:
        folder: the exported model.
        reader: of the split.
        split: its name.
        read: gives the packs of one pass over the split, in order.
    """
    predictor = Predictor.load(folder)
    subsets = field_subsets(list(predictor.recipe.fields))
    results = evaluate_subsets(predictor.network, read(reader), predictor.recipe, subsets, device("cpu"))
    shown = {
        f"{kind}-{name}": chart
        for name, state in results[0].states.items()
        for kind, chart in predictor.network.tasks[name].charts(state).items()
    }
    return Evaluation(
        split=split,
        num_samples=reader.manifest.num_usable,
        results=tuple(results),
        charts=shown,
    )


def evaluate_run(place: Path, split: str, overrides: Sequence[str], out: Path | None, listener: Listener) -> Evaluation:
    """Evaluate the chosen checkpoint of a run folder, or one given checkpoint folder, and write what comes of it.

    Args:
        place: the folder.
        split: of the run's recipe.
        overrides: `dotted.path=value` of settings that say where data are.
        out: folder for tables and figures; in the run folder where not given.
        listener: is told of what happens.

    Raises:
        InterlaceError: the folder is neither, the checkpoint is damaged, or the recipe has no such split.
    """
    is_checkpoint = (place / "hashes.json").exists()
    run = place.parent.parent if is_checkpoint else place
    if not (run / "recipe.yaml").exists():
        raise InterlaceError(f"{place}: expected the folder of a run or of a checkpoint, but it is neither")
    recipe = load_kept(run / "recipe.yaml", overrides)
    checkpoint, warning = (place, None) if is_checkpoint else chosen_checkpoint(run, recipe.train.model_from)
    if warning is not None:
        listener.say(warning)
    verify(checkpoint)
    fitted = json.loads((run / "fitted.json").read_text(encoding="utf-8"))
    index = build_index(recipe)
    if split not in index.manifests:
        raise InterlaceError(f"expected a split of the recipe ({', '.join(index.manifests)}), but is {split!r}")
    reader = open_reader(replace(index, fitted=fitted), recipe, split, training=False)
    out = out or run / "evaluation" / f"{checkpoint.name}-{split}"
    export_model(recipe, fitted, checkpoint, out / "model")
    read = listener.data_job(read_split) if connected() else read_share
    evaluation = evaluate_model(out / "model", reader, split, read)
    listener.show(evaluation)
    evaluation.write(out)
    return evaluation


def model_card(folder: Path, prepared: Prepared, metrics: str = "") -> ModelCard:
    """What MLflow needs to know of an exported model: columns in and out, and a few rows as example.

    Args:
        folder: the exported model.
        prepared: the run's recipe and data.
        metrics: prefix of the journal's metrics that were measured of this very model.
    """
    recipe = prepared.recipe
    manifest = prepared.index.manifests["train"]
    columns = list(dict.fromkeys(c for field in recipe.fields.values() for c in field.columns))
    group = usable_rows(manifest.readers()[0].read(manifest.group(0), columns))
    return ModelCard(
        folder=folder,
        inputs={c: _column_type(str(group.schema.field(c).type)) for c in columns},
        outputs=Predictor.load(folder).columns,
        examples=group.slice(0, EXAMPLE_ROWS).to_pylist(),
        metrics=metrics,
        packages=packages(recipe),
    )


_TYPES: Mapping[str, ColumnType] = {
    "binary": "binary", "large_binary": "binary", "string": "string", "large_string": "string", "bool": "boolean",
    "int": "long", "uint": "long", "half_float": "double", "float": "double", "double": "double",
}  # fmt: skip


def _column_type(arrow: str) -> ColumnType:
    """MLflow's name for an Arrow type as text; `any` for what JSON has no type for, and for columns without a value."""
    return "doubles" if "list" in arrow else _TYPES.get(arrow.rstrip("0123456789"), "any")
