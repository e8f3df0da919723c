"""Whole commands in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def interlace(tmp_path: Path) -> Command:
    """Start `interlace ARGS` in a process group of its own; output goes to a file beside the test's data."""

    def start(*arguments: str) -> subprocess.Popen[str]:
        with (tmp_path / "command.log").open("a", encoding="utf-8") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "interlace.jobs", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                env={**os.environ, "COLUMNS": "160"},
            )

    return start
