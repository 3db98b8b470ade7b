"""Parts of a batch side by side: the same sums, the threads of BLAS as they were."""

import gc
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import random_batch, random_student, random_teacher

from nanospike.arrays import workers
from nanospike.arrays.tree import RowSum, dense_gradients, leaves, summed
from nanospike.arrays.workers import ALONE, Workers, blas_threads, cores, shares
from nanospike.data.text import Encoded, collate
from nanospike.model.loss import Targets, Totals
from nanospike.model.simulate import SpikingRun
from nanospike.training.optim import AdamW


@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=40), parts=st.integers(1, 9))
def test_shares_cover_a_batch_in_runs_of_similar_size(lengths, parts):
    slices = shares(np.array(lengths), parts)
    assert 1 <= len(slices) <= parts
    assert [i for s in slices for i in range(s.start, s.stop)] == list(range(len(lengths)))
    assert all(s.start < s.stop for s in slices)
    tokens = [sum(lengths[s]) for s in slices]
    assert max(tokens) <= sum(lengths) / parts + max(lengths)


def test_one_worker_and_a_device_use_no_threads():
    assert ALONE.size == Workers(0, "cuda").size == Workers(1).size == 1
    assert Workers(0).size in (1, cores())
    assert ALONE.map(str, range(2)) == ["0", "1"] and Workers(2).map(str, []) == []


@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_a_batch_add_up_to_the_whole(parts, feedback):
    """Terms and gradients, with labels, padding and segments; each part padded to its own length."""
    teacher, student = random_teacher(1), random_student(2, feedback=feedback)
    rng = np.random.default_rng(3)
    lengths = np.array([2, 3, 3, 5, 7, 7])
    data = Encoded(
        [rng.integers(0, 40, n) for n in lengths], [rng.integers(0, 2, n) for n in lengths], rng.integers(0, 3, 6)
    )

    def part(index, totals):
        b = collate(data, index)
        inputs = (b.input_ids, b.attention_mask, b.token_type_ids)
        return student.gradients(inputs, Targets(teacher(*inputs), b.labels, totals))

    whole = part(np.arange(6), None)
    totals = Totals(6, lengths.sum(), (lengths * lengths).sum())
    workers = Workers(parts)
    results = workers.map(lambda s: part(np.arange(6)[s], totals), shares(lengths, parts))
    grads = summed([dict(leaves(r.grads)) for r in results], workers)
    for name, value in whole.terms.items():
        assert sum(r.terms[name] for r in results) == pytest.approx(value, rel=1e-12)
    expected, found = (dense_gradients(g, student.parameters()) for g in (whole.grads, grads))
    tolerance = 1e-8 if feedback else 1e-12
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=0, atol=tolerance * max(1, abs(gradient).max()))


def test_an_update_by_several_workers_has_the_same_bits():
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (300, 40), "b.bias": (40,), "table.weight": (50, 8)}
    start = {n: rng.standard_normal(s).astype("f") for n, s in shapes.items()}
    runs = []
    for pool in (ALONE, Workers(2)):
        parameters = {n: p.copy() for n, p in start.items()}
        optimizer, steps = AdamW(parameters), np.random.default_rng(1)
        for _ in range(3):
            grads = {n: steps.standard_normal(s).astype("f") for n, s in shapes.items() if n != "table.weight"}
            grads["table.weight"] = RowSum(shapes["table.weight"])
            grads["table.weight"].add(np.array([3, 7, 3]), steps.standard_normal((3, 8)).astype("f"))
            optimizer.update(grads, 0.01, 1.0, pool)
        runs.append(parameters)
    assert all(np.array_equal(runs[0][n], runs[1][n]) for n in shapes)


def test_totals_of_a_mask():
    _, mask, _ = random_batch(lengths=(5, 3, 4))
    totals = Totals.of(mask)
    assert (totals.examples, int(totals.tokens), int(totals.pairs)) == (3, 12, 25 + 9 + 16)


# ---- threads of BLAS: a worker is one ------------------------------------------------------------------------


@pytest.fixture
def blas():
    """(get, set) of BLAS's threads, two of them: they are given back."""
    found = blas_threads()
    if found is None:
        pytest.skip("NumPy's BLAS is not an OpenBLAS that can be found")
    before = found[0]()
    found[1](2)
    yield found
    found[1](before)


def test_results_keep_the_order_and_blas_its_threads(blas):
    pool, (get, _), seen = Workers(3), blas, []
    assert pool.map(lambda i: seen.append(get()) or i * i, range(20)) == [i * i for i in range(20)]
    assert set(seen) == {1} and get() == 2
    with pytest.raises(ZeroDivisionError):
        pool.map(lambda i: 1 / i, [1, 0, 2])
    assert get() == 2


@pytest.mark.parametrize("size, items", [(1, 1), (1, 3), (2, 1), (2, 4), (0, 1)])
def test_a_worker_has_one_thread_of_blas_always(size, items, blas):
    seen = Workers(size).map(lambda i: blas[0](), range(items))
    assert seen == [1] * items and blas[0]() == 2


def test_two_callers_at_once_leave_the_number_as_it_was(blas):
    """Whoever comes second must not take the 1 of the first for what was before."""
    meet = threading.Barrier(2, timeout=60)
    for _ in range(20):
        callers = [threading.Thread(target=Workers(2).map, args=(lambda i: meet.wait(), [0])) for _ in range(2)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert blas[0]() == 2


def test_a_failure_gives_the_threads_back(blas):
    with pytest.raises(ZeroDivisionError):
        Workers(1).map(lambda i: 1 / i, [0])
    assert blas[0]() == 2


def test_workers_that_there_cannot_be_are_said(monkeypatch):
    monkeypatch.setattr(workers, "blas_threads", lambda: None)
    with pytest.warns(UserWarning, match="--workers 2: one does it all; the threads of this NumPy's BLAS cannot"):
        assert Workers(2).size == 1
    assert Workers(0).size == Workers(1).size == Workers(2, "cuda").size == 1


@pytest.mark.parametrize("quota, expected", [(None, 4), (0.5, 1), (1.5, 2), (2.0, 2), (64.0, 4)])
def test_a_container_s_quota_is_seen(quota, expected, monkeypatch):
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(workers, "cpu_quota", lambda: quota)
    assert cores() == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_within_a_block_has_its_threads_back():
    """In a process of its own: pytest's has threads."""
    code = """
import os, sys
from nanospike.arrays.workers import Workers, blas_threads
found = blas_threads()
if found is None:
    sys.exit(0)
found[1](2)
pool = Workers(2)
assert pool.map(abs, [-1, 2]) == [1, 2]
with pool.one_blas_thread():
    child = os.fork()
    if child == 0:
        fine = found[0]() == 2 and pool.map(lambda i: found[0](), [1, 2]) == [1, 1] and found[0]() == 2
        os._exit(0 if fine else 9)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 and found[0]() == 2
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


def test_garbage_is_looked_for_as_before_afterwards():
    before = gc.get_threshold()
    with pytest.raises(ZeroDivisionError), workers.few_collections():
        assert gc.get_threshold() == (workers.RARER * before[0], *before[1:])
        raise ZeroDivisionError
    assert gc.get_threshold() == before


@pytest.mark.parametrize("kind", [{}, {"operators": "shift", "weights": "ternary"}, {"feedback": True}])
def test_a_step_leaves_nothing_in_cycles(kind):
    """So that few_collections holds no memory."""
    student, batch = random_student(spikes="signed", **kind), random_batch()
    targets, optimizer = Targets(random_teacher()(*batch)), AdamW(student.parameters())
    simulation = None if kind.get("feedback") else SpikingRun(time_steps=2, record=(1, 2))

    def step():
        result = student.computing().gradients(batch, targets, simulation=simulation)
        optimizer.update(dict(leaves(result.grads)), 1e-3, 1.0)

    step()
    gc.collect()
    gc.disable()
    try:
        step()
        assert gc.collect() == 0
    finally:
        gc.enable()
