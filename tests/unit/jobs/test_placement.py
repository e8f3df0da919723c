"""Labels of a recipe choose nodes; labels that no node has are told before anything waits for them."""

from pathlib import Path

import pytest

from cluster.connect import Cluster, Node
from cluster.preflight import DoesNotFitError
from jobs.placement import fit_into, nodes_with, places
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
    found = [(p.cpus, p.gpus, p.trains, p.reads) for p in places(recipe, HERE)]
    assert found == [(0, 0, False, False), (8, 2, True, False), (8, 2, True, False), (4, 0, False, True)]
    placed, allotment = fit_into(recipe, HERE)
    assert (placed.train.cpus_per_worker, allotment.data_cpus) == (1, 4)
    with pytest.raises(DoesNotFitError, match=r"`data.labels`: no node of the cluster has the labels {'pool': 'none'}"):
        nodes_with(HERE, "data.labels", {"pool": "none"})
    elsewhere = shapes.recipe(tmp_path, train={"labels": {"pool": "gpu", "zone": "b"}})
    with pytest.raises(DoesNotFitError, match=r"`train.labels`: no node .* {'pool': 'gpu', 'zone': 'b'}"):
        places(elsewhere, HERE)


def test_a_recipe_without_labels_uses_all_nodes(shapes: EmojiLike, tmp_path: Path) -> None:
    recipe = shapes.recipe(tmp_path)
    assert all(p.trains and p.reads for p in places(recipe, HERE))
    assert sum(p.cpus for p in places(recipe, HERE)) == 20
