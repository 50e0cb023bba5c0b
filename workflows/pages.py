"""How results look as a page of the report: one file of HTML that needs no other."""

from html import escape

import pandas as pd

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #1e293b; margin: 1.5rem; max-width: 110rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 1.6rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.7rem 0.2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e2e8f0; }
th { border-bottom: 1px solid #64748b; }
th, td { white-space: nowrap; } .wraps td:last-child { white-space: normal; }
code, pre { font: 12px ui-monospace, monospace; } pre { white-space: pre-wrap; }
.wide { overflow-x: auto; } .note { color: #475569; max-width: 60rem; }
"""


def page(title: str, *parts: str) -> str:
    """A page of parts that are HTML already."""
    body = "\n".join((f"<h1>{escape(title)}</h1>", *parts))
    head = f'<meta charset="utf-8">\n<title>{escape(title)}</title>\n<style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def paragraph(text: str) -> str:
    """A note in plain text."""
    return f'<p class="note">{escape(text)}</p>'


def table(cells: pd.DataFrame, last_wraps: bool = False) -> str:
    """A table of text, whose last column may be long."""
    return f'<div class="wide{" wraps" * last_wraps}">{cells.to_html(index=False, border=0, na_rep="")}</div>'


def folded(title: str, text: str) -> str:
    """Text as it stands, shown when its title is pressed."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"
