"""The script of the Python face runs from its first cell to its last, also as a notebook that shows what it gave."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.notebooks import cells_of, executed, html_of
from tests.page import Page

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).with_name("from_python.py")
SHOWN = """
import json, runpy, sys
found = runpy.run_path(sys.argv[1])
run, search, predictions = found["run"], found["search"], found["predictions"]
json.dump({
    "repr": [repr(found[name]) for name in ("page", "run", "search", "evaluation", "written", "prepared", "model")],
    "steps": [int(step) for step in found["metrics"].index],
    "accuracy": float(found["accuracy"]),
    "evaluated": float(run.results()["group/accuracy"].iloc[0]),
    "sums": [float(x) for x in predictions.filter(like="group[").sum(axis=1)],
    "statuses": search.trials()["status"].tolist(),
    "best": found["best"],
    "data": found["prepared"].data,
}, open(sys.argv[2], "w"))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_call_of_the_script_gives_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLACE_EXAMPLE", str(tmp_path))
    out = tmp_path / "found.json"
    done = subprocess.run(
        [sys.executable, "-c", SHOWN, str(SCRIPT), str(out)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    kinds = ["Inspected", "TrainedRun", "Searched", "Evaluation", "PredictedShards", "PreparedShards", "Predictor"]
    assert [text.partition("(")[0] for text in found["repr"]] == kinds
    assert found["steps"][-1] == 120
    assert found["accuracy"] == pytest.approx(found["evaluated"], abs=1 / 217 + 1e-9)
    assert found["accuracy"] > 0.5  # the largest of nine groups is about a fourth
    assert found["sums"] == pytest.approx([1.0] * 217, rel=1e-5)
    assert found["statuses"] == ["finished", "finished"]
    assert 1e-3 <= found["best"][0] <= 1e-2
    assert set(found["data"]) == {"root", "train", "validation", "test"}
    assert "step 120/120" in done.stdout
    assert Page((tmp_path / "inspect.html").read_text()).tags["section"] > 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_notebook_of_the_script_shows_tables_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLACE_EXAMPLE", str(tmp_path))
    script = SCRIPT.read_text(encoding="utf-8")
    assert sum(kind == "code" for kind, _ in cells_of(script)) > 15
    notebook = executed(script, tmp_path, timeout_s=400)
    html = html_of(notebook)
    (tmp_path / "from_python.html").write_text(html, encoding="utf-8")
    shown = next(c for c in notebook.cells if "interlace.train(" in c.source).outputs[-1].data["text/html"]
    page = Page(shown)
    assert page.tags["tr"] == 1 + 1 + 5 + 5  # all fields, each left out, each alone
    picture = next(attributes["src"] for tag, attributes in page.elements if tag == "img")
    assert base64.b64decode(picture.partition(",")[2]).startswith(b"\x89PNG")
    assert shown.partition("<h4>")[2][:200] in html
    assert picture in html
    assert len(re.findall("<iframe[^>]* srcdoc=", html)) == 2  # data and search
    assert html.count('class="dataframe"') == 6  # counts, metrics, predictions, those in files, trials, splits
