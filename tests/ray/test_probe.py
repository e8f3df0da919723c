"""The look at a cluster before a job: a node that does not answer is named, and nothing waits for it for ever."""

import os
import socket
import time
from pathlib import Path

import pytest
import ray

from interlace.cluster.probe import NotReadyError, answers, inspect_cluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]


def test_a_node_that_does_not_answer_is_named(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(
        NotReadyError, match=rf"node {socket.gethostname()} \(\w{{8}}\) did not answer within 0 s: look"
    ):
        inspect_cluster(str(tmp_path), None, 1, wait_s=0)
    assert time.monotonic() - began < 60
    assert all("GiB left" in doubt for doubt in inspect_cluster(str(tmp_path / "more"), None, 1))
    assert not list((tmp_path / "more").glob(".probe-*"))


def test_a_node_that_is_lost_during_the_look_is_named() -> None:
    here = ray.put("seen")
    gone = ray.remote(num_cpus=0, max_retries=0)(lambda: os._exit(1)).remote()
    assert answers({"one": here}, "/storage", 60) == ["seen"]
    with pytest.raises(NotReadyError, match=r"node two was lost while it was looked at \(WorkerCrashedError: "):
        answers({"one": here, "two": gone}, "/storage", 60)
