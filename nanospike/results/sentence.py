"""Pictures of one sentence: its spikes, token by token, and where the last encoder of teacher and student looks."""

import numpy as np

from .drawing import MIDDLE, TOP, WIDTH, Picture, box, canvas, text_of, words

SIDE = 44  # left and right of a raster, for the words beside it
TOKENS = 48  # that are drawn at most
MOST = 96  # neurons that are drawn; of more, some that are evenly spread over the order by rate
NEURON = 3  # height of one
UNDER = 74  # for the words under a picture, which are turned
GAP = 3  # between tokens
NAMES = 92  # for the words beside a map of attention
FEWEST = 26  # tokens beside which a map has words of full size


def raster(look):
    """Spikes: tokens from left to right, time steps within each, neurons by rate from top to bottom."""
    steps, every, width = look.spikes.shape
    length = min(every, TOKENS)
    spikes, tokens = look.spikes[:, :length], look.tokens[:length]
    order = np.argsort(-np.abs(look.spikes.astype(int)).sum(axis=(0, 1)), kind="stable")
    shown = order[np.arange(min(width, MOST)) * width // min(width, MOST)]
    cell = (WIDTH - SIDE) / length
    step = (cell - GAP) / steps
    bottom = TOP + len(shown) * NEURON
    parts = [box("grid-fill", SIDE + i * cell, TOP, cell - GAP, bottom - TOP) for i in range(length)]
    scale = f"translate({SIDE} {TOP}) scale({step:.4f} {NEURON})"  # a mark is a step wide and a neuron high
    for kind, sign in (("spiking", 1), ("equilibrium", -1)):
        marks = [
            f"M{i * (steps + GAP / step) + t:.4g} {n}.5h.9"
            for n, neuron in enumerate(shown)
            for t, i in np.argwhere(spikes[:, :, neuron] == sign)
        ]
        parts.append(f'<path class="{kind}" transform="{scale}" style="stroke-width:0.8" d="{"".join(marks)}"/>')
    parts += [turned(SIDE + (i + 0.5) * cell, bottom + 10, token) for i, token in enumerate(tokens)]
    parts += [words(0, TOP + 10, "often", "small"), words(0, bottom, "rarely", "small")]
    negative = "; -1 in the other colour" if (look.spikes < 0).any() else ""
    first = f", the first {length} tokens" if length < every else ""
    title = f"spikes of {look.population}: {len(shown)} of {width} neurons, {steps} time steps a token{first}{negative}"
    sign = {0: ".", 1: "+", -1: "-"}
    rows = [("neuron", *tokens)]
    rows += [(n, *("".join(sign[int(s)] for s in spikes[:, i, n]) for i in range(length))) for n in shown]
    return Picture(canvas(title, bottom + UNDER, parts), rows)


def turned(x, y, token):
    """A word that reads downwards."""
    return f'<text class="small" transform="translate({x - 4:.1f} {y:.1f}) rotate(60)">{text_of(token)}</text>'


def attention_maps(look):
    """Teacher's and student's attention side by side: a row for each token that looks, darker where it looks more."""
    known = [(name, look.attention[name]) for name in ("teacher", "student") if look.attention.get(name) is not None]
    length, room = len(look.tokens), (WIDTH - NAMES) / 2 - 24
    cell = room / max(length, FEWEST / 2)
    most, parts = max(float(weights.max()) for _, weights in known), []
    every = 1 if cell >= 9 else int(np.ceil(9 / cell))  # words that there is room for
    for place, (name, weights) in enumerate(known):
        left = NAMES + place * (room + 28)
        parts.append(words(left, TOP - 8, name, "teacher" if name == "teacher" else "spiking"))
        for i in range(length):
            for j in range(length):
                seen, at = float(weights[i, j]), (left + j * cell, TOP + i * cell)
                says = f"{look.tokens[i]} on {look.tokens[j]}: {seen:.3f}"
                parts.append(box(("teacher" if name == "teacher" else "spiking"), *at, cell, cell, says, seen / most))
        parts += [
            turned(left + (i + 0.5) * cell, TOP + length * cell + 10, look.tokens[i]) for i in range(0, length, every)
        ]
    for i in range(0, length, every):
        parts.append(words(NAMES - 6, TOP + (i + 0.5) * cell + MIDDLE, look.tokens[i], "small", "end"))
    rows = [("model", "token", *look.tokens)]
    rows += [(name, look.tokens[i], *map(float, row)) for name, weights in known for i, row in enumerate(weights)]
    title = "attention of the last encoder, the mean over its heads: a row is a token that looks at the columns"
    return Picture(canvas(title, TOP + length * cell + UNDER, parts), rows)
