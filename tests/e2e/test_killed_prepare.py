"""`interlace prepare` of four sources in four formats, killed in the middle, and the same command again."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from interlace.data.prepare import make_plan, prepare
from interlace.recipe.prepare import load_preparation
from tests.e2e.conftest import Command
from tests.joined import four_formats, tree, write_four_formats

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.filterwarnings("default")]


def wait_for(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline, "the job did not get going"
        time.sleep(0.01)


def test_killed_prepare_goes_on_by_the_same_command(tmp_path: Path, interlace: Command) -> None:
    write_four_formats(tmp_path / "sources", 600, group_rows=10, num_shards=1)
    recipe = tmp_path / "records.yaml"
    out = tmp_path / "out"
    settings = tree(tmp_path / "sources", out, bucket_mb=0.01, sources=four_formats(10))
    recipe.write_text(yaml.safe_dump(settings))
    plain = prepare(make_plan(load_preparation(recipe, [f"out={tmp_path / 'plain'}"])))

    first = interlace("prepare", str(recipe))
    wait_for(lambda: len(list(out.glob(".prepare/*/scatter/*.json"))) > 2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (out / "prepared.json").exists()
    assert list(out.glob(".prepare/*/scatter/*.json"))
    assert not list(out.glob("*.parquet"))

    second = interlace("prepare", str(recipe))
    log = tmp_path / "command.log"
    assert second.wait() == 0, log.read_text()
    assert json.loads((out / "prepared.json").read_text())["digest"] == plain.digest
    assert not (out / ".prepare").exists()
    third = interlace("prepare", str(recipe))
    assert third.wait() == 0, log.read_text()
    text = log.read_text()
    assert "nothing to do: the folder is finished" in text
    assert f"digest {plain.digest}" in text
    assert 'train: {paths: ["train-*.parquet"]}' in text
