"""What occurs twice: whole records, and values of a field in records that differ otherwise."""

import numpy as np

from interlace.results.inspection import html
from interlace.results.inspection.facts import Facts
from interlace.results.inspection.values import MOST_RECORDS, SharedValues

LISTED_REPEATS = 12


def render_repeats(facts: Facts) -> str:
    """The section of records that are equal as a whole."""
    splits = facts.splits
    rows = (
        [
            html.cell(html.text(name), tag="th"),
            *(
                html.count(split.num_repeats if other is split else split.shared_with(other))
                for other in splits.values()
            ),
        ]
        for name, split in splits.items()
    )
    heads = [html.cell("records of", tag="th"), *(html.cell(html.text(f"again in {n}"), "n", "th") for n in splits)]
    note = (
        "Records equal in everything that the recipe reads (by hash). On the diagonal: copies of an earlier record of"
        " the same split."
    )
    return html.section("Repeated records", note, html.table(heads, rows) + _examples_of_repeats(facts))


def _examples_of_repeats(facts: Facts) -> str:
    splits = list(facts.splits.values())
    hashes = np.concatenate([split.hashes for split in splits])
    begins = np.cumsum([0, *(len(split.hashes) for split in splits)])
    order = np.sort(hashes)
    repeated = np.unique(order[1:][order[1:] == order[:-1]])[:LISTED_REPEATS]
    if not len(repeated):
        return ""
    listed = []
    for one in repeated.tolist():
        places = []
        for number in np.flatnonzero(hashes == np.uint64(one))[:LISTED_REPEATS].tolist():
            which = int(np.searchsorted(begins, number, side="right")) - 1
            shard, at = splits[which].place(number - int(begins[which]))
            places.append(html.text(f"{html.short_path(shard)} row {at}"))
        listed.append([html.cell(f"<code>{one:016x}</code>", tag="th"), html.cell(" = ".join(places), "wrap")])
    return html.table(html.head("hash", "for example", numbers=False), listed)


def render_shared(facts: Facts) -> str:
    """The section of values that are equal in records that are not."""
    if not facts.shared:
        return ""
    pairs = list(dict.fromkeys((s.of, s.within) for s in facts.shared))
    counts = {(s.field, s.of, s.within): s.count for s in facts.shared}
    rows = (
        [html.cell(html.text(field), tag="th"), *(html.count(counts[field, *pair]) for pair in pairs)]
        for field in dict.fromkeys(s.field for s in facts.shared)
    )
    heads = (f"twice in {of}" if of == within else f"{of}, also in {within}" for of, within in pairs)
    read = "All" if all(s.num_usable <= MOST_RECORDS for s in facts.splits.values()) else f"The first {MOST_RECORDS:,}"
    note = (
        "Records whose value of a field (picture, sound, series, text; by hash) is also in another record that is not"
        f" equal as a whole: repeated records don't count. {read} usable records of each split are compared."
    )
    found = [s for s in facts.shared if s.count]
    listed = html.table(html.head("field", "for example", numbers=False), (_example(facts, s) for s in found))
    return html.section(
        "Repeated values", note, html.table(html.head("field", *heads), rows) + (listed if found else "")
    )


def _example(facts: Facts, shared: SharedValues) -> list[str]:
    """A few places of one value each."""
    lines = (" = ".join(_place(facts, *place) for place in pair) for pair in shared.examples)
    return [html.cell(html.text(shared.field), tag="th"), html.cell("<br>".join(lines), "wrap")]


def _place(facts: Facts, split: str, row: int) -> str:
    shard, at = facts.splits[split].manifest.locate(row)
    return html.text(f"{html.short_path(shard)} row {at}")
