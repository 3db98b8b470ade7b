"""How long a student has to run: found on texts without labels once, after training, and kept in its config.json."""

import numpy as np

from ..arrays.workers import ALONE
from ..data.text import evenly
from ..model.simulate import decided
from .classifier import ANYTIME_DECAY, ANYTIME_STEPS, PREDICT_STEPS
from .inference import run_student

MARGINS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)  # logits
EXAMPLES = 512  # texts that it is found on
CHANGED = 0.005  # share of the decisions that stopping early may change: less than on others, which are harder
AGREED = 0.99  # share of the decisions at the recommended number of time steps that are those at the equilibrium


def stopped(logits, margin, decay=0.0):
    """(logits (n, C) of each example at its stop, the steps (n,) that it took), from {time step: logits}."""
    last = max(logits)
    final, taken = logits[last].copy(), np.full(len(logits[last]), last)
    for t in sorted(logits, reverse=True):
        stop = decided(logits[t], margin / t**decay)
        final[stop], taken[stop] = logits[t][stop], t
    return final, taken


def calibrated(student, data, workers=ALONE, few_steps=None):
    """{recommended_time_steps, anytime_margin} of a student, from training texts `data`; {} where nothing is decided.

    few_steps: what it was trained to run, which then is what it recommends; else the fewest time steps, a power of two,
    at which it decides as at the equilibrium. The margin is the smallest of MARGINS that changes few decisions.
    """
    if student.config.activation == "ann" or student.config.num_labels < 2:
        return {}
    steps = range(1, ANYTIME_STEPS + 1)
    logits, _ = run_student(student, evenly(data, EXAMPLES), (*steps, PREDICT_STEPS), workers=workers)
    return {
        "recommended_time_steps": few_steps or recommended(logits),
        "anytime_margin": smallest_margin({t: logits[t] for t in steps}),
    }


def recommended(logits):
    """The fewest time steps, a power of two, whose decisions are those at the equilibrium; logits as of run_student."""
    settled = logits["equilibrium"].argmax(axis=1)
    powers = sorted(t for t in logits if t != "equilibrium" and t & (t - 1) == 0)
    agreed = (t for t in powers if (logits[t].argmax(axis=1) == settled).mean() >= AGREED)
    return next(agreed, powers[-1])


def smallest_margin(logits):
    """The smallest of MARGINS that changes few of the decisions at the last step of {time step: logits (n, C)}."""
    whole = logits[max(logits)].argmax(axis=1)
    changed = {m: (stopped(logits, m, ANYTIME_DECAY)[0].argmax(axis=1) != whole).mean() for m in MARGINS}
    return next((m for m in MARGINS if changed[m] <= CHANGED), MARGINS[-1])
