"""Laws of several tasks in one run: each counts its own targets, weights are fixed or learned."""

import math
from pathlib import Path

import pytest
import torch

from interlace.contract.errors import RecipeError
from interlace.data.index.build import build_index
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from interlace.tasks.weighting import UncertaintyWeights
from interlace.train.build import network_for
from interlace.train.loop import Loop, batch_states, evaluated
from interlace.train.optim import make_optimizer
from tests.data import EmojiLike
from tests.networks import draw_batch
from tests.tasked import network_of, numbers, task_of, with_targets
from tests.unit.train.test_loop_and_checkpoint import Here

TASKS = {
    "color": {"task": "classification", "column": "color"},
    "size": {"task": "regression", "columns": ["width", "height"], "weight": 0.5},
    "pair": {"task": "retrieval", "left": ["image"], "right": ["caption"]},
    "fill": {"task": "reconstruction", "fields": ["image", "caption"]},
}


def recipe_of(shapes: EmojiLike, tmp_path: Path, **optim: object) -> Recipe:
    tree = shapes.tree(tmp_path / "out", model={"dropout": 0.0}, batch={"global_batch": 2}, optim=optim)
    return parse_recipe({**tree, "tasks": TASKS})


def network_with_all():
    """A network with a task of each kind, and the tasks by name."""
    tasks = {
        "number": task_of("regression", "number", columns=("a",), field_loss=0.5),
        "pair": task_of("retrieval", "pair", left=("photo",), right=("values",)),
        "fill": task_of("reconstruction", "fill", fields=("series",), share=1.0),
    }
    return network_of(tasks), tasks


def test_a_sample_that_lacks_a_target_teaches_the_other_tasks_only():
    network, tasks = network_with_all()
    batch = with_targets(draw_batch(0, missing=0.0), number=numbers([[1.0], None] + [[0.5]] * 5))
    gradients = {}
    for name, task in tasks.items():
        outputs = network(batch)
        for state in (*outputs.fields.values(), *outputs.groups.values()):
            state.pooled_SD.retain_grad()
        outputs.sample_SD.retain_grad()
        task.loss(outputs, batch).backward()
        found = [outputs.sample_SD, *(s.pooled_SD for s in (*outputs.fields.values(), *outputs.groups.values()))]
        gradients[name] = torch.stack([x.grad.abs().sum(1) for x in found if x.grad is not None]).sum(0)
    assert gradients["number"][1] == 0
    assert (gradients["number"][[0, 2, 3, 4, 5, 6]] > 0).all()
    assert (gradients["pair"] > 0).all()
    assert (gradients["fill"] > 0).all()
    assert [t.count(batch) for t in tasks.values()] == [6, 7, 7]


def test_the_loss_of_a_step_is_the_weighted_sum_of_each_tasks_mean(shapes: EmojiLike, tmp_path: Path):
    here = Here(recipe_of(shapes, tmp_path), num_steps=1)
    (report,) = here.run()
    means = {n: report.metrics[f"train/{n}/loss"] for n in TASKS}
    assert report.loss == pytest.approx(means["color"] + 0.5 * means["size"] + means["pair"] + means["fill"], rel=1e-5)
    assert {n: report.metrics[f"train/{n}/weight"] for n in TASKS} == {"color": 1, "size": 0.5, "pair": 1, "fill": 1}
    assert len(report.traces) == 2


def test_learned_weights_follow_the_formula_and_travel_with_the_network(shapes: EmojiLike, tmp_path: Path):
    here = Here(recipe_of(shapes, tmp_path, task_weighting="uncertainty"), num_steps=2)
    weighting = here.loop.network.weighting
    assert isinstance(weighting, UncertaintyWeights)
    with torch.no_grad():
        s = {n: 0.3 * i - 0.2 for i, n in enumerate(TASKS)}
        for name, value in s.items():
            weighting.log_variances[f"of_{name}"].fill_(value)
    first = here.run(last=1)[0]
    means = {n: first.metrics[f"train/{n}/loss"] for n in TASKS}
    fixed = {n: task.get("weight", 1.0) for n, task in TASKS.items()}
    want = sum(fixed[n] * math.exp(-s[n]) * means[n] + s[n] / 2 for n in TASKS)
    assert first.loss == pytest.approx(want, rel=1e-5)
    for name in TASKS:
        assert first.metrics[f"train/{name}/weight"] == pytest.approx(fixed[name] * math.exp(-s[name]), rel=1e-5)
    assert all(float(weighting.log_variances[f"of_{n}"].detach()) != pytest.approx(s[n], abs=1e-6) for n in TASKS)
    assert sum("weighting" in k for k in here.loop.network.state_dict()) == len(TASKS)


def test_a_task_without_a_target_in_the_step_has_no_part():
    """Else its learned weight would grow without bound."""
    tree = {
        "name": "x",
        "data": {"train": {"paths": ["x"]}},
        "fields": {"values": {"modality": "text", "column": "v"}},
        "tasks": {n: {"task": "regression", "columns": ["a"]} for n in ("one", "two")},
        "optim": {"task_weighting": "uncertainty"},
        "train": {"steps": 1, "precision": "fp32"},
    }
    recipe = parse_recipe(tree)
    network = network_of({n: task_of("regression", n, columns=("a",)) for n in ("one", "two")})
    network.weighting = UncertaintyWeights(["one", "two"])
    loop = Loop(
        network=network,
        optimizer=make_optimizer(recipe.optim, network),
        recipe=recipe,
        num_steps=1,
        device=torch.device("cpu"),
    )
    batch = with_targets(draw_batch(), one=numbers([[1.0]] * 7), two=numbers([None] * 7))
    loss, by_task = loop.losses(batch, {"one": 7.0, "two": 0.0})
    loss.backward()
    one, two = network.weighting.log_variances.values()
    assert float(one.grad) != 0
    assert float(two.grad) == 0
    assert float(by_task[1]) == 0


def test_one_task_has_no_learned_weight(shapes: EmojiLike, tmp_path: Path):
    with pytest.raises(RecipeError, match="needs at least two tasks"):
        shapes.recipe(tmp_path, optim={"task_weighting": "uncertainty"})


def test_evaluation_hides_tokens_from_the_tasks_that_ask_for_it_only(shapes: EmojiLike, tmp_path: Path):
    recipe = recipe_of(shapes, tmp_path)
    number = task_of("regression", "number", columns=("a",))
    alone = network_of({"number": number})
    fill = task_of("reconstruction", "fill", fields=("photo", "values"), share=1.0)
    both = network_of({"number": number, "fill": fill})
    shared = {k: v for k, v in both.state_dict().items() if k in alone.state_dict()}
    alone.load_state_dict(shared)
    batch = with_targets(draw_batch(1), number=numbers([[1.0]] * 7))
    device = torch.device("cpu")
    one, two = (batch_states(network, batch, recipe, device) for network in (alone, both))
    torch.testing.assert_close(one["number"], two["number"])
    passes = evaluated(both, batch, recipe, device)
    assert [bool(outputs.masks) for outputs, _ in passes] == [False, True]
    assert float(two["fill"]["count"]) > 0


def test_every_kind_of_task_learns_without_the_others_labels(shapes: EmojiLike, tmp_path: Path):
    """Pretraining: a recipe whose only task is reconstruction reads no label column."""
    tree = shapes.tree(tmp_path / "out", model={"dropout": 0.0}, batch={"global_batch": 2}, optim={"lr": 0.003})
    recipe = parse_recipe({**tree, "tasks": {"fill": TASKS["fill"]}})
    assert "color" not in recipe.columns()
    index = build_index(recipe)
    assert index.fitted["targets"] == {}
    reports = Here(recipe, num_steps=30).run()
    losses = [r.loss for r in reports]
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])
    assert len(losses) == 30
    assert network_for(recipe, index.fitted).tasks["fill"].masked_fields == ("image", "caption")
