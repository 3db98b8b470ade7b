"""The neurons of a student in a simulation: membranes, spikes, counts and rates of every population, step by step.

What time steps, drives and several steps in one sweep are: simulate.py, which has the loop over them.
"""

from ..arrays.backend import namespace
from . import twins
from .counting import Counter
from .neuron import Firing, Rule, levels, membrane_step, spike, spikes_of, subtract_spent
from .probes import Recorder

TIE = 2.0**-21  # of v_th, for each time step: closer to a threshold, rounding decides


class Population:
    """The neurons of one population: membrane, count and what they sent last, arrays of the current's shape.

    count is an integer type that time_steps fit into; membrane and sent are of the current's dtype. fired: the spikes
    of both signs, if they differ from the count; weighted: the leak-weighted sum of spikes, of leaky neurons, whose
    rate it makes: it also says what a corrective spike may take back.
    """

    def __init__(self, current, start, time_steps, signed, leaky):
        xp = namespace(current)
        kind = xp.int16 if time_steps < 2**15 else xp.int32
        self.membrane, self.sent = xp.empty_like(current), xp.empty_like(current)
        self.membrane[...] = start
        self.emitted, self.count = xp.empty(current.shape, xp.int8), xp.zeros(current.shape, kind)
        self.fired = xp.zeros(current.shape, kind) if signed else self.count
        self.weighted = xp.zeros_like(current) if leaky else None

    def tally(self, emitted):
        """Count the spikes (T, ...) of some time steps."""
        self.count += _over_steps(emitted, self.count.dtype)
        if self.fired is not self.count:
            self.fired += _over_steps(emitted & 1, self.fired.dtype)  # of -1, too, it is 1; abs takes ten times as long
        if self.weighted is not None:
            self.weighted += _over_steps(emitted, self.weighted.dtype)

    def keep(self, rows):
        """Go on with these examples only."""
        alias = self.fired is self.count
        for name, array in vars(self).items():
            setattr(self, name, array[rows] if array is not None else None)
        if alias:
            self.fired = self.count


def _over_steps(spikes, dtype):
    """Sums over the first axis."""
    return spikes[0] if len(spikes) == 1 else spikes.sum(axis=0, dtype=dtype)


class Neurons:
    """The state of all populations, a `fire` that advances each by one time step when its current arrives.

    how: a SpikingRun; config: the student's; thresholds: {population: array} of those that do not fire at its v_th.
    What a population sends is overwritten at its next step: the neurons allocate nothing per step. Watchers see each
    population after each step: saw(population, its Population, its current, step).
    """

    def __init__(self, how, config, thresholds=None):
        self.how, self.config, self.leak, self.v_th = how.resolved(config), config, config.leak, config.v_th
        self.thresholds, self.ties = thresholds or {}, "softmax" in config.shifts
        self.step, self.norm, self.populations, self.block = 0, 0.0, {}, []
        self.recorders = {probe.population: Recorder(probe, self) for probe in self.how.probes}
        self.counter, self.watchers = None, list(self.recorders.values())
        self.slope, self.sent, self.rules, self.firings, self.scratch = None, {}, {}, {}, {}

    def linearise(self, slope):
        """From now on give the vjps slope(population, current), such as the equilibrium's, at the currents that come,
        and keep what every population sends, in arrays of its own, in `sent`; None: no longer."""
        self.slope, self.sent = slope, {}

    def count(self, mask, read_out, looks):
        """Count from now on; see counting.Counter."""
        self.counter = Counter(mask, read_out, self.how.time_steps, looks)
        self.watchers.append(self.counter)

    def advance(self, steps=1):
        """Begin the next time step, or so many that come in one sweep."""
        self.block = []
        for _ in range(steps):
            self.step += 1
            self.norm = self.leak * self.norm + 1
            self.block.append((self.step, self.norm))
            if self.counter:
                self.counter.advance()

    def __call__(self, population, current):
        """What the population sends, and no vjp unless linearised.

        current (B, L, W) of one time step, (steps B, L, W) of several
        """
        each = current.reshape(len(self.block), -1, *current.shape[1:])
        state = self._state(population, each[0])
        kept = self.slope is not None or len(each) > 1
        sent = namespace(current).empty_like(each) if kept else state.sent[None]
        at_once = 1 if population in self.recorders or self.how.drive == "instant" else len(each)
        for i in range(0, len(each), at_once):
            steps = slice(i, i + at_once)
            self._advance(population, state, each[steps], sent[steps], self.block[steps])
        if self.slope is None:
            return sent.reshape(current.shape), None
        self.sent[population] = sent[0]
        return sent[0], self.slope(population, current)

    def _advance(self, population, state, currents, sent, block):
        """Take the time steps of `block`, from currents into sent (T, B, L, W); watchers see the last of them."""
        self.step, self.norm = block[-1]
        if self.how.drive == "instant":
            self._instant(population, state, currents, sent)
        elif not self._compiled(population, state, currents, sent, block):
            self._differential(population, state, currents, sent, block)
        for watcher in self.watchers:
            watcher.saw(population, state, currents[-1], self.step)

    def _state(self, population, current):
        """The Population of that name; current: of one time step."""
        if population not in self.populations:
            rule = self.rule(population)
            start, signed = levels(rule.v_th, self.how.initial, self.leak)[0], rule.spikes != "binary"
            self.populations[population] = Population(current, start, self.how.time_steps, signed, self.leak != 1)
        return self.populations[population]

    def _compiled(self, population, state, currents, sent, block):
        """Whether a twin has taken the steps of `block`; see _advance."""
        v_th = self.thresholds.get(population, self.v_th)
        advance = twins.differential(currents, v_th)
        if not advance:
            return False
        advance(state, currents, sent, block[0][0], self.rule(population))
        return True

    def firing(self, population, step=None):
        """The neuron.Firing of a population at a time step, this one unless given."""
        ties = self.ties and population.endswith(".attention")
        key = population, (step or self.step) if ties else 0
        if key not in self.firings:
            rule = self.rule(population)
            upper, lower = rule.at(key[1]) if self.leak == 1 else levels(rule.v_th, self.how.initial, self.leak)[1:]
            self.firings[key] = Firing(
                spikes=rule.spikes, v_th=rule.v_th, leak=self.leak, reset=self.how.reset, upper=upper, lower=lower
            )
        return self.firings[key]

    def rule(self, population):
        """The neuron.Rule of a population."""
        if population not in self.rules:
            spikes = spikes_of(population, self.how.spikes, self.config)
            v_th = self.thresholds.get(population, self.v_th)
            # counts times powers of two meet a threshold exactly, and often, where t (sum / t) is next to it
            tie = TIE if self.ties and population.endswith(".attention") else 0.0
            self.rules[population] = Rule(
                spikes=spikes, v_th=v_th, initial=self.how.initial, window=self.how.window, tie=tie
            )
        return self.rules[population]

    def _differential(self, population, state, currents, sent, block):
        """What a neuron has received by now telescopes to t g(a[t]): its membrane is that, less what it has spent."""
        xp, v_th = namespace(currents), self.firing(population).v_th
        numbers = block[0][0]
        if len(block) > 1:  # one is no array: it would be copied to a device for each population
            numbers = xp.asarray([step for step, _ in block], currents.dtype).reshape(-1, *[1] * (currents.ndim - 1))
        membranes, emitted = self._scratch(currents)
        xp.multiply(currents, numbers, out=membranes)
        membranes += self.how.initial * v_th
        sent[0] = state.count
        count = sent[0]
        for (step, _), membrane, spikes, out in zip(block, membranes, emitted, sent, strict=True):
            subtract_spent(membrane, count, v_th)
            spike(membrane, count, self.firing(population, step), spikes)
            count = xp.add(count, spikes, out=out)
        state.membrane, state.emitted = membranes[-1], emitted[-1]  # until another population takes the same arrays
        state.tally(emitted)
        sent /= numbers

    def _scratch(self, currents):
        """Arrays for the membranes of currents (T, B, L, W) and for their spikes (int8), shared by all populations."""
        key = currents.shape
        if key not in self.scratch:
            self.scratch[key] = namespace(currents).empty_like(currents), namespace(currents).empty(key, "int8")
        return self.scratch[key]

    def _instant(self, population, state, currents, sent):
        """The one time step of currents (1, B, L, W)."""
        count = state.count
        if state.weighted is not None:
            state.weighted *= self.leak
            count = state.weighted
        membrane_step(state.membrane, currents[0], count, self.firing(population), state.emitted)
        state.tally(state.emitted[None])
        sent[...] = state.emitted

    def rate(self, population):
        """ASR so far, a fresh array: sum_i leak^(t-i) s[i] / sum_i leak^(t-i)."""
        state = self.populations[population]
        if state.weighted is not None:
            return state.weighted / self.norm
        return state.count.astype(state.membrane.dtype) / self.step

    def spikes_fired(self, population, mask):
        """Spikes of the real tokens of mask (B, L) so far: (B,) int64."""
        fired = self.populations[population].fired
        return (fired.sum(axis=2, dtype="int64") * mask).sum(axis=1)

    def keep(self, rows):
        self.scratch = {}
        for state in self.populations.values():
            state.keep(rows)
        if self.counter:
            self.counter.keep(rows)
