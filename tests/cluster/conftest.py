"""Clusters for tests: several nodes on one machine, and a real head with its Jobs server and a client of it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.state import list_actors, list_nodes, list_tasks

from interlace.cluster.connect import connect
from tests.e2e.conftest import interlace
from tests.headnode import Head, clean, head

__all__ = ["interlace"]  # a fixture

TRAIN, DATA = {"pool": "train"}, {"pool": "data"}
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
}


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster: a head without CPUs, two nodes of one CPU and a simulated GPU to train on, one of two CPUs for data.

    This process is connected to it.
    """
    assert not ray.is_initialized(), "run these tests in a process of their own: another Ray is there"
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, os.environ.get(name, value))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": True})
    # Nodes share the session's folder. In one for all, each node that unpacks a job's files deletes what another did.
    cluster.add_node(num_cpus=2, labels=DATA, runtime_env_dir_name="files-data")
    for name in ("files-1", "files-2"):
        cluster.add_node(num_cpus=1, num_gpus=1, labels=TRAIN, runtime_env_dir_name=name)
    cluster.wait_for_nodes()
    connect(cluster.address)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ray warns of its own deprecations in threads of its own; only warnings of this project are errors here."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.filterwarnings("default"))
            item.add_marker(pytest.mark.filterwarnings("error:::(interlace|tests)"))


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def head_node() -> Iterator[Head]:
    """The head, with 4 CPUs."""
    with head(4) as started:
        yield started


def interlace_in(environment: dict[str, str]) -> Run:
    """What runs `interlace ARGS` in an environment and gives back its exit code and what it printed."""

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "interlace.jobs", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
            env={**environment, **more},
        )

    return run


@pytest.fixture
def client(head_node: Head, tmp_path: Path) -> Run:
    """Run `interlace ARGS` against the head."""
    return interlace_in({**head_node.environment(tmp_path), "RAY_API_SERVER_ADDRESS": head_node.address})


@pytest.fixture
def client_of_nodes(nodes: Cluster, tmp_path: Path) -> Run:
    """Run `interlace ARGS` against the cluster of several nodes."""
    address = f"http://{nodes.webui_url}"
    own = {"RAY_AUTH_MODE": "disabled", "HOME": str(tmp_path), "RAY_API_SERVER_ADDRESS": address, "COLUMNS": "160"}
    return interlace_in({**clean(os.environ), **own})


def pools() -> dict[str, str | None]:
    """The label `pool` of each node of the cluster that this process is connected to."""
    return {n.node_id: n.labels.get("pool") for n in list_nodes()}


def pools_of_actors(class_name: str) -> list[str | None]:
    """The label `pool` of the node of each actor of a class, also of those that have ended."""
    place = pools()
    return [place[a.node_id] for a in list_actors(filters=[("class_name", "=", class_name)], limit=10_000)]


def pools_of_data_tasks() -> set[str | None]:
    """The labels `pool` of the nodes where tasks of Ray Data ran."""
    place = pools()
    return {place[t.node_id] for t in list_tasks(limit=10_000) if "MapBatches" in t.name and t.node_id}
