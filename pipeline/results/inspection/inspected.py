"""What `inspect` gives back in Python: the facts, and their page for a notebook or a file."""

from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import final

from interlace.results.inspection.facts import Facts
from interlace.results.inspection.page import render
from interlace.results.notebook import framed


@final
class Inspected:
    """The page of what a recipe's data holds; a notebook shows it.

    Args:
        facts: of each split.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    @cached_property
    def page(self) -> str:
        """The page as one HTML document that needs nothing else."""
        return render(self.facts)

    @property
    def warnings(self) -> list[str]:
        """What looks wrong with the data."""
        return list(self.facts.warnings())

    def write(self, path: str | PathLike[str]) -> Path:
        """Write the page to a file, whose folder is made."""
        out = Path(path)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(self.page, encoding="utf-8", errors="replace")
        return out

    def __repr__(self) -> str:
        rows = ", ".join(f"{name} {split.manifest.num_rows:,} rows" for name, split in self.facts.splits.items())
        return f"Inspected({self.facts.name}: {rows}; {len(self.warnings)} warnings)"

    def _repr_html_(self) -> str:
        return framed(self.page)
