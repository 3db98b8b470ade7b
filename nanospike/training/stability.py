"""Keeps the loop of a student in training stable: the feedback's gain, examples that fail, a penalty on the Jacobian.

The simulated student settles where the loop's gain is below 1 (below 0.9 it does so as 1/T: docs/method.md), and no
bound on the weights says so through LayerNorm and attention. So the gain is measured, from the Ritz values of an
adjoint solve by gmres or from the eigenvalues that dense finds (other solvers tell none), and the weights of the return
paths are scaled down when it passes TARGET: the Jacobian is linear in them.
"""

from collections import deque

import numpy as np

from ..model.recurrence import SCALED
from ..solvers.adjoint import Code
from .optim import Diverged
from .parallel import world

TARGET = 0.9  # gain above which the feedback weight is scaled down
WINDOW = 50  # updates looked at together
MOST_FAILED = 0.25  # share of the examples of a full window that may fail before the run is stopped


class Stability:
    """Of one stage of training. What it knows is for the log and for stopping; after --resume it starts empty."""

    def __init__(self, parameters):
        """parameters: {name: live array} of the student."""
        self.parameters = parameters
        self.window = deque(maxlen=WINDOW)  # (examples that failed, examples) of the last updates
        self.gain, self.failed, self.rescaled = None, 0, 0  # since the last line of the log

    def after(self, results):
        """Look at the parts of a batch (gradients.Gradients), rescale the feedback; Diverged if too many failed."""
        gain, failed, examples, message = over_parts(results)
        self.window.append((failed, examples))
        self.failed += failed
        bad, seen = (sum(column) for column in zip(*self.window, strict=True))
        if len(self.window) == WINDOW and bad > MOST_FAILED * seen:
            raise Diverged(f"{bad} of the {seen} examples of the last {WINDOW} updates did not converge: {message}")
        if gain is not None:
            self.gain = gain if self.gain is None else max(self.gain, gain)
            if gain > TARGET:
                self.rescaled += 1
                rescale(self.parameters, TARGET / gain)

    def notes(self):
        """What a line of the log says of the updates since the last one.

        loop_gain: the largest estimate, None where the adjoint solver has none; rescaled: updates after which the
        feedback was scaled down; failed: examples whose equilibrium or adjoint system was not solved.
        """
        values = {"loop_gain": self.gain, "rescaled": self.rescaled, "failed": self.failed}
        self.gain, self.failed, self.rescaled = None, 0, 0
        return values


def over_parts(results):
    """(largest gain or None, examples that failed, examples, a failure's message) of a batch that comes in parts.

    They are those of all MPI ranks, so that each rescales the same weights by the same factor.
    """
    gains = [r.adjoint.radius for r in results if r.adjoint is not None]
    known = [float(g) for radius in gains for g in radius if np.isfinite(g)]
    failures = [failed(r) for r in results]
    messages = [s.message for r in results if r.adjoint for s in (r.equilibrium, r.adjoint) if s.message]
    failing, examples = sum(int(f.sum()) for f in failures), sum(len(f) for f in failures)
    told = world().gathered((max(known, default=None), failing, examples, next(iter(messages), "")))
    gains, failures, sizes, messages = zip(*told, strict=True)
    return max((g for g in gains if g is not None), default=None), sum(failures), sum(sizes), max(messages, key=len)


def failed(result):
    """Which examples' equilibrium or adjoint system was not solved: (B,) bool. Cut short as asked is no failure."""
    if result.adjoint is None:  # without a loop nothing is solved
        return np.zeros(result.examples, bool)
    return (result.equilibrium.codes > Code.OK) | (result.adjoint.codes > Code.TRUNCATED)


def rescale(parameters, factor):
    """Scale the loop's gain by `factor`."""
    for name in SCALED:
        if name in parameters:
            parameters[name] *= factor
