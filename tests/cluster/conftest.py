"""A real head with its Jobs server for all tests here, and `interlace` as a client that has nothing but the token."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.headnode import Head, head

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def head_node() -> Iterator[Head]:
    """The head, with 4 CPUs."""
    with head(4) as started:
        yield started


@pytest.fixture
def client(head_node: Head, tmp_path: Path) -> Run:
    """Run `interlace ARGS` against the head and give back its exit code and what it printed."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "jobs", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
            check=False,
            env={**head_node.environment(tmp_path), "RAY_API_SERVER_ADDRESS": head_node.address, **environment},
        )

    return run
