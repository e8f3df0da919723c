"""Where what is kept lies in the storage folder of a recipe (`storage`): all paths are absolute.

<storage>/  runs/<name>/  sweeps/<name>/  plans/<number>/  cache/{index,decoded,starts,models}/
"""

from pathlib import Path

Storage = str | Path
"""The folder as a recipe or a command names it; a relative one starts from the current folder."""


def root_of(storage: Storage) -> Path:
    """The storage folder itself."""
    return Path(storage).absolute()


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
