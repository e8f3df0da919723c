"""A verb as it runs in a job: same settings, paths independent of the job's folder, recipe and code in the package."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
import yaml

from interlace.cluster.errors import JobError
from interlace.cluster.pack import PACKAGE, Package, TooLargeError, write
from interlace.contract.errors import RecipeError
from interlace.jobs.cli import app
from interlace.jobs.submit import Rendering, order, own_code, pack, write_manifests
from interlace.recipe.identity import digest
from interlace.recipe.load import load_recipe
from tests.data import EmojiLike
from tests.laws.code import ROOT, sources

COMMAND: Any = typer.main.get_command(app)
CODE = Package(items=()).with_code("interlace", own_code())
LIMIT = CODE.size / (1 << 20) + 1.0
UsageError = typer.BadParameter.__mro__[1]


@pytest.fixture
def work(tmp_path: Path, shapes: EmojiLike, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a recipe and some code."""
    tree = shapes.tree(Path("results"))
    tree["data"]["root"] = "shards"
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "shapes.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "code.py").write_text("x = 1\n")
    for name in ("results/runs/r/model.bin", "shards/train-0.parquet"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x" * 3_000_000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def given(words: tuple[str, ...]) -> dict[str, Any]:
    """What the verb in the job reads from these words."""
    params: dict[str, Any] = COMMAND.commands[words[0]].make_context(words[0], list(words[1:])).params
    return params


def test_the_job_reads_the_same_settings_in_places_of_their_own(work: Path) -> None:
    words = [
        "recipes/shapes.yaml",
        "--set",
        "optim.lr=3e-4",
        "--run-name",
        "mine",
        "--fresh",
        "--tracking-uri",
        "http://t:1",
    ]
    wanted = order(COMMAND, "train", words, work)
    params = given(wanted.words)
    assert params["recipe"] == Path("recipes/shapes.yaml")
    assert (params["run_name"], params["fresh"], params["resume"]) == ("mine", True, False)
    here = load_recipe("recipes/shapes.yaml", ["optim.lr=3e-4", "tracking.uri=http://t:1"])
    there = load_recipe("recipes/shapes.yaml", [*params["overrides"], f"tracking.uri={params['tracking_uri']}"])
    assert (there.storage, there.data.root) == (f"{work}/results", f"{work}/shards")
    assert digest(there) == digest(here)
    assert there.model_copy(update={"storage": here.storage, "data": here.data}) == here
    assert wanted.job == "train-mine"


def test_a_flag_for_the_storage_wins_and_absolute_and_remote_places_stay(work: Path) -> None:
    words = ["recipes/shapes.yaml", "--storage", "/mnt/results", "--set", "data.root=s3://bucket/shards"]
    params = given(order(COMMAND, "train", words, work).words)
    there = load_recipe("recipes/shapes.yaml", params["overrides"])
    assert (there.storage, there.data.root) == ("/mnt/results", "s3://bucket/shards")
    assert params["storage"] is None


def test_the_name_of_the_job_is_that_of_the_run(work: Path) -> None:
    recipe = load_recipe("recipes/shapes.yaml")
    assert order(COMMAND, "train", ["recipes/shapes.yaml"], work).job == f"train-shapes-{digest(recipe)[:8]}"
    other = order(COMMAND, "train", ["recipes/shapes.yaml", "--set", "seed=1"], work)
    assert other.job != f"train-shapes-{digest(recipe)[:8]}"


def test_data_and_runs_stay_and_the_recipe_goes_along(work: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    package = pack(order(COMMAND, "train", ["recipes/shapes.yaml"], work), work, LIMIT)
    assert [i.name for i in package.items if i not in CODE.items] == ["code.py", "recipes/shapes.yaml"]
    outside = tmp_path_factory.mktemp("outside") / "far.yaml"
    outside.write_text((work / "recipes" / "shapes.yaml").read_text())
    wanted = order(COMMAND, "train", [str(outside)], work)
    assert given(wanted.words)["recipe"] == Path(".interlace/far.yaml")
    assert pack(wanted, work, LIMIT).holds(".interlace/far.yaml")
    (work / ".gitignore").write_text("recipes/\n")
    assert pack(order(COMMAND, "train", ["recipes/shapes.yaml"], work), work, LIMIT).holds("recipes/shapes.yaml")


def test_predictions_find_model_and_shards_wherever_the_job_runs(work: Path) -> None:
    words = ["results/runs/r/model.bin", "--data", "shards/*.parquet", "--output", "predicted", "--keep", "code"]
    wanted = order(COMMAND, "predict", words, work)
    params = given(wanted.words)
    assert params["model"] == f"{work}/results/runs/r/model.bin"
    assert list(params["data"]) == [f"{work}/shards/*.parquet"]
    assert (params["output"], params["storage"]) == (work / "predicted", work / "output")
    assert list(params["keep"]) == ["code"]
    assert wanted.job == "predict-predicted"
    named = ["models:/shapes@champion", "--data", "s3://bucket/a.parquet", "--data", "test", "--output", "p"]
    params = given(order(COMMAND, "predict", named, work).words)
    assert (params["model"], list(params["data"])) == (named[0], ["s3://bucket/a.parquet", "test"])


def test_too_much_is_refused_before_anything_is_asked(work: Path) -> None:
    (work / "weights.bin").write_bytes(b"x" * 2_000_000)
    with pytest.raises(TooLargeError, match=r"weights.bin: 1.9 MiB"):
        pack(order(COMMAND, "train", ["recipes/shapes.yaml"], work), work, LIMIT)


def test_the_code_of_this_process_goes_along_whole(work: Path) -> None:
    """The reference is what the checkout holds: every module by its import name, templates and recipes."""
    names = {item.name for item in CODE.items}
    modules = {f"{name.replace('.', '/')}/__init__.py" if path.name == "__init__.py" else f"{name.replace('.', '/')}.py"
               for name, path in sources().items()}  # fmt: skip
    data = {f"interlace/{f.relative_to(ROOT).as_posix()}" for folder in ("jobs/recipes", "cluster/templates")
            for f in (ROOT / folder).iterdir() if f.name != "README.md"}  # fmt: skip
    assert names == modules | data
    assert len(modules) > 150
    assert len(data) > 20


def test_an_unpacked_package_runs_the_code_in_it_before_any_that_is_installed(work: Path, tmp_path: Path) -> None:
    """As a job does: `python -m interlace.jobs` in the unpacked folder, on a host where another one is installed."""
    package = pack(order(COMMAND, "train", ["recipes/shapes.yaml"], work), work, LIMIT)
    write(package, tmp_path / "package.zip")
    with zipfile.ZipFile(tmp_path / "package.zip") as archive:
        archive.extractall(tmp_path / "job")
    program = (
        "import sys, json\nsys.path.insert(0, '')\nfrom interlace.jobs.cli import app\n"
        "import interlace.cluster.render, interlace.tune.search\n"
        "own = {n: m.__file__ for n, m in sys.modules.items() if n.partition('.')[0] == 'interlace'}\n"
        "sys.stdout.write(json.dumps(own))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "job", capture_output=True, text=True, check=True
    )
    loaded = {name: Path(file) for name, file in json.loads(done.stdout).items()}
    assert {"interlace", "interlace.jobs.cli", "interlace.cluster.render", "interlace.tune.search"} <= set(loaded)
    assert [n for n, f in loaded.items() if not f.resolve().is_relative_to((tmp_path / "job").resolve())] == []


@pytest.mark.parametrize("mine", ["interlace.py", "interlace/extra.py"])
def test_a_folder_with_an_interlace_of_its_own_is_refused(work: Path, mine: str) -> None:
    (work / mine).parent.mkdir(exist_ok=True)
    (work / mine).write_text("")
    with pytest.raises(JobError, match=rf"`{mine}`, but the job's own code goes along under the name `interlace`"):
        pack(order(COMMAND, "train", ["recipes/shapes.yaml"], work), work, LIMIT)


def test_an_image_is_built_from_what_is_rendered_alone(work: Path) -> None:
    wanted = order(COMMAND, "train", ["recipes/shapes.yaml"], work, Path("/mnt/interlace"))
    for target in ("kuberay", "vm", "ray", "kuberay"):  # twice: the package does not hold the one before
        out = work / "place" / target
        write_manifests(wanted, work, Rendering(target=target, out=out, image="interlace:1"))
        copied = [line.split()[1] for line in (out / "Dockerfile").read_text().splitlines() if line.startswith("COPY")]
        assert copied == ["requirements.txt", PACKAGE]
        with zipfile.ZipFile(out / PACKAGE) as archive:
            names = set(archive.namelist())
        assert {item.name for item in CODE.items} | {"code.py", "recipes/shapes.yaml"} <= names
        assert not any(name.endswith(PACKAGE) for name in names)
        assert (out / "requirements.txt").read_text().splitlines()[0].startswith("ray[")
    write_manifests(wanted, work, Rendering(target="slurm", out=work / "slurm", image="interlace:1"))
    assert [f.name for f in (work / "slurm").iterdir()] == ["job.sbatch"]


@pytest.mark.parametrize(
    ("verb", "words", "error", "reason"),
    [
        ("train", ["recipes/shapes.yaml", "--nonsense", "1"], UsageError, "nonsense"),
        ("train", ["recipes/shapes.yaml", "--set", "optim.lrr=1"], RecipeError, "did you mean `lr`|lrr"),
        ("train", ["gone.yaml"], RecipeError, "gone.yaml"),
        ("inspect", ["recipes/shapes.yaml"], JobError, "expected one of train"),
        (
            "train",
            ["recipes/shapes.yaml", "--tracking-uri", "postgresql://me:hush@db/mlflow"],
            JobError,
            "MLFLOW_TRACKING_",
        ),
    ],
)
def test_what_the_verb_would_refuse_is_refused_here(
    work: Path, verb: str, words: list[str], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason) as caught:
        order(COMMAND, verb, words, work)
    assert "hush" not in str(caught.value)


def test_prepare_and_tune_and_evaluate_are_placed_too(work: Path) -> None:
    (work / "prepare.yaml").write_text(
        yaml.safe_dump(
            {"name": "p", "root": "raw", "out": "made", "sources": {"a": {"paths": ["a.parquet"], "key": "k"}}}
        )
    )
    overrides = given(order(COMMAND, "prepare", ["prepare.yaml", "--out", "else"], work).words)["overrides"]
    assert set(overrides) == {f"root={work}/raw", f"out={work}/else"}
    recipe = ROOT / "jobs" / "recipes" / "emoji.yaml"
    tuned = given(order(COMMAND, "tune", [str(recipe), "--trials", "3", "--retrain"], work).words)
    assert (tuned["trials"], tuned["retrain"]) == (3, True)
    assert f"storage={work}/output" in tuned["overrides"]
    evaluated = given(order(COMMAND, "evaluate", ["results/runs/r", "--out", "tables"], work).words)
    assert (evaluated["run"], evaluated["out"]) == (work / "results/runs/r", work / "tables")
