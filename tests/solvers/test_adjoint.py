"""Solvers on systems whose answers are known, and on those that break the libraries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from systems import contraction, contractions, exact, relative_residuals, solved

from nanospike import solve_adjoint
from nanospike.arrays.backend import to_device, to_host
from nanospike.config.errors import InputError
from nanospike.solvers import linear
from nanospike.solvers.adjoint import ADJOINT_METHODS, APPROXIMATE, OWN_METHODS, Code, NotConverged, adjoint_methods
from nanospike.solvers.library import LIBRARY_METHODS
from nanospike.solvers.solution import WORDS

EXACT = [m for m in ADJOINT_METHODS if m not in APPROXIMATE]
ON_CUDA = [m for m in (*OWN_METHODS, "library-gmres", "bicgstab") if m not in APPROXIMATE]


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("dtype, rtol", [("float64", 1e-10), ("float32", 1e-5)])
@given(seed=st.integers(0, 2**31), batch=st.integers(1, 4), n=st.integers(1, 8), gain=st.floats(0, 0.8))
def test_against_a_dense_solve(method, dtype, rtol, seed, batch, n, gain):
    rng = np.random.default_rng(seed)
    a = np.stack([contraction(rng, n, gain) for _ in range(batch)])
    c = rng.standard_normal((batch, n)) * 10.0 ** rng.integers(-6, 3, (batch, 1))
    solution, x = solved(a, c, dtype, "cpu", method=method, rtol=rtol)
    assert solution.converged and solution.message == "" and x.dtype == dtype
    assert relative_residuals(a, c, x).max() <= rtol + 5e-6 * (dtype == "float32")
    assert solution.residual <= rtol and solution.residuals.shape == (batch,)


def test_a_series_whose_terms_go_up_and_down_is_summed_to_its_end():
    """Complex eigenvalues of 0.72: near rounding, one term that is no smaller than the best is no end yet."""
    turn = 0.72 * np.array([[0.1, -1.9], [0.52, 0.1]])
    ends = []
    for angle in np.linspace(0, np.pi, 40):
        c = np.array([[np.cos(angle), np.sin(angle)]])
        solution, _ = solved(turn[None], c, "float32", "cpu", method="sweep", rtol=1e-5)
        ends.append(solution.residual)
    assert max(ends) <= 5e-6


@pytest.mark.parametrize("method", ON_CUDA)
def test_on_every_library(method, xp, device):
    rng = np.random.default_rng(0)
    a, c = np.stack([contraction(rng, 6, 0.5) for _ in range(3)]), rng.standard_normal((3, 6))
    solution, x = solved(a, c, "float64", device, method=method, rtol=1e-10)
    assert solution.converged and type(solution.x) is type(xp.zeros(1))
    np.testing.assert_allclose(x, np.linalg.solve(np.eye(6) - a, c[..., None])[..., 0], rtol=1e-8, atol=1e-9)


def test_matrices_that_would_be_too_large_are_not_written_out(monkeypatch):
    a, c = np.zeros((3, 4, 4)), np.ones((3, 4))
    monkeypatch.setattr(linear, "DENSE_TOTAL", 3 * 4 * 4)
    assert solved(a, c, method="dense")[0].converged
    monkeypatch.setattr(linear, "DENSE_TOTAL", 3 * 4 * 4 - 1)
    with pytest.raises(InputError, match="dense: found 3 systems of 4 unknowns, expected .* and 47 matrix elements"):
        solved(a, c, method="dense")


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
@pytest.mark.parametrize(
    "dtype, scales", [("float64", (1e-200, 1e-12, 1e6, 1e250)), ("float32", (1e-30, 1e-12, 1e6, 1e30))]
)
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


@pytest.mark.parametrize("method", ADJOINT_METHODS)
@given(seed=st.integers(0, 2**31), gain=st.floats(0, 1.3), n=st.integers(1, 6), dtype=st.sampled_from(["f4", "f8"]))
def test_the_residual_that_is_reported_is_that_of_the_answer(method, seed, gain, n, dtype):
    rng = np.random.default_rng(seed)
    a, c = contractions(rng, n, [gain, 0.3]).astype(dtype), rng.standard_normal((2, n)).astype(dtype)
    solution, x = solved(a, c, dtype, method=method, rtol=1e-5)
    recomputed = relative_residuals(a.astype(float), c.astype(float), x.astype(float))
    size = 1 + np.linalg.norm(x, axis=1) / np.linalg.norm(c, axis=1)
    assert (np.abs(solution.residuals - recomputed) <= 8 * np.finfo(dtype).eps * size + 1e-5 * recomputed).all()
    assert np.array_equal(solution.codes == Code.OK, solution.residuals <= 1e-5)
    assert solution.converged == (solution.code is Code.OK) == (solution.message == "")
    assert solution.residual == solution.residuals.max() and solution.steps.max() <= solution.iterations


@pytest.mark.parametrize("method", OWN_METHODS)
@given(
    seed=st.integers(0, 2**31), gain=st.floats(0, 1.2), neighbour=st.sampled_from(["singular", "3", "nan", "0", "inf"])
)
def test_an_example_alone_equals_itself_beside_any_neighbour(method, seed, gain, neighbour):
    rng = np.random.default_rng(seed)
    good = contraction(rng, 5, gain)
    bad = {"singular": np.eye(5), "3": 3 * np.eye(5)}.get(neighbour, contraction(rng, 5, 0.5))
    c = rng.standard_normal((2, 5))
    if neighbour in ("nan", "0", "inf"):
        c[1, 2 * (neighbour != "0") :] = float(neighbour)
    alone, x = solved(good[None], c[:1], method=method, max_iterations=60)
    beside, both = solved(np.stack([good, bad]), c, method=method, max_iterations=60)
    np.testing.assert_allclose(both[0], x[0], rtol=1e-11, atol=1e-12 * np.abs(x).max())
    assert beside.codes[0] == alone.codes[0] and beside.steps[0] == alone.steps[0]
    assert np.isfinite(both).all()
    if neighbour in ("nan", "inf"):
        assert beside.codes[1] == Code.NONFINITE_INPUT and not both[1].any() and beside.residual == np.inf


@pytest.mark.parametrize("method", OWN_METHODS)
@given(seed=st.integers(0, 2**31), exponent=st.floats(-12, 6), gain=st.floats(0, 0.9))
def test_scale_equivariance(method, seed, exponent, gain):
    rng = np.random.default_rng(seed)
    a, c = contractions(rng, 5, [gain, 0.4]), rng.standard_normal((2, 5))
    options = {"method": method, "rtol": 1e-13}
    if method == "spide":  # a spike more or less, where rounding decides: exact for powers of two only
        exponent = float(np.log10(2.0 ** round(exponent * 3.3)))
    factor = 10.0**exponent if method != "spide" else 2.0 ** round(exponent * 3.3219)
    _, x = solved(a, c, **options)
    _, scaled = solved(a, factor * c, **options)
    np.testing.assert_allclose(scaled / factor, x, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("method", EXACT)
def test_identity_plus_rank_one_and_zero_rows(method):
    rng = np.random.default_rng(20)
    c = rng.standard_normal((3, 6))
    c[1] = 0
    u, v = rng.standard_normal((2, 3, 6, 1)) / 4
    a = u @ v.swapaxes(1, 2)
    solution, x = solved(a, c, method=method, rtol=1e-10)
    assert solution.converged and not x[1].any() and solution.residuals[1] == solution.steps[1] == 0
    np.testing.assert_allclose(x, exact(a, c), rtol=1e-8, atol=1e-9)
    if method == "gmres":
        assert solution.iterations == 3  # the space of c and u is exhausted after two


@pytest.mark.parametrize("method", ADJOINT_METHODS)
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_few_products_are_not_exceeded_and_nothing_is_claimed(method, budget):
    rng = np.random.default_rng(21)
    a, c = contractions(rng, 20, [0.8, 0.9]), rng.standard_normal((2, 20))
    solution, x = solved(a, c, method=method, max_iterations=budget)
    extra = method in ("spide", "one-step")  # their residual is beyond the terms that were asked for
    assert solution.iterations <= budget + extra and not solution.converged
    assert (solution.codes > Code.OK).all() and np.isfinite(x).all()
    np.testing.assert_allclose(solution.residuals, relative_residuals(a, c, x), rtol=1e-9)


STEADY = ("anderson", "broyden", "damped")  # fixed points by steps from the best iterate
SERIES = ("neumann", "sweep", "one-step")
KINDS = {  # the diagonal of J^T: what solves it, and the code of those that do not
    "singular": ([1.0] * 4, (), {
        ("gmres", "dense", "broyden"): {Code.BREAKDOWN},  # the correction would be without bounds
        ("anderson", "damped"): {Code.STAGNATION},
        (*SERIES, "spide"): {Code.DIVERGED},
        tuple(LIBRARY_METHODS): {Code.STAGNATION, Code.MAX_STEPS},
    }),
    "gain 3": ([3.0, -3, 3, -3], ("gmres", "dense", "anderson", "broyden", *LIBRARY_METHODS), {
        ("damped",): {Code.STAGNATION}, (*SERIES, "spide"): {Code.DIVERGED},
    }),
    "nan": ([np.nan] * 4, (), {ADJOINT_METHODS: {Code.NONFINITE_OUTPUT}}),
    "inf": ([np.inf] * 4, (), {ADJOINT_METHODS: {Code.NONFINITE_OUTPUT}}),
    "overflow": ([1e300] * 4, ("dense", *LIBRARY_METHODS), {  # what squares a product finds infinity
        ("gmres",): {Code.NONFINITE_OUTPUT}, STEADY: {Code.STAGNATION}, (*SERIES, "spide"): {Code.DIVERGED},
    }),
}  # fmt: skip


@pytest.mark.parametrize("method", ADJOINT_METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_messages_say_why(method, kind):
    diagonal, solvers, failures = KINDS[kind]
    c = np.array([[1.0, 2, 3, 4], [0, 0, 0, 0]])
    solution = solve_adjoint(lambda v: v * np.array(diagonal), c, method=method)
    assert np.isfinite(solution.x).all() and solution.codes[1] == Code.OK and not solution.x[1].any()
    if method in solvers:
        assert solution.converged and solution.code is Code.OK and solution.message == ""
        np.testing.assert_allclose(solution.x[0], c[0] / (1 - np.array(diagonal)), rtol=1e-6)
        return
    (expected,) = [codes for methods, codes in failures.items() if method in methods]
    assert solution.code in expected and solution.code == solution.codes[0] and not solution.converged
    cause, remedy = WORDS[solution.code]
    said = f"adjoint ({method}): 1 of 2 examples did not converge (1 {cause}): relative residual "
    assert solution.message.startswith(said) and solution.message.endswith(f"; {remedy}")


def test_an_answer_that_overflows_is_said():
    c = np.array([[3e38, 1], [1, 1]], np.float32)
    solution = solve_adjoint(lambda v: v / 2, c)
    assert solution.codes.tolist() == [Code.NONFINITE_OUTPUT, Code.OK] and np.isfinite(solution.x).all()


@pytest.mark.parametrize("method", APPROXIMATE)
def test_what_is_cut_short_by_design_says_so(method):
    rng = np.random.default_rng(22)
    a, c = contractions(rng, 20, [0.3, 0.5]), rng.standard_normal((2, 20))
    solution, x = solved(a, c, method=method)
    assert not solution.converged and solution.code is Code.TRUNCATED and "cut short" in solution.message
    error = np.linalg.norm(x - exact(a, c)) / np.linalg.norm(x)
    assert error < {"one-step": 0.6, "neumann": 0.02, "spide": 0.02}[method]


def test_more_terms_of_the_series_are_better_and_one_step_is_the_first():
    rng = np.random.default_rng(23)
    a, c = contractions(rng, 20, [0.5]), rng.standard_normal((1, 20))
    errors = [np.linalg.norm(solved(a, c, method="neumann", terms=t)[1] - exact(a, c)) for t in (1, 2, 4, 8, 16)]
    assert all(b < 0.8 * a for a, b in zip(errors, errors[1:], strict=False))
    solution, x = solved(a, c, method="one-step")
    assert np.array_equal(x, c) or np.allclose(x, c, rtol=1e-15)
    np.testing.assert_allclose(solution.residual, np.linalg.norm(a[0] @ c[0]) / np.linalg.norm(c), rtol=1e-12)


@pytest.mark.parametrize("method", ["gmres", "anderson", "broyden", "damped", "sweep", "library-gmres", "bicgstab"])
def test_a_solve_resumes_where_another_ended(method):
    rng = np.random.default_rng(24)
    a, c = contractions(rng, 12, [0.6, 0.7]), rng.standard_normal((2, 12)) * np.array([[1e-5], [1e3]])
    first, x = solved(a, c, method=method, rtol=1e-9)
    again, same = solved(a, c, method=method, rtol=1e-9, start=first.x)
    assert again.converged and again.iterations <= (1 if method != "sweep" else 40)
    np.testing.assert_allclose(same, x, rtol=1e-7)
    near, _ = solved(a, c, method=method, rtol=1e-9, start=first.x * (1 + 1e-6))
    assert near.converged and near.iterations < first.iterations
    useless, x = solved(a, c, method=method, rtol=1e-9, start=first.x * np.nan)
    assert useless.converged
    np.testing.assert_allclose(x, exact(a, c), rtol=1e-6)


@pytest.mark.parametrize("method", ADJOINT_METHODS)
def test_an_empty_batch_is_solved(method):
    for shape in ((0, 3), (2, 0)):
        solution = solve_adjoint(lambda v: v, np.zeros(shape), method=method)
        assert solution.converged and solution.x.shape == shape and solution.iterations == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"cotangent": np.ones(3, int)}, "cotangent: found int64 of shape"),
        ({"cotangent": np.float64(1)}, "expected a float32 or float64 array"),
        ({"cotangent": [1.0]}, "found list"),
        ({"vjp": lambda v: v[:2]}, r"vjp returned an array of shape \(2,\), expected \(3,\)"),
        ({"method": "bicgstab", "restart": 3}, "bicgstab: has no option restart; those with it: gmres"),
        ({"terms": 3}, "gmres: has no option terms; those with it: neumann"),
        ({"method": "neumann", "terms": 0}, "terms: found 0, expected at least 1"),
        ({"max_iterations": 0}, "max_iterations: found 0"),
        ({"start": np.ones(2)}, "start: found shape"),
        ({"method": "dense", "start": np.ones(3)}, "dense: has no option start"),
        ({"method": "dense", "cotangent": np.ones(3000)}, "dense: found 1 systems of 3000 unknowns, expected at most"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    arguments = {"vjp": lambda v: v / 2, "cotangent": np.ones(3)} | change
    with pytest.raises(InputError, match=message) as error:
        solve_adjoint(**arguments)
    assert "\n" not in str(error.value)


def test_methods_of_each_library(xp, cupy):
    assert adjoint_methods(np) == ADJOINT_METHODS
    assert set(adjoint_methods(cupy)) == {*OWN_METHODS, "library-gmres", "bicgstab"}
    with pytest.raises(InputError, match="tfqmr: not in cupyx; there: library-gmres, bicgstab"):
        solve_adjoint(lambda v: v / 2, cupy.ones(3), method="tfqmr")
