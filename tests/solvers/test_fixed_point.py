"""Fixed points of maps whose behaviour is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from systems import contraction

from nanospike.arrays.backend import to_device
from nanospike.config.errors import InputError
from nanospike.solvers.adjoint import FORWARD_METHODS, Code, NotConverged, fixed_point
from nanospike.solvers.fixed_point import iterate


@given(seed=st.integers(0, 2**31), gain=st.floats(0.1, 3.0), batch=st.integers(1, 4))
def test_fixed_points_of_clipped_maps(seed, gain, batch):
    """z = clip(W z + b): reported residuals are those of the answer, and no example hangs on its neighbours."""
    rng = np.random.default_rng(seed)
    w, b = contraction(rng, 6, gain), rng.uniform(-1, 1, (batch, 6))
    solution = fixed_point(lambda z: np.clip(z @ w.T + b, 0, 1), np.zeros((batch, 6)), rtol=1e-12, box=(0, 1))
    residuals = np.linalg.norm(np.clip(solution.x @ w.T + b, 0, 1) - solution.x, axis=1)
    sizes = np.linalg.norm(np.clip(solution.x @ w.T + b, 0, 1), axis=1)
    np.testing.assert_allclose(residuals / np.where(sizes > 0, sizes, 1), solution.residuals, atol=1e-14)
    assert solution.converged == (solution.residual <= 1e-12)
    if gain < 0.7:
        assert solution.converged


def test_anderson_needs_few_steps_and_damping_saves_the_rest(xp, device):
    rng = np.random.default_rng(8)
    w, b = to_device(contraction(rng, 20, 0.9), device), to_device(rng.uniform(0, 0.1, (3, 20)), device)
    solution = fixed_point(lambda z: z @ w.T + b, b * 0, rtol=1e-10)
    assert solution.converged and solution.iterations < 80 and type(solution.x) is type(xp.zeros(1))
    rotation = to_device(np.array([[0.0, -3.0], [3.0, 0.0]]), device)  # Picard explodes; damping 0.2 contracts
    solution = fixed_point(lambda z: xp.clip(z @ rotation.T + 0.4, 0, 1), xp.zeros((1, 2)), rtol=1e-10, box=(0, 1))
    assert solution.converged


def test_a_map_without_fixed_point_is_reported():
    solution = fixed_point(lambda z: z + 1, np.zeros((2, 3)), rtol=1e-10)
    assert not solution.converged and "2 of 2 examples" in solution.message
    with pytest.raises(NotConverged, match="equilibrium"):
        fixed_point(lambda z: z + 1, np.zeros((2, 3)), rtol=1e-10, throw=True)


@pytest.mark.parametrize("method", FORWARD_METHODS)
@given(
    seed=st.integers(0, 2**31), gain=st.floats(0.1, 2.0), neighbour=st.sampled_from(["no fixed point", "nan", "hard"])
)
def test_an_example_alone_equals_itself_beside_any_neighbour(method, seed, gain, neighbour):
    rng = np.random.default_rng(seed)
    w, b, hard = contraction(rng, 6, gain), rng.uniform(-1, 1, (1, 6)), contraction(rng, 6, 4.0)

    def good(z):
        return np.clip(z @ w.T + b, 0, 1)

    def both(z):
        other = {"no fixed point": 1 - np.round(z[1:]), "nan": z[1:] * np.nan, "hard": np.clip(z[1:] @ hard + b, 0, 1)}
        return np.concatenate([good(z[:1]), other[neighbour]])

    alone = fixed_point(good, np.full((1, 6), 0.3), rtol=1e-10, method=method, box=(0, 1))
    beside = fixed_point(both, np.full((2, 6), 0.3), rtol=1e-10, method=method, box=(0, 1))
    np.testing.assert_allclose(beside.x[0], alone.x[0], rtol=1e-8, atol=1e-9)
    assert beside.codes[0] == alone.codes[0] and np.isfinite(beside.x).all()
    if neighbour == "nan":
        assert beside.codes[1] == Code.NONFINITE_OUTPUT and "look for NaN" in beside.message


@pytest.mark.parametrize("method", FORWARD_METHODS)
@pytest.mark.parametrize("dtype, rtol", [("float64", 1e-13), ("float32", 1e-6)])
def test_every_method_on_every_library_and_warm_starts(method, dtype, rtol, xp, device):
    rng = np.random.default_rng(9)
    w = to_device(contraction(rng, 20, 0.8).astype(dtype), device)
    b = to_device(rng.uniform(-1, 1, (3, 20)).astype(dtype), device)

    def f(z):
        return xp.clip(z @ w.T + b, 0, 1)

    solution = fixed_point(f, b * 0, rtol=rtol, method=method, box=(0, 1))
    assert solution.converged and solution.x.dtype == dtype and type(solution.x) is type(b)
    assert solution.iterations == solution.steps.max()
    again = fixed_point(f, solution.x, rtol=rtol, method=method, box=(0, 1))
    assert again.converged and again.iterations == 1


def test_acceleration_pays():
    rng = np.random.default_rng(10)
    w, b = contraction(rng, 20, 0.9), rng.uniform(-1, 1, (8, 20))
    evaluations = {
        m: fixed_point(lambda z: np.clip(z @ w.T + b, 0, 1), b * 0, rtol=1e-9, method=m, box=(0, 1)).iterations
        for m in FORWARD_METHODS
    }
    assert max(evaluations["anderson"], evaluations["broyden"]) < 0.7 * evaluations["damped"], evaluations


def test_broyden_is_exact_on_a_small_linear_map():
    """Gay 1979: 2 n steps on a linear system of n unknowns."""
    rng = np.random.default_rng(11)
    w, b = 3 * rng.standard_normal((4, 4)), rng.standard_normal((2, 4))
    solution = fixed_point(lambda z: z @ w.T + b, b * 0, rtol=1e-8, method="broyden")
    assert solution.converged and solution.iterations <= 11


def test_a_start_that_is_not_finite_is_said_and_left_out():
    start = np.zeros((2, 3))
    start[1, 1] = np.nan
    solution = fixed_point(lambda z: z / 2 + 1, start, rtol=1e-10)
    assert solution.codes.tolist() == [Code.OK, Code.NONFINITE_INPUT] and np.isfinite(solution.x).all()
    assert solution.residual == np.inf and "not finite" in solution.message


@pytest.mark.parametrize("update, ways", [(None, 2), (lambda x, fx: fx, 3)])
def test_each_way_is_given_up_after_twelve_steps_without_a_better_residual(update, ways):
    """The residual of x + 1 + |x| is least at 0, where it begins: twelve more steps go to each way."""
    found, evaluations = iterate(lambda x: x + 1 + np.abs(x), np.zeros((1, 1)), update, 1e-9, 200, relative=False)
    assert evaluations == found.steps[0] == 1 + 12 * ways and found.codes[0] == Code.STAGNATION


def test_an_unknown_method_names_the_known():
    with pytest.raises(InputError, match="forward solver: found 'newton', expected one of anderson, broyden, damped"):
        fixed_point(lambda z: z, np.zeros((1, 1)), rtol=1e-3, method="newton")
