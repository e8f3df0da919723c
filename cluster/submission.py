"""Jobs of a cluster over its Jobs API: hand one in, follow it, ask how it ended, stop it. Knows nothing of recipes."""

import asyncio
import logging
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import requests

from interlace.cluster.errors import JobError, RefusedError
from interlace.cluster.token import PLACES, headers

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
STOP_WAIT_S = 300
"""Seconds from SIGTERM to SIGKILL when a job is stopped: time to write a checkpoint. Ray's own default is 3."""

STOPPED_CODE = 75
"""Exit code of a stopped job (EX_TEMPFAIL): the same command goes on."""

RUNNING = ("PENDING", "RUNNING")
RETRY_S = 2.0
AGENT_WAIT_S = 60.0
NO_AGENT = "No available agent"
"""What a head answers whose first node is not up yet."""

PYTHON = "INTERLACE_PYTHON"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as the cluster knows it.

    Args:
        id: its submission id.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        message: the cluster's words about it.
        entrypoint: its command.
        began, ended: unix seconds, if it did.
        code: exit code of its command, if it ended by itself.
    """

    id: str
    status: str
    message: str
    entrypoint: str
    began: float | None
    ended: float | None
    code: int | None

    @property
    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return self.status in RUNNING

    @property
    def exit_code(self) -> int:
        """What the same command would have ended with on this host; 75 for a stopped one."""
        if self.status == "STOPPED":
            return STOPPED_CODE
        return 0 if self.status == "SUCCEEDED" else (self.code or 1)


def entrypoint(words: Sequence[str]) -> str:
    """The shell command of `python -m interlace.jobs WORDS`: by this host's Python where the head has it, else its own.

    It replaces the shell, so that signals reach Python alone and the exit code is Python's.
    """
    python = f'"$(command -v "${PYTHON}" || command -v python || echo python3)"'
    return f"exec {python} -m interlace.jobs {shlex.join(words)}"


def runtime_env(working_dir: str) -> dict[str, Any]:
    """Where a job runs: the uploaded folder, and time to stop well. No secrets: everyone with the token can read it."""
    return {
        "working_dir": working_dir,
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), PYTHON: sys.executable, "COLUMNS": "120"},
    }


def free_id(base: str, jobs: Iterable[Job]) -> str:
    """The id of a new job: `base`, or `base-2` and so on where jobs of that name have ended.

    Raises:
        JobError: one of them runs still; two would write the same run.
    """
    pattern = re.compile(rf"{re.escape(base)}(-\d+)?")
    before = [job for job in jobs if pattern.fullmatch(job.id)]
    if running := [job.id for job in before if job.runs]:
        raise JobError(
            f"the same job runs already as `{running[0]}`: `interlace logs -f {running[0]}` follows it,"
            f" `interlace stop {running[0]}` ends it"
        )
    taken = {job.id for job in before}
    numbers = (base if n == 1 else f"{base}-{n}" for n in range(1, len(taken) + 2))
    return next(name for name in numbers if name not in taken)


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, address: str | None = None) -> None:
        """Reach the Jobs API.

        Args:
            address: `http://HOST:8265`; without it `RAY_API_SERVER_ADDRESS`, and without that this host's.

        Raises:
            ConnectionError: nobody answers there.
            RefusedError: the token is missing or wrong.
        """
        self.address = (address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS).rstrip("/")
        if not self.address.startswith(("http://", "https://")):
            raise JobError(f"--address: expected http://HOST:8265 (the Jobs API of the head), but is {self.address}")
        from ray.job_submission import JobSubmissionClient

        for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they tell each upload and each closed connection
        with self._asked(), _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # they would win over the address
            self._client = JobSubmissionClient(self.address, headers=headers(os.environ, Path.home()))

    def submit(self, job_id: str, words: Sequence[str], package: Path) -> None:
        """Upload a package and run `python -m interlace.jobs WORDS` in it. Raises JobError where the id is taken."""
        deadline = time.monotonic() + AGENT_WAIT_S
        while True:
            try:
                with self._asked():
                    self._client.submit_job(
                        entrypoint=entrypoint(words), submission_id=job_id, runtime_env=runtime_env(str(package))
                    )
                return
            except JobError as error:
                if NO_AGENT not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(RETRY_S)

    def version_warnings(self) -> tuple[str, ...]:
        """Versions of Ray and Python that differ between this host and the cluster, in sentences."""
        mine = {"Ray": metadata.version("ray"), "Python": platform.python_version()}
        with self._asked():
            answer = requests.get(
                f"{self.address}/api/v0/cluster_metadata", headers=headers(os.environ, Path.home()), timeout=30
            )
        data = answer.json().get("data", {}) if answer.ok else {}
        theirs = {"Ray": data.get("rayVersion"), "Python": data.get("pythonVersion")}
        return tuple(
            f"{name} is {theirs[name]} on the cluster and {own} here: the job runs with the cluster's"
            for name, own in mine.items()
            if theirs[name] not in (None, own)
        )

    def info(self, job_id: str) -> Job:
        """One job. Raises JobError where there is none."""
        with self._asked():
            return _job(self._client.get_job_info(job_id))

    def list(self) -> tuple[Job, ...]:
        """All jobs that were submitted, the oldest first."""
        with self._asked():
            found = [_job(d) for d in self._client.list_jobs() if d.submission_id]
        return tuple(sorted(found, key=lambda job: job.began or 0.0))

    def stop(self, job_id: str) -> bool:
        """Ask a job to end; whether it was running."""
        with self._asked():
            return bool(self._client.stop_job(job_id))

    def logs(self, job_id: str) -> str:
        """All that a job has printed so far."""
        with self._asked():
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, on_text: Callable[[str], None]) -> Job:
        """Hand over what a job prints, as it comes, until it has ended; broken connections are made anew."""
        printed = _Printed(on_text)
        while True:
            try:
                asyncio.run(self._tail(job_id, printed))
            except (RuntimeError, OSError):
                time.sleep(RETRY_S)
            job = self.info(job_id)
            if not job.runs:
                return job
            time.sleep(0.2)

    def wait(self, job_id: str, every_s: float = 0.5) -> Job:
        """Wait until a job has ended."""
        while (job := self.info(job_id)).runs:
            time.sleep(every_s)
        return job

    def link(self, job_id: str) -> str:
        """The job's page in the dashboard."""
        return f"{self.address}/#/jobs/{job_id}"

    async def _tail(self, job_id: str, printed: "_Printed") -> None:
        printed.connected()
        async for text in self._client.tail_job_logs(job_id):
            printed.take(text)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Turn what the Jobs API answers into errors that say what to do."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            why = (
                "wants a token, and none was found" if "required" in str(error) else "refuses the token that was found"
            )
            raise RefusedError(f"{self.address} {why} ({PLACES})") from error
        except ConnectionError:
            raise
        except RuntimeError as error:
            raise JobError(_reason(str(error))) from error
        except OSError as error:
            raise ConnectionError(f"{self.address}: {error}") from error


class _Printed:
    """What was handed over of a log: every connection begins with all that was printed before."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self._seen = 0
        self._passed = 0

    def connected(self) -> None:
        """The log begins anew."""
        self._passed = 0

    def take(self, text: str) -> None:
        """Hand over what of a text is new."""
        self._passed += len(text)
        if self._passed > self._seen:
            self._on_text(text[self._seen - self._passed :])
            self._seen = self._passed


def _job(details: Any) -> Job:
    return Job(
        id=details.submission_id,
        status=str(getattr(details.status, "value", details.status)),
        message=details.message or "",
        entrypoint=details.entrypoint,
        began=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
        code=details.driver_exit_code,
    )


def _reason(text: str) -> str:
    """The last line that says something: the server answers with tracebacks."""
    if doubled := re.search(r"submission_id (\S+) already exists", text):
        return f"the cluster knows a job `{doubled.group(1)}` already: give another --id, or none"
    lines = [line for line in text.strip().rstrip(".").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "the cluster did not take the request"


@contextmanager
def _without(*names: str) -> Iterator[None]:
    kept: Mapping[str, str] = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
