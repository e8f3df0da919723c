"""Results of a trained model: a table over subsets of fields, files for people and programs, the model's card."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor, device

from jobs.console import console
from pipeline.data.reader import Reader
from pipeline.data.sources import usable_rows
from pipeline.evaluate import SubsetResult, evaluate_subsets, field_subsets
from pipeline.figures import confusion_figure
from pipeline.predict import Predictor
from pipeline.tasks import ClassificationTask
from pipeline.tracking import ModelCard
from pipeline.train.run import Prepared

EXAMPLE_ROWS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Results over one split.

    Args:
        split: `test`, `validation` or `train`.
        num_samples: samples read.
        results: one for each subset of fields, all fields first.
        labels: classes of each task, in the order of its states.
        classes: for each classification, what there is to say of each class with all fields given.
    """

    split: str
    num_samples: int
    results: tuple[SubsetResult, ...]
    labels: Mapping[str, list[str]]
    classes: Mapping[str, list[dict[str, Any]]]

    def journal_metrics(self) -> dict[str, float]:
        """`test/task/metric` with all fields, `test_only/field/task/metric` for each alone; files have all subsets."""
        metrics = {f"{self.split}/{k}": v for k, v in self.results[0].metrics.items()}
        for result in self.results[1:]:
            if len(result.fields) == 1:
                metrics |= {f"{self.split}_only/{result.fields[0]}/{k}": v for k, v in result.metrics.items()}
        return metrics

    def write(self, folder: Path) -> None:
        """`fields.csv`, `evaluation.json`; for a classification `classes-TASK.csv`, and its confusion matrix as PNG."""
        folder.mkdir(parents=True, exist_ok=True)
        names = list(self.results[0].metrics)
        with (folder / "fields.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["fields", *names])
            writer.writerows(["+".join(r.fields), *(r.metrics[n] for n in names)] for r in self.results)
        for task, rows in self.classes.items():
            with (folder / f"classes-{task}.csv").open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, fieldnames=list(rows[0]))
                table.writeheader()
                table.writerows(rows)
        whole = {
            "split": self.split,
            "samples": self.num_samples,
            "subsets": [{"fields": list(r.fields), "metrics": r.metrics} for r in self.results],
        }
        (folder / "evaluation.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")
        for task, state in self.results[0].states.items():
            if isinstance(matrix := state.get("confusion"), Tensor):
                path = folder / f"confusion-{task}.png"
                confusion_figure(matrix.numpy(), self.labels[task], f"{task} ({self.split})", path)


def evaluate_model(folder: Path, reader: Reader, split: str) -> Evaluation:
    """Evaluate an exported model over a split, for every subset of its fields."""
    predictor = Predictor.load(folder)
    subsets = field_subsets(list(predictor.recipe.fields))
    results = evaluate_subsets(predictor.network, reader, predictor.recipe, subsets, device("cpu"))
    fitted: dict[str, Any] = json.loads((folder / "fitted.json").read_text(encoding="utf-8"))
    return Evaluation(
        split=split,
        num_samples=reader.manifest.num_rows - len(reader.manifest.bad),
        results=tuple(results),
        classes={
            name: task.by_class(results[0].states[name])
            for name, task in predictor.network.tasks.items()
            if isinstance(task, ClassificationTask)
        },
        labels={n: [str(c) for c in t.get("classes", [])] for n, t in fitted["targets"].items()},
    )


def print_evaluation(evaluation: Evaluation) -> None:
    """The table of subsets."""
    names = list(evaluation.results[0].metrics)
    table = Table(title=f"{evaluation.split}: {evaluation.num_samples} samples, by the fields given to the model")
    table.add_column("fields", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right")
    for result in evaluation.results:
        table.add_row("+".join(result.fields), *(f"{result.metrics[n]:.4f}" for n in names))
    console.print(table)


def model_card(folder: Path, prepared: Prepared) -> ModelCard:
    """What MLflow needs to know of an exported model: columns in and out, and a few rows as example."""
    recipe = prepared.recipe
    manifest = prepared.index.manifests["train"]
    columns = [c for field in recipe.fields.values() for c in field.columns]
    group = usable_rows(manifest.readers()[0].read(manifest.groups[0], columns))
    rows = group.slice(0, EXAMPLE_ROWS).to_pylist()
    predictions = Predictor.load(folder).predict(rows)
    return ModelCard(
        folder=folder,
        inputs={c: _column_type([r[c] for r in group.to_pylist()]) for c in columns},
        outputs={k: _column_type([p[k] for p in predictions], default="string") for k in predictions[0]},
        examples=rows,
    )


def _column_type(values: list[Any], default: Any = "string") -> Any:
    """MLflow's name for the type of a column's values."""
    found = next((v for v in values if v is not None), None)
    for kind, name in ((bool, "boolean"), (int, "long"), (float, "double"), (bytes, "binary")):
        if isinstance(found, kind):
            return name
    return default
