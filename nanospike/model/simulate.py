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
from .neuron import RESETS, SPIKES
from .simulation import Results

DRIVES = ("differential", "instant")
ARITHMETICS = ("float", "integer")
# Of a layer in one sweep: tokens times steps times its width. Products are fast, and caches hold what is between them.
NUMBERS = 2**17
DEVICE_NUMBERS = 2**23  # on a GPU


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
    integer_run.simulate_integer. logits_alone: nothing but logits is asked for, so that without a loop the last
    encoder goes on, behind keys and values, with the first token of each text, which is all that is read; a
    Simulation's rates and spike_counts are empty then (no counts, no probes).
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
    logits_alone: bool = False

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
        if how.logits_alone and (how.probes or how.count or how.keep_rates):
            found = "probes" if how.probes else "count" if how.count else "keep_rates"
            raise InputError(f"logits_alone: found {found}, too, which needs all that happens")
        if len({probe.population for probe in how.probes}) < len(how.probes):
            raise InputError(f"probes: found {[p.population for p in how.probes]}, expected one for each population")
        return how


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
    usual = NUMBERS if namespace(network.mask) is np else DEVICE_NUMBERS
    return max(1, min(most, getattr(network, "numbers", usual) // (network.mask.size * network.config.hidden_size)))


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
