"""A small model of texts, pictures, sounds and numbers, exported, and logged to MLflow by runs of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from interlace.results.evaluation import model_card
from interlace.results.predictor import export_model
from interlace.store.journal import Journal, journal_path
from interlace.tracking import Tracker, make_target
from interlace.train.build import network_for
from interlace.train.checkpoint import RunState, save_checkpoint
from interlace.train.optim import make_optimizer
from interlace.train.run import Prepared, prepare
from tests.bedside import encode
from tests.data import SCHEMA, make_rows

LONG_S = 900.0
"""Time given to ship to a local file or server; used up only if something is broken."""

TASKS: dict[str, Any] = {
    "color": {"task": "classification", "column": "color"},
    "size": {"task": "regression", "columns": ["width", "height"]},
    "pair": {"task": "retrieval", "left": ["image"], "right": ["caption"], "embedding_dim": 8},
    "text": {"task": "generation", "column": "caption", "layers": 1, "tokenizer": "characters"},
}
FIELDS: dict[str, Any] = {
    "image": {"modality": "image", "column": "image", "max_size": 16, "patch": 8},
    "caption": {"modality": "text", "column": "caption"},
    "sound": {"modality": "audio", "column": "sound", "rate_hz": 8000, "num_mels": 20},
    "box": {"modality": "table", "numbers": ["width", "height"]},
    "year": {"modality": "table", "categories": ["year"]},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The exported model, its recipe and data, and rows that it was not trained on."""

    folder: Path
    prepared: Prepared
    rows: list[dict[str, Any]]


def sounding_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows as those of `tests.data`, with a sound and an integer category; each is missing in some rows."""
    rng = np.random.default_rng(seed)
    rows = make_rows(count, seed)
    for i, row in enumerate(rows):
        row["sound"] = None if i % 4 == 3 else encode(rng.uniform(-0.5, 0.5, int(rng.integers(800, 4000))))
        row["year"] = None if i % 5 == 2 else 1990 + i % 3
    return rows


SOUNDING = SCHEMA.append(pa.field("sound", pa.binary())).append(pa.field("year", pa.int64()))


def write(path: Path, rows: list[dict[str, Any]], group_rows: int = 16) -> None:
    """Write rows as a Parquet shard."""
    pq.write_table(pa.Table.from_pylist(rows, schema=SOUNDING), path, row_group_size=group_rows)


def make_model(folder: Path, tasks: dict[str, Any] | None = None, table: pa.Table | None = None) -> Model:
    """Index 64 rows and export a network with weights as drawn: what it says differs from row to row all the same.

    Args:
        folder: for data and model.
        tasks: of the model; `TASKS` where not given.
        table: to train on; 64 of `sounding_rows` where not given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if table is None:
        write(folder / "train.parquet", sounding_rows(64, seed=1))
    else:
        pq.write_table(table, folder / "train.parquet", row_group_size=16)
    recipe = model_recipe(folder, tasks)
    prepared = prepare(recipe, map)
    torch.manual_seed(0)
    network = network_for(recipe, prepared.index.fitted)
    state = RunState(
        step=1, best_step=-1, best_value=float("nan"), evaluations_since_best=0, finished=True, recipe_digest="r",
        data_digest="d",
    )  # fmt: skip
    save_checkpoint(folder / "step", network, make_optimizer(recipe.optim, network), state)
    export_model(recipe, prepared.index.fitted, folder / "step", folder / "model")
    return Model(folder=folder / "model", prepared=prepared, rows=sounding_rows(50, seed=2))


def model_recipe(folder: Path, tasks: dict[str, Any] | None = None) -> Recipe:
    """A recipe over `train.parquet` in a folder."""
    return parse_recipe(
        {
            "name": "sounding",
            "storage": str(folder / "out"),
            "data": {"root": str(folder), "train": {"paths": ["train.parquet"]}},
            "fields": FIELDS,
            "tasks": tasks or TASKS,
            "model": {"dim": 32, "head_dim": 16, "field_layers": 1, "joint_layers": 1, "dropout": 0.0},
            "batch": {"token_budget": 512},
            "train": {"steps": 1, "precision": "fp32"},
        }
    )


def log_run(model: Model, storage: Path, name: str, metrics: dict[str, float], uri: str | None = None) -> Path:
    """Log the model as a finished run of its own with these metrics; the run folder."""
    folder = storage / "runs" / name
    target = make_target(uri=uri, storage=storage, experiment="served", run_name=name, run_key=name)
    tracker = Tracker(folder, target)
    tracker.params({"name": "sounding"})
    tracker.tags({"recipe_digest": "abc", "data_digest": "def"})
    journal = Journal(journal_path(folder))
    journal.log(1, {"train/loss": 3.0, **metrics})
    journal.close()
    tracker.model(model_card(model.folder, model.prepared, metrics="test/"))
    tracker.status("FINISHED")
    report = tracker.close(LONG_S)
    assert report.shipped, report
    assert not report.rejected, report
    return folder
