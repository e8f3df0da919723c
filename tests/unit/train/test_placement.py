"""Labels of a recipe choose nodes; labels that no node has are told before anything waits for them."""

from pathlib import Path
from typing import Any

import pytest

from interlace.cluster.connect import Cluster, Node
from interlace.cluster.preflight import DoesNotFitError
from interlace.contract.errors import RecipeError
from interlace.data.stream import Beside
from interlace.recipe.data import read_labels
from interlace.recipe.recipe import Recipe
from interlace.train.placement import beside, fit_into, nodes_with, places, readers
from tests.data import EmojiLike

CPU, GPU = {"pool": "cpu"}, {"pool": "gpu", "zone": "a"}
HERE = Cluster(
    embedded=False,
    nodes=(
        Node(cpus=0, gpus=0, labels={}),
        Node(cpus=8, gpus=2, labels=GPU),
        Node(cpus=8, gpus=2, labels=GPU),
        Node(cpus=4, gpus=0, labels=CPU),
    ),
)


def test_labels_choose_nodes_and_a_label_that_no_node_has_is_named(shapes: EmojiLike, tmp_path: Path) -> None:
    section = shapes.tree(tmp_path)["data"] | {"labels": CPU}
    recipe = shapes.recipe(
        tmp_path, data=section, train={"labels": {"pool": "gpu"}, "gpus_per_worker": 1, "workers": 4}
    )
    found = [(p.cpus, p.gpus, p.trains, p.reads) for p in places(recipe.train.labels, recipe.data.labels, HERE)]
    assert found == [(0, 0, False, False), (8, 2, True, False), (8, 2, True, False), (4, 0, False, True)]
    placed, allotment = fit_into(HERE, recipe.train, recipe.world_sizes, recipe.data.labels)
    assert (placed.cpus_per_worker, allotment.data_cpus) == (1, 4)
    with pytest.raises(DoesNotFitError, match=r"`data.labels`: no node of the cluster has the labels {'pool': 'none'}"):
        nodes_with(HERE, "data.labels", {"pool": "none"})
    elsewhere = shapes.recipe(tmp_path, train={"labels": {"pool": "gpu", "zone": "b"}})
    with pytest.raises(DoesNotFitError, match=r"`train.labels`: no node .* {'pool': 'gpu', 'zone': 'b'}"):
        places(elsewhere.train.labels, elsewhere.data.labels, HERE)


def test_data_tasks_need_a_node_with_a_cpu() -> None:
    assert [n.cpus for n in readers(HERE, "labels", {})] == [8, 8, 4]
    assert [n.cpus for n in readers(HERE, "labels", CPU)] == [4]
    with pytest.raises(DoesNotFitError, match=r"`--label`: no node of the cluster has the labels {'pool': 'none'}"):
        readers(HERE, "--label", {"pool": "none"})
    small = Cluster(embedded=False, nodes=(Node(cpus=0, gpus=0, labels={}), Node(cpus=0.5, gpus=1, labels=GPU)))
    with pytest.raises(DoesNotFitError, match=r"need a node with 1 CPU, but the nodes of the cluster have 0, 0\.5"):
        readers(small, "labels", {})
    with pytest.raises(DoesNotFitError, match=r"but the nodes with `labels` {'pool': 'gpu', 'zone': 'a'} have 0.5"):
        readers(small, "labels", GPU)


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        ([], {}),
        (["pool=cpu", "zone=a-1"], {"pool": "cpu", "zone": "a-1"}),
        (["ray.io/accelerator-type=A100"], {"ray.io/accelerator-type": "A100"}),
        (["pool"], None),
        (["=cpu"], None),
        (["pool=c p"], None),
    ],
)
def test_labels_on_the_command_line_are_name_and_value(words: list[str], labels: dict[str, str] | None) -> None:
    if labels is not None:
        assert read_labels(words) == labels
    else:
        with pytest.raises(RecipeError, match="--label: expected NAME=VALUE"):
            read_labels(words)


def test_a_recipe_without_labels_uses_all_nodes(shapes: EmojiLike, tmp_path: Path) -> None:
    recipe = shapes.recipe(tmp_path)
    assert all(p.trains and p.reads for p in places(recipe.train.labels, recipe.data.labels, HERE))
    assert sum(p.cpus for p in places(recipe.train.labels, recipe.data.labels, HERE)) == 20


def beside_of(recipe: Recipe, listed: list[dict[str, Any]]) -> Beside:
    """What `beside` says of a recipe's sections."""
    return beside(recipe.train, recipe.world_sizes[0], recipe.data.labels, listed)


def test_an_evaluation_has_as_many_data_tasks_as_cpus_for_data_on_the_nodes_that_read(
    shapes: EmojiLike, tmp_path: Path
) -> None:
    listed = [
        {"NodeID": f"n{i}", "Alive": True, "Resources": {"CPU": n.cpus, "GPU": n.gpus}, "Labels": n.labels}
        for i, n in enumerate(HERE.nodes)
    ]
    listed.append({**listed[-1], "NodeID": "gone", "Alive": False})
    workers = {"workers": 4, "cpus_per_worker": 1.5}
    found = beside_of(shapes.recipe(tmp_path, train=workers), listed)
    assert (found.tasks, found.nodes) == (20 - 6, ("n1", "n2", "n3"))
    section = shapes.tree(tmp_path)["data"] | {"labels": CPU}
    recipe = shapes.recipe(tmp_path, data=section, train={**workers, "labels": {"pool": "gpu"}})
    assert (beside_of(recipe, listed).tasks, beside_of(recipe, listed).nodes) == (4, ("n3",))
    full = shapes.recipe(tmp_path, train={"workers": 20}, batch={"token_budget": 256, "global_batch": 20})
    assert beside_of(full, listed).tasks == 1
