"""`interlace dataset`: which sets there are, and what it says."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from interlace.jobs.cli import app
from interlace.jobs.dataset import BUILDERS, RECIPES
from interlace.recipe.load import load_recipe


def run(*words):
    result = CliRunner().invoke(app, ["dataset", *map(str, words)])
    return result.exit_code, " ".join(result.output.split())


def test_each_set_has_a_recipe_of_its_name():
    assert [load_recipe(RECIPES / f"{name}.yaml").name for name in BUILDERS] == ["emoji", "watch", "stamps"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("stamp", "out"), "expected a data set (emoji, watch, stamps), but is 'stamp'; did you mean `stamps`?"),
        (("mnist", "out"), "expected a data set (emoji, watch, stamps), but is 'mnist'"),
        (("emoji", "out", "--from", "x"), "`--from` has no effect on `emoji`"),
        (("watch", "out", "--from", "absent"), "pip download seglearn"),
        (("stamps", "out", "--from", "absent"), "apt-get install tuxpaint-stamps-default"),
    ],
)
def test_what_can_not_be_built_is_said(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = run(*words)
    assert code == 2
    assert says in output
    assert not Path("out").exists()


def test_the_command_that_trains_is_printed(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Path("source/food").mkdir(parents=True)
    for i in range(12):
        Image.new("RGBA", (8 + i, 8), "red").save(f"source/food/{i}.png")
        Path(f"source/food/{i}.txt").write_text(f"Cake {i}.")
    Path("source/food/v.txt").write_text("Drawn.")
    Path("source/food/v.svg").write_text("<svg/>")
    code, output = run("stamps", "out", "--from", "source")
    assert code == 0
    assert "10 train, 1 validation, 1 test" in output
    assert "left out: 1 drawn as SVG only" in output
    assert output.endswith("jobs/recipes/stamps.yaml --set data.root=out")
