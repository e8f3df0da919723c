"""Laws of the report on what a fusion weighs fields with."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from interlace.data.index.build import build_index
from interlace.data.read.open import open_reader
from interlace.model.network import Outputs
from interlace.results.evaluate import FieldWeight, WeightSums
from interlace.results.evaluation import Evaluation, evaluate_model
from interlace.results.predictor import export_model
from interlace.train.build import network_for
from interlace.train.checkpoint import MODEL
from tests.data import EmojiLike
from tests.networks import build, draw_batch


def weighed(outputs: list[Outputs]) -> dict[str, FieldWeight]:
    sums = WeightSums()
    for one in outputs:
        sums.add(one)
    return sums.result()


def test_mean_weights_are_over_samples_that_have_the_field():
    network, batches = build("weighted_sum"), [draw_batch(seed, missing=0.5) for seed in range(3)]
    outputs = [network(batch) for batch in batches]
    weights = torch.cat([o.weights_SF for o in outputs])
    present = torch.cat([torch.stack([f.present_S for f in o.fields.values()], dim=1) for o in outputs])
    found = weighed(outputs)
    for i, weight in enumerate(found.values()):
        own = weights[present[:, i], i].double()
        assert weight.mean == pytest.approx(float(own.mean()), abs=1e-6)
        assert weight.std == pytest.approx(float(own.std(correction=0)), abs=1e-6)
    assert list(found) == list(outputs[0].fields)
    assert present.logical_not().any()
    assert weighed([build("concat")(batches[0])]) == {}


@pytest.mark.parametrize("fusion", ["mid", "product"])
def test_evaluation_writes_weights_where_there_are_any(shapes: EmojiLike, tmp_path: Path, fusion: str):
    recipe = shapes.recipe(tmp_path, model={"fusion": fusion})
    index = build_index(recipe)
    (tmp_path / "checkpoint").mkdir()
    save_file(network_for(recipe, index.fitted).state_dict(), tmp_path / "checkpoint" / MODEL)
    export_model(recipe, index.fitted, tmp_path / "checkpoint", tmp_path / "model")
    reader = open_reader(index, recipe, "validation", training=False)
    evaluation: Evaluation = evaluate_model(tmp_path / "model", reader, "validation")
    evaluation.write(tmp_path / "out")
    metrics = {k: v for k, v in evaluation.journal_metrics().items() if k.startswith("validation_weight/")}
    whole = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    if fusion == "product":
        assert metrics == {}
        assert "weights" not in whole
        assert not (tmp_path / "out" / "fields-model.png").exists()
    else:
        assert [k.partition("/")[2] for k in metrics] == list(recipe.fields)
        assert all(0 < value < 1 for value in metrics.values())
        assert whole["weights"]["image"]["mean"] == metrics["validation_weight/image"]
        assert (tmp_path / "out" / "fields-model.png").stat().st_size > 1000
    assert all(not r.weights for r in evaluation.results[1:])
    assert replace(evaluation, split="test").journal_metrics()["test/color/loss"] > 0
