"""What calls on data give back: tables with the counts of the data, pages in frames, lines on standard output."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from interlace.cluster.preflight import Allotment
from interlace.data.index.build import build_index
from interlace.data.prepare import make_plan, prepare
from interlace.recipe.load import parse_recipe, parse_tree
from interlace.recipe.prepare import PrepareRecipe
from interlace.results.bulk import plan_bulk, predict_bulk
from interlace.results.figures import history_png
from interlace.results.inspection.inspect import inspect
from interlace.results.inspection.inspected import Inspected
from interlace.results.lines import Lines
from interlace.results.notebook import card, framed
from interlace.results.outcomes import Indexed, PredictedShards, PreparedShards
from interlace.store.journal import Journal, journal_path
from tests.data import EmojiLike
from tests.joined import KEYS, write_parquet
from tests.page import Page
from tests.served import make_model, write


def test_an_index_is_a_table_of_counts(shapes: EmojiLike, tmp_path: Path) -> None:
    found = Indexed(name="shapes", index=build_index(shapes.recipe(tmp_path)))
    counts = found.counts()
    rows = pd.concat(pd.read_parquet(p) for p in sorted(shapes.folder.glob("train-*.parquet")))
    assert counts.index.tolist() == ["train", "validation"]
    assert counts["records"].tolist() == [240, 48]
    assert counts["row groups"].tolist() == [12, 2]
    assert counts.loc["train", "caption missing"] == pytest.approx(rows["caption"].isna().mean())
    assert found.bad() == []
    assert Page(found._repr_html_()).tags["tr"] == 3
    assert "train 240 records" in repr(found)


def test_prepared_shards_are_a_section_of_a_recipe(shapes: EmojiLike, tmp_path: Path) -> None:
    write_parquet(tmp_path / "sources", rows=400, group_rows=50)
    sources = {n: {"paths": [f"{tmp_path}/sources/{n}-*.parquet"], "key": key} for n, key in KEYS.items()}
    tree = {"name": "joined", "out": str(tmp_path / "out"), "sources": sources}
    plan = make_plan(parse_tree(tree, (), "tree", PrepareRecipe))
    found = PreparedShards(plan=plan, prepared=prepare(plan, map))
    data = found.data
    assert set(data) == {"root", "train", "validation", "test"}
    parsed = parse_recipe({**shapes.tree(tmp_path), "data": data})
    shards = [p for (path,) in (parsed.data.splits()[s][0].paths for s in found.splits().index) for p in
              Path(data["root"]).glob(path)]  # fmt: skip
    table = pd.concat(pd.read_parquet(shard) for shard in shards)
    assert found.splits()["rows"].sum() == len(table) > 350
    assert (found.splits()["without captions"] > 0).all()
    assert found.folder == tmp_path / "out"
    assert Page(found._repr_html_()).tags["tr"] == 4
    assert "0 quarantined" in repr(found)


def test_predicted_shards_are_read_as_one_table(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    rows = [dict(row) for row in model.rows]
    rows[3] |= {"sound": b"fLaC broken & <b>"}
    write(tmp_path / "shard.parquet", rows, group_rows=5)
    bulk = plan_bulk(model.folder, [str(tmp_path / "shard.parquet")], tmp_path / "out", part_rows=10)
    found = PredictedShards(folder=tmp_path / "out", predicted=predict_bulk(bulk))
    table = found.frame()
    assert [row for _, row in table.index] == list(range(50))
    assert table["error"].notna().tolist() == [i == 3 for i in range(50)]
    page = Page(found._repr_html_())
    assert "1 with an error" in page.text
    assert page.tags["b"] == 0


def test_a_page_stands_in_a_frame_and_is_written(shapes: EmojiLike, tmp_path: Path) -> None:
    found = Inspected(inspect(shapes.recipe(tmp_path)))
    ((tag, attributes),) = Page(found._repr_html_()).elements
    assert tag == "iframe"
    assert attributes["srcdoc"] == found.page
    assert found.write(tmp_path / "new" / "page.html").read_text(encoding="utf-8") == found.page
    assert "train 240 rows" in repr(found)


def test_text_of_a_card_and_a_page_of_a_frame_stay_inside() -> None:
    shown = Page(card("<i>", "a & <script>", "<table></table>"))
    assert shown.tags["i"] == shown.tags["script"] == 0
    assert shown.tags["table"] == 1
    page = '<p class="x">"quoted" & \'single\'</p></iframe><script>1</script>'
    ((_, attributes),) = Page(framed(page)).elements
    assert attributes["srcdoc"] == page
    assert attributes["sandbox"] == ""


@pytest.mark.parametrize("points", [1, 5, 400])
def test_curves_are_drawn_however_many_points(points: int) -> None:
    steps = np.arange(points)
    line = steps, np.exp(-steps / 50)
    both = history_png({"train/loss": line}, {"val/a/accuracy": line})
    one = history_png({"train/loss": line}, {})
    pixels = [np.asarray(Image.open(io.BytesIO(png)).convert("L")) for png in (both, one, history_png({}, {}))]
    assert pixels[0].shape[1] == 2 * pixels[1].shape[1]
    assert pixels[0].std() > pixels[2].std() > 0


def test_lines_tell_how_far_a_run_is(tmp_path: Path) -> None:
    told: list[str] = []
    lines = Lines(told.append)
    journal = Journal(journal_path(tmp_path))
    journal.log(1, {"train/loss": 9.0})
    with lines.training(tmp_path, 8, Allotment(cpus_per_worker=1.0, adjusted=False, text="", data_cpus=1.0)):
        for step in (2, 3):
            journal.log(step, {"train/loss": 1.0 / step})
        journal.log(3, {"val/color/accuracy": 0.5})
    journal.close()
    assert told == ["step 3/8  loss 0.333  val/color/accuracy 0.500\n"]


def test_lines_go_to_standard_output_and_preparing_is_told_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.say("[bold]as it is[/]")
    for done in range(101):
        lines.preparing("scatter", done, 100)
    with lines.predicting([3, 4]) as progress:
        for parts, rows in ((0, 0), (1, 3), (2, 7)):
            progress(parts, rows)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "[bold]as it is[/]"
    assert told[1] == "scatter: 0 of 100 units"
    assert told[-2:] == ["scatter: 100 of 100 units", "part 2/2  7 rows"]
    assert len(told) <= 6
