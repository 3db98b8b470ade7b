"""A student spike by spike. Knows no layers: it drives any sweep of populations.

Each population holds membranes and spike counts and turns the current it is given into what it sends on. With

    drive="instant"        I[t] = g(s[t]): the nonlinearities g act on the spikes of one step (as published)
    drive="differential"   I[t] = t g(a[t]) - (t-1) g(a[t-1]): they act on average spiking rates (ASR), and a layer
                           sends the change of its accumulated output (Wang et al. 2024, arXiv 2406.03470, for the idea)

Feed-forward input is this step's, feedback the last step's. Time steps are counted from 1.
"""

from dataclasses import dataclass

import numpy as np

from .config import InputError
from .neuron import SPIKES, lower_threshold, membrane_step, spike, times_threshold

DRIVES = ("differential", "instant")


@dataclass(frozen=True)
class Simulation:
    """logits: time step -> (B, C) from the ASR so far. rates: population -> (B, L, width), ASR at the last step.

    spike_counts: population -> (B,) spikes of real tokens, +1 and -1 both counted. output_rates: recorded time
    step -> (B, L, D), ASR of the last encoder's output neurons.
    """

    logits: dict
    rates: dict
    spike_counts: dict
    output_rates: dict
    time_steps: int


class Neurons:
    """The state of all populations, and the `fire` that advances each by one time step when its current arrives.

    thresholds: {population: array} of those that do not fire at v_th.
    """

    def __init__(self, *, drive, v_th, leak, spikes, initial, thresholds=None):
        if drive not in DRIVES:
            raise InputError(f"drive: found {drive!r}, expected one of {', '.join(DRIVES)}")
        if spikes not in SPIKES:
            raise InputError(f"spikes: found {spikes!r}, expected one of {', '.join(SPIKES)}")
        if not 0 <= initial < 1:
            raise InputError(f"initial: found {initial}, expected a fraction of v_th, at least 0 and below 1")
        if drive == "differential" and leak != 1:
            raise InputError(f"drive differential: for IF neurons only (leak 1), found leak {leak}; use instant")
        self.drive, self.v_th, self.leak, self.spikes, self.initial = drive, v_th, leak, spikes, initial
        self.thresholds = thresholds or {}
        self.step, self.norm = 0, 0.0
        self.count, self.membrane, self.weighted, self.emitted = {}, {}, {}, {}

    def advance(self):
        """Begin the next time step."""
        self.step += 1
        self.norm = self.leak * self.norm + 1

    def __call__(self, population, current):
        if population not in self.count:
            self.count[population] = current * 0
            self.emitted[population] = current * 0 if self.spikes != "binary" else None
        fire = self._differential if self.drive == "differential" else self._instant
        return fire(population, current), None

    def _differential(self, population, current):
        """What a neuron has received by now telescopes to t g(a[t]): its membrane is that, less what it has spent."""
        count, v_th = self.count[population], self.thresholds.get(population, self.v_th)
        membrane = self.step * current
        membrane += self.initial * v_th
        membrane -= times_threshold(v_th, count)
        lower = lower_threshold(v_th, self.initial)
        emitted = spike(membrane, count, v_th=v_th, spikes=self.spikes, lower=lower)
        self._tally(population, emitted)
        return count / self.step

    def _instant(self, population, current):
        v_th = self.thresholds.get(population, self.v_th)
        if population not in self.membrane:
            self.membrane[population] = current * 0 + self.initial * v_th
        emitted = membrane_step(
            self.membrane[population],
            current,
            self.count[population],
            v_th=v_th,
            leak=self.leak,
            spikes=self.spikes,
            lower=lower_threshold(v_th, self.initial),
        )
        self._tally(population, emitted)
        return emitted

    def _tally(self, population, emitted):
        self.count[population] += emitted
        if self.emitted[population] is not None:
            self.emitted[population] += abs(emitted)
        if self.leak != 1:
            old = self.weighted.get(population)
            self.weighted[population] = emitted if old is None else self.leak * old + emitted

    def rate(self, population):
        """ASR so far: sum_i leak^(t-i) s[i] / sum_i leak^(t-i)."""
        if self.leak != 1:
            return self.weighted[population] / self.norm
        return self.count[population] / self.step

    def spike_counts(self, mask):
        """{population: (B,)} over the real tokens of mask (B, L)."""
        counts = {}
        for name, count in self.count.items():
            fired = count if self.emitted[name] is None else self.emitted[name]
            counts[name] = (fired.sum(axis=2) * mask).sum(axis=1)
        return counts


def simulate(sweep, classify, mask, neurons, *, last, time_steps, record, feedback=False):
    """Run the network for `time_steps` steps: a Simulation.

    sweep(fire, fed_back, differentiable=False) sends currents through all populations; fed_back is None or the activity
    (B, L, D) of the population `last` after the step before. classify(rates) -> logits. record: time steps whose logits
    are kept.
    """
    record = checked_record(record, time_steps)
    logits, outputs, fed_back = {}, {}, None
    for step in range(1, time_steps + 1):
        neurons.advance()
        trace = sweep(neurons, fed_back, differentiable=False)
        if feedback:
            fed_back = trace.hidden_states[-1]
        if step in record:
            outputs[step] = neurons.rate(last)
            logits[step] = classify(outputs[step])
    rates = {name: neurons.rate(name) for name in neurons.count}
    return Simulation(logits, rates, neurons.spike_counts(mask), outputs, time_steps)


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
