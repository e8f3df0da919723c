"""The page of `interlace inspect`: facts in, one self-contained HTML document out (inline styles, SVG, PNG; no script).

Every text that comes from the data or the recipe goes through `_text`; the page's own policy forbids loading anything.
"""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from jobs.inspect_facts import Facts, FieldView, SampleView, SplitFacts

LISTED_BAD = 100
LISTED_COMBINATIONS = 32
LISTED_CLASSES = 200
LISTED_REPEATS = 12
LISTED_WORDS = 40
LISTED_CHARACTERS = 200
NUM_BINS = 30
PLOT_WIDTH, PLOT_HEIGHT, MAX_BAR = 300, 70, 24

STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --soft: #667085; --line: #e3e7ee; --paper: #fff; --ground: #f6f7fa;
  --bar: #4f7cdb; --bar-soft: #dce6fa; --bad: #b42318; --bad-soft: #fdecea; --warn-soft: #fff4d6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9f0; --soft: #98a2b3; --line: #2c3444; --paper: #171c26;
  --ground: #10141c; --bar: #7ba2f0; --bar-soft: #24365c; --bad: #ff9c92; --bad-soft: #3d1d1b; --warn-soft: #3d3316; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 32px 24px 64px; max-width: 1240px; background: var(--ground); color: var(--ink);
  font: 14px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC", sans-serif; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 17px; margin: 36px 0 4px; }
h3 { font-size: 14px; margin: 0 0 6px; }
p { margin: 2px 0 12px; color: var(--soft); max-width: 85ch; }
section > .box { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px;
  overflow-x: auto; }
table { border-collapse: collapse; } th { font-weight: 600; text-align: left; color: var(--soft); }
th, td { padding: 4px 20px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap; }
tr:last-child > * { border-bottom: 0; } table + table { margin-top: 16px; } tbody th { color: var(--ink); }
.n { text-align: right; font-variant-numeric: tabular-nums; } .c { text-align: center; }
.soft { color: var(--soft); } .bad { color: var(--bad); } .wrap { white-space: normal; overflow-wrap: anywhere; }
td.wrap { min-width: 260px; }
.warn { background: var(--bad-soft); color: var(--bad); border-radius: 8px; padding: 8px 14px; margin: 12px 0; }
.share { display: inline-block; min-width: 66px; color: var(--soft); } .ends { display: flex;
  justify-content: space-between; } .ends > .soft { font-weight: 400; font-size: 12px; }
.meter { display: inline-block; width: 90px; height: 8px; margin-left: 10px; border-radius: 4px;
  background: var(--bar-soft); overflow: hidden; } .meter > i { display: block; height: 100%; background: var(--bar); }
.dot { display: inline-block; width: 11px; height: 11px; border-radius: 50%; border: 1.5px solid var(--bar); }
.dot.on { background: var(--bar); }
.plots { display: grid; gap: 14px 28px; align-items: end; justify-content: start; }
svg { display: block; } svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg rect { fill: var(--bar); } svg line { stroke: var(--line); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 14px; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 12px; min-width: 0; }
.card > .place { font-size: 11px; color: var(--soft); overflow-wrap: anywhere; margin-top: 8px; }
.card .label { font-weight: 600; } .field { border-top: 1px solid var(--line); margin-top: 8px; padding-top: 6px; }
.field > .head { font-size: 11px; color: var(--soft); display: flex; justify-content: space-between; }
figure { display: inline-block; margin: 4px 10px 0 0; } figcaption { font-size: 11px; color: var(--soft); }
img { display: block; width: 112px; height: 112px; object-fit: contain; image-rendering: pixelated;
  border: 1px solid var(--line); border-radius: 4px; background: repeating-conic-gradient(#8882 0 25%, #0000 0 50%)
  0 / 12px 12px; }
.words { margin-top: 4px; line-height: 1.9; overflow-wrap: anywhere; }
.words > small { font-size: 11px; }
.words > bdi { background: var(--bar-soft); border-radius: 3px; padding: 1px 3px; margin-right: 3px;
  white-space: pre-wrap; font-family: ui-monospace, "DejaVu Sans Mono", "Noto Sans Mono CJK SC", monospace;
  font-size: 12px; } .words > bdi.unknown { background: var(--warn-soft); color: var(--bad); }
"""


def render(facts: Facts) -> str:
    """The page."""
    sections = [
        _overview(facts), _bad_records(facts), _presence(facts), _lengths(facts), _classes(facts), _repeats(facts),
        _sheet(facts),
    ]  # fmt: skip
    warnings = "".join(f'<div class="warn">{_text(w)}</div>' for w in facts.warnings())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline';"
        ' img-src data:"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(facts.name)}: data</title><style>{STYLE}</style></head><body>"
        f"<h1>{_text(facts.name)}</h1><p>Data in {_text(facts.root)}, as the recipe reads it.</p>{warnings}"
        f"{''.join(sections)}</body></html>\n"
    )


def _text(value: object) -> str:
    """Text from outside, safe anywhere in the page; directions of scripts can't leak out of its place."""
    return f"<bdi>{escape(str(value))}</bdi>"


def _section(title: str, note: str, body: str) -> str:
    return f'<section><h2>{title}</h2><p>{note}</p><div class="box">{body}</div></section>' if body else ""


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of ready cells (`_cell`, `_number`); the first cell of each row is its heading."""
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f"<table><thead><tr>{''.join(head)}</tr></thead><tbody>{body}</tbody></table>"


def _cell(content: str, kind: str = "", tag: str = "td") -> str:
    return f'<{tag} class="{kind}">{content}</{tag}>' if kind else f"<{tag}>{content}</{tag}>"


def _head(*names: str, numbers: bool = True) -> list[str]:
    return [_cell(_text(n), "n" if numbers and i else "", "th") for i, n in enumerate(names)]


def _count(value: int) -> str:
    return _cell(f"{value:,}", "n")


def _share(count: int, total: int) -> str:
    """A count with its share as a number and a bar."""
    share = count / total if total else 0.0
    bar = f'<span class="meter"><i style="width:{100 * share:.1f}%"></i></span>'
    return _cell(f'{count:,}<span class="share">{share:.1%}</span>{bar}', "n")


def _overview(facts: Facts) -> str:
    def row(name: str, split: SplitFacts) -> list[str]:
        manifest, tokens = split.manifest, split.total_tokens
        sizes = [g.num_rows for g in manifest.groups]
        spread = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
        return [
            _cell(_text(name), tag="th"),
            _count(manifest.num_rows),
            _cell(f"{len(manifest.bad):,}", "n bad" if manifest.bad else "n"),
            _count(len({g.shard for g in manifest.groups})),
            _count(len(manifest.groups)),
            _cell(spread, "n"),
            _cell(f"{sum(g.num_bytes for g in manifest.groups) / 1e6:,.1f}", "n"),
            _count(int(tokens.sum())),
            _cell(f"{tokens.mean():.1f}" if len(tokens) else "-", "n"),
            _count(int(tokens.max(initial=0))),
            _cell(f"<code>{manifest.digest[:12]}</code>"),
        ]

    head = _head(
        "split", "records", "bad", "shards", "row groups", "records in each", "MB unpacked", "tokens",
        "tokens a sample", "longest",
    )  # fmt: skip
    note = f"A pack takes at most {facts.token_budget:,} tokens (<code>batch.token_budget</code>)."
    digest = _cell("digest", tag="th")
    return _section("Splits", note, _table([*head, digest], (row(n, s) for n, s in facts.splits.items())))


def _bad_records(facts: Facts) -> str:
    bad = [(name, record) for name, split in facts.splits.items() for record in split.manifest.bad]
    rows = (
        [_cell(_text(n), tag="th"), _cell(_text(_short_path(b.shard))), _count(b.row), _cell(_text(b.reason), "wrap")]
        for n, b in bad[:LISTED_BAD]
    )
    table = _table(_head("split", "shard", "row", "reason", numbers=False), rows) if bad else "None."
    more = f"<p>… and {len(bad) - LISTED_BAD:,} more</p>" if len(bad) > LISTED_BAD else ""
    note = (
        f"Records that can't be used; a run stops above {facts.max_bad_share:.2%} of them"
        " (<code>data.max_bad_share</code>). Headers are checked here; pixels only where they are decoded."
    )
    return _section("Bad records", note, table + more)


def _presence(facts: Facts) -> str:
    splits = facts.splits
    shares = _table(
        [*_head("field"), *_head("modality"), *(_cell(_text(f"missing in {n}"), "n", "th") for n in splits)],
        (
            [
                _cell(_text(field), tag="th"),
                _cell(_text(modality)),
                *(_share(int((~s.present[field]).sum()), len(s.rows)) for s in splits.values()),
            ]
            for field, modality in facts.fields.items()
        ),
    )
    counted = {name: split.combinations() for name, split in splits.items()}
    seen = sorted(
        {c for counts in counted.values() for c in counts}, key=lambda c: -sum(n.get(c, 0) for n in counted.values())
    )
    rows = (
        [
            *(_cell(f'<i class="dot{" on" if there else ""}"></i>', "c") for there in combination),
            *(_share(counted[n].get(combination, 0), len(s.rows)) for n, s in splits.items()),
        ]
        for combination in seen[:LISTED_COMBINATIONS]
    )
    heads = [*(_cell(_text(f), "c", "th") for f in facts.fields), *(_cell(_text(n), "n", "th") for n in splits)]
    left = seen[LISTED_COMBINATIONS:]
    more = f"<p>… and {len(left):,} rarer combinations</p>" if left else ""
    return _section("Missing fields", "Share of the usable records that lack a field.", shares) + _section(
        "Which fields occur together", "A filled dot: the field is there.", _table(heads, rows) + more
    )


def _lengths(facts: Facts) -> str:
    cells = []
    for field in [*facts.fields, None]:
        found = {
            name: split.total_tokens if field is None else split.tokens[field][split.present[field]]
            for name, split in facts.splits.items()
        }
        everything = np.concatenate(list(found.values()))
        for name, lengths in found.items():
            title = _text(f"{'all fields' if field is None else field}, {name}")
            mean = f'<span class="soft">mean {lengths.mean():.1f}</span>' if len(lengths) else ""
            drawn = histogram(lengths, int(everything.min()), int(everything.max())) if len(lengths) else "no values"
            cells.append(f'<div><h3 class="ends">{title}{mean}</h3>{drawn}</div>')
    grid = f'<div class="plots" style="grid-template-columns:repeat({len(facts.splits)},{PLOT_WIDTH}px)">'
    note = "Tokens of a sample, after cutting, where the field is there. The ticks are the shortest and the longest."
    return _section("Token lengths", note, f"{grid}{''.join(cells)}</div>")


def histogram(lengths: NDArray[np.integer], low: int, high: int) -> str:
    """An inline SVG of how many values have which length, in at most 30 bins of whole numbers, equally wide.

    Args:
        lengths: at least one.
        low: left end of the axis, at most the shortest.
        high: right end, at least the longest.
    """
    width = -(-(high - low + 1) // NUM_BINS)
    num_bins = -(-(high - low + 1) // width)
    counts = np.bincount((lengths - low) // width, minlength=num_bins)
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


def _classes(facts: Facts) -> str:
    sections = []
    for task in {n: None for s in facts.splits.values() for n in s.labels}:
        totals = {n: len(s.rows) for n, s in facts.splits.items()}
        counts = {n: s.labels[task] for n, s in facts.splits.items()}
        classes = sorted(
            {c for found in counts.values() for c in found},
            key=lambda c: (c is None, -sum(found.get(c, 0) for found in counts.values())),
        )
        rows = (
            [
                _cell("<i>no label</i>" if c is None else _text(c), tag="th"),
                *(_share(counts[n].get(c, 0), totals[n]) for n in counts),
            ]
            for c in classes[:LISTED_CLASSES]
        )
        left = len(classes) - LISTED_CLASSES
        more = f"<p>… and {left:,} more</p>" if left > 0 else ""
        note = f"Column {_text(facts.tasks[task])}, {sum(c is not None for c in classes)} classes."
        sections.append(_section(f"Classes of {_text(task)}", note, _table(_head("class", *counts), rows) + more))
    return "".join(sections)


def _repeats(facts: Facts) -> str:
    splits = facts.splits
    rows = (
        [
            _cell(_text(name), tag="th"),
            *(_count(split.num_repeats if other is split else split.shared_with(other)) for other in splits.values()),
        ]
        for name, split in splits.items()
    )
    heads = [_cell("records of", tag="th"), *(_cell(_text(f"again in {n}"), "n", "th") for n in splits)]
    note = (
        "Records equal in everything that the recipe reads (by hash). On the diagonal: copies of an earlier record of"
        " the same split."
    )
    return _section("Repeated records", note, _table(heads, rows) + _examples_of_repeats(facts))


def _examples_of_repeats(facts: Facts) -> str:
    names, hashes, rows = list(facts.splits), [], []
    for number, split in enumerate(facts.splits.values()):
        hashes.append(split.hashes)
        rows += [(number, row) for row in split.rows.tolist()]
    values, inverse, counts = np.unique(np.concatenate(hashes), return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(counts > 1)[:LISTED_REPEATS]
    if not len(repeated):
        return ""
    listed = []
    for one in repeated.tolist():
        places = []
        for number, row in (rows[i] for i in np.flatnonzero(inverse == one)[:LISTED_REPEATS].tolist()):
            shard, at = facts.splits[names[number]].manifest.locate(row)
            places.append(_text(f"{_short_path(shard)} row {at}"))
        listed.append([_cell(f"<code>{values[one]:016x}</code>", tag="th"), _cell(" = ".join(places), "wrap")])
    return _table(_head("hash", "for example", numbers=False), listed)


def _sheet(facts: Facts) -> str:
    cards = "".join(_card(sample) for sample in facts.sheet)
    return (
        "<section><h2>Samples of train</h2><p>Drawn at random and shown as the model gets them: pictures after"
        " decoding and shrinking, beside them a variant as training augments it; texts cut into tokens.</p>"
        f'<div class="sheet">{cards}</div></section>'
    )


def _card(sample: SampleView) -> str:
    labels = "".join(
        f'<div><span class="soft">{_text(task)}</span> <span class="label">'
        f"{'<i>no label</i>' if label is None else _text(label)}</span></div>"
        for task, label in sample.labels.items()
    )
    fields = "".join(_field(view) for view in sample.fields)
    return f'<div class="card">{labels}{fields}<div class="place">{_text(_short_path(sample.place))}</div></div>'


def _field(view: FieldView) -> str:
    if view.fault is not None:
        body, size = f'<div class="bad wrap">{_text(view.fault)}</div>', "bad"
    elif not view.size:
        body, size = "", "missing"
    else:
        body, size = _value(view), view.size
    unknown = sum(word is None for word in view.words)
    size += f", {unknown} unknown" if unknown else ""
    return f'<div class="field"><div class="head"><span>{_text(view.name)}</span><span>{size}</span></div>{body}</div>'


def _value(view: FieldView) -> str:
    captions = ("decoded", "augmented")
    parts = [
        f'<figure><img alt="{caption}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>{caption}</figcaption></figure>"
        for caption, png in zip(captions, view.pictures, strict=False)
    ]
    if view.text is not None:
        cut = view.text[:LISTED_CHARACTERS] + ("…" if len(view.text) > LISTED_CHARACTERS else "")
        parts.append(f'<div class="wrap">{_text(cut)}</div>')
    for words, note in ((view.words, ""), (view.variant_words or (), "augmented ")):
        if words:
            parts.append(f'<div class="words"><small class="soft">{note}</small>{_words(words)}</div>')
    return "".join(parts)


def _words(words: Sequence[str | None]) -> str:
    shown = ('<bdi class="unknown">?</bdi>' if w is None else _text(w) for w in words[:LISTED_WORDS])
    more = f'<span class="soft">… {len(words) - LISTED_WORDS} more</span>' if len(words) > LISTED_WORDS else ""
    return "".join(shown) + more


def _short_path(place: str) -> str:
    """The last two parts of a shard's path."""
    return "/".join(PurePosixPath(place).parts[-2:])
