"""AdamW on {name: array}, in place; learning-rate schedule; gradient clipping.

A gradient that is a RowSum touches only the rows of the batch: value, moments and weight decay of the others
stay as they are (so no moment decays into denormals, and a table of 30 k rows costs what the batch costs).
"""

import math

import numpy as np

from ..arrays.backend import namespace
from ..arrays.tree import RowSum
from ..arrays.workers import ALONE
from ..model import twins

EXPLODED = 1000.0  # times the usual norm of the gradient
IN_A_ROW = 5  # updates with such a norm, after which a run is stopped: what is clipped does no harm once
HARMLESS = 1.0  # norm that alarms nobody where nothing is clipped: there is no scale but that of the default clip
JUDGED = 10  # updates, before a norm is compared with the usual one: their geometric mean, with weights that fall by
FADE = 0.95  # per update
CHUNK = 131072  # elements updated at a time: few enough for the last-level cache, enough that Python is no bottleneck


class Diverged(RuntimeError):
    """A gradient is not finite, or the last ones have exploded; nothing was updated with this one."""


def linear_schedule(step, total, warmup):
    """Factor on the learning rate at `step` (from 0): up over `warmup` steps, then down to 0 at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (total - step) / max(1, total - warmup))


def global_norm(grads, workers=ALONE):
    """Euclidean norm of all gradients of {name: array or RowSum}, a float."""

    def square(name):
        flat = (grads[name].rows()[1] if isinstance(grads[name], RowSum) else grads[name]).reshape(-1)
        return flat @ flat

    found = workers.map(lambda names: {n: square(n) for n in names}, evenly_shared(grads, workers.size))
    by_name = {n: value for some in found for n, value in some.items()}
    squares = [by_name[n] for n in grads]  # summed in their own order, whoever shares them
    total = float(namespace(*squares).stack(squares).astype(float).sum())  # the one wait for the device
    return math.sqrt(total) if total >= 0 else math.nan


def evenly_shared(arrays, count):
    """The names of {name: array or RowSum} in at most `count` lists of about as many numbers each: one task a worker,
    where one for each of many small arrays would take longer to hand out than to do."""
    lists, loads = [[] for _ in range(count)], [0] * count
    for name in sorted(arrays, key=lambda n: arrays[n].size, reverse=True):
        least = loads.index(min(loads))
        lists[least].append(name)
        loads[least] += arrays[name].size
    return [names for names in lists if names]


def decays(name):
    """Weight decay is for matrices: not for biases, LayerNorm or single numbers (as BERT was trained)."""
    return name.endswith(("weight", "feedback.down", "feedback.up")) and "LayerNorm" not in name


def require_contiguous(parameters):
    if scattered := [n for n, p in parameters.items() if not p.flags.c_contiguous]:
        raise ValueError(f"AdamW updates contiguous arrays in place; not contiguous: {', '.join(scattered)}")


def diverged(norm, update, usual=None):
    """The Diverged of a gradient's norm at an update (from 1); usual: the norm before a row that exploded."""
    found = f"gradient norm is {norm} at update {update}"
    if usual is not None:
        row = f"the {IN_A_ROW}th of such a size in a row, {usual:.3g} before"
        found = f"gradient norm is {norm:.3g} at update {update}, {row}"
    return Diverged(f"{found}; lower --learning-rate")


class AdamW:
    """Loshchilov & Hutter 2019 (arXiv 1711.05101), decoupled weight decay, bias-corrected.

    State: `step`, moments {name: (mean, mean of squares)} of the shapes of the parameters, `log_norm`, the logarithm
    of the usual norm of the gradient, None before the first, and `exploded`, how many of the last norms were beyond it.
    """

    def __init__(self, parameters, *, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8):
        self.parameters, self.weight_decay, self.betas, self.eps = parameters, weight_decay, betas, eps
        self.step, self.log_norm, self.exploded = 0, None, 0
        require_contiguous(parameters)
        self.moments = {n: (p * 0, p * 0) for n, p in parameters.items()}

    def update(self, grads, learning_rate, max_norm=None, workers=ALONE):
        """One step on {name: array or RowSum}; returns the gradients' norm before clipping.

        Raises Diverged, and moves nothing, if the norm is not finite, or if it and those before it, IN_A_ROW in all,
        are EXPLODED times the usual one and more than max_norm (HARMLESS without one).
        """
        norm = global_norm(grads, workers)
        if not math.isfinite(norm):
            raise diverged(norm, self.step + 1)
        self._judge(norm, max_norm or HARMLESS)
        clip = min(1.0, max_norm / norm) if max_norm and norm > 0 else 1.0
        self.step += 1

        def share(names):
            for name in names:
                self._update(name, grads[name], clip, learning_rate)

        workers.map(share, evenly_shared(grads, workers.size))
        return norm

    def check(self):
        """Raise Diverged if an update since the last check has found so; here every update does itself."""

    def _judge(self, norm, harmless):
        """Count the norms that explode, or learn what is usual from one that does not."""
        usual = math.log(norm) if self.log_norm is None and norm > 0 else self.log_norm
        if self.step >= JUDGED and norm > harmless and math.log(norm) > usual + math.log(EXPLODED):
            self.exploded += 1
        else:
            self.exploded = 0
            self.log_norm = FADE * usual + (1 - FADE) * math.log(norm) if norm > 0 else usual
        if self.exploded >= IN_A_ROW:
            raise diverged(norm, self.step + 1, math.exp(usual))

    def _update(self, name, g, clip, learning_rate):
        parameter, (mean, square) = self.parameters[name], self.moments[name]
        decay = learning_rate * self.weight_decay if decays(name) else 0.0
        if isinstance(g, RowSum):
            rows, g = g.rows()
            part = [parameter[rows], mean[rows], square[rows]]
            self._move(*part, g, clip, learning_rate, decay)
            parameter[rows], mean[rows], square[rows] = part
        else:
            self._move(parameter, mean, square, g, clip, learning_rate, decay)

    def _move(self, parameter, mean, square, g, clip, learning_rate, decay):
        xp = namespace(parameter, g)
        b1, b2 = self.betas
        rate = learning_rate * math.sqrt(1 - b2**self.step) / (1 - b1**self.step)
        eps = self.eps * math.sqrt(1 - b2**self.step)
        flat = [a.reshape(-1) for a in (parameter, mean, square, g)]  # views: all are contiguous
        if compiled := twins.update(*flat):
            compiled(*flat, (clip, rate, eps, 1 - decay, b1, 1 - b1, b2, 1 - b2))
            return
        chunk = min(CHUNK, g.size) if xp is np else g.size  # a device takes all of it at once
        scratch = xp.empty(chunk, g.dtype)
        for start in range(0, g.size, chunk):
            p, m, v, d = (a[start : start + chunk] for a in flat)
            t = scratch[: p.size]
            xp.multiply(d, (1 - b1) * clip, out=t)
            m *= b1
            m += t
            xp.multiply(d, d, out=t)
            t *= (1 - b2) * clip * clip
            v *= b2
            v += t
            xp.sqrt(v, out=t)
            t += eps
            xp.divide(m, t, out=t)
            t *= rate
            if decay:
                p *= 1 - decay
            p -= t
