"""Progress of a run, read from its folder while workers write there: a bar on a terminal, plain lines elsewhere."""

import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import psutil
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from interlace.cluster.preflight import Allotment
from interlace.cluster.usage import Usage, usage
from interlace.jobs.console import console, say
from interlace.jobs.silence import Silence, at_work
from interlace.store.journal import Point, journal_path, read
from interlace.train.bottleneck import bottleneck

POLL_S = 0.5
PLAIN_EVERY_S = 10.0
COMMAND_BEGAN = psutil.Process().create_time()
"""When this process began, unix seconds: events are printed with the time since."""
WINDOW = 50
"""Steps over which rates are averaged."""

PLACE, CLUSTER = "place.json", "cluster.jsonl"
"""Files of a run folder for whoever watches: where the run was started, and what the cluster used, line by line."""
LOOK_AT_CLUSTER_S = 10.0


def since_begin() -> float:
    """Seconds since this process began."""
    return time.time() - COMMAND_BEGAN


@contextmanager
def watched(run_folder: Path, num_steps: int, allotment: Allotment) -> Iterator[None]:
    """Show the progress of a run while the body runs, and at its end what bound it."""
    place = {"num_steps": num_steps, "data_cpus": allotment.data_cpus, "text": allotment.text}
    (run_folder / PLACE).write_text(json.dumps(place), encoding="utf-8")
    stop = threading.Event()
    watch = _Watch(run_folder, num_steps, allotment)
    thread = threading.Thread(target=watch.follow, args=(stop,), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if watch.recent:
            say(bottleneck(watch.recent, allotment.data_cpus))


def waits_for(silent: float, plan: str, now: Usage, *, workers_came: bool) -> str:
    """What a run may wait for whose workers say nothing.

    Args:
        silent: seconds.
        plan: what the run reserves, in a sentence.
        now: of the cluster.
        workers_came: whether workers have been there before.
    """
    there = f"{plan}; {at_work(now)}"
    if not workers_came:
        return (
            f"no worker for {silent:.0f} s: {there}. Other jobs may hold them, or the workers' processes start slowly"
        )
    return (
        f"nothing from the workers for {silent:.0f} s: {there}. A step or an evaluation may be long; or workers were"
        " lost, and new ones find no place: nodes are gone, or other jobs hold them"
    )


class _Watch:
    """Follows journal and events of a run."""

    def __init__(self, run_folder: Path, num_steps: int, allotment: Allotment) -> None:
        self.allotment = allotment
        self.cluster = run_folder / CLUSTER
        self.journal = journal_path(run_folder)
        self.events = run_folder / "events.jsonl"
        self.num_steps = num_steps
        self.offset = self.journal.stat().st_size if self.journal.exists() else 0
        self.events_read = self.events.stat().st_size if self.events.exists() else 0
        self.recent: deque[Mapping[str, float]] = deque(maxlen=WINDOW)
        self.evaluation: dict[str, float] = {}
        self.step = 0
        self.began = time.monotonic()
        self.first_step: tuple[int, float] | None = None
        self.printed = self.looked = self.began
        self.workers_came = False
        self.silence = Silence()

    def follow(self, stop: threading.Event) -> None:
        """Poll until told to stop, then once more."""
        with Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=False,
        ) as bar:
            task = bar.add_task("starting workers", total=self.num_steps)
            while True:
                last = stop.wait(POLL_S)
                self._read()
                self._look_at_cluster()
                bar.update(task, completed=self.step, description=self._numbers())
                if not console.is_terminal:
                    self._print_plain(last)
                if last:
                    return

    def _read(self) -> None:
        points, self.offset = read(self.journal, self.offset)
        for point in points:
            self._take(point)
        if points:
            self.silence.heard()
        if self.events.exists():
            with self.events.open(encoding="utf-8") as file:
                file.seek(self.events_read)
                lines = file.read()
            whole = lines[: lines.rfind("\n") + 1]
            self.events_read += len(whole.encode())
            for line in whole.splitlines():
                event = json.loads(line)
                self.workers_came = True
                self.silence.heard()
                say(f"[{event['t'] - COMMAND_BEGAN:.1f} s, rank {event['rank']}] {event['text']}")

    def _look_at_cluster(self) -> None:
        """Note what the cluster uses, and say what a run without workers waits for."""
        now = time.monotonic()
        if now - self.looked < LOOK_AT_CLUSTER_S:
            return
        self.looked = now
        if (found := usage()) is None:
            return
        with self.cluster.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"t": time.time(), **asdict(found)}) + "\n")
        if (silent := self.silence.due()) is not None:
            say(waits_for(silent, self.allotment.text, found, workers_came=self.workers_came))

    def _take(self, point: Point) -> None:
        self.step = max(self.step, point.step)
        if "train/loss" in point.metrics and point.step > 1:  # the first step waits for the start of data tasks
            self.recent.append(point.metrics)
            self.first_step = self.first_step or (point.step, time.monotonic())
        self.evaluation |= {k: v for k, v in point.metrics.items() if k.startswith("val/")}

    def _numbers(self) -> str:
        if not self.recent:
            return "starting workers"
        seconds = sum(m["step_s"] for m in self.recent)
        samples = sum(m["samples_per_s"] * m["step_s"] for m in self.recent)
        waiting = sum(m["data/wait_s"] for m in self.recent)
        parts = [
            f"loss {self.recent[-1]['train/loss']:.3f}",
            f"{samples / seconds:.0f} samples/s",
            f"waits for data {waiting / seconds:.0%}",
        ]
        main = next((f"{k} {v:.3f}" for k, v in self.evaluation.items() if not k.endswith("loss")), None)
        return "  ".join([*parts, *([main] if main else [])])

    def _print_plain(self, last: bool) -> None:
        now = time.monotonic()
        if not last and now - self.printed < PLAIN_EVERY_S:
            return
        self.printed = now
        left = ""
        if self.first_step is not None and self.step > self.first_step[0]:
            rate = (now - self.first_step[1]) / (self.step - self.first_step[0])
            left = f"  left {rate * (self.num_steps - self.step):.0f} s"
        say(f"step {self.step}/{self.num_steps}  {self._numbers()}  {now - self.began:.0f} s{left}")
