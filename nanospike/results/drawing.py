"""What the pictures of a report are drawn with: colours, axes, ticks, lines and words of inline SVG."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT, LOW = 760, 320, 200  # of a chart, and of the small one of firing rates, in pixels
LEFT, RIGHT, TOP, BOTTOM = 64, 160, 42, 46  # margins around the plot
TITLE, STAGE, TICK, AXIS, MIDDLE, BESIDE = 15, -9, 18, 38, 4, 9  # texts: from the chart's top, the plot, their middle
LINE_GAP, TICK_GAP, RADIUS = 17, 30, 3.5  # least distances of labels, of ticks on x; of a point
TICKS, STEPS, WIDE = 5, (1, 2, 5, 10), 1e3  # ticks wanted; their distances; a log axis this wide has powers of 10 only
INKS = ("paper", "ink", "muted", "grid", "spiking", "equilibrium", "teacher", "shift", "constant")
LIGHT = ("#ffffff", "#1f2328", "#59636e", "#dde3e9", "#0969da", "#b34700", "#8250df", "#1a7f37", "#9a6700")
DARK = ("#0d1117", "#e6edf3", "#9da7b1", "#2b323b", "#58a6ff", "#f0883e", "#bc8cff", "#3fb950", "#d29922")
LIGHT, DARK = dict(zip(INKS, LIGHT, strict=True)), dict(zip(INKS, DARK, strict=True))
ROOTS = [":root {" + "".join(f" --{ink}: {colour};" for ink, colour in inks.items()) + " }" for inks in (LIGHT, DARK)]
CHART_STYLE = """
svg text { font: 12.5px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--muted) }
svg polyline { fill: none; stroke: var(--muted); stroke-width: 1.5; stroke-linejoin: round }
svg .title { fill: var(--ink); font-weight: 600 } svg .paper { fill: var(--paper) }
svg text.small { font-size: 11px } svg text.ink { fill: var(--ink) }
svg polyline.grid { stroke: var(--grid); stroke-width: 1 } svg .dashed { stroke-dasharray: 6 4 }
svg polyline.spiking { stroke-width: 2 } svg path.spiking, svg path.equilibrium { fill: none; stroke-width: 1 }
"""
for _ink in INKS[4:]:
    CHART_STYLE += f"svg .{_ink} {{ stroke: var(--{_ink}) }} svg text.{_ink}, svg rect.{_ink}, svg circle.{_ink} "
    CHART_STYLE += f"{{ fill: var(--{_ink}); stroke: none }}\n"
CHART_STYLE += "svg .grey { fill: var(--muted) } svg .grid-fill { fill: var(--grid); fill-opacity: 0.35 }\n"


@dataclass(frozen=True)
class Picture:
    """An SVG, and its data as rows of a CSV file, the names of the columns first."""

    svg: str
    rows: list = field(default_factory=list)

    def __bool__(self):
        return bool(self.svg)


NOTHING = Picture("")


def text_of(value):
    """Any value as HTML or XML text; a character that neither can hold becomes a replacement character."""
    return escape("".join(c if c.isprintable() else "\ufffd" for c in str(value)))


def is_number(value, above=-math.inf):
    return isinstance(value, (int, float)) and math.isfinite(value) and value > above


def by_time_steps(results, key):
    """[(T, value)] in order of T."""
    return sorted((int(t), value) for t, value in (results.get(key) or {}).items() if is_number(value))


def axis(ticks, start, stop, scale=float):
    """value -> pixel: the first of the ticks lies at start, the last at stop."""
    low, high = scale(ticks[0]), scale(ticks[-1])
    return lambda value: start + (scale(value) - low) / (high - low) * (stop - start)


def ticks(low, high):
    """Evenly spaced round numbers around low .. high."""
    wanted = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(wanted))
    step = next(s * power for s in STEPS if s * power >= wanted)
    return [i * step for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def log_ticks(low, high):
    """Round numbers around low .. high, some below and some above both."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    ticks = [s * 10.0**p for p in powers for s in (STEPS[:1] if high / low > WIDE else STEPS[:-1])]
    return ticks[sum(t < low for t in ticks) - 1 : sum(t <= high for t in ticks) + 1]


def apart(places, least, high):
    """The places moved until they are `least` apart: onwards, or back from `high`."""
    order, moved = sorted(range(len(places)), key=places.__getitem__), list(places)
    for before, here in zip(order, order[1:], strict=False):
        moved[here] = max(moved[here], moved[before] + least)
    for here in reversed(order):
        moved[here], high = min(moved[here], high), min(moved[here], high) - least
    return moved


def words(x, y, text, kind="", anchor="start"):
    return f'<text class="{kind}" x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}">{text_of(text)}</text>'


def line(kind, *points):
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.2f},{y:.2f}" for x, y in points)}"/>'


def dot(x, y, text, kind="spiking"):
    return f'<circle class="{kind}" cx="{x:.2f}" cy="{y:.2f}" r="{RADIUS}"><title>{text_of(text)}</title></circle>'


def box(kind, x, y, width, height, title="", opacity=None):
    """A filled rectangle; its title shows where a pointer rests on it."""
    faint = "" if opacity is None else f' fill-opacity="{opacity:.3f}"'
    inner = f"><title>{text_of(title)}</title></rect>" if title else "/>"
    return f'<rect class="{kind}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"{faint}{inner}'


def canvas(title, height, parts, width=WIDTH):
    """An SVG of `parts` under a title."""
    size = f'viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{text_of(title)}"'
    body = "\n".join([words(0, TITLE, title, "title"), *parts])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{body}\n</svg>\n'


def standalone(svg):
    """The text of an SVG file, on white, that needs no style sheet: not every viewer knows variables."""
    style = CHART_STYLE
    for name, colour in LIGHT.items():
        style = style.replace(f"var(--{name})", colour)
    head, end, rest = svg.partition(">")
    width, height = head.partition('viewBox="0 0 ')[2].partition('"')[0].split()
    return f'{head}{end}\n<style>{style}</style><rect class="paper" width="{width}" height="{height}"/>{rest}'


@dataclass(frozen=True)
class Axes:
    """x, y: value -> pixel, each with its ticks."""

    x: Callable
    x_ticks: list
    y: Callable
    y_ticks: list


def chart(title, x_label, axes, marks, labels, height=HEIGHT):
    """An SVG of marks within Axes; labels (y, kind, text) stand right of the plot."""
    x, y = axes.x, axes.y
    bottom, right, last = height - BOTTOM, WIDTH - RIGHT, -math.inf
    parts = [words(LEFT, TITLE, title, "title")]
    parts += [words((LEFT + right) / 2, bottom + AXIS, x_label, anchor="middle")]
    for tick, at in ((tick, y(tick)) for tick in axes.y_ticks):
        parts += [line("grid", (LEFT, at), (right, at)), words(LEFT - BESIDE, at + MIDDLE, f"{tick:g}", anchor="end")]
    for tick in axes.x_ticks:
        if x(tick) - last >= TICK_GAP:
            last = x(tick)
            parts.append(words(last, bottom + TICK, f"{tick:g}", anchor="middle"))
    for place, (_, kind, text) in zip(apart([label[0] for label in labels], LINE_GAP, bottom), labels, strict=True):
        parts.append(words(right + BESIDE, place + MIDDLE, text, kind))
    size = f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{text_of(title)}"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', *parts, *marks, "</svg>\n"])
