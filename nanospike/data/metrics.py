"""GLUE's metrics of predicted (n,) against labels (n,), as fractions.

Where a metric is not defined (a correlation with a constant, F1 with nothing to find and nothing found) it is 0: such
predictions say nothing about the labels, and a NaN would spoil every average that it enters.
"""

import numpy as np


def accuracy(predicted, labels):
    return float(np.mean(predicted == labels))


def f1(predicted, labels):
    """Of class 1; 0 where there is nothing to count."""
    hits = int(np.sum((predicted == 1) & (labels == 1)))
    total = int(np.sum(predicted == 1) + np.sum(labels == 1))
    return 2 * hits / total if total else 0.0


def matthews(predicted, labels):
    """Matthews correlation of two classes: Pearson's of their 0 and 1; 0 where a class is missing."""
    return pearson(predicted == 1, labels == 1)


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


METRICS = {m.__name__: m for m in (accuracy, f1, matthews, pearson, spearman, pearson_spearman)}
