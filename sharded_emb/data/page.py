"""HTML pages that need nothing else: no network, no script, pictures within them."""

import html
from collections.abc import Iterable, Sequence

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 54em; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.4em } h2 { font-size: 1.05em; margin: 1.6em 0 .4em }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .92em }
td, th { padding: .1em .9em .1em 0; font-weight: normal; white-space: nowrap }
th { color: #555; font-size: .85em; text-align: left }
td + td, th + th { text-align: right } td:last-child, th:last-child { padding: 0 }
svg { display: block; width: 100%; height: auto } rect:not([fill]) { fill: #4477aa }
text { font-size: 11px } text:not([fill]) { fill: #555 }
.small { color: #555; font-size: .85em } pre { font-size: .8em; overflow-x: auto }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """The whole file. parts: HTML, of which empty ones are left out."""
    body = "\n".join(part for part in parts if part)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def section(title: str, *parts: str) -> str:
    """Under a heading; nothing where all parts are empty. parts: HTML."""
    there = [part for part in parts if part]
    return "\n".join([f"<h2>{html.escape(title)}</h2>", *there]) if there else ""


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Of texts; empty without rows. The first column is to the left, all others to the right."""
    if not rows:
        return ""
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{line}</tr>" for line in ([top] if head else []) + lines)
    return f'<div class="wide"><table>{body}</table></div>'


def small(text: str) -> str:
    """A line of explanation."""
    return f'<p class="small">{html.escape(text)}</p>' if text else ""
