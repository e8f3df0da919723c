"""`mlflow models serve` of a registered model: what it answers over HTTP is what the model says in process."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from interlace.jobs.register import run_register
from interlace.results.predictor import Predictor
from interlace.tracking import resolve_uri
from tests.served import Model, log_run, make_model

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]

START_S = 400.0
"""Time given to a server to import torch and load the model on a busy machine."""


@contextmanager
def serving(uri: str, log: Path) -> Iterator[str]:
    """`mlflow models serve` of the champion on a free port of this machine; the URL to post to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/sounding@champion"),
        *("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
    ]
    environment = {
        **os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, start_new_session=True, env=environment, cwd=Path(__file__).parents[2]
        )
        try:
            _wait_until_up(f"http://127.0.0.1:{port}/ping", process, log)
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            os.killpg(process.pid, 9)
            process.wait()


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise AssertionError(log.read_text())


def ask(url: str, body: Any) -> tuple[int, str]:
    """Status and text of the answer to a request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def as_json(row: dict[str, Any], columns: Any) -> dict[str, Any]:
    """A raw row as a request has it: bytes as base64, and of what is missing either null or no key."""
    there = {name: row[name] for name in columns if row[name] is not None or name == "caption"}
    return {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in there.items()}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model(tmp_path_factory.mktemp("model"))


def test_http_says_what_the_model_says_in_process_and_why_it_refuses(model: Model, tmp_path: Path) -> None:
    run_register(
        str(log_run(model, tmp_path, "run", {"test/color/accuracy": 0.5})), None, "champion", None,
        storage=tmp_path, tracking_uri=None,
    )  # fmt: skip
    columns = ("image", "caption", "sound", "width", "height", "year")
    rows = [{name: row[name] for name in columns} for row in model.rows]
    assert len(rows) == 50
    assert all(any(row[name] is None for row in rows) for name in columns), "each field is missing somewhere"
    expected = Predictor.load(model.folder).predict(rows)
    request = [as_json(row, columns) for row in rows]
    with serving(resolve_uri(None, tmp_path), tmp_path / "serve.log") as url:
        for body in (
            {"dataframe_records": request},
            {"inputs": request},
            {"dataframe_split": {"columns": columns, "data": [[r.get(c) for c in columns] for r in request]}},
        ):
            status, text = ask(url, body)
            assert status == 200, text
            check_equal(json.loads(text)["predictions"], expected)
        check_refusals(url, request)


def check_equal(answered: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [list(row) for row in answered] == [list(row) for row in expected]
    for over_http, direct in zip(answered, expected, strict=True):
        for name, value in direct.items():
            close = pytest.approx(value, rel=1e-6, abs=1e-7) if isinstance(value, float | list) else value
            assert over_http[name] == close, name
    assert len({row["color_probability"] for row in answered}) > 30, "rows differ"


def check_refusals(url: str, request: list[dict[str, Any]]) -> None:
    """Each broken request gets a 4xx and its reason; the next good one is answered."""
    good = request[0]
    broken: list[tuple[Any, str]] = [
        ({"dataframe_records": [{**good, "captoin": "a"}]}, "unknown column `captoin`; did you mean `caption`?"),
        ({"inputs": [good, {"color": "red"}]}, "unknown column `color`"),
        ({"dataframe_records": [{**good, "caption": 5}]}, "caption"),
        ({"dataframe_records": [good, {**good, "width": "wide"}]}, "row 1: field `box`: expected"),
        ({"dataframe_records": [{**good, "image": "?not base64"}]}, "column image, row 0: expected bytes as base64"),
        ({"dataframe_records": [{**good, "image": base64.b64encode(b"\x89PNG\r\n\x1a\nbroken").decode()}]},
         "row 0: field `image`: expected"),
        ({"dataframe_records": [{**good, "sound": base64.b64encode(b"fLaC....").decode()}]},
         "row 0: field `sound`: expected"),
        ({"dataframe_records": [{}, {}]}, "expected a value in at least one column"),
        ({"dataframe_records": [good, {"caption": None}]}, "row 1: expected a value in at least one of the columns"),
        ({"dataframe_records": [good], "params": {"bad_rows": "drop"}}, "expected `refuse` or `report`"),
        (b"{not json", "valid JSON"),
        ({"rows": []}, "dataframe_records"),
    ]  # fmt: skip
    for body, reason in broken:
        status, text = ask(url, body)
        assert (status // 100, reason in text) == (4, True), (body, status, text[-600:])
        assert "Traceback" not in text
    status, text = ask(url, {"dataframe_records": [good, {}], "params": {"bad_rows": "report"}})
    said = json.loads(text)["predictions"]
    assert status == 200
    assert said[0]["error"] is None
    assert "expected a value" in said[1]["error"]
