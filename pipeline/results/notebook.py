"""Pieces of HTML as a notebook's cell shows them: nothing of their style leaves them.

Short results are a `card`, with a style that names its own class only. A whole page goes into an `iframe`.
"""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from interlace.results.inspection.html import cell, head, plain, table, text

STYLE = """<style>
div.interlace { font: 13px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC", sans-serif; }
div.interlace > h4 { font-size: 16px; font-weight: 600; margin: 4px 0; }
div.interlace > p { margin: 2px 0 10px; opacity: .7; }
.interlace table { border-collapse: collapse; margin: 0 0 10px; font-size: 13px; }
div.interlace table tr { background: none; } div.interlace table tr > * { padding: 3px 16px 3px 0; border: 0;
  border-bottom: 1px solid #8885; text-align: left !important; background: none; } .interlace th { font-weight: 600; }
div.interlace table tr > .n, div.interlace table tr > td { text-align: right !important;
  font-variant-numeric: tabular-nums; }
div.interlace table.facts tr > td { text-align: left !important; } .interlace img { max-width: 100%; background: #fff; }
.interlace .best { font-weight: 600; } .interlace pre { white-space: pre-wrap; margin: 0 0 10px; }
</style>"""
FRAME_PX = 620
"""Height of a page in a cell; it scrolls inside."""


def card(title: str, note: str, body: str) -> str:
    """A short result; `body` is ready HTML, the rest text."""
    return f'{STYLE}<div class="interlace"><h4>{text(title)}</h4><p>{text(note)}</p>{body}</div>'


def framed(page: str, height: int = FRAME_PX) -> str:
    """A whole page in a frame of its own that may run no script and reach nothing around it."""
    return (
        f'<iframe srcdoc="{plain(page)}" sandbox="" width="100%" height="{height}"'
        ' style="display:block;box-sizing:border-box;border:1px solid #8885;border-radius:8px"></iframe>'
    )


def numbers(rows: Mapping[str, Mapping[str, float]], names: Sequence[str], best: Iterable[str] = ()) -> str:
    """A table of rows by name over metrics `task/metric`; `best` rows are set off, nan is a dash."""
    marked = set(best)

    def line(name: str) -> list[str]:
        kind = "best" if name in marked else ""
        values = (cell(_shown(rows[name].get(n, math.nan)), f"n {kind}".strip()) for n in names)
        return [cell(text(name), kind, "th"), *values]

    return table(head("fields", *names), [line(name) for name in rows])


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A table of two columns of text."""
    made = table((), ([cell(text(name), tag="th"), cell(text(value))] for name, value in rows))
    return made.replace("<table>", '<table class="facts">', 1)


def image(png: bytes, name: str) -> str:
    """A picture inside the HTML."""
    return f'<img alt="{plain(name)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A PNG file that a notebook shows."""

    path: Path

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()


@final
class Pictures(dict[str, Picture]):
    """Pictures by name; a notebook shows them all."""

    def _repr_html_(self) -> str:
        parts = (f"<h4>{text(name)}</h4>{image(shown.path.read_bytes(), name)}" for name, shown in self.items())
        return f'{STYLE}<div class="interlace">{"".join(parts)}</div>'
