"""Arrays as inline SVG: histograms of lengths, bands of a sound with their axes, channels of a series.

Widths are in pixels. Colours that light and dark pages share are those of `html.STYLE`; text goes through `html.plain`.
Every drawing is bounded: bands are averaged to at most `MOST_CELLS` a side, lines drawn as `MOST_POINTS` extremes.
"""

import base64
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from interlace.results.figures import heat_png
from interlace.results.inspection.html import plain
from interlace.results.inspection.views import Line, Plot, Spectrum

NUM_BINS = 30
PLOT_WIDTH, PLOT_HEIGHT, MAX_BAR = 300, 70, 24
WIDTH = 256
"""Width of a drawing on a card; two stand beside each other."""
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 6, 32
SPECTRUM_HEIGHT, LINES_HEIGHT = 110, 120
ROW_HEIGHT, ROW_LEFT = 22, 74
MOST_CELLS = 400
MOST_POINTS = 2 * (WIDTH - LEFT - RIGHT)
MOST_DOTS = 400
MOST_EDGES = 60
NAME_LENGTH = 11
TONES_HZ = (50, 100, 200, 500, 1000, 2000, 4000, 8000, 16_000, 32_000)
UNITS = ((86_400.0 * 3, 86_400.0, "d"), (3600.0 * 3, 3600.0, "h"), (600.0, 60.0, "min"), (0.0, 1.0, "s"))
"""From which span on times are written in which unit."""

Span = tuple[float, float]
Floats = NDArray[np.float64]


def histogram(values: NDArray[np.integer], times: NDArray[np.integer], low: int, high: int) -> str:
    """An inline SVG of how many values have which length, in at most 30 bins of whole numbers, equally wide.

    Args:
        values: distinct lengths, at least one.
        times: how many values have each.
        low: left end of the axis, at most the shortest.
        high: right end, at least the longest.
    """
    width = -(-(high - low + 1) // NUM_BINS)
    num_bins = -(-(high - low + 1) // width)
    counts = np.bincount((values - low) // width, times, minlength=num_bins).astype(np.int64)
    step = PLOT_WIDTH / num_bins
    bars = []
    for i, count in enumerate(counts.tolist()):
        first, last = low + i * width, low + (i + 1) * width - 1
        height = PLOT_HEIGHT * count / counts.max()
        label = f"{first}" if first == last else f"{first} to {last}"
        bar = min(step, MAX_BAR) - 1
        bars.append(
            f'<rect x="{(i + 0.5) * step - bar / 2:.1f}" y="{PLOT_HEIGHT - height:.1f}" width="{bar:.1f}"'
            f' height="{height:.1f}"><title>{label} tokens: {count:,}</title></rect>'
        )
    ends = _tick(low, step) + (_tick(high, step, from_right=True) if high > low else "")
    axis = f'<line x1="0" x2="{PLOT_WIDTH}" y1="{PLOT_HEIGHT + 0.5}" y2="{PLOT_HEIGHT + 0.5}"/>'
    return f'<svg width="{PLOT_WIDTH}" height="{PLOT_HEIGHT + 20}" role="img">{"".join(bars)}{axis}{ends}</svg>'


def _tick(value: int, step: float, from_right: bool = False) -> str:
    """A number under the middle of the first or last bar, moved in where it would stick out."""
    x = max(step / 2, 3.5 * len(str(value)))
    x = PLOT_WIDTH - x if from_right else x
    return f'<text x="{x:.1f}" y="{PLOT_HEIGHT + 15}" text-anchor="middle">{value}</text>'


def draw_spectra(spectra: Sequence[Spectrum]) -> list[str]:
    """Bands of a sound and of its variants, time to the right, high tones on top, all on one scale of brightness."""
    low, high = np.percentile(spectra[0].bands.astype(np.float64), (1, 99)).tolist()  # silence of variants is far below
    return [_spectrum(s, low, max(high, low + 1e-3)) for s in spectra]


def _spectrum(spectrum: Spectrum, low: float, high: float) -> str:
    times = spectrum.times.astype(np.float64)
    half = float(times[1] - times[0]) / 2 if len(times) > 1 else max(float(times[0]), 1e-3)
    span = (max(0.0, float(times[0]) - half), float(times[-1]) + half)
    cells = _averaged(_averaged(spectrum.bands.astype(np.float64).T), axis=1)[::-1]
    png = base64.b64encode(heat_png(cells, low, high)).decode()
    width, bottom = WIDTH - LEFT - RIGHT, TOP + SPECTRUM_HEIGHT
    image = (
        f'<image x="{LEFT}" y="{TOP}" width="{width}" height="{SPECTRUM_HEIGHT}" preserveAspectRatio="none"'
        f' href="data:image/png;base64,{png}"/>'
    )
    labels = []
    places = np.arange(len(spectrum.bands_hz))
    inside = [t for t in TONES_HZ if spectrum.bands_hz[0] <= t <= spectrum.bands_hz[-1]]
    last = bottom + 20.0
    for tone in inside:
        place = float(np.interp(tone, spectrum.bands_hz, places))
        y = bottom - (place + 0.5) / len(places) * SPECTRUM_HEIGHT
        if last - y >= 14:
            labels.append(_y_tick(y, f"{tone} Hz" if tone < 1000 else f"{tone // 1000} kHz"))
            last = y
    return _svg(bottom + BOTTOM, image + "".join(labels) + _time_axis(span, LEFT, bottom))


def _averaged(values: Floats, axis: int = 0) -> Floats:
    """The values, neighbours along an axis averaged so that at most `MOST_CELLS` are left."""
    length = values.shape[axis]
    if length <= MOST_CELLS:
        return values
    edges = np.arange(MOST_CELLS) * length // MOST_CELLS
    sizes = np.diff(np.append(edges, length))
    sums = np.add.reduceat(values, edges, axis=axis)
    return np.asarray(sums / (sizes[:, None] if axis == 0 else sizes))


def draw_plots(plots: Sequence[Plot]) -> list[str]:
    """Channels of a series and of its variants, on the same axes: lines over each other, or a row of dots a channel."""
    edges = [m + side * p.window_s / 2 for p in plots for m in p.windows.tolist() for side in (-1, 1)]
    if not edges or not plots[0].lines:
        return ["no readings"] * len(plots)
    span = (min(edges), max(edges))
    ranges = [_range([p.lines[i].values for p in plots]) for i in range(len(plots[0].lines))]
    if plots[0].joined:
        whole = (min(r[0] for r in ranges), max(r[1] for r in ranges))
        return [_joined(p, span, whole) for p in plots]
    return [_rows(p, span, ranges) for p in plots]


def _joined(plot: Plot, span: Span, values: Span) -> str:
    """A line a channel, broken where readings are absent."""
    low, high = values if values[0] < values[1] else (values[0] - 1, values[0] + 1)
    bottom = TOP + LINES_HEIGHT
    paths = []
    for number, line in enumerate(plot.lines):
        x, y = _extremes(line)
        points = zip(
            _across(x, span, LEFT).tolist(), (bottom - (y - low) / (high - low) * LINES_HEIGHT).tolist(), strict=True
        )
        paths.append(f'<path class="line s{number}" d="{_path(points)}"><title>{plain(line.name)}</title></path>')
    ticks = "".join(
        _y_tick(bottom - (t - low) / (high - low) * LINES_HEIGHT, f"{t:g}", True) for t in nice_ticks(low, high, 4)
    )
    frame = _edges(plot, span, LEFT, bottom)
    return _svg(bottom + BOTTOM, ticks + frame + "".join(paths) + _time_axis(span, LEFT, bottom))


def _rows(plot: Plot, span: Span, ranges: Sequence[Span]) -> str:
    """A row a channel, its readings as dots, on the scale of `ranges`; lowest and highest stand below its name."""
    bottom = TOP + ROW_HEIGHT * len(plot.lines)
    parts = [_edges(plot, span, ROW_LEFT, bottom)]
    for number, (line, (low, high)) in enumerate(zip(plot.lines, ranges, strict=True)):
        top = TOP + ROW_HEIGHT * number
        rise = (line.values - low) / (high - low) if high > low else np.full(len(line.values), 0.5)
        step = -(-len(rise) // MOST_DOTS) or 1
        x, y = _across(line.times, span, ROW_LEFT)[::step], (top + ROW_HEIGHT - 4 - rise * (ROW_HEIGHT - 8))[::step]
        dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(x.tolist(), y.tolist(), strict=True))
        name = line.name if len(line.name) <= NAME_LENGTH else line.name[: NAME_LENGTH - 1] + "…"
        least, most = _range([line.values])
        limits = f"{least:.4g}" if least == most else f"{least:.4g} to {most:.4g}"
        limits = limits if len(line.values) else "none"
        parts.append(
            f'<line x1="{ROW_LEFT}" x2="{WIDTH - RIGHT}" y1="{top + ROW_HEIGHT}" y2="{top + ROW_HEIGHT}"/>'
            f'<text class="name" x="{ROW_LEFT - 5}" y="{top + 10}" text-anchor="end">{plain(name)}</text>'
            f'<text class="small" x="{ROW_LEFT - 5}" y="{top + 19}" text-anchor="end">{limits}</text>'
            f'<path class="dots s{number}" d="{dots}"><title>{plain(line.name)}: {limits}</title></path>'
        )
    return _svg(bottom + BOTTOM, "".join(parts) + _time_axis(span, ROW_LEFT, bottom))


def _extremes(line: Line) -> tuple[Floats, Floats]:
    """The line, or of a long one the lowest and highest reading of each stretch; NaN stays where all is."""
    count = len(line.values)
    if count <= MOST_POINTS:
        return line.times, line.values
    keep = []
    for stretch in np.array_split(np.arange(count), MOST_POINTS // 2):
        held = stretch[~np.isnan(line.values[stretch])]
        ends = {int(held[np.argmin(line.values[held])]), int(held[np.argmax(line.values[held])])} if len(held) else {}
        keep += sorted(ends) if ends else [int(stretch[0])]
    return line.times[keep], line.values[keep]


def _path(points: Iterator[tuple[float, float]]) -> str:
    """Points joined by lines, except over those that are NaN; a point alone is a dot."""
    parts: list[str] = []
    drawing = False
    for x, y in points:
        if y != y:
            drawing = False
            continue
        parts.append(f"L{x:.1f} {y:.1f}" if drawing else f"M{x:.1f} {y:.1f}h0")
        drawing = True
    return "".join(parts)


def _edges(plot: Plot, span: Span, left: int, bottom: int) -> str:
    """Faint lines where windows begin and end, unless they are too many to be told apart."""
    edges = np.unique(np.round(np.concatenate([plot.windows - plot.window_s / 2, plot.windows + plot.window_s / 2]), 6))
    if len(edges) > MOST_EDGES:
        return ""
    path = "".join(f"M{x:.1f} {TOP}V{bottom}" for x in _across(edges, span, left).tolist())
    return f'<path class="edges" d="{path}"><title>where windows begin and end</title></path>'


def _range(values: Sequence[Floats]) -> Span:
    found = np.concatenate(list(values))
    found = found[~np.isnan(found)]
    return (float(found.min()), float(found.max())) if len(found) else (0.0, 0.0)


def _across(times: Floats, span: Span, left: int) -> Floats:
    """Times as pixels from the left."""
    return left + (times - span[0]) / (span[1] - span[0]) * (WIDTH - left - RIGHT)


def _y_tick(y: float, label: str, lined: bool = False) -> str:
    line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>' if lined else ""
    return f'{line}<text x="{LEFT - 4}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'


def _time_axis(span: Span, left: int, bottom: int) -> str:
    """A line with a few round times below, and their unit."""
    _, scale, unit = next(u for u in UNITS if span[1] - span[0] >= u[0])
    low, high = span[0] / scale, span[1] / scale
    parts = [f'<line class="axis" x1="{left}" x2="{WIDTH - RIGHT}" y1="{bottom + 0.5}" y2="{bottom + 0.5}"/>']
    for tick in nice_ticks(low, high, 5):
        x = float(_across(np.array(tick * scale), span, left))
        parts.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
            f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{tick:g}</text>'
        )
    middle = (left + WIDTH - RIGHT) / 2
    return "".join(parts) + f'<text x="{middle:.0f}" y="{bottom + 28}" text-anchor="middle">{unit}</text>'


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`, at most `most` of them, 1 at least."""
    if not high > low:
        return [low]
    power = 10.0 ** np.floor(np.log10((high - low) / most))
    for step in (power * m for m in (1, 2, 5, 10, 20)):
        first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [float(f"{i * step:.10g}") + 0.0 for i in np.arange(first, last + 1)] or [low]


def _svg(height: int, content: str) -> str:
    return f'<svg class="drawing" width="{WIDTH}" height="{height}" role="img">{content}</svg>'
