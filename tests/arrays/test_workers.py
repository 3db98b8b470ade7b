"""Parts of a batch side by side: the same sums, the threads of BLAS as they were."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import random_batch, random_student, random_teacher

from nanospike.arrays.tree import RowSum, dense_gradients, leaves, summed
from nanospike.arrays.workers import ALONE, Workers, blas_threads, cores, shares
from nanospike.data.text import Encoded, collate
from nanospike.model.loss import Targets, Totals
from nanospike.training.optim import AdamW


@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=40), parts=st.integers(1, 9))
def test_shares_cover_a_batch_in_runs_of_similar_size(lengths, parts):
    slices = shares(np.array(lengths), parts)
    assert 1 <= len(slices) <= parts
    assert [i for s in slices for i in range(s.start, s.stop)] == list(range(len(lengths)))
    assert all(s.start < s.stop for s in slices)
    tokens = [sum(lengths[s]) for s in slices]
    assert max(tokens) <= sum(lengths) / parts + max(lengths)


def test_results_keep_the_order_and_blas_its_threads():
    workers = Workers(3)
    if workers.size == 1:
        pytest.skip("NumPy's BLAS is not an OpenBLAS that can be found")
    get, _ = blas_threads()
    before, seen = get(), []
    assert workers.map(lambda i: seen.append(get()) or i * i, range(20)) == [i * i for i in range(20)]
    assert set(seen) == {1} and get() == before
    with pytest.raises(ZeroDivisionError):
        workers.map(lambda i: 1 / i, [1, 0, 2])
    assert get() == before


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
    for workers in (ALONE, Workers(2)):
        parameters = {n: p.copy() for n, p in start.items()}
        optimizer, steps = AdamW(parameters), np.random.default_rng(1)
        for _ in range(3):
            grads = {n: steps.standard_normal(s).astype("f") for n, s in shapes.items() if n != "table.weight"}
            grads["table.weight"] = RowSum(shapes["table.weight"])
            grads["table.weight"].add(np.array([3, 7, 3]), steps.standard_normal((3, 8)).astype("f"))
            optimizer.update(grads, 0.01, 1.0, workers)
        runs.append(parameters)
    assert all(np.array_equal(runs[0][n], runs[1][n]) for n in shapes)


def test_totals_of_a_mask():
    _, mask, _ = random_batch(lengths=(5, 3, 4))
    totals = Totals.of(mask)
    assert (totals.examples, int(totals.tokens), int(totals.pairs)) == (3, 12, 25 + 9 + 16)
