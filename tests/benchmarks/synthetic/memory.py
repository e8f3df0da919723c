"""Memory of this process as Linux counts it, in MB."""

from collections.abc import Mapping
from pathlib import Path

STATUS = Path("/proc/self/status")
NAMES = {"VmRSS": "rss", "RssAnon": "own", "VmHWM": "peak"}


def memory() -> Mapping[str, float]:
    """`rss`: what is in memory; `own`: of that what isn't shared or of a file; `peak`: the most that was in memory."""
    lines = (line.split(":") for line in STATUS.read_text(encoding="utf-8").splitlines() if line.count(":") == 1)
    return {NAMES[name]: int(value.split()[0]) * 1024 / 1e6 for name, value in lines if name in NAMES}


def forget_peak() -> None:
    """Begin to count the peak anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
