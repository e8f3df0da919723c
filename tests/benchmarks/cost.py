"""What a command costs: seconds, and CPU seconds of all processes that come of it, those of Ray included."""

import os
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "INTERLACE_COST"
EVERY_S = 0.1
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one command; a process loses at most its last tenth of a second of CPU."""

    wall_s: float
    cpu_s: float
    code: int


def run(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Cost:
    """Run a command to its end; all processes that inherit its environment count."""
    mark = uuid.uuid4().hex
    ticks: dict[tuple[int, str], int] = {}
    known: dict[tuple[int, str], bool] = {}
    began = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, cwd=cwd, env={**os.environ, **(env or {}), MARK: mark}
        )
        while (code := process.poll()) is None:
            _sample(mark, ticks, known)
            time.sleep(EVERY_S)
    wall_s = time.monotonic() - began
    for _ in range(30):  # daemons end a moment later
        _sample(mark, ticks, known)
        time.sleep(EVERY_S)
    return Cost(wall_s=wall_s, cpu_s=sum(ticks.values()) * TICK_S, code=code)


def _sample(mark: str, ticks: dict[tuple[int, str], int], known: dict[tuple[int, str], bool]) -> None:
    """Note the CPU time of every process that carries the mark."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            process = (int(folder.name), fields[19])  # pid and start: pids come again
            if process not in known:
                known[process] = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes()
            if known[process]:
                ticks[process] = int(fields[11]) + int(fields[12])
        except (OSError, IndexError, ValueError):
            continue
