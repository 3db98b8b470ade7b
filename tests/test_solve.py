"""Solvers on systems whose answers are known, and on those that break the libraries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanospike import solve_adjoint
from nanospike.backend import to_device, to_host
from nanospike.config import InputError
from nanospike.solve import ADJOINT_METHODS, APPROXIMATE, OWN_METHODS, NotConverged, fixed_point

EXACT = [m for m in ADJOINT_METHODS if m not in APPROXIMATE]
ON_CUDA = [m for m in (*OWN_METHODS, "library-gmres", "bicgstab") if m not in APPROXIMATE]


def contraction(rng, n, gain):
    a = rng.standard_normal((n, n))
    return gain * a / np.abs(np.linalg.eigvals(a)).max()


def solved(matrices, cotangent, dtype, device, **options):
    """solve_adjoint of x = c + A x per example, A (B, n, n), c (B, n): (Solution, x on the host)."""
    a = to_device(matrices.astype(dtype), device)
    solution = solve_adjoint(
        lambda v: (a @ v[..., None])[..., 0], to_device(cotangent.astype(dtype), device), **options
    )
    return solution, to_host(solution.x)


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("dtype, rtol", [("float64", 1e-10), ("float32", 1e-5)])
@given(seed=st.integers(0, 2**31), batch=st.integers(1, 4), n=st.integers(1, 8), gain=st.floats(0, 0.8))
def test_against_a_dense_solve(method, dtype, rtol, seed, batch, n, gain):
    rng = np.random.default_rng(seed)
    a = np.stack([contraction(rng, n, gain) for _ in range(batch)])
    c = rng.standard_normal((batch, n)) * 10.0 ** rng.integers(-6, 3, (batch, 1))
    solution, x = solved(a, c, dtype, "cpu", method=method, rtol=rtol)
    assert solution.converged and solution.message == "" and x.dtype == dtype
    residual = c - x + (a @ x[..., None])[..., 0]
    relative = np.linalg.norm(residual, axis=1) / np.linalg.norm(c, axis=1)
    assert relative.max() <= rtol + 5e-6 * (dtype == "float32")
    assert solution.residual <= rtol and solution.residuals.shape == (batch,)


@pytest.mark.parametrize("method", ON_CUDA)
def test_on_every_library(method, xp, device):
    rng = np.random.default_rng(0)
    a, c = np.stack([contraction(rng, 6, 0.5) for _ in range(3)]), rng.standard_normal((3, 6))
    solution, x = solved(a, c, "float64", device, method=method, rtol=1e-10)
    assert solution.converged and type(solution.x) is type(xp.zeros(1))
    np.testing.assert_allclose(x, np.linalg.solve(np.eye(6) - a, c[..., None])[..., 0], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("method", EXACT)
def test_nilpotent_is_exact(method):
    rng = np.random.default_rng(1)
    a = np.tril(rng.standard_normal((6, 6)), -1)
    solution = solve_adjoint(lambda v: a @ v, c := rng.standard_normal(6), method=method, rtol=1e-12)
    assert solution.converged
    np.testing.assert_allclose(solution.x, np.linalg.solve(np.eye(6) - a, c), rtol=1e-11)
    if method == "sweep":
        assert solution.iterations <= 7 and solution.residual < 1e-15


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "vjp, factor",
    [(lambda v: v * 0, 1.0), (lambda v: -v, 0.5), (lambda v: v / 2, 2.0)],
    ids=["J = 0", "I - J = 2 I", "I - J = I / 2"],
)
def test_multiples_of_the_identity(method, dtype, vjp, factor):
    """Breakdown at the first step in a library's solver must not become a wrong answer."""
    if method == "sweep" and factor == 0.5:
        pytest.skip("the series 1 - 1 + 1 ... does not converge, and says so (next test)")
    c = np.random.default_rng(2).standard_normal((3, 5)).astype(dtype)
    solution = solve_adjoint(vjp, c, method=method)
    assert solution.converged
    np.testing.assert_allclose(solution.x, factor * c, rtol=1e-5)


@pytest.mark.parametrize("method", ["gmres", "library-gmres", "bicgstab"])
@pytest.mark.parametrize("factor", [-1.0, 0.5])
def test_exact_breakdown_on_every_library(method, factor, xp, device):
    c = to_device(np.random.default_rng(2).standard_normal((3, 5)), device)
    rank_one = to_device(np.outer(np.arange(5.0), np.ones(5)) / 20, device)
    for vjp in (lambda v: v * factor, lambda v: v @ rank_one):
        solution = solve_adjoint(vjp, c, method=method, rtol=1e-9)
        assert solution.converged, solution.message
        assert np.linalg.norm(to_host(c - solution.x + vjp(solution.x))) < 1e-8


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("aliased", ["argument", "buffer", "view"])
def test_products_that_alias_are_harmless(method, aliased):
    buffer, half = np.empty(6), np.diag([0.5] * 6)

    def vjp(v):
        if aliased == "argument":
            v *= 0.5
            return v
        np.matmul(half, v, out=buffer)
        return buffer if aliased == "buffer" else np.broadcast_to(buffer, (1, 6))[0]

    c = np.random.default_rng(3).standard_normal(6)
    kept = c.copy()
    solution = solve_adjoint(vjp, c, method=method, rtol=1e-10)
    np.testing.assert_allclose(solution.x, 2 * kept, rtol=1e-9)
    assert np.array_equal(c, kept)


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("dtype, scales", [("float64", (1e-200, 1e-12, 1e6)), ("float32", (1e-30, 1e-12, 1e6))])
def test_the_answer_scales_with_the_right_hand_side(method, dtype, scales):
    rng = np.random.default_rng(4)
    a, c = np.stack([contraction(rng, 6, 0.6) for _ in range(2)]), rng.standard_normal((2, 6))
    _, unit = solved(a, c, dtype, "cpu", method=method, rtol=1e-6)
    for scale in scales:
        solution, x = solved(a, scale * c, dtype, "cpu", method=method, rtol=1e-6)
        assert solution.converged
        np.testing.assert_allclose(x / np.dtype(dtype).type(scale), unit, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("method", EXACT)
def test_float32_at_its_limit_stays_honest(method):
    """rtol below what float32 can reach is clamped to 20 eps, and that is reached, whatever the library says."""
    rng = np.random.default_rng(5)
    a, c = contraction(rng, 50, 0.7)[None], rng.standard_normal((1, 50))
    solution, x = solved(a, c, "float32", "cpu", method=method, rtol=1e-12)
    assert solution.converged and solution.residual <= 20 * np.finfo("f4").eps
    np.testing.assert_allclose(x[0], np.linalg.solve(np.eye(50) - a[0], c[0]), rtol=1e-3, atol=1e-4)


def test_examples_of_very_different_size_are_all_solved():
    rng = np.random.default_rng(6)
    a = np.stack([contraction(rng, 8, g) for g in (0.1, 0.9, 0.5)])
    c = rng.standard_normal((3, 8)) * np.array([[1e6], [1e-6], [0.0]])
    solution, x = solved(a, c, "float64", "cpu", rtol=1e-9)
    assert solution.converged and not x[2].any() and solution.residuals[2] == 0
    expected = np.linalg.solve(np.eye(8) - a[:2], c[:2, :, None])[..., 0]
    np.testing.assert_allclose(x[:2], expected, rtol=1e-6)


def test_a_zero_cotangent_needs_no_products():
    solution = solve_adjoint(lambda v: v * np.nan, np.zeros((2, 3)))
    assert solution.converged and not solution.x.any() and solution.iterations == 0


@pytest.mark.parametrize("method", ADJOINT_METHODS)
@pytest.mark.parametrize("kind", ["singular", "nan product", "nan cotangent", "starved"])
def test_failure_is_honest(method, kind):
    rng = np.random.default_rng(7)
    c = rng.standard_normal((2, 30))
    a = contraction(rng, 30, 0.9)
    vjp, options = {
        "singular": (lambda v: v, {}),
        "nan product": (lambda v: v * np.nan, {}),
        "nan cotangent": (lambda v: v @ a, {}),
        "starved": (lambda v: v @ a, {"max_iterations": 2, "rtol": 1e-12}),
    }[kind]
    if kind == "nan cotangent":
        c[1, 3] = np.nan
    solution = solve_adjoint(vjp, c, method=method, **options)
    assert not solution.converged and not solution.residual <= 1e-12 and "did not converge" in solution.message
    with pytest.raises(NotConverged, match="adjoint"):
        solve_adjoint(vjp, c, method=method, throw=True, **options)


@pytest.mark.parametrize("method", ["gmres", "library-gmres", "bicgstab", "lgmres", "gcrotmk", "tfqmr"])
def test_a_small_budget_is_kept_and_not_wasted(method):
    """On a hard system, the more products are allowed the smaller the residual: running out is not starting over."""
    rng = np.random.default_rng(9)
    a, c = contraction(rng, 120, 0.95)[None], rng.standard_normal((1, 120))
    residuals = []
    for budget in (10, 60, 150):
        solution, _ = solved(a, c, "float64", "cpu", method=method, rtol=1e-10, max_iterations=budget)
        assert solution.iterations <= budget
        residuals.append(solution.residual)
    first = np.linalg.norm(a[0] @ c[0]) / np.linalg.norm(c[0])  # of the start, x = c
    assert residuals[1] < 0.9 * first and residuals[2] < 0.5 * residuals[1]


def test_one_hopeless_example_does_not_keep_the_others_from_their_solution():
    rng = np.random.default_rng(10)
    a = np.stack([contraction(rng, 6, 0.5), np.eye(6)])  # the second: (I - J) = 0
    c = rng.standard_normal((2, 6))
    solution, x = solved(a, c, "float64", "cpu", method="gmres", rtol=1e-8, max_iterations=200)
    assert not solution.converged and solution.residuals[1] > 0.1
    assert solution.residuals[0] < 1e-6
    np.testing.assert_allclose(x[0], np.linalg.solve(np.eye(6) - a[0], c[0]), rtol=1e-4, atol=1e-5)


def test_unknown_method_names_the_known():
    with pytest.raises(InputError, match="gmres, anderson"):
        solve_adjoint(lambda v: v, np.ones(2), method="cg")


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
