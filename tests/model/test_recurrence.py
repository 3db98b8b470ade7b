"""The return paths: what they compute, written down directly, and where training must leave their weights."""

import numpy as np
import pytest
from models import LOOPS, random_student

from nanospike.arrays.backend import to_device, to_host
from nanospike.model import recurrence


@pytest.mark.parametrize("loop", LOOPS)
def test_currents_by_matrices(loop):
    student, rng = random_student(3, **LOOPS[loop]), np.random.default_rng(0)
    z, config = rng.standard_normal((2, 3, 8)), student.config
    weights = {n.partition(".")[2]: p for n, p in student.parameters().items() if n.startswith("feedback.")}
    if config.looped:
        matrix = np.diag(weights["scale"])
    elif config.feedback_rank:
        matrix = weights["up"] @ weights["down"]
    else:
        matrix = weights.get("weight")
    current, vjp = recurrence.to_embedding(z, config, student.tree)
    if matrix is None:
        assert current is None and vjp is None
    else:
        source = z[:, :1] if config.feedback_from == "cls" else z
        np.testing.assert_allclose(current, np.einsum("blj,ij->bli", source, matrix), rtol=1e-12, atol=1e-14)
        v, u = rng.standard_normal((2, 2, 3, 8))
        product = np.einsum("blj,ij->bli", u[:, :1] if config.feedback_from == "cls" else u, matrix)
        np.testing.assert_allclose((vjp(v) * u).sum(), (v * product).sum(), rtol=1e-10)
    current, _ = recurrence.to_output(z, config, student.tree)
    if config.lateral:
        wanted = -np.einsum("blj,ij->bli", z, student.parameters()["lateral.weight"])
        np.testing.assert_allclose(current, wanted, rtol=1e-12, atol=1e-14)
    else:
        assert current is None


def test_weights_to_start_with():
    """Of size gain / sqrt(D), a scale of gain, inhibition whose rows add up to about 0.8 gain."""
    fresh = lambda name, *shape: recurrence.fresh(name, shape, 0.2, np.random.default_rng(0))  # noqa: E731
    assert fresh("feedback.weight", 300, 200).std() == pytest.approx(0.2 / np.sqrt(200), rel=0.02)
    assert fresh("feedback.down", 40, 200).std() == pytest.approx(1 / np.sqrt(200), rel=0.05)
    assert fresh("feedback.up", 200, 40).std() == pytest.approx(0.2 / np.sqrt(40), rel=0.05)
    assert fresh("feedback.scale", 5).tolist() == [0.2] * 5
    lateral = fresh("lateral.weight", 400, 400)
    assert recurrence.is_inhibition(lateral)
    assert lateral.sum(axis=1).mean() == pytest.approx(0.2 * np.sqrt(2 / np.pi) * 399 / 400, rel=0.02)


def test_after_an_update_weights_are_where_they_must_be(xp, device):
    before = {
        "lateral.weight": np.array([[0.5, -0.1, 0.2], [0.3, -0.4, 0.0], [-2.0, 1.0, 7.0]]),
        "thresholds.embedding": np.array([0.3, 0.009, -1.0]),
        "thresholds.encoder.0.key": np.array([0.01]),
        "feedback.weight": np.array([[-1.0]]),
        "classifier.bias": np.array([-3.0, 0.0]),
    }
    live = {n: to_device(v.copy(), device) for n, v in before.items()}
    recurrence.project(live)
    after = {n: to_host(v) for n, v in live.items()}
    assert after["lateral.weight"].tolist() == [[0, 0, 0.2], [0.3, 0, 0], [0, 1, 0]]
    assert after["thresholds.embedding"].tolist() == [0.3, 0.01, 0.01] and after["thresholds.encoder.0.key"] == 0.01
    assert all(np.array_equal(after[n], before[n]) for n in ("feedback.weight", "classifier.bias"))


@pytest.mark.parametrize("entry, value, fits", [((0, 1), 0.0, True), ((0, 1), -1e-9, False), ((1, 1), 1e-9, False)])
def test_what_inhibits(entry, value, fits):
    weight = np.array([[0.0, 0.5], [0.1, 0.0]])
    weight[entry] = value
    assert recurrence.is_inhibition(weight) == fits
