"""The picture in `pipeline/README.md` is the code: every arrow is an import, every import between rooms an arrow."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.laws.code import Import, imports
from tests.laws.test_layers import ASIDE, EXCEPTIONS, FACE, LEVELS, PICTURE, plant, refused, room

Arrows = set[tuple[str, str]]


def drawn(text: str = PICTURE) -> dict[str, list[str]]:
    """Room -> rooms that its line points at, as the picture says."""
    block = re.search(r"^```arrows\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    lines = [line.partition("->") for line in block.group(1).splitlines()]
    return {name.strip(): re.findall(r"\w+", targets) for name, _, targets in lines}


def arrows_of(picture: dict[str, list[str]]) -> Arrows:
    """Every arrow of a picture."""
    return {(name, target) for name, targets in picture.items() for target in targets}


def real(edges: Iterable[Import]) -> Arrows:
    """Pairs of rooms of which the first imports the second; the face and what is excepted are left out."""
    own = [e for e in edges if e.own and e.module != FACE and (e.module, e.target) not in EXCEPTIONS]
    return {(room(e.module), room(e.target)) for e in own if room(e.module) != room(e.target)}


def differences(picture: Arrows, imported: Arrows) -> list[str]:
    """Arrows without an import, and imports without an arrow."""
    ghosts = [f"{above} -> {below}: no import is like that" for above, below in sorted(picture - imported)]
    return ghosts + [f"{above} imports {below}: no arrow says so" for above, below in sorted(imported - picture)]


def test_the_arrows_are_the_imports() -> None:
    picture = drawn()
    assert differences(arrows_of(picture), real(imports())) == []
    assert set(picture) == {*LEVELS, ASIDE}
    assert len(arrows_of(picture)) > 30


def test_arrows_are_drawn_from_the_top_down_and_once() -> None:
    picture = drawn()
    edges = [Import(path="", module=f"interlace.{a}.x", target=f"interlace.{b}.y") for a, b in arrows_of(picture)]
    assert [why for edge in edges if (why := refused(edge))] == []
    heights = [LEVELS.get(name, -1) for name in picture]
    assert heights == sorted(heights, reverse=True)
    assert all(len(targets) == len(set(targets)) for targets in picture.values())


def test_what_the_picture_leaves_to_memory_is_known_by_all() -> None:
    picture = drawn()
    assert [n for n, targets in picture.items() if n not in ("contract", ASIDE) and "contract" not in targets] == []
    above = [n for n in picture if LEVELS.get(n, -1) > LEVELS["recipe"]]
    assert [n for n in above if "recipe" not in picture[n]] == []
    assert len(above) > 8


@pytest.mark.parametrize(
    ("pattern", "becomes", "difference"),
    [
        (r"^(data +-> )", r"\1tasks ", "data -> tasks: no import is like that"),
        (r"^(tracking +-> )store", r"\1", "tracking imports store: no arrow says so"),
        (r"^store .*\n", "", "store imports contract: no arrow says so"),
    ],
)
def test_a_planted_arrow_and_a_planted_gap_are_found(pattern: str, becomes: str, difference: str) -> None:
    text = re.sub(pattern, becomes, PICTURE, flags=re.MULTILINE)
    assert differences(arrows_of(drawn(text)), real(imports())) == [difference]


@pytest.mark.parametrize(
    ("file", "text", "difference"),
    [
        ("pipeline__tasks__x", "import interlace.data.stream", "tasks imports data: no arrow says so"),
        (
            "pipeline__store__x",
            "def f():\n    from interlace.recipe import load",
            "store imports recipe: no arrow says so",
        ),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, file: str, text: str, difference: str) -> None:
    edges = [*imports(), *plant(tmp_path, pipeline__recipe__load="", **{file: text})]
    assert differences(arrows_of(drawn()), real(edges)) == [difference]
