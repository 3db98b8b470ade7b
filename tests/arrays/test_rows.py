"""Rows of several tables survive their way as one message, and those of several ranks add up."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nanospike.arrays.rows import merged, pack, unpack
from nanospike.arrays.tree import RowSum

tables = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4), st.sampled_from(["float32", "float64"])), min_size=1)


@given(tables=tables)
def test_rows_survive_their_packing(tables):
    rng = np.random.default_rng(0)
    parts = [(rng.integers(0, 9, n), rng.standard_normal((n, width)).astype(d)) for n, width, d in tables]
    layout = [("name", (9, width), np.dtype(d)) for _, width, d in tables]
    message = pack(parts, [np.dtype(d) for *_, d in tables])
    assert message.nbytes == sum(n * (4 + width * np.dtype(d).itemsize) for n, width, d in tables)
    for (indices, rows), found in zip(parts, unpack(message, [n for n, *_ in tables], layout), strict=True):
        assert np.array_equal(found[0], indices) and found[0].dtype == np.int64
        assert np.array_equal(found[1], rows) and found[1].dtype == rows.dtype


def test_rows_of_several_ranks_are_merged():
    a, b, none = (np.array([1, 5]), np.ones((2, 3))), (np.array([0, 5]), np.full((2, 3), 2.0)), np.zeros(0, int)
    indices, rows = merged([a, (none, np.zeros((0, 3))), b])
    assert indices.tolist() == [0, 1, 5] and rows[:, 0].tolist() == [2, 1, 3]
    assert RowSum.of((6, 3), indices, rows).dense().sum(axis=1).tolist() == [6, 3, 0, 0, 0, 9]
