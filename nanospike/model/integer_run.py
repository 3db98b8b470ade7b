"""A student spike by spike in whole numbers: additions where spikes arrive, shifts, comparisons; no float in the loop.

The same loop as that of floats (simulate.simulate), over a network and neurons whose arrays are all integers: counts of
spikes, and what each population has received by now. Counts and logits are scaled once, at the end. Where this program
multiplies integers, one factor is a spike, a pattern, a power of two, or a constant of the row or the step: hardware
adds and shifts there, and gets the same numbers.

Axes: B examples, L tokens, W neurons of a population, H heads, I inputs, O outputs, D hidden, C labels.
"""

from dataclasses import replace
from functools import partial

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


def simulate_integer(student, inputs, how):
    """The simulate.Simulation of a SpikingRun in integers; scaled as that of floats is.

    student: one that computes with low-bit weights (Student.computing). inputs: (ids, mask, segments) (B, L), known to
    be right. InputError names what cannot be run so, or for so many time steps.
    """
    constants = constants_for(student, how)
    unit = constants.logit_scale
    if how.margin is not None:  # logits are in units of logit_scale / t
        how = replace(how, margin=how.margin / unit, margin_decay=how.margin_decay - 1)
    neurons = IntegerNeurons(how, student.config, constants, inputs[1])
    found = simulate(IntegerNetwork.on(constants, student, *inputs), neurons)
    return _scaled(found, unit, student.tree["classifier"]["bias"].dtype)


def constants_for(student, how):
    """The integer.Integers of a student for a SpikingRun; InputError as above."""
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


class IntegerNeurons(Neurons):
    """Neurons that are handed what they have received by now, an integer array (B, L, W) in the unit of their Cells.

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
        self.cells, self.real = constants.cells(), _real(mask)
        rest = 1 - self.how.initial + self.how.window
        self.uppers = {name: np.rint(cells.cost * rest).astype(np.int32) for name, cells in self.cells.items()}

    def firing(self, population):
        spikes, upper = spikes_of(population, self.how.spikes, self.config), self.uppers[population]
        return Firing(spikes=spikes, v_th=self.cells[population].cost, upper=upper, lower=-upper)

    def __call__(self, population, drive):
        """The Population after its next time step."""
        firing, cells = self.firing(population), self.cells[population]
        state = self.populations.get(population)
        if state is None:
            state = Population(drive, 0, self.how.time_steps, firing.spikes != "binary", leaky=False)
            self.populations[population] = state
        np.multiply(state.count, cells.cost, out=state.sent)
        np.subtract(drive, state.sent, out=state.membrane)
        state.membrane += cells.bias * np.int32(self.step)
        spike(state.membrane, state.count, firing, state.emitted)
        state.emitted &= self.real
        state.tally(state.emitted[None])
        for watcher in self.watchers:
            watcher.saw(population, state, drive, self.step)
        return state

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

    def __init__(self, constants, config, mask, embedded, received):
        self.constants, self.config, self.mask, self.embedded = constants, config, mask, embedded
        self.received, self.step = received, np.int32(0)
        self.padding = np.where(mask == 0, np.int32(FAR), np.int32(0))[:, None, None, :]

    @classmethod
    def on(cls, constants, student, input_ids, attention_mask, token_type_ids):
        positions = np.broadcast_to(np.arange(input_ids.shape[1]), input_ids.shape)
        sums = embedding_rows(student.tree, constants, (input_ids, positions, token_type_ids)).astype(np.int64)
        return cls(constants, student.config, attention_mask, normalised(sums, constants.embedded, 1), {})

    @property
    def last(self):
        return f"encoder.{len(self.constants.encoders) - 1}.output"

    def keep(self, rows):
        received = {name: total[rows] for name, total in self.received.items()}
        return IntegerNetwork(self.constants, self.config, self.mask[rows], self.embedded[rows], received)

    def classify(self, counts):
        """Logits in units of logit_scale / t, (B, C) int32, and no vjp."""
        first = counts[:, 0].astype(np.int32)
        return first @ self.constants.classifier + self.constants.class_bias * self.step, None

    def sweep(self, neurons, fed_back=None, differentiable=False):
        """All populations by one time step."""
        self.step = np.int32(neurons.step)
        state = neurons("embedding", self.embedded * self.step)
        for i, encoder in enumerate(self.constants.encoders):
            fire = partial(self._fire, neurons, f"encoder.{i}.")
            state = self._feed_forward(f"{i}", encoder, self._attention(f"{i}", encoder, state, fire), fire)

    @staticmethod
    def _fire(neurons, prefix, name, drive):
        return neurons(prefix + name, drive)

    def _attention(self, name, encoder, x, fire):
        inward = self._receive(f"{name}.inward", encoder.inward, x.emitted)
        query, key, value = (
            fire(kind, part).count.astype(np.int32)
            for kind, part in zip(("query", "key", "value"), np.split(inward, 3, axis=2), strict=True)
        )
        context = fire("attention", self._context(query, key, value, encoder.half))
        mixed = self._receive(f"{name}.mix", encoder.mix, context.emitted)
        return fire("attention_output", self._normalise(mixed, x, encoder.mixed))

    def _feed_forward(self, name, encoder, x, fire):
        inner = fire("intermediate", self._receive(f"{name}.widen", encoder.widen, x.emitted))
        narrow = self._receive(f"{name}.narrow", encoder.narrow, inner.emitted)
        return fire("output", self._normalise(narrow, x, encoder.narrowed))

    def _receive(self, name, matrix, emitted):
        """All that a matrix has added up by now, in its unit: (B, L, O) int32."""
        arrived = product(emitted, matrix.weights)
        if name in self.received:
            self.received[name] += arrived
        else:
            self.received[name] = arrived.astype(np.int32)
        return self.received[name] << matrix.shift

    def _normalise(self, received, residual, norm):
        """What reaches the neurons behind a norm of a matrix's sums and of the counts that go past it."""
        total = received * norm.scale
        total += residual.count * norm.residual
        total += norm.before * self.step
        return normalised(total, norm, self.step)

    def _context(self, query, key, value, half):
        """Counts of values, each shifted by the power of two that its key has: (B, L, D) int32.   counts (B, L, D)"""
        heads, bits = self.config.num_attention_heads, self.constants.context_bits
        query, key, value = (split_heads(x, heads) for x in (query, key, value))
        scores = query @ key.swapaxes(-1, -2)
        behind = np.maximum((scores - self.padding).max(axis=-1, keepdims=True) - scores, self.padding)
        power = np.searchsorted(score_steps(half, int(self.step)), behind).astype(np.int32)
        total = POWERS[power].sum(axis=-1, keepdims=True, dtype=np.int32)
        left_out = power == WEIGHTS
        power += np.searchsorted(EXPONENTS, total).astype(np.int32)
        power[left_out] = NEVER
        return merge_heads((np.int32(1 << bits) >> power) @ value)


def product(emitted, weights):
    """Spikes times a pattern of weights, by the rows of weights where spikes are.   (B, L, I) -> (B, L, O)"""
    from scipy.sparse import csr_array  # loading scipy takes longer than most of what imports this

    *shape, width = emitted.shape
    flat = emitted.reshape(-1, width)
    where = np.flatnonzero(flat)
    starts = np.zeros(len(flat) + 1, np.int32)
    np.cumsum(np.count_nonzero(flat, axis=1), out=starts[1:])
    spikes = flat.reshape(-1)[where].astype(weights.dtype)
    rows = csr_array((spikes, (where % width).astype(np.int32), starts), shape=flat.shape)
    return (rows @ weights).reshape(*shape, -1)


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


def score_steps(half, step):
    """How far a score must be below the best for one power of two less, two, ...: more than these.   (16,) int32

    In products of counts: (n + 1/2) t^2 / kappa, n = 0, 1, ....
    """
    return np.array([min((2 * n + 1) * step * step * half >> SCORE_BITS, FAR - 1) for n in range(WEIGHTS)], np.int32)
