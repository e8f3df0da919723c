"""What a person gets to see of a run besides numbers: worst errors, worth of fields, lengths, stages."""

import math
from pathlib import Path

import pytest

from interlace.data.read.open import open_reader
from interlace.results.evaluate import SubsetResult, field_subsets
from interlace.results.evaluation import Evaluation
from interlace.results.mistakes import worst_mistakes, write_mistakes
from interlace.results.predictor import Predictor
from interlace.results.run_figures import Stages, draw_contributions, draw_lengths
from interlace.store.journal import Point
from tests.served import Model, make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model(tmp_path_factory.mktemp("model"))


def test_the_worst_errors_are_those_that_the_model_is_most_wrong_about(model: Model, tmp_path: Path) -> None:
    predictor = Predictor.load(model.folder)
    manifest = model.prepared.index.manifests["train"]
    found = worst_mistakes(predictor, manifest)
    assert set(found) == {"color", "size", "text"}
    assert all(len(mistakes) > 5 for mistakes in found.values())
    for mistakes in found.values():
        badness = [m.badness for m in mistakes]
        assert badness == sorted(badness, reverse=True)
    first = found["color"][0]
    said = predictor.predict([first.record])[0]
    assert said["color"] != first.record["color"]
    assert first.badness == pytest.approx(said["color_probability"], abs=1e-4)
    assert first.true == first.record["color"]
    wrong = found["size"][0]
    numbers = predictor.predict([wrong.record])[0]
    assert f"height {wrong.record['height']:.4g}" in wrong.true or f"width {wrong.record['width']:.4g}" in wrong.true
    assert f"{numbers['size_width']:.3g}"[:4] in wrong.said or f"{numbers['size_height']:.3g}"[:4] in wrong.said

    reader = open_reader(model.prepared.index, model.prepared.recipe, "train", training=False)
    write_mistakes(predictor, reader, "train", tmp_path)
    page = (tmp_path / "worst-color.html").read_text()
    assert page.count('class="card"') == min(len(found["color"]), 24)
    assert "data:image/png;base64," in page
    assert "default-src 'none'" in page


def test_figures_of_a_run_are_written(model: Model, tmp_path: Path) -> None:
    predictor = Predictor.load(model.folder)
    metrics = {"color/accuracy": 0.5, "size/mae": 2.0, "pair/recall_10": math.nan, "text/loss": 1.0}
    metrics |= {f"{n}/{task.main_metric}": metrics[next(k for k in metrics if k.startswith(n))]
                for n, task in predictor.network.tasks.items()}  # fmt: skip
    results = tuple(
        SubsetResult(fields=fields, metrics=metrics, states={}, weights={})
        for fields in field_subsets(list(predictor.recipe.fields))
    )
    evaluation = Evaluation(split="train", num_samples=64, results=results, charts={})
    draw_contributions(evaluation, predictor, tmp_path)
    draw_lengths(model.prepared, tmp_path / "tokens.png")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"tokens.png", *(f"contribution-{name}.png" for name in ("color", "size", "text"))}
    assert all(path.stat().st_size > 5000 for path in tmp_path.iterdir())


def test_stages_split_training_by_the_journal(tmp_path: Path) -> None:
    stages = Stages()
    with stages.timed("index and plan"):
        pass
    stages.seconds["train"] = 30.0
    steps = [Point(time_ms=0, step=i, metrics={"step_s": 0.5, "data/wait_s": 0.1}) for i in range(20)]
    others = [Point(time_ms=0, step=20, metrics={"time/evaluate_s": 3.0, "time/checkpoint_s": 1.0, "val/loss": 1.0})]
    stages.split_training(steps + others, log_every=2)
    found = stages.seconds
    assert found["wait for data"] == pytest.approx(4.0)
    assert found["compute steps"] == pytest.approx(16.0)
    assert (found["evaluations"], found["checkpoints"]) == (3.0, 1.0)
    assert found["start and end workers"] == pytest.approx(6.0)
    assert sum(found.values()) == pytest.approx(30.0, abs=0.1)
    assert stages.metrics()["stage/wait_for_data_s"] == pytest.approx(4.0)
    stages.draw(tmp_path / "stages.png")
    assert (tmp_path / "stages.png").stat().st_size > 5000
