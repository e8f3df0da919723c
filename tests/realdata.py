"""The sets of the real-data folder as shards that `tests/recipes/NAME.yaml` reads: joined, paired, and split by group.

Every draw has a fixed seed, so a set is the same each time. Each builder takes the folder of real data and a folder to
write `train-0.parquet` and `validation-0.parquet` in.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interlace.data.prepare import make_plan, prepare
from interlace.recipe.load import parse_tree
from interlace.recipe.prepare import PrepareRecipe

GROUP_ROWS = 64
SPEAKERS_HELD_OUT = ("theo",)
DRAWERS_HELD_OUT = range(17, 21)
SUBJECTS_HELD_OUT = (9, 10)
FOLD_HELD_OUT = 4
PROMPT_S = 32
INK = ("x", "y", "dx", "dy", "begin")
INK_POINTS = 48


def held_out(key: object, share: float = 0.2) -> bool:
    """Whether a key is in validation: by its hash."""
    return hashlib.sha256(str(key).encode()).digest()[0] < 256 * share


def write(out: Path, table: pa.Table, validation: Sequence[bool]) -> None:
    """Write the rows of the two sides in their order."""
    out.mkdir(parents=True, exist_ok=True)
    side = pa.array(validation, pa.bool_())
    for name, mask in (("train", pc.invert(side)), ("validation", side)):
        pq.write_table(table.filter(mask), out / f"{name}-0.parquet", row_group_size=GROUP_ROWS)


def split_by(out: Path, table: pa.Table, column: str, test: Callable[[Any], bool]) -> None:
    """Write a table, its validation chosen by the values of a column."""
    write(out, table, [test(value) for value in table[column].to_pylist()])


def digits(data: Path, out: Path) -> None:
    """Each voice of `fsdd` with a picture and a pen of its digit; no picture or pen twice.

    Voices are split by speaker, pictures and pens by their number before they are drawn.
    """
    pair_digits(data, out)


def pair_digits(
    data: Path, out: Path, speaker: str = SPEAKERS_HELD_OUT[0], repeats: int = 1, share: float = 0.3
) -> None:
    """The digits with another speaker in validation, or with each voice of the others drawn several times.

    Args:
        data: folder of real data.
        out: see above.
        speaker: in validation; any other than the speaker of the test leaves that one out altogether.
        repeats: how often each voice of training occurs, with another picture and pen each time.
        share: of the pictures and pens that training never draws from. Those of the test are the first 0.3 of them;
            another speaker draws from what is left.
    """
    speech = pq.read_table(data / "fsdd" / "speech.parquet")
    pictures = pq.read_table(data / "mnist10k" / "train.parquet")
    pens = pq.read_table(data / "pendigits" / "train.parquet")
    test = speaker in SPEAKERS_HELD_OUT
    speakers = speech["speaker"].to_pylist()
    takes = [i for _ in range(repeats) for i, s in enumerate(speakers) if s not in (*SPEAKERS_HELD_OUT, speaker)]
    takes = sorted(takes + [i for i, s in enumerate(speakers) if s == speaker])
    speech = speech.take(takes)
    side = [s == speaker for s in speech["speaker"].to_pylist()]
    labels = list(zip(speech["label"].to_pylist(), side, strict=True))
    rows: dict[str, list[int]] = {}
    for seed, (name, table) in enumerate((("picture", pictures), ("pen", pens))):
        stock: defaultdict[tuple[int, bool], list[int]] = defaultdict(list)
        for row in np.random.default_rng(seed).permutation(table.num_rows).tolist():
            key = f"{name}/{row}"
            if test or not held_out(key, 0.3):
                stock[table["label"][row].as_py(), held_out(key, share)].append(row)
        rows[name] = [stock[key].pop() for key in labels]
    columns = {n: pens[n].take(rows["pen"]) for n in ("x", "y")}
    columns |= {"image": pictures["image"].take(rows["picture"]), "audio": speech["audio"], "label": speech["label"]}
    columns |= {"speaker": speech["speaker"], "take": speech["index"]}
    columns |= {n: pa.array(rows[n], pa.int32()) for n in ("picture", "pen")}
    write(out, pa.table(columns), side)


def icu2012(data: Path, out: Path) -> None:
    """Stays by record; gender as the whole number that it is; nothing that tells the outcome but the label."""
    table = pq.read_table(data / "icu2012" / "set_a.parquet")
    table = table.drop_columns(["saps_i", "sofa", "length_of_stay_days", "survival_days"])
    gender = table.schema.get_field_index("gender")
    table = table.set_column(gender, "gender", table["gender"].cast(pa.int8()))
    split_by(out, table, "record_id", held_out)


def esc10(data: Path, out: Path) -> None:
    """Clips by fold: those of one recording are in one fold."""
    split_by(out, pq.read_table(data / "esc10" / "folds_1_4.parquet"), "fold", lambda fold: fold == FOLD_HELD_OUT)


def omniglot(data: Path, out: Path) -> None:
    """Characters by drawer."""
    split_omniglot(out, pq.read_table(data / "omniglot" / "five_alphabets.parquet"), DRAWERS_HELD_OUT)


def split_omniglot(out: Path, table: pa.Table, drawers: Sequence[int]) -> None:
    """Characters, these drawers in validation, with the alphabet's name before the character's (`letter`) and the ink.

    The ink is `trace_ink`, a column a channel: `ink_x`, `ink_y`, `ink_dx`, `ink_dy`, `ink_begin`.
    """
    letters = pc.binary_join_element_wise(table["alphabet"], table["character"], "/")
    table = table.append_column("letter", letters)
    drawn = zip(*(table[name].to_pylist() for name in ("x", "y", "stroke")), strict=True)
    inks = [trace_ink(np.array(x), np.array(y), np.array(stroke)) for x, y, stroke in drawn]
    for i, name in enumerate(INK):
        channel = pa.array([ink[:, i].tolist() for ink in inks], pa.list_(pa.float32()))
        table = table.append_column(f"ink_{name}", channel)
    split_by(out, table, "drawer", drawers.__contains__)


def trace_ink(x: NDArray[Any], y: NDArray[Any], stroke: NDArray[Any]) -> NDArray[np.float64]:
    """Points at equal distances along the strokes, about `INK_POINTS`, two or more a stroke: `[n, 5]`.

    Pens report points by time, so most of them lie where a hand rests, and at pixels, so steps tell no direction.
    Here a point is x and y from the middle of the drawing over its larger side, the direction of the line (a unit
    vector), and whether a stroke begins.
    """
    points = np.stack([x, y], axis=1).astype(np.float64)
    low, high = points.min(0), points.max(0)
    points = (points - (low + high) / 2) / max((high - low).max(), 1e-6)
    strokes = [points[stroke == number] for number in np.unique(stroke)]
    lengths = [np.concatenate([[0.0], np.hypot(*np.diff(s, axis=0).T).cumsum()]) for s in strokes]
    whole = max(sum(along[-1] for along in lengths), 1e-6)
    traced = []
    for line, along in zip(strokes, lengths, strict=True):
        places = np.linspace(0, along[-1], max(2, round(INK_POINTS * along[-1] / whole)))
        even = np.stack([np.interp(places, along, line[:, i]) for i in (0, 1)], axis=1)
        steps = np.gradient(even, axis=0)
        steps /= np.maximum(np.hypot(*steps.T), 1e-9)[:, None]
        traced.append(np.concatenate([even, steps, (np.arange(len(even)) == 0)[:, None]], axis=1))
    return np.concatenate(traced)


def watch_exercises(data: Path, out: Path) -> None:
    """Recordings by subject."""
    table = pq.read_table(data / "watch_exercises" / "sensors.parquet")
    split_by(out, table, "subject", SUBJECTS_HELD_OUT.__contains__)


def tuxpaint_stamps(data: Path, out: Path) -> None:
    """Stamps joined with the French voice as `interlace prepare` joins them, split by the English caption."""
    tree = {
        "name": "stamps",
        "root": str(data / "tuxpaint_stamps"),
        "out": str(out),
        "sources": {
            "stamps": {
                "paths": ["stamps.parquet"],
                "key": "stamp",
                "columns": {"category": "category", "image": "image", "caption": "caption_en"},
            },
            "voices": {
                "paths": ["speech_fr.parquet"],
                "key": "stamp",
                "columns": {"speech": "audio", "spoken": "text"},
            },
        },
        "split": {"by": "caption", "shares": {"train": 0.8, "validation": 0.2}, "seed": 0},
        "keep_key": "stamp",
    }
    prepare(make_plan(parse_tree(tree, (), "stamps", PrepareRecipe)), map)


def emoji(data: Path, out: Path) -> None:
    """Pictures joined with the names in English and Chinese, by code."""
    pictures = pq.read_table(data / "emoji" / "images_google.parquet", columns=["code", "image", "group"])
    names = pq.read_table(data / "emoji" / "annotations.parquet", columns=["code", "language", "name"]).to_pylist()
    for language in ("en", "zh"):
        by_code = {row["code"]: row["name"] for row in names if row["language"] == language}
        column = pa.array([by_code.get(code) for code in pictures["code"].to_pylist()], pa.string())
        pictures = pictures.append_column(f"name_{language}", column)
    split_by(out, pictures, "code", held_out)


def asterisk_prompts(data: Path, out: Path) -> None:
    """Prompts of both languages, each prompt on one side."""
    files = [data / "asterisk_prompts" / f"speech_{language}.parquet" for language in ("en", "fr")]
    table = pa.concat_tables([pq.read_table(file) for file in files])
    order = sorted(range(table.num_rows), key=lambda i: hashlib.sha256(str(i).encode()).digest())
    split_by(out, table.take(order), "prompt", held_out)


def asterisk_english(data: Path, out: Path) -> None:
    """Spoken English prompts and their words (lower case; letters, digits, apostrophes), each prompt on one side.

    Two prompts of the same words are on one side too. Left out: tones, and what lasts more than 32 s.
    """
    table = pq.read_table(data / "asterisk_prompts" / "speech_en.parquet")
    short = pc.less_equal(table["num_samples"], pc.multiply(table["sample_rate"], PROMPT_S))
    table = table.filter(pc.and_(table["spoken"], short))
    words = [plain_words(text) for text in table["text"].to_pylist()]
    table = table.append_column("words", pa.array(words, pa.string())).drop_columns(["spoken"])
    order = sorted(range(table.num_rows), key=lambda i: hashlib.sha256(str(i).encode()).digest())
    split_by(out, table.take(order), "words", held_out)


def plain_words(text: str) -> str:
    """Words of a transcript without case and punctuation."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def multi30k(data: Path, out: Path) -> None:
    """English and German captions as they come; validation is the set's own `val`."""
    out.mkdir(parents=True, exist_ok=True)
    for split, name in (("train", "train"), ("val", "validation")):
        table = pq.read_table(data / "multi30k_text" / f"{split}.parquet", columns=["image_id", "en", "de"])
        pq.write_table(table, out / f"{name}-0.parquet", row_group_size=GROUP_ROWS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RealSet:
    """How a set is built, and the columns whose values may not be on both sides of the split."""

    build: Callable[[Path, Path], None]
    groups: tuple[str, ...]


SETS = {
    "digits": RealSet(build=digits, groups=("speaker", "picture", "pen", "image", "audio")),
    "icu2012": RealSet(build=icu2012, groups=("record_id",)),
    "esc10": RealSet(build=esc10, groups=("fold", "freesound_id", "audio")),
    "omniglot": RealSet(build=omniglot, groups=("drawer",)),
    "watch_exercises": RealSet(build=watch_exercises, groups=("subject",)),
    "tuxpaint_stamps": RealSet(build=tuxpaint_stamps, groups=("stamp", "caption")),
    "emoji": RealSet(build=emoji, groups=("code",)),
    "asterisk_prompts": RealSet(build=asterisk_prompts, groups=("prompt",)),
}
"""Name of a set, as of its recipe -> how it is built."""


def columns_of(folder: Path, split: str, *names: str) -> Iterator[dict[str, Any]]:
    """Rows of a built split, these columns only."""
    for file in sorted(folder.glob(f"{split}-*.parquet")):
        yield from pq.read_table(file, columns=list(names)).to_pylist()
