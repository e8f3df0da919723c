"""Cards of `interlace inspect`: sounds to play, bands, lines, cells, as training reads them, bounded and safe."""

import base64
import io
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from interlace import modalities
from interlace.data.index.build import build_index
from interlace.data.index.records import RecordCodec, make_codec
from interlace.data.index.targets import make_target
from interlace.data.read.reader import read_slot
from interlace.modalities.audio import AudioModality
from interlace.modalities.irregular import IrregularSeries
from interlace.modalities.series import RegularSeries
from interlace.recipe.fields import AudioField, SeriesField
from interlace.recipe.recipe import Recipe
from interlace.recipe.tasks import RegressionTask
from interlace.results.inspection import cards, views
from interlace.results.inspection.cards import played_sounds, render_sheet
from interlace.results.inspection.facts import Facts, gather
from interlace.results.inspection.page import render
from interlace.results.inspection.plots import MOST_CELLS, draw_plots, draw_spectra, nice_ticks
from interlace.results.inspection.views import Cell, FieldView, Line, Plot, SampleView, Sound, Spectrum, view_sample
from tests.bedside import HOSTILE_CHANNEL, RATE_HZ, Bedside, encode
from tests.page import Page


def facts_of(recipe: Recipe) -> Facts:
    return gather(recipe, build_index(recipe))


def view_of(view: SampleView, name: str) -> FieldView:
    return next(f for f in view.fields if f.name == name)


def audio(**settings: Any) -> AudioModality:
    made = modalities.make("sound", AudioField(modality="audio", column="sound", **settings), {})
    assert isinstance(made, AudioModality)
    return made


def view_one(modality: AudioModality, data: bytes) -> FieldView:
    codec = RecordCodec(fields={"sound": (modality, ("sound",))}, targets={})
    return view_sample({"sound": data}, codec, np.random.default_rng(0), "here").fields[0]


def test_each_sampled_sound_has_a_player_with_the_bytes_of_its_file(bedside: Bedside) -> None:
    recipe, rows, _ = bedside
    facts = facts_of(recipe)
    page = Page(render(facts))
    played = [a["src"] for tag, a in page.elements if tag == "audio" and "controls" in a]
    there = [rows[int(s.place.rpartition(" ")[2])]["sound"] for s in facts.sheet]
    there = [data for data in there if data is not None]
    assert [base64.b64decode(p.removeprefix("data:audio/flac;base64,"), validate=True) for p in played] == there
    assert len(there) == 16
    assert f"at {RATE_HZ:,} Hz, mono, FLAC (PCM_16)" in page.text


def test_views_take_random_numbers_as_the_reader_does(bedside: Bedside) -> None:
    """What a variant shows is what training reads, and the generator stands where reading leaves it."""
    recipe, rows, _ = bedside
    codec = make_codec(recipe.reads, build_index(recipe).fitted)
    motion, vitals = codec.fields["motion"][0], codec.fields["vitals"][0]
    assert isinstance(motion, RegularSeries)
    assert isinstance(vitals, IrregularSeries)
    compared = 0
    for number, row in enumerate(rows):
        viewed, read, again = (np.random.default_rng((0, 0, number)) for _ in range(3))
        view = view_sample(row, codec, viewed, "here")
        slot = read_slot(row, codec, read)
        assert viewed.random() == read.random()
        variants = {}
        for name, (modality, columns) in codec.fields.items():
            if any(row[c] is not None for c in columns):
                variants[name] = modality.augment(modality.decode(tuple(row[c] for c in columns)), again)
        if row["sound"] is not None:
            bands = view_of(view, "sound").spectra[1].bands
            assert np.array_equal(slot.tokens["sound"].values.reshape(-1, 20)[: len(bands)], bands)
            compared += 1
        times, values = motion.readings(variants["motion"])
        for line, expected in zip(view_of(view, "motion").plots[1].lines, values.T, strict=True):
            assert np.array_equal(line.values, expected, equal_nan=True)
            assert np.array_equal(line.times, times)
        shown = np.concatenate([line.values for line in view_of(view, "vitals").plots[1].lines])
        held = variants["vitals"][:, 3]
        assert sorted(shown) == sorted(held[~np.isnan(held)])
    assert compared == 16


def test_lines_hold_the_raw_readings_at_their_times(bedside: Bedside) -> None:
    recipe, rows, _ = bedside
    codec = make_codec(recipe.reads, build_index(recipe).fitted)
    for row in rows:
        view = view_sample(row, codec, np.random.default_rng(0), "here")
        plot = view_of(view, "motion").plots[0]
        assert [line.name for line in plot.lines] == ["x", "y"]
        for line in plot.lines:
            raw = np.array([np.nan if v is None else v for v in row[line.name]])
            assert np.array_equal(line.values[: len(raw)], raw, equal_nan=True)
            assert np.isnan(line.values[len(raw) :]).all()
            assert np.allclose(line.times, np.arange(len(line.values)))
        for line in view_of(view, "vitals").plots[0].lines:
            raw = [(t, v) for t, n, v in zip(row["at"], row["of"], row["reading"], strict=True) if n == line.name]
            assert sorted(zip(line.times.tolist(), line.values.tolist(), strict=True)) == sorted(raw)
    assert len(rows) == 20


def test_windows_without_a_reading_are_a_gap_in_the_line() -> None:
    field = SeriesField(modality="series", channels=("x",), rate_hz=2.0, window_s=1.0)
    series = modalities.make("s", field, {"means": [0.0], "stds": [1.0]})
    codec = RecordCodec(fields={"s": (series, ("x",))}, targets={})
    view = view_sample({"x": [1.0, 2.0, None, None, 5.0]}, codec, np.random.default_rng(0), "here").fields[0]
    line = view.plots[0].lines[0]
    assert np.array_equal(line.values, [1, 2, np.nan, np.nan, 5, np.nan], equal_nan=True)
    assert line.times.tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    drawn = re.findall(r'class="line s0" d="([^"]*)"', draw_plots(view.plots)[0])
    assert len(drawn) == 1
    assert drawn[0].count("M") == 2  # a line for what is before the gap, one for what comes after


def test_one_line_a_channel_and_every_name_is_escaped(bedside: Bedside) -> None:
    recipe, _, _ = bedside
    facts = facts_of(recipe)
    html = render(facts)
    page = Page(html)
    plots = [p for s in facts.sheet for f in s.fields for p in f.plots]
    drawn = [a for tag, a in page.elements if tag == "path" and a["class"].startswith(("line ", "dots "))]
    assert len(drawn) == sum(len(p.lines) for p in plots) > 100
    assert sum(a["class"].startswith("line ") for a in drawn) == 2 * sum(p.joined for p in plots)
    assert page.tags["script"] == 0
    assert HOSTILE_CHANNEL in page.text
    assert any(line.name == HOSTILE_CHANNEL for p in plots for line in p.lines)


def test_the_page_carries_all_it_shows(bedside: Bedside) -> None:
    html = render(facts_of(bedside[0]))
    page = Page(html)
    addresses = [v for k, v in page.attributes if k in ("src", "href", "action", "data", "srcset", "xlink:href")]
    assert all(re.match(r"data:(image/png|audio/flac);base64,", a) for a in addresses)
    assert {a[:10] for a in addresses} == {"data:image", "data:audio"}
    assert not re.search(r"https?:|file:|url\(|@import", html)
    policy = next(v for k, v in page.attributes if k == "content" and "default-src" in v)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
    assert html == render(facts_of(bedside[0]))


def test_tables_show_every_column_and_grey_what_is_absent(bedside: Bedside) -> None:
    recipe, rows, _ = bedside
    codec = make_codec(recipe.reads, build_index(recipe).fitted)
    view = view_sample({**rows[2], "ward": "<b>new"}, codec, np.random.default_rng(0), "here")
    weight = f"{rows[2]['weight']:g}"
    assert view_of(view, "body").cells == ((Cell(column="age", value=None), Cell(column="weight", value=weight)),)
    assert view_of(view, "place").cells == ((Cell(column="ward", value="<b>new", known=False),),)
    assert view_of(view, "when").cells == ((Cell(column="seen", value="2024-02-03"),),)
    page = Page(render_sheet([view]))
    assert "ageabsentweight" in page.text
    assert ("i", {"class": "absent"}) in page.elements
    assert "<b>new unknown" in page.text
    assert page.tags["table"] == 3
    assert page.tags["b"] == 0


def test_a_changed_table_stands_beside_the_decoded_one() -> None:
    pair = ((Cell(column="age", value="1"),), (Cell(column="age", value="2"),))
    view = FieldView(name="body", size="1 token", cells=pair)
    page = Page(render_sheet([SampleView(place="here", labels={}, fields=(view,))]))
    assert page.tags["table"] == 2
    assert "1decoded" in page.text
    assert "2augmented" in page.text


def test_sounds_that_are_long_or_that_browsers_cannot_play_are_encoded_anew_or_left_out() -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 50_000)
    modality = audio(rate_hz=RATE_HZ, max_seconds=2)
    strange = view_one(modality, encode(noise, 10_000, "AIFF"))
    assert strange.sound is not None
    assert (strange.sound.kind, strange.sound.data[:4]) == ("audio/flac", b"fLaC")
    samples, rate = soundfile.read(io.BytesIO(strange.sound.data))
    assert (len(samples), rate) == (2 * RATE_HZ, RATE_HZ)
    assert "the middle 2 s are used" in strange.note
    long = encode(np.random.default_rng(1).uniform(-0.5, 0.5, 700_000), RATE_HZ, "WAV")
    assert len(long) > views.SOUND_BYTES
    cut = view_one(modality, long).sound
    assert cut is not None
    assert cut.kind == "audio/flac"
    left = view_one(audio(rate_hz=RATE_HZ, max_seconds=600), long)
    assert left.sound is None
    assert "too long to embed" in left.note


@pytest.mark.parametrize(
    ("kind", "encoding", "media"), [("WAV", "PCM_16", "audio/wav"), ("OGG", "VORBIS", "audio/ogg")]
)
def test_files_that_browsers_play_keep_their_bytes(kind: str, encoding: str, media: str) -> None:
    data = encode(np.random.default_rng(0).uniform(-0.5, 0.5, 4000), RATE_HZ, kind, encoding)
    assert view_one(audio(rate_hz=RATE_HZ), data).sound == Sound(data=data, kind=media, note="as in the file")


def test_sounds_of_a_page_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "SHEET_SOUND_BYTES", 100)
    sheet = [
        SampleView(place=str(i), labels={}, fields=(FieldView(name="s", size="x", sound=sound),))
        for i, sound in enumerate(Sound(data=bytes(n), kind="audio/flac", note="") for n in (60, 50, 40))
    ]
    assert played_sounds(sheet) == {("0", "s"), ("2", "s")}
    page = Page(render_sheet(sheet))
    assert page.tags["audio"] == 2
    assert page.text.count("not embedded") == 1


def test_long_series_and_sounds_are_drawn_small() -> None:
    rng = np.random.default_rng(0)
    lines = tuple(Line(name=str(i), times=np.arange(1e5), values=rng.normal(size=100_000)) for i in range(3))
    lines[0].values[77_777] = 50.0
    windows = np.arange(50.0, 1e5, 100)
    joined = Plot(lines=lines, left_out=0, windows=windows, window_s=100.0, joined=True)
    drawn = draw_plots([joined])[0]
    assert len(drawn) < 40_000
    assert 'class="edges"' not in drawn
    tops = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", drawn)]
    assert min(tops) == pytest.approx(6.0)  # the one high reading is still there
    assert len(draw_plots([replace(joined, joined=False)])[0]) < 40_000
    bands = rng.normal(size=(60_000, 500)).astype(np.float16)
    spectrum = Spectrum(bands=bands, times=np.arange(60_000, dtype=np.float32), bands_hz=np.geomspace(50, 8000, 500))
    svg = draw_spectra([spectrum])[0]
    picture = Image.open(io.BytesIO(base64.b64decode(svg.partition("base64,")[2].partition('"')[0])))
    assert picture.size == (MOST_CELLS, MOST_CELLS)


def test_high_tones_are_on_top_and_axes_are_marked() -> None:
    bands = np.zeros((8, 4), np.float16)
    bands[2, 3] = 1  # the highest band of the third frame
    hz = np.array([100.0, 500, 1000, 2000])
    spectrum = Spectrum(bands=bands, times=np.arange(8, dtype=np.float32) / 10 + 0.05, bands_hz=hz)
    svg = draw_spectra([spectrum])[0]
    data = base64.b64decode(svg.partition("base64,")[2].partition('"')[0])
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(int)
    assert pixels.shape == (4, 8)
    assert np.unravel_index(pixels.argmax(), pixels.shape) == (0, 2)
    texts = Page(svg).text
    assert all(t in texts for t in ("100 Hz", "1 kHz", "2 kHz", "0.2", "0.6"))


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (0, 1, 5, [0.0, 0.5, 1.0]), (-3, 3, 4, [-2.0, 0.0, 2.0]), (0.13, 0.17, 5, [0.13, 0.14, 0.15, 0.16, 0.17]),
        (5, 5, 4, [5]), (0, 48, 5, [0.0, 10.0, 20.0, 30.0, 40.0]),
    ],
)  # fmt: skip
def test_ticks_are_round_and_few(low: float, high: float, most: int, ticks: list[float]) -> None:
    found = nice_ticks(low, high, most)
    assert found == ticks
    assert "-0" not in [f"{t:g}" for t in found]


def test_targets_of_several_columns_are_shown_with_their_names() -> None:
    task = RegressionTask(task="regression", columns=("width", "height"))
    target = make_target(task, {"means": [0.0, 0.0], "stds": [1.0, 1.0]})
    codec = RecordCodec(fields={}, targets={"size": (target, task.columns)})
    seen = [
        view_sample(record, codec, np.random.default_rng(0), "here").labels["size"]
        for record in ({"width": 1.5, "height": 2}, {"width": None, "height": 2}, {})
    ]
    assert seen == ["width = 1.5, height = 2", "height = 2", None]
