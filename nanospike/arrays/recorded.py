"""What a function asks of a GPU, recorded once for each shape of its arguments and from then on asked for at once.

A step of training is some hundred launches, and a GPU waits longer for them than it computes; a CUDA graph has them
all. CuPy refuses cuBLAS on a stream that is recorded, so that products go to the library itself then.
"""

import ctypes
import functools
import warnings
from contextlib import suppress

from .backend import cublas, has_kernels, library, products_by

SHAPES = 64  # recorded of one function; what comes in yet others is run launch by launch
WORKSPACE = 32 << 20  # bytes for cuBLAS, which a recording must not allocate itself


class Recorded:
    """function(*arguments) -> anything made of arrays on the device; arguments: such arrays and other hashable things.

    What the function asks of the device must depend on nothing but the arguments' shapes, and on the values of arrays
    that stay where they are, such as parameters: it draws no random numbers, waits for nothing and copies nothing from
    the host. What it returns is overwritten when it is called again with arguments of such shapes.

    The first call of a shape is run as it is, which compiles kernels and makes plans; the second is recorded. After a
    recording that fails, with a warning, nothing more is recorded.
    """

    def __init__(self, function):
        self.function, self.graphs, self.seen, self.failed = function, {}, set(), False
        self.cupy = library("cuda")
        self.stream = self.cupy.cuda.Stream(non_blocking=True)

    def __call__(self, *arguments):
        key = tuple((a.shape, a.dtype) if hasattr(a, "shape") else a for a in arguments)
        if key in self.seen and key not in self.graphs and len(self.graphs) < SHAPES and not self.failed:
            self._record(key, arguments)
        self.seen.add(key)
        if key not in self.graphs:
            return self.function(*arguments)
        graph, own, result = self.graphs[key]
        for kept, given in zip(own, arguments, strict=True):
            if hasattr(kept, "shape"):
                kept[...] = given
        graph.launch()
        return result

    def _record(self, key, arguments):
        """Keep (graph, the arguments that it reads, the result that it writes)."""
        own = [a.copy() if hasattr(a, "shape") else a for a in arguments]
        products = _Products(self.stream)
        # what graphs compute in is nobody else's: of a pool of its own, on a stream of its own
        with self.stream, self.cupy.cuda.using_allocator(_pool().malloc), products_by(products):
            self.stream.begin_capture()
            try:
                products.begin()
                result = self.function(*own)
                self.graphs[key] = self.stream.end_capture(), own, result
            except Exception as error:
                with suppress(self.cupy.cuda.runtime.CUDARuntimeError):  # the recording is void
                    self.stream.end_capture()
                warnings.warn(f"no graph, launch by launch then: {' '.join(str(error).split())}", stacklevel=4)
                self.failed = True


@functools.cache
def can_record():
    """Whether this CuPy and its driver can record a stream."""
    cupy = library("cuda")
    if not has_kernels(cupy):
        return False
    stream = cupy.cuda.Stream(non_blocking=True)
    try:
        with stream:
            stream.begin_capture()
            stream.end_capture()
    except cupy.cuda.runtime.CUDARuntimeError:
        return False
    return True


class _Products:
    """cuBLAS on a stream that is recorded, with those functions of CuPy's module that backend.product calls."""

    def __init__(self, stream):
        self.handle = ctypes.c_void_p(library("cuda").cuda.device.get_cublas_handle())
        self.stream, self.cublas = ctypes.c_void_p(stream.ptr), _cublas()

    def begin(self):
        """From here on cuBLAS works on the stream, until CuPy gives it another."""
        self._call("cublasSetStream_v2", self.stream)
        self._call("cublasSetWorkspace_v2", ctypes.c_void_p(_workspace().ptr), ctypes.c_size_t(WORKSPACE))

    def gemmEx(self, handle, *arguments):
        self._call("cublasGemmEx", *_in_c(arguments, "iiiiippiipiippiiii"))

    def gemmStridedBatchedEx(self, handle, *arguments):
        self._call("cublasGemmStridedBatchedEx", *_in_c(arguments, "iiiiippiilpiilppiiliii"))

    def _call(self, name, *arguments):
        if status := getattr(self.cublas, name)(self.handle, *arguments):
            raise RuntimeError(f"{name}: cuBLAS status {status}")


C_TYPES = {"i": ctypes.c_int, "l": ctypes.c_longlong, "p": ctypes.c_void_p}


def _in_c(arguments, kinds):
    return [C_TYPES[kind](a) for kind, a in zip(kinds, arguments, strict=True)]


@functools.cache
def _cublas():
    """The cuBLAS that CuPy is linked with: its symbols are found through CuPy's module."""
    return ctypes.CDLL(cublas().__file__)


@functools.cache
def _workspace():
    return library("cuda").cuda.alloc(WORKSPACE)


@functools.cache
def _pool():
    """The memory of all graphs: each may use again what another used, for one is done before the next begins.

    To the pool it is free, so that nobody but a recording may be given any of it, and none of it be given back: CuPy
    would, before it says that there is no memory left.
    """
    pool = library("cuda").cuda.MemoryPool(_allocated)
    pool.set_limit(size=0)  # $CUPY_GPU_MEMORY_LIMIT is looked at in the same way
    return pool


def _allocated(size):
    cuda = library("cuda").cuda
    try:
        return cuda.MemoryPointer(cuda.Memory(size), 0)
    except cuda.runtime.CUDARuntimeError as error:  # which would make the pool give back what is free
        raise MemoryError(f"{size} bytes on the GPU: {error}") from None
