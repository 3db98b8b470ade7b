"""What a spiking run gave, and what is known of its examples while it runs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..arrays.backend import namespace
from .counting import operations


@dataclass(frozen=True)
class Simulation:
    """logits: time step -> (B, C) from the ASR so far. rates: population -> (B, L, width), ASR at the last step.

    spike_counts: population -> (B,) int64 spikes of real tokens, +1 and -1 both counted. output_rates: recorded time
    step -> (B, L, D), ASR of the last encoder's output neurons. steps (B,) int64 on the host: how many each example
    ran; of one that stopped early, everything is as of then. probes: population -> what a probe recorded (see
    probes.Recorder.recording). counts: counting.Counts of a counted run, else None; lines: () -> its counting.Lines.
    rates_at: recorded time step -> rates as above, if kept.
    """

    logits: dict
    rates: dict
    spike_counts: dict
    output_rates: dict
    time_steps: int
    steps: Any
    probes: dict = field(default_factory=dict)
    counts: Any = None
    lines: Callable | None = None
    rates_at: dict = field(default_factory=dict)

    @cached_property
    def operations(self):
        """{key of operations.KEYS: int} over the batch, and "by_population"; None if they were not counted."""
        return operations(self.lines()) if self.lines else None


class Results:
    """What is known of every example of the batch; `rows` are those that still run."""

    def __init__(self, network, neurons):
        self.neurons, self.last, self.time_steps = neurons, network.last, neurons.how.time_steps
        self.steps = np.full(len(network.mask), self.time_steps)
        self.rows, self.logits, self.outputs, self.rates, self.fired = np.arange(len(network.mask)), {}, {}, {}, {}
        self.latest, self.rates_at = None, {}

    def record(self, network, step):
        """Logits of the examples that still run; those that stopped keep theirs."""
        rates = self.neurons.rate(self.last)
        logits, _ = network.classify(rates)
        if self.neurons.counter:
            self.neurons.counter.decide(rates)
        self.logits[step] = self._whole(logits, self.latest and self.latest[0])
        self.outputs[step] = self._whole(rates, self.latest and self.latest[1])
        self.latest = self.logits[step], self.outputs[step]
        if self.neurons.how.keep_rates:
            self.rates_at[step] = {name: self.neurons.rate(name) for name in self.neurons.populations}
        return logits

    def leave(self, network, rows, step):
        """The examples other than `rows`, of those that run, stop at this step."""
        gone = np.setdiff1d(np.arange(len(self.rows)), rows)
        self.steps[self.rows[gone]] = step
        self._collect(network.mask)
        self.rows = self.rows[rows]

    def finish(self, network, record):
        if len(self.rows):
            self._collect(network.mask)
        for step in record - self.logits.keys():  # nobody ran so long
            self.logits[step], self.outputs[step] = self.latest
        watched = {name: recorder.recording() for name, recorder in self.neurons.recorders.items()}
        counts = self.neurons.counter.counts() if self.neurons.counter else None
        found = (self.logits, self.rates, self.fired, self.outputs, self.time_steps, self.steps)
        return Simulation(*found, watched, counts, rates_at=self.rates_at)

    def _collect(self, mask):
        if self.neurons.how.logits_alone:
            return
        for name in self.neurons.populations:
            self.rates[name] = self._whole(self.neurons.rate(name), self.rates.get(name))
            self.fired[name] = self._whole(self.neurons.spikes_fired(name, mask), self.fired.get(name))

    def _whole(self, part, before):
        """The values `part` of the examples that run, with those of `before` for the others."""
        if len(self.rows) == len(self.steps):
            return part
        whole = before.copy()
        whole[namespace(part).asarray(self.rows)] = part
        return whole
