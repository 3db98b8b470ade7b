"""The few things NumPy and CuPy spell differently. The only file that imports cupy."""

import functools
import sys
from contextlib import contextmanager

import numpy as np

from ..config.errors import InputError

DEVICES = ("cpu", "cuda")
DTYPES = ("float32", "float64")
LIBRARIES = ("numpy", "cupy")

# erf(x) = x P(x^2) / Q(x^2) on [-4, 4]: the rational form that Eigen and XLA use for float32, highest
# power first; tests/arrays/test_backend.py holds it against scipy (4.5e-7 relative).
ERF_P = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
ERF_Q = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)
BLOCK = 32768  # float32 elements: a block and its two scratch rows stay in a core's L2 cache


def namespace(*arrays):
    """The module (numpy or cupy) that owns `arrays`. Mixing the two is a TypeError."""
    kinds = {type(a) for a in arrays}
    owners = {_owner(kind) for kind in kinds} if len(kinds) > 1 else {_owner(*kinds)}
    if len(owners) == 1 and (name := owners.pop()) in LIBRARIES:
        return np if name == "numpy" else sys.modules["cupy"]
    found = " and ".join(sorted({_owner(kind) for kind in kinds}))
    raise TypeError(f"arrays of {found}: move them to one device with nanospike.to_device")


@functools.cache
def _owner(kind):
    return kind.__module__.partition(".")[0]


def library(device):
    """numpy for "cpu", cupy for "cuda"; InputError where that device cannot be used."""
    if device == "cpu":
        return np
    if device != "cuda":
        raise InputError(f"device: found {device!r}, expected one of {', '.join(DEVICES)}")
    try:
        import cupy
    except ImportError:
        raise InputError(
            "device cuda: CuPy is not installed; pip install 'nanospike[gpu]', or use --device cpu"
        ) from None
    if not cupy.is_available():
        raise InputError("device cuda: CuPy finds no usable GPU; check the driver, or use --device cpu")
    return cupy


def device_state():
    """{usable, problem} of the CUDA device, where it is usable with {name, memory (bytes), compute, runtime, cupy}."""
    try:
        import cupy

        if not cupy.is_available():
            return {"usable": False, "problem": "CuPy finds no usable GPU"}
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        return {
            "usable": True,
            "problem": None,
            "name": properties["name"].decode(),
            "memory": int(properties["totalGlobalMem"]),
            "compute": f"{properties['major']}.{properties['minor']}",
            "runtime": cupy.cuda.runtime.runtimeGetVersion(),
            "cupy": cupy.__version__,
        }
    except ImportError as error:
        return {"usable": False, "problem": f"CuPy cannot be imported: {error}"}
    except Exception as error:  # whatever a driver that does not fit makes CuPy say
        return {"usable": False, "problem": " ".join(str(error).split())}


def to_device(array, device):
    """`array` (NumPy or CuPy) as an array of the device's library; copies only where it has to."""
    xp = library(device)
    return xp.asarray(array if xp is not np else to_host(array))


def to_host(array):
    """A NumPy array with the values of `array`."""
    return array.get() if hasattr(array, "get") else np.asarray(array)


def float_dtype(dtype):
    """np.float32 or np.float64; InputError for any other name."""
    try:
        name = dtype if dtype is None else np.dtype(dtype).name  # np.dtype(None) is float64
    except TypeError:
        name = None
    if name not in DTYPES:
        raise InputError(f"dtype: found {dtype!r}, expected one of {', '.join(DTYPES)}")
    return np.dtype(name).type


def erf(x):
    """Error function, any shape. float32 on the CPU: vectorised, to float32 accuracy; the rest: scipy / cupyx."""
    if namespace(x) is not np:
        from cupyx.scipy.special import erf as device_erf

        return device_erf(x)
    if x.dtype != np.float32:
        from scipy.special import erf as scipy_erf

        return scipy_erf(x)
    out = np.empty(x.shape, np.float32)
    flat, flat_out = np.ascontiguousarray(x).reshape(-1), out.reshape(-1)
    scratch = np.empty((2, min(BLOCK, flat.size)), np.float32)
    for start in range(0, flat.size, BLOCK):
        block = flat_out[start : start + BLOCK]
        square, bottom = scratch[:, : block.size]
        np.clip(flat[start : start + BLOCK], -4.0, 4.0, out=block)
        np.multiply(block, block, out=square)
        block *= _horner(ERF_P, square, bottom)
        block /= _horner(ERF_Q, square, bottom)
    return out


def _horner(coefficients, x, out):
    np.multiply(x, coefficients[0], out=out)
    for c in coefficients[1:-1]:
        out += c
        out *= x
    out += coefficients[-1]
    return out


def scatter_add(target, indices, rows):
    """target[indices[i]] += rows[i], repeated indices added up. In place."""
    namespace(target, rows).add.at(target, indices, rows)  # cupyx.scatter_add is deprecated


def sum_by_index(indices, rows):
    """(unique indices (U,), sums of their rows (U, D)) of indices (n,) and rows (n, D)."""
    xp = namespace(indices, rows)
    if xp is not np:
        unique, inverse = xp.unique(indices, return_inverse=True)
        sums = xp.zeros((unique.size, rows.shape[1]), rows.dtype)
        scatter_add(sums, inverse, rows)
        return unique, sums
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return ordered[starts], np.add.reduceat(rows[order], starts, axis=0)


def random_generator(xp, seed):
    """The library's own generator: NumPy's and CuPy's streams differ for the same seed."""
    return xp.random.default_rng(seed)


def krylov(xp):
    """(LinearOperator, {name: solver}) of the library: cupyx has fewer of them than scipy."""
    if xp is np:
        import scipy.sparse.linalg as linalg
    else:
        import cupyx.scipy.sparse.linalg as linalg
    names = ("gmres", "bicgstab", "lgmres", "gcrotmk", "tfqmr")
    return linalg.LinearOperator, {n: getattr(linalg, n) for n in names if hasattr(linalg, n)}


def has_kernels(xp):
    """Whether hand-written kernels and products by cuBLAS can run on arrays of this library."""
    return xp is not np and hasattr(xp, "RawModule")


@functools.cache
def _function(source, dtype, name, exact, gpu):
    """The cupy.cuda.Function of a kernel on that GPU: a RawKernel looks it up anew, at every launch."""
    return _module(source, dtype, exact).get_function(name).kernel


@functools.cache
def _module(source, dtype, exact):
    real = {"float32": "float", "float64": "double"}[np.dtype(dtype).name]
    options = ("--std=c++17", *(("--fmad=false",) if exact else ()))
    return sys.modules["cupy"].RawModule(code=source.replace("REAL", real), options=options)


def launch(source, name, dtype, shape, arguments, exact=False):
    """Run the kernel `name` of a CUDA source text in which REAL is the dtype's type.

    shape: (blocks, threads of a block, bytes of shared memory), the first two a number or a tuple. arguments: arrays
    (C-contiguous), Python ints (long long), floats (double), None (a null pointer). exact: products and sums are
    rounded one by one, as by the library.
    """
    grid, block, shared = shape
    grid = grid if isinstance(grid, tuple) else (grid,)
    block = block if isinstance(block, tuple) else (block,)
    gpu = sys.modules["cupy"].cuda.runtime.getDevice()
    _function(source, dtype, name, exact, gpu)(grid, block, tuple([0 if a is None else a for a in arguments]), shared)


PRECISIONS = {"float32": 68, "tf32": 77, "bfloat16": 75}  # of products: cublasComputeType_t
_products = {"compute": PRECISIONS["float32"], "host": None, "device": None}
_scalars = {}


def set_precision(name):
    """How products on a device round their factors: "float32", "tf32" (10 bits), "bfloat16" (7); sums are float32."""
    if name not in PRECISIONS:
        raise InputError(f"precision: found {name!r}, expected one of {', '.join(PRECISIONS)}")
    _products["compute"] = PRECISIONS[name]


def set_host_product(function):
    """What multiplies float32 matrices on a CPU, such as half_products.product; None: NumPy."""
    _products["host"] = function


@contextmanager
def products_by(cublas_like):
    """Within it, products on a device are made by what has the functions of CuPy's module cublas."""
    _products["device"] = cublas_like
    try:
        yield
    finally:
        _products["device"] = None


def _scalar(value, dtype):
    """The address of a number in host memory."""
    if (value, dtype) not in _scalars:
        number = np.array(value, dtype)
        _scalars[value, dtype] = number.ctypes.data, number  # the address takes longer to find than a launch
    return _scalars[value, dtype][0]


def product(a, b, out, transpose_a=False, transpose_b=False, accumulate=False):
    """out = op(a) op(b), or out += that: matrices, or stacks (n, ., .) of them, on a device by cuBLAS.

    See set_precision and set_host_product for how factors are rounded.

    Matrices may be blocks of columns of others; stacks are C-contiguous.
    """
    if isinstance(out, np.ndarray):
        if _products["host"] and out.ndim == 2 and out.dtype == np.float32:
            return _products["host"](a, b, out, transpose_a, transpose_b, accumulate)
        a, b = (m.swapaxes(-1, -2) if turned else m for m, turned in ((a, transpose_a), (b, transpose_b)))
        if accumulate:
            out += a @ b
            return out
        return np.matmul(a, b, out=out)
    by = _products["device"] or cublas()
    (rows, columns), stacked = out.shape[-2:], out.ndim == 3
    inner, kind = a.shape[-2] if transpose_a else a.shape[-1], out.dtype
    real, compute = (1, 70) if kind == np.float64 else (0, _products["compute"])
    handle = sys.modules["cupy"].cuda.device.get_cublas_handle()
    one, old = _scalar(1.0, kind), _scalar(float(accumulate), kind)
    # cuBLAS stores by columns: to it these are the transposes, and out^T = op(b)^T op(a)^T
    shape = (handle, int(transpose_b), int(transpose_a), columns, rows, inner, one)
    matrices = []
    for m in (b, a, out):
        strides, size = m.strides, kind.itemsize
        row = m.shape[-1] if m.shape[-2] == 1 else strides[-2] // size  # of a single row it may be anything
        matrices.append((m.data.ptr, real, row, *((strides[0] // size,) if stacked else ())))
    if stacked:
        by.gemmStridedBatchedEx(*shape, *matrices[0], *matrices[1], old, *matrices[2], len(out), compute, -1)
    else:
        by.gemmEx(*shape, *matrices[0], *matrices[1], old, *matrices[2], compute, -1)
    return out


@functools.cache
def cublas():
    """CuPy's module of that name."""
    from cupy_backends.cuda.libs import cublas as module

    return module


def matmul(a, b):
    """a @ b of two matrices, such as views of transposed ones; on a device by `product`."""
    xp = namespace(a, b)
    if not has_kernels(xp) or a.dtype != b.dtype or a.dtype.name not in DTYPES or not a.size or not b.size:
        return a @ b
    (a, turned_a), (b, turned_b) = _by_rows(a), _by_rows(b)
    out = xp.empty((a.shape[turned_a], b.shape[not turned_b]), a.dtype)
    return product(a, b, out, turned_a, turned_b)


def _by_rows(matrix):
    """(a matrix whose rows are contiguous, whether it is the transpose of this one)"""
    for m, turned in ((matrix, False), (matrix.T, True)):
        if m.strides[1] == m.itemsize and (len(m) == 1 or m.strides[0] >= m.shape[1] * m.itemsize):
            return m, turned
    return namespace(matrix).ascontiguousarray(matrix), False


def joined(matrices):
    """Matrices (n, D) that lie in memory one after the other, as one of all their rows, a view; else None."""
    xp, first = namespace(*matrices), matrices[0]
    end = address(first)
    for m in matrices:
        if address(m) != end or not m.flags.c_contiguous or m.base is None or m.base is not first.base:
            return None
        end += m.nbytes
    rows = sum(len(m) for m in matrices)
    if xp is np:
        return np.lib.stride_tricks.as_strided(first, (rows, first.shape[1]))
    return xp.ndarray((rows, first.shape[1]), first.dtype, memptr=first.data)


def address(array):
    """Where an array begins in its device's memory."""
    return array.ctypes.data if namespace(array) is np else array.data.ptr


def side_by_side(arrays):
    """Copies of arrays of one dtype, views of one new buffer in which each follows the one before."""
    xp = namespace(*arrays)
    whole, views, start = xp.empty(sum(a.size for a in arrays), arrays[0].dtype), [], 0
    for a in arrays:
        view = whole[start : start + a.size].reshape(a.shape)
        view[...] = a
        views.append(view)
        start += a.size
    return views
