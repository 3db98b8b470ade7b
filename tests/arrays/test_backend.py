"""What NumPy and CuPy spell differently: the error function, sums of rows, and arrays that must not be mixed."""

import importlib
import math
import re

import numpy as np
import pytest
import scipy.special

from nanospike.arrays import backend
from nanospike.arrays.backend import (
    BLOCK,
    erf,
    library,
    matmul,
    namespace,
    scatter_add,
    sum_by_index,
    to_device,
    to_host,
)

# of CUDA's math library, those that a kernel might be called after, besides Python's
CUDA_S_OWN = ("norm", "rnorm", "norm3d", "norm4d", "normcdf", "rhypot", "rsqrt", "rint", "round", "max", "min", "abs")
LINE = np.concatenate([np.linspace(-6, 6, 200_001), np.logspace(-30, 0, 3001), -np.logspace(-30, 0, 3001)])


def test_erf_of_float32_is_good_to_4_5e_7():
    """Relative, everywhere: near 0 it is 2 x / sqrt(pi), far out 1."""
    found, wanted = erf(LINE.astype(np.float32)), scipy.special.erf(LINE.astype(np.float32).astype(float))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=4.5e-7, atol=0)


@pytest.mark.parametrize("name, i", [("ERF_P", i) for i in range(7)] + [("ERF_Q", i) for i in range(5)])
def test_every_coefficient_of_erf_matters(name, i, monkeypatch):
    """One part in a thousand is seen: the line above is no looser than that."""
    changed = list(getattr(backend, name))
    changed[i] *= 1.001
    monkeypatch.setattr(backend, name, tuple(changed))
    x = LINE.astype(np.float32)
    error = np.abs(erf(x) - scipy.special.erf(x.astype(float)))
    assert (error > 4.5e-6).any()


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
def test_erf_goes_on_from_block_to_block(size):
    x = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    np.testing.assert_allclose(erf(x), scipy.special.erf(x.astype(float)), rtol=4.5e-7)
    assert np.array_equal(erf(x[::-1]), erf(x)[::-1]) and erf(x.reshape(1, size)).shape == (1, size)


def test_erf_of_float64_is_scipys():
    assert np.array_equal(erf(LINE), scipy.special.erf(LINE))


def test_rows_of_one_index_are_added(xp, device):
    rng = np.random.default_rng(0)
    indices, rows = rng.integers(0, 6, 50), rng.standard_normal((50, 3))
    unique, sums = map(to_host, sum_by_index(to_device(indices, device), to_device(rows, device)))
    assert unique.tolist() == sorted(set(indices.tolist()))
    np.testing.assert_allclose(sums, [rows[indices == i].sum(axis=0) for i in unique], rtol=1e-12)
    target = to_device(np.ones((6, 3)), device)
    scatter_add(target, to_device(indices, device), to_device(rows, device))
    np.testing.assert_allclose(to_host(target)[unique], 1 + sums, rtol=1e-12)


def test_libraries_are_not_mixed(cupy):
    assert namespace(np.zeros(1)) is np and namespace(cupy.zeros(1), cupy.ones(2)).__name__ == "cupy"
    with pytest.raises(TypeError, match="arrays of cupy and numpy: move them to one device"):
        namespace(np.zeros(1), cupy.zeros(1))
    assert library("cpu") is np and to_host(to_device(np.arange(3), "cuda")).tolist() == [0, 1, 2]


@pytest.mark.parametrize("module", ["fused_gpu", "fused_shift_gpu", "update_gpu"])
def test_no_kernel_has_the_name_of_a_function_of_cuda_s_headers(module):
    """CUDA 13 declares norm(int, const double*) with C linkage: a kernel of that name does not compile everywhere."""
    source = importlib.import_module(f"nanospike.arrays.{module}").SOURCE
    kernels = set(re.findall(r"__global__ void (\w+)\(", source))
    assert len(kernels) >= 4
    assert not kernels & {*CUDA_S_OWN, *dir(math)}


@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(
    "shapes", [((3, 4), (4, 5)), ((1, 4), (4, 1)), ((3, 1), (1, 5)), ((0, 4), (4, 5)), ((3, 0), (0, 5))]
)
def test_matrices_are_multiplied_as_they_lie(xp, device, shapes, turned):
    """Rows or columns contiguous, neither (every other number of a larger one), or nothing at all."""
    rng = np.random.default_rng(0)
    wanted = [rng.standard_normal(shape) for shape in shapes]
    laid = [to_device(np.ascontiguousarray(m.T if t else m), device) for m, t in zip(wanted, turned, strict=True)]
    a, b = (m.T if t else m for m, t in zip(laid, turned, strict=True))
    assert np.allclose(to_host(matmul(a, b)), wanted[0] @ wanted[1], atol=1e-12)
    again = xp.broadcast_to(a[:1], a.shape)
    assert np.allclose(to_host(matmul(again, b)), np.broadcast_to(wanted[0][:1], shapes[0]) @ wanted[1], atol=1e-12)
    apart = xp.zeros((2 * shapes[0][0], 2 * shapes[0][1]))
    apart[::2, ::2] = a
    assert np.allclose(to_host(matmul(apart[::2, ::2], b)), wanted[0] @ wanted[1], atol=1e-12)
