"""AdamW on a GPU, which decides there whether an update is made: the host never waits for a gradient's norm."""

import math

from ..arrays.backend import has_kernels, namespace, to_host
from ..arrays.tree import RowSum
from ..arrays.update_gpu import BAD_NORM, DIVERGED, EXPLODED, LOG_NORM, NORM, STEP, USUAL, Update
from ..arrays.workers import ALONE
from . import optim

FLOATS = ("float32", "float64")


def optimizer_of(parameters, weight_decay=0.01):
    """The AdamW for {name: array}: fused where they are on a GPU and of one dtype, else the portable one."""
    kinds = {p.dtype.name for p in parameters.values()}
    fused = has_kernels(namespace(*parameters.values())) and len(kinds) == 1 and kinds < {*FLOATS}
    kind = DeviceAdamW if fused else optim.AdamW
    return kind(parameters, weight_decay=weight_decay)


class DeviceAdamW:
    """optim.AdamW, which is the reference: the same arguments, attributes and numbers, to rounding.

    A divergence is found on the device. From then on no update changes anything, and `check` raises it.
    """

    def __init__(self, parameters, *, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8):
        optim.require_contiguous(parameters)
        self.parameters, self.weight_decay, self.betas, self.eps = parameters, weight_decay, betas, eps
        self.device = Update(parameters, optim.decays)
        self.moments = self.device.moments

    def update(self, grads, learning_rate, max_norm=None, workers=ALONE):
        """One step on {name: array or RowSum}; returns the gradients' norm before clipping, a 0-d array.

        The next update overwrites it.
        """
        dense = {n: g for n, g in grads.items() if not isinstance(g, RowSum)}
        sparse = {n: g.parts() for n, g in grads.items() if isinstance(g, RowSum)}
        dense = {n: g if g.flags.c_contiguous else g.copy() for n, g in dense.items()}
        rule = (max_norm or 0, max_norm or optim.HARMLESS, optim.EXPLODED, optim.JUDGED, optim.FADE, optim.IN_A_ROW)
        self.device.step(dense, sparse, learning_rate, self.weight_decay, self.betas, self.eps, rule)
        return self.device.state[NORM]

    def check(self):
        """Raise Diverged if an update has found so. Waits for the device."""
        state = to_host(self.device.state)
        if not state[DIVERGED]:
            return
        usual = state[USUAL] if state[DIVERGED] == 2 else None
        raise optim.diverged(float(state[BAD_NORM]), int(state[STEP]) + 1, usual)

    @property
    def step(self):
        return int(self.device.state[STEP])

    @step.setter
    def step(self, value):
        self.device.state[STEP] = value

    @property
    def log_norm(self):
        value = float(self.device.state[LOG_NORM])
        return None if math.isnan(value) else value

    @log_norm.setter
    def log_norm(self, value):
        self.device.state[LOG_NORM] = math.nan if value is None else value

    @property
    def exploded(self):
        return int(self.device.state[EXPLODED])

    @exploded.setter
    def exploded(self, value):
        self.device.state[EXPLODED] = value
