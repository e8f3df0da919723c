"""Data tasks that find no CPU: the command says so while it waits, and goes on when there is one."""

import threading
from typing import Any

import pyarrow as pa
import pytest
import ray

from interlace.data.stream import stream_units
from interlace.jobs.silence import spoken

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]


@ray.remote
class Holder:
    """Another job's actor, which holds CPUs while it lives."""

    def ready(self) -> bool:
        return True


def test_data_tasks_that_wait_for_cpus_are_told_and_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    holder: Any = Holder.options(num_cpus=cpus).remote()
    assert ray.get(holder.ready.remote())
    threading.Timer(6.0, lambda: ray.kill(holder)).start()
    mapper = spoken(stream_units, silent_s=1.0)
    tables = list(mapper(lambda unit: pa.table({"double": [2 * unit]}), range(3)))
    assert sorted(t["double"][0].as_py() for t in tables) == [0, 2, 4]
    told = [line for line in capsys.readouterr().out.splitlines() if "no data task has delivered" in line]
    assert f"1 nodes with {cpus} CPUs, {cpus} of them reserved" in told[0]
    assert 1 <= len(told) <= 4, "more and more seldom"
