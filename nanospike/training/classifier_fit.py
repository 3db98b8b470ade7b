"""A classifier that fits the teacher's logits at once, by least squares, where the student's rates have been learnt.

A student has no pooler, so that the classifier of a teacher with one says nothing of its rates; and one that is learnt
by steps of the gradient moves all that is below it, away from the teacher's hidden states, before it says anything.
"""

import functools
import sys
import warnings

import numpy as np

from ..arrays.backend import to_device, to_host
from ..arrays.workers import ALONE, give_memory_back
from ..data.text import collate, evenly, in_length_order
from ..solvers.solution import Code
from .parallel import world
from .teacher_cache import Parts, computed

TEXTS, AT_A_TIME = 2048, 16  # of the training data, evenly spread
RIDGE = 1e-2  # of the mean variance of a rate


def begin_with_classifier(student, teacher, data, workers, start):
    """Fit the student's classifier before the first update of a stage; start: how many were done."""
    if start:
        return
    print(f"fitting the classifier to the teacher's logits on {min(TEXTS, len(data))} texts", file=sys.stderr)
    fitted, explained = fit_classifier(student, teacher, data, workers)
    for name, array in student.tree["classifier"].items():
        array[...] = to_device(fitted[name].astype(array.dtype), student.device)
    give_memory_back()
    print(f"the classifier explains {100 * explained:.1f} % of their variance", file=sys.stderr)


def fit_classifier(student, teacher, data, workers=ALONE):
    """({"weight" (C, D), "bias" (C,)} of a classifier on the host, share of the logits' variance that it explains).

    It makes the teacher's logits of the equilibrium rates of [CLS], on TEXTS of data (text.Encoded), whatever the
    stage is that it is for. With one output they are the numbers of a regression. Texts whose rates do not settle in a
    loop count for nothing. MPI ranks share the texts.
    """
    some, now = evenly(data, TEXTS), student.computing(workers)
    answer = functools.partial(computed, teacher, parts=Parts((), (), logits=True))

    def rows(index):
        batch = collate(some, index, student.device)
        settled = now.equilibrium(batch.input_ids, batch.attention_mask, batch.token_type_ids)
        fine = settled.codes == Code.OK
        return to_host(settled.hidden_states[-1][:, 0])[fine], to_host(answer(batch).logits)[fine]

    here = world()
    batches = in_length_order(some, AT_A_TIME)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of those that do not settle
        mine = workers.map(rows, batches[here.rank :: here.size])
    shares = here.gathered(mine)
    found = [shares[i % here.size][i // here.size] for i in range(len(batches))]  # as one process has them
    rates, logits = (np.concatenate(part).astype(np.float64) for part in zip(*found, strict=True))
    return here.once(_fitted, rates, logits)


def _fitted(rates, logits):
    weight, bias = least_squares(rates, logits)
    if not len(logits):  # nothing settles: it begins with 0, and learns
        return {"weight": weight, "bias": bias}, 0.0
    spread = ((logits - logits.mean(axis=0)) ** 2).sum()
    missed = ((rates @ weight.T + bias - logits) ** 2).sum()
    return {"weight": weight, "bias": bias}, float(1 - missed / spread) if spread else 0.0


def least_squares(x, y, ridge=RIDGE):
    """(weight (C, D), bias (C,)) with the least squared error of x weight^T + bias, and not too large a weight.

    x (n, D), y (n, C); ridge: the penalty on the weight, in units of the mean variance of x. Without rows all is 0.
    """
    if not len(x):
        return np.zeros((y.shape[1], x.shape[1])), np.zeros(y.shape[1])
    centre, target = x.mean(axis=0), y.mean(axis=0)
    over = x - centre
    covariance = over.T @ over / len(x)
    scale = covariance.trace() / len(covariance)
    penalty = ridge * scale if scale else 1.0
    weight = np.linalg.solve(covariance + penalty * np.eye(len(covariance)), over.T @ (y - target) / len(x)).T
    return weight, target - weight @ centre
