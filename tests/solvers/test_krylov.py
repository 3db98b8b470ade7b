"""Our batched GMRES: what a library's does not promise."""

import numpy as np
import pytest
from conftest import check_owner
from hypothesis import given
from hypothesis import strategies as st
from systems import contraction, contractions, exact, solved

from nanospike import solve_adjoint
from nanospike.arrays.backend import to_device, to_host
from nanospike.solvers import krylov, linear
from nanospike.solvers.adjoint import Code


@given(
    seed=st.integers(0, 2**31), gains=st.lists(st.floats(0, 1.5), min_size=1, max_size=4), n=st.integers(1, 12),
    restart=st.sampled_from([5, 12, None]),
)  # fmt: skip
def test_against_a_dense_solve_beyond_gain_one(seed, gains, n, restart):
    """What GMRES needs is 1 outside the spectrum, and no gain below 1; a space of all dimensions always suffices."""
    rng = np.random.default_rng(seed)
    a, c = contractions(rng, n, gains), rng.standard_normal((len(gains), n))
    solution, x = solved(a, c, rtol=1e-10, restart=restart)
    condition = np.linalg.cond(np.eye(n) - a)
    fine = (condition < 1e4) & ((restart or 30) >= n)
    assert (solution.codes[fine] == Code.OK).all()
    done = solution.codes == Code.OK
    errors = np.linalg.norm(x - exact(a, c), axis=1) / np.linalg.norm(c, axis=1)
    assert (errors[done] <= 1e-9 * condition[done]).all()


@given(seed=st.integers(0, 2**31), gain=st.floats(0, 1.3), dtype=st.sampled_from(["float32", "float64"]))
def test_the_residual_never_grows_with_the_products_allowed(seed, gain, dtype):
    rng = np.random.default_rng(seed)
    a, c = contractions(rng, 10, [gain, 0.5 * gain]), rng.standard_normal((2, 10))
    residuals = [solved(a, c, dtype, rtol=0.0, max_iterations=k, restart=4)[0].residuals for k in range(1, 16)]
    floor = 20 * np.finfo(dtype).eps
    assert (np.diff(residuals, axis=0) <= floor).all() and (np.array(residuals) <= 1).all()


@given(seed=st.integers(0, 2**31), n=st.integers(1, 8), gain=st.floats(0.05, 2))
def test_ritz_values_of_the_whole_space_are_the_eigenvalues(seed, n, gain):
    rng = np.random.default_rng(seed)
    a, c = contractions(rng, n, [gain, 0.3]), rng.standard_normal((2, n))
    solution, _ = solved(a, c, rtol=0.0)
    values = np.linalg.eigvals(a)
    np.testing.assert_allclose(solution.radius, np.abs(values).max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(solution.max_real, values.real.max(axis=1), rtol=1e-5, atol=1e-6)


def test_ritz_values_of_a_few_steps_are_good_estimates():
    rng = np.random.default_rng(1)
    gains = [0.2, 0.6, 0.9, 1.4]
    a, c = contractions(rng, 60, gains), rng.standard_normal((4, 60))
    solution, _ = solved(a, c, rtol=1e-6)
    np.testing.assert_allclose(solution.radius, gains, rtol=0.15)
    other, _ = solved(a, c, rtol=1e-6, method="anderson")
    assert np.isnan(other.radius).all() and np.isnan(other.max_real).all()


def test_ritz_of_what_was_not_solved_is_unknown():
    solution, _ = solved(np.zeros((2, 3, 3)), np.array([[1.0, 2, 3], [0, 0, 0]]))
    assert solution.radius[0] == 0 and np.isnan(solution.radius[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_costs_one_product_and_one_copy_to_the_host(xp, device, dtype, monkeypatch):
    rng = np.random.default_rng(2)
    a, c = contractions(rng, 20, [0.3, 0.6, 0.9]), rng.standard_normal((3, 20))
    copies = []
    for module in (krylov, linear):
        monkeypatch.setattr(module, "to_host", lambda x: copies.append(x.shape) or to_host(x))
    products = []
    matrix = to_device(a.astype(dtype), device)

    def vjp(v):
        check_owner(xp, v)
        assert v.dtype == dtype
        products.append(1)
        return (matrix @ v[..., None])[..., 0]

    solution = solve_adjoint(vjp, to_device(c.astype(dtype), device), rtol=1e-5)
    check_owner(xp, solution.x)
    assert solution.converged and solution.x.dtype == dtype and len(products) == solution.iterations
    assert len(copies) <= solution.iterations + 5
    assert solution.iterations == solution.steps.max() and list(np.argsort(solution.steps)) == [0, 1, 2]


def test_an_example_that_has_converged_is_left_alone():
    """Its products get zeros from then on, so that nothing in it can explode while the others go on."""
    rng = np.random.default_rng(3)
    a, c = contractions(rng, 20, [0.05, 0.95]), rng.standard_normal((2, 20))
    seen = []

    def vjp(v):
        seen.append(np.abs(v).max(axis=1))
        return (a @ v[..., None])[..., 0]

    solution = solve_adjoint(vjp, c, rtol=1e-8)
    easy = solution.steps[0] - 1
    assert solution.converged and easy < 10 < solution.iterations
    assert all(s[0] > 0 for s in seen[:easy]) and not any(s[0] for s in seen[easy:-1])


@pytest.mark.parametrize("dtype, rtol", [("float32", 3e-6), ("float64", 1e-13)])
def test_orthogonality_holds_to_the_limit_of_the_dtype(dtype, rtol):
    rng = np.random.default_rng(4)
    a, c = contractions(rng, 200, [0.9, 0.5]), rng.standard_normal((2, 200))
    solution, x = solved(a, c, dtype, rtol=rtol, restart=150)
    assert solution.converged and solution.iterations <= 120
    np.testing.assert_allclose(x, exact(a, c), rtol=0, atol=200 * rtol)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_singular_system_with_a_solution_is_solved_and_one_without_is_not(dtype, xp, device):
    rng = np.random.default_rng(5)
    b = contraction(rng, 6, 0.5)
    b[0] = 0
    b[0, 0] = 1  # row 0 of I - b is 0
    c = rng.standard_normal((2, 6))
    c[0, 0] = 0
    solution, x = solved(np.stack([b, b]), c, dtype, device, rtol=1e-5)
    assert solution.codes[0] == Code.OK and solution.codes[1] in (Code.BREAKDOWN, Code.STAGNATION)
    assert np.linalg.norm(c[0] - x[0] + b @ x[0]) < 1e-4 and np.abs(x).max() < 1e3


def test_a_product_that_turns_bad_keeps_what_was_found_before():
    rng = np.random.default_rng(6)
    a, c = contraction(rng, 10, 0.8), rng.standard_normal((2, 10))
    calls = []

    def vjp(v):
        calls.append(1)
        out = v @ a.T
        if len(calls) == 5:
            out[0] = np.nan
        return out

    solution = solve_adjoint(vjp, c, rtol=1e-10)
    assert solution.codes.tolist() == [Code.NONFINITE_OUTPUT, Code.OK] and solution.residuals[0] < 1
    np.testing.assert_allclose(solution.x[1], exact(a[None], c[1:])[0], rtol=1e-7)
