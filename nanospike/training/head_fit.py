"""A classifier that fits the teacher's logits at once, by least squares, where the student's rates have been learnt.

A student has no pooler, so that a teacher's classifier says nothing of its rates; and one that is learnt by steps of
the gradient moves all that is below it, away from the teacher's hidden states, before it says anything.
"""

import functools
import sys

import numpy as np

from ..arrays.backend import to_device, to_host
from ..arrays.workers import ALONE
from ..data.text import collate, evenly, in_length_order
from .parallel import world
from .teacher_cache import Parts, computed

TEXTS, AT_A_TIME = 4096, 32  # of the training data, evenly spread
RIDGE = 1e-2  # of the mean variance of a rate


def begin_with_head(student, teacher, data, workers, start):
    """Give the student the classifier that fits, before the first update of a stage; start: how many were done."""
    if start:
        return
    head, explained = world().once(fit_head, student, teacher, data, workers)
    for name, array in student.tree["classifier"].items():
        array[...] = to_device(head[name].astype(array.dtype), student.device)
    if world().rank == 0:
        print(
            f"classifier fitted to the teacher's logits, {explained:.1%} of whose variance it explains", file=sys.stderr
        )


def fit_head(student, teacher, data, workers=ALONE):
    """({"weight" (C, D), "bias" (C,)} of a classifier on the host, share of the logits' variance that it explains).

    It makes the teacher's logits of the equilibrium rates of [CLS], on TEXTS of data (text.Encoded). With one output
    they are the numbers of a regression.
    """
    some, now = evenly(data, TEXTS), student.computing(workers)
    answer = functools.partial(computed, teacher, parts=Parts((), (), logits=True))

    def rows(index):
        batch = collate(some, index, student.device)
        settled = now.equilibrium(batch.input_ids, batch.attention_mask, batch.token_type_ids)
        return to_host(settled.hidden_states[-1][:, 0]), to_host(answer(batch).logits)

    found = workers.map(rows, in_length_order(some, AT_A_TIME))
    rates, logits = (np.concatenate(part).astype(np.float64) for part in zip(*found, strict=True))
    weight, bias = least_squares(rates, logits)
    spread = ((logits - logits.mean(axis=0)) ** 2).sum()
    missed = ((rates @ weight.T + bias - logits) ** 2).sum()
    return {"weight": weight, "bias": bias}, float(1 - missed / spread) if spread else 0.0


def least_squares(x, y, ridge=RIDGE):
    """(weight (C, D), bias (C,)) with the least squared error of x weight^T + bias, and not too large a weight.

    x (n, D), y (n, C); ridge: the penalty on the weight, in units of the mean variance of x.
    """
    centre, target = x.mean(axis=0), y.mean(axis=0)
    over = x - centre
    covariance = over.T @ over / len(x)
    scale = covariance.trace() / len(covariance)
    penalty = ridge * scale if scale else 1.0
    weight = np.linalg.solve(covariance + penalty * np.eye(len(covariance)), over.T @ (y - target) / len(x)).T
    return weight, target - weight @ centre
