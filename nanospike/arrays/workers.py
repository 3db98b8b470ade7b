"""Worker threads on the CPU: each computes a part of a batch, with one BLAS thread of its own.

A product of small matrices gains little from two threads of BLAS, and everything between the products (softmax, GELU,
LayerNorm, the update of the weights) runs on one core in NumPy. Whole parts side by side use all cores all the time:
NumPy's functions let other threads run while they compute. A device has no use for that: there, it is one part.
"""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

WORKERS_HELP = "threads that share the work on the CPU; 0: one per core"
SETTERS = ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads")


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def blas_threads():
    """(get, set) of the number of threads of NumPy's OpenBLAS; None where NumPy is built with something else."""
    try:
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # finds the symbols of what it is linked with, too
    except (OSError, AttributeError):
        return None
    for name in SETTERS:
        if hasattr(library, name):
            return getattr(library, name.replace("set", "get", 1)), getattr(library, name)
    return None


class Workers:
    """A pool of `size` threads. size: 0 means one per core; 1 (always so on a device) means no threads at all.

    Where the threads of BLAS cannot be limited, several workers would get in each other's way: one then does it all.
    """

    def __init__(self, size=1, device="cpu"):
        self._blas = blas_threads() if device == "cpu" else None
        self.size = (size or cores()) if self._blas else 1
        self._pool = ThreadPoolExecutor(self.size, "nanospike") if self.size > 1 else None

    def map(self, function, items):
        """[function(item) for item in items], several at a time."""
        items = list(items)
        if self._pool is None or len(items) < 2:
            return [function(item) for item in items]
        with self._one_blas_thread():
            return list(self._pool.map(function, items))

    @contextmanager
    def _one_blas_thread(self):
        get, set_ = self._blas
        before = get()
        set_(1)
        try:
            yield
        finally:
            set_(before)


ALONE = Workers()


def shares(lengths, parts):
    """Cut a batch into at most `parts` runs of about as many tokens: a list of slices.   lengths (B,) int"""
    reached = np.cumsum(lengths)
    targets = reached[-1] * np.arange(1, parts) / parts
    cuts = np.searchsorted(reached, targets) + 1
    edges = np.unique([0, *cuts[cuts < len(lengths)], len(lengths)])
    return [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
