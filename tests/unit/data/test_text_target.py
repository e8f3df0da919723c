"""Laws of texts as targets: ids as of the text field, closed by END; a shared vocabulary; what CTC can't align."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from interlace.contract.detokenizer import Detokenizer
from interlace.contract.errors import DataError, RecipeError, RecordError
from interlace.contract.sample import END
from interlace.data.index.build import build_index
from interlace.data.index.targets import ctc_tokens, make_target
from interlace.modalities.text import TextModality
from interlace.recipe.fields import TextField
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from interlace.recipe.tasks import GenerationTask
from tests.fitting import fit_target

TEXTS = ["Der Hund läuft.", "Die Katze  schläft nicht", "Hund und Katze", "ß \N{DOG}"]
TOKENIZERS = ("bytes", "characters", "bpe")


def task(**settings: object) -> GenerationTask:
    return GenerationTask.model_validate({"task": "generation", "column": "text", "vocab_size": 300} | settings)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_text_comes_back_from_its_ids(tokenizer: str) -> None:
    settings = task(tokenizer=tokenizer)
    fitted = fit_target(settings, [(t,) for t in TEXTS])
    target, back = make_target(settings, fitted), Detokenizer(fitted)
    field = TextModality("text", settings.text, fitted)
    for text in TEXTS:
        ids = target.encode((text,))
        assert ids.tolist() == [*field.decode((text,)).tolist(), END]
        assert ids.dtype == target.dtype == np.int64
        assert back(ids.tolist()) == text
    assert back.vocab_size == field.spec.vocab_size
    assert target.encode(("",)).tolist() == [END]


def test_a_text_that_is_cut_does_not_end() -> None:
    settings = task(max_tokens=4)
    target = make_target(settings, {})
    assert len(target.encode(("Hund",))) == 5
    assert len(target.encode(("Hunde",))) == 4
    assert END not in target.encode(("Hunde",))
    with pytest.raises(RecordError):
        target.encode((3,))


def test_ctc_needs_a_token_more_between_equal_ones() -> None:
    target = make_target(task(), {})
    assert [ctc_tokens(target.encode((t,))) for t in ("", "abc", "aabb", "aaa")] == [0, 3, 6, 5]


def recipe_of(folder: Path, fields: dict, **tasks: dict) -> Recipe:
    return parse_recipe(
        {
            "name": "texts",
            "storage": str(folder / "storage"),
            "data": {"root": str(folder), "train": {"paths": ["train.parquet"]}},
            "fields": fields,
            "tasks": tasks,
            "train": {"epochs": 1},
        }
    )


JOINT = {"tokenizer": "bpe", "vocab_size": 300, "vocabulary": "joint"}


def test_a_target_shares_the_vocabulary_of_a_field(tmp_path: Path) -> None:
    pq.write_table(pa.table({"en": ["the dog runs"] * 3, "de": ["der Hund"] * 3}), tmp_path / "train.parquet")
    fields = {"english": {"modality": "text", "column": "en", **JOINT}}
    recipe = recipe_of(tmp_path, fields, german={"task": "generation", "column": "de", **JOINT})
    index = build_index(recipe)
    assert index.fitted["fields"]["english"] == index.fitted["targets"]["german"]
    back = Detokenizer(index.fitted["targets"]["german"])
    field = TextModality("x", TextField(modality="text", column="x", **JOINT), index.fitted["fields"]["english"])
    assert [len(field.decode((t,))) for t in ("dog runs", "Hund")] == [2, 1]
    assert back(field.decode(("Hund dog",)).tolist()) == "Hund dog"
    with pytest.raises(RecipeError, match=r"`tasks\.german\.vocabulary`: expected another user"):
        recipe_of(
            tmp_path, {"english": {**fields["english"], "vocabulary": None}}, german=recipe.tasks["german"].model_dump()
        )


def speech(seconds: float) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).normal(size=int(8000 * seconds)) * 0.1
    soundfile.write(file, noise, 8000, format="WAV")
    return file.getvalue()


@pytest.mark.parametrize("long", [1, 3])
def test_data_that_ctc_can_not_align_are_refused_with_the_knob(tmp_path: Path, long: int) -> None:
    """Half a second is 12 tokens of 40 ms."""
    texts = ["twelve chars"] * (4 - long) + ["a text that is too long"] * long
    pq.write_table(pa.table({"audio": [speech(0.5)] * 4, "text": texts}), tmp_path / "train.parquet")
    voice = {"modality": "audio", "column": "audio", "rate_hz": 8000}
    recipe = recipe_of(tmp_path, {"voice": voice}, text=task(ctc_field="voice", ctc_weight=1.0).model_dump())
    if long == 1:
        assert build_index(recipe).manifests["train"].num_bad == 0
        return
    with pytest.raises(DataError, match=r"3 of 4 texts have fewer: lower `fields\.voice\.patch_frames`"):
        build_index(recipe)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"ctc_weight": 0.5}, "go together"),
        ({"ctc_field": "voice"}, "go together"),
        ({"ctc_field": "voice", "ctc_weight": 1, "beam": 4}, "`beam` has no effect with `ctc_weight: 1`"),
        ({"length_penalty": 1}, "`length_penalty` has no effect with `beam: 1`"),
        ({"metric": "bleu", "eval_samples": 0}, "`metric: bleu` needs texts"),
        ({"vocabulary": "joint"}, "`vocabulary` has no effect with `tokenizer: bytes`"),
        ({"ctc_field": "image", "ctc_weight": 1}, "names the field `image`; did you mean voice"),
    ],
)
def test_settings_without_effect_are_refused(tmp_path: Path, settings: dict, reason: str) -> None:
    voice = {"modality": "audio", "column": "audio"}
    with pytest.raises(RecipeError, match=reason):
        recipe_of(tmp_path, {"voice": voice}, text={"task": "generation", "column": "text", **settings})
