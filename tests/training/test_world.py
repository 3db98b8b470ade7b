"""Ranks as threads of this process, with a communicator of a page: who does what, and what comes of it."""

import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from nanospike import InputError
from nanospike.arrays.tree import RowSum
from nanospike.training import parallel
from nanospike.training.optim import Diverged
from nanospike.training.parallel import Sums, World

IN_PLACE = object()


class Comm:
    """What parallel.py uses of mpi4py's communicator, between threads."""

    def __init__(self, rank, size, barrier, table):
        self.rank, self.size, self.barrier, self.table = rank, size, barrier, table

    def allgather(self, value):
        self.table[self.rank] = value
        self.barrier.wait()
        found = [self.table[rank] for rank in range(self.size)]
        self.barrier.wait()
        return found

    def bcast(self, value):
        return self.allgather(value)[0]

    def Allreduce(self, place, buffer):
        assert place is IN_PLACE
        buffer[...] = sum(self.allgather(buffer.copy()))

    def Allgather(self, mine, all_of_them):
        all_of_them[...] = self.allgather(mine)

    def Allgatherv(self, mine, into):
        buffer, sizes = into
        found = self.allgather(mine)
        assert [part.nbytes for part in found] == list(sizes)
        buffer[...] = np.concatenate(found)

    def Split_type(self, kind):
        assert kind == "shared"
        return self

    def Free(self):
        pass


class Ranks(World):
    _mpi = SimpleNamespace(COMM_TYPE_SHARED="shared", IN_PLACE=IN_PLACE)


@pytest.fixture
def threads(monkeypatch):
    """The numbers of threads that BLAS was given; this process may use cores 0 to 4."""
    given = []
    monkeypatch.setattr(parallel, "blas_threads", lambda: (None, given.append))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0: {0, 1, 2, 3, 4}}[process], raising=False)
    return given


def on_ranks(size, function):
    """[what function(world) returned, or the exception that it raised, of each rank]."""
    barrier, table, found = threading.Barrier(size, timeout=60), {}, [None] * size

    def rank(number):
        try:
            found[number] = function(Ranks(Comm(number, size, barrier, table)))
        except Exception as error:
            found[number] = error
            if not isinstance(error, (InputError, OSError, Diverged)):
                barrier.abort()

    ranks = [threading.Thread(target=rank, args=(number,)) for number in range(size)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join()
    return found


def test_ranks_of_a_host_share_its_cores(threads):
    assert on_ranks(2, lambda world: (world.rank, world.size, world.threads)) == [(0, 2, 2), (1, 2, 2)]
    assert threads == [2, 2]


def test_what_is_done_once_is_done_by_rank_0_and_known_to_all(threads):
    assert on_ranks(3, lambda world: world.once(lambda: world.rank + 7)) == [7, 7, 7]
    for kind in (InputError, OSError):

        def refuse(kind=kind):
            raise kind("no")

        errors = on_ranks(2, lambda world, refuse=refuse: world.once(refuse))
        assert [(type(e), str(e), e.on_all_ranks) for e in errors] == [(kind, "no", True)] * 2
    assert on_ranks(2, lambda world: world.any(world.rank == 1)) == [True, True]
    assert on_ranks(2, lambda world: world.gathered(world.rank * 2)) == [[0, 2]] * 2


def test_weights_that_differ_are_found(threads):
    same = {"a": np.arange(3.0), "b": np.ones((2, 2))}
    assert on_ranks(3, lambda world: world.require_same(same)) == [None] * 3

    def one_bit_off(world):
        mine = {name: array.copy() for name, array in same.items()}
        if world.rank == 2:
            mine["b"][1, 1] = np.nextafter(1, 2)
        world.require_same(mine)

    errors = on_ranks(3, one_bit_off)
    assert all(isinstance(e, InputError) and "weights of rank 2 are not those of rank 0" in str(e) for e in errors)


def test_only_rank_0_has_a_voice(capsys):
    world = World()
    for world.rank in (0, 1, 2):
        with world.one_voice():
            print(f"rank {world.rank}")
    assert capsys.readouterr().out == "rank 0\n"


def gradients(rank):
    """Of a rank: two dense arrays, and rows of a table of 6, of which row 3 has something from everyone."""
    rng = np.random.default_rng(rank)
    table = RowSum((6, 2))
    table.add(np.array([3, rank, 3]), rng.standard_normal((3, 2)))
    return {"w": rng.standard_normal((2, 3)), "b": rng.standard_normal(4), "table": table}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("sparse", [True, False])
def test_sums_over_ranks_and_the_bytes_that_they_take(size, sparse, threads):
    """A ring: 2 (n - 1) / n of the dense bytes; of the rows, 4 bytes of index and 16 of numbers, all but the next's."""

    def of(rank):
        found = gradients(rank)
        return found if sparse else {n: found[n] for n in ("w", "b")}

    def step(world):
        sums = Sums(world)
        terms, grads, notes = sums.step(lambda: ({"loss": 1.0 + world.rank}, of(world.rank), "notes"), world.rank == 1)
        dense = {n: g.dense() if isinstance(g, RowSum) else g.copy() for n, g in grads.items()}
        figures, after = sums.figures(2), sums.figures(2)
        return terms, dense, notes, sums.interrupted, figures, after

    wanted = [of(rank) for rank in range(size)]
    rows = [len(gradients(rank)["table"].rows()[0]) for rank in range(size)]
    for rank, (terms, grads, notes, interrupted, figures, after) in enumerate(on_ranks(size, step)):
        assert terms == {"loss": sum(range(1, size + 1))} and notes == "notes" and interrupted is True
        assert grads.keys() == wanted[0].keys()
        for name, found in grads.items():
            total = sum(w[name].dense() if name == "table" else w[name] for w in wanted)
            np.testing.assert_allclose(found, total, rtol=1e-12)
        sent = 2 * (size - 1) * 10 * 8 // size + sparse * (4 + 16) * (sum(rows) - rows[(rank + 1) % size])
        assert figures["communicated_mb"] == pytest.approx(sent / 2 / 1e6, rel=1e-12)
        assert after == {"communicated_mb": 0, "communication_ms": 0, "waiting_ms": 0}


def test_who_diverged_and_who_was_interrupted_is_known_to_all(threads):
    def diverge(world):
        def compute():
            if world.rank == 1:
                raise Diverged("the loss is nan")
            return {"loss": 1.0}, gradients(0), None

        return Sums(world).step(compute, False)

    assert [(type(e), str(e)) for e in on_ranks(2, diverge)] == [(Diverged, "the loss is nan")] * 2

    def calm(world):
        sums = Sums(world)
        assert sums.interrupted is False and sums.figures(1) == {
            "communicated_mb": 0, "communication_ms": 0, "waiting_ms": 0
        }  # fmt: skip
        sums.step(lambda: ({"loss": 1.0}, gradients(0), None), False)
        return sums.interrupted

    assert on_ranks(2, calm) == [False, False]
