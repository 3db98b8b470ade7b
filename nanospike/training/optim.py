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

    sizes = {n: g.size for n, g in grads.items()}
    found = workers.map(lambda names: {n: square(n) for n in names}, evenly_shared(sizes, workers.size))
    by_name = {n: value for some in found for n, value in some.items()}
    squares = [by_name[n] for n in grads]  # summed in their own order, whoever shares them
    total = float(namespace(*squares).stack(squares).astype(float).sum())  # the one wait for the device
    return math.sqrt(total) if total >= 0 else math.nan


def evenly_shared(sizes, count):
    """What is named in {name: size}, in at most `count` lists of about the same size: one task a worker, where one for
    each of many small arrays would take longer to hand out than to do."""
    lists, loads = [[] for _ in range(count)], [0] * count
    for name in sorted(sizes, key=sizes.get, reverse=True):
        least = loads.index(min(loads))
        lists[least].append(name)
        loads[least] += sizes[name]
    return [names for names in lists if names]


class Together:
    """Small parameters whose moments lie one after the other, so that they move at once. names: in that order."""

    def __init__(self, parameters):
        self.names, self.decays = list(parameters), decays(next(iter(parameters)))
        self.ends = np.cumsum([p.size for p in parameters.values()])[:-1]
        like = next(iter(parameters.values()))
        self.size = sum(p.size for p in parameters.values())
        self.mean, self.square = (namespace(like).zeros(self.size, like.dtype) for _ in range(2))

    def moments(self, parameters):
        """{name: (mean, square)}, views of the shapes of the parameters."""
        means, squares = (np.split(flat, self.ends) for flat in (self.mean, self.square))
        return {
            n: (m.reshape(parameters[n].shape), v.reshape(parameters[n].shape))
            for n, m, v in zip(self.names, means, squares, strict=True)
        }


def together(parameters):
    """[Together] of the small parameters on the host: up to CHUNK numbers each, of one dtype, that decay or do not."""
    groups, open_groups = [], {}
    for name, p in parameters.items():
        if namespace(p) is not np or p.size > CHUNK // 2:
            continue
        group = open_groups.get((decays(name), p.dtype))
        if group is None or sum(q.size for q in group.values()) + p.size > CHUNK:
            group = open_groups[decays(name), p.dtype] = {}
            groups.append(group)
        group[name] = p
    return [Together(group) for group in groups]


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
        self.together = together(parameters)
        small = {n: pair for group in self.together for n, pair in group.moments(parameters).items()}
        self.moments = {n: small[n] if n in small else (p * 0, p * 0) for n, p in parameters.items()}

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

        whole = {i: group for i, group in enumerate(self.together) if self._moves_at_once(group, grads)}
        grouped = {n for group in whole.values() for n in group.names}
        sizes = {i: group.size for i, group in whole.items()}
        sizes |= {n: g.size for n, g in grads.items() if n not in grouped}

        def share(some):
            for name in some:
                if name in whole:
                    self._move_together(whole[name], grads, clip, learning_rate)
                else:
                    self._update(name, grads[name], clip, learning_rate)

        workers.map(share, evenly_shared(sizes, workers.size))
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

    def _moves_at_once(self, group, grads):
        """Whether all of a Together have gradients as arrays, and no compiled form takes one after the other."""
        if any(isinstance(grads.get(n, 0), (int, RowSum)) for n in group.names):
            return False
        return not twins.update(self.parameters[group.names[0]], group.mean)

    def _move_together(self, group, grads, clip, learning_rate):
        gradient = np.concatenate([grads[n].reshape(-1) for n in group.names])
        step = np.empty_like(gradient)
        self._step(group.mean, group.square, gradient, step, clip, learning_rate)
        keep = 1 - learning_rate * self.weight_decay
        for name, part in zip(group.names, np.split(step, group.ends), strict=True):
            parameter = self.parameters[name].reshape(-1)
            if group.decays and keep < 1:
                parameter *= keep
            parameter -= part

    def _step(self, m, v, d, t, clip, learning_rate):
        """Move the moments m, v by a gradient d; t becomes what the parameter is to lose."""
        xp, (rate, eps), (b1, b2) = namespace(d), self._rates(learning_rate), self.betas
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

    def _rates(self, learning_rate):
        """Of this step, with what corrects the bias of moments that began with 0: learning rate, epsilon."""
        b1, b2 = self.betas
        unbiased = math.sqrt(1 - b2**self.step)
        return learning_rate * unbiased / (1 - b1**self.step), self.eps * unbiased

    def _move(self, parameter, mean, square, g, clip, learning_rate, decay):
        xp, (b1, b2) = namespace(parameter, g), self.betas
        flat = [a.reshape(-1) for a in (parameter, mean, square, g)]  # views: all are contiguous
        if compiled := twins.update(*flat):
            rate, eps = self._rates(learning_rate)
            compiled(*flat, (clip, rate, eps, 1 - decay, b1, 1 - b1, b2, 1 - b2))
            return
        chunk = min(CHUNK, g.size) if xp is np else g.size  # a device takes all of it at once
        scratch = xp.empty(chunk, g.dtype)
        for start in range(0, g.size, chunk):
            p, m, v, d = (a[start : start + chunk] for a in flat)
            step = scratch[: p.size]
            self._step(m, v, d, step, clip, learning_rate)
            if decay:
                p *= 1 - decay
            p -= step
