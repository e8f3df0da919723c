"""Prediction from raw rows with an exported model: the same modalities, packing and network as in training.

    rows -> decode, encode -> packs within the token budget -> network -> one dict a row

An exported model is a folder: `recipe.yaml`, `fitted.json`, `model.safetensors`. Any field may be missing.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch

from interlace.contract.batch import to_batch
from interlace.contract.errors import InterlaceError, RecordError
from interlace.data.index.records import RecordCodec, make_codec
from interlace.data.read.reader import EMPTY, Slot, join, read_slot
from interlace.model.network import Network
from interlace.recipe.identity import to_yaml
from interlace.recipe.load import load_kept
from interlace.recipe.recipe import Recipe
from interlace.tasks.base import ColumnType
from interlace.train.build import network_for
from interlace.train.checkpoint import MODEL, load_weights
from interlace.train.loop import autocast
from interlace.train.tensors import join_parts

if TYPE_CHECKING:
    import pandas as pd

RECIPE, FITTED = "recipe.yaml", "fitted.json"


def export_model(recipe: Recipe, fitted: Mapping[str, Any], checkpoint: Path, folder: Path) -> None:
    """Write the model of a checkpoint as a folder that `Predictor.load` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECIPE).write_text(to_yaml(recipe), encoding="utf-8")
    (folder / FITTED).write_text(json.dumps(fitted, ensure_ascii=False), encoding="utf-8")
    join_parts(checkpoint / MODEL, folder / MODEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """A model ready to predict.

    Args:
        recipe: of the run that trained it.
        network: in evaluation mode, on `device`.
        codec: modalities of the recipe's fields.
        device: where it runs.
    """

    recipe: Recipe
    network: Network
    codec: RecordCodec
    device: torch.device

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Predictor":
        """Read an exported model. Raises InterlaceError if the folder is not one."""
        missing = [n for n in (RECIPE, FITTED, MODEL) if not (folder / n).exists()]
        if missing:
            raise InterlaceError(f"{folder}: expected an exported model, but {', '.join(missing)} is missing")
        recipe = load_kept(folder / RECIPE)
        fitted = json.loads((folder / FITTED).read_text(encoding="utf-8"))
        network = network_for(recipe, fitted)
        load_weights(folder, network)
        codec = make_codec(recipe.reads, fitted)
        return cls(
            recipe=recipe,
            network=network.to(device).eval(),
            codec=RecordCodec(fields=codec.fields, targets={}),
            device=torch.device(device),
        )

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.network.parameters())
        told = f"{', '.join(self.recipe.fields)} -> {', '.join(self.network.tasks)}"
        return f"Predictor({self.recipe.name}: {told}; {size:,} parameters on {self.device})"

    @property
    def columns(self) -> dict[str, ColumnType]:
        """What `predict` gives for each row: the type of every column, in order, the last of them `error`."""
        tasks = self.network.tasks.items()
        said = {_column(name, key): kind for name, task in tasks for key, kind in task.prediction_types.items()}
        return {**said, "error": "string"}

    @overload
    def predict(self, rows: Sequence[Mapping[str, Any]], *, probabilities: bool = False) -> list[dict[str, Any]]: ...

    @overload
    def predict(self, rows: "pd.DataFrame", *, probabilities: bool = False) -> "pd.DataFrame": ...

    def predict(self, rows: Any, *, probabilities: bool = False) -> Any:
        """Predict raw rows.

        Args:
            rows: values by column name, where a column that is absent, None or NaN is missing; or a DataFrame of them,
                whose other columns are not read.
            probabilities: give that of every class too, as `task[class]`.

        Returns:
            For each row the decoded prediction of every task (`task`, `task_probability`, ...) and `error`: None, or
            why the row could not be read (its predictions are then None). Of a DataFrame a DataFrame with its index.

        Raises:
            DataError: the DataFrame has none of the model's columns.
        """
        if isinstance(rows, Sequence):
            return list(self.stream(((_present(row), None) for row in rows), probabilities=probabilities))
        from interlace.results.frames import frame_of, rows_of  # no start of a process that predicts waits for pandas

        said = self.predict(rows_of(rows, self.codec.columns), probabilities=probabilities)
        return frame_of(said, self.names(probabilities=probabilities), rows.index)

    def names(self, *, probabilities: bool = False) -> list[str]:
        """Names of what `predict` gives for each row, in order."""
        *said, error = self.columns
        return [*said, *(self._chances() if probabilities else ()), error]

    def _chances(self) -> list[str]:
        return [_chance(name, label) for name, task in self.network.tasks.items() for label in task.classes]

    def stream(
        self, rows: Iterable[tuple[Mapping[str, Any], str | None]], *, probabilities: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Predict raw rows as they come, holding one pack of them at a time; results as those of `predict`.

        Args:
            rows: each with None, or with the reason why it can't be used.
            probabilities: as in `predict`.
        """
        pack: list[tuple[Slot, str | None]] = []
        tokens = 0
        for row, row_error in rows:
            slot, error = self._read(row) if row_error is None else (EMPTY, row_error)
            size = sum(t.values.shape[0] for t in slot.tokens.values())
            if pack and tokens + size > self.recipe.batch.token_budget:  # a row over the budget goes alone
                yield from self._say(pack, probabilities)
                pack, tokens = [], 0
            pack.append((slot, error))
            tokens += size
        if pack:
            yield from self._say(pack, probabilities)

    def _read(self, row: Mapping[str, Any]) -> tuple[Slot, str | None]:
        try:
            slot = read_slot(row, self.codec, None)
        except RecordError as error:
            return EMPTY, str(error)
        if not slot.tokens:
            columns = ", ".join(self.codec.columns)
            return EMPTY, f"expected a value in at least one of the columns {columns}, but all are missing"
        return slot, None

    def _say(self, read: Sequence[tuple[Slot, str | None]], probabilities: bool) -> Iterator[dict[str, Any]]:
        """The predictions of one pack."""
        slots = [slot for slot, _ in read]
        pack = join(0, 0, np.arange(len(slots)), slots, self.codec)
        tasks = self.network.tasks
        with torch.no_grad(), autocast(self.recipe, self.device):
            outputs = self.network(to_batch(pack, self.device), mask_tokens=False)
            decoded = [task.predict(outputs) for task in tasks.values()]
            found = [task.probabilities(outputs) for task in tasks.values()] if probabilities else []
        chances_SC = [chance_SC.tolist() for chance_SC in found if chance_SC is not None]
        names = self._chances() if probabilities else []
        for i, (parts, (_, error)) in enumerate(zip(zip(*decoded, strict=True), read, strict=True)):
            said = _join_tasks(tuple(tasks), parts)
            said |= zip(names, (chance for rows in chances_SC for chance in rows[i]), strict=True)
            yield {**(said if error is None else dict.fromkeys(said)), "error": error}


def _present(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row without NaN, which is what pandas makes of a missing value of any kind."""
    return {name: value for name, value in row.items() if not (isinstance(value, float) and math.isnan(value))}


def _chance(task: str, label: str | int) -> str:
    """Column of the probability of a class."""
    return f"{task}[{label}]"


def _column(task: str, key: str) -> str:
    """Column `task` is the prediction, `task_key` what goes with it."""
    return f"{task}_{key}" if key else task


def _join_tasks(names: Sequence[str], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Predictions of all tasks for one row."""
    pairs = [(name, key, value) for name, part in zip(names, parts, strict=True) for key, value in part.items()]
    return {_column(name, key): value for name, key, value in pairs}
