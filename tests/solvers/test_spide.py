"""The adjoint by ternary spikes: how well it does, and what it says of itself."""

import numpy as np
import pytest
from systems import contractions, exact, solved

from nanospike.solvers.adjoint import Code


def errors(a, c, **options):
    solution, x = solved(a, c, method="spide", **options)
    wanted = exact(a, c)
    return solution, np.linalg.norm(x - wanted, axis=1) / np.linalg.norm(wanted, axis=1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_error_falls_as_one_over_the_time_steps_at_any_scale(dtype):
    rng = np.random.default_rng(0)
    a = contractions(rng, 30, [0.3, 0.6, 0.6])
    c = rng.standard_normal((3, 30)) * np.array([[1e-9], [1.0], [1e6]])
    for steps, bound in ((50, 0.05), (250, 0.012), (1000, 0.004)):
        solution, error = errors(a, c, dtype=dtype, time_steps=steps)
        assert error.max() < bound and solution.residual < 1.5 * bound and solution.iterations == steps
        assert solution.code is Code.TRUNCATED


def test_a_large_solution_is_rescaled_and_saturation_counted():
    """x is 20 times c: the first scale is far too small, neurons saturate, and the run recovers."""
    a, c = np.full((1, 4, 4), 0.95 / 4), np.ones((1, 4))
    solution, error = errors(a, c, time_steps=2000)
    assert solution.saturated > 0 and error < 0.02
    easy, _ = errors(a * 0, c, time_steps=2000)
    assert easy.saturated == 0


def test_by_hand():
    """J = 0, c = 1: scale 1 / 0.7, current 0.7; membranes 0.7, 0.4, 1.1, 0.8 and spikes 1, 0, 1, 1."""
    solution, x = solved(np.zeros((1, 1, 1)), np.ones((1, 1)), method="spide", time_steps=3)
    np.testing.assert_allclose(x, 2 / 3 / 0.7, rtol=1e-12)


def test_there_are_250_steps_unless_asked():
    assert solved(np.zeros((1, 2, 2)), np.ones((1, 2)), method="spide")[0].iterations == 250


def test_on_every_library(xp, device):
    rng = np.random.default_rng(1)
    a, c = contractions(rng, 10, [0.4, 0.5]), rng.standard_normal((2, 10))
    solution, x = solved(a, c, "float32", device, method="spide", time_steps=64)
    assert type(solution.x) is type(xp.zeros(1)) and isinstance(solution.saturated, int)
    assert np.linalg.norm(x - exact(a, c)) / np.linalg.norm(c) < 0.1
