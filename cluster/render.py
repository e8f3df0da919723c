"""Files that bring a job to a place: an image, KubeRay, `ray up`, Slurm, or the request that the Jobs API would get.

Shape (what the run needs) + a target -> {file name: text}; `cluster/manifests.py` checks them without a cluster.
"""

import json
import math
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources

from interlace.cluster.errors import ClusterError
from interlace.cluster.pack import PACKAGE
from interlace.cluster.submission import entrypoint, runtime_env

TARGETS = ("ray", "kuberay", "vm", "slurm")
SHARED = "/mnt/interlace"
"""Where the nodes of Kubernetes and of `ray up` see the shared volume."""

IMAGE = "Dockerfile"
"""Build file of the nodes' image. It takes dependencies and package from its own folder, which is all it needs."""

EXTRAS = ("hf", "optuna")
"""Extras of the image; their names as the project's metadata has them."""

CUDA = "130"
PYTHON = "3.11"
DATA_CPUS = 8
DATA_NODES = 4
GIB_PER_WORKER = 16
MLFLOW_IN_CLUSTER = "http://interlace-mlflow:5000"
PLACEHOLDER = re.compile(r"^( *)@\{(\w+)\}$|@\{(\w+)\}", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a job needs of a place.

    Args:
        job: its name.
        words: arguments of `python -m interlace.jobs`.
        run: name of the run folder, empty where the verb has none.
        storage: folder of runs, seen by every node.
        tracking_uri: MLflow server, if the recipe or the command line names one.
        workers: training processes, at most.
        fewest: training processes, at least; as many as `workers` where the group is not elastic.
        train_labels: of the nodes that train.
        data_labels: of the nodes that read data.
        cpus_per_worker, gpus_per_worker: of each.
        image: of the nodes.
        queue: Kueue's queue that admits the job, if there is one.
    """

    job: str
    words: tuple[str, ...]
    run: str
    storage: str
    tracking_uri: str | None
    workers: int
    fewest: int
    train_labels: Mapping[str, str]
    data_labels: Mapping[str, str]
    cpus_per_worker: float
    gpus_per_worker: float
    image: str = "interlace:latest"
    queue: str | None = None


def render(target: str, shape: Shape) -> dict[str, str]:
    """The files of a target by name. Raises ClusterError where there is no such target."""
    if target not in TARGETS:
        raise ClusterError(f"--target: expected one of {', '.join(TARGETS)}, but is `{target}`")
    return {"ray": _ray, "kuberay": _kuberay, "vm": _vm, "slurm": _slurm}[target](shape)


def fill(name: str, values: Mapping[str, object]) -> str:
    """A template with its placeholders `@{name}` filled; one alone on a line takes several lines, indented like it."""
    text = resources.files("interlace.cluster").joinpath("templates", name).read_text(encoding="utf-8")

    def value(found: re.Match[str]) -> str:
        indent, alone, inside = found.groups()
        filled = str(values[alone or inside])
        return textwrap.indent(filled.rstrip("\n"), indent) if alone else filled

    return PLACEHOLDER.sub(value, text)


def _ray(shape: Shape) -> dict[str, str]:
    request = {
        "entrypoint": entrypoint(shape.words),
        "submission_id": shape.job,
        "runtime_env": runtime_env("gcs://EDIT.zip"),  # the archive's name: `PUT /api/packages/gcs/EDIT.zip`
    }
    return {"job.json": json.dumps(request, indent=2) + "\n", **_image(shape)}


def _kuberay(shape: Shape) -> dict[str, str]:
    values = _values(shape)
    pods = fill("pods.yaml", values)
    words = [*shape.words] if shape.tracking_uri else [*shape.words, "--set", f"tracking.uri={MLFLOW_IN_CLUSTER}"]
    job = {
        **values,
        "pods": pods,
        "entrypoint": json.dumps(f"cd /app && exec python -m interlace.jobs {shlex.join(words)}"),
        "suspend": "true" if shape.queue else "false",
        "queue_label": f", kueue.x-k8s.io/queue-name: {json.dumps(shape.queue)}" if shape.queue else "",
    }
    return {
        "raycluster.yaml": fill("raycluster.yaml", job),
        "rayjob.yaml": fill("rayjob.yaml", job),
        "mlflow.yaml": fill("mlflow.yaml", job),
        "network.yaml": fill("network.yaml", job),
        **_image(shape),
    }


def _vm(shape: Shape) -> dict[str, str]:
    values = _values(shape)
    commands = fill("vm-commands.yaml", values)
    places = {"aws": "AWS", "gcp": "Google Cloud", "onprem": "hosts of your own"}
    files = {
        f"{name}.yaml": fill(
            "vm.yaml",
            {**values, "place": place, "provider": fill(f"{name}.yaml", values), "commands": commands},
        )
        for name, place in places.items()
    }
    return {**files, **_image(shape)}


def _slurm(shape: Shape) -> dict[str, str]:
    if shape.train_labels or shape.data_labels:
        raise ClusterError(
            "`train.labels` and `data.labels` choose among nodes, and all nodes of a Slurm job are alike: leave"
            " them out"
        )
    values = _values(shape)
    gpus = math.ceil(shape.gpus_per_worker)
    slurm = {
        **values,
        "nodes": shape.workers,
        "node_cpus": math.ceil(shape.cpus_per_worker) + DATA_CPUS,
        "node_memory": 2 * GIB_PER_WORKER,
        "gpu_directive": f"#SBATCH --gpus-per-node={gpus}\n" if gpus else "",
        "command": shlex.join(["python", "-m", "interlace.jobs", *shape.words]),
        "run": shlex.quote(shape.run),
        "storage": shlex.quote(shape.storage),
    }
    return {"job.sbatch": fill("job.sbatch", slurm)}


def _image(shape: Shape) -> dict[str, str]:
    versions = {"python": PYTHON, "cuda": CUDA, "torch": _compatible("torch"), "image": shape.image, "package": PACKAGE}
    return {IMAGE: fill("Dockerfile", versions), "requirements.txt": "\n".join(requirements()) + "\n"}


def requirements(extras: Sequence[str] = EXTRAS) -> list[str]:
    """What the installed project depends on, with some of its extras, as pip reads it.

    Raises:
        ClusterError: the project is not installed here, only its modules can be imported.
    """
    try:
        found = metadata.requires("interlace") or []
    except metadata.PackageNotFoundError as error:
        raise ClusterError(
            "expected `interlace` to be installed, so that its dependencies are known, but it is not"
        ) from error
    wanted = []
    for requirement in found:
        needed, _, marker = requirement.partition(";")
        extra = re.search(r"extra == ['\"](\w+)['\"]", marker)
        if extra is None:
            wanted.append(requirement)
        elif extra.group(1) in extras:
            wanted.append(needed.strip())
    return wanted


def _values(shape: Shape) -> dict[str, object]:
    gpus = math.ceil(shape.gpus_per_worker)
    uri = shape.tracking_uri or MLFLOW_IN_CLUSTER
    return {
        "job": kubernetes_name(shape.job),
        "image": shape.image,
        "ray": metadata.version("ray"),
        "tracking_uri": uri,
        "workers": shape.workers,
        "worker_cpus": math.ceil(shape.cpus_per_worker),
        "data_cpus": DATA_CPUS,
        "data_nodes": DATA_NODES,
        "max_workers": shape.workers + DATA_NODES,
        "fewest": shape.fewest,
        "train_labels": _labels(shape.train_labels, "    "),
        "data_labels": _labels(shape.data_labels, "    "),
        "gpu_resource": f', nvidia.com/gpu: "{gpus}"' if gpus else "",
        "gpu_entry": f", GPU: {gpus}" if gpus else "",
        "aws_instance": "g6.4xlarge" if gpus else "m7i.2xlarge",
        "gcp_machine": "g2-standard-16" if gpus else "n2-standard-8",
        "gcp_gpus": f", guestAccelerators: [{{acceleratorType: nvidia-l4, acceleratorCount: {gpus}}}],"
        " scheduling: [{onHostMaintenance: TERMINATE}]"
        if gpus
        else "",
    }


def _labels(labels: Mapping[str, str], indent: str) -> str:
    """Labels of a group of nodes as a line of its own after another, or nothing."""
    return f"\n{indent}labels: {json.dumps(dict(labels))}" if labels else ""


def kubernetes_name(name: str) -> str:
    """A name as Kubernetes takes it (RFC 1123), short enough that KubeRay can add to it."""
    plain = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
    return plain[:40].rstrip("-") or "interlace"


def _compatible(package: str) -> str:
    """The installed minor version of a package, as `~=2.13.0`."""
    major, minor, *_ = metadata.version(package).split("+")[0].split(".")
    return f"~={major}.{minor}.0"
