"""What the command line prints: one console, and how errors end a command."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from interlace.cluster.errors import ClusterError
from interlace.contract.errors import InterlaceError, StoppedError

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

BAD_INPUT = 2
"""Exit code of a command that stopped because of its input."""

RESUME_ME = 75
"""Exit code of a command that SIGTERM ended (EX_TEMPFAIL of sysexits.h): the same command goes on."""

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


@contextmanager
def reported_errors() -> Iterator[None]:
    """Print errors of the input without a traceback and exit with 2; with 75 after SIGTERM, 130 after Ctrl-C."""
    terminated = threading.Event()
    _interrupt_on_sigterm(terminated)
    try:
        yield
    except (InterlaceError, ClusterError, ConnectionError) as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}")
        raise typer.Exit(BAD_INPUT) from error
    except StoppedError as error:
        errors.print(escape(str(error)))
        raise typer.Exit(INTERRUPTED if error.by_hand else RESUME_ME) from None
    except KeyboardInterrupt:
        errors.print("[bold]stopped[/]; the same command goes on from the last checkpoint")
        raise typer.Exit(RESUME_ME if terminated.is_set() else INTERRUPTED) from None


def _interrupt_on_sigterm(terminated: threading.Event) -> None:
    """Make SIGTERM do what Ctrl-C does at the moment, also where SIGINT is blocked as it is in a job of Ray."""
    if threading.current_thread() is not threading.main_thread():
        return

    def handle(number: int, frame: Any) -> None:
        terminated.set()
        now = signal.getsignal(signal.SIGINT)
        if not callable(now):
            raise KeyboardInterrupt
        now(signal.SIGINT, frame)

    signal.signal(signal.SIGTERM, handle)


def say(text: str) -> None:
    """Print a line as it is."""
    console.print(escape(text))
