"""Pictures of all populations at once: their gaps against T, their rates, and the audit as a bar."""

import math

from ..model.operations import KINDS
from .audit import MEANS, by_kind
from .drawing import MIDDLE, NOTHING, TICK, TOP, WIDTH, Picture, box, canvas, is_number, words

NAMES = 190  # width of the names of populations
ROW, BAR = 19, 13  # height of a row, and of a bar in it
INKS = {"spike-driven": "spiking", "shift": "shift", "constant": "constant", "float": "equilibrium"}
FAINTEST = 0.05  # opacity of a cell


def gap_map(gaps, over="all texts"):
    """The equilibrium gap of each population after T steps, stronger where it is larger.   {population: {T: gap}}"""
    steps = list(next(iter(gaps.values()), {}))
    if not steps:
        return NOTHING
    sizes = [v for row in gaps.values() for v in row.values() if v > 0]
    low, high = math.log(min(sizes, default=1)), math.log(max(sizes, default=1))
    cell = (WIDTH - NAMES) / len(steps)
    parts = [words(NAMES + (j + 0.5) * cell, TOP - 8, f"T = {t}", anchor="middle") for j, t in enumerate(steps)]
    for i, (name, row) in enumerate(gaps.items()):
        at = TOP + i * ROW
        parts.append(words(NAMES - 10, at + BAR, name, "small", "end"))
        for j, value in enumerate(row.values()):
            share = (math.log(value) - low) / (high - low) if value > 0 and high > low else 0.0
            parts.append(box("spiking", NAMES + j * cell, at, cell - 2, ROW - 2, opacity=FAINTEST + 0.45 * share))
            parts.append(words(NAMES + (j + 0.5) * cell, at + BAR, f"{value:.4f}", "small ink", "middle"))
    title = f"equilibrium gap of every population, mean |rate after T steps - equilibrium|, over {over}"
    rows = [("population", *(f"T = {t}" for t in steps)), *((name, *row.values()) for name, row in gaps.items())]
    return Picture(canvas(title, TOP + len(gaps) * ROW + 4, parts), rows)


def rate_bars(rates, over="all texts"):
    """Rates, and shares of dead and saturated neurons.   {population: {rate, dead, saturated}}"""
    rates = {n: r for n, r in rates.items() if isinstance(r, dict) and all(is_number(v) for v in r.values())}
    if not rates:
        return NOTHING
    wide = (WIDTH - NAMES) / 2 - 80
    second = NAMES + wide + 90
    most = max((r["rate"] for r in rates.values()), default=0) or 1
    parts = [words(NAMES, TOP - 8, "spikes per neuron and step"), words(second, TOP - 8, "dead,")]
    parts += [words(second + 36, TOP - 8, "saturated neurons", "equilibrium")]
    for i, (name, row) in enumerate(rates.items()):
        at, dead, full = TOP + i * ROW, row["dead"], row["saturated"]
        parts.append(words(NAMES - 10, at + BAR - 2, name, "small", "end"))
        parts.append(box("spiking", NAMES, at, wide * row["rate"] / most, BAR))
        parts.append(words(NAMES + wide * row["rate"] / most + 6, at + BAR - 2, f"{row['rate']:.3f}", "small"))
        parts.append(box("grey", second, at, wide * dead, BAR))
        parts.append(box("equilibrium", second + wide * dead, at, wide * full, BAR))
        share = f"{100 * dead:.1f} %, {100 * full:.1f} %"
        parts.append(words(second + wide * (dead + full) + 6, at + BAR - 2, share, "small"))
    rows = [("population", "rate", "dead", "saturated")]
    rows += [(name, row["rate"], row["dead"], row["saturated"]) for name, row in rates.items()]
    return Picture(canvas(f"rates at equilibrium, over {over}", TOP + len(rates) * ROW + 4, parts), rows)


def audit_bar(costs):
    """The operations of one inference by kind, as one bar. costs: energy.json."""
    rows, t = costs.get("audit") or [], costs.get("audit_time_steps")
    if not rows:
        return NOTHING
    kinds, parts, x = by_kind(rows), [], 0.0
    for i, kind in enumerate(KINDS):
        count, share, _ = kinds[kind]
        parts.append(box(INKS[kind], x, TOP - 14, WIDTH * share, 2 * BAR, f"{kind}: {count:,.0f}"))
        x += WIDTH * share
        at = TOP + 2 * BAR + i * ROW + MIDDLE
        parts.append(box(INKS[kind], 0, at - 9, 11, 11))
        parts.append(words(TICK, at, f"{kind} {100 * share:.1f} %", "ink"))
        parts.append(words(NAMES, at, f"{count:,.0f} operations: {MEANS[kind]}"))
    title = f"audit: what one text takes in {t} time steps ({costs.get('words')})"
    data = [("operation", "kind", "count", "share", "pj")]
    data += [tuple(row[key] for key in data[0]) for row in rows]
    return Picture(canvas(title, TOP + 2 * BAR + len(KINDS) * ROW, parts), data)
