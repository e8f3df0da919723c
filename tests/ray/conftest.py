"""One local Ray for all tests here: 6 logical CPUs, so that several data tasks run at a time beside the workers."""

from collections.abc import Iterator

import pytest
import ray

from interlace.cluster.connect import Cluster, connect


@pytest.fixture(scope="session", autouse=True)
def cluster() -> Iterator[Cluster]:
    """The shared Ray."""
    yield connect(local_cpus=6)
    ray.shutdown()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ray warns of its own deprecations in threads of its own; only warnings of this project are errors here."""
    for item in items:
        if "ray" in item.path.parts[-2:-1]:
            item.add_marker(pytest.mark.filterwarnings("default"))
            item.add_marker(pytest.mark.filterwarnings("error:::(interlace|tests)"))
