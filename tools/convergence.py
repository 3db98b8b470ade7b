"""How simulated rates approach the equilibrium under either drive: a table, with --svg the picture of docs/method.md.

    python tools/convergence.py [--model DIR] [--svg docs/convergence.svg] [--json tools/results/convergence.json]

The equilibrium gap, mean |average spiking rate - equilibrium| of the last encoder's output neurons, on the first texts
of the bundled dev file, for each way in WAYS to drive the neurons of one and the same student. A student of signed
spikes has another equilibrium: its neurons are driven in the same ways, but for the corrective one. One of shift
operators has the differential drive alone.
"""

import math
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

from runs import piped, told

from nanospike.arrays.workers import Workers
from nanospike.config.errors import InputError
from nanospike.config.options import option, parse, require_at_least
from nanospike.data.tasks import find_task, read_split
from nanospike.data.text import encode
from nanospike.data.tokenizer import load_tokenizer
from nanospike.files.bundled import bundled
from nanospike.files.model_files import write_json
from nanospike.model.loading import load_student
from nanospike.model.simulate import SpikingRun
from nanospike.results.inference import run_student
from nanospike.start import command

WAYS = {  # name: (drive, spikes, membranes at the start as a fraction of the threshold)
    "instant, from 0 (as published)": ("instant", "binary", 0.0),
    "instant, from v_th / 2": ("instant", "binary", 0.5),
    "differential": ("differential", "binary", 0.5),
    "differential, corrective spikes": ("differential", "corrective", 0.5),
}
COLOURS = ("#8250df", "#b34700", "#0969da", "#1a7f37")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 340, 64, 250, 42, 46  # of the picture and its margins, in pixels
LINE_GAP = 17  # least distance of two labels
STYLE = 'font: 12.5px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'


@dataclass(frozen=True, kw_only=True)
class Convergence:
    """Measure the equilibrium gap of a student without a loop against the number of time steps, for each drive."""

    model: Path | None = option("directory of a student; without one, the bundled student", None)
    examples: int = option("texts of the bundled dev file, from its beginning", 32)
    time_steps: tuple[int, ...] = option("time steps at which the gap is measured", tuple(2**n for n in range(9)))
    svg: Path | None = option("file to draw the picture in", None)
    json: Path | None = option("file to write the gaps to", None)

    def __post_init__(self):
        require_at_least(self, examples=1, time_steps=1)


def gaps(student, data, time_steps):
    """{way: {time step: equilibrium gap}} of the ways that the student's spikes allow."""
    if student.config.activation == "ann":
        raise InputError(f"--model {student.directory}: an ordinary BERT: it has no spiking rates")
    found, signed = {}, student.config.spikes == "signed"
    for way, (drive, spikes, initial) in WAYS.items():
        if (signed and spikes == "corrective") or (student.config.shifts and drive == "instant"):
            continue
        how = SpikingRun(drive=drive, spikes="signed" if signed else spikes, initial=initial)
        _, facts = run_student(student, data, time_steps, how, workers=Workers(0))
        found[way] = {int(t): gap for t, gap in facts["equilibrium_gap"].items()}
    return found


def picture(found):
    """The text of an SVG file: the gaps of each way against T, both axes logarithmic, and a line that falls as 1/T."""
    steps = sorted(next(iter(found.values())))
    values = [gap for line in found.values() for gap in line.values()]
    low, high = (
        10.0 ** round_to(math.log10(v)) for v, round_to in ((min(values), math.floor), (max(values), math.ceil))
    )
    x = _axis(steps[0], max(steps[-1], 2 * steps[0]), LEFT, WIDTH - RIGHT)
    y = _axis(low, high, HEIGHT - BOTTOM, TOP)
    marks = [_words(LEFT, 16, "equilibrium gap: mean |average spiking rate - equilibrium|", "font-weight='600'")]
    marks += [_words((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "time steps T", "text-anchor='middle'")]
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        level = y(10.0**power)
        marks += [_line([(LEFT, level), (WIDTH - RIGHT, level)], "#dde3e9")]
        marks += [_words(LEFT - 9, level + 4, f"{10.0**power:g}", "text-anchor='end'")]
    marks += [_words(x(t), HEIGHT - BOTTOM + 18, t, "text-anchor='middle'") for t in steps]
    first = max(line[steps[0]] for line in found.values())
    guide = [(t, first * steps[0] / t) for t in (steps[0], min(steps[-1], steps[0] * first / low))]
    marks += [_line([(x(t), y(v)) for t, v in guide], "#59636e", "stroke-dasharray='6 4'")]
    labels = [(y(guide[-1][1]), "#59636e", "falling as 1/T")]
    for (way, line), colour in zip(found.items(), COLOURS, strict=False):
        marks += [_line([(x(t), y(line[t])) for t in steps], colour)]
        labels += [(y(line[steps[-1]]), colour, f"{way} {line[steps[-1]]:.3f}")]
    place = -math.inf
    for level, colour, text in sorted(labels):
        place = max(level, place + LINE_GAP)
        marks.append(_words(WIDTH - RIGHT + 9, place + 4, text, f"fill='{colour}'"))
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' style='{escape(STYLE)}'>"
    return "\n".join([head, f"<rect width='{WIDTH}' height='{HEIGHT}' fill='#ffffff'/>", *marks, "</svg>\n"])


def _axis(low, high, start, stop):
    """value -> pixel on a logarithmic axis from low at `start` to high at `stop`."""
    return lambda value: start + math.log(value / low) / math.log(high / low) * (stop - start)


def _words(x, y, text, style=""):
    return f"<text x='{x:.1f}' y='{y:.1f}' {style}>{escape(str(text))}</text>"


def _line(points, colour, style=""):
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f"<polyline points='{places}' fill='none' stroke='{colour}' stroke-width='1.75' {style}/>"


def main(argv=None):
    options = parse(Convergence, argv, prog="python tools/convergence.py")
    student = load_student(options.model or bundled("student"))
    examples = read_split(find_task("opinions"), bundled("text"), "dev")
    data = encode(load_tokenizer(student.directory), examples.texts[: options.examples], 128)
    found = gaps(student, data, options.time_steps)
    steps = sorted(options.time_steps)
    lines = [["equilibrium gap at T =", *map(str, steps)]]
    lines += [[way, *(f"{line[t]:.4f}" for t in steps)] for way, line in found.items()]
    print(piped(lines))
    if options.json:
        kept = {name: value for name, value in told(options).items() if name != "svg"}
        write_json(options.json, {"options": kept, "equilibrium_gap": found})
    if options.svg:
        options.svg.write_text(picture(found), encoding="utf-8")


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
