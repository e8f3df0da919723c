"""Runs `tests/gpu` and gives a line for each test, as soon as it has ended; those there is no time for are skipped."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.gpu.speed import Line
from tests.gpu.conftest import DEVICE, PARTS

NO_TIME = "no time left"
FEW = "mid or [1] or adamw or gradients or takes_part or sequence"
"""What a rehearsal runs, by words of the tests' names."""
FOLDER = Path(__file__).parents[2] / "gpu"
FIRST = ("training", "attention")
"""What matters most, if time runs out."""


class Recorder:
    """A plug-in of pytest that tells what became of each test.

    Args:
        tell: told of each.
        until: `time.monotonic()` after which no test begins.
    """

    def __init__(self, tell: Callable[[Line], None], until: float) -> None:
        self.tell, self.until = tell, until

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip what there is no time for."""
        if time.monotonic() > self.until:
            pytest.skip(NO_TIME)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tell how a test ended, or that it could not begin."""
        if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
            self.tell(
                {
                    "test": report.nodeid.rpartition("::")[2],
                    "outcome": "not run" if NO_TIME in str(report.longrepr) else report.outcome,
                    "seconds": report.duration,
                    "why": _why(report),
                }
            )


def _why(report: pytest.TestReport) -> str:
    if report.passed:
        return ""
    if report.skipped:
        return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
    crash: Any = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr)[:500].replace("\n", " ")


def _files() -> list[str]:
    names = sorted(path.stem.removeprefix("test_") for path in FOLDER.glob("test_*.py"))
    return [str(FOLDER / f"test_{name}.py") for name in (*FIRST, *(n for n in names if n not in FIRST))]


def run_tests(tell: Callable[[Line], None], until: float, parts: Path, device: str, *, few: bool = False) -> str:
    """Run them; a word on how it went.

    Args:
        tell: told of each test.
        until: `time.monotonic()` after which no test begins.
        parts: folder of networks and packs.
        device: `cuda` or `cpu`.
        few: whether one fusion stands for all, and a few lengths for all.
    """
    os.environ[DEVICE], os.environ[PARTS] = device, str(parts)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # of that machine, made for another pytest perhaps
    count: dict[str, int] = {}

    def counted(line: Line) -> None:
        count[line["outcome"]] = count.get(line["outcome"], 0) + 1
        tell(line)

    # By themselves: the settings and fixtures of other tests are not carried.
    alone = ["-c", os.devnull, "--rootdir", str(FOLDER), "--confcutdir", str(FOLDER), "-p", "no:cacheprovider"]
    words = [
        *alone,
        "-o",
        "markers=gpu",
        "-q",
        "--no-header",
        "--tb=short",
        *_files(),
        *(["-k", FEW] if few else []),
    ]
    code = pytest.main(words, plugins=[Recorder(counted, until)])
    told = ", ".join(f"{number} {outcome}" for outcome, number in sorted(count.items()))
    return f"{'done' if code in (0, 1) else f'pytest ended with {code}'}: {told or 'no test was found'}"
