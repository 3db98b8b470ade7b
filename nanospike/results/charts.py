"""Charts of a report over time steps, over updates, and of score against energy."""

import math

from .drawing import (
    BESIDE,
    BOTTOM,
    HEIGHT,
    LEFT,
    MIDDLE,
    NOTHING,
    RADIUS,
    RIGHT,
    STAGE,
    TOP,
    WIDTH,
    Axes,
    Picture,
    apart,
    axis,
    box,
    by_time_steps,
    chart,
    dot,
    is_number,
    line,
    log_ticks,
    ticks,
    words,
)

STAGE_GAP = 72  # least distance of the names of stages
LEAST_SPAN = 2.0  # percentage points of the score's axis, lest noise look like a trend
ACCOUNTS = (("sop_pj", "spiking", "operations alone"), ("memory_pj", "equilibrium", "with memory"))
RIVALS = (("ann", "ordinary BERT"), ("ann_int8", "int8 BERT"))


def accuracy(results):
    """The score against the time steps."""
    scores = [(t, 100 * v) for t, v in by_time_steps(results, "spiking")]
    known = [(k, 100 * results[k]) for k in ("teacher", "equilibrium") if is_number(results.get(k))]
    lines = [(kind, f"{kind} {v:.2f} %", v, v) for kind, v in known]
    title = f"{results.get('task')}: {results.get('metric')} in percent"
    spread = score_ticks([v for _, v in scores + known])
    svg = over_time(title, scores, "spiking {:.2f} %", spread, lines)
    return Picture(svg, [("time steps", "score"), *scores, *known])


def score_ticks(values):
    values = values or [0.0]
    spare = max(0.0, LEAST_SPAN - (max(values) - min(values))) / 2
    return ticks(min(values) - spare, max(*values, min(max(values) + spare, 100)))


def gap(results):
    """The equilibrium gap of the last population against the time steps."""
    gaps = [(t, v) for t, v in by_time_steps(results, "equilibrium_gap") if v > 0]
    if not gaps:
        return NOTHING
    (first, start), (last, _) = gaps[0], gaps[-1]
    values = [start * first / last, *(v for _, v in gaps)]
    guide = [("dashed", "falling as 1/T", start, values[0])] if last > first else []
    spread = log_ticks(min(values), max(values))
    svg = over_time("equilibrium gap", gaps, "gap {:.4g}", spread, guide, math.log)
    return Picture(svg, [("time steps", "gap"), *gaps])


def over_time(title, points, form, y_ticks, lines, scale=float):
    """A chart of points (T, value), and of lines (kind, label, value at the left end, value at the right end)."""
    steps = [t for t, _ in points] or [1]
    ends = (steps[0], steps[-1]) if len(steps) > 1 else (steps[0] / 2, steps[0] * 2)  # a single T lies in the middle
    x, y = axis(ends, LEFT, WIDTH - RIGHT, math.log), axis(y_ticks, HEIGHT - BOTTOM, TOP, scale)
    marks = [line(kind, (LEFT, y(left)), (WIDTH - RIGHT, y(right))) for kind, _, left, right in lines]
    labels = [(y(right), kind, label) for kind, label, _, right in lines]
    labels += [(y(v), "spiking", form.format(v)) for _, v in points[-1:]]
    marks += [line("spiking", *((x(t), y(v)) for t, v in points))]
    marks += [dot(x(t), y(v), f"T = {t}: {form.format(v)}") for t, v in points]
    return chart(title, "time steps T", Axes(x, steps if points else [], y, y_ticks), marks, labels)


def training(stages, key, title, height):
    """A value of the log against the updates of all stages; the loss on a log axis."""
    scale, low = (math.log, 0) if key == "loss" else (float, -math.inf)
    series = [[(step, row[key]) for step, row in rows if is_number(row.get(key), low)] for _, rows in stages.values()]
    values = [v for points in series for _, v in points]
    if not values:
        return NOTHING
    total = max(step for _, rows in stages.values() for step, _ in rows) or 1
    y_ticks = log_ticks(min(values), max(values)) if low == 0 else ticks(min(0, *values), max(values) or 1)
    x, y = axis((0, total), LEFT, WIDTH - RIGHT), axis(y_ticks, height - BOTTOM, TOP, scale)
    starts = [x(before) for before, _ in stages.values()]
    places = zip(apart(starts, STAGE_GAP, WIDTH - STAGE_GAP), stages, strict=True)
    marks = [words(place, TOP + STAGE, name) for place, name in places]
    marks += [line("dashed", (start, TOP), (start, height - BOTTOM)) for start in starts[1:]]
    marks += [line("spiking", *((x(step), y(v)) for step, v in points)) for points in series]
    marks += [dot(x(step), y(v), f"{v:.4g}") for points in series for step, v in points[-1:]]
    labels = [(y(values[-1]), "spiking", f"{values[-1]:.4g}")]
    axes = Axes(x, [t for t in ticks(0, total) if t <= total], y, y_ticks)
    rows = [("stage", "update", key)]
    rows += [(name, step, v) for name, points in zip(stages, series, strict=True) for step, v in points]
    return Picture(chart(title, "updates", axes, marks, labels, height), rows)


def tradeoff(costs):
    """Score against energy per text, a curve over T for each accounting; ordinary BERTs as points, or as lines at their
    energy where their score is not known. costs: energy.json.
    """
    students = [(int(t), row) for t, row in costs["time_steps"].items() if is_number(row.get("accuracy"))]
    if not students:
        return NOTHING
    rivals = [(name, costs[key]) for key, name in (*RIVALS, ("teacher", "teacher")) if costs.get(key)]
    every = [row for _, row in (*students, *rivals)]
    energies = [row[key] / 1e6 for row in every for key, *_ in ACCOUNTS]
    scores = [100 * row["accuracy"] for row in every if is_number(row.get("accuracy"))]
    x_ticks, y_ticks = log_ticks(min(energies), max(energies)), score_ticks(scores)
    x, y = axis(x_ticks, LEFT, WIDTH - RIGHT, math.log), axis(y_ticks, HEIGHT - BOTTOM, TOP)
    marks, labels = [], []
    for key, kind, label in ACCOUNTS:
        points = [(x(row[key] / 1e6), y(100 * row["accuracy"]), t, row) for t, row in students]
        marks.append(line(kind, *((a, b) for a, b, *_ in points)))
        for a, b, t, row in points:
            marks.append(dot(a, b, f"T = {t}: {100 * row['accuracy']:.2f} %, {row[key] / 1e6:.4g} µJ {label}", kind))
            marks.append(words(a - 5, b - 5, t, f"small {kind}", "end"))
        labels.append((points[-1][1], kind, label))
        for place, (name, row) in enumerate(rivals):
            marks += _rival(name, row, x(row[key] / 1e6), y, (kind, place, label))
    title = (
        f"{costs['task']}: {costs['metric']} in percent against energy, at T = {', '.join(str(t) for t, _ in students)}"
    )
    rows = [("model", "T", "score", "sop_uj", "memory_uj")]
    rows += [("student", t, row["accuracy"], row["sop_pj"] / 1e6, row["memory_pj"] / 1e6) for t, row in students]
    rows += [(name, "", row.get("accuracy"), row["sop_pj"] / 1e6, row["memory_pj"] / 1e6) for name, row in rivals]
    return Picture(chart(title, "energy per text in µJ", Axes(x, x_ticks, y, y_ticks), marks, labels), rows)


def _rival(name, row, x, y, series):
    """An ordinary BERT in one accounting; series: (kind, its place in the list, the accounting's name)."""
    kind, place, label = series
    energy = f"{name}, {label}"
    if is_number(row.get("accuracy")):
        at = y(100 * row["accuracy"])
        side = 2 * RADIUS
        mark = box("teacher" if name == "teacher" else kind, x - RADIUS, at - RADIUS, side, side, energy)
        return [mark, words(x + BESIDE, at + MIDDLE, name, "small")]
    top = TOP + 14 * place + 10
    return [
        line(f"dashed {kind}", (x, top + MIDDLE), (x, HEIGHT - BOTTOM)),
        words(x, top, name, f"small {kind}", "middle"),
    ]
