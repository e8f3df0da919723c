"""What a cluster is using now: CPUs, object store, spilled bytes. For whoever watches a run."""

from dataclasses import dataclass

import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Of all nodes together.

    Args:
        nodes: alive.
        cpus, cpus_reserved: there, and taken by tasks and actors.
        store_bytes, store_used_bytes: of object stores.
        spilled_bytes: written to disk since the cluster's start because object stores were full.
    """

    nodes: int
    cpus: float
    cpus_reserved: float
    store_bytes: int
    store_used_bytes: int
    spilled_bytes: int


def usage(timeout_s: float = 5.0) -> Usage | None:
    """What is used now; None where the cluster does not answer in time."""
    try:
        context = ray.get_runtime_context()
        reply = get_memory_info_reply(get_state_from_address(context.gcs_address), timeout_seconds=timeout_s)
        there, free = ray.cluster_resources(), ray.available_resources()
    except Exception:
        return None  # a cluster that is going down; the next look tells more
    stats = reply.store_stats
    return Usage(
        nodes=sum(node["Alive"] for node in ray.nodes()),
        cpus=there.get("CPU", 0.0),
        cpus_reserved=there.get("CPU", 0.0) - free.get("CPU", 0.0),
        store_bytes=stats.object_store_bytes_avail,
        store_used_bytes=stats.object_store_bytes_used,
        spilled_bytes=stats.spilled_bytes_total,
    )
