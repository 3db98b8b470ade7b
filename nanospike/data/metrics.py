"""GLUE's metrics of predicted (n,) against labels (n,), as fractions.

Where a metric is not defined (a correlation with a constant, F1 with nothing to find and nothing found) it is 0: such
predictions say nothing about the labels, and a NaN would spoil every average that it enters.
"""

import math

import numpy as np


def accuracy(predicted, labels):
    return float(np.mean(predicted == labels))


def f1(predicted, labels):
    """Of class 1; 0 where there is nothing to count."""
    hits = int(np.sum((predicted == 1) & (labels == 1)))
    total = int(np.sum(predicted == 1) + np.sum(labels == 1))
    return 2 * hits / total if total else 0.0


def macro_f1(predicted, labels):
    """The mean of F1 over the classes that are predicted or there."""
    classes = np.unique(np.concatenate((predicted, labels)))
    return float(np.mean([f1(predicted == c, labels == c) for c in classes]))


def matthews(predicted, labels):
    """Matthews correlation, of more than two classes as Gorodkin (2004) has it; 0 where a side has one class only."""
    classes = np.unique(np.concatenate((predicted, labels)))
    if len(classes) <= 2:
        return pearson(predicted == classes[-1], labels == classes[-1])
    p, t = (np.array([np.sum(side == c) for c in classes], float) for side in (predicted, labels))
    n, hits = len(labels), float(np.sum(predicted == labels))
    spread = (n**2 - p @ p) * (n**2 - t @ t)
    return float((hits * n - p @ t) / np.sqrt(spread)) if spread else 0.0


def pearson(predicted, labels):
    """Pearson's correlation; 0 where either side is constant."""
    a, b = np.asarray(predicted, np.float64), np.asarray(labels, np.float64)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def spearman(predicted, labels):
    """Pearson's correlation of the ranks, equal values sharing their mean rank; 0 where either side is constant."""
    from scipy.stats import rankdata

    return pearson(rankdata(predicted), rankdata(labels))


def pearson_spearman(predicted, labels):
    """The mean of Pearson's and Spearman's correlation."""
    return (pearson(predicted, labels) + spearman(predicted, labels)) / 2


def rmse(predicted, labels):
    """The root of the mean squared error, in the unit of the labels: not a fraction, and less is better."""
    return float(np.sqrt(np.mean((np.asarray(predicted, np.float64) - labels) ** 2)))


def standard_error(metric, score, examples):
    """About that of a metric, a fraction, on so many examples; a score of 0 or 1 is taken for one beside it.

    A correlation's: (1 - r^2) / sqrt(n - 1) (Fisher 1915). Any other's: that of a share of right answers.
    """
    if METRICS[metric] in (matthews, pearson, spearman, pearson_spearman):
        return (1 - min(abs(score), 1 - 1 / (examples + 2)) ** 2) / math.sqrt(max(examples - 1, 1))
    share = (score * examples + 1) / (examples + 2)
    return math.sqrt(share * (1 - share) / examples)


METRICS = {m.__name__: m for m in (accuracy, f1, macro_f1, matthews, pearson, spearman, pearson_spearman, rmse)}
METRICS |= {"agreement_with_teacher": accuracy, "pearson_with_teacher": pearson}
