"""Looking at a cluster before a job starts there: what its nodes see, what they lack, what would fail after an hour.

A probe runs on up to two nodes (the driver's and another): each writes a file into the storage folder and looks for
the other's, and tells its versions, its free disk for spilling, and whether it reaches the tracking server. `assess` is
a pure function from what they say to sentences. Where workers need GPUs, a task with as many asks torch for them.
"""

import os
import platform
import shutil
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from interlace.cluster.errors import ClusterError

MOST_NODES = 2
CONNECT_TIMEOUT_S = 5.0
GPU_WAIT_S = 60.0
NODE_WAIT_S = 120.0
"""Longest wait for what a node says: a mount whose server is gone answers never."""
LEAST_SPILL_BYTES = 5 << 30
LEAST_STORAGE_BYTES = 1 << 30


class NotReadyError(ClusterError):
    """A cluster on which the job would fail later; every reason has a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """What a node sees.

    Args:
        node: its name.
        write_error: why it can't write into the storage folder; None where it can.
        storage_free: bytes that storage has left.
        spill_free: bytes left where Ray spills.
        tracking_error: why it can't reach the tracking server; None where it can or there is none.
        memory: bytes it has in all.
        python, ray_version: its versions.
    """

    node: str
    write_error: str | None
    storage_free: int
    spill_free: int
    tracking_error: str | None
    memory: int
    python: str
    ray_version: str


def probe(
    storage: str, tracking_uri: str | None, wait_s: float = NODE_WAIT_S
) -> tuple[tuple[NodeReport, ...], tuple[str, ...]]:
    """What up to two nodes of the cluster see, and the nodes that did not see what the others wrote.

    Raises:
        NotReadyError: a node did not answer in `wait_s` seconds, or was lost.
    """
    names = {n["NodeID"]: str(n["NodeManagerHostname"]) for n in ray.nodes() if n["Alive"]}
    here = ray.get_runtime_context().get_node_id()
    chosen = sorted(names, key=lambda node: node != here)[:MOST_NODES]
    temp = ray.get_runtime_context().get_temp_dir()
    folder = Path(storage) / f".probe-{uuid.uuid4().hex[:8]}"
    look_at, find = ray.remote(num_cpus=0)(look), ray.remote(num_cpus=0)(seen)

    def ask(task: Any, words: Callable[[str], tuple[Any, ...]]) -> list[Any]:
        asked = {f"{names[n]} ({n[:8]})": task.options(**_on(n)).remote(*words(n)) for n in chosen}
        return answers(asked, storage, wait_s)

    reports: list[NodeReport] = ask(look_at, lambda node: (str(folder), node, tracking_uri, temp))
    found: list[list[str]] = ask(find, lambda _: (str(folder),))
    # Only once all have answered: else the driver would wait on the mount too.
    shutil.rmtree(folder, ignore_errors=True)
    wrote = {n for n, report in zip(chosen, reports, strict=True) if report.write_error is None}
    blind = tuple(
        report.node
        for node, report, files in zip(chosen, reports, found, strict=True)
        if report.write_error is None and wrote - set(files)
    )
    return tuple(reports), blind


def answers(asked: Mapping[str, ray.ObjectRef], storage: str, wait_s: float) -> list[Any]:
    """What nodes say, in order.

    Args:
        asked: tasks by the name of their node.
        storage: folder that they look at.
        wait_s: longest wait for all of them.

    Raises:
        NotReadyError: a node did not answer in time, or was lost.
    """
    _, waiting = ray.wait(list(asked.values()), num_returns=len(asked), timeout=wait_s)
    if silent := [node for node, ref in asked.items() if ref in waiting]:
        raise NotReadyError(
            f"node {', '.join(silent)} did not answer within {wait_s:g} s: look whether its `storage` {storage}"
            " can be listed there (a mount whose server is gone waits for ever) and whether processes start on it"
        )
    said = []
    for node, ref in asked.items():
        try:
            said.append(ray.get(ref))
        except ray.exceptions.RayTaskError:
            raise  # a fault of what was asked, with its traceback
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            raise NotReadyError(
                f"node {node} was lost while it was looked at ({type(error).__name__}: {reason}): the same command"
                " begins anew"
            ) from error
    return said


def assess(
    reports: Sequence[NodeReport], blind: Sequence[str], storage: str, memory: int, driver: tuple[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What stops the job, and what may.

    Args:
        reports: of the nodes.
        blind: nodes that do not see what other nodes wrote into the storage folder.
        storage: that folder.
        memory: bytes that a worker's weights, gradients and optimizer take.
        driver: its versions of Python and Ray.
    """
    python, ray_version = driver
    errors, warnings = [], []
    for report in reports:
        if report.write_error:
            errors.append(f"node {report.node} can't write into `storage` {storage}: {report.write_error}")
        elif report.storage_free < LEAST_STORAGE_BYTES:
            warnings.append(f"node {report.node}: {report.storage_free / 2**30:.1f} GiB left in `storage` {storage}")
        if report.spill_free < LEAST_SPILL_BYTES:
            warnings.append(f"node {report.node}: {report.spill_free / 2**30:.1f} GiB left on disk for spilling")
        if report.tracking_error:  # metrics wait in the run folder, so this stops nothing
            warnings.append(f"node {report.node} does not reach the tracking server: {report.tracking_error}")
        if memory > report.memory:
            warnings.append(
                f"node {report.node} has {report.memory / 2**30:.1f} GiB of memory, a worker's weights, gradients and"
                f" optimizer take {memory / 2**30:.1f}"
            )
        if report.ray_version != ray_version:
            errors.append(
                f"node {report.node} has Ray {report.ray_version}, the driver {ray_version}: equal ones are needed"
            )
        if report.python.rpartition(".")[0] != python.rpartition(".")[0]:
            errors.append(f"node {report.node} has Python {report.python}, the driver {python}: 3.x must be equal")
    if blind:
        errors.append(
            f"`storage` {storage} is not shared: node {', '.join(blind)} does not see what another node wrote there."
            " Give a folder that all nodes see (--storage)"
        )
    return tuple(errors), tuple(warnings)


def inspect_cluster(
    storage: str, tracking_uri: str | None, memory: int, wait_s: float = NODE_WAIT_S
) -> tuple[str, ...]:
    """Look at the cluster this process is connected to; what may be wrong, in sentences.

    Args:
        storage: folder of runs, which all nodes must see.
        tracking_uri: of the tracking server, if there is one.
        memory: bytes that a worker's weights, gradients and optimizer take.
        wait_s: longest wait for a node's answer.

    Raises:
        NotReadyError: the job would fail, or a node says nothing.
    """
    reports, blind = probe(storage, tracking_uri, wait_s)
    driver = (platform.python_version(), metadata.version("ray"))
    errors, warnings = assess(reports, blind, storage, memory, driver)
    if errors:
        raise NotReadyError("\n  - ".join(["the cluster is not ready for this job:", *errors]))
    return warnings


def inspect_gpus(gpus: float, labels: Mapping[str, str], wait_s: float = GPU_WAIT_S) -> tuple[str, ...]:
    """Let torch look for its GPUs where a worker would run; what may be wrong, in sentences.

    Ray counts GPUs by the driver's devices or by what `ray start --num-gpus` was told, torch by its CUDA build: a build
    for CPUs on a node with GPUs would fail only once the workers have started.

    Args:
        gpus: of a worker; 0 looks at nothing.
        labels: of the nodes that may train.
        wait_s: longest wait for GPUs that others hold.

    Raises:
        NotReadyError: torch sees none.
    """
    if not gpus:
        return ()
    task = ray.remote(num_cpus=0, num_gpus=gpus, max_calls=1)(torch_sees)
    looking = task.options(label_selector=dict(labels) or None).remote()
    try:
        node, build, count = ray.get(looking, timeout=wait_s)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(looking, force=True)
        return (f"no {gpus:g} GPUs were free within {wait_s:g} s: workers will wait until they are",)
    if count == 0:
        raise NotReadyError(
            f"Ray gives a worker `train.gpus_per_worker` {gpus:g} GPUs on node {node}, but torch {build} sees none"
            " there: install a build of torch with CUDA on the nodes, or train on CPUs (--set train.gpus_per_worker=0)"
        )
    return ()


def torch_sees() -> tuple[str, str, int]:
    """This node, the version of its torch, and the GPUs that torch sees in this process."""
    import torch  # here: it takes seconds, and nothing else in this package needs it

    return socket.gethostname(), torch.__version__, torch.cuda.device_count()


def look(folder: str, name: str, tracking_uri: str | None, spill: str) -> NodeReport:
    """What this node sees; writes the file `name` into the folder."""
    place, error, free = Path(folder), None, 0
    try:
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(socket.gethostname(), encoding="utf-8")
        free = shutil.disk_usage(place).free
    except OSError as caught:
        error = str(caught)
    return NodeReport(
        node=socket.gethostname(),
        write_error=error,
        storage_free=free,
        spill_free=shutil.disk_usage(_nearest(Path(spill))).free,
        tracking_error=reach(tracking_uri, os.environ),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        python=platform.python_version(),
        ray_version=metadata.version("ray"),
    )


def seen(folder: str) -> list[str]:
    """Names of the files that this node sees in the folder."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def reach(uri: str | None, environment: Mapping[str, str]) -> str | None:
    """Why a server can't be reached from here; None where it can, or where the URI names none."""
    parts = urlsplit(uri or "")
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        return None
    if environment.get("https_proxy" if parts.scheme == "https" else "http_proxy"):
        return None  # the proxy's to say
    try:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        socket.create_connection((parts.hostname, port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        return f"{parts.scheme}://{parts.hostname}:{port}: {error}"
    return None


def _on(node: str) -> dict[str, NodeAffinitySchedulingStrategy]:
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id=node, soft=False)}


def _nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that this node has."""
    return next(p for p in (path, *path.parents) if p.exists())
