"""What `evaluate` and the end of `train` say of a model of several tasks: files, figures, MLflow's card."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from interlace.data.read.open import open_reader
from interlace.jobs.evaluation_table import fitting, print_evaluation
from interlace.recipe.load import parse_recipe
from interlace.results.evaluation import evaluate_model, model_card
from interlace.results.predictor import Predictor, export_model
from interlace.tracking.model import save_pyfunc
from interlace.train.checkpoint import save_checkpoint
from interlace.train.run import Prepared, prepare
from tests.data import EmojiLike
from tests.unit.train.test_loop_and_checkpoint import Here, state

pytestmark = [
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

TASKS: dict[str, Any] = {
    "color": {"task": "classification", "column": "color"},
    "size": {"task": "regression", "columns": ["width", "height"]},
    "pair": {"task": "retrieval", "left": ["image"], "right": ["caption"], "group": "caption", "embedding_dim": 8},
    "fill": {"task": "reconstruction", "fields": ["image", "caption"]},
}


@pytest.fixture(scope="module")
def trained(shapes: EmojiLike, tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Path]:
    """The recipe with its data, and its exported model after a few steps."""
    folder = tmp_path_factory.mktemp("out")
    tree = shapes.tree(folder, model={"fusion": "weighted_sum"})
    recipe = parse_recipe({**tree, "tasks": TASKS})
    here = Here(recipe, num_steps=3)
    assert len(here.run()) == 3
    save_checkpoint(folder / "step", here.loop.network, here.loop.optimizer, state(3))
    prepared = prepare(recipe, map)
    export_model(recipe, prepared.index.fitted, folder / "step", folder / "model")
    return prepared, folder / "model"


def test_every_task_reports_every_subset_of_fields(trained: tuple[Prepared, Path], tmp_path: Path) -> None:
    prepared, model = trained
    reader = open_reader(prepared.index, prepared.recipe, "validation", training=False)
    evaluation = evaluate_model(model, reader, "validation")
    print_evaluation(evaluation)
    evaluation.write(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "fields.csv", "evaluation.json", "classes-color.csv", "confusion-color.png", "scatter-width-size.png",
        "scatter-height-size.png", "ranks-pair.png", "fields-model.png",
    }  # fmt: skip
    whole = json.loads((tmp_path / "evaluation.json").read_text())
    assert "NaN" not in (tmp_path / "evaluation.json").read_text()
    by_fields = {tuple(s["fields"]): s for s in whole["subsets"]}
    assert len(by_fields) == 7
    assert by_fields["image",]["metrics"]["pair/recall_10"] is None
    assert by_fields["image",]["metrics"]["fill/perplexity_caption"] is None
    assert by_fields["image", "caption"]["metrics"]["pair/recall_10"] > 0
    assert set(whole["weights"]) == {"image", "caption", "size"}
    with (tmp_path / "fields.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["fields"] for r in rows] == ["+".join(f) for f in by_fields]
    assert {k.split("/")[0] for k in rows[0]} == {"fields", *TASKS}
    assert not math.isnan(evaluation.journal_metrics()["validation/size/mae_width"])


def test_the_table_shows_first_metrics_of_every_task_and_never_more_than_fit() -> None:
    names = ["group/loss", "group/accuracy", "group/macro_precision", "pair/loss", "pair/recall_1"]
    assert fitting(names, 200) == names
    assert fitting(names, 20) == ["group/loss", "pair/loss"]
    assert fitting(names, 31) == ["group/loss", "group/accuracy", "pair/loss"]
    assert fitting(names, 0) == ["group/loss"]


def test_mlflow_knows_the_type_of_each_tasks_columns(trained: tuple[Prepared, Path], tmp_path: Path) -> None:
    prepared, model = trained
    card = model_card(model, prepared)
    assert dict(card.outputs) == {
        "color": "string", "color_probability": "double", "size_width": "double", "size_height": "double",
        "pair_left": "doubles", "pair_right": "doubles", "fill": "doubles", "error": "string",
    }  # fmt: skip
    save_pyfunc(card, tmp_path / "saved", model_id="m", location="file:///x", run_id="r")
    from mlflow import pyfunc

    loaded = pyfunc.load_model(str(tmp_path / "saved"))
    assert loaded.metadata.get_output_schema().input_names() == list(card.outputs)
    rows = [{"caption": "a red disc"}, {"width": 1.0}]
    direct = Predictor.load(model).predict(rows)
    assert direct[0]["pair_left"] is None
    assert len(direct[0]["pair_right"]) == 8
    assert direct[1]["pair_right"] is None
    assert len(direct[1]["fill"]) == prepared.recipe.model.dim
