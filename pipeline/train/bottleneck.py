"""What binds a run, in one sentence: from the times of its last steps and the CPUs that data tasks may use."""

from collections.abc import Mapping, Sequence

WAITING = 0.05
"""Share of the time spent waiting for data from which on the data stage is what binds."""
AT_WORK = 0.6
"""Share of the data CPUs that must be busy for decoding, and not storage, to be what binds."""


def bottleneck(steps: Sequence[Mapping[str, float]], data_cpus: float | None) -> str:
    """One sentence.

    Args:
        steps: metrics of recent steps, by journal key.
        data_cpus: CPUs left to data tasks, where known.
    """
    seconds = sum(m["step_s"] for m in steps)
    waits = sum(m["data/wait_s"] for m in steps) / seconds
    busy = sum(m.get("data/cpu_s", 0.0) for m in steps) / seconds
    of = f" of {data_cpus:g}" if data_cpus else ""
    told = f"data tasks keep {busy:.1f}{of} CPUs busy, workers wait for data {waits:.0%} of the time"
    if waits < WAITING:
        return f"training binds: {told}{_slow_rank(steps)}"
    if data_cpus and busy < AT_WORK * data_cpus:
        return f"reading binds, not decoding: {told}; storage is slow, or too few windows are read at a time"
    return f"decoding binds: {told}; more CPUs for data tasks, or `data.cache_gb`, would help"


def _slow_rank(steps: Sequence[Mapping[str, float]]) -> str:
    """A rank that the others wait for, if one does so in most steps."""
    several = [m for m in steps if "rank/slowest" in m]
    if not several:
        return ""
    slow = sum(m["rank/slowest_s"] for m in several) / max(sum(m["rank/mean_s"] for m in several), 1e-9)
    ranks = [int(m["rank/slowest"]) for m in several]
    often = max(set(ranks), key=ranks.count)
    if slow < 1.2 or ranks.count(often) < 0.6 * len(ranks):
        return ""
    return f"; rank {often} is {slow - 1:.0%} slower than the mean and holds the others up"
