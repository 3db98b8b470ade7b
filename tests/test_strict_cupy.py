"""The stand-in refuses what CuPy refuses. With the real CuPy there is nothing to test here."""

import operator

import numpy as np
import pytest
import strict_cupy
from conftest import check_owner


@pytest.fixture
def cp(cupy):
    if cupy is not strict_cupy.cupy:
        pytest.skip("the real CuPy is in use")
    return cupy


@pytest.fixture
def x(cp):
    return cp.arange(6, dtype="float32").reshape(2, 3)


def test_it_is_what_the_program_finds(cp):
    import cupyx
    import cupyx.scipy.sparse.linalg as linalg
    from cupyx.scipy.special import erf

    from nanospike.arrays import backend

    assert backend.library("cuda") is cp and cp.__name__ == "cupy"
    assert backend.namespace(cp.zeros(2)) is cp
    assert (linalg.gmres, erf, cupyx.scatter_add) == (strict_cupy.gmres, strict_cupy.erf, strict_cupy.scatter_add)
    with pytest.raises(TypeError, match="cupy and numpy"):
        backend.namespace(cp.zeros(2), np.zeros(2))


@pytest.mark.parametrize("name", ["add", "mul", "matmul", "truediv", "lt", "eq", "iadd"])
def test_operators_do_not_mix(cp, name):
    function = getattr(operator, name)
    with pytest.raises(TypeError):
        function(cp.ones(3), np.ones(3))
    with pytest.raises(TypeError):
        function(np.ones(3), cp.ones(3))


def test_functions_do_not_mix(cp, x):
    host = np.ones((2, 3))
    for call in (
        lambda: cp.exp(host),
        lambda: cp.where(host > 0, x, x),
        lambda: cp.concatenate([x, host]),
        lambda: cp.add(x, 1, out=host),
        lambda: x.dot(host.T),
        lambda: x * np.array(2.0),
        lambda: x[np.array([0])],
        lambda: np.exp(x),
        lambda: np.sum(x),
        lambda: np.concatenate([x, x]),
        lambda: np.asarray(x),
        lambda: host.__setitem__(slice(None), x),
        lambda: cp.add.at(x, cp.zeros(1, int), host),
        lambda: cp.exp([1.0, 2.0]),
    ):
        with pytest.raises(TypeError):
            call()
    for value in (host, [1, 2, 3]):
        with pytest.raises(ValueError, match="non-scalar"):
            x[...] = value


def test_scalars_mix_and_keep_the_rules_of_promotion(cp, x):
    for y in (x * 2.0, 2.0 * x, x + np.float32(1), np.float32(1) - x, x > 0.5, abs(-x), ~(x > 1)):
        check_owner(cp, y)
    assert (x * 2.0).dtype == (np.float32(2) * x).dtype == np.float32
    assert (x * np.float64(2)).dtype == (cp.asarray(2.0) * x).dtype == np.float64
    x += np.float64(1)
    x[0] = np.float64(7)
    assert x.dtype == np.float32 and float(x[0, 1]) == 7


def test_reductions_and_elements_are_zero_dimensional_arrays(cp, x):
    reduced = [x.sum(), cp.max(x), x.mean(axis=None), cp.allclose(x, x), cp.linalg.norm(x)]
    for y in (*reduced, x[0, 1], next(iter(x[0])), cp.sqrt(2.0)):
        check_owner(cp, y)
        assert y.ndim == 0
    assert [x.sum().item(), float(x[1, 2]), int(x[1, 2]), bool(x[0, 0]), f"{x.sum():.1f}", x[0].tolist()] == [
        15, 5, 5, False, "15.0", [0, 1, 2],
    ]  # fmt: skip
    with pytest.raises(TypeError):
        range(x.sum())


def test_names_that_cupy_lacks(cp, x):
    for owner, name in (
        (cp, "errstate"),
        (cp, "vecdot"),
        (cp.random, "permutation"),
        (cp.random.default_rng(0), "normal"),
        (x, "setflags"),
        (cp.add, "reduceat"),
        (cp.multiply, "at"),
        (cp.maximum, "reduce"),
    ):
        assert not hasattr(owner, name), name


@pytest.mark.parametrize(
    "call",
    [
        lambda cp, x: cp.sum(x, where=x > 0),
        lambda cp, x: x.max(initial=0),
        lambda cp, x: cp.exp(x, where=x > 0),
        lambda cp, x: cp.take(x, cp.zeros(1, int), mode="clip"),
        lambda cp, x: cp.einsum("ij->i", x, out=cp.empty(2)),
        lambda cp, x: cp.zeros(3, device="cpu"),
        lambda cp, x: cp.clip(x, min=0),
        lambda cp, x: cp.add.at(x.astype(complex), cp.zeros(1, int), 1),
    ],
)
def test_keywords_and_types_that_cupy_lacks(cp, x, call):
    with pytest.raises(TypeError):
        call(cp, x)


def test_sort_is_stable_or_nothing(cp, x):
    with pytest.raises(ValueError, match="stable"):
        cp.argsort(x, kind="quicksort")
    np.testing.assert_array_equal(cp.argsort(-x, axis=1).get(), [[2, 1, 0]] * 2)


def test_integer_arrays_wrap_and_masks_select(cp, x):
    np.testing.assert_array_equal(cp.arange(5)[cp.asarray([7, -1])].get(), [2, 4])
    np.testing.assert_array_equal(x[..., cp.asarray([4])].get(), [[1], [4]])
    np.testing.assert_array_equal(x[x > 3, None].get(), [[4], [5]])
    np.testing.assert_array_equal(cp.take(x, cp.asarray([3]), axis=0).get(), [[3, 4, 5]])
    with pytest.raises(IndexError):
        x[2]
    x[x > 3] = 0
    assert float(x.sum()) == 6


def test_in_place_operations_keep_the_array(cp, x):
    y, row = x, x[0]
    y += 1
    y *= y
    row[...] = 0
    assert y is x and cp.sqrt(x, out=x) is x
    np.testing.assert_array_equal(x.get(), [[0, 0, 0], [4, 5, 6]])


def test_host_memory_is_never_shared(cp):
    host = np.zeros(2)
    x = cp.asarray(host)
    host += 1
    x.get()[:] = 5
    assert float(x.sum()) == 0 and cp.asarray(x) is x


def test_fresh_memory_is_not_zero(cp):
    assert np.all(cp.empty(3, np.uint8).get() == 0xCB) and np.all(cp.empty_like(cp.zeros(3, np.uint8)).get() == 0xCB)


def test_scatter_add_sums_repeated_indices(cp, x):
    import cupyx

    with pytest.deprecated_call():
        cupyx.scatter_add(cp.zeros(1), 0, 1)
    cp.add.at(x, cp.asarray([0, 0, 3]), cp.ones((3, 3), "float32"))
    np.testing.assert_array_equal(x.get(), [[2, 3, 4], [4, 5, 6]])


def test_nothing_warns(cp):
    zero = cp.zeros(2)
    assert bool(cp.isnan(zero / zero).all()) and bool(cp.isinf(cp.exp(zero + 1e9)).all())


def test_random_numbers(cp):
    first, second = (cp.random.default_rng(3).random((2, 4), dtype=cp.float32) for _ in range(2))
    check_owner(cp, first)
    assert first.dtype == np.float32 and bool((first == second).all())


def test_erf_is_real(cp, x):
    from cupyx.scipy.special import erf

    assert erf(x).dtype == np.float32 and float(erf(x)[0, 1]) == pytest.approx(0.8427008)
    with pytest.raises(TypeError):
        erf(x * 1j)


def system(cp, size=12, seed=0):
    rng = np.random.default_rng(seed)
    matrix, b = np.eye(size) + 0.3 * rng.standard_normal((size, size)) / size**0.5, rng.standard_normal(size)
    return cp.asarray(matrix), cp.asarray(b), np.linalg.solve(matrix, b)


@pytest.mark.parametrize("name", ["gmres", "bicgstab", "cgs"])
def test_krylov_solvers_solve(cp, name):
    import cupyx.scipy.sparse.linalg as linalg

    matrix, b, wanted = system(cp)
    operator = linalg.LinearOperator(matrix.shape, matvec=lambda v: matrix @ v, dtype=matrix.dtype)
    x, info = getattr(linalg, name)(operator, b, rtol=1e-10)
    check_owner(cp, x)
    assert info == 0
    np.testing.assert_allclose(x.get(), wanted, rtol=1e-8)


def test_gmres_runs_whole_cycles_and_breaks_down(cp):
    import cupyx.scipy.sparse.linalg as linalg

    products, (matrix, b, _) = [], system(cp)
    operator = linalg.LinearOperator(matrix.shape, lambda v: products.append(1) or matrix @ v, dtype=matrix.dtype)
    linalg.gmres(operator, b, rtol=0.5, restart=5)
    assert len(products) == 7  # two residuals and a whole cycle, though one step were enough
    _, info = linalg.gmres(operator, b, rtol=1e-12, restart=2, maxiter=3)
    assert info == 4
    twice = linalg.LinearOperator((4, 4), matvec=lambda v: 2 * v, dtype=np.float64)
    with pytest.raises(np.linalg.LinAlgError):
        linalg.gmres(twice, cp.asarray([1.0, 0, 0, 0]))
    assert not hasattr(linalg, "lgmres") and not hasattr(linalg, "tfqmr")


def test_a_product_of_another_dtype_is_refused(cp):
    import cupyx.scipy.sparse.linalg as linalg

    operator = linalg.LinearOperator((2, 2), matvec=lambda v: v.astype("float64"), dtype=np.float32)
    with pytest.raises(TypeError, match="misread"):
        linalg.gmres(operator, cp.ones(2, "float32"))
