"""A student spike by spike in whole numbers: additions where spikes arrive, shifts, comparisons; no float in the loop.

The same loop as that of floats (simulate.simulate), over a network and neurons whose arrays are all integers: counts of
spikes, and what each population has received by now. Counts and logits are scaled once, at the end. Where this program
multiplies integers, one factor is a spike, a pattern, a power of two, or a constant of the row or the step: hardware
adds and shifts there, and gets the same numbers.

Axes: B examples, L tokens, W neurons of a population, H heads, I inputs, O outputs, D hidden, C labels.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arrays.ops import merge_heads, split_heads
from ..arrays.ops_shift import LEAST_POWER
from ..config.errors import InputError
from .integer import EXPONENTS, LOUDEST, POWERS, SCORE_BITS, embedding_rows
from .integer_load import integers, require_integer
from .membranes import Neurons, Population
from .neuron import Firing, spike, spikes_of
from .simulate import simulate

WEIGHTS = 1 - LEAST_POWER  # as many powers of two a key's weight can be; keys further behind the best are left out
FAR = 2**30  # products of counts that padding is behind the best key
NEVER = 31  # 2^bits shifted to the right by so much is 0


def simulate_integer(student, constants, inputs, how, network=None):
    """The simulate.Simulation of a SpikingRun in integers; scaled as that of floats is.

    student: one that computes with low-bit weights (Student.computing); constants: those that it has for `how`
    (constants_for). inputs: (ids, mask, segments) (B, L), known to be right. network: its class, unless
    IntegerNetwork.
    """
    unit = constants.logit_scale
    if how.margin is not None:  # logits are in units of logit_scale / t
        how = replace(how, margin=how.margin / unit, margin_decay=how.margin_decay - 1)
    neurons = IntegerNeurons(how, student.config, constants, inputs[1])
    found = simulate((network or IntegerNetwork).on(constants, student, *inputs), neurons)
    return _scaled(found, unit, student.tree["classifier"]["bias"].dtype)


def constants_for(student, how):
    """The integer.Integers of a student for a SpikingRun; InputError names what cannot be run so, or for so long."""
    require_integer(student.config, student.device)
    constants = integers(student.tree, student.config)
    longest, population = constants.longest()
    if how.time_steps > longest:
        raise InputError(
            f"time steps: found {how.time_steps}, expected at most {longest} with arithmetic integer: after more, the "
            f"sums of {population} can pass 32 bits"
        )
    return constants


def _scaled(found, unit, dtype):
    """The Simulation with rates in the place of counts, and logits."""
    ran = lambda step: np.minimum(found.steps, step).astype(dtype)  # noqa: E731
    return replace(
        found,
        logits={t: (v * (unit / ran(t)[:, None])).astype(dtype) for t, v in found.logits.items()},
        rates={name: v / ran(found.time_steps)[:, None, None] for name, v in found.rates.items()},
        output_rates={t: v / ran(t)[:, None, None] for t, v in found.output_rates.items()},
        rates_at={t: {name: v / dtype.type(t) for name, v in rates.items()} for t, rates in found.rates_at.items()},
    )


@dataclass(frozen=True)
class Sent:
    """What a population does in the time steps of a sweep: emitted (T, B, L, W) int8, and its counts after each."""

    emitted: Any
    counts: Any

    def first(self):
        """That of the first tokens alone."""
        return Sent(*(np.ascontiguousarray(part[:, :, :1]) for part in (self.emitted, self.counts)))


class IntegerNeurons(Neurons):
    """Neurons that are handed what they have received by now, integer arrays (B, L, W) in the unit of their Cells.

    Padding never fires. A population's `membrane` is what it had before it fired.
    """

    def __init__(self, how, config, constants, mask):
        super().__init__(how, config)
        for probe in self.how.probes:
            if probe.what != ("spikes",):
                found = ", ".join(probe.what)
                raise InputError(f"probe {probe.population}: what: found {found}, expected spikes (arithmetic integer)")
        if self.how.window > LOUDEST - 1:
            found = f"found {self.how.window}, expected at most {LOUDEST - 1} with arithmetic integer"
            raise InputError(f"window: {found}")
        self.cells, self.real = constants.cells, _real(mask)
        self.rest = 1 - self.how.initial + self.how.window  # of a spike's cost, which a membrane has to reach
        self.uppers = constants.uppers(self.rest)

    def firing(self, population):
        if population not in self.firings:
            spikes, upper = spikes_of(population, self.how.spikes, self.config), self.uppers[population]
            v_th = self.cells[population].cost
            self.firings[population] = Firing(spikes=spikes, v_th=v_th, upper=upper, lower=-upper)
        return self.firings[population]

    def state(self, population, drive):
        """The Population of that name; drive (B, L, W)"""
        if population not in self.populations:
            signed = self.firing(population).spikes != "binary"
            self.populations[population] = Population(drive, 0, self.how.time_steps, signed, leaky=False)
        return self.populations[population]

    def __call__(self, population, drives):
        """The Sent of a population whose drives, one of each time step, have arrived."""
        firing, cells, sent = self.firing(population), self.cells[population], []
        for drive, (step, _) in zip(drives, self.block, strict=True):
            state = self.state(population, drive)
            np.multiply(state.count, cells.cost, out=state.sent)
            np.subtract(drive, state.sent, out=state.membrane)
            state.membrane += cells.bias * np.int32(step)
            emitted = spike(state.membrane, state.count, firing)
            emitted &= self.real[:, : emitted.shape[1]]
            state.emitted = emitted
            state.tally(emitted[None])
            self.watched(population, state, drive, step)
            sent.append((emitted, state.count.copy()))
        return Sent(*(np.stack(part) for part in zip(*sent, strict=True)))

    def watched(self, population, state, drive, step):
        """Show the watchers a population after a time step."""
        for watcher in self.watchers:
            watcher.saw(population, state, drive, step)

    def rate(self, population):
        """Counts so far, a fresh array: an integer, to be divided by the time steps at the end."""
        return self.populations[population].count.copy()

    def keep(self, rows):
        super().keep(rows)
        self.real = self.real[rows]


def _real(mask):
    return -(mask != 0).astype(np.int8)[:, :, None]


class IntegerNetwork:
    """A student on one batch, in integers. embedded (B, L, D) int32: what the embedding receives in each time step.

    received: {name: (B, L, O) int32}, what the matrices have added up by now.
    """

    dropout = None

    def __init__(self, constants, config, mask, embedded, received):
        self.constants, self.config, self.mask, self.embedded = constants, config, mask, embedded
        self.received, self.step = received, np.int32(0)
        self.padding = np.where(mask == 0, np.int32(FAR), np.int32(0))[:, None, None, :]

    @classmethod
    def on(cls, constants, student, input_ids, attention_mask, token_type_ids):
        sums = embedding_rows(student.tree, constants, input_ids, token_type_ids).astype(np.int64)
        return cls(constants, student.config, attention_mask, normalised(sums, constants.embedded, 1), {})

    @property
    def last(self):
        return f"encoder.{len(self.constants.encoders) - 1}.output"

    def keep(self, rows):
        received = {name: total[rows] for name, total in self.received.items()}
        return type(self)(self.constants, self.config, self.mask[rows], self.embedded[rows], received)

    def repeated(self, times):
        """The network of so many time steps in one sweep: it goes by the neurons' block."""
        return self

    def classify(self, counts):
        """Logits in units of logit_scale / t, (B, C) int32, and no vjp."""
        first = counts[:, 0].astype(np.int32)
        return first @ self.constants.classifier + self.constants.class_bias * self.step, None

    def sweep(self, neurons, fed_back=None, differentiable=False):
        """All populations, one after the other, by the time steps of the neurons' block."""
        self.step = np.int32(neurons.step)
        state = self._fed(neurons, "embedding")
        for i, encoder in enumerate(self.constants.encoders):
            at, kinds = f"encoder.{i}.", ("query", "key", "value")
            products = self._driven(neurons, f"{i}.inward", encoder.inward, state, [at + kind for kind in kinds])
            if neurons.how.logits_alone and encoder is self.constants.encoders[-1]:
                state, products[0] = state.first(), products[0].first()
            context = self._attended(neurons, f"{at}attention", products, encoder.half)
            mix = f"{i}.mix", encoder.mix, encoder.mixed
            middle = self._normed(neurons, f"{at}attention_output", mix, context, state)
            (inner,) = self._driven(neurons, f"{i}.widen", encoder.widen, middle, [f"{at}intermediate"])
            narrow = f"{i}.narrow", encoder.narrow, encoder.narrowed
            state = self._normed(neurons, f"{at}output", narrow, inner, middle)

    def _fed(self, neurons, population):
        """The Sent of what receives the embedding."""
        return neurons(population, [self.embedded * np.int32(step) for step, _ in neurons.block])

    def _driven(self, neurons, name, matrix, x, populations):
        """The Sents of the populations, side by side behind a matrix."""
        sums = [np.split(total << matrix.shift, len(populations), axis=2) for total in self._receive(name, matrix, x)]
        return [neurons(which, parts) for which, parts in zip(populations, zip(*sums, strict=True), strict=True)]

    def _attended(self, neurons, population, products, half):
        """The Sent of the attention neurons; products: those of query, key and value."""
        heads = self.config.num_attention_heads
        drives = []
        for counts, (step, _) in zip(zip(*(p.counts for p in products), strict=True), neurons.block, strict=True):
            query, key, value = (split_heads(c.astype(np.int32), heads) for c in counts)
            drives.append(self._context(query, key, value, score_steps(half, int(step))))
        return neurons(population, drives)

    def _normed(self, neurons, population, behind, x, past):
        """The Sent of the neurons behind a norm of a matrix's sums and of the counts of `past`, which go past it."""
        name, matrix, norm = behind
        drives = []
        for total, counts, (step, _) in zip(self._receive(name, matrix, x), past.counts, neurons.block, strict=True):
            total = total * norm.scale
            total += counts * norm.residual
            total += norm.before * step
            drives.append(normalised(total, norm, np.int32(step)))
        return neurons(population, drives)

    def _receive(self, name, matrix, x):
        """All that a matrix has added up by each time step: (T, B, L, O) int32."""
        total = product(x.emitted, matrix.weights).astype(np.int32)
        if name in self.received:
            total[0] += self.received[name]
        np.cumsum(total, axis=0, out=total)
        self.received[name] = total[-1].copy()
        return total

    def _context(self, query, key, value, steps):
        """Counts of values, each shifted by the power of two that its key has: (B, L, D) int32.

        counts (B, H, L, D / H); steps: the score_steps of the time step
        """
        scores = query @ key.swapaxes(-1, -2)
        behind = np.maximum((scores - self.padding).max(axis=-1, keepdims=True) - scores, self.padding)
        power = np.searchsorted(steps, behind).astype(np.int32)
        total = POWERS[power].sum(axis=-1, keepdims=True, dtype=np.int32)
        left_out = power == WEIGHTS
        power += np.searchsorted(EXPONENTS, total).astype(np.int32)
        power[left_out] = NEVER
        return merge_heads((np.int32(1 << self.constants.context_bits) >> power) @ value)


def product(emitted, weights):
    """Spikes times a pattern of weights, by the rows of weights where spikes are.   (..., I) -> (..., O) int16"""
    from scipy.sparse import csr_array  # loading scipy takes longer than most of what imports this

    *shape, width = emitted.shape
    flat = emitted.reshape(-1, width)
    where = np.flatnonzero(flat)
    starts = np.zeros(len(flat) + 1, np.int32)
    np.cumsum(np.count_nonzero(flat, axis=1), out=starts[1:])
    spikes = flat.reshape(-1)[where].astype(np.int16)
    rows = csr_array((spikes, (where % width).astype(np.int32), starts), shape=flat.shape)
    return (rows @ weights.astype(np.int16)).reshape(*shape, -1)


def normalised(total, norm, step):
    """The drive of neurons behind a norm: rows times the power of two nearest to one over their mean size, and a bias.

    total (..., D) int64, what it reads by now  ->  (..., D) int32
    """
    sizes = abs(total).sum(axis=-1)
    level = np.searchsorted(norm.steps * step, sizes, side="right")[..., None]
    left = norm.shift - norm.point - norm.exponents[level]
    total = total * norm.triples[level]
    drive = ((total << np.maximum(left, 0)) >> np.maximum(-left, 0)) & norm.live
    drive += norm.after * step
    return np.clip(drive, -norm.limit * step, norm.limit * step).astype(np.int32)


@functools.lru_cache(4096)
def score_steps(half, step):
    """How far a score must be below the best for one power of two less, two, ...: more than these.   (16,) int32

    In products of counts: (n + 1/2) t^2 / kappa, n = 0, 1, ....
    """
    return np.array([min((2 * n + 1) * step * step * half >> SCORE_BITS, FAR - 1) for n in range(WEIGHTS)], np.int32)
