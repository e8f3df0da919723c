"""The folder of a search: what was suggested, what came of it. Files only, no Ray: they are the truth about trials.

    <storage>/sweeps/<name>/  sweep.json  recipe.yaml  search.yaml  metrics.jsonl  report/
        trials/007/  trial.json  plan.json  metrics.jsonl  events.jsonl  usage.jsonl  checkpoints/  result.json

`trial.json` (what was suggested) is written before a trial starts and `result.json` once it has ended for good; a trial
that has the first and not the second goes on with the next start of the same command. Each file appears in one step.
"""

import hashlib
import json
import math
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from interlace.contract.better import is_better
from interlace.contract.errors import ResumeError
from interlace.data.plan.plan import PLAN
from interlace.recipe.identity import digest, to_yaml
from interlace.recipe.recipe import Recipe
from interlace.store.journal import journal_path, read
from interlace.store.lock import DRIVER, held
from interlace.store.places import child_of, sweeps_of
from interlace.tune.search import Search

Status = Literal["waiting", "unfinished", "finished", "stopped", "failed"]
"""Suggested only; begun; trained to its end; ended by the scheduler; ended by an error of its own."""

ENDED = ("finished", "stopped", "failed")

FREE_TO_CHANGE = frozenset({"trials", "time_s"})
"""Settings of a search that may be others when it goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One evaluation of a trial: steps done, share of its length, value of the search's metric, unix milliseconds."""

    step: int
    share: float
    value: float
    time_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """All that the folder of a trial says.

    Args:
        number: of the trial.
        overrides: suggested values by path.
        status: see `Status`.
        reason: why it failed or was stopped, else empty.
        scores: evaluations in order.
        num_steps: of its whole length; 0 before it began.
        cpu_s, wall_s: of its process, over all starts that came to an end by themselves.
    """

    number: int
    overrides: Mapping[str, Any]
    status: Status
    reason: str
    scores: tuple[Score, ...]
    num_steps: int
    cpu_s: float
    wall_s: float

    @property
    def ended(self) -> bool:
        """Whether it will never go on."""
        return self.status in ENDED

    def value(self, goal: "Goal") -> float | None:
        """What it is compared by: its last or its best finite evaluation, as `train.model_from` says."""
        finite = [s.value for s in self.scores if math.isfinite(s.value)]
        if not finite or self.status == "failed":
            return None
        return finite[-1] if goal.last else (max if goal.mode == "max" else min)(finite)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What trials are compared by.

    Args:
        metric: `task/metric` on the validation split.
        mode: which way is better.
        last: the last evaluation of a trial counts, not its best.
    """

    metric: str
    mode: Literal["max", "min"]
    last: bool

    def better(self, one: float, other: float | None) -> bool:
        """Whether a value beats another, or none."""
        return is_better(one, other, higher=self.mode == "max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """An open search: its name, its folder, a key that no other has, and whether it has trials behind it."""

    name: str
    folder: Path
    key: str
    resumed: bool

    @property
    def report(self) -> Path:
        """Where tables, plots and the best recipe go."""
        return self.folder / "report"

    def trial(self, number: int) -> Path:
        """The folder of a trial."""
        return self.folder / "trials" / f"{number:03d}"

    def numbers(self) -> list[int]:
        """Trials that were suggested."""
        return sorted(int(p.parent.name) for p in (self.folder / "trials").glob("*/trial.json"))

    def suggest(self, number: int, overrides: Mapping[str, Any]) -> None:
        """Keep what a trial is to try."""
        write_json(self.trial(number) / "trial.json", {"number": number, "overrides": dict(overrides)})

    def read(self, number: int, goal: Goal) -> Trial:
        """What is known of a trial now."""
        folder = self.trial(number)
        plan, result = read_json(folder / "plan.json"), read_json(folder / "result.json")
        num_steps = int(plan.get("num_steps", 0))
        usage = [json.loads(x) for x in _text(folder / "usage.jsonl").splitlines() if x.endswith("}")]
        return Trial(
            number=number,
            overrides=read_json(folder / "trial.json")["overrides"],
            status=result.get("status", "unfinished" if plan else "waiting"),
            reason=result.get("reason", ""),
            scores=tuple(_scores(folder, f"val/{goal.metric}", num_steps)),
            num_steps=num_steps,
            cpu_s=sum(x["cpu_s"] for x in usage),
            wall_s=sum(x["wall_s"] for x in usage),
        )

    def trials(self, goal: Goal) -> list[Trial]:
        """All trials that were suggested."""
        return [self.read(number, goal) for number in self.numbers()]

    def tidy(self, goal: Goal) -> None:
        """Delete checkpoints that nobody needs: of stopped and failed trials, but not of the best that has ended."""
        ended = [t for t in self.trials(goal) if t.ended]
        best = best_trial(ended, goal)
        for trial in ended:
            if trial.status != "finished" and trial is not best:
                shutil.rmtree(self.trial(trial.number) / "checkpoints", ignore_errors=True)


def end_trial(folder: Path, status: Status, reason: str = "") -> None:
    """Say how a trial ended, once: the first word stays."""
    if not (folder / "result.json").exists():
        write_json(folder / "result.json", {"status": status, "reason": reason})


def best_trial(trials: list[Trial], goal: Goal) -> Trial | None:
    """The best of the finished trials; while none is, the best of those that came furthest; the first of equals."""
    scored = [t for t in trials if t.value(goal) is not None]
    finished = [t for t in scored if t.status == "finished"]
    furthest = max((t.scores[-1].share for t in scored), default=0.0)
    best: Trial | None = None
    for trial in finished or [t for t in scored if t.scores[-1].share == furthest]:
        value = trial.value(goal)
        if value is not None and goal.better(value, best.value(goal) if best is not None else None):
            best = trial
    return best


@contextmanager
def open_sweep(
    recipe: Recipe, search: Search, data: Mapping[str, str], name: str | None = None, *, fresh: bool = False
) -> Iterator[Sweep]:
    """Make or continue the search of this name; only one process may hold it.

    Args:
        recipe: that trials start from.
        search: its section.
        data: digest of each split's manifest.
        name: of the search; the recipe's name and a digest where not given.
        fresh: begin anew under the next free name.

    Raises:
        ResumeError: the search there has another recipe, space or data, or another process holds it.
    """
    sweeps = sweeps_of(recipe.storage)
    identity = _identity(recipe, search, data)
    name = name or f"{recipe.name}-{_digest(identity)}"
    if fresh and (sweeps / name).exists():
        name = next(f"{name}-{n}" for n in range(2, 1_000_000) if not (sweeps / f"{name}-{n}").exists())
    folder = child_of(sweeps, name)
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / DRIVER):
        before = read_json(folder / "sweep.json")
        if before:
            _check_same(before, identity, name)
        else:
            (folder / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
            before = {"key": uuid.uuid4().hex, "created": time.time(), **identity}
            write_json(folder / "sweep.json", before)
        section = search.model_dump(mode="json", exclude_none=True)
        (folder / "search.yaml").write_text(yaml.safe_dump({"search": section}, sort_keys=False), encoding="utf-8")
        made = Sweep(name=name, folder=folder, key=str(before["key"]), resumed=False)
        yield replace(made, resumed=bool(made.numbers()))


def write_json(path: Path, value: Any) -> None:
    """Write a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(value, indent=1), encoding="utf-8")
    draft.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """A file's mapping; an empty one where there is no file."""
    text = _text(path)
    return dict(json.loads(text)) if text else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _scores(folder: Path, key: str, num_steps: int) -> Iterator[Score]:
    offset, after = -1, 0
    while after != offset:
        offset = after
        points, after = read(journal_path(folder), offset)
        for point in points:
            if key in point.metrics:
                share = point.step / max(num_steps, 1)
                yield Score(step=point.step, share=share, value=point.metrics[key], time_ms=point.time_ms)


def _identity(recipe: Recipe, search: Search, data: Mapping[str, str]) -> dict[str, Any]:
    section = {k: v for k, v in search.model_dump(mode="json").items() if k not in FREE_TO_CHANGE}
    return {"recipe": digest(recipe), "search": section, "data": dict(data), "plan": PLAN}


def _digest(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def _check_same(before: Mapping[str, Any], identity: Mapping[str, Any], name: str) -> None:
    now = json.loads(json.dumps(identity))
    if before.get("plan") != now["plan"]:
        raise ResumeError(
            f"search `{name}` was begun by a version that made other packs of the same data, so its trials can't be"
            f" compared with new ones. Begin anew: --fresh"
        )
    differences = [
        f"{part}.{key}: the search has {before[part].get(key)!r}, now it is {now[part].get(key)!r}"
        for part in ("search", "data")
        for key in sorted({*before[part], *now[part]})
        if before[part].get(key) != now[part].get(key)
    ]
    if before["recipe"] != now["recipe"]:
        differences.append(f"recipe: the search has digest {before['recipe']}, the recipe now has {now['recipe']}")
    if differences:
        listed = "\n  - ".join(["", *differences])
        raise ResumeError(
            f"search `{name}` can't go on with this recipe:{listed}\nUse another --run-name, or --fresh to begin anew"
        )
