"""The HTML of a report: one file without scripts, which loads nothing from the network."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """
:root { --ink: #1f2937; --soft: #6b7280; --line: #e5e7eb; --panel: #ffffff; --ground: #f6f7f9; --accent: #2563a8; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 3.2rem; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans",
  sans-serif; }
header, main { max-width: 1240px; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 1.6rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .2rem; }
h3 { font-size: .95rem; margin: 1.1rem 0 .4rem; }
p { margin: .2rem 0 .8rem; max-width: 75ch; }
.soft, figcaption, .note { color: var(--soft); font-size: .86rem; }
nav { position: sticky; top: 0; z-index: 1; background: var(--ground); border-bottom: 1px solid var(--line); overflow-x: auto; }
nav div { max-width: 1240px; margin: 0 auto; padding: .55rem 1rem; display: flex; gap: 1.1rem; white-space: nowrap; }
nav a { color: var(--accent); text-decoration: none; font-size: .9rem; }
section { background: var(--panel); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.1rem; margin: 1rem 0; }
.facts { display: flex; flex-wrap: wrap; gap: .7rem; margin: .8rem 0; }
.fact { background: var(--panel); border: 1px solid var(--line); border-radius: 10px; padding: .5rem .9rem; min-width: 7rem; }
.fact b { display: block; font-size: 1.15rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 345px), 1fr)); gap: .8rem;
  align-items: start; }
.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 240px), 1fr)); }
.pair { grid-template-columns: repeat(auto-fit, minmax(min(100%, 540px), 1fr)); }
figure { margin: .3rem 0 0; min-width: 0; }
figure img { max-width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
.scroll img { max-width: none; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--panel); }
tr.mean td { font-weight: 600; border-top: 2px solid var(--line); }
td .range { color: var(--soft); font-size: .8rem; }
td.better { color: #1a7f4b; font-weight: 600; } td.worse { color: #b42318; font-weight: 600; }
.finding { border-left: 4px solid #d9730d; background: #fff8f0; border-radius: 6px; padding: .6rem .9rem; margin: .6rem 0; }
.quiet { border-left: 4px solid #9aa4ad; background: #f4f6f7; border-radius: 6px; padding: .6rem .9rem; margin: .6rem 0; }
.finding.past { border-color: #9aa3af; background: #f6f7f9; }
.finding b { display: block; }
.none { border-left: 4px solid #2a9d76; background: #f0faf6; border-radius: 6px; padding: .6rem .9rem; margin: .6rem 0; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .35em 0 .9em; }
pre { overflow-x: auto; background: var(--ground); padding: .8rem; border-radius: 6px; font-size: .8rem; }
summary { cursor: pointer; color: var(--accent); }
"""


@dataclass(frozen=True)
class PageSection:
    anchor: str
    title: str
    about: str
    """A sentence or two on how to read the section."""
    body: str

    def html(self) -> str:
        about = f'<p class="soft">{escape(self.about)}</p>' if self.about else ""
        return f'<section id="{self.anchor}"><h2>{escape(self.title)}</h2>{about}{self.body}</section>'


def page(title: str, subtitle: str, facts: Iterable[tuple[str, str]], sections: Sequence[PageSection]) -> str:
    links = "".join(f'<a href="#{s.anchor}">{escape(s.title)}</a>' for s in sections)
    boxes = "".join(f'<div class="fact"><span class="soft">{escape(n)}</span><b>{escape(v)}</b></div>' for n, v in facts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{_STYLE}</style></head><body>'
        f'<header><h1>{escape(title)}</h1><div class="soft">{escape(subtitle)}</div><div class="facts">{boxes}</div></header>'
        f"<nav><div>{links}</div></nav><main>{''.join(s.html() for s in sections)}</main></body></html>\n"
    )


def picture(uri: str, alt: str, caption: str = "", scroll: bool = False) -> str:
    """scroll: scrolls instead of shrinking, for pictures that grow with the number of experts."""
    shown = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    image = f'<img src="{uri}" alt="{escape(alt, quote=True)}">'
    return f'<figure>{f"""<div class="scroll">{image}</div>""" if scroll else image}{shown}</figure>'


def grid(parts: Iterable[str], kind: str = "") -> str:
    return f'<div class="grid {kind}">{"".join(parts)}</div>'


@dataclass(frozen=True)
class Cell:
    text: str
    range: str = ""
    """Shown small after the text."""
    kind: str = ""
    """"better", "worse" or empty."""


def table(head: Sequence[str], rows: Iterable[Sequence[str | Cell]], last_is_mean: bool = False) -> str:
    body = [list(row) for row in rows]
    lines = []
    for n, row in enumerate(body):
        mean = ' class="mean"' if last_is_mean and n == len(body) - 1 else ""
        lines.append(f"<tr{mean}>{''.join(_cell(c) for c in row)}</tr>")
    names = "".join(f"<th>{escape(h)}</th>" for h in head)
    return f'<div class="scroll"><table><thead><tr>{names}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _cell(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return f"<td>{escape(cell)}</td>"
    kind = f' class="{cell.kind}"' if cell.kind else ""
    behind = f' <span class="range">{escape(cell.range)}</span>' if cell.range else ""
    return f"<td{kind}>{escape(cell.text)}{behind}</td>"
