"""Data that the tests of verbs share."""

from pathlib import Path

import pytest

from tests.bedside import Bedside, write_bedside


@pytest.fixture
def bedside(tmp_path: Path) -> Bedside:
    """A fresh folder of every modality but pictures and texts."""
    return write_bedside(tmp_path)
