"""`interlace evaluate`: a run's model over a split, read in this process."""

from pathlib import Path

from interlace.jobs.listener import Shown
from interlace.results.evaluation import evaluate_run


def run_evaluate(place: Path, split: str, overrides: list[str], out: Path | None) -> None:
    """Evaluate and print the table. Raises InterlaceError."""
    evaluate_run(place, split, overrides, out, Shown())
