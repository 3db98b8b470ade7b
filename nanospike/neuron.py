"""Spiking neurons: the rate at which one settles (with its vjp) and the membrane step that gets it there.

Units: currents and membranes in units in which the threshold is `v_th`; a rate is spikes per time step.
"""

from .backend import namespace
from .tree import add

SPIKES = ("binary", "corrective", "signed")


def rate(current, v_th=1.0, spikes="binary"):
    """Equilibrium rate of an integrate-and-fire neuron with soft reset: clip(I / v_th, low, 1).

    `low` is 0, or -1 with signed spikes. current (..., W); v_th a number, or an array (1,) or (W,), which then is a
    parameter. The slope is that of the open interval: 0 where the clip holds. A leaky neuron (LIF) has the same
    equilibrium for its leak-weighted rate (Xiao et al. 2021, IDE).
    """
    xp = namespace(current)
    low = -1 if spikes == "signed" else 0
    drive = current if _is_one(v_th) else current / v_th
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

    return xp.clip(drive, low, 1), vjp


def _is_one(v_th):
    return not hasattr(v_th, "shape") and v_th == 1


def lower_threshold(v_th, initial):
    """Membrane at or below which a negative spike may be emitted: as far below the start as v_th is above it."""
    return (2 * initial - 1) * v_th


def spike(membrane, count, *, v_th, spikes, lower, out=None):
    """Spikes of one time step, -1, 0 or 1 (int8), from membranes that have received their current.

    `membrane` and `count` (the sum of a neuron's spikes so far) have the same shape; neither is changed. A
    corrective neuron emits -1 only if its count is above 0, so that its rate stays in [0, 1]. out: int8 buffer to use.
    """
    xp = namespace(membrane)
    emitted = xp.empty(membrane.shape, xp.int8) if out is None else out
    xp.greater_equal(membrane, v_th, out=emitted.view(xp.bool_))  # 0 and 1 are the same bytes either way
    if spikes == "corrective":
        emitted -= (membrane <= lower) & (count > 0)
    elif spikes == "signed":
        emitted -= membrane <= lower
    return emitted


def subtract_spent(membrane, spikes, v_th):
    """membrane -= v_th * spikes, without the product where v_th is 1; spikes is of the membrane's dtype, or int8."""
    membrane -= spikes if _is_one(v_th) else v_th * spikes


def membrane_step(membrane, current, count, *, v_th=1.0, leak=1.0, spikes="binary", lower=0.0, out=None):
    """One time step, in place on `membrane`: leak, receive `current`, spike, soft reset. Returns the spikes (int8).

    u <- leak u + I;  s = spike(u);  u <- u - v_th s.   `leak` 1 is IF, below 1 LIF.
    """
    if leak != 1:
        membrane *= leak
    membrane += current
    emitted = spike(membrane, count, v_th=v_th, spikes=spikes, lower=lower, out=out)
    subtract_spent(membrane, emitted, v_th)
    return emitted
