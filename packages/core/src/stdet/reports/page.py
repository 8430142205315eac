"""What all pages share: one file that needs nothing else, no script, no font, no network."""

from __future__ import annotations

from html import escape

from stdet.structures import Table

_STYLE = """
:root{color-scheme:light dark;--line:#8886}
body{font:15px/1.45 system-ui,sans-serif;max-width:980px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.2rem}h3{font-size:1rem}
table{border-collapse:collapse;display:block;overflow-x:auto;font-size:.86rem}
th,td{border-bottom:1px solid var(--line);padding:.25rem .6rem;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}
svg{width:100%;height:auto}text{font:12px system-ui,sans-serif;fill:currentColor}
.bad{color:#c0392b;font-weight:600}.good{color:#2a7f62;font-weight:600}
"""
_VERDICTS = {"fits": "good", "DOES NOT FIT": "bad"}


def whole_page(title: str, content: str, style: str = "") -> str:
    """An HTML document. `content` is HTML, `style` more CSS."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{_STYLE}{style}</style></head><body>{content}</body></html>\n"
    )


def table_html(table: Table) -> str:
    """A table under its title."""
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in table.rows)
    return f"<h3>{escape(table.title)}</h3><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(text: str) -> str:
    kind = _VERDICTS.get(text) or ("n" if text.replace(".", "").isdigit() else "")
    marked = f' class="{kind}"' if kind else ""
    return f"<td{marked}>{escape(text)}</td>"
