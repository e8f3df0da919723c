"""Clusters for tests: several nodes on one machine, and a real head with its Jobs server and a client of it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from cluster.connect import connect
from tests.e2e.conftest import interlace
from tests.headnode import Head, head

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
            item.add_marker(pytest.mark.filterwarnings("error:::(pipeline|jobs|cluster|tests)"))


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def head_node() -> Iterator[Head]:
    """The head, with 4 CPUs."""
    with head(4) as started:
        yield started


@pytest.fixture
def client(head_node: Head, tmp_path: Path) -> Run:
    """Run `interlace ARGS` against the head and give back its exit code and what it printed."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "jobs", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
            env={**head_node.environment(tmp_path), "RAY_API_SERVER_ADDRESS": head_node.address, **environment},
        )

    return run
