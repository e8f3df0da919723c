"""What nodes say about themselves, and what becomes of it: errors stop a job, warnings are told."""

import dataclasses
import socket
from pathlib import Path

import pytest

from interlace.cluster.probe import NodeReport, assess, look, reach, seen

FINE = NodeReport(
    node="a", write_error=None, storage_free=1 << 40, spill_free=1 << 40, tracking_error=None, memory=64 << 30,
    python="3.11.7", ray_version="2.60.0",
)  # fmt: skip
DRIVER = ("3.11.2", "2.60.0")


def judged(
    blind: tuple[str, ...] = (), memory: int = 1 << 20, **changes: object
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return assess([FINE, dataclasses.replace(FINE, node="b", **changes)], blind, "/mnt/x", memory, DRIVER)


def test_a_fine_cluster_gives_no_word() -> None:
    assert judged() == ((), ())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"write_error": "[Errno 13] Permission denied"}, "node b can't write into `storage` /mnt/x"),
        ({"ray_version": "2.59.0"}, "node b has Ray 2.59.0, the driver 2.60.0"),
        ({"python": "3.12.1"}, "node b has Python 3.12.1, the driver 3.11.2"),
        ({"blind": ("b",)}, "`storage` /mnt/x is not shared: node b does not see"),
    ],
)
def test_what_would_fail_later_stops_the_job(changes: dict[str, object], error: str) -> None:
    errors, warnings = judged(**changes)
    assert len(errors) == 1
    assert error in errors[0]
    assert warnings == ()


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"spill_free": 1 << 30}, "1.0 GiB left on disk for spilling"),
        ({"storage_free": 1 << 29}, "0.5 GiB left in `storage`"),
        ({"tracking_error": "http://t:80: refused"}, "does not reach the tracking server: http://t:80"),
        ({"memory": 1 << 37}, "128.0"),
    ],
)
def test_what_may_fail_is_told(changes: dict[str, object], warning: str) -> None:
    memory = changes.pop("memory", 1 << 20)
    errors, warnings = judged(memory=memory, **changes)
    assert errors == ()
    assert warning in warnings[0]


def test_a_node_tells_what_it_sees(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    report = look(str(folder), "node-1", None, str(tmp_path / "spill" / "not" / "there"))
    assert (report.write_error, report.tracking_error) == (None, None)
    assert min(report.storage_free, report.spill_free, report.memory) > 0
    assert seen(str(folder)) == ["node-1"]
    assert seen(str(tmp_path / "gone")) == []
    (tmp_path / "file").write_text("")
    assert look(str(tmp_path / "file" / "below"), "n", None, "/").write_error


def test_a_server_that_listens_is_reached() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert reach(uri, {}) is None
    assert "127.0.0.1" in str(reach(uri, {}))
    assert reach("sqlite:////tmp/mlflow.db", {}) is None
    assert reach(None, {}) is None
