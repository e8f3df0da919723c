"""Checks of rendered files without the tools of their places: JSON Schemas, `bash -n`, and what a schema can't say.

KubeRay and Kubernetes are checked against `templates/kubernetes.schema.yaml`, `ray up` against the schema that Ray
brings, the request of a job against the fields of Ray's own class.
"""

import dataclasses
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from interlace.cluster.errors import ClusterError

SBATCH = {
    "job-name": r"[\w.-]+", "nodes": r"[1-9]\d*", "ntasks-per-node": r"1", "exclusive": r"",
    "cpus-per-task": r"[1-9]\d*",
    "mem": r"[1-9]\d*[MGT]?", "gpus-per-node": r"[1-9]\d*", "time": r"(\d+-)?\d+(:\d\d){1,2}",
    "signal": r"B:[A-Z0-9]+@\d+",
    "requeue": r"", "open-mode": r"append|truncate", "output": r"\S+",
}  # fmt: skip
"""Directives of the sbatch file and what their values look like (`man sbatch`, Slurm 24)."""

REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+(\[[\w,-]+\])?\s*([<>=!~]=?[\w.*]+(,\s*[<>=!~]=?[\w.*]+)*)?(\s*;.+)?")
"""A line of a list of requirements (PEP 508, without URLs)."""

DOCKER = ("ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "CMD")


class ManifestError(ClusterError):
    """A rendered file that its place would not take; every error has a line."""


def check(files: Mapping[str, str]) -> None:
    """Check every file by its name. Raises ManifestError."""
    errors = [f"{name}: {error}" for name, text in files.items() for error in _checker(name)(text)]
    if errors:
        raise ManifestError("\n  - ".join(["what was rendered is not valid:", *errors]))


def _checker(name: str) -> Callable[[str], Iterator[str]]:
    if name in ("aws.yaml", "gcp.yaml", "onprem.yaml"):
        return ray_up_errors
    if name.endswith(".yaml"):
        return kubernetes_errors
    return {
        "job.json": job_errors, "job.sbatch": sbatch_errors, "Dockerfile": docker_errors,
        "requirements.txt": requirement_errors,
    }[name]  # fmt: skip


def kubernetes_errors(text: str) -> Iterator[str]:
    """Errors of the documents in a file for `kubectl apply`."""
    schema = yaml.safe_load(_template("kubernetes.schema.yaml"))
    for document in yaml.safe_load_all(text):
        kind = document.get("kind") if isinstance(document, dict) else None
        if kind not in schema["$defs"]:
            yield f"no such kind here: {kind}"
            continue
        own = {"$ref": f"#/$defs/{kind}", "$defs": schema["$defs"]}
        yield from _schema_errors(document, own)
        yield from (f"{kind}: {error}" for error in _unmounted(document))


def ray_up_errors(text: str) -> Iterator[str]:
    """Errors of a file for `ray up`, by Ray's own schema, and of what it names."""
    settings = yaml.safe_load(text)
    schema = json.loads(resources.files("ray").joinpath("autoscaler", "ray-schema.json").read_text(encoding="utf-8"))
    yield from _schema_errors(settings, schema)
    types = settings.get("available_node_types", {})
    head = settings.get("head_node_type")
    if types and head not in types:
        yield f"head_node_type: {head} is none of {', '.join(types)}"
    most = sum(t.get("max_workers", 0) for name, t in types.items() if name != head)
    if types and settings["max_workers"] < most:
        yield f"max_workers: {settings['max_workers']} is less than its node types may have ({most})"


def job_errors(text: str) -> Iterator[str]:
    """Errors of a request to the Jobs API, by the class that Ray reads it into."""
    from ray.dashboard.modules.job.common import JobSubmitRequest

    known = {field.name for field in dataclasses.fields(JobSubmitRequest)}
    request = json.loads(text)
    yield from (f"no such field: {name}" for name in sorted(set(request) - known))
    try:
        JobSubmitRequest(**{k: v for k, v in request.items() if k in known})
    except (TypeError, ValueError) as error:
        yield str(error)


def sbatch_errors(text: str) -> Iterator[str]:
    """Errors of a batch script: shell syntax, directives, and directives that come too late to count."""
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    yield from (line for line in done.stderr.splitlines() if line)
    lines = text.splitlines()
    if not lines or not lines[0].startswith("#!"):
        yield "the first line is no #!"
    first_command = next((i for i, line in enumerate(lines) if line and not line.startswith("#")), len(lines))
    for number, line in enumerate(lines):
        if not line.startswith("#SBATCH"):
            continue
        name, _, value = line.removeprefix("#SBATCH --").partition("=")
        if number > first_command:
            yield f"{line}: stands after a command, where Slurm does not read it"
        if name not in SBATCH or not re.fullmatch(SBATCH[name], value):
            yield f"{line}: no directive that is known here, or an odd value"


def docker_errors(text: str) -> Iterator[str]:
    """Errors of a Dockerfile: instructions, a user that is root, an argument that is not declared."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    steps = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    yield from (f"no such instruction: {step[0]}" for step in steps if step[0] not in DOCKER)
    users = [step[1] for step in steps if step[0] == "USER"]
    if not users or users[-1].split(":")[0] in ("root", "0"):
        yield "the last USER is root"
    if not any(step[0] == "ARG" and step[1].startswith("VARIANT=") for step in steps):
        yield "no ARG VARIANT"


def requirement_errors(text: str) -> Iterator[str]:
    """Errors of a list of requirements: lines that are none, and a list without any."""
    lines = text.splitlines()
    yield from (f"{line}: no requirement" for line in lines if not REQUIREMENT.fullmatch(line))
    if not lines:
        yield "no requirement at all"


def _unmounted(document: Any) -> Iterator[str]:
    """Mounts of volumes that a pod does not have: no schema says so, and the pod would never start."""
    for pod in _pods(document):
        claimed = {t["metadata"]["name"] for t in document["spec"].get("volumeClaimTemplates", [])}
        volumes = {v["name"] for v in pod.get("volumes", [])} | claimed
        for container in pod["containers"]:
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    yield f"container {container['name']} mounts `{mount['name']}`, which is no volume of its pod"


def _pods(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if isinstance(node.get("containers"), list):
            yield node
        for value in node.values():
            yield from _pods(value)
    elif isinstance(node, list):
        for value in node:
            yield from _pods(value)


def _schema_errors(document: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    for error in kind(schema).iter_errors(document):
        yield f"{'.'.join(str(p) for p in error.absolute_path) or 'the whole'}: {error.message}"


def _template(name: str) -> str:
    return Path(str(resources.files("interlace.cluster").joinpath("templates", name))).read_text(encoding="utf-8")
