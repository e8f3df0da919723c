"""Smartwatch recordings of shoulder exercises: accelerometer, gyroscope and arm, with the exercise as label.

Input: the package `seglearn` (of `interlace[demo]`), its wheel, or `watch_dataset.npy` out of it; no network. The
package is found, not imported. Output: Parquet shards `<split>-00000-of-0000N.parquet` with the columns

    ax ay az   list<float>   accelerometer, 50 readings a second
    wx wy wz   list<float>   gyroscope, as many readings
    label      string        one of PEN ABD FEL IR ER TRAP ROW
    subject    int16         who wore the watch, 1 to 10
    side       int8          on which arm: 0 left, 1 right
    recording  int16         number in the source, 0 to 139
    part       int16         number of this part in its recording

A recording (19 to 52 s, about 20 repetitions) is cut into parts of about 5 s and even length, none left over: 947
readings are 4 parts of 236 or 237. Splits are by subject, 6, 2 and 2: held-out people are people that training has not
seen.

**The file is a pickle** of lists, strings and arrays. It is read by an unpickler that makes nothing else: any other
name in it is refused, so no code of the file runs.

Recordings: Burns et al. 2018 (https://arxiv.org/abs/1802.01489), through seglearn, BSD licence.
"""

import importlib.util
import io
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interlace.contract.errors import DataError
from interlace.jobs.datasets.shards import BuildReport, draw, write_set

RATE_HZ = 50
PART_S = 5.0
CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")
SUBJECTS = {"train": 6, "validation": 2, "test": 2}
SHAPE = {"train": (4, 4), "validation": (2, 2), "test": (2, 2)}  # shards, row groups
MEMBER = "seglearn/data/watch_dataset.npy"
REMEDY = "pip install 'interlace[demo]', or `pip download seglearn --no-deps` and give the wheel by --from"
SCHEMA = pa.schema(
    [pa.field(name, pa.list_(pa.float32()), nullable=False) for name in CHANNELS]
    + [pa.field("label", pa.string(), nullable=False), pa.field("subject", pa.int16(), nullable=False)]
    + [pa.field("side", pa.int8(), nullable=False), pa.field("recording", pa.int16(), nullable=False)]
    + [pa.field("part", pa.int16(), nullable=False)]
)

README = """# Smartwatch recordings of shoulder exercises: accelerometer, gyroscope, arm

Built by `interlace dataset watch`. Recordings: Burns et al. 2018, https://arxiv.org/abs/1802.01489, through the package
`seglearn` (BSD licence).
"""


def build(folder: Path, seed: int = 0, source: Path | None = None) -> BuildReport:
    """Write the watch set to a folder (967 rows, 24 row groups, 8 MB, 8 s); shards that are there are replaced.

    Args:
        folder: made where it does not exist.
        seed: decides who is in which split, and the order of rows.
        source: wheel of seglearn or its `watch_dataset.npy`; the installed package where not given.

    Raises:
        DataError: there is no source, or it does not hold the recordings.
    """
    recordings = _recordings(read_arrays(_content(source)))
    homes = _homes(sorted({r["subject"] for r in recordings}), seed)
    parts = [part for recording in recordings for part in _parts(recording)]
    parts.sort(key=lambda p: draw(seed, "order", f"{p['recording']}/{p['part']}"))
    tables = {
        split: pa.Table.from_pylist([p for p in parts if homes[p["subject"]] == split], SCHEMA) for split in SUBJECTS
    }
    report = write_set("watch", folder, tables, SHAPE, "label", {})
    (folder / "README.md").write_text(README, encoding="utf-8")
    return report


def read_arrays(content: bytes) -> Any:
    """The Python object in an `.npy` file that is a pickle of lists, strings and arrays, and of nothing else.

    Raises:
        DataError: it is no such file, or names anything else.
    """
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read: Any = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = read[version](file)
        found = _ArraysOnly(file).load()
    except (pickle.UnpicklingError, LookupError, ValueError, TypeError, AttributeError, EOFError) as error:
        raise DataError(f"expected `{MEMBER}` of seglearn, but it can't be read: {error}") from error
    if shape != () or dtype != np.dtype(object) or not isinstance(found, np.ndarray) or found.shape != ():
        raise DataError(f"expected one object in `{MEMBER}` of seglearn, but it is an array {shape} of {dtype}")
    return found.item()


def _array(kind: type, shape: tuple[int, ...], _code: bytes) -> NDArray[Any]:
    """The empty array that pickle then gives its type, shape and content."""
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError(f"expected an empty array to fill, but it is {kind} {shape}")
    return np.empty(0, np.int8)


def _bytes(text: str, encoding: str) -> bytes:
    """Bytes, which old pickles write as text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"expected bytes as latin1, but they are {encoding!r}")
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _bytes,
}


@final
class _ArraysOnly(pickle.Unpickler):
    """Unpickles lists, dicts, strings, numbers and arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """One of the few names that arrays need."""
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names `{module}.{name}`, which is no part of an array")
        return _ADMITTED[module, name]


def _content(source: Path | None) -> bytes:
    """The bytes of `watch_dataset.npy`. Raises DataError."""
    if source is None:
        package = importlib.util.find_spec("seglearn")
        if package is None or package.origin is None:
            raise DataError(f"the watch set needs the package `seglearn`, which is not installed: {REMEDY}")
        source = Path(package.origin).parents[1] / MEMBER
    try:
        if not zipfile.is_zipfile(source):
            return source.read_bytes()
        with zipfile.ZipFile(source) as wheel:
            return wheel.read(MEMBER)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"expected a wheel of seglearn or its `{MEMBER}`, but {source}: {error}; {REMEDY}") from error


def _recordings(found: Any) -> list[dict[str, Any]]:
    """One dict a recording; `readings` are float32 `[n, 6]`. Raises DataError."""
    try:
        names = [str(name) for name in found["y_labels"]]
        columns = [list(found["X_labels"]).index(channel) for channel in CHANNELS]
        whole = zip(found["X"], found["y"], found["subject"], found["side"], strict=True)
        return [
            {
                "readings": np.asarray(x, np.float32)[:, columns],
                "label": names[int(y)],
                "subject": int(subject),
                "side": int(side),
                "recording": i,
            }
            for i, (x, y, subject, side) in enumerate(whole)
        ]
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(f"expected the recordings of seglearn 1.2 in `{MEMBER}`, but {error!r}") from error


def _homes(subjects: Sequence[int], seed: int) -> dict[int, str]:
    """The split of each subject."""
    places = [split for split, count in SUBJECTS.items() for _ in range(count)]
    if len(subjects) != len(places):
        raise DataError(f"expected {len(places)} subjects, but found {len(subjects)}")
    drawn = sorted(subjects, key=lambda s: draw(seed, "split", str(s)))
    return dict(zip(drawn, places, strict=True))


def _parts(recording: dict[str, Any]) -> list[dict[str, Any]]:
    """A recording as parts of about PART_S."""
    readings = recording["readings"]
    count = max(1, round(len(readings) / (PART_S * RATE_HZ)))
    rest = {name: value for name, value in recording.items() if name != "readings"}
    return [
        dict(zip(CHANNELS, part.T, strict=True)) | rest | {"part": i}
        for i, part in enumerate(np.array_split(readings, count))
    ]
