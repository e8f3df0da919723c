"""Nodes that die, come and go away with notice while a run trains: its stream of samples stays what it would be."""

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.state import list_actors

from interlace.jobs.listener import Shown
from interlace.recipe.recipe import Recipe
from interlace.results.training import Launch, train
from tests.cluster.conftest import DATA, TRAIN, pools, pools_of_data_tasks
from tests.cluster.test_submit_verbs import logged
from tests.data import EmojiLike
from tests.ray.reference import run_here

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 700


def recipe_for(data: EmojiLike, storage: Path, **train: Any) -> Recipe:
    """A run on the nodes with their labels, one or two workers, with steps that are quick and many."""
    own = {
        "steps": STEPS, "workers": {"min": 1, "max": 2}, "resize_every_s": 3, "precision": "fp32", "trace": True,
        "threads": 1, "cpus_per_worker": 1, "labels": TRAIN, "checkpoint_every": 100, "max_failures": 5,
        "eval_every": 1000,
    }  # fmt: skip
    section = data.tree(storage)["data"] | {"labels": DATA}
    return data.recipe(storage, train={**own, **train}, data=section, batch={"token_budget": 64, "global_batch": 2})


class Running:
    """A run that trains in a thread, since nodes must be added from the main one."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.folder = Path(recipe.storage) / "runs" / "run"
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._train, daemon=True)
        self.thread.start()

    def _train(self) -> None:
        try:
            train(self.recipe, Launch(run_name="run"), Shown())
        except BaseException as error:
            self.failure = error

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.failure is None, self.failure
            assert self.thread.is_alive(), f"the run ended before {what}"
            assert time.monotonic() < deadline, f"{what} did not come in {seconds} s: {self.events()}"
            time.sleep(0.1)

    def step(self) -> int:
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return max((json.loads(x)["step"] for x in lines[-3:-1]), default=0)

    def events(self) -> list[str]:
        path = self.folder / "events.jsonl"
        return [json.loads(x)["text"] for x in path.read_text().splitlines()] if path.exists() else []

    def starts(self) -> list[int]:
        """World size of each start of the group."""
        return [int(e.split()[0]) for e in self.events() if "workers ready" in e]

    def end(self) -> None:
        self.thread.join(timeout=400)
        assert self.failure is None, self.failure
        assert not self.thread.is_alive()


def check_stream(folder: Path, recipe: Recipe, storage: Path) -> None:
    """Every step has the samples that it has in an undisturbed run here, and the same loss to rounding."""
    reference = run_here(recipe.model_copy(update={"storage": str(storage)}))
    seen: dict[tuple[int, int], tuple[int, ...]] = {}
    for path in folder.glob("trace-*.jsonl"):
        for line in path.read_text().splitlines():
            item = json.loads(line)
            key = (item["step"], item["position"])
            ids, loss = reference.packs[key]
            assert tuple(item["ids"]) == ids
            assert item["loss"] == pytest.approx(loss, abs=1e-3)
            seen[key] = ids
    assert seen.keys() == reference.packs.keys()


def check_mlflow(storage: Path) -> None:
    """MLflow holds a single run, which ended well, and each of its steps once."""
    ((name, (status, values)),) = logged(storage).items()
    assert (name, status) == ("run", "FINISHED")
    assert [step for step, _ in values["train/loss"]] == list(range(1, STEPS + 1))


def metrics(folder: Path, name: str) -> list[float]:
    """All values of a metric in a run's journal."""
    lines = (json.loads(x)["m"] for x in (folder / "metrics.jsonl").read_text().splitlines())
    return [m[name] for m in lines if name in m]


def prometheus(nodes: Cluster) -> str:
    """What the exporters of all nodes say, once they say something of the run."""
    deadline = time.monotonic() + 60
    while True:
        ports = [n["MetricsExportPort"] for n in ray.nodes() if n["Alive"]]
        texts = [urlopen(f"http://{nodes.head_node.node_ip_address}:{port}/metrics").read().decode() for port in ports]
        if any("ray_interlace_" in text for text in texts) or time.monotonic() > deadline:
            return "\n".join(texts)
        time.sleep(1)


def test_a_lost_and_a_new_node_change_nothing_but_the_number_of_workers(
    nodes: Cluster, shapes: EmojiLike, tmp_path: Path
) -> None:
    recipe = recipe_for(shapes, tmp_path / "out")
    running = Running(recipe)
    running.wait_for(lambda: running.step() > 150, "step 150")
    assert running.starts() == [2]
    workers = list_actors(filters=[("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")])
    place = pools()
    assert [place[w.node_id] for w in workers] == ["train", "train"]
    assert pools_of_data_tasks() == {"data"}

    exported = prometheus(nodes)
    for name in ("samples_per_second", "step_seconds", "data_wait_seconds", "data_cpu_seconds", "slowest_rank_seconds"):
        assert re.search(rf'^ray_interlace_{name}{{.*run="run".*}} [0-9.e+-]+$', exported, re.MULTILINE), name

    lost = next(n for n in nodes.worker_nodes if n.node_id == workers[1].node_id)
    nodes.remove_node(lost, allow_graceful=False)
    running.wait_for(lambda: running.starts() == [2, 1], "a group of one")
    running.wait_for(lambda: len(metrics(running.folder, "restart/lost_s")) == 1, "the time lost")
    nodes.add_node(num_cpus=1, num_gpus=1, labels=TRAIN)
    running.wait_for(lambda: running.starts() == [2, 1, 2], "a group of two again")
    running.end()

    check_stream(running.folder, recipe, tmp_path / "reference")
    check_mlflow(tmp_path / "out")
    lost_s, again = metrics(running.folder, "restart/lost_s"), metrics(running.folder, "restart/steps_again")
    assert len(lost_s) == 2
    assert 0 < again[0] <= 100 + 10
    assert again[1] < 20, "the group wrote a checkpoint before it grew"
    assert any("1 to 2 workers" in e for e in running.events())


def test_a_node_that_goes_away_with_notice_is_left_at_a_checkpoint_before_it_goes(
    nodes: Cluster, shapes: EmojiLike, tmp_path: Path
) -> None:
    recipe = recipe_for(shapes, tmp_path / "out", checkpoint_every=100_000)
    running = Running(recipe)
    running.wait_for(lambda: running.step() > 150, "step 150")
    workers = list_actors(filters=[("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")])
    grace_ms = 90_000
    accepted, why = ray._private.worker.global_worker.gcs_client.drain_node(
        workers[1].node_id, 2, "the provider takes it back", time.time_ns() // 1_000_000 + grace_ms
    )  # 2: DRAIN_NODE_REASON_PREEMPTION
    assert accepted, why
    # Within the grace: it does not train on until its node is taken away. Once empty, the node ends by itself.
    running.wait_for(lambda: running.starts() == [2, 1], "a group of one", seconds=grace_ms / 1000)
    assert any("go away in" in e for e in running.events())
    running.end()
    check_stream(running.folder, recipe, tmp_path / "reference")
    check_mlflow(tmp_path / "out")
    assert metrics(running.folder, "restart/steps_again") == [0.0]
