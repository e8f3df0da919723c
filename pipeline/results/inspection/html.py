"""Pieces of HTML that the parts of the page share, and its style."""

from collections.abc import Iterable
from html import escape
from pathlib import PurePosixPath

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
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(270px, 100%), 1fr)); gap: 14px; }
.sheet.wide { grid-template-columns: repeat(auto-fill, minmax(min(570px, 100%), 1fr)); }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 12px; min-width: 0; }
.card > .place { font-size: 11px; color: var(--soft); overflow-wrap: anywhere; margin-top: 8px; }
.card .label { font-weight: 600; } .field { border-top: 1px solid var(--line); margin-top: 8px; padding-top: 6px; }
.field > .head { font-size: 11px; color: var(--soft); display: flex; justify-content: space-between; }
figure { display: inline-block; margin: 4px 10px 0 0; } figcaption { font-size: 11px; color: var(--soft); }
img { display: block; width: 112px; height: 112px; object-fit: contain; image-rendering: pixelated;
  border: 1px solid var(--line); border-radius: 4px; background: repeating-conic-gradient(#8882 0 25%, #0000 0 50%)
  0 / 12px 12px; }
audio { display: block; width: 100%; max-width: 420px; height: 36px; margin: 6px 0 2px; }
.note { font-size: 12px; color: var(--soft); } .drawing { max-width: 100%; }
.drawing path { fill: none; vector-effect: non-scaling-stroke; } .drawing .line { stroke-width: 1.3; }
.drawing .line, .drawing .dots { stroke-linecap: round; stroke-linejoin: round; } .drawing .dots { stroke-width: 3.5; }
.drawing .edges { stroke: var(--line); stroke-dasharray: 2 2; } .drawing .axis { stroke: var(--soft); }
.drawing image { image-rendering: pixelated; } .drawing .name { fill: var(--ink); } .drawing .small { font-size: 9px; }
.legend { font-size: 12px; margin-top: 4px; } .key { display: inline-block; margin-right: 12px; }
.key > i { display: inline-block; width: 14px; height: 0; border-top: 3px solid; margin-right: 5px;
  vertical-align: middle; }
.s0 { --c: #4f7cdb; } .s1 { --c: #e5584f; } .s2 { --c: #16a06a; } .s3 { --c: #d08a0b; } .s4 { --c: #9163e8; }
.s5 { --c: #0fa3b8; } .s6 { --c: #e0559c; } .s7 { --c: #7c8493; } .s8 { --c: #7f9f12; } .s9 { --c: #b4612a; }
.s10 { --c: #6a6ff0; } .s11 { --c: #2fa89a; } .line, .dots { stroke: var(--c); } .key > i { border-color: var(--c); }
.cells th, .cells td { padding: 2px 16px 2px 0; font-size: 13px; font-weight: 400; } .cells th { color: var(--soft); }
.cells td.wrap { min-width: 0; } .absent { color: var(--soft); opacity: .65; } .cells .unknown { color: var(--bad);
  background: var(--warn-soft); border-radius: 3px; padding: 0 4px; font-size: 11px; }
thead th { vertical-align: bottom; } th.down { padding-right: 12px; } th.down > bdi { writing-mode: vertical-rl;
  transform: rotate(180deg); max-height: 140px; overflow: hidden; text-overflow: ellipsis; }
.heat { min-width: 46px; padding: 4px 8px; text-align: right;
  font-variant-numeric: tabular-nums; } .matrices { display: flex; flex-wrap: wrap; gap: 20px 44px;
  align-items: flex-start; } .matrices > table { margin: 0; } .matrices + table { margin-top: 22px; }
.words { margin-top: 4px; line-height: 1.9; overflow-wrap: anywhere; }
.words > small { font-size: 11px; }
.words > bdi { background: var(--bar-soft); border-radius: 3px; padding: 1px 3px; margin-right: 3px;
  white-space: pre-wrap; font-family: ui-monospace, "DejaVu Sans Mono", "Noto Sans Mono CJK SC", monospace;
  font-size: 12px; } .words > bdi.unknown { background: var(--warn-soft); color: var(--bad); }
"""


def plain(value: object) -> str:
    """Text from outside, safe in attributes and in SVG, where no element may stand around it."""
    return escape(str(value))


def text(value: object) -> str:
    """Text from outside, safe anywhere in the page; directions of scripts can't leak out of its place."""
    return f"<bdi>{escape(str(value))}</bdi>"


def page(title: str, note: str, body: str) -> str:
    """A document that carries all it needs and may load nothing else; `body` is ready HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline';"
        ' img-src data:; media-src data:"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{plain(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{text(title)}</h1><p>{text(note)}</p>{body}</body></html>\n"
    )


def section(title: str, note: str, body: str) -> str:
    """A part of the page in a box, nothing where there is no body."""
    return f'<section><h2>{title}</h2><p>{note}</p><div class="box">{body}</div></section>' if body else ""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of ready cells (`cell`, `count`, `share`); the first cell of each row is its heading."""
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f"<table><thead><tr>{''.join(head)}</tr></thead><tbody>{body}</tbody></table>"


def cell(content: str, kind: str = "", tag: str = "td") -> str:
    """A cell of ready HTML, `kind` being its classes."""
    return f'<{tag} class="{kind}">{content}</{tag}>' if kind else f"<{tag}>{content}</{tag}>"


def head(*names: str, numbers: bool = True) -> list[str]:
    """Cells of a table's head; all but the first stand over numbers if `numbers`."""
    return [cell(text(n), "n" if numbers and i else "", "th") for i, n in enumerate(names)]


def count(value: int) -> str:
    """A cell of a whole number."""
    return cell(f"{value:,}", "n")


def share(count: int, total: int) -> str:
    """A cell of a count with its share as a number and a bar."""
    part = count / total if total else 0.0
    bar = f'<span class="meter"><i style="width:{100 * part:.1f}%"></i></span>'
    return cell(f'{count:,}<span class="share">{part:.1%}</span>{bar}', "n")


def short_path(place: str) -> str:
    """The last two parts of a shard's path."""
    return "/".join(PurePosixPath(place).parts[-2:])


def plural(count: int, noun: str) -> str:
    """`1 token`, `2 tokens`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
