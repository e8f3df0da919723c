"""What the command line prints: one console, and how errors end a command."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from cluster.preflight import DoesNotFitError
from pipeline.errors import InterlaceError

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

BAD_INPUT = 2
"""Exit code of a command that stopped because of its input."""


@contextmanager
def reported_errors() -> Iterator[None]:
    """Print errors that are the input's fault without a traceback and exit with 2; Ctrl-C exits with 130."""
    try:
        yield
    except (InterlaceError, DoesNotFitError, ConnectionError) as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}")
        raise typer.Exit(BAD_INPUT) from error
    except KeyboardInterrupt:
        errors.print("[bold]stopped[/]; the same command goes on from the last checkpoint")
        raise typer.Exit(130) from None


def say(text: str) -> None:
    """Print a line as it is."""
    console.print(escape(text))
