"""Laws of fitting as a job: one read of each row group, the same state wherever it is read, vocabularies shared."""

import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interlace import modalities
from interlace.contract.errors import DataError, RecipeError, StartError
from interlace.data.index.build import build_index, find_split, list_groups
from interlace.data.index.fit import fit
from interlace.data.index.records import make_codec
from interlace.data.sources import Mapper, RowGroup
from interlace.data.sources.parquet import Parquet
from interlace.recipe.fields import TextField
from interlace.recipe.identity import to_yaml
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from interlace.recipe.start import FITTED, RECIPE
from interlace.store.places import starts_of
from tests.fitting import fit as fit_one

Work = Callable[[RowGroup], pa.Table]
GROUPS = 5
WORDS = {"source": ("der", "rote", "Hund", "läuft"), "target": ("the", "red", "dog", "runs")}


def make_shards(folder: Path, **changes: Any) -> list[dict[str, Any]]:
    """Two shards of rows that every kind of learner can learn from, and the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    rows = [
        {
            **{n: " ".join(rng.choice(words, 3)) if rng.random() < 0.9 else None for n, words in WORDS.items()},
            "width": float(rng.normal(1e6)) if rng.random() < 0.9 else None,
            "shop": f"s{rng.integers(9)}",
            "born": f"20{rng.integers(10, 24)}-01-{rng.integers(10, 29)}",
            "sensor": rng.normal(size=(rng.integers(1, 9))).tolist(),
            "times": [1.0, 2.0],
            "names": ["a", str(rng.integers(3))],
            "values": rng.normal(size=2).tolist(),
            "raw": "never read",
            "label": ("x", "y")[int(rng.integers(2))],
            **changes,
        }
        for _ in range(100)
    ]
    for i in range(2):
        pq.write_table(pa.Table.from_pylist(rows[i::2]), folder / f"train-{i}.parquet", row_group_size=50 // GROUPS)
    return rows


def recipe_of(folder: Path, **fields: Any) -> Recipe:
    text = {"modality": "text", "tokenizer": "bpe", "vocab_size": 280}
    every = {
        "source": {**text, "column": "source", "vocabulary": "joint"},
        "target": {**text, "column": "target", "vocabulary": "joint"},
        "letters": {**text, "column": "target", "tokenizer": "characters"},
        "raw": {"modality": "text", "column": "raw"},
        "width": {"modality": "table", "numbers": ["width"]},
        "shop": {"modality": "table", "categories": ["shop"]},
        "born": {"modality": "table", "dates": ["born"]},
        "sensor": {"modality": "series", "channels": ["sensor"]},
        "vitals": {"modality": "series", "time": "times", "channel": "names", "value": "values"},
    }
    return parse_recipe(
        {
            "name": "all",
            "storage": str(folder / "out"),
            "data": {"root": str(folder), "train": {"paths": ["train-*.parquet"]}},
            "fields": fields or every,
            "tasks": {"label": {"task": "classification", "column": "label"}},
            "train": {"steps": 1},
        }
    )


def groups_of(recipe: Recipe) -> list[RowGroup]:
    split = find_split(recipe.data.splits()["train"], recipe.data.root)
    return [g for own in list_groups(split, recipe, Path(recipe.storage) / "listings") for g in own]


def elsewhere(work: Work, groups: Sequence[RowGroup]) -> Iterator[pa.Table]:
    """Work and row groups sent as bytes to a process each, that do the last one first."""
    sent = [pickle.dumps((work, group)) for group in groups]
    done = {}
    for i in reversed(range(len(sent))):
        again, group = pickle.loads(sent[i])
        done[i] = again(group)
    yield from (done[i] for i in range(len(sent)))


def together(work: Work, groups: Sequence[RowGroup]) -> list[pa.Table]:
    """All tables as one, as blocks of several units come."""
    return [pa.concat_tables(map(work, groups))]


@pytest.mark.parametrize("mapper", [elsewhere, together])
def test_the_state_is_the_same_wherever_row_groups_are_read(tmp_path: Path, mapper: Mapper) -> None:
    make_shards(tmp_path)
    recipe = recipe_of(tmp_path)
    groups = groups_of(recipe)
    here = fit(recipe.reads, recipe.data.splits()["train"], groups, map)
    assert json.dumps(fit(recipe.reads, recipe.data.splits()["train"], groups, mapper)) == json.dumps(here)
    assert len(groups) == 2 * GROUPS
    assert len(here["fields"]) == 9
    make_codec(recipe.reads, here)
    built = build_index(recipe, lambda work, units: list(elsewhere(work, units)))
    assert json.dumps(built.fitted) == json.dumps(here)


def test_a_row_group_is_read_once_and_only_what_is_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shards(tmp_path)
    reads: Counter[tuple[str, int]] = Counter()
    columns = set()
    read = Parquet.read

    def counted(self: Parquet, group: RowGroup, names: Sequence[str]) -> pa.Table:
        reads[group.shard, group.index] += 1
        columns.add(tuple(sorted(names)))
        return read(self, group, names)

    monkeypatch.setattr(Parquet, "read", counted)
    recipe = recipe_of(tmp_path)
    fit(recipe.reads, recipe.data.splits()["train"], groups_of(recipe), map)
    assert set(reads.values()) == {1}
    assert len(reads) == 2 * GROUPS
    assert columns == {tuple(sorted(set(recipe.columns()) - {"raw"}))}


def test_partials_are_merged_as_they_come(tmp_path: Path) -> None:
    """A mapper that keeps count: no more than one table waits."""
    make_shards(tmp_path)
    recipe = recipe_of(tmp_path)
    waiting = []

    def one_by_one(work: Work, groups: Sequence[RowGroup]) -> Iterator[pa.Table]:
        for group in groups:
            waiting.append(work(group))
            yield waiting[-1]
            waiting.pop()
            assert not waiting

    assert fit(recipe.reads, recipe.data.splits()["train"], groups_of(recipe), one_by_one) == fit(
        recipe.reads, recipe.data.splits()["train"], groups_of(recipe), map
    )


def test_a_damaged_row_group_teaches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shards(tmp_path)
    recipe = recipe_of(tmp_path)
    groups = groups_of(recipe)
    without = fit(recipe.reads, recipe.data.splits()["train"], groups[1:], map)
    assert without != fit(recipe.reads, recipe.data.splits()["train"], groups, map)
    read = Parquet.read

    def damaged(self: Parquet, group: RowGroup, names: Sequence[str]) -> pa.Table:
        if group == groups[0]:
            raise DataError("damaged")
        return read(self, group, names)

    monkeypatch.setattr(Parquet, "read", damaged)
    assert fit(recipe.reads, recipe.data.splits()["train"], groups, map) == without


def test_fields_of_one_vocabulary_are_fitted_together(tmp_path: Path) -> None:
    rows = make_shards(tmp_path)
    recipe = recipe_of(tmp_path)
    state = fit(recipe.reads, recipe.data.splits()["train"], groups_of(recipe), map)["fields"]
    assert state["source"] == state["target"]
    both = [(row[n],) for n in WORDS for row in rows if row[n] is not None]
    assert state["source"] == fit_one(recipe.fields["source"], both)
    made = {n: modalities.make(n, recipe.fields[n], state[n]) for n in WORDS}
    for text in ("der rote Hund", "the red dog"):
        ids = {m.decode((text,)).tobytes() for m in made.values()}
        assert len(ids) == 1
        assert made["source"].measure((text,))[0] < len(text.encode()) / 2  # words of both became tokens
    alone = fit_one(TextField(modality="text", column="c", tokenizer="bpe", vocab_size=280), both[:50])
    assert alone != state["source"]


def test_fields_of_one_vocabulary_have_that_which_one_of_them_starts_with(tmp_path: Path) -> None:
    make_shards(tmp_path)
    text = {"modality": "text", "tokenizer": "characters", "column": "target"}
    before = recipe_of(tmp_path, a={**text, "column": "source"}, b=text)
    states = fit(before.reads, before.data.splits()["train"], groups_of(before), map)["fields"]
    kept = starts_of(before.storage) / "hash"
    kept.mkdir(parents=True)
    (kept / RECIPE).write_text(to_yaml(before), encoding="utf-8")
    (kept / FITTED).write_text(json.dumps({"fields": states}), encoding="utf-8")
    begun = {f: {**text, "vocabulary": "joint", "init": {"run": "away", "digest": "hash", "field": f}} for f in "ab"}
    recipe = recipe_of(tmp_path, new={**text, "vocabulary": "joint"}, old=begun["a"], other=text)
    found = fit(recipe.reads, recipe.data.splits()["train"], groups_of(recipe), map)["fields"]
    assert found["new"] == found["old"] == states["a"]
    assert found["other"] == states["b"] != states["a"]
    unlike = recipe_of(tmp_path, one=begun["a"], two=begun["b"])
    with pytest.raises(StartError, match=r"fields.two.init.*\n.*vocabulary of `fields.one`, which starts with another"):
        fit(unlike.reads, unlike.data.splits()["train"], groups_of(unlike), map)


def test_a_column_without_two_classes_is_an_error_wherever_it_is_read(tmp_path: Path) -> None:
    make_shards(tmp_path, label="x")
    recipe = recipe_of(tmp_path)
    for mapper in (map, elsewhere):
        with pytest.raises(DataError, match=r"at least 2 classes in column `label` .* found only 'x'"):
            fit(recipe.reads, recipe.data.splits()["train"], groups_of(recipe), mapper)


TEXT = {"modality": "text", "column": "source", "tokenizer": "bpe", "vocabulary": "joint"}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "`fields.a.vocabulary`: expected another user of the vocabulary `joint`"),
        (
            {"b": {**TEXT, "vocab_size": 300}},
            "`fields.a.vocab_size` and `fields.b.vocab_size` must be equal, because they share the vocabulary `joint`,"
            " but are 1000 and 300",
        ),
        (
            {"b": TEXT, "c": {**TEXT, "tokenizer": "characters"}},
            "`fields.a.tokenizer` and `fields.c.tokenizer` must be equal, because they share the vocabulary `joint`,"
            " but are 'bpe' and 'characters'",
        ),
        (
            {"b": {**TEXT, "tokenizer": "bytes"}},
            "`vocabulary` has no effect with `tokenizer: bytes`, which fits none",
        ),
        (
            {"b": {**TEXT, "tokenizer_file": "t.json"}},
            "`vocabulary` has no effect with `tokenizer_file`, which fits none",
        ),
        (
            {"b": {"modality": "text", "column": "b", "vocabulary": "joint", "encoder": {"pretrained": "model"}}},
            "`vocabulary` has no effect with `encoder`, whose tokenizer is used",
        ),
    ],
)
def test_a_vocabulary_that_can_not_be_shared_is_refused(tmp_path: Path, more: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_of(tmp_path, a=TEXT, **more)
    assert reason in str(caught.value)
