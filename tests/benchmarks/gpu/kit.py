"""The parts of the kit, each in a process of its own within its time: what one breaks or overruns costs no other.

correctness     `tests/gpu`
150M, 1B, 20M   speed of a model of that many parameters, the ones that aims are set for first
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.benchmarks.gpu import mix, results
from tests.benchmarks.gpu.correct import run_tests
from tests.benchmarks.gpu.results import Part, machine
from tests.benchmarks.gpu.speed import Bench, Limits, Line
from tests.gpu import stored

CORRECTNESS = "correctness"
BUDGETS_S: Mapping[str, float] = {CORRECTNESS: 115.0, "150M": 110.0, "1B": 145.0, "20M": 95.0}
"""Parts in their order, and the seconds that each may take at most."""
SECONDS = 465.0
"""For all of them, so that 8 minutes are enough with the grace of the last."""
LEAST_S = 5.0
"""With less time left no part begins."""
GRACE_S = 10.0
"""That a part which does not end by itself has beyond its time."""
WARM, STEPS, LEAST_MEASURED_S = 10, 40, 2.0
"""Steps of a loop before the clock starts, then at least so many steps and seconds."""
PARTS, TINY = "parts", "tiny"
"""Folders of what is trained on: of `tests/gpu`, and of a rehearsal's sizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be run.

    Args:
        packs: folder with what is trained on, as `prepare` fills it.
        out: folder that takes results and what the parts print.
        device: `cuda` or `cpu`.
        rehearsal: whether tiny models stand for the sizes, few steps are taken and few tests.
        parts: names, in any order.
        seconds: for all parts together.
    """

    packs: Path
    out: Path
    device: str
    rehearsal: bool
    parts: Sequence[str]
    seconds: float


def prepare(folder: Path, names: Iterable[str], *, tiny: bool) -> None:
    """Write what parts train on; needs modalities and the data arm."""
    for name in names:
        if name == CORRECTNESS:
            stored.write(folder / PARTS)
        else:
            mix.write(folder / TINY if tiny else folder, name, tiny=tiny)


def run(order: Order) -> list[Part]:
    """Run the parts one after the other, and write results after each."""
    until = time.monotonic() + order.seconds
    about = {"device": order.device, **({"rehearsal": "yes"} if order.rehearsal else {}), **machine()}
    found: list[Part] = []
    wanted = [name for name in BUDGETS_S if name in order.parts]
    for name in wanted:
        left = until - time.monotonic()
        if left < LEAST_S:
            found.append(Part(name=name, status="not run: no time left", seconds=0.0, lines=()))
        else:
            found.append(_apart(order, name, min(BUDGETS_S[name], left)))
        said = f"{name}: {found[-1].status}, {found[-1].seconds:.0f} s"
        print(said, flush=True)  # noqa: T201
        results.write(order.out, about, found)
    return found


def _apart(order: Order, name: str, seconds: float) -> Part:
    """Run a part in a process of its own, which is ended when its time is over."""
    order.out.mkdir(parents=True, exist_ok=True)
    log, began = order.out / f"{name}.log", time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "lines"
        words = ["part", name, str(seconds), "--packs", str(order.packs), "--lines", str(lines)]
        words += ["--device", order.device, *(["--rehearsal"] if order.rehearsal else [])]
        with log.open("w", encoding="utf-8") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.gpu", *words],
                stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            status = _ended(process, seconds + GRACE_S)
        made = [json.loads(line) for line in lines.read_text("utf-8").splitlines()] if lines.exists() else []
    if status == "failed":
        text = log.read_text(encoding="utf-8", errors="replace").strip()
        status = f"failed: {text.rpartition(chr(10))[2][:300] or 'without a word'}"
    status = next((line["status"] for line in made if "status" in line and status == "done"), status)
    own = tuple(line for line in made if "status" not in line)
    return Part(name=name, status=status, seconds=time.monotonic() - began, lines=own)


def _ended(process: "subprocess.Popen[bytes]", seconds: float) -> str:
    """How a process ended; after so many seconds it and all that it started are killed."""
    try:
        return "failed" if process.wait(seconds) else "done"
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s: the rest was not run"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def part(name: str, seconds: float, order: Order, lines: Path) -> None:
    """Run one part here; each line of figures goes to a file at once."""
    until = time.monotonic() + seconds
    with lines.open("a", encoding="utf-8") as file:

        def tell(line: Line) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        if name == CORRECTNESS:
            tell({"status": run_tests(tell, until, order.packs / PARTS, order.device, few=order.rehearsal)})
            return
        if order.rehearsal:
            torch.set_num_threads(1)
        limits = Limits(warm=WARM, steps=STEPS, least_s=LEAST_MEASURED_S, until=until)
        if order.rehearsal:
            limits = Limits(warm=1, steps=3, least_s=0.0, until=until)
        of = mix.read(order.packs / TINY if order.rehearsal else order.packs, name)
        for line in Bench(mix=of, device=torch.device(order.device), limits=limits).lines():
            tell(line)
