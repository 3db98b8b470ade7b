"""Spiking neurons: the rate at which one settles (with its vjp) and the membrane step that gets it there.

Units: currents and membranes in units in which the threshold is `v_th`; a rate is spikes per time step.
"""

from dataclasses import dataclass
from typing import Any

from ..arrays.backend import namespace
from ..arrays.tree import add
from ..config.models import CHOICES

POPULATIONS = ("key", "value", "attention", "attention_output", "intermediate", "output")  # of an encoder
UNKNOWN = "not a clip between two numbers"
SPIKES = CHOICES["spikes"]
RESETS = CHOICES["reset"]  # after a spike: v_th is subtracted, or the membrane is set to 0 and what it had over is lost


def rate(current, v_th=1.0, spikes="binary"):
    """Equilibrium rate of an integrate-and-fire neuron with soft reset: clip(I / v_th, low, 1).

    `low` is 0, or -1 with signed spikes. current (..., W); v_th a number, or an array (1,) or (W,), which then is a
    parameter. The slope is that of the open interval: 0 where the clip holds. A leaky neuron (LIF) has the same
    equilibrium for its leak-weighted rate (Xiao et al. 2021, IDE).
    """
    drive, low = _drive(current, v_th), -1 if spikes == "signed" else 0
    return namespace(current).clip(drive, low, 1), slope(current, v_th, spikes, drive)


def slope(current, v_th=1.0, spikes="binary", drive=None):
    """The vjp of `rate` alone; drive: current / v_th, if it is known."""
    drive, low = _drive(current, v_th) if drive is None else drive, -1 if spikes == "signed" else 0
    inside = (drive > low) & (drive < 1)

    def vjp(dy, grads=None):
        dx = dy * inside
        if not _is_one(v_th):
            dx /= v_th
        if grads is not None and hasattr(v_th, "shape"):
            slope = -dx * drive
            over = slope.reshape(-1, slope.shape[-1]).sum(axis=0) if v_th.size > 1 else slope.sum().reshape(1)
            add(grads, "v_th", over)
        return dx

    return vjp


def _drive(current, v_th):
    return current if _is_one(v_th) else current / v_th


def spikes_of(population, spikes, config):
    """What the neurons of a population may emit where the others emit `spikes`.

    Intermediate neurons without a GELU have rates in [0, 1], also among signed ones: there they are corrective.
    """
    if spikes == "signed" and "relu" in config.shifts and population.endswith(".intermediate"):
        return "corrective"
    return spikes


def _is_one(v_th):
    return not hasattr(v_th, "shape") and v_th == 1


def bounds(fire, population):
    """What the neurons of a `fire` do that can say so: None, they send their current; (v_th, low), they send
    clip(current / v_th, low, 1); else UNKNOWN."""
    return fire.bounds(population) if hasattr(fire, "bounds") else UNKNOWN


def levels(v_th, initial=0.5, leak=1.0, window=0.0):
    """(membrane at the start, at or above which a neuron fires, at or below which it may emit a negative spike).

    A start at `initial` v_th makes an IF neuron round to the nearest count, at 0.5, instead of down. A leaky one would
    forget it: it fires at (1 - initial) v_th instead, always (and a spike costs v_th as ever), which halves the
    residual of its rate and centres it (SPIDE's resting potential of -v_th, Xiao et al. 2023, arXiv 2302.00232). The
    negative threshold is as far below the start as the other is above it. window: by how many spikes both are farther
    away, which leaves small differences unsaid (IF neurons only).
    """
    if leak == 1:
        return initial * v_th, (1 + window) * v_th, (2 * initial - 1 - window) * v_th
    return 0.0, (1 - initial) * v_th, (initial - 1) * v_th


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When the IF neurons of a population fire, at any time step.

    initial, window: see `levels`; tie: how much early, in v_th for each time step.
    """

    spikes: str
    v_th: Any
    initial: float
    window: float
    tie: float = 0.0

    def at(self, step):
        """(upper, lower) of a time step; see Firing."""
        _, upper, lower = levels(self.v_th, self.initial, window=self.window)
        if self.tie:
            upper, lower = upper - self.tie * step * self.v_th, lower + self.tie * step * self.v_th
        return upper, lower


@dataclass(frozen=True, kw_only=True)
class Firing:
    """When neurons fire and what a spike costs them. upper: membrane at or above which one fires, v_th unless given;
    lower: at or below which it may emit a negative spike (see levels); leak: 1 is IF, below 1 LIF."""

    spikes: str = "binary"
    v_th: Any = 1.0
    leak: float = 1.0
    reset: str = "soft"
    upper: Any = None
    lower: Any = 0.0


def spike(membrane, count, firing, out=None):
    """Spikes of one time step, -1, 0 or 1 (int8), from membranes that have received their current.

    `membrane` and `count` (the sum of a neuron's spikes so far; of a leaky one with the weights that they have now)
    have the same shape; neither is changed. A corrective neuron emits -1 only if its count is 1 or more, so that its
    rate stays in [0, 1]. out: int8 buffer to use.
    """
    xp = namespace(membrane)
    emitted = xp.empty(membrane.shape, xp.int8) if out is None else out
    upper = firing.v_th if firing.upper is None else firing.upper
    xp.greater_equal(membrane, upper, out=emitted.view(xp.bool_))  # 0 and 1 are the same bytes either way
    if firing.spikes == "corrective":
        emitted -= (membrane <= firing.lower) & (count >= 1)
    elif firing.spikes == "signed":
        emitted -= membrane <= firing.lower
    return emitted


def subtract_spent(membrane, spikes, v_th):
    """membrane -= v_th * spikes, without the product where v_th is 1; spikes is of the membrane's dtype, or int8."""
    membrane -= spikes if _is_one(v_th) else v_th * spikes


def membrane_step(membrane, current, count, firing, out=None):
    """One time step, in place on `membrane`: leak, receive `current`, spike, reset. Returns the spikes (int8).

    u <- leak u + I;  s = spike(u);  u <- u - v_th s, or with a hard reset 0 where s is not.
    """
    if firing.leak != 1:
        membrane *= firing.leak
    membrane += current
    emitted = spike(membrane, count, firing, out)
    if firing.reset == "hard":
        membrane *= emitted == 0
    else:
        subtract_spent(membrane, emitted, firing.v_th)
    return emitted
