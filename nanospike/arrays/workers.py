"""Worker threads on the CPU: each computes a part of a batch, with one BLAS thread of its own.

A product of small matrices gains little from two threads of BLAS, and everything between the products (softmax, GELU,
LayerNorm, the update of the weights) runs on one core in NumPy. Whole parts side by side use all cores all the time:
NumPy's functions let other threads run while they compute. A device has no use for that: there, it is one part.
"""

import ctypes
import gc
import math
import os
import threading
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np

WORKERS_HELP = "threads that share the work on the CPU; 0: one per core that may be used"
CGROUP = Path("/sys/fs/cgroup")
RARER = 100  # looks for cyclic garbage
SETTERS = ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads")


def cpu_quota(root=CGROUP):
    """Cores' worth of time that the container may use, a float; None: no limit."""
    for path, period in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = (root / path).read_text().split()
            words += (root / period).read_text().split() if period else []
            quota, per = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):
            continue
        return quota / per if quota > 0 else None
    return None


def cores():
    """How many cores this process may use: those it may run on, or fewer by the quota of its container."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, math.ceil(cpu_quota() or allowed)))


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


class _OneBlasThread:
    """A block in which BLAS has one thread: several may run at a time, the last to end gives BLAS its threads back."""

    def __init__(self):
        self.lock, self.inside, self.before = threading.Lock(), 0, None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._in_a_fork)

    def _in_a_fork(self):
        """A fork has none of the threads that were inside, or held the lock."""
        self.lock = threading.Lock()
        if self.inside:
            self.inside = 0
            blas_threads()[1](self.before)

    @contextmanager
    def __call__(self, get, set_):
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.before = get()
                set_(1)
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if not self.inside:
                    set_(self.before)


_one_blas_thread = _OneBlasThread()


class Workers:
    """A pool of `size` threads. size: 0 means one per core; 1 (always so on a device) means no threads at all.

    Where the threads of BLAS cannot be limited, several workers would get in each other's way: one then does it all.
    Any number of threads may call `map` at the same time.
    """

    def __init__(self, size=1, device="cpu"):
        self._blas = blas_threads() if device == "cpu" else None
        self.size = (size or cores()) if self._blas else 1
        if size > self.size and device == "cpu":
            told = "the threads of this NumPy's BLAS cannot be limited, and more would get in each other's way"
            warnings.warn(f"--workers {size}: one does it all; {told}", stacklevel=2)
        self._lock, self._pool, self._process = threading.Lock(), None, None

    def map(self, function, items):
        """[function(item) for item in items], several at a time; on the CPU, each with one thread of BLAS."""
        items = list(items)
        with self.one_blas_thread():
            if self.size < 2 or len(items) < 2:
                return [function(item) for item in items]
            return list(self._threads().map(function, items))

    def one_blas_thread(self):
        """A block in which BLAS has one thread, in the whole process: for products that are too small to share."""
        return _one_blas_thread(*self._blas) if self._blas else nullcontext()

    def _threads(self):
        """The pool, made when it is first needed, and anew in a process that was forked: a fork has no threads."""
        from concurrent.futures import ThreadPoolExecutor

        if self._process not in (None, os.getpid()):
            self._lock = threading.Lock()  # a thread of the process that was forked may have held it
        with self._lock:
            if self._process != os.getpid():
                self._pool, self._process = ThreadPoolExecutor(self.size, "nanospike"), os.getpid()
            return self._pool


ALONE = Workers()


def give_memory_back():
    """Return to the system what was freed: glibc keeps it, for each thread, and the next kind of work adds its own."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library
        return


@contextmanager
def few_collections():
    """A block in which Python looks for cyclic garbage more rarely: a training step makes many objects and leaves none
    in cycles. On a GPU, for which Python is what takes the time, that is a third of a step."""
    first, *others = before = gc.get_threshold()
    gc.set_threshold(RARER * first, *others)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def shares(lengths, parts):
    """Cut a batch into at most `parts` runs of about as many tokens: a list of slices.   lengths (B,) int"""
    reached = np.cumsum(lengths)
    targets = reached[-1] * np.arange(1, parts) / parts
    cuts = np.searchsorted(reached, targets) + 1
    edges = np.unique([0, *cuts[cuts < len(lengths)], len(lengths)])
    return [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
