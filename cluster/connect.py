"""Connecting to Ray: the one place that decides between a Ray of our own, a given address, and the job we are in."""

import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import ray_constants

SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # notice a dead worker in half a second instead of two
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}
"""Environment of Ray's processes; what the user has set wins."""

LOCAL_SETTINGS = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody drains this host: a process less to start
    "RAY_TRAIN_METRICS_ENABLED": "0",  # for dashboards, and a Ray of our own has none
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere unless the user wants it
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # says on Linux too: no other hosts, so all servers listen on loopback
}
"""The same for a Ray of our own on this host alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What a node of the cluster has."""

    cpus: float
    gpus: float
    labels: Mapping[str, str]

    def has(self, labels: Mapping[str, str]) -> bool:
        """Whether it has all these labels."""
        return labels.items() <= self.labels.items()


def living(listed: Iterable[Mapping[str, Any]]) -> tuple[Node, ...]:
    """The nodes that are alive, of those that `ray.nodes()` lists."""
    return tuple(
        Node(cpus=n["Resources"].get("CPU", 0.0), gpus=n["Resources"].get("GPU", 0.0), labels=n.get("Labels", {}))
        for n in listed
        if n["Alive"]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What Ray has: its nodes, and whether it was started here."""

    embedded: bool
    nodes: tuple[Node, ...]

    def with_labels(self, labels: Mapping[str, str]) -> tuple[Node, ...]:
        """The nodes that have all these labels."""
        return tuple(n for n in self.nodes if n.has(labels))


def connect(address: str | None = None, local_cpus: int | None = None) -> Cluster:
    """Connect this process to Ray, once; a second call returns what is there.

    Args:
        address: `HOST:PORT` of a running cluster or `auto`; without it `RAY_ADDRESS` decides, and without that a Ray
            of our own is started, bound to this host. Inside a submitted job its own cluster is joined, whatever the
            address says.
        local_cpus: CPUs of a Ray of our own; the machine's, at least 2, where not given.

    Raises:
        ConnectionError: there is no cluster at the address.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it reports every execution; `interlace` says what matters
    target = target_of(address, os.environ)
    if not ray.is_initialized():
        with _own_sigterm():
            if target:
                ray.init(
                    address=target,
                    log_to_driver=False,
                    logging_level="ERROR",
                    runtime_env={"env_vars": {k: os.environ.get(k, v) for k, v in SETTINGS.items()}},
                )
            else:
                _start(local_cpus or max(2, len(os.sched_getaffinity(0))))
    return Cluster(embedded=not target, nodes=living(ray.nodes()))


def target_of(address: str | None, environment: Mapping[str, str]) -> str | None:
    """The cluster to join, None for a Ray of our own: that of the job we are in, the given one, or `RAY_ADDRESS`."""
    named = environment.get("RAY_ADDRESS") or None
    return (named or "auto") if in_job(environment) else (address or named)


def in_job(environment: Mapping[str, str]) -> bool:
    """Whether this process is the driver of a submitted job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in environment


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, which Ray replaces by one that exits at once, also while Ray starts."""
    before = signal.getsignal(signal.SIGTERM)
    restored = before is not None and threading.current_thread() is threading.main_thread()
    try:
        yield
    except SystemExit as ended:
        if not (restored and callable(before) and ended.code == signal.SIGTERM):
            raise
        before(signal.SIGTERM, None)  # raises what this process makes of it
        raise
    finally:
        if restored:
            signal.signal(signal.SIGTERM, before)


def _start(cpus: int) -> None:
    for key, value in (SETTINGS | LOCAL_SETTINGS).items():
        os.environ.setdefault(key, value)
    # Ray read this variable when it was imported. Without it 127.0.0.1 is replaced by the host's outer address, and GCS
    # and raylet listen on every interface.
    ray_constants.ENABLE_RAY_CLUSTER = os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] not in ("0", "false")
    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
    )
