"""`interlace status | logs | stop | list`: what became of submitted jobs."""

import re
import time

from interlace.cluster.errors import JobError
from interlace.cluster.submission import Job, Jobs
from interlace.jobs.console import INTERRUPTED, console, errors, say

MLFLOW = re.compile(r"^MLflow: (.+)$", re.MULTILINE)
LAST_LINES = 20


class LogLinks:
    """Watches a log pass by for the line that says where MLflow has the run."""

    def __init__(self) -> None:
        self.mlflow: str | None = None
        self._line = ""

    def seen(self, text: str) -> str:
        """The text, unchanged."""
        whole, _, self._line = (self._line + text).rpartition("\n")
        for found in MLFLOW.finditer(whole):
            self.mlflow = found.group(1)
        return text


def conclude(jobs: Jobs, job: Job, links: LogLinks) -> int:
    """Say how a job ended and where to look; its exit code."""
    say(f"job {job.id} {ended(job)}: {jobs.link(job.id)}")
    if links.mlflow:
        say(f"MLflow: {links.mlflow}")
    if job.status == "STOPPED":
        say("the same `interlace submit` goes on from the last checkpoint")
    if job.status == "FAILED" and job.code is None:
        errors.print(job.message, markup=False)  # it never began, so its log does not say why
    return job.exit_code


def ended(job: Job) -> str:
    """One phrase on how a job stands."""
    word = job.status.lower()
    return f"{word} with exit code {job.exit_code}" if job.status == "FAILED" else word


def status(job_id: str, address: str | None) -> int:
    """Print how a job stands and its links; its exit code if it has ended, else 0."""
    jobs = Jobs(address)
    job = jobs.info(job_id)
    text = jobs.logs(job_id)
    links = LogLinks()
    links.seen(text + "\n")
    say(f"job {job.id} {ended(job)}{_since(job)}: {jobs.link(job.id)}")
    if links.mlflow:
        say(f"MLflow: {links.mlflow}")
    if job.runs and (lines := text.rstrip().splitlines()):
        say(lines[-1])
    return 0 if job.runs else job.exit_code


def logs(job_id: str, address: str | None, *, follow: bool) -> int:
    """Print a job's log; with `follow` until it ends, and then its exit code."""
    jobs = Jobs(address)
    job = jobs.info(job_id)
    if not follow:
        console.out(jobs.logs(job_id), end="", highlight=False)
        return 0
    if job.runs or job.code is not None or job.status == "STOPPED":
        return follow_to_end(jobs, job_id)
    return conclude(jobs, job, LogLinks())


def follow_to_end(jobs: Jobs, job_id: str) -> int:
    """Print what a job prints until it ends; its exit code, or that of Ctrl-C, which leaves the job alone."""
    links = LogLinks()
    try:
        job = jobs.follow(job_id, lambda text: console.out(links.seen(text), end="", highlight=False))
    except KeyboardInterrupt:
        say(f"\nthe job goes on: `interlace logs -f {job_id}` follows it, `interlace stop {job_id}` ends it")
        return INTERRUPTED
    return conclude(jobs, job, links)


def stop(job_id: str, address: str | None) -> int:
    """End a job after a checkpoint, and wait for it. Raises JobError where it has ended already."""
    jobs = Jobs(address)
    before = jobs.info(job_id)
    if not before.runs:
        raise JobError(f"job {job_id} has ended already: {ended(before)}")
    began = time.monotonic()
    jobs.stop(job_id)
    say(f"job {job_id} is asked to write a checkpoint and end")
    job = jobs.wait(job_id)
    for line in jobs.logs(job_id).splitlines()[-LAST_LINES:]:
        if "asked to stop" in line or line.startswith("stopped"):
            say(line)
    say(f"job {job_id} {ended(job)} after {time.monotonic() - began:.0f} s; the same `interlace submit` goes on")
    return 0


def table(address: str | None) -> int:
    """Print all jobs, the newest last."""
    jobs = Jobs(address).list()
    width = max((len(job.id) for job in jobs), default=0)
    for job in jobs:
        say(f"{job.id:<{width}}  {job.status:<9}  {_began(job)}{_since(job)}")
    if not jobs:
        say("no jobs")
    return 0


def _began(job: Job) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.began)) if job.began else ""


def _since(job: Job) -> str:
    if job.began is None:
        return ""
    return f", {(job.ended or time.time()) - job.began:.0f} s"
