"""Jobs as the cluster is asked for them: ids, commands, exit codes, tokens. No cluster is here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from interlace.cluster.connect import target_of
from interlace.cluster.errors import JobError
from interlace.cluster.submission import PYTHON, STOP_WAIT_S, Job, _Printed, entrypoint, free_id, runtime_env
from interlace.cluster.token import find_token, headers


def job(name: str, status: str, code: int | None = None) -> Job:
    return Job(id=name, status=status, message="", entrypoint="", began=1.0, ended=None, code=code)


def test_exit_codes_are_those_of_the_command() -> None:
    assert job("a", "SUCCEEDED", 0).exit_code == 0
    assert job("a", "FAILED", 2).exit_code == 2
    assert job("a", "FAILED", None).exit_code == 1  # it never began
    assert job("a", "STOPPED", None).exit_code == 75
    assert [job("a", s).runs for s in ("PENDING", "RUNNING", "STOPPED")] == [True, True, False]


def test_an_id_is_free_once_its_jobs_have_ended() -> None:
    assert free_id("train-a", []) == "train-a"
    assert free_id("train-a", [job("train-a", "STOPPED")]) == "train-a-2"
    assert free_id("train-a", [job("train-a", "FAILED"), job("train-a-2", "SUCCEEDED")]) == "train-a-3"
    assert free_id("train-a", [job("train-a-2", "SUCCEEDED")]) == "train-a"
    others = [job("train-ab", "RUNNING"), job("train-a-b", "RUNNING"), job("tune-a", "RUNNING")]
    assert free_id("train-a", others) == "train-a"


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
def test_a_doubled_job_is_refused_with_what_to_do(status: str) -> None:
    with pytest.raises(JobError, match=r"runs already as `train-a-2`: `interlace logs -f train-a-2`"):
        free_id("train-a", [job("train-a", "STOPPED"), job("train-a-2", status)])


@pytest.mark.parametrize("python", [sys.executable, "/no/such/python"])
def test_the_entrypoint_gives_its_words_and_its_exit_code(python: str, tmp_path: Path) -> None:
    """Run by a shell, as Ray does; with this host's Python where it is there, else with the one on the path."""
    (tmp_path / "interlace" / "jobs").mkdir(parents=True)
    (tmp_path / "interlace" / "jobs" / "__main__.py").write_text(
        "import json, os, sys\nprint(json.dumps([sys.argv[1:], os.getppid()]))\nsys.exit(7)\n"
    )
    words = ["train", "my recipe.yaml", "--set", "fields={a: 'b\"c$HOME'}", "--set", "x=`id`;"]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", PYTHON: python}
    done = subprocess.Popen(
        entrypoint(words), shell=True, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    out, _ = done.communicate()
    got, parent = json.loads(out)
    assert got == words
    assert done.returncode == 7
    assert parent != done.pid  # it took the shell's place, so a signal to it reaches Python


def test_a_job_gets_time_to_stop_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hush")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush")
    made = runtime_env("/tmp/a.zip")
    assert "hush" not in json.dumps(made)
    assert made["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == str(STOP_WAIT_S)
    assert set(made) == {"working_dir", "env_vars"}


def test_the_token_is_found_where_ray_looks_for_it(tmp_path: Path) -> None:
    assert headers({}, tmp_path) == {}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home\n")
    (tmp_path / "named").write_text("named")
    assert find_token({}, tmp_path) == "home"
    assert find_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "named")}, tmp_path) == "named"
    both = {"RAY_AUTH_TOKEN": "direct", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "named")}
    assert headers(both, tmp_path) == {"Authorization": "Bearer direct"}
    assert headers({**both, "RAY_AUTH_MODE": "disabled"}, tmp_path) == {}


def test_a_log_is_printed_once_over_broken_connections() -> None:
    out: list[str] = []
    printed = _Printed(out.append)
    for pieces in (["ab", "cd"], ["a"], ["abc", "def"], ["abcdefgh"]):
        printed.connected()
        for piece in pieces:
            printed.take(piece)
    assert "".join(out) == "abcdefgh"


def test_a_job_joins_its_own_cluster_whatever_the_address_says() -> None:
    inside = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "RAY_ADDRESS": "10.0.0.1:6379"}
    assert target_of("10.0.0.9:6379", inside) == "10.0.0.1:6379"
    assert target_of(None, inside) == "10.0.0.1:6379"
    assert target_of(None, {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}) == "auto"
    assert target_of(None, {}) is None
    assert target_of("a:1", {"RAY_ADDRESS": "b:2"}) == "a:1"
    assert target_of(None, {"RAY_ADDRESS": "b:2"}) == "b:2"
