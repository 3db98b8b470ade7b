"""GLUE's metrics against hand-worked values, tables of counts and scipy; where they are not defined they are 0."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nanospike.data.metrics import (
    METRICS,
    accuracy,
    f1,
    macro_f1,
    matthews,
    pearson,
    pearson_spearman,
    rmse,
    spearman,
    standard_error,
)


def test_metrics_worked_out_by_hand():
    predicted, labels = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 1, 1])  # 2 hits, 1 false, 1 missed, 1 rejected
    assert accuracy(predicted, labels) == 3 / 5
    assert f1(predicted, labels) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert matthews(predicted, labels) == pytest.approx((2 * 1 - 1 * 1) / np.sqrt(3 * 3 * 2 * 2))
    x, y = np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 40])
    r = (x - 2.5) @ (y - 11.5) / np.sqrt(5 * ((y - 11.5) @ (y - 11.5)))
    assert pearson_spearman(x, y) == pytest.approx((r + (1 - 6 * 2 / (4 * 15))) / 2)


@pytest.mark.parametrize("metric", ["accuracy", "agreement_with_teacher", "pearson"])
@pytest.mark.parametrize("size", [10, 25])
def test_the_standard_error_is_the_spread_over_many_samples(metric, size):
    rng, true = np.random.default_rng(size), 0.8
    if metric == "pearson":
        pairs = rng.multivariate_normal([0, 0], [[1, true], [true, 1]], (4000, size))
        found = [pearson(x[:, 0], x[:, 1]) for x in pairs]
    else:
        found = (rng.random((4000, size)) < true).mean(axis=1)
    assert standard_error(metric, true, size) == pytest.approx(np.std(found), rel=0.2)
    assert all(0 < standard_error(metric, score, 1) < 1.1 for score in (0.0, 1.0))


def test_metrics_where_a_class_is_missing():
    none, ones = np.zeros(4, int), np.ones(4, int)
    assert f1(none, none) == 0 and f1(ones, ones) == 1 and f1(none, ones) == 0
    assert matthews(none, np.array([0, 1, 0, 1])) == 0 and matthews(ones, ones) == 0


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7e5, 1 / 3])
def test_a_constant_correlates_with_nothing(value):
    """0.1 has no exact binary form: the standard deviation of many of it is not 0."""
    for n in (1, 2, 3, 7, 1000):
        for metric in (pearson, spearman, pearson_spearman):
            assert metric(np.full(n, value), np.arange(n)) == 0 and metric(np.arange(n), np.full(n, value)) == 0
            assert metric(np.full(n, value, np.float32), np.arange(n)) == 0


def test_every_metric_is_a_float_and_right_where_all_is_right():
    labels = np.array([0, 1, 1, 0, 1])
    for name, metric in METRICS.items():
        found = metric(labels.copy(), labels)
        assert type(found) is float and found == pytest.approx(0 if name == "rmse" else 1, abs=1e-12), name


def test_float32_predictions_are_correlated_in_double_precision():
    x = 1000 + np.arange(400, dtype=np.float32) / 100
    assert pearson(x, np.arange(400)) == pytest.approx(1, abs=1e-6)


binary = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30)


@given(binary)
def test_two_class_metrics_from_the_table_of_counts(pairs):
    predicted, labels = np.array(pairs).T
    tp, fp, fn, tn = (pairs.count(c) for c in ((1, 1), (1, 0), (0, 1), (0, 0)))
    assert accuracy(predicted, labels) == pytest.approx((tp + tn) / len(pairs))
    assert f1(predicted, labels) == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0)
    under = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    assert matthews(predicted, labels) == pytest.approx((tp * tn - fp * fn) / np.sqrt(under) if under else 0, abs=1e-12)
    if under:
        assert matthews(predicted, labels) == pytest.approx(stats.pearsonr(predicted, labels).statistic, abs=1e-9)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=30))
def test_correlations_equal_scipy_also_with_ties(pairs):
    x, y = np.array(pairs, float).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert pearson_spearman(x, y) == 0
    else:
        each = stats.pearsonr(x, y).statistic, stats.spearmanr(x, y).statistic
        assert (pearson(x, y), spearman(x, y)) == pytest.approx(each, abs=1e-9)
        expected = sum(each) / 2
        assert pearson_spearman(x, y) == pytest.approx(expected, abs=1e-9)
        assert pearson_spearman(3 * x - 7, y) == pytest.approx(expected, abs=1e-9)


several = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


@given(several)
def test_metrics_of_several_classes_from_indicators(pairs):
    """Matthews is the covariance of the two indicator matrices over the root of their variances (Gorodkin 2004)."""
    predicted, labels = np.array(pairs).T
    x, y = (np.eye(4)[side] - np.eye(4)[side].mean(axis=0) for side in (predicted, labels))
    under = np.sqrt((x * x).sum() * (y * y).sum())
    expected = (x * y).sum() / under if under > 1e-9 else 0.0
    assert matthews(predicted, labels) == pytest.approx(expected, abs=1e-9)
    scores = []
    for c in set(predicted.tolist()) | set(labels.tolist()):
        hits = pairs.count((c, c))
        precision, recall = hits / max(1, (predicted == c).sum()), hits / max(1, (labels == c).sum())
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    assert macro_f1(predicted, labels) == pytest.approx(np.mean(scores))


def test_the_error_is_in_the_unit_of_the_labels():
    assert rmse(np.array([1000.0, 1004]), np.array([1003.0, 1000])) == pytest.approx(np.sqrt((9 + 16) / 2))
