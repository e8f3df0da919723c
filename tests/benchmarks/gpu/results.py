"""What the kit found, as JSON and as a table, written anew after each part."""

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.gpu.speed import Line, verdicts

JSON, TABLE = "results.json", "results.md"
AIMS = {"mfu": 0.5, "over padded": 2.5, "over bucketed": 1.25, "waiting": 0.01, "reads": 1.0}
"""On one H200: MFU at 150 M and 1 B parameters, samples a second over those of the other loops, share of time that the
GPU waits for data, host reads a step (the report's)."""
NO_AIM = {("20M", "mfu")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the kit: its name, how it ended, its seconds, its figures."""

    name: str
    status: str
    seconds: float
    lines: tuple[Line, ...]


def machine() -> dict[str, str]:
    """What it ran on."""
    found = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    if torch.cuda.is_available():
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda), "driver": _driver()}
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
    return found


def _driver() -> str:
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "not known"


def write(folder: Path, about: Mapping[str, str], parts: Sequence[Part]) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = {"machine": about, "parts": [asdict(part) for part in parts]}
    (folder / JSON).write_text(json.dumps(tree, indent=1), encoding="utf-8")
    (folder / TABLE).write_text(markdown(about, parts), encoding="utf-8")


def markdown(about: Mapping[str, str], parts: Sequence[Part]) -> str:
    """All figures in tables; the aims first."""
    text = ["# GPU kit", "", ", ".join(f"{name} {value}" for name, value in about.items()), ""]
    text += table([{"part": p.name, "status": p.status, "seconds": round(p.seconds, 1)} for p in parts])
    aims = table([line for part in parts for line in held(part)])
    text += ["## Aims", "", *(["A rehearsal says nothing of speed.", ""] if "rehearsal" in about else aims)]
    for part in parts:
        text += [f"## {part.name}", ""]
        for names in dict.fromkeys(tuple(line) for line in part.lines):
            text += table([line for line in part.lines if tuple(line) == names])
    return "\n".join(text)


def held(part: Part) -> list[Line]:
    """Figures of a part beside the aims that there are for them."""
    own = [line for line in part.lines if line.get("loop", "interlace") == "interlace"]
    figures: dict[str, Any] = {k: v for line in own for k, v in line.items() if k in ("waiting", "reads", "mfu")}
    if any("loop" in line for line in part.lines):
        figures |= verdicts(part.lines)
    return [
        {"part": part.name, "figure": name, "found": figures[name], "aim": AIMS[name]}
        for name in figures
        if (part.name, name) not in NO_AIM
    ]


def table(lines: Sequence[Line]) -> list[str]:
    """Lines of the same figures in Markdown."""
    if not lines:
        return ["nothing", ""]
    rows = [list(lines[0]), ["---"] * len(lines[0]), *([said(v) for v in line.values()] for line in lines)]
    return [*(f"| {' | '.join(row)} |" for row in rows), ""]


def said(value: Any) -> str:
    """A figure as a person reads it."""
    if value is None:
        return "not known here"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {said(own)}" for name, own in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value).replace("|", "/")
