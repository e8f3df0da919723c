"""Real values of every modality: the folder in INTERLACE_TEST_DATA, else ../shared/data beside the repository."""

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[3]


def read_column(file: str, column: str) -> list:
    folder = Path(os.environ.get("INTERLACE_TEST_DATA", ROOT.parent / "shared" / "data"))
    path = folder / file
    if not path.is_file():
        pytest.skip(f"no real data: {path} is not there (set INTERLACE_TEST_DATA to the folder that holds {file})")
    return pq.read_table(path, columns=[column])[column].to_pylist()


@pytest.fixture(scope="session")
def emoji_images() -> list[bytes]:
    return read_column("emoji/images_google.parquet", "image")


@pytest.fixture(scope="session")
def digit_images() -> list[bytes]:
    return read_column("mnist10k/train.parquet", "image")


@pytest.fixture(scope="session")
def stamp_images() -> list[bytes]:
    return read_column("tuxpaint_stamps/stamps.parquet", "image")


@pytest.fixture(scope="session")
def captions() -> list[str]:
    return read_column("multi30k_text/val.parquet", "en") + read_column("multi30k_text/val.parquet", "cs")


@pytest.fixture(scope="session")
def emoji_names() -> list[str]:
    names = read_column("emoji/annotations.parquet", "name")
    return [n for n in names if n is not None]


@pytest.fixture(scope="session")
def stays() -> list[tuple]:
    """Rows of (age, height_cm, weight_kg, icu_type, gender) with real gaps."""
    columns = ("age", "height_cm", "weight_kg", "icu_type", "gender")
    return list(zip(*(read_column("icu2012/set_a.parquet", c) for c in columns), strict=True))


@pytest.fixture(scope="session")
def sounds() -> dict[str, list[tuple[bytes, int, int]]]:
    """Rows of (encoded sound, samples, samples a second) of four sets, the counts as their READMEs give them."""
    files = ("fsdd/speech", "esc10/folds_1_4", "asterisk_prompts/speech_en", "tuxpaint_stamps/speech_fr")
    columns = ("audio", "num_samples", "sample_rate")
    return {f: list(zip(*(read_column(f"{f}.parquet", c) for c in columns), strict=True)) for f in files}


@pytest.fixture(scope="session")
def exercises() -> list[tuple]:
    """Three accelerometer and three gyroscope channels at 50 Hz, 140 rows."""
    columns = ("ax", "ay", "az", "wx", "wy", "wz")
    return list(zip(*(read_column("watch_exercises/sensors.parquet", c) for c in columns), strict=True))


@pytest.fixture(scope="session")
def measurements() -> list[tuple]:
    """Stays of 48 hours: aligned lists of minute, parameter and value."""
    return list(zip(*(read_column("icu2012/set_a.parquet", c) for c in ("minute", "parameter", "value")), strict=True))


@pytest.fixture(scope="session")
def pen_digits() -> list[tuple]:
    """Two channels of 8 whole numbers."""
    return list(zip(*(read_column("pendigits/train.parquet", c) for c in ("x", "y")), strict=True))


@pytest.fixture(scope="session")
def pen_strokes() -> list[tuple]:
    """Two channels of any length."""
    return list(zip(*(read_column("omniglot/five_alphabets.parquet", c) for c in ("x", "y")), strict=True))
