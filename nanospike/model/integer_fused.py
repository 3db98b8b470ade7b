"""The integer network with compiled encoders (arrays/fused_integer.py). What they compute: integer_run.py, which is the
reference; only twins.py says which is used.

Axes: T time steps of a sweep, B examples, L tokens, W neurons of several populations side by side, R rows of them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import fused_integer as kernels
from .integer import EXPONENTS
from .integer_run import IntegerNetwork, score_steps
from .membranes import Population

FRONT = ("query", "key", "value")
BEHIND = ("attention", "attention_output", "intermediate", "output")
MATRICES = ("inward", "mix", "widen", "narrow")


class FusedNetwork(IntegerNetwork):
    """An IntegerNetwork each of whose encoders is one call. Counts and sums are in `received`, by name, and seen by the
    neurons' populations; these have no membranes, for who watches integers sees spikes alone.
    """

    numbers = 2**20  # see simulate.NUMBERS; here, what lies between populations are bytes

    def __init__(self, *parts):
        super().__init__(*parts)
        self.real = np.ascontiguousarray(self.mask != 0)

    def sweep(self, neurons, fed_back=None, differentiable=False):
        self.step, first = np.int32(neurons.step), neurons.block[0][0]
        group = self._group(neurons, "", ("embedding",), self.mask.shape[1])
        cells = _cells(self.constants, neurons, "embedding")
        kernels.fed(_rows(self.embedded), self.real.reshape(-1), cells, first, group.kind(0), group.arrays())
        group.show()
        for i in range(len(self.constants.encoders)):
            group = self._encoder(neurons, i, group, first)

    def _encoder(self, neurons, i, before, first):
        """The Group behind the attention of an encoder, whose last population is its output; before: one like it."""
        at, encoder = f"encoder.{i}.", self.constants.encoders[i]
        alone = neurons.how.logits_alone and i == len(self.constants.encoders) - 1
        front = self._group(neurons, at, FRONT, self.mask.shape[1])
        behind = self._group(neurons, at, BEHIND, 1 if alone else self.mask.shape[1])
        steps = np.stack([score_steps(encoder.half, int(step)) for step, _ in neurons.block])
        weights = self.config.num_attention_heads, steps, EXPONENTS, np.int32(1 << self.constants.context_bits)
        received = tuple(self._received(f"{at}{name}", getattr(encoder, name), front, behind) for name in MATRICES)
        when, groups = (first, behind.kind(2), behind.kind(0)), (front.arrays(), behind.arrays())
        numbers = _numbers(self.constants, neurons, i)
        kernels.encoder(before.output(), self.real, numbers, weights, when, groups, received)
        front.show()
        behind.show()
        return behind

    def _group(self, neurons, at, names, tokens):
        """The Group of some populations of an encoder, for one sweep."""
        names = [at + name for name in names]
        places = np.cumsum([0, *(len(neurons.cells[name].cost) for name in names)]).tolist()
        shape, signed = (len(self.mask), tokens, places[-1]), neurons.firing(names[0]).spikes != "binary"
        counting = np.int16 if neurons.how.time_steps < 2**15 else np.int32
        count = self._kept(f"{names[0]}.count", shape, counting)
        fired = self._kept(f"{names[0]}.fired", shape, counting) if signed else count
        steps = len(neurons.block), *shape
        return Group(neurons, names, places, count, fired, np.empty(steps, np.int8), np.empty(steps, counting))

    def _received(self, name, matrix, front, behind):
        tokens = (front if name.endswith("inward") else behind).count.shape[1]
        return _rows(self._kept(name, (len(self.mask), tokens, len(matrix.shift)), np.int32))

    def _kept(self, name, shape, dtype):
        """An array of `received`, from nothing on."""
        if name not in self.received:
            self.received[name] = np.zeros(shape, dtype)
        return self.received[name]


class Tally(Population):
    """A Population whose counts are part of those of a Group."""

    def __init__(self, count, fired, emitted):
        self.count, self.fired, self.emitted = count, fired, emitted
        self.membrane = self.sent = self.weighted = None


@dataclass(frozen=True)
class Group:
    """Populations side by side, each from one of `places` to the next: counts and spikes fired (B, L, W) so far, what
    they emit in the time steps of a sweep and their counts then (T, B, L, W)."""

    neurons: Any
    names: list
    places: list
    count: Any
    fired: Any
    emitted: Any
    counts: Any

    def kind(self, i):
        """The kind of spikes of a population, a number of the kernels."""
        return kernels.KINDS[self.neurons.firing(self.names[i]).spikes]

    def arrays(self):
        return _rows(self.count), _rows(self.fired), _rows(self.emitted), _rows(self.counts)

    def output(self):
        """What its last population emits, its counts, and where in them it begins."""
        return _rows(self.emitted), _rows(self.counts), self.places[-2]

    def show(self):
        """Let the neurons have their populations, and the watchers see them."""
        for name, low, high in zip(self.names, self.places, self.places[1:], strict=False):
            count = self.count[..., low:high]
            fired = count if self.fired is self.count else self.fired[..., low:high]
            state = Tally(count, fired, self.emitted[-1, ..., low:high])
            self.neurons.populations[name] = state
            for emitted, (step, _) in zip(self.emitted[..., low:high], self.neurons.block, strict=True):
                if self.neurons.watchers:
                    state.emitted = emitted
                    self.neurons.watched(name, state, emitted, step)


def _cells(constants, neurons, population):
    cells = constants.cells[population]
    return cells.cost, cells.bias, neurons.uppers[population]


def _numbers(constants, neurons, i):
    """What the kernel `encoder` wants of the encoder i, made once for these thresholds."""
    key = "numbers", i, neurons.rest
    if key not in constants.made:
        encoder = constants.encoders[i]
        matrices = [getattr(encoder, name) for name in MATRICES]
        norms = [
            ((n.scale, n.residual, n.before), (n.steps, n.triples, n.exponents))
            + ((n.shift - n.point, n.live, n.after, n.limit),)
            for n in (encoder.mixed, encoder.narrowed)
        ]
        cells = tuple(_cells(constants, neurons, f"encoder.{i}.{name}") for name in (*FRONT, *BEHIND))
        constants.made[key] = *((m.tiles(kernels.COLUMNS), m.shift) for m in matrices), *norms, cells
    return constants.made[key]


def _rows(array):
    """(..., B, L, W)  ->  (..., R, W), without a copy"""
    return array.reshape(*array.shape[:-3], -1, array.shape[-1])
