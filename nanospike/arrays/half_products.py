"""Products of float32 matrices whose factors are rounded to bfloat16, by Intel's MKL (the optional extra `mkl`).

Sums are float32. Rounding is to nearest, ties to even; a not-a-number stays one. Processors with AMX multiply pairs of
bfloat16 several times as fast as float32; on others nothing is gained. One thread each: threads are those of
workers.Workers. On Linux alone, for that is where such processors serve.
"""

import ctypes
import functools

import numba
import numpy as np

from .machine import mkl_library

BY_ROWS, AS_IT_IS, TURNED = 101, 111, 112  # of CBLAS
SEQUENTIAL, LP64 = 1, 0  # MKL's layer of threads, and its interface of 32-bit sizes


@functools.cache
def _gemm():
    """cblas_gemm_bf16bf16f32, which computes without Python's lock."""
    library = ctypes.CDLL(str(mkl_library()))
    library.MKL_Set_Interface_Layer(LP64)
    library.MKL_Set_Threading_Layer(SEQUENTIAL)
    function = library.cblas_gemm_bf16bf16f32
    number, size, pointer = ctypes.c_float, ctypes.c_int, ctypes.c_void_p
    function.argtypes = [size] * 6 + [number, pointer, size, pointer, size, number, pointer, size]
    function.restype = None
    return function


def product(a, b, out, transpose_a=False, transpose_b=False, accumulate=False):
    """out = op(a) op(b), or out += that: float32 matrices, whose rows may be parts of longer ones."""
    if not out.size:
        return out
    a, b = rounded(a), rounded(b)
    rows, columns = out.shape
    _gemm()(
        BY_ROWS, TURNED if transpose_a else AS_IT_IS, TURNED if transpose_b else AS_IT_IS,
        rows, columns, a.shape[0] if transpose_a else a.shape[1],
        1.0, a.ctypes.data, max(1, a.shape[1]), b.ctypes.data, max(1, b.shape[1]),
        float(accumulate), out.ctypes.data, out.strides[0] // out.itemsize,
    )  # fmt: skip
    return out


def rounded(x):
    """float32 (n, m) as bfloat16: the upper halves of its numbers, uint16 (n, m)."""
    if x.strides[1] != x.itemsize:
        x = np.ascontiguousarray(x)
    halves = np.empty(x.shape, np.uint16)
    _round(x.view(np.uint32), halves)
    return halves


@numba.njit(nogil=True, cache=True)
def _round(bits, halves):
    for i in range(bits.shape[0]):
        for j in range(bits.shape[1]):
            u = bits[i, j]
            if u & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):  # not a number: rounding could make it infinite
                halves[i, j] = (u >> np.uint32(16)) | np.uint32(0x40)
            else:
                halves[i, j] = (u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
