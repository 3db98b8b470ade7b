"""report.html: what a run gave, as one page with inline SVG and nothing fetched."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..config.errors import InputError
from ..files.model_files import read_json, replacing

WIDTH, HEIGHT, LOW = 760, 320, 200  # of a chart, and of the small one of firing rates, in pixels
LEFT, RIGHT, TOP, BOTTOM = 64, 160, 42, 46  # margins around the plot
TITLE, STAGE, TICK, AXIS, MIDDLE, BESIDE = 15, -9, 18, 38, 4, 9  # texts: from the chart's top, the plot, their middle
LINE_GAP, TICK_GAP, STAGE_GAP, RADIUS = 17, 30, 72, 3.5  # least distances of labels, ticks on x, stages; of a point
TICKS, STEPS, WIDE = 5, (1, 2, 5, 10), 1e3  # ticks wanted; their distances; a log axis this wide has powers of 10 only
LEAST_SPAN = 2.0  # percentage points of the score's axis, lest noise look like a trend
INKS = ("paper", "ink", "muted", "grid", "spiking", "equilibrium", "teacher")
LIGHT = dict(zip(INKS, ("#ffffff", "#1f2328", "#59636e", "#dde3e9", "#0969da", "#b34700", "#8250df"), strict=True))
DARK = dict(zip(INKS, ("#0d1117", "#e6edf3", "#9da7b1", "#2b323b", "#58a6ff", "#f0883e", "#bc8cff"), strict=True))
ROOTS = [":root {" + "".join(f" --{ink}: {colour};" for ink, colour in inks.items()) + " }" for inks in (LIGHT, DARK)]
CHART_STYLE = """
svg text { font: 12.5px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--muted) }
svg polyline { fill: none; stroke: var(--muted); stroke-width: 1.5; stroke-linejoin: round }
svg .title { fill: var(--ink); font-weight: 600 } svg .paper { fill: var(--paper) }
svg polyline.grid { stroke: var(--grid); stroke-width: 1 } svg .dashed { stroke-dasharray: 6 4 }
svg polyline.spiking { stroke: var(--spiking); stroke-width: 2 } svg .spiking:not(polyline) { fill: var(--spiking) }
svg polyline.equilibrium { stroke: var(--equilibrium) } svg text.equilibrium { fill: var(--equilibrium) }
svg polyline.teacher { stroke: var(--teacher) } svg text.teacher { fill: var(--teacher) }
"""
PAGE_STYLE = """
body { margin: 2rem auto; max-width: 820px; padding: 0 1.25rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif } :root { color-scheme: light dark }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 } h1, details td { overflow-wrap: anywhere }
p, summary, thead { color: var(--muted) } summary { cursor: pointer } p { margin: 0.4rem 0 1.4rem }
main { display: flex; flex-wrap: wrap; gap: 1.5rem 3.5rem; align-items: flex-start; margin-bottom: 2rem }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums }
th, td { padding: 0.25rem 0 0.25rem 1.2rem; border-bottom: 1px solid var(--grid); text-align: left; font-weight: 400 }
th:first-child { padding-left: 0 } main td, main th:not(:first-child) { text-align: right }
figure { margin: 1.5rem 0; overflow-x: auto; break-inside: avoid } svg { display: block; width: 100%; min-width: 540px }
@media print { body { margin: 0; max-width: none } svg { min-width: 0 } tr { break-inside: avoid } }
"""


def write_report(directory, results):
    """Write directory/report.html from `results` (evaluate_student's, and more) and the log and options found there."""
    directory = Path(directory)
    spiking = bool(_by_time_steps(results, "spiking") or _by_time_steps(results, "equilibrium_gap"))
    title = f"{'Spiking' if spiking else 'ANN'} student {directory.resolve().name} on {results.get('task')}"
    neurons = f"{results.get('drive')} drive, {results.get('spikes')} spikes" if spiking else "no spiking neurons"
    log = _stages(directory / "train_log.jsonl")
    scored = bool(_by_time_steps(results, "spiking"))
    charts = [_accuracy(results) if scored else "", _gap(results), _training(log, "loss", "training loss", HEIGHT)]
    charts += [_training(log, "mean_rate", "mean firing rate", LOW)] if spiking else []
    page = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<link rel="icon" href="data:,">',
        f'<meta name="viewport" content="width=device-width">\n<title>{_text(title)}</title>\n<style>\n{ROOTS[0]}',
        f"@media screen and (prefers-color-scheme: dark) {{ {ROOTS[1]} }}{PAGE_STYLE}{CHART_STYLE}</style>\n</head>",
        f"<body>\n<h1>{_text(title)}</h1>\n<p>{_text(neurons)}; {_text(results.get('examples'))} examples</p>",
        f"<main>{_scores(results)}{_costs(results)}</main>",
        *(f"<figure>{chart}</figure>" for chart in charts if chart),
        _silent(log),
        f"{_options(directory / 'training_args.json')}\n</body>\n</html>\n",
    ]
    with replacing(directory / "report.html") as temporary:
        temporary.write_text("\n".join(page), encoding="utf-8")


def accuracy_svg(results):
    """The score against the time steps as the text of an SVG file, on white: for a README."""
    style = CHART_STYLE
    for name, colour in LIGHT.items():  # not every viewer of SVG files knows variables
        style = style.replace(f"var(--{name})", colour)
    return _accuracy(results, f'<style>{style}</style><rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>')


def _text(value):
    """Any value as HTML or XML text; a character that neither can hold becomes a replacement character."""
    return escape("".join(c if c.isprintable() else "\ufffd" for c in str(value)))


def _is_number(value, above=-math.inf):
    return isinstance(value, (int, float)) and math.isfinite(value) and value > above


def _shown(value, form, unit=""):
    return f"{value:{form}}{unit}" if _is_number(value) else "–"


def _by_time_steps(results, key):
    """[(T, value)] in order of T."""
    return sorted((int(t), value) for t, value in (results.get(key) or {}).items() if _is_number(value))


def _stages(path):
    """{stage: (updates before it, [(update of the run, line)])} of train_log.jsonl; a line cut short is left out."""
    stages, end = {}, 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
            step, (before, lines) = int(line["step"]), stages.setdefault(line["stage"], (end, []))
        except (ValueError, TypeError, KeyError, OverflowError):
            continue
        lines.append((before + step, line))
        end = max(end, before + step)
    return stages


def _table(rows, head):
    """A row's first cell names it."""
    rows = [f"<tr><th>{_text(row[0])}</th>{''.join(f'<td>{_text(c)}</td>' for c in row[1:])}</tr>\n" for row in rows]
    return f"<table><thead><tr>{''.join(f'<th>{_text(c)}</th>' for c in head)}</tr></thead>\n{''.join(rows)}</table>\n"


def _scores(results):
    scores, gaps = _by_time_steps(results, "spiking"), dict(_by_time_steps(results, "equilibrium_gap"))
    rates = {t: results.get("spiking_mean_rate") for t, _ in scores[-1:]}  # was measured over the longest run
    student = "student at equilibrium" if scores else "student"
    rows = [("teacher", results.get("teacher"), None, None)]
    rows += [(student, results.get("equilibrium"), None, results.get("mean_rate"))]
    rows += [(f"spiking, T = {t}", value, gaps.get(t), rates.get(t)) for t, value in scores]
    rows = [(n, f"{100 * v:.2f} %", _shown(gap, ".4f"), _shown(r, ".4f")) for n, v, gap, r in rows if _is_number(v)]
    head = ("", results.get("metric"), "equilibrium gap", "mean firing rate")
    return _table(rows, head) if scores else _table([row[:2] for row in rows], head[:2])


def _costs(results):
    rows = [(f"training, {name}", stage.get("seconds")) for name, stage in (results.get("training") or {}).items()]
    rows += [("evaluation", results.get("seconds")), ("whole run", results.get("total_seconds"))]
    memory = ("peak memory", _shown(results.get("peak_memory_mb"), ",.0f", " MB"))
    return _table([(n, _shown(v, ",.1f", " s")) for n, v in rows if v is not None] + [memory], ("", "cost"))


def _silent(stages):
    """A table of dead and saturated neurons as the log's last line has them."""
    lines = [line for _, rows in stages.values() for _, line in rows]
    kinds = [lines[-1].get(kind) for kind in ("dead", "saturated")] if lines else []
    if not kinds or not all(isinstance(shares, dict) for shares in kinds):
        return ""
    percent = lambda v: f"{100 * v:.1f} %" if _is_number(v) else "–"  # noqa: E731
    rows = [(name, *(percent(shares.get(name)) for shares in kinds)) for name in kinds[0]]
    head = ("population", "dead", "saturated")
    return f"<details><summary>Dead and saturated neurons at the end</summary>\n{_table(rows, head)}</details>"


def _options(path):
    try:
        rows = [(n, v if isinstance(v, str) else json.dumps(v)) for n, v in read_json(path).items()]
    except InputError:  # none recorded, or not readable
        return ""
    return f"<details><summary>Options of the run</summary>\n{_table(rows, ('option', 'value'))}</details>"


def _accuracy(results, background=""):
    scores = [(t, 100 * v) for t, v in _by_time_steps(results, "spiking")]
    known = [(k, 100 * results[k]) for k in ("teacher", "equilibrium") if _is_number(results.get(k))]
    values = [v for _, v in scores + known] or [0.0]
    spare = max(0.0, LEAST_SPAN - (max(values) - min(values))) / 2
    ticks = _ticks(min(values) - spare, max(*values, min(max(values) + spare, 100)))
    lines = [(kind, f"{kind} {v:.2f} %", v, v) for kind, v in known]
    title = f"{results.get('task')}: {results.get('metric')} in percent"
    return _over_time(title, scores, "spiking {:.2f} %", ticks, float, lines, background)


def _gap(results):
    gaps = [(t, v) for t, v in _by_time_steps(results, "equilibrium_gap") if v > 0]
    if not gaps:
        return ""
    (first, start), (last, _) = gaps[0], gaps[-1]
    values = [start * first / last, *(v for _, v in gaps)]
    guide = [("dashed", "falling as 1/T", start, values[0])] if last > first else []
    return _over_time("equilibrium gap", gaps, "gap {:.4g}", _log_ticks(min(values), max(values)), math.log, guide)


def _over_time(title, points, form, ticks, scale, lines, background=""):
    """A chart of points (T, value), and of lines (kind, label, value at the left end, value at the right end)."""
    steps = [t for t, _ in points] or [1]
    ends = (steps[0], steps[-1]) if len(steps) > 1 else (steps[0] / 2, steps[0] * 2)  # a single T lies in the middle
    x, y = _axis(ends, LEFT, WIDTH - RIGHT, math.log), _axis(ticks, HEIGHT - BOTTOM, TOP, scale)
    marks = [_line(kind, (LEFT, y(left)), (WIDTH - RIGHT, y(right))) for kind, _, left, right in lines]
    labels = [(y(right), kind, label) for kind, label, _, right in lines]
    labels += [(y(v), "spiking", form.format(v)) for _, v in points[-1:]]
    marks += [_line("spiking", *((x(t), y(v)) for t, v in points))]
    marks += [_dot(x(t), y(v), f"T = {t}: {form.format(v)}") for t, v in points]
    axes = _Axes(x, steps if points else [], y, ticks)
    return _chart(title, "time steps T", axes, marks, labels, background=background)


def _training(stages, key, title, height):
    """A value of the log against the updates of all stages; the loss on a log axis."""
    scale, low = (math.log, 0) if key == "loss" else (float, -math.inf)
    series = [[(step, row[key]) for step, row in rows if _is_number(row.get(key), low)] for _, rows in stages.values()]
    values = [v for points in series for _, v in points]
    if not values:
        return ""
    total = max(step for _, rows in stages.values() for step, _ in rows) or 1
    ticks = _log_ticks(min(values), max(values)) if low == 0 else _ticks(min(0, *values), max(values) or 1)
    x, y = _axis((0, total), LEFT, WIDTH - RIGHT), _axis(ticks, height - BOTTOM, TOP, scale)
    starts = [x(before) for before, _ in stages.values()]
    places = zip(_apart(starts, STAGE_GAP, WIDTH - STAGE_GAP), stages, strict=True)
    marks = [_words(place, TOP + STAGE, name) for place, name in places]
    marks += [_line("dashed", (start, TOP), (start, height - BOTTOM)) for start in starts[1:]]
    marks += [_line("spiking", *((x(step), y(v)) for step, v in points)) for points in series]
    marks += [_dot(x(step), y(v), f"{v:.4g}") for points in series for step, v in points[-1:]]
    labels = [(y(values[-1]), "spiking", f"{values[-1]:.4g}")]
    axes = _Axes(x, [t for t in _ticks(0, total) if t <= total], y, ticks)
    return _chart(title, "updates", axes, marks, labels, height)


def _axis(ticks, start, stop, scale=float):
    """value -> pixel: the first of the ticks lies at start, the last at stop."""
    low, high = scale(ticks[0]), scale(ticks[-1])
    return lambda value: start + (scale(value) - low) / (high - low) * (stop - start)


def _ticks(low, high):
    """Evenly spaced round numbers around low .. high."""
    wanted = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(wanted))
    step = next(s * power for s in STEPS if s * power >= wanted)
    return [i * step for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _log_ticks(low, high):
    """Round numbers around low .. high, some below and some above both."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    ticks = [s * 10.0**p for p in powers for s in (STEPS[:1] if high / low > WIDE else STEPS[:-1])]
    return ticks[sum(t < low for t in ticks) - 1 : sum(t <= high for t in ticks) + 1]


def _apart(places, least, high):
    """The places moved until they are `least` apart: onwards, or back from `high`."""
    order, moved = sorted(range(len(places)), key=places.__getitem__), list(places)
    for before, here in zip(order, order[1:], strict=False):
        moved[here] = max(moved[here], moved[before] + least)
    for here in reversed(order):
        moved[here], high = min(moved[here], high), min(moved[here], high) - least
    return moved


def _words(x, y, text, kind="", anchor="start"):
    return f'<text class="{kind}" x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}">{_text(text)}</text>'


def _line(kind, *points):
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.2f},{y:.2f}" for x, y in points)}"/>'


def _dot(x, y, text):
    return f'<circle class="spiking" cx="{x:.2f}" cy="{y:.2f}" r="{RADIUS}"><title>{_text(text)}</title></circle>'


@dataclass(frozen=True)
class _Axes:
    """x, y: value -> pixel, each with its ticks."""

    x: Callable
    x_ticks: list
    y: Callable
    y_ticks: list


def _chart(title, x_label, axes, marks, labels, height=HEIGHT, background=""):
    """An SVG of marks within _Axes; labels (y, kind, text) stand right of the plot."""
    x, y = axes.x, axes.y
    bottom, right, last = height - BOTTOM, WIDTH - RIGHT, -math.inf
    parts = [background, _words(LEFT, TITLE, title, "title")]
    parts += [_words((LEFT + right) / 2, bottom + AXIS, x_label, anchor="middle")]
    for tick, at in ((tick, y(tick)) for tick in axes.y_ticks):
        parts += [_line("grid", (LEFT, at), (right, at)), _words(LEFT - BESIDE, at + MIDDLE, f"{tick:g}", anchor="end")]
    for tick in axes.x_ticks:
        if x(tick) - last >= TICK_GAP:
            last = x(tick)
            parts.append(_words(last, bottom + TICK, f"{tick:g}", anchor="middle"))
    for place, (_, kind, text) in zip(_apart([label[0] for label in labels], LINE_GAP, bottom), labels, strict=True):
        parts.append(_words(right + BESIDE, place + MIDDLE, text, kind))
    size = f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{_text(title)}"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', *parts, *marks, "</svg>\n"])
