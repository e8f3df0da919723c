"""What tracking costs a training step, with a healthy MLflow server and with failing ones.

    python -m tests.benchmarks.tracking [pairs] [steps]

A worker in a process of its own takes steps of the demo's size (`tests.benchmarks.step`: 64 samples, width 128, bf16,
one thread) and journals 11 metrics each, as a run's worker does. A driver in another process ships them to a real
MLflow server through proxies that fail, each in its way. Short blocks of steps take turns: with tracking, and without,
in which driver and server are suspended, so that nothing of theirs falls there. With tracking the server runs on the
same cores where requests reach it; where none does it is suspended too, for an idle server costs the same without
tracking. A pair is a block with tracking over the blocks without before and after it; pairs of which both are without
show the noise of the machine. That noise lasts for seconds, so blocks of one step tell twice as much in the same time
as blocks of six.

Prints, for each fault, the geometric mean over the pairs of the ratios of step times (CPU of the worker, and wall) with
a bootstrapped interval of 95 %, the median, and CPU of driver and server; at last the same over all faults together.
After its pairs a fault ends: the server is healed, and what MLflow shows is compared with the journal point by point.
Then 20,000 lines are journaled.
"""

import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

from interlace.store.journal import Journal, journal_path
from interlace.tracking import Tracker, make_target
from tests.e2e.faulty import FINE, Fault, Proxy, mlflow_server
from tests.tracked import shown

STEPS_LOGGED = 20_000
HEALED_S = 900.0
OFF = "off"
DRAWS = 2000
REACHED = ("healthy", "dies-in-the-middle", "5-s-a-call")
"""Cases in which requests come to the server, the second one in its first half."""
SETTLE_S = 10.0
"""A run's tracker begins while its workers start, seconds before the first step."""

NAMES = (
    "train/loss", "train/group/loss", "train/group/weight", "train/lr", "train/grad_norm", "train/epoch",
    "data/wait_s", "data/real_tokens_share", "samples_per_s", "tokens_per_s", "step_s",
)  # fmt: skip


def fault(one: Fault) -> Callable[[Proxy], None]:
    """Every request fails in one way."""

    def begin(proxy: Proxy) -> None:
        proxy.rule = lambda method, path, number: one

    return begin


CASES: dict[str, Callable[[Proxy], None]] = {
    "healthy": fault(FINE),
    "down-at-start": Proxy.down,
    "dies-in-the-middle": fault(FINE),  # see `drive`
    "5-s-a-call": fault(Fault(before_s=5.0)),
    "500": fault(Fault(status=500, lost=True)),
    "401": fault(Fault(status=401, lost=True)),
}


def work() -> None:
    """Body of the worker: a line in is `steps folder` (or `steps off`), a line out the seconds of its steps."""
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
        tell(took)
    for journal in journals.values():
        journal.close()


def drive(port: int) -> None:
    """Body of the driver: lines in are `case folder`, `half` and `end`; a line out for each, at last the points."""
    lines = (line.strip() for line in sys.stdin)
    for line in lines:
        name, _, place = line.partition(" ")
        folder, proxy = Path(place), Proxy(port)
        proxy.up()
        CASES[name](proxy)
        target = make_target(uri=proxy.url, storage=folder, experiment=name, run_name=name, run_key=name)
        tracker = Tracker(folder, target)
        tell(None)
        assert next(lines) == "half"
        if name == "dies-in-the-middle":
            proxy.down()
        tell(None)
        assert next(lines) == "end"
        tell(check(proxy, tracker, name, folder, port))
        proxy.down()


def tell(what: object) -> None:
    """A line to the parent process."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def check(proxy: Proxy, tracker: Tracker, name: str, folder: Path, port: int) -> int:
    """Heal the server, ship what is left, and compare; the number of points."""
    from mlflow import MlflowClient

    proxy.rule = lambda method, path, number: FINE
    proxy.down()
    proxy.up()
    tracker.status("FINISHED")
    report = tracker.close(HEALED_S)
    assert report.shipped, report
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{port}")
    (run,) = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    lines = [json.loads(line) for line in journal_path(folder).read_text().splitlines()]
    journaled = {(key, line["step"]): (value, line["t"]) for line in lines for key, value in line["m"].items()}
    assert shown(client, run.info.run_id) == journaled, name
    assert len(journaled) == len(NAMES) * len(lines)
    return len(journaled)


class Child:
    """A process of this module, asked line by line."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.tracking", *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line: str) -> object:
        """Its answer to a line."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        """Close its input and wait for it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


class Bench:
    """Worker, driver and server; the last two are awake in blocks with tracking and between cases only."""

    def __init__(self, leave: ExitStack, folder: Path) -> None:
        self.folder = folder
        os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # eight processes that poll for jobs of other parts
        port = leave.enter_context(mlflow_server(folder))
        self.servers = psutil.Process().children(recursive=True)
        self.worker, self.driver = Child("--worker"), Child("--driver", str(port))
        self.others = [*self.servers, psutil.Process(self.driver.process.pid)]
        leave.callback(self.driver.end)
        leave.callback(self.worker.end)
        leave.callback(self.wake)  # what is suspended does not end

    def wake(self) -> None:
        """Let driver and server run."""
        for other in self.others:
            other.resume()

    def block(self, place: Path | str, steps: int, awake: Sequence[psutil.Process] = ()) -> tuple[float, float]:
        """Mean CPU and wall seconds of a step while these processes run."""
        for other in awake:
            other.resume()
        took = self.worker.ask(f"{steps} {place}")
        for other in awake:
            other.suspend()
        assert isinstance(took, list)
        cpu, wall = zip(*took, strict=True)
        return statistics.mean(cpu), statistics.mean(wall)

    def spent(self) -> float:
        """CPU seconds of driver and server so far."""
        return sum(sum(p.cpu_times()[:2]) for p in self.others)

    def measure(self, name: str, pairs: int, steps: int) -> tuple[list[float], str]:
        """Logarithms of the ratios of CPU in the pairs of one case, and a sentence on them."""
        place: Path | str = OFF
        awake: list[psutil.Process] = []
        if name != OFF:
            place = self.folder / name
            self.driver.ask(f"{name} {place}")
            awake = self.others if name in REACHED else self.others[-1:]
            time.sleep(SETTLE_S)
        for other in self.others:
            other.suspend()
        logs: list[tuple[float, ...]] = []
        before, spent = self.block(OFF, steps), self.spent()
        for number in range(pairs):
            if number == pairs // 2 and name != OFF:
                self.others[-1].resume()
                self.driver.ask("half")
                self.others[-1].suspend()
                awake = self.others[-1:] if name == "dies-in-the-middle" else awake
            on = self.block(place, steps, awake)
            after = self.block(OFF, steps)
            logs.append(tuple(math.log(x / math.sqrt(a * b)) for x, a, b in zip(on, before, after, strict=True)))
            before = after
        spent = (self.spent() - spent) / (pairs * steps)
        self.wake()
        cpu, wall = (list(column) for column in zip(*logs, strict=True))
        points = self.driver.ask("end") if name != OFF else None
        told = f"{name}: CPU of a step {interval(cpu)}; wall {interval(wall)}"
        told += f"; driver and server {1e3 * spent:.2f} ms of CPU a step"
        return cpu, told if points is None else f"{told}; {points:,} points, each once, in a single run"


def interval(logs: list[float]) -> str:
    """Geometric mean of ratios with its bootstrapped 95 % interval, and their median, as percent above one.

    A plain mean of ratios would be above one where nothing differs, by the noise of what they are over.
    """
    draw = random.Random(0)
    means = sorted(statistics.fmean(draw.choices(logs, k=len(logs))) for _ in range(DRAWS))
    values = (statistics.fmean(logs), means[DRAWS // 40], means[-DRAWS // 40], statistics.median(logs))
    shares = [f"{100 * math.expm1(value):+.2f}" for value in values]
    return f"{shares[0]} % ({shares[1]} to {shares[2]}, median {shares[3]})"


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(pairs: int, steps: int) -> None:
    """All cases, then the cost of a line."""
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as leave:
        bench = Bench(leave, Path(temporary))
        step_s = bench.block(OFF, 20)[0]
        say(f"a step without tracking: {1e3 * step_s:.1f} ms of CPU; {pairs} pairs of {steps} steps a case")
        failing: list[float] = []
        for name in (OFF, *CASES):
            logs, told = bench.measure(name, pairs, steps)
            failing += logs if name not in (OFF, "healthy") else []
            say(told)
        say(f"all faults together: CPU of a step {interval(failing)}")
        say_cost_of_lines(Path(temporary), step_s)


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
    elif "--driver" in sys.argv:
        drive(int(sys.argv[-1]))
    else:
        numbers = [int(text) for text in sys.argv[1:]]
        main(*(numbers + [500, 1][len(numbers) :]))
