"""A second package with a modality and a task of its own is in the schema, trains, is tracked and served; laws run."""

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from interlace.contract.errors import RecipeError
from interlace.recipe.load import load_recipe
from tests.plugged import SECOND, Environment, make_environment
from tests.types import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PACKAGE = "interlace-grades==0.3.1"
WORDS = ("bad", "fair", "good", "best")


def write_rows(path: Path, count: int, seed: int) -> None:
    """The grade is the highest two binary digits of a number below 256; a word may tell it too; both have gaps."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        number = int(rng.integers(0, 256))
        gone = int(rng.integers(0, 6))
        word = WORDS[number >> 6] if rng.random() < 0.7 else "unknown"
        rows.append(
            {"n": None if gone == 0 else number, "word": None if gone == 1 else word, "grade": 10 + (number >> 6)}
        )
    schema = pa.schema([("n", pa.int64()), ("word", pa.string()), ("grade", pa.int64())])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("plugins")
    write_rows(place / "train.parquet", 640, seed=0)
    write_rows(place / "validation.parquet", 128, seed=1)
    recipe: dict[str, Any] = {
        "name": "grades",
        "storage": str(place / "out"),
        "data": {
            "root": str(place),
            "train": {"paths": ["train.parquet"]},
            "validation": {"paths": ["validation.parquet"]},
        },
        "fields": {"number": {"modality": "bits", "column": "n"}, "word": {"modality": "text", "column": "word"}},
        "tasks": {"grade": {"task": "ordinal", "column": "grade"}},
        "model": {"dim": 32, "head_dim": 16, "field_layers": 1, "joint_layers": 1, "dropout": 0.0},
        "batch": {"token_budget": 512, "global_batch": 2},
        "optim": {"lr": 1e-2},
        "train": {"steps": 200, "precision": "fp32"},
    }
    (place / "grades.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def environment(folder: Path) -> Environment:
    return make_environment(folder / "environment")


def interlace(environment: Environment, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return environment.run("-m", "interlace.jobs", *words, cwd=folder)


def test_the_readme_shows_the_second_package_as_it_is() -> None:
    shown = (ROOT / "pipeline" / "README.md").read_text(encoding="utf-8")
    section = shown.split("\n## Add to it without a fork\n")[1]
    for name in ("pyproject.toml", "grades/plugin.py", "check_grades.py"):
        assert f"\n{(SECOND / name).read_text(encoding='utf-8')}```\n" in section, name
    project = tomllib.loads((SECOND / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"{project['name']}=={project['version']}" == PACKAGE


def test_the_laws_of_the_kit_run_in_the_second_package(environment: Environment) -> None:
    done = environment.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "check_grades.py", cwd=environment.source)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_its_settings_are_in_the_schema_and_checked_with_their_dotted_paths(
    environment: Environment, folder: Path
) -> None:
    done = interlace(environment, folder, "schema")
    assert done.returncode == 0, done.stderr
    schema = json.loads(done.stdout)
    assert schema["$defs"]["BitsField"]["properties"]["digits"]["description"].startswith("Most digits")
    assert "#/$defs/BitsField" in json.dumps(schema["properties"]["fields"])
    assert "#/$defs/OrdinalTask" in json.dumps(schema["properties"]["tasks"])
    bad = interlace(
        environment, folder, "train", "grades.yaml", "--dry-run", "--set", "fields.number.digits=0",
        "--set", "fields.number.nois=0.1", "--set", "tasks.grade.weight=-1", "--set", "fields.word.modality=bit",
    )  # fmt: skip
    said = " ".join((bad.stdout + bad.stderr).split())
    assert bad.returncode == 2, said
    for part in (
        "4 errors",
        "fields.number.digits: Input should be greater than or equal to 1, but is 0",
        "fields.number.nois: unknown key; did you mean `noise`?",
        "tasks.grade.weight: Input should be greater than 0, but is -1",
        "fields.word.modality: unknown modality 'bit'; did you mean `bits`?",
    ):
        assert part in said, said


DATA_ARM = """
import sys
from interlace.data.index.targets import TARGETS
from interlace.data.stream import map_units
from interlace.modalities import MODALITIES
parts = [*MODALITIES["bits"], *TARGETS["ordinal"]]
print(" ".join(part.__name__ for part in parts), "torch" in sys.modules)
"""


def test_the_data_arm_reads_it_without_torch(environment: Environment, folder: Path) -> None:
    done = environment.run("-c", DATA_ARM, cwd=folder)
    assert done.stdout.split() == ["BitsLearner", "Bits", "GradeLearner", "GradeTarget", "False"], done.stderr


def test_without_the_package_its_names_are_unknown(folder: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(folder / "grades.yaml")
    said = str(caught.value)
    assert "fields.number.modality: unknown modality 'bits'; Known here: image, text, table, audio, series" in said
    assert "tasks.grade.task: unknown task 'ordinal'; Known here: classification" in said
    assert said.count("known where the package is installed") == 2


SERVED = """
import json, sys
import mlflow, pandas as pd
from mlflow import MlflowClient

mlflow.set_tracking_uri(sys.argv[1])
client = MlflowClient()
runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
(run,) = runs
(logged,) = client.search_logged_models([run.info.experiment_id])
model = mlflow.pyfunc.load_model(logged.model_uri)
rows = pd.DataFrame({"n": [3, 255, 100, None], "word": ["bad", None, "fair", "best"]})
said = model.predict(rows)
try:
    model.predict(pd.DataFrame({"n": [4096]}))
    refused = ""
except Exception as error:
    refused = str(error)
needs = open(mlflow.pyfunc.get_model_dependencies(logged.model_uri)).read().split()
print("TOLD " + json.dumps({
    "tags": run.data.tags, "params": run.data.params, "metrics": run.data.metrics, "status": run.info.status,
    "said": said.to_dict("records"), "refused": refused, "needs": needs,
}))
"""


@pytest.mark.slow
def test_it_trains_is_tracked_and_its_model_is_served(environment: Environment, folder: Path) -> None:
    done = interlace(environment, folder, "train", "grades.yaml", "--run-name", "first")
    assert done.returncode == 0, done.stdout + done.stderr
    uri = f"sqlite:///{folder / 'out' / 'mlflow.db'}"
    served = environment.run("-c", SERVED, uri, cwd=folder)
    assert served.returncode == 0, served.stderr
    told = json.loads(next(line for line in served.stdout.splitlines() if line.startswith("TOLD "))[5:])
    assert told["status"] == "FINISHED"
    assert told["tags"]["plugins"] == PACKAGE
    assert (told["params"]["fields.number.modality"], told["params"]["tasks.grade.task"]) == ("bits", "ordinal")
    assert PACKAGE in told["needs"]
    assert told["metrics"]["val/grade/distance"] < 0.2  # the most frequent grade alone is wrong by more than 1
    said = [row["grade"] for row in told["said"]]
    assert said == [10.0, 13.0, 11.0, 13.0]
    assert all(row["error"] is None and 0 < row["grade_probability"] <= 1 for row in told["said"])
    assert "expected an integer below 256, but is 4096" in told["refused"]
    again = interlace(environment, folder, "evaluate", str(folder / "out" / "runs" / "first"), "--split", "validation")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "grade" in again.stdout
