"""Packing a working folder for a job: what goes along, how large it is, and one archive whose bytes depend on content.

collect (walk, excludes) -> Package -> with_code -> check_size (refuses, names the largest) -> write (zip)

Left out are what `.gitignore` and `.rayignore` name, in any folder, and what no job needs: version control, virtual
environments, caches of tools, data, runs, MLflow stores, and files that are likely to hold secrets. The code that the
job runs goes along as a folder of its import name: a job's folder comes first where Python looks for modules, so the
job runs that code whatever its nodes have installed.
"""

import os
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from interlace.cluster.errors import ClusterError, JobError

PACKAGE = "interlace-package.zip"
"""File name of an archive that is kept, beside rendered files; it is never packed itself."""

EXCLUDES = (
    ".git", ".hg", ".svn", "__pycache__", "*.pyc", "*.egg-info", ".mypy_cache", ".ruff_cache", ".pytest_cache",
    ".hypothesis", ".ipynb_checkpoints", ".cache", "node_modules", ".DS_Store", ".idea", ".vscode",
    "/data", "/output", "/runs", "/sweeps", "/mlruns", "/mlartifacts", "/wandb", "/build", "/dist", "mlflow.db*",
    ".env", ".env.*", ".netrc", "*.pem", "*.key", "id_rsa*", "id_ed25519*", ".aws", ".ssh", ".kube", "auth_token",
    PACKAGE,
)  # fmt: skip
"""Patterns as in `.gitignore`; those that begin with a slash count in the working folder itself only."""

IGNORE_FILES = (".gitignore", ".rayignore")
ENVIRONMENT = "pyvenv.cfg"
"""A folder that holds this file is a virtual environment, whatever its name."""

LIMIT_MB = 100.0
"""Largest upload in MiB where nothing else is said. Ray itself takes 512 and keeps each in the head's memory."""

NUM_NAMED = 5
MIB = 1 << 20
BEGIN_OF_ZIP = (1980, 1, 1, 0, 0, 0)


class TooLargeError(ClusterError):
    """A package over the limit; the text names the largest paths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A file of a package: its place in it, the file on this host, and its bytes."""

    name: str
    path: Path
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """What goes to the cluster: files in order of their names."""

    items: tuple[Item, ...]

    @property
    def size(self) -> int:
        """Bytes before compression."""
        return sum(item.size for item in self.items)

    def __str__(self) -> str:
        return f"{len(self.items)} files, {self.size / MIB:.1f} MiB"

    def with_file(self, name: str, path: Path) -> "Package":
        """The package with one more file in it, or another one in the place of that name."""
        others = (item for item in self.items if item.name != name)
        added = Item(name=name, path=path, size=path.stat().st_size)
        return Package(items=tuple(sorted((*others, added), key=lambda item: item.name)))

    def with_code(self, name: str, folders: Mapping[str, Path]) -> "Package":
        """The package with the code of a job as the folder `name`; caches of tools and documents stay behind.

        Args:
            name: import name of the code.
            folders: place in the package, `name` or below it -> folder of this host.

        Raises:
            JobError: the working folder has something of that name, which would be imported in its place or hidden.
        """
        patterns = [*(pattern for pattern in EXCLUDES if not pattern.startswith("/")), "README.md"]
        found = (
            Item(name=f"{place}/{path.relative_to(folder).as_posix()}", path=path, size=path.stat().st_size)
            for place, folder in folders.items()
            for path in _walk(folder, (_Ignored(folder, patterns),), set())
        )
        code = {item.name: item for item in found}
        for item in self.items:
            same = item.name in code and item.path.samefile(code[item.name].path)
            if item.name.partition("/")[0] in (name, f"{name}.py") and not same:
                raise JobError(
                    f"the working folder has `{item.name}`, but the job's own code goes along under the name `{name}`,"
                    f" from {folders[name]}: rename it, leave it out by `.gitignore` or `.rayignore`, or submit from"
                    " another folder"
                )
        together = {item.name: item for item in self.items} | code
        return Package(items=tuple(together[key] for key in sorted(together)))

    def holds(self, name: str) -> bool:
        """Whether a file of this name is in it."""
        return any(item.name == name for item in self.items)


def collect(folder: Path, leave_out: Sequence[Path] = ()) -> Package:
    """Everything in a folder but what is excluded. Links to files are followed, links to folders are not.

    Args:
        folder: the working folder.
        leave_out: folders of data and runs, wherever they are; those inside `folder` stay behind.
    """
    kept_back = {path.resolve() for path in leave_out} - {folder.resolve()}
    items = (
        Item(name=path.relative_to(folder).as_posix(), path=path, size=path.stat().st_size)
        for path in _walk(folder, (_Ignored(folder, EXCLUDES),), kept_back)
    )
    return Package(items=tuple(sorted(items, key=lambda item: item.name)))


def check_size(package: Package, limit_mb: float = LIMIT_MB) -> None:
    """Refuse a package over the limit.

    Raises:
        TooLargeError: with its largest files, and its largest folders right in the working folder.
    """
    if package.size <= limit_mb * MIB:
        return
    tops: dict[str, int] = {}
    for item in package.items:
        top, slash, _ = item.name.partition("/")
        if slash:
            tops[f"{top}/"] = tops.get(f"{top}/", 0) + item.size
    sized = [(item.name, item.size) for item in package.items]
    listed = "".join(
        f"\n  - {name}: {size / MIB:.1f} MiB"
        for some in (tops.items(), sized)
        for name, size in sorted(some, key=lambda pair: -pair[1])[:NUM_NAMED]
    )
    raise TooLargeError(
        f"the working folder packs to {package}, but at most {limit_mb:g} MiB are uploaded; the largest:{listed}\n"
        "Leave them out by `.gitignore` or `.rayignore`, or raise --max-upload-mb"
    )


def write(package: Package, path: Path) -> int:
    """Write the archive; its bytes depend on names, modes and contents only. Returns its size in bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for item in package.items:
            info = zipfile.ZipInfo(item.name, BEGIN_OF_ZIP)
            mode = 0o755 if item.path.stat().st_mode & stat.S_IXUSR else 0o644
            info.external_attr = (stat.S_IFREG | mode) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, item.path.read_bytes())
    return path.stat().st_size


class _Ignored:
    """Patterns of one folder, which count for all below it."""

    def __init__(self, folder: Path, patterns: Sequence[str]) -> None:
        self.folder = folder
        self.spec = GitIgnoreSpec.from_lines(patterns)

    def says(self, path: Path, *, is_folder: bool) -> bool | None:
        """Whether the path is left out (True), taken back in (False), or not named (None)."""
        inside = path.relative_to(self.folder).as_posix() + ("/" if is_folder else "")
        return self.spec.check_file(inside).include


def _walk(folder: Path, ignored: tuple[_Ignored, ...], kept_back: set[Path]) -> Iterator[Path]:
    own = [
        _Ignored(folder, file.read_text(encoding="utf-8", errors="replace").splitlines())
        for name in IGNORE_FILES
        if (file := folder / name).is_file()
    ]
    ignored = (*ignored, *own)
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = folder / entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        if _is_left_out(path, ignored, is_folder=is_folder):
            continue
        if is_folder:
            if path.resolve() not in kept_back and not (path / ENVIRONMENT).exists():
                yield from _walk(path, ignored, kept_back)
        elif entry.is_file():
            yield path


def _is_left_out(path: Path, ignored: tuple[_Ignored, ...], *, is_folder: bool) -> bool:
    """The last word counts, as in git; what is built in can't be taken back in by an ignore file."""
    builtin, *others = ignored
    if builtin.says(path, is_folder=is_folder):
        return True
    verdict = False
    for rules in others:
        said = rules.says(path, is_folder=is_folder)
        verdict = verdict if said is None else said
    return verdict
