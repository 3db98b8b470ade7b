"""report.html: what a run gave, as one page with inline SVG and nothing fetched."""

import json
import math
from html import escape
from pathlib import Path

from .checkpoint import read_json, replacing
from .config import InputError

WIDTH, HEIGHT, RATE_HEIGHT = 760, 320, 190  # of a chart, and of the small panel beneath the loss, in pixels
LEFT, RIGHT, TOP, BOTTOM = 64, 160, 42, 46  # margins around the plot, in pixels
INSET = 16  # from the edges of the plot to the first and the last T, in pixels
TITLE, CAPTION = 15, 8  # baselines: of the title below the chart's top, of a stage's name above the plot, in pixels
LABEL, TICK, AXIS_LABEL, BASELINE = 18, 18, 38, 4  # label beside the plot, tick and axis label below it, mid-text
LINE_GAP, TICK_GAP, STAGE_GAP = 17, 30, 76  # least distances of labels, ticks of T and names of stages, in pixels
RADIUS = 3.5  # of a point, in pixels
TICKS = 5  # wanted on a linear axis
STEPS = (1, 2, 5, 10)  # of ticks, times a power of ten
MOST_DECADES = 3  # of a log axis that still has ticks at 2 and 5
LEAST_SPAN = 2.0  # percentage points of the accuracy axis, lest noise look like a trend
NARROW = 1e-9  # ticks this close, relative to their distance, are the same
LIGHT = {
    "paper": "#ffffff", "ink": "#1f2328", "muted": "#59636e", "grid": "#dde3e9",
    "spiking": "#0969da", "equilibrium": "#b34700", "teacher": "#8250df",
}  # fmt: skip
DARK = {
    "paper": "#0d1117", "ink": "#e6edf3", "muted": "#9da7b1", "grid": "#2b323b",
    "spiking": "#58a6ff", "equilibrium": "#f0883e", "teacher": "#bc8cff",
}  # fmt: skip
CHART_STYLE = """
svg text { font: 12.5px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--muted) }
svg .title { fill: var(--ink); font-weight: 600 }
svg .grid { stroke: var(--grid); stroke-width: 1 }
svg polyline, svg .reference { fill: none; stroke-width: 2; stroke-linejoin: round }
svg .leader { stroke: var(--muted); stroke-width: 0.75 }
svg .stage { stroke: var(--muted); stroke-dasharray: 2 3 }
svg .guide { stroke: var(--muted); stroke-width: 1.5; stroke-dasharray: 6 4 }
svg .spiking { stroke: var(--spiking) } svg circle.spiking, svg text.spiking { fill: var(--spiking) }
svg .equilibrium { stroke: var(--equilibrium) } svg text.equilibrium { fill: var(--equilibrium) }
svg .teacher { stroke: var(--teacher) } svg text.teacher { fill: var(--teacher) }
svg text, svg circle { stroke: none !important }
svg .paper { fill: var(--paper) }
"""
PAGE_STYLE = """
body { margin: 2rem auto; max-width: 820px; padding: 0 1.25rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 0.5rem }
h1, td, th { overflow-wrap: anywhere }
p, figcaption, summary { color: var(--muted) } p { margin: 0.4rem 0 1.4rem }
.tables { display: flex; flex-wrap: wrap; gap: 1.5rem 3rem; align-items: flex-start }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums }
th, td { padding: 0.25rem 0.9rem 0.25rem 0; border-bottom: 1px solid var(--grid); text-align: left; font-weight: 400 }
thead th { color: var(--muted); vertical-align: bottom } .numbers td { text-align: right; white-space: nowrap }
.numbers thead th:not(:first-child) { text-align: right }
figure { margin: 1.2rem 0; overflow-x: auto; break-inside: avoid } figcaption { font-size: 0.85rem }
svg { display: block; width: 100%; min-width: 540px; height: auto }
summary { cursor: pointer } details { margin: 1.5rem 0 }
@media print { body { margin: 0; max-width: none; font-size: 11pt } svg { min-width: 0 } tr { break-inside: avoid } }
"""


def write_report(directory, results):
    """Write directory/report.html from evaluate_student's `results` and the log and options that lie in `directory`."""
    directory = Path(directory)
    spiking = bool(_by_time_steps(results, "spiking"))
    head = f"{'Spiking' if spiking else 'ANN'} student {directory.resolve().name} on {results.get('task')}"
    shape = _read(directory / "config.json")
    facts = [
        f"{shape['num_hidden_layers']} encoders of width {shape.get('hidden_size')}" if "num_hidden_layers" in shape else "",
        f"{results.get('drive')} drive, {results.get('spikes')} spikes" if spiking else "no spiking neurons",
        f"{results.get('examples')} examples",
    ]
    parts = [
        f"<h1>{_text(head)}</h1><p>{_text('; '.join(f for f in facts if f))}</p>",
        f'<div class="tables">{_scores(results)}{_costs(results)}</div>',
        *_figures(results, _stages(_log(directory / "train_log.jsonl"))),
        _options(_read(directory / "training_args.json")),
    ]
    with replacing(directory / "report.html") as temporary:
        temporary.write_text(_page(head, "\n".join(parts)), encoding="utf-8")


def accuracy_svg(results):
    """Score against time steps as an SVG file's text, on white: for a README."""
    style = CHART_STYLE
    for name, colour in LIGHT.items():
        style = style.replace(f"var(--{name})", colour)
    background = f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>'
    return _accuracy(results, f"<style>{style}</style>{background}") + "\n"


def _page(title, body):
    variables = [":root {" + "; ".join(f"--{n}: {c}" for n, c in colours.items()) + " }" for colours in (LIGHT, DARK)]
    dark = "@media screen and (prefers-color-scheme: dark) { " + variables[1] + " }"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{_text(title)}</title>\n<style>\n{variables[0]}\n{dark}{PAGE_STYLE}{CHART_STYLE}</style>\n"
        f"</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _text(value):
    """Any value as HTML or XML text; what neither can hold becomes a replacement character."""
    return escape("".join(c if c.isprintable() else "\ufffd" for c in str(value)))


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value, form, unit=""):
    return f"{value:{form}}{unit}" if _is_number(value) else "–"


def _read(path):
    """The JSON object at `path`, or {} where there is none to read."""
    try:
        return read_json(path)
    except InputError:
        return {}


def _log(path):
    """The lines of train_log.jsonl that say stage, step and loss."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:  # a line cut short when the run was stopped
            continue
        if isinstance(line, dict) and "stage" in line and _is_number(line.get("step")) and _is_number(line.get("loss")):
            lines.append(line)
    return lines


def _stages(lines):
    """[(stage, updates before it, its updates, its lines)], one after another."""
    stages, before = [], 0
    for name in dict.fromkeys(str(line["stage"]) for line in lines):
        own = [line for line in lines if str(line["stage"]) == name]
        updates = max(line["step"] for line in own)
        stages.append((name, before, updates, own))
        before += updates
    return stages


def _by_time_steps(results, key):
    """[(T, value)] in order of T."""
    return sorted((int(t), value) for t, value in (results.get(key) or {}).items() if _is_number(value))


def _table(rows, head=(), kind=""):
    """The first cell of a row is its heading; all cells are texts."""
    top = f"<thead><tr>{''.join(f'<th>{_text(cell)}</th>' for cell in head)}</tr></thead>" if head else ""
    lines = [f"<tr><th>{_text(row[0])}</th>{''.join(f'<td>{_text(cell)}</td>' for cell in row[1:])}</tr>" for row in rows]
    return f'<table class="{kind}">{top}<tbody>{"".join(lines)}</tbody></table>'


def _scores(results):
    percent = lambda v: _shown(100 * v if _is_number(v) else None, ".2f", " %")  # noqa: E731
    scores, gaps = _by_time_steps(results, "spiking"), dict(_by_time_steps(results, "equilibrium_gap"))
    rows = [("student at equilibrium", percent(results.get("equilibrium")), "–", _shown(results.get("mean_rate"), ".4f"))]
    if results.get("teacher") is not None:
        rows.insert(0, ("teacher", percent(results["teacher"]), "–", "–"))
    for t, value in scores:
        rate = results.get("spiking_mean_rate") if t == scores[-1][0] else None
        rows.append((f"spiking, T = {t}", percent(value), _shown(gaps.get(t), ".4f"), _shown(rate, ".4f")))
    head = ("", _metric(results), "equilibrium gap", "mean firing rate")
    columns = len(head) if scores else 2
    return _table([row[:columns] for row in rows], head[:columns], "numbers")


def _costs(results):
    rows = [
        (f"{name}, {stage.get('steps')} updates", _shown(stage.get("seconds"), ".1f", " s"))
        for name, stage in (results.get("training") or {}).items()
    ]
    rows += [("evaluation", _shown(results.get("seconds"), ".1f", " s"))]
    if "total_seconds" in results:
        rows += [("whole run", _shown(results["total_seconds"], ".1f", " s"))]
    rows += [("peak memory", _shown(results.get("peak_memory_mb"), ",.0f", " MB"))]
    return _table(rows, ("time and memory", ""), "numbers")


def _options(options):
    if not options:
        return ""
    rows = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in options.items()]
    return f"<details><summary>Options of the run</summary>{_table(rows)}</details>"


def _metric(results):
    return str(results.get("metric", "score")).replace("_", " ")
