"""Other packages' kinds: what can't be used is told by the package's name, what is not used changes nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from interlace.data.index.targets import TARGETS
from interlace.data.sources import FORMATS
from interlace.modalities import MODALITIES
from interlace.model.fusions import FUSIONS
from interlace.recipe.data import Source
from interlace.recipe.identity import digest, flatten
from interlace.recipe.load import parse_recipe
from interlace.recipe.model import Model
from interlace.recipe.plugins import GROUPS, Group, installed, kinds
from interlace.tasks import TASKS
from interlace.tune.search import Search
from tests.data import EmojiLike
from tests.types import ROOT

PLUGIN = """
from typing import Literal
from pydantic import Field
from interlace.recipe.base import FieldSettings, Node, TaskSettings
from interlace.recipe.plugins import *

class Bits(FieldSettings):
    modality: Literal["bits"]
    column: str
    @property
    def columns(self): return (self.column,)

class Bare(FieldSettings):
    modality: Literal["bits"]

BITS = ModalityPlugin(interface=1, settings=Bits, make="nowhere:Bits")
LATER = ModalityPlugin(interface=2, settings=Bits, make="nowhere:Bits")
BARE = ModalityPlugin(interface=1, settings=Bare, make="nowhere:Bits")
MIX = FusionPlugin(interface=1, make="nowhere:Mix")
DIM = FusionPlugin(interface=1, make="nowhere:Mix", settings=Bits)
WRONG = FusionPlugin(interface=1, make="nowhere:Mix", settings=int)
"""


def bring(folder: Path, package: str, group: str, *entries: str, module: str = "") -> None:
    """A package as pip leaves it, installed into a folder; with a module named as the package is."""
    place = folder / f"{package}-1.5.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n", encoding="utf-8")
    (place / "entry_points.txt").write_text("\n".join([f"[interlace.{group}]", *entries, ""]), encoding="utf-8")
    if module:
        (folder / f"{package}.py").write_text(module, encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A folder of packages that this process sees."""
    for found in (installed, kinds):
        found.cache_clear()
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]
    for found in (installed, kinds):
        found.cache_clear()


def test_names_of_each_group_are_those_of_the_tables_and_of_the_recipe() -> None:
    searchers = get_args(Search.model_fields["searcher"].annotation)
    fusions, formats = (get_args(m.model_fields[s].annotation) for m, s in ((Model, "fusion"), (Source, "format")))
    tables: dict[Group, Any] = {
        "modalities": MODALITIES, "tasks": TASKS, "fusions": FUSIONS, "sources": FORMATS, "searchers": searchers,
    }  # fmt: skip
    assert {group: set(table) for group, table in tables.items()} == {g: set(i.built_in) for g, i in GROUPS.items()}
    assert (set(fusions), set(formats)) == (set(FUSIONS), set(FORMATS))
    assert set(TARGETS) < set(TASKS)


@pytest.mark.parametrize(
    ("group", "entry", "reason"),
    [
        ("modalities", "bits = shiny:GONE", "importing `shiny:GONE` raised AttributeError"),
        ("modalities", "bits = gone.away:BITS", "importing `gone.away:BITS` raised ModuleNotFoundError"),
        ("modalities", "bits = shiny:MIX", "expected `shiny:MIX` to be a ModalityPlugin, but is FusionPlugin"),
        ("modalities", "bits = shiny:LATER", "it was made for interface 2, but this Interlace has 1"),
        ("modalities", "bats = shiny:BITS", 'expected its settings to have `modality: Literal["bats"]`'),
        ("modalities", "bits = shiny:BARE", "expected its settings to have `columns`"),
        ("modalities", "Bits-2 = shiny:BITS", "expected a name of small letters, digits and `_`"),
        ("tasks", "bits = shiny:BITS", "expected `shiny:BITS` to be a TaskPlugin, but is ModalityPlugin"),
        ("fusions", "mix = shiny:WRONG", "expected `settings` to be a class of `interlace.recipe.base.Node`"),
    ],
)
def test_what_can_not_be_used_says_why_and_names_its_package(site: Path, group: Group, entry: str, reason: str) -> None:
    bring(site, "shiny", group, entry, module=PLUGIN)
    name = entry.partition(" ")[0]
    found = kinds(group)
    assert found.found == {}
    assert found.faults[name].startswith(f"`{name}` of the package shiny 1.5 can't be used: {reason}")


def test_a_name_that_two_packages_bring_is_refused_with_both(site: Path) -> None:
    bring(site, "shiny", "modalities", "bits = shiny:BITS", "text = shiny:BITS", module=PLUGIN)
    bring(site, "dull", "modalities", "bits = dull:BITS", module=PLUGIN)
    found = kinds("modalities")
    assert found.found == {}
    assert found.faults["bits"] == "`bits` is brought by dull 1.5 and by shiny 1.5: one of them must go"
    assert found.faults["text"] == "`text` is brought by interlace itself and by shiny 1.5: one of them must go"


def test_a_part_that_is_not_there_names_its_package(site: Path) -> None:
    bring(site, "shiny", "modalities", "bits = shiny:BITS", module=PLUGIN)
    with pytest.raises(Exception, match=r"package shiny 1\.5: expected `nowhere:Bits`, but ModuleNotFoundError"):
        MODALITIES["bits"]
    assert {"bits", "image"} <= set(MODALITIES)
    with pytest.raises(KeyError):
        MODALITIES["bots"]


EXTRAS = '''
"""A fusion, a format and a searcher."""
from pydantic import Field
from interlace.recipe.base import Node
from interlace.recipe.plugins import FusionPlugin, SearcherPlugin, SourcePlugin

class Scaled(Node):
    """Settings of the fusion."""
    scale: float = Field(1.0, gt=0, description="What the mean state is multiplied by.")

class Lines(Node):
    """Settings of the format."""
    upper: bool = Field(False, description="Read as capitals.")

class Halton(Node):
    """Settings of the searcher."""
    skip: int = Field(20, ge=0, description="Points of the sequence that are left out.")

FUSION = FusionPlugin(interface=1, make="extras_fusion:ScaledMean", settings=Scaled)
FORMAT = SourcePlugin(
    interface=1, make="extras_source:open_lines", settings=Lines, reads=frozenset({"group_rows"}), endings=(".lines",)
)
SEARCHER = SearcherPlugin(interface=1, make="extras_search:suggest", settings=Halton)
DIM = FusionPlugin(interface=1, make="extras_fusion:ScaledMean", settings=Scaled)
'''
FUSION = """
from interlace.model.fusion import Fused, Fusion, find_present, mean_of_present

class ScaledMean(Fusion):
    def __init__(self, model, names):
        super().__init__(model, names)
        self.scale = model.scaled.scale

    def forward(self, tokens, keep_SF):
        fields = self.states(tokens)
        mean_SD = mean_of_present(fields, find_present(tokens, keep_SF))
        return Fused(sample_SD=self.scale * mean_SD, fields=fields, tokens=tokens)
"""
SOURCE = """
from dataclasses import dataclass
from pathlib import Path
import pyarrow as pa
from interlace.contract.errors import DataError
from interlace.data.sources.base import RowGroup, ShardFormat

def open_lines(source):
    return LineFile(group_rows=source.group_rows, upper=source.lines.upper)

@dataclass(frozen=True, slots=True, kw_only=True)
class LineFile(ShardFormat):
    group_rows: int
    upper: bool

    def _lines(self, shard):
        try:
            lines = Path(shard).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DataError(f"{shard}: {error}") from error
        return [line.upper() if self.upper else line for line in lines]

    def schema(self, shard):
        self._lines(shard)
        return pa.schema([("line", pa.string()), ("number", pa.int64())])

    def row_groups(self, shard):
        lines = self._lines(shard)
        starts = range(0, len(lines), self.group_rows)
        return [RowGroup(shard=shard, index=i, first_row=s, num_rows=len(lines[s : s + self.group_rows]), num_bytes=1)
                for i, s in enumerate(starts)]

    def read(self, group, columns):
        end = group.first_row + group.num_rows
        whole = pa.table({"line": self._lines(group.shard)[group.first_row : end],
                          "number": list(range(group.first_row, end))})
        if unknown := set(columns) - set(whole.column_names):
            raise DataError(f"no column {unknown}")
        return whole.select(list(columns))
"""
SEARCHING = """
from interlace.tune.suggest import active

def radical_inverse(number, base):
    share, step = 0.0, 1.0
    while number:
        step /= base
        share += step * (number % base)
        number //= base
    return share

def suggest(search, recipe, trials, goal, number):
    if number == 0:
        return {}
    bases = [n for n in range(2, 200) if all(n % d for d in range(2, n))]
    at = number + search.halton.skip
    return active(search, {p: s.at(radical_inverse(at, b)) for b, (p, s) in zip(bases, search.space.items())})
"""


@pytest.fixture
def extras(tmp_path: Path, shapes: EmojiLike) -> Callable[[str], Any]:
    """Runs a program in a process that sees packages with a fusion, a format and a searcher, and two broken ones.

    It finds the tree of a recipe as `tree`; what it calls `told` is given back.
    """
    folder = tmp_path / "site"
    for name, text in (("fusion", FUSION), ("source", SOURCE), ("search", SEARCHING)):
        folder.mkdir(exist_ok=True)
        (folder / f"extras_{name}.py").write_text(text, encoding="utf-8")
    bring(folder, "extras", "fusions", "scaled = extras:FUSION", "dim = extras:DIM", "[interlace.sources]",
          "lines = extras:FORMAT", "[interlace.searchers]", "halton = extras:SEARCHER", module=EXTRAS)  # fmt: skip
    bring(folder, "broken", "modalities", "bits = broken:BITS", "table = broken:BITS", module="raise OSError('no key')")
    tree = json.dumps(shapes.tree(tmp_path / "out"))

    def run(program: str) -> Any:
        begin = f"import json\ntree = json.loads({tree!r})\n"
        path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", f"{begin}{program}\nprint('TOLD ' + json.dumps(told))"],
            capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("TOLD "))[5:])

    return run


HEAD = """
from interlace.contract.errors import RecipeError
from interlace.recipe.identity import digest, flatten, packages, to_yaml
from interlace.recipe.load import parse_recipe
import yaml

def faults(*overrides):
    try:
        parse_recipe(json.loads(json.dumps(tree)), overrides)
    except RecipeError as error:
        return list(error.errors)
tree["fields"].pop("size")
"""


def test_plugins_that_are_not_used_change_nothing_of_a_recipe(
    extras: Callable[[str], Any], shapes: EmojiLike, tmp_path: Path
) -> None:
    told = extras(
        HEAD + "recipe = parse_recipe(tree)\ntold = [digest(recipe), flatten(recipe), list(packages(recipe))]"
    )
    tree = shapes.tree(tmp_path / "out")
    tree["fields"].pop("size")
    here = parse_recipe(tree)
    assert told == [digest(here), json.loads(json.dumps(flatten(here))), []]


def test_sections_of_plugins_are_settings_like_all_others(extras: Callable[[str], Any]) -> None:
    told = extras(
        HEAD
        + """
plain = parse_recipe(json.loads(json.dumps(tree)), ["model.fusion=scaled"])
recipe = parse_recipe(json.loads(json.dumps(tree)), ["model.fusion=scaled", "model.scaled.scale=2.5"])
again = parse_recipe(yaml.safe_load(to_yaml(recipe)))
told = {
    "flat": [flatten(recipe)["model.scaled.scale"], flatten(plain)["model.scaled.scale"]],
    "same": again == recipe and digest(again) == digest(recipe) != digest(plain),
    "packages": list(packages(recipe)),
    "faults": [
        faults("model.scaled.scale=1"),
        faults("model.fusion=scaled", "model.scaled.scale=-1", "model.scaled.scal=1"),
        faults("model.fusion=scald"),
        faults("model.fusion=dim"),
        faults("data.train.format=lines", "data.train.types={line: string}"),
        faults("data.train.format=lines", "data.train.lines.uper=true"),
        faults("fields.image.modality=bits"),
        faults("fields.image.modality=table"),
    ],
}
"""
    )
    assert told["flat"] == [2.5, 1.0]
    assert told["same"]
    assert told["packages"] == ["extras==1.5"]
    own = "; those of other packages are known where the package is installed"
    first, second, third, fourth, *rest = told["faults"]
    assert first == ["model: `scaled` has no effect with `fusion: mid`; it is for `fusion: scaled`"]
    assert second == [
        "model.scaled.scale: Input should be greater than 0, but is -1",
        "model.scaled.scal: unknown key; did you mean `scale`?",
    ]
    assert third[0].startswith("model.fusion: unknown fusion 'scald'; did you mean `scaled`? Known here: early, mid,")
    assert third[0].endswith(own)
    assert fourth == ["model.fusion: `dim` of the package extras 1.5 is the name of a setting beside it"]
    assert rest == [
        ["data.train: `types` has no effect with `format: lines`"],
        ["data.train.lines.uper: unknown key; did you mean `upper`?"],
        ["fields.image.modality: `bits` of the package broken 1.5 can't be used: importing `broken:BITS` raised"
         " OSError: no key"],
        ["fields.image.modality: `table` is brought by interlace itself and by broken 1.5: one of them must go"],
    ]  # fmt: skip


def test_a_fusion_a_format_and_a_searcher_of_another_package_keep_the_laws(
    extras: Callable[[str], Any], tmp_path: Path
) -> None:
    shard = tmp_path / "a.lines"
    shard.write_text("one\ntwo\nthree\nfour\nfive\n", encoding="utf-8")
    told = extras(
        HEAD
        + f"""
from interlace.data.index.identity import source_settings
from interlace.data.sources.laws import check_source
from interlace.model.fusions.laws import check_fusion
from interlace.recipe.data import MixedSource, Source
from interlace.recipe.model import Model
from interlace.tune.search import Search
small = {{"dim": 32, "head_dim": 16, "dropout": 0.0, "field_layers": 1, "joint_layers": 1}}
check_fusion(Model(fusion="scaled", scaled={{"scale": 3.0}}, **small))
rows = [dict(line=line, number=i) for i, line in enumerate(["ONE", "TWO", "THREE", "FOUR", "FIVE"])]
source = Source(format="lines", paths=["*.lines"], group_rows=2, lines={{"upper": True}})
check_source(source, {str(shard)!r}, rows)
mixed = MixedSource(format="lines", paths=["x"], weight=2.0)
from interlace.tune.laws import check_searcher
from interlace.tune.searchers import SEARCHERS
space = {{"optim.lr": {{"log_uniform": [1e-4, 1e-2]}}, "model.dropout": {{"uniform": [0, 0.5]}}}}
search = Search.model_validate({{"space": space, "searcher": "halton"}})
drawn = [dict(t.overrides) for t in check_searcher(SEARCHERS["halton"], search, parse_recipe(tree), 5)]
told = {{
    "source": source_settings(source), "mixed": [mixed.lines.upper, mixed.weight],
    "skip": search.halton.skip, "drawn": drawn, "kept": search.model_dump(mode="json")["halton"],
}}
"""
    )
    assert told["source"]["lines"] == {"upper": True}
    assert told["source"]["package"] == "extras==1.5"
    assert told["mixed"] == [False, 2.0]
    assert (told["skip"], told["kept"]) == (20, {"skip": 20})
    assert told["drawn"][0] == {}
    assert len({d["optim.lr"] for d in told["drawn"][1:]}) == 4
