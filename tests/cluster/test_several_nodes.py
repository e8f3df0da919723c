"""A cluster of several nodes: a job handed in there, and nodes that say they have GPUs."""

from pathlib import Path

import pytest
import ray
import yaml
from ray.cluster_utils import Cluster
from ray.util.state import list_actors, list_tasks

from interlace.cluster.preflight import DoesNotFitError
from interlace.cluster.probe import NotReadyError, inspect_gpus
from interlace.recipe.load import load_recipe
from interlace.results.listener import Quiet
from interlace.results.training import Launch, train
from tests.cluster.conftest import DATA, TRAIN, Run, pools, pools_of_actors, pools_of_data_tasks
from tests.cluster.test_elastic import check_stream
from tests.data import EmojiLike

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_job_handed_in_trains_and_reads_where_the_recipe_says_as_an_undisturbed_run_does(
    client_of_nodes: Run, shapes: EmojiLike, tmp_path: Path
) -> None:
    own = {"steps": 12, "workers": 2, "labels": TRAIN, "precision": "fp32", "trace": True, "threads": 1}
    section = shapes.tree(tmp_path)["data"] | {"labels": DATA}
    file = tmp_path / "shapes.yaml"
    file.write_text(yaml.safe_dump(shapes.tree(tmp_path / "out", train=own, data=section, batch={"global_batch": 2})))
    done = client_of_nodes("submit", "train", str(file), "--run-name", "several")
    assert done.returncode == 0, done.stdout
    check_stream(tmp_path / "out" / "runs" / "several", load_recipe(file), tmp_path / "reference")
    assert sorted(pools().values(), key=str) == [None, "data", "train", "train"]
    assert pools_of_actors("RayTrainWorker") == ["train", "train"]
    workers = list_actors(filters=[("class_name", "=", "RayTrainWorker")])
    assert len({w.node_id for w in workers}) == 2
    assert pools_of_data_tasks() == {"data"}


def test_simulated_gpus_are_refused_before_training_and_their_number_is_counted(
    nodes: Cluster, shapes: EmojiLike, tmp_path: Path
) -> None:
    section = shapes.tree(tmp_path)["data"] | {"labels": DATA}
    recipes = [
        shapes.recipe(tmp_path, data=section, train={"steps": 4, "labels": TRAIN, "gpus_per_worker": 1, "workers": n})
        for n in (1, 4)
    ]
    with pytest.raises(NotReadyError, match=r"`train.gpus_per_worker` 1 GPUs on node .*, but torch .* sees none"):
        train(recipes[0], Launch(run_name="gpu", address=nodes.address), Quiet())
    (looked,) = (t for t in list_tasks(limit=10_000) if t.name == "torch_sees")
    assert pools()[looked.node_id] == "train"
    with pytest.raises(DoesNotFitError, match="= 4 GPUs, but the cluster has 2"):
        train(recipes[1], Launch(run_name="gpus", address=nodes.address), Quiet())
    assert not (tmp_path / "runs" / "gpu" / "checkpoints").exists()

    held = [ray.remote(num_cpus=0, num_gpus=1)(Holder).remote() for _ in range(2)]
    ray.get([h.here.remote() for h in held])
    (doubt,) = inspect_gpus(1, TRAIN, wait_s=3)
    assert "no 1 GPUs were free within 3 s" in doubt


class Holder:
    """Somebody else's process that keeps a GPU."""

    def here(self) -> bool:
        return True
