"""A student spike by spike. Knows no layers: it drives any sweep of populations.

Each population holds membranes and spike counts and turns the current it is given into what it sends on. With

    drive="instant"        I[t] = g(s[t]): the nonlinearities g act on the spikes of one step (as published)
    drive="differential"   I[t] = t g(a[t]) - (t-1) g(a[t-1]): they act on average spiking rates (ASR), and a layer
                           sends the change of its accumulated output (Wang et al. 2024, arXiv 2406.03470, for the idea)

Feed-forward input is this step's, feedback the last step's. Time steps are counted from 1.

Where nothing returns, what a population does in all steps depends on those before it alone: several steps are then one
sweep, population by population, with a product over all of them (`steps_at_once`).

Anytime inference: an example whose decision is stable leaves the batch, with all its neurons (`margin` of simulate).
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from ..arrays.backend import namespace, to_host
from ..config.errors import InputError
from . import twins
from .counting import Counter
from .neuron import RESETS, SPIKES, Firing, Rule, levels, membrane_step, spike, spikes_of, subtract_spent
from .probes import Recorder
from .simulation import Results

DRIVES = ("differential", "instant")
ARITHMETICS = ("float", "integer")
# Of a layer in one sweep: tokens times steps times its width. Products are fast, and caches hold what is between them.
NUMBERS = 2**17
DEVICE_NUMBERS = 2**23  # on a GPU
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


@dataclass(frozen=True, kw_only=True)
class SpikingRun:
    """How a student is run spike by spike; None: what its configuration says, or is usual for it (see `resolved`).

    drive, spikes, reset: as the constants name them. initial: membranes at the start as a fraction of v_th; of leaky
    neurons, how far below v_th they fire; window: see there (neuron.levels). record: time steps whose logits are kept,
    besides the last.
    keep_rates: of every recorded step, the rates of all populations (no example may stop early then).
    margin: an example stops at a recorded step t where its best logit leads by margin / t^margin_decay; None: none
    does. The error of an ASR falls as 1 / t, so that of the logits does about the same. count: write down all spikes,
    for Simulation.operations. probes: what else to record, see probes.Probe. arithmetic: "integer" is for
    integer_run.simulate_integer.
    """

    time_steps: int = 64
    drive: str | None = None
    spikes: str | None = None
    initial: float | None = None
    reset: str | None = None
    window: float | None = None
    record: tuple = ()
    keep_rates: bool = False
    margin: float | None = None
    margin_decay: float = 0.0
    count: bool = False
    probes: tuple = ()
    arithmetic: str = "float"

    def resolved(self, config):
        """The same with nothing left open; InputError for what does not exist or go together."""
        how = replace(
            self,
            drive=self.drive or ("differential" if config.leak == 1 else "instant"),
            spikes=self.spikes or config.spikes,
            initial=0.5 if self.initial is None else self.initial,
            reset=self.reset or config.reset,
            window=config.window if self.window is None else self.window,
        )
        if how.keep_rates and how.margin is not None:
            raise InputError("keep_rates, margin: found both; the rates of examples that stop are not kept")
        for name, known in (("drive", DRIVES), ("spikes", SPIKES), ("reset", RESETS), ("arithmetic", ARITHMETICS)):
            if (found := getattr(how, name)) not in known:
                raise InputError(f"{name}: found {found!r}, expected one of {', '.join(known)}")
        if not 0 <= how.initial < 1:
            raise InputError(f"initial: found {how.initial}, expected a fraction of v_th, at least 0 and below 1")
        if not 0 <= how.window < math.inf or (how.window and config.leak != 1):
            raise InputError(f"window: found {how.window}, expected at least 0, and 0 for neurons that leak")
        if how.drive == "differential" and config.leak != 1:
            raise InputError(f"drive differential: for IF neurons only (leak 1), found leak {config.leak}; use instant")
        if how.drive == "instant" and config.shifts:
            raise InputError(f"drive instant: for float operators only, found operators {config.operators}")
        if how.reset == "hard" and (how.drive != "instant" or how.spikes != "binary"):
            found = f"found {how.drive} and {how.spikes}"
            raise InputError(f"reset hard: for the instant drive and binary spikes, {found}")
        if how.probes and how.margin is not None:
            raise InputError("probes: found some together with a margin; texts that stop early leave nothing to record")
        if len({probe.population for probe in how.probes}) < len(how.probes):
            raise InputError(f"probes: found {[p.population for p in how.probes]}, expected one for each population")
        return how


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


def simulate(network, neurons, learn=None):
    """Run a network for the time steps of neurons.how: a Simulation.

    learn(sweep, {population: rates}): called at every recorded step of a student without a loop, under the differential
    drive, with its sweep, whose vjp goes straight through the spikes: each population has the slope of its equilibrium.

    network: sweep(fire, fed_back, differentiable=False) sends currents through all populations, where fed_back is None
    or the activity (B, L, D) of the population `last` after the step before; classify(rates) -> (logits, vjp);
    mask (B, L); keep(rows) is the network of some examples; config.recurrent; repeated(steps), if several steps can be
    one sweep, is the network of as many copies of the batch.
    """
    how = neurons.how
    record = checked_record(how.record, how.time_steps)
    if how.count:
        every = network.config.recurrent  # what returns is counted a step later, so every step is looked at
        neurons.count(network.mask, network.last, set(range(1, how.time_steps + 1)) if every else record)
    results, fed_back, step = Results(network, neurons), None, 0
    while step < how.time_steps:
        alone = learn is not None  # a recorded step is a sweep of its own
        steps = steps_at_once(network, min(r for r in record if r > step) - step - alone)
        step += steps
        neurons.advance(steps)
        several = network if steps == 1 else network.repeated(steps)
        linearised = learn is not None and step in record
        neurons.linearise(network.rate_neurons().slope if linearised else None)
        trace = several.sweep(neurons, fed_back, differentiable=linearised)
        if linearised:
            learn(trace, neurons.sent)
        if network.config.recurrent:
            fed_back = trace.hidden_states[-1]
        if step not in record:
            continue
        logits = results.record(network, step)
        rows = None
        if how.margin is not None and step < how.time_steps:
            rows = np.flatnonzero(~decided(logits, how.margin / step**how.margin_decay))
        if rows is not None and len(rows) < len(logits):
            results.leave(network, rows, step)
            if not len(rows):
                break
            index = namespace(logits).asarray(rows)
            network, fed_back = network.keep(index), None if fed_back is None else fed_back[index]
            neurons.keep(index)
    return results.finish(network, record)


def steps_at_once(network, most):
    """How many time steps, of `most`, are one sweep."""
    if network.config.recurrent or not hasattr(network, "repeated") or network.dropout:
        return 1
    numbers = NUMBERS if namespace(network.mask) is np else DEVICE_NUMBERS
    return max(1, min(most, numbers // (network.mask.size * network.config.hidden_size)))


def decided(logits, margin):
    """Whether each example's best logit leads the next by `margin` at least: (B,) bool on the host.   (B, C)

    One output (a regression) never decides.
    """
    ordered = np.sort(to_host(logits), axis=1)
    if ordered.shape[1] < 2:
        return np.zeros(len(ordered), bool)
    return ordered[:, -1] - ordered[:, -2] >= margin


def checked_record(record, time_steps):
    """The recorded time steps as a set; the last step is always one of them."""
    if not isinstance(time_steps, (int, np.integer)) or time_steps < 1:
        raise InputError(f"time steps: found {time_steps!r}, expected a whole number of at least 1")
    steps = {int(t) for t in record if int(t) <= time_steps}
    if any(int(t) < 1 for t in record):
        raise InputError(f"record: found {sorted(record)}, expected time steps from 1")
    return steps | {int(time_steps)}


def gap(rates, equilibrium, mask):
    """Mean |ASR - equilibrium| over width and real tokens, per example (B,).   (B, L, D), mask (B, L)"""
    per_token = abs(rates - equilibrium).mean(axis=2)
    real = mask.astype(per_token.dtype)
    return (per_token * real).sum(axis=1) / real.sum(axis=1)
