"""Rendered files: every target from every shipped recipe is valid, safe, follows the recipe; checks find errors."""

import json
import re
import shlex
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from interlace.cluster.errors import ClusterError
from interlace.cluster.manifests import (
    ManifestError,
    check,
    docker_errors,
    kubernetes_errors,
    ray_up_errors,
    requirement_errors,
    sbatch_errors,
)
from interlace.cluster.render import EXTRAS, SHARED, TARGETS, Shape, kubernetes_name, render, requirements
from interlace.jobs.cli import app
from interlace.jobs.submit import order, shape
from tests.laws.code import ROOT

COMMAND: Any = typer.main.get_command(app)
RECIPES = sorted((ROOT / "jobs" / "recipes").glob("*.yaml"))
GPUS = ("--set", "train.gpus_per_worker=1", "--set", "train.workers=2", "--set", "batch.global_batch=2")


def shaped(recipe: Path, *words: str, queue: str | None = None) -> Shape:
    return shape(order(COMMAND, "train", [str(recipe), *words], ROOT, Path(SHARED)), "registry/interlace:1", queue)


@pytest.fixture(scope="module")
def some() -> Shape:
    return shaped(RECIPES[0], *GPUS)


def documents(text: str) -> dict[str, Any]:
    return {d["metadata"]["name"]: d for d in yaml.safe_load_all(text)}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_every_target_of_every_shipped_recipe_is_valid(recipe: Path) -> None:
    for words in ((), GPUS):
        wanted = shaped(recipe, *words)
        for target in TARGETS:
            files = render(target, wanted)
            check(files)
            assert not any(re.search(r"@\{\w+\}", text) for text in files.values())
            assert any(wanted.words[1] in text for text in files.values()) or target == "vm"


def test_groups_of_nodes_have_the_recipes_labels_and_room_for_elastic_workers() -> None:
    own = (
        "train.workers={min: 1, max: 3}",
        "batch.global_batch=6",
        "train.labels={pool: gpu}",
        "data.labels={pool: cpu}",
    )
    wanted = shaped(RECIPES[0], *GPUS, *(word for setting in own for word in ("--set", setting)))
    kuberay, vm = render("kuberay", wanted), render("vm", wanted)
    check(kuberay)
    check(vm)
    data, train = yaml.safe_load(kuberay["raycluster.yaml"])["spec"]["workerGroupSpecs"]
    assert (data["labels"], train["labels"]) == ({"pool": "cpu"}, {"pool": "gpu"})
    assert (train["replicas"], train["maxReplicas"]) == (1, 3)
    for name in ("aws.yaml", "gcp.yaml"):
        types = yaml.safe_load(vm[name])["available_node_types"]
        assert (types["data"]["labels"], types["train"]["labels"]) == ({"pool": "cpu"}, {"pool": "gpu"})
    with pytest.raises(ClusterError, match="all nodes of a Slurm job are alike"):
        render("slurm", wanted)


def test_kuberay_follows_the_recipe(some: Shape) -> None:
    files = render("kuberay", some)
    job = yaml.safe_load(files["rayjob.yaml"])["spec"]
    pods = job["rayClusterSpec"]
    assert pods["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    data, train = pods["workerGroupSpecs"]
    limits = train["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert (train["replicas"], limits["nvidia.com/gpu"], limits["cpu"]) == (2, "1", train["rayStartParams"]["num-cpus"])
    assert "nvidia.com/gpu" not in data["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert job["suspend"] is False
    words = shlex.split(job["entrypoint"])
    assert f"storage={SHARED}/output" in words
    assert "tracking.uri=http://interlace-mlflow:5000" in words
    assert yaml.safe_load(files["raycluster.yaml"])["spec"] == pods
    queued = yaml.safe_load(render("kuberay", shaped(RECIPES[0], queue="team"))["rayjob.yaml"])
    assert queued["spec"]["suspend"] is True
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"


def test_nothing_is_open_and_no_secret_is_written(some: Shape) -> None:
    files = render("kuberay", some)
    for name in ("raycluster.yaml", "rayjob.yaml"):
        spec = yaml.safe_load(files[name])["spec"]
        spec = spec.get("rayClusterSpec", spec)
        assert spec["authOptions"] == {"mode": "token", "secretName": "interlace-ray"}
        assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    policies = documents(files["network.yaml"])
    own = policies["interlace-ray"]["spec"]
    everywhere = [rule for rule in own["ingress"] if "ports" not in rule]
    assert all(peer["podSelector"] for rule in everywhere for peer in rule["from"])
    groups = yaml.safe_load(files["raycluster.yaml"])["spec"]
    pods = [groups["headGroupSpec"], *groups["workerGroupSpecs"]]
    assert all(p["template"]["metadata"]["labels"]["interlace/group"] for p in pods)
    for target in TARGETS:
        for name, text in render(target, some).items():
            assert not re.search(r"(?i)(password|token|secret)[a-z_]*\s*[:=]\s*['\"]?[A-Za-z0-9+/]{12,}", text), name
    for name in ("aws.yaml", "gcp.yaml", "onprem.yaml"):
        commands = yaml.safe_load(render("vm", some)[name])
        starts = commands["head_start_ray_commands"][-1] + commands["worker_start_ray_commands"][-1]
        assert starts.count("RAY_AUTH_MODE=token") == 2
        assert "--dashboard-host=127.0.0.1" in starts


def test_mlflow_finds_its_database_and_is_found(some: Shape) -> None:
    found = documents(render("kuberay", some)["mlflow.yaml"])
    server = found["interlace-mlflow"]
    assert server["kind"] == "Service"  # the later of the two of this name
    text = render("kuberay", some)["mlflow.yaml"]
    assert "postgresql://mlflow:$(POSTGRES_PASSWORD)@interlace-postgres:5432/mlflow" in text
    assert found["interlace-postgres"]["spec"]["ports"][0]["port"] == 5432


def test_slurm_asks_for_what_the_recipe_says(some: Shape) -> None:
    text = render("slurm", some)["job.sbatch"]
    assert "#SBATCH --nodes=2\n" in text
    assert "#SBATCH --gpus-per-node=1\n" in text
    assert "gpus-per-node" not in render("slurm", shaped(RECIPES[0]))["job.sbatch"]
    assert shlex.join(some.words) in text
    assert f"run={some.run}\n" in text
    assert some.run in some.words


def test_the_request_is_what_the_jobs_api_reads(some: Shape) -> None:
    request = json.loads(render("ray", some)["job.json"])
    assert request["submission_id"] == some.job
    assert shlex.join(some.words) in request["entrypoint"]


def test_names_fit_kubernetes() -> None:
    assert kubernetes_name("train-Emoji_Retrieval.v2-1a2b") == "train-emoji-retrieval-v2-1a2b"
    assert len(kubernetes_name("x" * 100)) <= 40
    assert kubernetes_name("__") == "interlace"


def test_an_unknown_target_is_refused(some: Shape) -> None:
    with pytest.raises(ClusterError, match="expected one of ray, kuberay, vm, slurm"):
        render("mesos", some)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("maxReplicas: 4", "maxReplica: 4", "maxReplica"),
        ("runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot"),
        ('num-cpus: "0"', "num-cpus: 0", "0 is not of type 'string'"),
        ("mode: token", "mode: disabled", "'token' was expected"),
        ("{name: shm, emptyDir", "{name: other, emptyDir", "mounts `shm`"),
        ("kind: RayCluster", "kind: RayClusters", "no such kind"),
        ("memory: 8Gi", "memory: 8GB", "8GB"),
    ],
)
def test_a_planted_error_in_a_cluster_is_found(some: Shape, old: str, new: str, error: str) -> None:
    text = render("kuberay", some)["raycluster.yaml"]
    assert list(kubernetes_errors(text)) == []
    assert old in text
    assert any(error in f for f in kubernetes_errors(text.replace(old, new)))
    with pytest.raises(ManifestError, match=r"raycluster\.yaml: "):
        check({"raycluster.yaml": text.replace(old, new)})


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("cluster_name:", "name:", "cluster_name"),
        ("head_node_type: head", "head_node_type: chief", "chief is none of"),
        ("resources: {CPU: 0}", "resources: {CPU: zero}", "zero"),
        ("max_workers: 6", "max_workers: 1", "less than its node types"),
    ],
)
def test_a_planted_error_in_a_ray_up_file_is_found(some: Shape, old: str, new: str, error: str) -> None:
    text = render("vm", some)["aws.yaml"]
    assert list(ray_up_errors(text)) == []
    assert old in text
    assert any(error in f for f in ray_up_errors(text.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("if [ \"$code\"", "if [[ \"$code\"", "syntax error"),
        ("--nodes=2", "--node=2", "no directive"),
        ("--time=24:00:00", "--time=soon", "odd value"),
        ("#!/bin/bash", "set -e", "no #!"),
        ("source .venv", "#SBATCH --requeue\nsource .venv", "stands after a command"),
    ],
)  # fmt: skip
def test_a_planted_error_in_a_batch_script_is_found(some: Shape, old: str, new: str, error: str) -> None:
    text = render("slurm", some)["job.sbatch"]
    assert list(sbatch_errors(text)) == []
    assert old in text
    assert any(error in f for f in sbatch_errors(text.replace(old, new, 1)))


def test_a_planted_error_in_an_image_is_found(some: Shape) -> None:
    text = render("kuberay", some)["Dockerfile"]
    assert list(docker_errors(text)) == []
    assert list(docker_errors(text.replace("USER 1000:1000", "USER root"))) == ["the last USER is root"]
    assert list(docker_errors(text.replace("WORKDIR", "WORKDIRR"))) == ["no such instruction: WORKDIRR"]
    assert list(docker_errors(text.replace("ARG VARIANT=cpu", ""))) == ["no ARG VARIANT"]


def test_an_image_gets_the_projects_own_dependencies(some: Shape) -> None:
    """The reference is pyproject.toml, read as packaging reads it; a line that is no requirement is found."""
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    text = render("kuberay", some)["requirements.txt"]
    assert {Requirement(line) for line in text.splitlines()} == {
        Requirement(line) for line in [*project["dependencies"], *extras]
    }
    assert list(requirement_errors(text)) == []
    assert list(requirement_errors("torch~=2.13.0\n-e .\n")) == ["-e .: no requirement"]
    assert list(requirement_errors("")) == ["no requirement at all"]


def test_dependencies_of_what_is_not_installed_are_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    with pytest.raises(ClusterError, match="expected `interlace` to be installed"):
        requirements()


def test_templates_ship_with_the_package() -> None:
    import tomllib

    packed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "interlace.cluster"
    ]
    folder = resources.files("interlace.cluster").joinpath("templates")
    names = {f.name for f in folder.iterdir()}
    assert packed == ["templates/*"]
    assert {"Dockerfile", "job.sbatch", "kubernetes.schema.yaml"} <= names
