"""Law of clocked fields: what a run's fields shared goes along with the field that starts from it."""

from pathlib import Path

import safetensors.torch
import torch

from interlace.model.network import Network
from interlace.recipe.fields import TableField
from interlace.recipe.identity import to_yaml
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from interlace.recipe.start import MODEL, RECIPE
from interlace.recipe.tasks import ClassificationTask as Settings
from interlace.tasks import ClassificationTask
from interlace.train.start import start
from tests.networks import FIELDS, SPECS, build, context, draw_batch


def recipe_of(series: TableField) -> Recipe:
    return parse_recipe(
        {
            "name": "clocks",
            "data": {"train": {"paths": ["x"]}},
            "fields": {"series": series.model_dump(mode="json")},
            "tasks": {"label": {"task": "classification", "column": "label"}},
            "model": {"dim": 32, "head_dim": 16},
            "train": {"steps": 1},
        }
    )


def test_a_clocked_field_brings_its_clock_and_keeps_its_states(tmp_path: Path):
    names = ("photo", "series")
    alone = build(names=("series",))
    plain = FIELDS["series"].model_dump(mode="json")
    (tmp_path / "hash").mkdir()
    safetensors.torch.save_file(alone.state_dict(), tmp_path / "hash" / MODEL)
    (tmp_path / "hash" / RECIPE).write_text(to_yaml(recipe_of(TableField(**plain))), encoding="utf-8")
    init = {"run": "elsewhere", "digest": "hash", "field": "series"}
    series = TableField.model_validate({**plain, "init": init, "freeze": True})
    head = ClassificationTask(Settings(task="classification", column="label"), context("label", alone.model, names))
    fields = {"photo": FIELDS["photo"], "series": series}
    joined = Network({n: SPECS[n] for n in names}, fields, alone.model, {"label": head})
    recipe = recipe_of(series)
    start(joined, recipe.model, recipe.fields, tmp_path)
    batch = draw_batch()
    got = joined.train()(batch).fields["series"].pooled_SD
    assert torch.equal(got, alone(batch.only(frozenset({"series"}))).fields["series"].pooled_SD)
    assert joined.clock is None
    assert joined.embeddings["of_series"].clock is not None
    assert got.std() > 0.1
