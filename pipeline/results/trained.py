"""A run as Python and notebooks see it: all of it is read from the run's folder, whoever trained it and wherever.

run folder -> metrics (table), results by fields, figures, where MLflow shows it, the model, predictions, evaluations
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from interlace.contract.errors import InterlaceError
from interlace.recipe.given import Changes, changes_of
from interlace.recipe.load import load_kept
from interlace.recipe.recipe import Recipe
from interlace.results.evaluation import Evaluation, evaluate_run, results_table
from interlace.results.figures import Line, history_png
from interlace.results.frames import metrics_frame, results_frame
from interlace.results.lines import Lines
from interlace.results.listener import Listener
from interlace.results.notebook import Picture, Pictures, card, image
from interlace.results.prediction import predict_here
from interlace.results.predictor import Predictor, export_model
from interlace.tracking import opened_with
from interlace.train.checkpoint import MODEL, chosen_checkpoint, newest_checkpoint

if TYPE_CHECKING:
    import pandas as pd


@final
class TrainedRun:
    """A run that was trained or is being trained; wherever a path of a run folder is wanted, it is one itself.

    Args:
        folder: of the run.
        listener: is told of what its calls do.

    Raises:
        InterlaceError: the folder is none of a run.
    """

    def __init__(self, folder: str | PathLike[str], listener: Listener | None = None) -> None:
        self.folder = Path(folder).absolute()
        self._listener = listener or Lines()
        if not (self.folder / "recipe.yaml").exists():
            raise InterlaceError(f"{self.folder}: expected the folder of a run, but it has no recipe.yaml")

    def __fspath__(self) -> str:
        return fspath(self.folder)

    @property
    def name(self) -> str:
        """Of the run."""
        return self.folder.name

    @cached_property
    def recipe(self) -> Recipe:
        """That it was trained with, defaults included."""
        return load_kept(self.folder / "recipe.yaml")

    @property
    def num_steps(self) -> int:
        """Steps that it is done with."""
        state = newest_checkpoint(self.folder).state
        return state.step if state is not None else 0

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that its model is made of. Raises CheckpointError where there is none yet."""
        return chosen_checkpoint(self.folder, self.recipe.train.model_from)[0]

    def metrics(self) -> "pd.DataFrame":
        """Everything journaled: index `step`, a column a metric (`train/loss`, `val/task/metric`), NaN between."""
        return metrics_frame(self.folder)

    def results(self) -> "pd.DataFrame":
        """The evaluation at its end: index `fields` (those given to the model), a column a metric; empty before it."""
        path = self.folder / "evaluation" / "fields.csv"
        return results_frame(path) if path.exists() else self.metrics().iloc[:0, :0].rename_axis("fields")

    def evaluate(
        self, split: str = "test", *, set: Changes = None, out: str | PathLike[str] | None = None
    ) -> Evaluation:
        """Evaluate its model over a split, for every subset of fields; arguments as of `interlace evaluate`."""
        return evaluate_run(self.folder, split, changes_of(set), Path(out) if out else None, self._listener)

    def predict(self, data: Any, *, keep: Sequence[str] = ()) -> "pd.DataFrame":
        """Predict a DataFrame, rows or shards in this process; see `results.prediction.predict_here`."""
        return predict_here(self.model_folder, data, keep=keep, predictor=self.model)

    @cached_property
    def model_folder(self) -> Path:
        """The exported model; of a run that has not ended, one of its chosen checkpoint so far is exported first."""
        folder = self.folder / "model"
        if not (folder / MODEL).exists():
            fitted = json.loads((self.folder / "fitted.json").read_text(encoding="utf-8"))
            folder = self.folder / "evaluation" / self.checkpoint.name / "model"
            export_model(self.recipe, fitted, self.checkpoint, folder)
        return folder

    @cached_property
    def model(self) -> Predictor:
        """Its model, on this machine's CPU."""
        return Predictor.load(self.model_folder)

    @property
    def figures(self) -> Pictures:
        """Every figure of its evaluations by name, as PNG."""
        top = self.folder / "evaluation"
        found = sorted(top.rglob("*.png"), key=lambda path: (len(path.parts), path))
        return Pictures({path.relative_to(top).with_suffix("").as_posix(): Picture(path=path) for path in found})

    @property
    def mlflow_url(self) -> str | None:
        """The address of the run in MLflow, or the command that shows it without a server; None if untracked."""
        return opened_with(self.folder)

    def _best_by(self) -> list[str]:
        """`task/metric` of each task's main metric; none before there is a model."""
        if newest_checkpoint(self.folder).folder is None:
            return []
        return [f"{name}/{task.main_metric}" for name, task in self.model.network.tasks.items()]

    def history(self) -> bytes:
        """The curves of losses, and of each task's main metric on the validation split, as PNG."""
        frame = self.metrics()
        columns: Mapping[str, Line] = {
            str(name): (values.index.to_numpy(), values.to_numpy())
            for name, values in ((name, frame[name].dropna()) for name in frame)
        }
        losses = {n: line for n, line in columns.items() if n == "train/loss" or _is_loss(n)}
        main = {f"val/{name}": columns.get(f"val/{name}") for name in self._best_by()}
        return history_png(losses, {n: line for n, line in main.items() if line is not None and not _is_loss(n)})

    def __repr__(self) -> str:
        return f"TrainedRun({self.name!r}, {self.num_steps} steps, {self.folder})"

    def _repr_html_(self) -> str:
        best, results = self._best_by(), self.results()
        last = self.recipe.train.model_from == "last"
        chosen = f", model of {'the last step' if last else f'the best {best[0]}'}" if best else ""
        note = f"{self.num_steps:,} steps{chosen}; {self.folder}"
        table = results_table(results, best) if len(results) else ""
        return card(self.name, note, table + image(self.history(), "losses and main metric"))


def _is_loss(name: str) -> bool:
    return name.startswith("val/") and name.endswith("/loss")
