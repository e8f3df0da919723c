"""What `evaluate` and the end of `train` say of a model of several tasks: files, figures, MLflow's card."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from jobs.report import evaluate_model, model_card, print_evaluation
from pipeline.data.index import build_index
from pipeline.predict import Predictor, export_model
from pipeline.recipe import Recipe, parse_recipe
from pipeline.tracking.model import save_pyfunc
from pipeline.train.checkpoint import newest_checkpoint
from pipeline.train.run import prepare
from tests.data import EmojiLike
from tests.ray.test_worker import work

pytestmark = pytest.mark.ray

TASKS: dict[str, Any] = {
    "color": {"task": "classification", "column": "color"},
    "size": {"task": "regression", "columns": ["width", "height"]},
    "pair": {"task": "retrieval", "left": ["image"], "right": ["caption"], "group": "caption", "embedding_dim": 8},
    "fill": {"task": "reconstruction", "fields": ["image", "caption"]},
}


@pytest.fixture(scope="module")
def trained(shapes: EmojiLike, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """The recipe and its exported model after a few steps."""
    tree = shapes.tree(
        tmp_path_factory.mktemp("out"), model={"fusion": "weighted_sum"}, train={"steps": 6, "eval_every": 3}
    )
    tree["data"]["window_groups"] = 8
    recipe = parse_recipe({**tree, "tasks": TASKS})
    folder, worker = work(recipe)
    checkpoint = newest_checkpoint(folder).folder
    assert checkpoint is not None
    export_model(recipe, build_index(recipe).fitted, checkpoint, folder / "model")
    points = [json.loads(x)["m"] for x in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {f"train/{n}/loss" for n in TASKS} | {f"train/{n}/weight" for n in TASKS} <= set(points[0])
    assert worker.state.best_value == max(p["val/color/accuracy"] for p in points if "val/color/accuracy" in p)
    return recipe, folder / "model"


def test_every_task_reports_every_subset_of_fields(trained: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, model = trained
    reader = build_index(recipe).reader(recipe, "validation", training=False)
    evaluation = evaluate_model(model, reader, "validation")
    print_evaluation(evaluation)
    evaluation.write(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "fields.csv", "evaluation.json", "classes-color.csv", "confusion-color.png", "scatter-width-size.png",
        "scatter-height-size.png", "ranks-pair.png", "weights.png",
    }  # fmt: skip
    whole = json.loads((tmp_path / "evaluation.json").read_text())
    assert "NaN" not in (tmp_path / "evaluation.json").read_text()
    by_fields = {tuple(s["fields"]): s for s in whole["subsets"]}
    assert len(by_fields) == 7
    assert by_fields["image",]["metrics"]["pair/recall_10"] is None
    assert by_fields["image",]["metrics"]["fill/perplexity_caption"] is None
    assert by_fields["image", "caption"]["metrics"]["pair/recall_10"] > 0
    assert by_fields["image",]["weights"] == pytest.approx({"image": 1.0})
    assert set(by_fields["image", "caption", "size"]["weights"]) == {"image", "caption", "size"}
    with (tmp_path / "fields.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["fields"] for r in rows] == ["+".join(f) for f in by_fields]
    assert {k.split("/")[0] for k in rows[0]} == {"fields", *TASKS}
    assert not math.isnan(evaluation.journal_metrics()["validation/size/mae_width"])


def test_mlflow_knows_the_type_of_each_tasks_columns(trained: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, model = trained
    card = model_card(model, prepare(recipe, map))
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
    assert len(direct[1]["fill"]) == recipe.model.dim
