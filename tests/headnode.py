"""A real `ray start --head` for tests: its own folder, free ports, a token; only what it started is ended."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

START_S = 200.0
STARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A running head: address of its Jobs API, its token and the process that holds it."""

    address: str
    token: str
    pid: int

    def environment(self, home: Path) -> dict[str, str]:
        """Environment of a client that has the token and nothing else of this user's."""
        return {**clean(os.environ), "RAY_AUTH_TOKEN": self.token, "HOME": str(home), "COLUMNS": "160"}


def clean(environment: dict[str, str] | os._Environ[str]) -> dict[str, str]:
    """An environment without what Ray would read from it."""
    return {k: v for k, v in environment.items() if not k.startswith("RAY_")}


def free_ports(count: int) -> list[int]:
    """Ports of this host that nobody has at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [int(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


@contextmanager
def head(cpus: int) -> Iterator[Head]:
    """Start a head with so many CPUs, yield it once its Jobs API answers, and end it.

    On a busy host Ray's own limit of 30 s for its first node may pass; then it is started anew.
    """
    folder = Path(tempfile.mkdtemp(prefix="il-", dir="/tmp"))  # sockets' paths are limited to 107 characters
    token = secrets.token_hex(32)
    (folder / "home").mkdir()
    process = None
    try:
        for attempt in range(STARTS):
            process, address = _start(folder / f"ray{attempt}", token, cpus)
            if _answers(address, token, process):
                break
            _end(process)
        else:
            raise AssertionError(f"the head did not start: {(folder / 'ray.log').read_text()[-2000:]}")
        yield Head(address=address, token=token, pid=process.pid)
    finally:
        if process is not None:
            _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, token: str, cpus: int) -> tuple[subprocess.Popen[bytes], str]:
    gcs, dashboard, agent, client, grpc, metrics, runtime_env = free_ports(7)
    home = folder.parent / "home"
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
        f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
        # Ports that are given need not be waited for: the raylet gives its agents 15 s to tell theirs, and then dies.
        f"--metrics-export-port={metrics}", f"--runtime-env-agent-port={runtime_env}",
        f"--ray-client-server-port={client}", f"--dashboard-agent-grpc-port={grpc}", f"--temp-dir={folder}",
        f"--num-cpus={cpus}", "--object-store-memory=150000000", "--disable-usage-stats",
    ]  # fmt: skip
    environment = {
        **clean(os.environ), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "HOME": str(home),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    with (folder.parent / "ray.log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                                   start_new_session=True, cwd=home)  # fmt: skip
    return process, f"http://127.0.0.1:{dashboard}"


def _answers(address: str, token: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the head knows its first node; False where it ended before."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            asked = requests.get(f"{address}/api/v0/nodes", headers={"Authorization": f"Bearer {token}"}, timeout=5)
            if asked.json().get("data", {}).get("result", {}).get("total", 0):
                return True
        except (requests.RequestException, ValueError):
            pass
        time.sleep(0.3)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and everything below it, by their ids."""
    try:
        tree = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        tree = []
    process.terminate()
    try:
        process.wait(20)  # it ends its children itself
    except subprocess.TimeoutExpired:
        process.kill()
    _, left = psutil.wait_procs(tree, timeout=10)
    for p in left:
        p.kill()
    psutil.wait_procs(left, timeout=30)
    process.wait(60)
