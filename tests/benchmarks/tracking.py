"""What tracking costs a training step, with a healthy MLflow server and with failing ones.

    python -m tests.benchmarks.tracking [rounds] [steps]

A worker in a process of its own takes steps of the demo's size (`tests.benchmarks.step`: 64 samples, width 128, bf16,
one thread) and journals 11 metrics each, as a run's worker does. The driver ships them to a real MLflow server through
proxies that fail, each in its way. Blocks of steps with tracking and without take turns: a pair is one block with
tracking over the mean of the blocks without before and after it. Blocks without tracking are paired too, which shows
the noise of the machine.

Prints, for each fault, medians and quartiles over the pairs of the ratios of step times (mean and median step of a
block by CPU of the worker, mean step by wall), and CPU of the driver. After its pairs a fault ends: the server is
healed, and what MLflow shows is compared with the journal point by point, before the next fault begins, so that nothing
ships beside its pairs. At last 20,000 lines are journaled.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.journal import Journal, journal_path
from pipeline.tracking import Tracker, make_target
from tests.e2e.faulty import FINE, Fault, Proxy, mlflow_server
from tests.tracked import shown

STEPS_LOGGED = 20_000
HEALED_S = 900.0
OFF = "off"
RATIOS = ("CPU mean", "CPU median", "wall mean")
NAMES = (
    "train/loss", "train/group/loss", "train/group/weight", "train/lr", "train/grad_norm", "train/epoch",
    "data/wait_s", "data/real_tokens_share", "samples_per_s", "tokens_per_s", "step_s",
)  # fmt: skip


def fault(one: Fault) -> Callable[[Proxy], None]:
    """Every request fails in one way."""

    def begin(proxy: Proxy) -> None:
        proxy.rule = lambda method, path, number: one

    return begin


def down(proxy: Proxy) -> None:
    """The port is closed."""
    proxy.down()


def dies(proxy: Proxy) -> None:
    """Up in the first half of a block, closed in the second: see `Case.half`."""
    proxy.down()
    proxy.up()


CASES: dict[str, Callable[[Proxy], None]] = {
    "healthy": fault(FINE),
    "down at start": down,
    "dies in the middle": dies,
    "5 s a call": fault(Fault(before_s=5.0)),
    "500": fault(Fault(status=500, lost=True)),
    "401": fault(Fault(status=401, lost=True)),
}


class Worker:
    """The training process, driven block by block."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.tracking", "--worker"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def block(self, folder: Path | str, steps: int) -> list[tuple[float, float]]:
        """CPU and wall seconds of each step."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{steps} {folder}\n")
        self.process.stdin.flush()
        return [(cpu, wall) for cpu, wall in json.loads(self.process.stdout.readline())]


def work() -> None:
    """Body of the worker: a line in is `steps folder` (or `off`), a line out the seconds of its steps."""
    import torch

    from tests.benchmarks.step import build, draw_batch, make_step

    torch.set_num_threads(1)
    torch.manual_seed(0)
    step, batch = make_step(build()), draw_batch()
    for _ in range(5):
        step(batch)
    journals: dict[str, Journal] = {}
    done: dict[str, int] = {}
    for line in sys.stdin:
        count, _, folder = line.strip().partition(" ")
        if folder != OFF and folder not in journals:
            journals[folder] = Journal(journal_path(Path(folder)))
        took = []
        for _ in range(int(count)):
            cpu, wall = time.process_time(), time.perf_counter()
            step(batch)
            if folder != OFF:
                number = done[folder] = done.get(folder, 0) + 1
                journals[folder].log(number, {name: number + i / 7 for i, name in enumerate(NAMES)})
            took.append((time.process_time() - cpu, time.perf_counter() - wall))
        sys.stdout.write(json.dumps(took) + "\n")
        sys.stdout.flush()
    for journal in journals.values():
        journal.close()


@dataclass(slots=True, kw_only=True)
class Case:
    """One fault: its proxy, its run, and the ratios of its pairs."""

    name: str
    proxy: Proxy
    folder: Path
    tracker: Tracker | None = None
    ratios: list[tuple[float, ...]] = field(default_factory=list)
    driver_s: float = 0.0
    steps: int = 0

    def half(self) -> None:
        """What happens in the middle of a block."""
        if self.name == "dies in the middle":
            self.proxy.down()


def summary(steps: list[tuple[float, float]]) -> tuple[float, ...]:
    """Mean and median CPU seconds and mean wall seconds of a block's steps, as in `RATIOS`."""
    cpu, wall = zip(*steps, strict=True)
    return statistics.mean(cpu), statistics.median(cpu), statistics.mean(wall)


def measure(case: Case, worker: Worker, rounds: int, steps: int) -> None:
    """Pairs of one fault, each between two blocks without tracking."""
    before = summary(worker.block(OFF, steps))
    for _ in range(rounds):
        if case.name != OFF:
            CASES[case.name](case.proxy)
            if case.tracker is None:
                case.tracker = Tracker(case.folder, target_of(case))
        began = time.process_time()
        place = OFF if case.name == OFF else case.folder
        first = worker.block(place, steps // 2)
        case.half()
        on = summary(first + worker.block(place, steps - steps // 2))
        case.driver_s += time.process_time() - began
        case.steps += steps
        after = summary(worker.block(OFF, steps))
        case.ratios.append(tuple(2 * x / (a + b) for x, a, b in zip(on, before, after, strict=True)))
        before = after


def target_of(case: Case) -> Any:
    """An experiment and a run of the case's own."""
    key = case.name.replace(" ", "-")
    return make_target(uri=case.proxy.url, storage=case.folder, experiment=key, run_name=key, run_key=key)


def check(case: Case, port: int) -> int:
    """Heal the server, ship what is left, and compare; the number of points."""
    from mlflow import MlflowClient

    assert case.tracker is not None
    case.proxy.rule = lambda method, path, number: FINE
    case.proxy.down()
    case.proxy.up()
    case.tracker.status("FINISHED")
    report = case.tracker.close(HEALED_S)
    assert report.shipped, report
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{port}")
    (run,) = client.search_runs([client.get_experiment_by_name(case.name.replace(" ", "-")).experiment_id])
    lines = [json.loads(line) for line in journal_path(case.folder).read_text().splitlines()]
    journaled = {(key, line["step"]): (value, line["t"]) for line in lines for key, value in line["m"].items()}
    assert shown(client, run.info.run_id) == journaled, case.name
    assert len(journaled) == len(NAMES) * case.steps
    return len(journaled)


def spread(ratios: list[float]) -> str:
    """Median and quartiles of ratios as percent above one."""
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return f"{100 * (middle - 1):+.2f} % ({100 * (low - 1):+.2f} to {100 * (high - 1):+.2f})"


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def cases(port: int, folder: Path, leave: ExitStack) -> Iterator[Case]:
    """A case for each fault, and one without tracking."""
    for name in (OFF, *CASES):
        proxy = Proxy(port)
        proxy.up()
        leave.callback(proxy.down)
        yield Case(name=name, proxy=proxy, folder=folder / name.replace(" ", "-"))


def main(rounds: int, steps: int) -> None:
    """All cases, then the cost of a line."""
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as leave:
        folder = Path(temporary)
        port = leave.enter_context(mlflow_server(folder))
        worker = Worker()
        leave.callback(worker.process.wait)
        leave.callback(lambda: worker.process.stdin and worker.process.stdin.close())
        step_s = statistics.median(cpu for cpu, _ in worker.block(OFF, steps))
        say(f"a step without tracking: {1e3 * step_s:.1f} ms of CPU; {rounds} pairs of {steps} steps a case")
        for case in cases(port, folder, leave):
            measure(case, worker, rounds, steps)
            columns = zip(*case.ratios, strict=True)
            say(f"{case.name}: " + ", ".join(f"{n} {spread(list(c))}" for n, c in zip(RATIOS, columns, strict=True)))
            if case.name != OFF:
                say(f"    driver {1e3 * case.driver_s / case.steps:.2f} ms of CPU a step")
                say(f"    {check(case, port):,} points, each once, in a single run")
        say_cost_of_lines(folder, step_s)


def say_cost_of_lines(folder: Path, step_s: float) -> None:
    """Journal 20,000 steps and say what share of a step's time a line takes."""
    journal = Journal(journal_path(folder / "lines"))
    began = time.process_time()
    for step in range(STEPS_LOGGED):
        journal.log(step, {name: step + i / 7 for i, name in enumerate(NAMES)})
    a_line = (time.process_time() - began) / STEPS_LOGGED
    journal.close()
    cost = f"{1e6 * a_line:.1f} us of CPU a step, {a_line / step_s:.3%} of it"
    say(f"{STEPS_LOGGED:,} steps of {len(NAMES)} metrics: {cost}")


if __name__ == "__main__":
    if "--worker" in sys.argv:
        work()
    else:
        numbers = [int(text) for text in sys.argv[1:]]
        main(*(numbers + [5, 20][len(numbers) :]))
