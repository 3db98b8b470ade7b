"""Low-bit weights: rows by the formulas one number at a time, what stays as it is, what a tree of them shares."""

import numpy as np
import pytest
from conftest import check_owner
from hypothesis import given
from hypothesis import strategies as st

from nanospike.arrays.backend import to_device, to_host
from nanospike.model.quantise import low_bit, split

KINDS = ("ternary", "binary")
kinds = pytest.mark.parametrize("kind", KINDS)


def ternary_row(row):
    cut = 0.7 * sum(abs(w) for w in row) / len(row)
    kept = [abs(w) for w in row if abs(w) > cut]
    scale = sum(kept) / len(kept) if kept else 0.0
    return [(scale if w > 0 else -scale) if abs(w) > cut else 0.0 for w in row]


def binary_row(row):
    mean, scale = sum(row) / len(row), sum(abs(w) for w in row) / len(row)
    return [scale if w > mean else -scale for w in row]


@kinds
@given(seed=st.integers(0, 2**31), width=st.integers(2, 30), offset=st.sampled_from([0.0, 0.5, -3.0]))
def test_rows_by_the_formula(kind, seed, width, offset):
    rows = np.random.default_rng(seed).standard_normal((5, width)) + offset
    by_hand = [{"ternary": ternary_row, "binary": binary_row}[kind](row) for row in rows.tolist()]
    np.testing.assert_allclose(low_bit(rows, kind), by_hand, rtol=1e-13)


@kinds
@given(seed=st.integers(0, 2**31), width=st.integers(1, 300), offset=st.sampled_from([0.0, 0.5, -3.0, 1e3]))
def test_what_is_low_bit_stays_as_it_is(kind, seed, width, offset):
    rows = (np.random.default_rng(seed).standard_normal((4, width)) + offset).astype(np.float32)
    low = low_bit(rows, kind)
    pattern, scale = split(low)
    assert np.array_equal(low_bit(low, kind), low)
    assert pattern.dtype == np.int8 and np.array_equal(pattern * scale[:, None], low)
    assert set(np.unique(pattern)) <= ({-1, 0, 1} if kind == "ternary" else {-1, 1})


@kinds
@pytest.mark.parametrize("row", [[-0.3] * 7, [0.1] * 3, [0.0] * 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_of_one_number_is_itself(kind, row, dtype):
    rows = np.array([row], dtype)
    np.testing.assert_allclose(low_bit(rows, kind), rows, rtol=1e-15)


def test_scaling_a_row_scales_what_it_becomes():
    rows = np.random.default_rng(0).standard_normal((6, 20))
    for kind in KINDS:
        low = low_bit(rows, kind)
        assert np.array_equal(low_bit(rows * 4, kind), 4 * low) and np.array_equal(low_bit(rows[2:3], kind), low[2:3])


@kinds
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_and_library(kind, dtype, xp, device):
    rows = np.random.default_rng(1).standard_normal((3, 4, 8)).astype(dtype)
    found = low_bit(to_device(rows, device), kind)
    check_owner(xp, found)
    assert found.dtype == dtype
    np.testing.assert_allclose(to_host(found), low_bit(rows, kind), rtol=1e-6)
    pattern, scale = split(found[0])
    check_owner(xp, pattern, scale)
