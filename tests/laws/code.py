"""The project's own code as laws see it: modules, what they import, and where."""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = {"pipeline": "interlace", "jobs": "interlace.jobs", "cluster": "interlace.cluster"}
"""Folder of the repository -> the package that it is installed as."""
PACKAGES = tuple(FOLDERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """`module` (in the file `path`, relative to the root) imports `target`, dotted as far as it names a module."""

    path: str
    module: str
    target: str

    @property
    def package(self) -> str:
        """The outermost package of the target."""
        return self.target.partition(".")[0]

    @property
    def own(self) -> bool:
        """Whether the target is the project's own."""
        return self.package == "interlace"


def sources(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the three folders by the dotted name it is imported by."""
    return {_dotted(f.relative_to(root)): f for p in PACKAGES for f in sorted((root / p).rglob("*.py"))}


def _dotted(path: Path) -> str:
    top, *parts = path.with_suffix("").parts
    return ".".join([FOLDERS[top], *(parts[:-1] if parts[-1] == "__init__" else parts)])


def imports(root: Path = ROOT) -> list[Import]:
    """Every import of a module outside the standard library, wherever in a file it stands."""
    known = sources(root)
    found = []
    for module, path in known.items():
        for target in targets(ast.parse(path.read_text(encoding="utf-8")), known):
            if target.partition(".")[0] not in sys.stdlib_module_names:
                found.append(Import(path=path.relative_to(root).as_posix(), module=module, target=target))
    return found


def targets(tree: ast.AST, known: Mapping[str, Path]) -> Iterator[str]:
    """What a syntax tree imports; `from a import b` is `a.b` where b may be a module: own, or of an outer package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide what a module imports"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                own = node.module.partition(".")[0] == "interlace"
                yield inner if inner in known or not own else node.module
