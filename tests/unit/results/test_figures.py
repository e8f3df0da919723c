"""Laws of what tasks show: every chart becomes a file, tables hold their rows."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from interlace.contract.charts import Chart, Confusion, Curves, Density, Table
from interlace.results.figures import bars_figure, write_chart
from tests.networks import draw_batch
from tests.tasked import network_of, numbers, task_of, with_targets

CHARTS: dict[str, Chart] = {
    "confusion": Confusion(counts=np.array([[3, 1], [0, 0]]), labels=("cat", "dog")),
    "scatter": Density(counts=np.eye(6, dtype=np.int64), low=-1.0, high=4.0, unit="kg"),
    "ranks": Curves(xs=np.array([1.0, 2, 9]), lines={"chance": np.array([0.1, 0.2, 1])}, x_label="x", y_label="y"),
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_figure_is_drawn(name: str, tmp_path: Path) -> None:
    write_chart(CHARTS[name], "title", tmp_path / name)
    with Image.open(tmp_path / f"{name}.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) > 200
    assert pixels.std() > 5
    assert [p.name for p in tmp_path.iterdir()] == [f"{name}.png"]


def test_bars_are_drawn(tmp_path: Path) -> None:
    bars_figure({"photo": (0.7, 0.1), "text": (0.3, 0.0)}, "title", "share", tmp_path / "bars.png")
    assert (tmp_path / "bars.png").stat().st_size > 1000


def test_a_table_is_written_as_it_is(tmp_path: Path) -> None:
    write_chart(Table(columns=("class", "f1"), rows=[("a, b", 0.5), ("ü", 1.0)]), "title", tmp_path / "classes")
    with (tmp_path / "classes.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["class", "f1"], ["a, b", "0.5"], ["ü", "1.0"]]


def test_what_tasks_show_can_be_written(tmp_path: Path) -> None:
    """Also of a sum that saw no target: then there is nothing."""
    tasks = {
        "number": task_of("regression", "number", columns=("a", "b")),
        "pair": task_of("retrieval", "pair", left=("photo",), right=("values",)),
    }
    network = network_of(tasks)
    batch = with_targets(draw_batch(0, missing=0.0), number=numbers([[0.0, 1.0]] * 7))
    shown = {n: t.charts(t.state(network(batch), batch)) for n, t in tasks.items()}
    assert {n: set(s) for n, s in shown.items()} == {"number": {"scatter-a", "scatter-b"}, "pair": {"ranks"}}
    for name, charts in shown.items():
        for kind, chart in charts.items():
            write_chart(chart, name, tmp_path / f"{kind}-{name}")
    assert len(list(tmp_path.iterdir())) == 3
    nothing = with_targets(batch.only(frozenset()), number=numbers([None] * 7))
    assert all(not t.charts(t.state(network(nothing), nothing)) for t in tasks.values())
