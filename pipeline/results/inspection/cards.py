"""The sheet of samples: views in, one card of HTML a sample out."""

import base64
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from interlace.results.figures import picture_png
from interlace.results.inspection import html
from interlace.results.inspection.plots import draw_plots, draw_spectra
from interlace.results.inspection.views import Cell, FieldView, Plot, SampleView, Sound

SHEET_SOUND_BYTES = 6_000_000
"""Sounds on a page at most, in bytes; later ones are named only."""
PICTURE_SIDE = 256
"""Pictures with a longer side are thinned out for the page."""
LISTED_WORDS = 40
LISTED_CHARACTERS = 200
LISTED_CELLS = 60
CAPTIONS = ("decoded", "augmented")


def render_sheet(sheet: Sequence[SampleView]) -> str:
    """The section of all samples."""
    return (
        "<section><h2>Samples of train</h2><p>Drawn at random and shown as the model gets them, each beside a variant"
        " as training augments it: pictures after decoding and shrinking, sounds as bands of the mel scale, readings in"
        f" their own units, texts cut into tokens.</p>{render_cards(sheet)}</section>"
    )


def render_cards(sheet: Sequence[SampleView]) -> str:
    """A card for each sample, wide ones where something is plotted."""
    played = played_sounds(sheet)
    wide = any(view.spectra or view.plots for sample in sheet for view in sample.fields)
    cards = "".join(_card(sample, played) for sample in sheet)
    return f'<div class="sheet{" wide" if wide else ""}">{cards}</div>'


def played_sounds(sheet: Sequence[SampleView]) -> frozenset[tuple[str, str]]:
    """Place and field of the sounds that fit in the page, in order; one that doesn't leaves room for those after it."""
    room = SHEET_SOUND_BYTES
    played = set()
    for sample in sheet:
        for view in sample.fields:
            if view.sound is not None and len(view.sound.data) <= room:
                room -= len(view.sound.data)
                played.add((sample.place, view.name))
    return frozenset(played)


def _card(sample: SampleView, played: frozenset[tuple[str, str]]) -> str:
    labels = "".join(
        f'<div><span class="soft">{html.text(task)}</span> <span class="label">'
        f"{'<i>no label</i>' if label is None else html.text(label)}</span></div>"
        for task, label in sample.labels.items()
    )
    fields = "".join(_field(view, (sample.place, view.name) in played) for view in sample.fields)
    place = html.text(html.short_path(sample.place))
    return f'<div class="card">{labels}{fields}<div class="place">{place}</div></div>'


def _field(view: FieldView, plays: bool) -> str:
    if view.error is not None:
        body, size = f'<div class="bad wrap">{html.text(view.error)}</div>', "bad"
    elif not view.size:
        body, size = "", "missing"
    else:
        body, size = "".join(_value(view, plays)), view.size
    unknown = sum(word is None for word in view.words) + sum(not c.known for c in (view.cells or ((),))[0])
    size += f", {unknown} unknown" if unknown else ""
    head = f'<div class="head"><span>{html.text(view.name)}</span><span>{size}</span></div>'
    return f'<div class="field">{head}{body}</div>'


def _value(view: FieldView, plays: bool) -> Iterator[str]:
    """What is to be seen of a value, one part after the other."""
    if view.note:
        yield f'<div class="note">{html.text(view.note)}</div>'
    if view.sound is not None:
        yield _player(view.sound) if plays else '<div class="note">not embedded: the page has its fill of sounds</div>'
    yield _figures(_picture(pixels) for pixels in view.pictures)
    if view.spectra:
        yield _figures(draw_spectra(view.spectra))
    if view.plots:
        yield _legend(view.plots[0]) + _figures(draw_plots(view.plots))
    yield _figures(_cells(cells) for cells in view.cells)
    if view.text is not None:
        cut = view.text[:LISTED_CHARACTERS] + ("…" if len(view.text) > LISTED_CHARACTERS else "")
        yield f'<div class="wrap">{html.text(cut)}</div>'
    for words, note in ((view.words, ""), (view.variant_words or (), "augmented ")):
        if words:
            yield f'<div class="words"><small class="soft">{note}</small>{_words(words)}</div>'


def _figures(drawn: Iterable[str]) -> str:
    """What was decoded and its variant beside each other; captions only where there are both."""
    drawn = list(drawn)
    captions = CAPTIONS if len(drawn) > 1 else ("",)
    return "".join(
        f"<figure>{one}{f'<figcaption>{caption}</figcaption>' if caption else ''}</figure>"
        for one, caption in zip(drawn, captions, strict=False)
    )


def _picture(pixels: NDArray[np.uint8]) -> str:
    step = -(-max(pixels.shape[:2]) // PICTURE_SIDE)
    png = base64.b64encode(picture_png(pixels[::step, ::step])).decode()
    return f'<img alt="picture" src="data:image/png;base64,{png}">'


def _player(sound: Sound) -> str:
    data = base64.b64encode(sound.data).decode()
    return (
        f'<audio controls preload="metadata" src="data:{sound.kind};base64,{data}"></audio>'
        f'<div class="note">{html.text(sound.note)}</div>'
    )


def _legend(plot: Plot) -> str:
    """Names of joined lines by colour; rows carry theirs. And what is not drawn."""
    names = "".join(
        f'<span class="key"><i class="s{number}"></i>{html.text(line.name)}</span>'
        for number, line in enumerate(plot.lines if plot.joined else ())
    )
    more = (
        f'<span class="soft">… {html.plural(plot.left_out, "channel")} more, with fewer readings</span>'
        if plot.left_out
        else ""
    )
    return f'<div class="legend">{names}{more}</div>' if names or more else ""


def _cells(cells: Sequence[Cell]) -> str:
    """A table of two columns; absent values are greyed."""
    rows = []
    for one in cells[:LISTED_CELLS]:
        value = '<i class="absent">absent</i>' if one.value is None else html.text(one.value)
        if not one.known:
            value += ' <span class="unknown">unknown</span>'
        kind = "absent" if one.value is None else ""
        rows.append([html.cell(html.text(one.column), f"{kind} wrap".strip(), "th"), html.cell(value, "wrap")])
    left = len(cells) - LISTED_CELLS
    more = f'<div class="note">… {left:,} more columns</div>' if left > 0 else ""
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<table class="cells"><tbody>{body}</tbody></table>{more}'


def _words(words: Sequence[str | None]) -> str:
    shown = ('<bdi class="unknown">?</bdi>' if w is None else html.text(w) for w in words[:LISTED_WORDS])
    more = f'<span class="soft">… {len(words) - LISTED_WORDS} more</span>' if len(words) > LISTED_WORDS else ""
    return "".join(shown) + more
