"""A real MLflow server, and an HTTP proxy before it that fails on command."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOP = {"host", "connection", "transfer-encoding", "content-length"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to a request.

    Args:
        before_s: seconds it waits before the server gets it.
        after_s: seconds its answer waits.
        status: answered instead of the server's, if not None.
        lost: it never reaches the server (needs `status`).
    """

    before_s: float = 0.0
    after_s: float = 0.0
    status: int | None = None
    lost: bool = False


FINE = Fault()
Rule = Callable[[str, str, int], Fault]
"""From (method, path, number of the request) to its fault."""


class Proxy:
    """Listens on one port of this machine. `rule` may change at any time; `down` and `up` close and open the port."""

    def __init__(self, backend_port: int) -> None:
        self.backend_port = backend_port
        self.rule: Rule = lambda method, path, number: FINE
        self.seen: list[tuple[str, str]] = []
        self.answered = threading.Condition()
        self.delivered: list[str] = []
        self._server: ThreadingHTTPServer | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), type("Bound", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def down(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def wait_for(self, part: str, timeout_s: float) -> None:
        """Return as soon as the server has carried out a request whose path holds `part`; its answer may still wait."""
        with self.answered:
            assert self.answered.wait_for(lambda: any(part in path for path in self.delivered), timeout_s), self.seen


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy

    def _relay(self) -> None:
        proxy = self.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = proxy.rule(self.command, self.path, len(proxy.seen))
        proxy.seen.append((self.command, self.path))
        time.sleep(fault.before_s)
        status, headers, answer = (500, [], b"") if fault.lost else self._forward(body)
        with proxy.answered:
            proxy.delivered += [] if fault.lost else [self.path]
            proxy.answered.notify_all()
        time.sleep(fault.after_s)
        if fault.status is not None:
            status, headers, answer = fault.status, [], b"<html>broken on purpose</html>"
        try:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
        except OSError:  # the client is gone
            self.close_connection = True

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.backend_port, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP]
            return answer.status, kept, answer.read()
        finally:
            connection.close()

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _relay


@contextmanager
def mlflow_server(folder: Path, password: str | None = None) -> Iterator[int]:
    """A real MLflow server on a free port of this machine, with sqlite and artifacts in `folder`.

    With a password it asks for that of its user `admin` (MLflow's basic authentication).
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "store")),
    ]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    if password is not None:
        command += ["--app-name", "basic-auth"]
        environment |= {"MLFLOW_AUTH_ADMIN_PASSWORD": password, "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True, env=environment
        )  # fmt: skip
        try:
            _wait_until_healthy(port, process, folder / "server.log")
            yield port
        finally:
            os.killpg(process.pid, 9)
            process.wait()


def _wait_until_healthy(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(log.read_text())
