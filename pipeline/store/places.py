"""Where what is kept lies in the storage folder of a recipe (`storage`): all paths are absolute.

<storage>/  runs/<name>/  sweeps/<name>/  plans/<number>/  cache/{index,decoded,starts,models}/
"""

import re
from pathlib import Path

from interlace.contract.errors import RecipeError

RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""What runs, searches and data sets may be called: a folder of that name lies in its parent."""

Storage = str | Path
"""The folder as a recipe or a command names it; a relative one starts from the current folder."""


def root_of(storage: Storage) -> Path:
    """The storage folder itself. Raises RecipeError where it is none."""
    if (error := storage_error(storage)) is not None:
        raise RecipeError((f"storage: {error}",))
    return Path(storage).absolute()


def storage_error(storage: Storage) -> str | None:
    """What is wrong with a storage folder; `Path` makes one slash of the two in a URI."""
    if (escape := re.search(r"%[0-9A-Fa-f]{2}", str(storage))) is not None:
        return f"expected a folder without `{escape[0]}`, which MLflow reads as another letter, but is {str(storage)!r}"
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", str(storage))
    if scheme is None:
        return None
    wanted = "without `file://`" if scheme[1] == "file" else "that all nodes see, such as a mounted bucket"
    return f"expected a folder {wanted}, but is a URI: {str(storage)!r}"


def child_of(parent: Path, name: str) -> Path:
    """The folder of a run or search of this name. Raises RecipeError where the name would lead elsewhere."""
    if re.fullmatch(RUN_NAME, name) is None or name.endswith("\n"):
        wanted = "letters, digits, `_`, `.` and `-`, the first a letter or digit"
        raise RecipeError((f"run name: expected {wanted}, but is {name!r}",))
    return parent / name


def runs_of(storage: Storage) -> Path:
    """A folder for each run, by name."""
    return root_of(storage) / "runs"


def sweeps_of(storage: Storage) -> Path:
    """A folder for each search, by name."""
    return root_of(storage) / "sweeps"


def plans_of(storage: Storage) -> Path:
    """Short trainings whose speed is measured; each is removed at its end."""
    return root_of(storage) / "plans"


def indexes_of(storage: Storage) -> Path:
    """Indexes of data sets, by what they were made from."""
    return root_of(storage) / "cache" / "index"


def decoded_of(storage: Storage) -> Path:
    """Decoded values, where the recipe names no other folder."""
    return root_of(storage) / "cache" / "decoded"


def starts_of(storage: Storage) -> Path:
    """Copies of what runs start from, by hash."""
    return root_of(storage) / "cache" / "starts"


def models_of(storage: Storage) -> Path:
    """Models fetched from MLflow."""
    return root_of(storage) / "cache" / "models"
