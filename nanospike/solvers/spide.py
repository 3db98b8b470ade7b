"""SPIDE: the adjoint by a second spiking run, with ternary spikes (Xiao et al. 2023, arXiv 2302.00232)."""

from dataclasses import replace

import numpy as np

from ..arrays.backend import namespace
from .solution import Code

TIME_STEPS = 250
THRESHOLD = 0.5  # half of a spike's amplitude: rounding to the nearest
WANTED, LOW, HIGH = 0.7, 0.4, 0.9  # where the largest |x| of an example should lie in the range of rates, [-1, 1]
OWED = 1.5  # a membrane beyond this owes a spike that it could not send: its neuron is saturated


def spide(system, time_steps):
    """x = scale times the mean of ternary spikes o of neurons with the membranes

        v[t] = v[t-1] - o[t-1] + c / scale + J^T o[t-1],   o = sign(v) where |v| >= 1/2, else 0.

    Since T c / scale - (I - J^T) sum(o) = v - o stays bounded, the residual falls as 1/T. It is recomputed. scale
    (B,) makes the largest |x| about 0.7 spikes a step; it is corrected at t = 2, 4, 8, ... while t <= T/2, by
    rescaling everything that the run has added up (which that identity allows, being linear).
    """
    xp, c = system.xp, system.rhs
    scale = _positive(xp.abs(c).max(axis=1) / WANTED)[:, None]
    v = spikes = total = c * 0
    saturated = xp.zeros((), int)
    for t in range(1, time_steps + 1):
        came_back = system.product(spikes) if t > 1 else spikes
        v = v - spikes + c / scale + came_back
        spikes = xp.where(xp.abs(v) >= THRESHOLD, xp.sign(v), 0)
        total = total + spikes
        saturated = saturated + (xp.abs(v) > OWED).sum()
        if t > 1 and t & (t - 1) == 0 and 2 * t <= time_steps:
            factor = _correction(total + v - spikes, t)
            v, spikes, total, scale = v * factor, spikes * factor, total * factor, scale / factor
    x = xp.where(xp.asarray(system.empty)[:, None], 0, total * scale / max(time_steps, 1)).astype(system.dtype)
    _, norms = system.residual(x)
    codes = np.where(norms < 0.5, Code.TRUNCATED, Code.DIVERGED)
    x = xp.where(xp.asarray(norms < 1)[:, None], x, 0)  # 0 is the better answer
    norms = np.where(np.isfinite(norms), np.minimum(norms, 1), norms)
    return replace(system.found(x, norms, codes), saturated=int(saturated))


def _positive(peak):
    """peak (B,) with 1 in place of 0."""
    return namespace(peak).where(peak > 0, peak, peak.dtype.type(1))


def _correction(due, t):
    """Factors (B, 1) that bring the largest rate so far, |spikes sent and due| (B, n) / t, to WANTED or below.

    Spikes that are due call for others through the loop: a range that is too small is doubled at least.
    """
    xp = namespace(due)
    rate = _positive(xp.abs(due).max(axis=1)) / t
    factor = xp.clip(WANTED / rate, 1 / 8, 8)
    factor = xp.where(rate > HIGH, xp.minimum(factor, 0.5), factor)
    return xp.where((rate < LOW) | (rate > HIGH), factor, 1).astype(due.dtype)[:, None]
