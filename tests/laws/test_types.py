"""Types are checked under the name that is installed, and faults are told with the project's own paths."""

from pathlib import Path

import pytest

from tests.laws.code import ROOT, sources
from tests.types import check_types, link_packages


def test_links_have_the_shape_that_is_installed(tmp_path: Path) -> None:
    """The reference is the name by which each module is imported."""
    links = link_packages(tmp_path)
    for name, file in sources().items():
        inside = Path(*name.split("."), "__init__.py") if file.name == "__init__.py" else Path(*name.split("."))
        assert (tmp_path / inside).with_suffix(".py").resolve() == file.resolve()
    assert {str(Path(link).relative_to(tmp_path)) for link in links} >= {"interlace/jobs", "interlace/cluster"}
    assert [link for link, place in links.items() if Path(link).resolve() != (ROOT / place).resolve()] == []
    assert len(sources()) > 150


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A project of three folders with one module each, that import one another."""
    texts = {
        "pipeline/__init__.py": "",
        "pipeline/room/__init__.py": "",
        "pipeline/room/number.py": "def half(value: int) -> float:\n    return value / 2\n",
        "jobs/__init__.py": "",
        "jobs/verb.py": "from interlace.room.number import half\n\nresult: float = half(3)\n",
        "cluster/__init__.py": "",
    }
    for name, text in texts.items():
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / name).write_text(text)
    return tmp_path / "project"


def test_a_planted_fault_is_found_at_its_place_in_the_project(small: Path, tmp_path: Path) -> None:
    cache = f"--cache-dir={tmp_path / 'cache'}"
    assert check_types([cache], small) == (0, "Success: no issues found in 6 source files\n")
    (small / "jobs" / "verb.py").write_text("from interlace.room.number import half\n\nresult: str = half(3)\n")
    (small / "pipeline" / "room" / "number.py").write_text("def half(value):\n    return value / 2\n")
    code, said = check_types([cache], small)
    assert code == 1
    assert "pipeline/room/number.py:1: error: Function is missing a type annotation" in said
    assert 'jobs/verb.py:3: error: Call to untyped function "half"' in said
    assert "Found 2 errors in 2 files (checked 6 source files)" in said
