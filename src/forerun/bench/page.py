"""One self-contained HTML page: tables, charts, and under every figure what it was measured with. No scripts."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from forerun.bench.runs import Run
from forerun.bench.tables import Table

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border: 1px solid var(--line); padding: .3rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: Canvas; max-width: 10rem; }
td:first-child { overflow-wrap: anywhere; min-width: 5rem; }
figure { margin: 1.5rem 0; background: white; padding: .5rem; } figure div { overflow-x: auto; }
figure svg { display: block; min-width: 40rem; max-width: 100%; height: auto; }
figcaption { color: #444; font-size: 13px; } code, pre { background: var(--soft); padding: .1rem .3rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .6rem; font-size: 12.5px; }
"""


def page(runs: Sequence[Run], tables: Mapping[str, Table], charts: Mapping[str, bytes]) -> str:
    """The page. charts: SVG files by name."""
    parts = [f"<h2>{html.escape(title)}</h2>{_table(table)}" for title, table in tables.items()]
    parts += [_figure(name, svg, runs) for name, svg in charts.items()]
    parts.append("<h2>How it was measured</h2>")
    parts += [f"<h3>{html.escape(run.label)}</h3><pre>{html.escape(facts(run))}</pre>" for run in runs]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Load test</title>'
        f'<link rel="icon" href="data:,"><style>{_STYLE}</style></head>'
        f"<body><h1>Load test</h1>{''.join(parts)}</body></html>\n"
    )


def _table(table: Table) -> str:
    header, *rows = table
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_OF_ALL = ("distributions", "concurrency")
"""Charts of all runs together; the others have one each."""


def _figure(name: str, svg: bytes, runs: Sequence[Run]) -> str:
    drawing = svg.decode("utf-8")
    drawing = drawing[drawing.index("<svg") :]
    shown = [run for place, run in enumerate(runs, 1) if name in (f"timeline-{place}", *_OF_ALL)]
    caption = "; ".join(dict.fromkeys(_short(run) for run in shown))
    shown_as = f"<div>{drawing}</div><figcaption>{html.escape(caption)}</figcaption>"
    return f'<figure id="{html.escape(name)}">{shown_as}</figure>'


def _short(run: Run) -> str:
    server = run.true.get("server") or {}
    words = [server.get("cpu"), server.get("isa"), f"{server['threads']} threads" if "threads" in server else None]
    words.append(f"version {server['version']}" if "version" in server else None)
    words.append(f"commit {run.summary['commit']}" if "commit" in run.summary else None)
    return f"{run.label}: {', '.join(str(word) for word in words if word) or 'the server told nothing about itself'}"


def facts(run: Run) -> str:
    """What a run was measured with: the server's word, the client's machine and command."""
    shown: dict[str, Any] = {
        "model": run.summary.get("model"),
        "dataset": run.true.get("dataset"),
        "server": run.true.get("server"),
        "client": run.true.get("client_machine"),
        "commit": run.summary.get("commit"),
        "command": " ".join(run.true.get("command") or ()),
        "timestamp": run.summary.get("timestamp"),
    }
    return json.dumps({name: value for name, value in shown.items() if value not in (None, "")}, indent=2)
