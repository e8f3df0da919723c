"""What all tests share: the folder of real data, and a small real-looking data set that tests generate."""

import os
from pathlib import Path

import pytest

from tests.data import EmojiLike, write_shards

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("INTERLACE_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set INTERLACE_TEST_DATA)")
    return folder


@pytest.fixture(autouse=True)
def mlflow_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are recorded where a test says, whatever the environment of whoever tests names."""
    for name in ("TRACKING_URI", "EXPERIMENT_NAME", "EXPERIMENT_ID", "RUN_ID"):
        monkeypatch.delenv(f"MLFLOW_{name}", raising=False)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> EmojiLike:
    """A generated image-and-text set: 240 training rows in 3 shards of 4 row groups, 48 validation rows."""
    return write_shards(tmp_path_factory.mktemp("shapes"), rows=240, seed=0)
