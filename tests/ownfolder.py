"""A user's working folder whose modules are called as the library's folders are in its repository."""

from pathlib import Path
from typing import Any

import yaml

from tests.data import EmojiLike

NAMES = ("pipeline.py", "jobs/__init__.py", "cluster.py")
NOT_THE_LIBRARY = 'raise ImportError("the library imported a module of the user")\n'


def own_folder(folder: Path, shapes: EmojiLike, **sections: Any) -> Path:
    """Make such a folder, with a recipe `shapes.yaml` whose results go to `out` beside it; whoever imports fails."""
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(NOT_THE_LIBRARY)
    train = {"steps": 8, "eval_every": 4, "precision": "fp32", "threads": 1}
    tree = shapes.tree(Path("out"), train=train, **sections)
    (folder / "shapes.yaml").write_text(yaml.safe_dump(tree))
    return folder
