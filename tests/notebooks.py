"""A script of percent cells (`# %%`) as a notebook, run without a window, as HTML."""

import re
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import HTMLExporter
from nbconvert.preprocessors import ExecutePreprocessor


def cells_of(script: str) -> list[tuple[str, str]]:
    """Kind (`code` or `markdown`) and text of every cell; a heading behind `# %%` stays as a comment."""
    found = []
    for part in re.split(r"^# %%", script, flags=re.MULTILINE)[1:]:
        first, _, body = part.partition("\n")
        if first.strip() == "[markdown]":
            found.append(("markdown", re.sub(r"^# ?", "", body, flags=re.MULTILINE).strip()))
        else:
            head = f"# {first.strip()}\n" if first.strip() else ""
            found.append(("code", f"{head}{body}".strip()))
    return found


def notebook_of(script: str) -> Any:
    """The notebook of a script."""
    make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}
    return nbformat.v4.new_notebook(cells=[make[kind](text) for kind, text in cells_of(script)])


def executed(script: str, folder: Path, timeout_s: int) -> Any:
    """The notebook after all its cells ran in a kernel, in a folder. Raises CellExecutionError."""
    notebook = notebook_of(script)
    ExecutePreprocessor(timeout=timeout_s, kernel_name="python3").preprocess(notebook, {"metadata": {"path": folder}})
    return notebook


def html_of(notebook: Any) -> str:
    """The page that people are given of a notebook."""
    body: str = HTMLExporter().from_notebook_node(notebook)[0]
    return body
