"""The page of `interlace inspect`: facts in, one self-contained HTML document out (inline styles, SVG, PNG; no script).

Every text that comes from the data or the recipe goes through `html.text` or `html.plain`; the page's own policy
forbids loading anything but what it carries itself.
"""

import numpy as np

from interlace.results.inspection import html
from interlace.results.inspection.cards import render_sheet
from interlace.results.inspection.facts import Facts, SourceFacts, SplitFacts
from interlace.results.inspection.plots import PLOT_WIDTH, histogram
from interlace.results.inspection.repeats import render_repeats, render_shared

LISTED_BAD = 100
LISTED_COMBINATIONS = 32
LISTED_CLASSES = 200
UPRIGHT_UP_TO = 4
"""Fields above which the heads of narrow columns are written from top to bottom."""


def render(facts: Facts) -> str:
    """The page."""
    sections = [
        _overview(facts), _sources(facts), _bad_records(facts), _presence(facts), _together(facts), _lengths(facts),
        _classes(facts), render_repeats(facts), render_shared(facts), render_sheet(facts.sheet),
    ]  # fmt: skip
    warnings = "".join(f'<div class="warn">{html.text(w)}</div>' for w in facts.warnings())
    note = f"Data in {facts.root}, as the recipe reads it."
    return html.page(f"{facts.name}: data", note, warnings + "".join(sections))


def _overview(facts: Facts) -> str:
    def row(name: str, split: SplitFacts) -> list[str]:
        manifest, groups = split.manifest, split.manifest.groups
        least, most = int(groups.num_rows.min()), int(groups.num_rows.max())
        spread = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        return [
            html.cell(html.text(name), tag="th"),
            html.count(manifest.num_rows),
            html.cell(f"{manifest.num_bad:,}", "n bad" if manifest.num_bad else "n"),
            html.count(len(groups.shards)),
            html.count(len(groups)),
            html.cell(spread, "n"),
            html.cell(f"{groups.num_bytes.sum() / 1e6:,.1f}", "n"),
            html.count(split.total.total),
            html.cell(f"{split.total.mean:.1f}" if split.num_usable else "-", "n"),
            html.count(split.total.most),
            html.cell(f"<code>{manifest.digest[:12]}</code>"),
        ]

    head = html.head(
        "split", "records", "bad", "shards", "row groups", "records in each", "MB unpacked", "tokens",
        "tokens a sample", "longest",
    )  # fmt: skip
    note = f"A pack takes at most {facts.token_budget:,} tokens (<code>batch.token_budget</code>)."
    digest = html.cell("digest", tag="th")
    return html.section("Splits", note, html.table([*head, digest], (row(n, s) for n, s in facts.splits.items())))


def _sources(facts: Facts) -> str:
    """The sources that training mixes."""
    if not facts.sources:
        return ""
    total = sum(s.num_rows - s.num_bad for s in facts.sources.values())

    def row(name: str, source: SourceFacts) -> list[str]:
        usable = source.num_rows - source.num_bad
        often = f"{source.share * total / usable:.2f}" if usable else "-"
        return [
            html.cell(html.text(name), tag="th"),
            html.cell(html.text(source.format)),
            html.count(source.num_rows),
            html.cell(f"{source.num_bad:,}", "n bad" if source.num_bad else "n"),
            html.cell(f"{usable / max(total, 1):.1%}", "n"),
            html.cell(f"{source.share:.1%}", "n"),
            html.cell(often, "n"),
        ]

    names = ("source", "format", "records", "bad", "share of the records", "share of the samples", "drawn how often")
    heads = [html.cell(html.text(n), "n" if i > 1 else "", "th") for i, n in enumerate(names)]
    note = (
        "Training mixes these by weight. While as many samples are drawn as there are usable records, a record of a"
        " source is drawn as often as the last column says."
    )
    return html.section("Sources of train", note, html.table(heads, (row(*item) for item in facts.sources.items())))


def _bad_records(facts: Facts) -> str:
    count = sum(split.manifest.num_bad for split in facts.splits.values())
    bad = [(name, record) for name, split in facts.splits.items() for record in split.manifest.bad(LISTED_BAD)]
    rows = (
        [
            html.cell(html.text(n), tag="th"),
            html.cell(html.text(html.short_path(b.shard))),
            html.count(b.row),
            html.cell(html.text(b.reason), "wrap"),
        ]
        for n, b in bad[:LISTED_BAD]
    )
    table = html.table(html.head("split", "shard", "row", "reason", numbers=False), rows) if bad else "None."
    more = f"<p>… and {count - LISTED_BAD:,} more</p>" if count > LISTED_BAD else ""
    note = (
        f"Records that can't be used; a run stops above {facts.max_bad_share:.2%} of them"
        " (<code>data.max_bad_share</code>). Headers are checked here; pixels only where they are decoded."
    )
    return html.section("Bad records", note, table + more)


def _presence(facts: Facts) -> str:
    splits = facts.splits
    shares = html.table(
        [
            *html.head("field"),
            *html.head("modality"),
            *(html.cell(html.text(f"missing in {n}"), "n", "th") for n in splits),
        ],
        (
            [
                html.cell(html.text(field), tag="th"),
                html.cell(html.text(modality)),
                *(html.share(s.num_missing(field), s.num_usable) for s in splits.values()),
            ]
            for field, modality in facts.fields.items()
        ),
    )
    return html.section("Missing fields", "Share of the usable records that lack a field.", shares)


def _together(facts: Facts) -> str:
    """Which fields records have together: two by two, then every combination there is."""
    body = _combinations(facts)
    if len(facts.fields) > 1:
        body = f'<div class="matrices">{"".join(_matrix(facts, *item) for item in facts.splits.items())}</div>{body}'
    note = "Share of the records that have both fields, on the diagonal one; then all combinations (filled: there)."
    return html.section("Which fields occur together", note, body)


def _matrix(facts: Facts, name: str, split: SplitFacts) -> str:
    """Fields by fields, shaded by the share of the split's records that have both."""
    total = max(split.num_usable, 1)

    def shaded(one: str, other: str) -> str:
        part = split.together(one, other) / total
        mix = f"background:color-mix(in srgb,var(--bar) {70 * part:.0f}%,transparent)"
        return f'<td class="heat" style="{mix}">{part:.0%}</td>'

    rows = ([html.cell(html.text(one), tag="th"), *(shaded(one, o) for o in facts.fields)] for one in facts.fields)
    return html.table([html.cell(html.text(name), tag="th"), *_narrow_heads(facts)], rows)


def _narrow_heads(facts: Facts) -> list[str]:
    """Heads of narrow columns, one a field."""
    kind = "c" if len(facts.fields) <= UPRIGHT_UP_TO else "c down"
    return [html.cell(html.text(f), kind, "th") for f in facts.fields]


def _combinations(facts: Facts) -> str:
    splits = facts.splits
    counted = {name: split.combinations for name, split in splits.items()}
    seen = sorted(
        {c for counts in counted.values() for c in counts}, key=lambda c: -sum(n.get(c, 0) for n in counted.values())
    )
    rows = (
        [
            *(html.cell(f'<i class="dot{" on" if there else ""}"></i>', "c") for there in combination),
            *(html.share(counted[n].get(combination, 0), s.num_usable) for n, s in splits.items()),
        ]
        for combination in seen[:LISTED_COMBINATIONS]
    )
    heads = [*_narrow_heads(facts), *(html.cell(html.text(n), "n", "th") for n in splits)]
    left = seen[LISTED_COMBINATIONS:]
    more = f"<p>… and {len(left):,} rarer combinations</p>" if left else ""
    return html.table(heads, rows) + more


def _lengths(facts: Facts) -> str:
    cells = []
    for field in [*facts.fields, None]:
        found = {name: split.total if field is None else split.lengths[field] for name, split in facts.splits.items()}
        everything = np.concatenate([lengths.values for lengths in found.values()])
        for name, lengths in found.items():
            title = html.text(f"{'all fields' if field is None else field}, {name}")
            mean = f'<span class="soft">mean {lengths.mean:.1f}</span>' if lengths.num else ""
            ends = int(everything.min(initial=2**62)), int(everything.max(initial=0))
            drawn = histogram(lengths.values, lengths.counts, *ends) if lengths.num else "no values"
            cells.append(f'<div><h3 class="ends">{title}{mean}</h3>{drawn}</div>')
    grid = f'<div class="plots" style="grid-template-columns:repeat({len(facts.splits)},{PLOT_WIDTH}px)">'
    note = "Tokens of a sample, after cutting, where the field is there. The ticks are the shortest and the longest."
    return html.section("Token lengths", note, f"{grid}{''.join(cells)}</div>")


def _classes(facts: Facts) -> str:
    sections = []
    for task in {n: None for s in facts.splits.values() for n in s.labels}:
        totals = {n: s.num_usable for n, s in facts.splits.items()}
        counts = {n: s.labels[task] for n, s in facts.splits.items()}
        classes = sorted(
            {c for found in counts.values() for c in found},
            key=lambda c: (c is None, -sum(found.get(c, 0) for found in counts.values())),
        )
        rows = (
            [
                html.cell("<i>no label</i>" if c is None else html.text(c), tag="th"),
                *(html.share(counts[n].get(c, 0), totals[n]) for n in counts),
            ]
            for c in classes[:LISTED_CLASSES]
        )
        left = len(classes) - LISTED_CLASSES
        more = f"<p>… and {left:,} more</p>" if left > 0 else ""
        note = f"Column {html.text(facts.tasks[task])}, {sum(c is not None for c in classes)} classes."
        sections.append(
            html.section(f"Classes of {html.text(task)}", note, html.table(html.head("class", *counts), rows) + more)
        )
    return "".join(sections)
