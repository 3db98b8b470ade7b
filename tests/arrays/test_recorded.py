"""Launches that are recorded: on a stand-in that keeps what it is asked for, and on a GPU that can."""

from types import SimpleNamespace

import numpy as np
import pytest

from nanospike.arrays import recorded
from nanospike.arrays.backend import has_kernels, matmul, product, to_device, to_host
from nanospike.arrays.recorded import Recorded, can_record


class Tape:
    """A stream: what it is asked for is done, or kept while it is recorded."""

    def __init__(self):
        self.kept, self.asked, self.refuses = None, 0, False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False

    def begin_capture(self):
        self.kept = []

    def end_capture(self):
        kept, self.kept = self.kept, None
        if self.refuses:
            raise RuntimeError("void")
        return SimpleNamespace(launch=lambda: [launch() for launch in kept])

    def ask(self, launch):
        self.asked += 1
        if self.kept is None:
            launch()
        else:
            self.kept.append(launch)


@pytest.fixture
def tape(monkeypatch):
    """The stream of a Recorded in which NumPy stands for a device."""
    tape = Tape()
    runtime = SimpleNamespace(CUDARuntimeError=RuntimeError)
    cuda = SimpleNamespace(Stream=lambda non_blocking: tape, using_allocator=lambda malloc: Tape(), runtime=runtime)
    monkeypatch.setattr(recorded, "library", lambda device: SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(recorded, "_pool", lambda: SimpleNamespace(malloc=None))
    monkeypatch.setattr(recorded, "_Products", lambda stream: SimpleNamespace(begin=lambda: None))
    return tape


def scaled(tape, factor):
    def function(x, times):
        out = np.empty_like(x)
        tape.ask(lambda: np.multiply(x, factor * times, out=out))
        return out

    return function


def test_what_was_asked_of_a_shape_is_asked_again_of_other_values(tape):
    factor = np.array(2.0)
    double = Recorded(scaled(tape, factor))
    for number in range(1, 5):
        x = np.full(3, float(number))
        assert np.array_equal(double(x, 10), 20 * x)
    assert tape.asked == 2  # run once, recorded once
    factor[...] = 3  # a parameter: it stays where it is
    assert np.array_equal(double(np.ones(3), 10), np.full(3, 30.0))
    assert tape.asked == 2
    assert np.array_equal(double(np.ones(3), 1), np.full(3, 3.0)) and tape.asked == 3  # another argument
    assert np.array_equal(double(np.ones((1, 3)), 10), np.full((1, 3), 30.0)) and tape.asked == 4  # another shape


def test_each_shape_keeps_its_own(tape):
    double = Recorded(scaled(tape, 2.0))
    for _ in range(3):
        first, second = (double(np.arange(1.0, n), 1) for n in (3, 5))
        assert np.array_equal(first, [2, 4]) and np.array_equal(second, [2, 4, 6, 8])
    assert tape.asked == 4


def test_arguments_are_copied_before_they_are_read(tape):
    double, x = Recorded(scaled(tape, 2.0)), np.ones(3)
    double(x, 1), double(x, 1)
    x[...] = 7
    assert np.array_equal(double(np.full(3, 4.0), 1), np.full(3, 8.0)) and x[0] == 7


def test_beyond_so_many_shapes_nothing_is_recorded(tape, monkeypatch):
    monkeypatch.setattr(recorded, "SHAPES", 1)
    double = Recorded(scaled(tape, 2.0))
    for _ in range(3):
        assert np.array_equal(double(np.ones(2), 1), np.full(2, 2.0))
        assert np.array_equal(double(np.ones(4), 1), np.full(4, 2.0))
    assert tape.asked == 2 + 3


def test_what_cannot_be_recorded_is_run_and_said_once(tape, recwarn):
    def function(x):
        if tape.kept is not None and len(x) > 1:
            tape.refuses = True
            raise NotImplementedError("a library that refuses")
        return scaled(tape, 2.0)(x, 1)

    double = Recorded(function)
    for number in range(4):
        for n in (1, 2, 3):
            assert np.array_equal(double(np.full(n, float(number))), np.full(n, 2.0 * number))
    assert tape.asked == 2 + 4 + 4  # what was recorded before goes on
    assert [str(w.message) for w in recwarn] == ["no graph, launch by launch then: a library that refuses"]


@pytest.fixture
def gpu(cupy):
    if not has_kernels(cupy) or not can_record():
        pytest.skip("no GPU that records a stream")
    return cupy


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_and_kernels_of_a_gpu_are_recorded(gpu, dtype):
    weight = to_device(np.random.default_rng(0).standard_normal((6, 5)).astype(dtype), "cuda")

    def function(x, stack):
        y = matmul(x, weight.T) + 1
        stacked = product(stack, stack, gpu.empty((len(stack), 4, 4), dtype), transpose_b=True)
        return y.sum(axis=0), gpu.zeros(3, dtype) + stacked.sum()

    both = Recorded(function)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        arguments = [to_device(rng.standard_normal(s).astype(dtype), "cuda") for s in ((7, 5), (2, 4, 3))]
        for found, expected in zip(both(*arguments), function(*arguments), strict=True):
            assert np.array_equal(to_host(found), to_host(expected))
        weight *= 0.5
    assert len(both.graphs) == 1


def test_no_memory_of_graphs_is_given_back_when_there_is_no_more(gpu, monkeypatch):
    """CuPy's pools free all that nobody holds before they say so; what graphs compute in is held by nobody."""
    pool = gpu.cuda.MemoryPool(recorded._allocated)
    pool.malloc(1 << 20)
    free = pool.free_bytes()

    def full(size):
        raise gpu.cuda.runtime.CUDARuntimeError(2)  # out of memory

    monkeypatch.setattr(gpu.cuda, "Memory", full)
    with pytest.raises(MemoryError, match="bytes on the GPU"):
        pool.malloc(1 << 24)
    assert pool.free_bytes() == free >= 1 << 20


def test_what_has_no_kernels_records_nothing(cupy):
    recorded.can_record.cache_clear()
    assert has_kernels(cupy) or not can_record()
