"""A run as Python sees it says what its folder says: metrics, results, figures, predictions of any kind of data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interlace.contract.errors import DataError, InterlaceError
from interlace.results.bulk import plan_bulk, predict_bulk
from interlace.results.trained import TrainedRun
from interlace.tracking import make_target
from interlace.tracking.outbox import Cursor, Outbox
from tests.data import EmojiLike
from tests.page import Page
from tests.runs import trained_here

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def run(shapes: EmojiLike, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    recipe = shapes.recipe(tmp_path_factory.mktemp("storage"), train={"steps": 8, "eval_every": 4})
    return TrainedRun(trained_here(recipe))


@pytest.fixture(scope="module")
def table(shapes: EmojiLike) -> pd.DataFrame:
    return pd.read_parquet(shapes.folder / "validation.parquet")


def test_metrics_are_those_of_the_journal(run: TrainedRun) -> None:
    frame = run.metrics()
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    journaled = {(line["step"], name): float(value) for line in lines for name, value in line["m"].items()}
    shown = {(step, name): value for step, row in frame.iterrows() for name, value in row.dropna().items()}
    assert shown == journaled
    assert frame.index.name == "step"
    assert list(frame.index) == sorted({line["step"] for line in lines})
    assert frame["val/color/accuracy"].dropna().index.tolist() == [4, 8]
    assert len(frame["train/loss"].dropna()) == 8


def test_results_are_those_of_the_evaluation(run: TrainedRun, tmp_path: Path) -> None:
    again = run.evaluate("validation", out=tmp_path)
    pd.testing.assert_frame_equal(again.frame(), run.results(), check_exact=False, rtol=1e-12)
    assert again.frame().loc["image+caption", "color/accuracy"] == again.results[1].metrics["color/accuracy"]
    assert (tmp_path / "fields.csv").exists()
    assert len(run.results()) == 7


def test_a_table_rows_and_shards_give_the_same_predictions(
    run: TrainedRun, shapes: EmojiLike, table: pd.DataFrame
) -> None:
    moved = table.set_axis([f"row {i}" for i in range(len(table))], axis=0)
    of_table, of_rows = run.predict(moved), run.predict(moved.to_dict("records"))
    of_shards = run.predict(shapes.folder / "validation.parquet", keep=["key"])
    assert of_table.index.equals(moved.index)
    assert of_rows.index.tolist() == list(range(48))
    assert of_shards.index.names == ["shard", "row"]
    assert of_shards["key"].tolist() == table["key"].tolist()
    for other in (of_rows, of_shards.drop(columns="key"), run.predict("validation")):
        pd.testing.assert_frame_equal(other.reset_index(drop=True), of_table.reset_index(drop=True), check_exact=True)
    assert of_table["error"].isna().all()
    assert of_table["color"].nunique() > 1
    assert table["caption"].isna().any()


def test_probabilities_of_all_classes_belong_to_the_predictions(run: TrainedRun, table: pd.DataFrame) -> None:
    found = run.predict(table)
    columns = [f"color[{name}]" for name in ("blue", "green", "grey", "red")]
    assert list(found) == ["color", "color_probability", *columns, "error"]
    np.testing.assert_allclose(found[columns].sum(axis=1), 1, rtol=1e-6)
    assert found[columns].idxmax(axis=1).tolist() == [f"color[{name}]" for name in found["color"]]
    assert found[columns].max(axis=1).tolist() == found["color_probability"].tolist()


def test_files_of_predictions_have_the_columns_they_had(run: TrainedRun, tmp_path: Path) -> None:
    predict_bulk(plan_bulk(run.model_folder, ["validation"], tmp_path, part_rows=100))
    written = pd.read_parquet(next(tmp_path.glob("part-*.parquet")))
    assert list(written) == ["shard", "row", "color", "color_probability", "error"]
    assert list(run.model.predict([{"caption": "a red disc"}])[0]) == ["color", "color_probability", "error"]
    assert written["color"].tolist() == run.predict("validation")["color"].tolist()


def test_a_row_that_cannot_be_read_has_an_error_and_no_probabilities(run: TrainedRun) -> None:
    good, bad = {"caption": "a red disc"}, {"caption": "a red disc", "image": b"no picture"}
    found = run.predict([good, bad, good])
    assert found["error"].notna().tolist() == [False, True, False]
    assert found["color[red]"].isna().tolist() == [False, True, False]
    assert "image" in found["error"][1]


def test_columns_that_are_not_there_are_told(run: TrainedRun, table: pd.DataFrame) -> None:
    with pytest.warns(UserWarning, match="predicted without: image, width"):
        found = run.predict(table[["caption", "height", "key"]])
    assert found["error"].notna().any()  # rows that now have nothing
    with pytest.raises(DataError, match=r"expected one of the columns image, caption, width, height.*it has key"):
        run.predict(table[["key"]])
    with pytest.raises(InterlaceError, match="keep: is for shards"):
        run.predict(table, keep=["key"])
    empty = run.predict(table[:0])
    assert list(empty) == list(run.predict(table[:1]))
    assert len(empty) == 0


def test_a_notebook_shows_table_and_curves(run: TrainedRun) -> None:
    page = Page(run._repr_html_())
    assert page.tags["tr"] == 1 + 7
    assert page.tags["img"] == 1
    source = next(a["src"] for tag, a in page.elements if tag == "img")
    assert source.startswith("data:image/png;base64,")
    assert run.history().startswith(PNG)
    best = f"{run.results()['color/accuracy'].iloc[0]:.4f}"
    assert all(
        text in page.text for text in (run.name, "8 steps", "model of the best color/accuracy", "image+size", best)
    )
    assert page.text.index("color/accuracy") < page.text.index("color/loss")
    assert "8 steps" in repr(run)
    shown = Page(run.evaluate("validation")._repr_html_())
    assert shown.tags["tr"] == 8
    assert "48 samples" in shown.text


def test_names_are_text_in_the_page(run: TrainedRun, tmp_path: Path) -> None:
    named = TrainedRun(shutil.copytree(run.folder, tmp_path / "<b>bold & <script>"))
    page = Page(named._repr_html_())
    assert page.tags["script"] == page.tags["b"] == 0
    assert "<b>bold & <script>" in page.text
    assert "<b>bold & <script>" in repr(named)


def test_figures_are_pictures_by_name(run: TrainedRun) -> None:
    figures = run.figures
    assert {"confusion-color"} <= set(figures)
    assert all(picture._repr_png_().startswith(PNG) for picture in figures.values())
    assert Page(figures._repr_html_()).tags["img"] == len(figures)


def test_a_run_that_has_not_ended_predicts_and_has_no_results(shapes: EmojiLike, tmp_path: Path) -> None:
    folder = trained_here(shapes.recipe(tmp_path, train={"steps": 3}), ended=False)
    run = TrainedRun(folder)
    assert run.results().empty
    assert run.predict([{"caption": "a red disc"}])["error"].isna().all()
    assert not (folder / "model").exists()  # `interlace predict` takes that for a run that has ended
    page = Page(run._repr_html_())
    assert (page.tags["table"], page.tags["img"]) == (0, 1)
    size = sum(p.numel() for p in run.model.network.parameters())
    assert repr(run.model) == f"Predictor(shapes: image, caption, size -> color; {size:,} parameters on cpu)"


def test_the_address_in_mlflow_is_that_of_the_store(run: TrainedRun, tmp_path: Path) -> None:
    assert run.mlflow_url is None
    copy = TrainedRun(shutil.copytree(run.folder, tmp_path / "run"))
    for uri, told in (
        ("http://there:5000", "http://there:5000/#/experiments/3/runs/abc"),
        (None, "mlflow ui --backend"),
    ):
        target = make_target(uri=uri, storage=tmp_path, experiment="e", run_name="run", run_key="k")
        outbox = Outbox(copy.folder)
        outbox.open(target)
        outbox.save(Cursor(uri=target.uri, experiment_id="3", run_id="abc"))
        outbox.close()
        assert str(copy.mlflow_url).startswith(told)
        assert str(copy.mlflow_url).endswith("/#/experiments/3/runs/abc")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InterlaceError, match="expected the folder of a run"):
        TrainedRun(tmp_path)
