"""Data parallel over MPI: mpiexec -n 4 python -m nanospike.distill ...

Every process (rank) holds all weights, computes its run of each global batch, and makes the same update. Per step:

1. one small sum (losses, who failed, who was interrupted), at which the ranks also wait for the slowest of them;
2. the dense gradients, packed into one buffer: Allreduce in place, a message per BUCKET elements;
3. the row-sparse gradients of the embeddings: indices and rows of all tables as bytes, one Allgatherv, merged in the
   order of the ranks.

tools/results/mpi.md has the volume of a step and what it means for 64 ranks. Rank 0 writes, prints and evaluates; the
others are silent unless they fail, and then stop all. The output directory need be seen by rank 0 only, what is read
(model, texts) by all. What the log says of firing rates and solves is of rank 0's part, but for the loop's gain and
the examples that failed, which are those of all. A run may be resumed with another number of ranks, which is said: sums
are then rounded in another order, and other dropout is drawn.

Whether several processes were started is read from the environment that their launcher sets (LAUNCHERS); one process
alone never imports mpi4py. On a GPU the sums go through the host; give each rank its own by CUDA_VISIBLE_DEVICES.
"""

import os
import sys
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache

import numpy as np

from ..arrays.backend import to_device, to_host
from ..arrays.rows import INDEX, merged, pack, unpack
from ..arrays.tree import RowSum
from ..arrays.workers import blas_threads, cores, shares
from ..config.errors import InputError
from .optim import Diverged

# (rank, size) as MPICH and its relatives, Open MPI, and Slurm with PMIx put them into a process's environment
LAUNCHERS = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMIX_RANK", "SLURM_STEP_NUM_TASKS"),
)
BUCKET = 2**24  # elements in one message: 64 MiB of float32
PAUSE = 0.02  # seconds between two looks, where waiting may take long
LINGER = 0.5  # seconds between the last words and the end: mpiexec may lose what it has not read by then
GRACE = 2.0  # seconds that other ranks leave to rank 0, so that an error that all meet is told once


def launched(environment=os.environ):
    """(rank, size) of this process according to its launcher; (0, 1) where none started several."""
    for rank, size in LAUNCHERS:
        if environment.get(rank, "").isdigit() and environment.get(size, "").isdigit():
            return int(environment[rank]), int(environment[size])
    return 0, 1


@cache
def world():
    """The World of this run: of one process, or of all that the launcher started."""
    rank, size = launched()
    if size == 1:
        return World()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: there is no MPI library
        raise InputError(
            f"{size} processes, and mpi4py cannot be used ({error}); pip install 'nanospike[mpi]' mpich"
        ) from None
    if size != MPI.COMM_WORLD.size:
        library = MPI.Get_library_version().split("\n")[0]
        raise InputError(
            f"{size} processes, of which mpi4py sees {MPI.COMM_WORLD.size}: mpiexec is not from its library, {library}"
        )
    return World(MPI.COMM_WORLD)


class World:
    """The processes of a run; comm None: there is one. All of them call the methods in the same order."""

    def __init__(self, comm=None):
        self.comm = comm
        self.rank, self.size = (comm.rank, comm.size) if comm else (0, 1)
        self.threads = self._threads() if comm else 0

    def _threads(self):
        """Cores for each rank of this host (the launcher may have bound it to some), which BLAS keeps to as well."""
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(cores())
        here = self.comm.Split_type(self._mpi.COMM_TYPE_SHARED)
        free = set().union(*here.allgather(set(allowed)))
        threads = max(1, min(len(allowed), len(free) // here.size))
        here.Free()
        if blas := blas_threads():
            blas[1](threads)
        return threads

    @property
    def _mpi(self):
        from mpi4py import MPI

        return MPI

    def mine(self, lengths):
        """This rank's run of a batch, a slice; empty where there are fewer examples than ranks.   lengths (B,) int"""
        parts = shares(lengths, self.size)
        return parts[self.rank] if self.rank < len(parts) else slice(0, 0)

    def any(self, flag):
        """Whether it is true on any rank."""
        return any(self.comm.allgather(bool(flag))) if self.comm else flag

    def gathered(self, value):
        """[value of each rank]."""
        return self.comm.allgather(value) if self.comm else [value]

    def once(self, function, *arguments):
        """What function(*arguments) returns on rank 0, on all of them; so also an InputError or OSError."""
        if not self.comm:
            return function(*arguments)
        value = error = None
        if self.rank == 0:
            try:
                value = function(*arguments)
            except (InputError, OSError) as raised:
                error = raised
        value, error = self.comm.bcast((value, error))
        if error:
            error.on_all_ranks = True
            raise error
        return value

    def in_turn(self, function):
        """What function() returns, which rank 0 calls first: what it leaves on disk is there for who shares it."""
        if self.comm:
            self.once(lambda: function() and None)
        return function()

    def require_same(self, arrays):
        """InputError unless the {name: array} have the same bits on all ranks."""
        if not self.comm:
            return
        import hashlib

        digest = hashlib.blake2b(digest_size=16)
        for array in arrays.values():
            digest.update(np.ascontiguousarray(to_host(array)).data)
        digests = self.comm.allgather(digest.digest())
        if other := [r for r, d in enumerate(digests) if d != digests[0]]:
            raise InputError(
                f"the weights of rank {other[0]} are not those of rank 0; do all hosts have the same model, versions "
                "and kind of processor? --resume goes on from the last checkpoint"
            )

    def wait(self):
        """Until all ranks are here, leaving the cores to those who still work."""
        request = self.comm.Ibarrier() if self.comm else None
        while request and not request.Test():
            time.sleep(PAUSE)

    @contextmanager
    def one_voice(self):
        """Within it, only rank 0 prints."""
        if self.rank == 0:
            yield
            return
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield

    def stop(self, said, status, together=False):
        """End the run because of this process: what it says on standard error, and the exit status.

        together: all ranks are here with the same to say, so that none has to be stopped by another.
        """
        if not self.comm or together:
            if self.rank == 0:
                print(said, file=sys.stderr)
            sys.exit(status)
        if self.rank:
            time.sleep(GRACE)
            said = f"rank {self.rank} of {self.size} on {self._mpi.Get_processor_name()}: {said}"
        print(said, file=sys.stderr, flush=True)
        time.sleep(LINGER)
        self.comm.Abort(status)


class Sums:
    """Sums over the ranks of what each step of one stage gives, in buffers that are used again.

    `sent` counts the bytes that this rank sends if the exchange goes around a ring, which is the least that there is:
    2 (n-1)/n of the dense buffer, and all sparse rows but those that the next rank has. `seconds` is the time of both,
    `waited` that of the small sum before them.
    """

    def __init__(self, world, device="cpu"):
        self.world, self.device, self.layout, self.buffer = world, device, None, None
        self.sent, self.seconds, self.waited, self.interrupted = 0, 0.0, 0.0, False

    def step(self, compute, interrupted):
        """(terms, grads, notes) of the whole batch from compute() -> those of this rank's part.

        Diverged if any rank raised that; `interrupted` of any rank becomes the attribute of all.
        """
        if self.world.size == 1:
            return compute()
        error, part = None, ({}, {}, dict)
        try:
            part = compute()
        except Diverged as raised:
            error = raised
        terms, grads, notes = part
        began = time.perf_counter()
        failures = self._agree(terms, grads, interrupted, error)
        middle = time.perf_counter()
        self.waited += middle - began
        if failures:
            raise Diverged(failures[0])
        grads = self._dense(grads) | self._sparse(grads)
        self.seconds += time.perf_counter() - middle
        return self.terms, {name: grads[name] for name, *_ in self.layout}, notes

    def figures(self, steps):
        """What the log says of the exchange, per step of the `steps` since its last line; {} of one process."""
        if self.world.size == 1:
            return {}
        values = {
            "communicated_mb": self.sent / steps / 1e6,
            "communication_ms": 1000 * self.seconds / steps,
            "waiting_ms": 1000 * self.waited / steps,
        }
        self.sent, self.seconds, self.waited = 0, 0.0, 0.0
        return values

    def _agree(self, terms, grads, interrupted, error):
        """Sum the terms, agree on the layout of the gradients (that of rank 0) and on who was interrupted or failed."""
        comm, mine = self.world.comm, _layout(grads)
        values = {n: float(v) for n, v in terms.items()}
        first = self.layout is None
        told = comm.allgather(
            (values, interrupted, str(error) if error else None, mine if first and not error else None)
        )
        self.interrupted = any(t[1] for t in told)
        self.terms = {n: sum(t[0].get(n, 0.0) for t in told) for n in told[0][0]}
        failures = [t[2] for t in told if t[2]]
        if first and not failures:
            self.layout = told[0][3]
        if grads and not failures and mine != self.layout:
            raise InputError("this rank has gradients of other names or shapes than rank 0: is it the same program?")
        return failures

    def _dense(self, grads):
        """{name: sum} of the dense gradients: views of the buffer, in use until the next step."""
        entries = [(n, shape, dtype) for n, sparse, shape, dtype in self.layout if not sparse]
        sizes = [int(np.prod(shape)) for _, shape, _ in entries]
        if self.buffer is None:
            self.buffer = np.empty(sum(sizes), np.result_type(*(d for *_, d in entries)))
        sums, start = {}, 0
        for (name, shape, _), size in zip(entries, sizes, strict=True):
            view = self.buffer[start : start + size].reshape(shape)
            view[...] = to_host(grads[name]) if name in grads else 0
            sums[name], start = view, start + size
        for start in range(0, self.buffer.size, BUCKET):
            self.world.comm.Allreduce(self.world._mpi.IN_PLACE, self.buffer[start : start + BUCKET])
        self.sent += 2 * (self.world.size - 1) * self.buffer.nbytes // self.world.size
        return {n: to_device(s, self.device) for n, s in sums.items()}

    def _sparse(self, grads):
        """{name: RowSum} of the rows of all ranks."""
        tables = [(n, shape, np.dtype(dtype)) for n, sparse, shape, dtype in self.layout if sparse]
        if not tables:
            return {}
        found = [[to_host(a) for a in grads[n].rows()] if n in grads else None for n, *_ in tables]
        parts = [
            (np.zeros(0), np.zeros((0, s[1]))) if f is None else f for f, (_, s, _) in zip(found, tables, strict=True)
        ]
        message = pack(parts, [d for *_, d in tables])
        counts = np.empty((self.world.size, len(tables)), np.int64)
        self.world.comm.Allgather(np.array([len(i) for i, _ in parts]), counts)
        sizes = (counts * [INDEX.itemsize + s[1] * d.itemsize for _, s, d in tables]).sum(axis=1)
        received = np.empty(sizes.sum(), np.uint8)
        self.world.comm.Allgatherv(message, [received, sizes])
        self.sent += int(sizes.sum() - sizes[(self.world.rank + 1) % self.world.size])
        texts = np.split(received, np.cumsum(sizes)[:-1])
        ranks = [unpack(text, numbers, tables) for text, numbers in zip(texts, counts, strict=True)]
        return {
            name: RowSum.of(shape, *(to_device(a, self.device) for a in merged([parts[i] for parts in ranks])))
            for i, (name, shape, _) in enumerate(tables)
        }


def _layout(grads):
    """[(name, whether it is a RowSum, shape, name of the dtype)] of gradients {name: array or RowSum}."""
    rows = {n: g.rows()[1] if isinstance(g, RowSum) else g for n, g in grads.items()}
    return [(n, isinstance(g, RowSum), tuple(g.shape), rows[n].dtype.name) for n, g in grads.items()]
