"""Low-bit weights: rows by the formulas one number at a time, what stays as it is, what a tree of them shares."""

import numpy as np
import pytest
from conftest import check_owner
from hypothesis import given
from hypothesis import strategies as st
from models import random_student

from nanospike.arrays.backend import to_device, to_host
from nanospike.arrays.workers import Workers
from nanospike.model import twins
from nanospike.model.quantise import low_bit, quantised, split

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


@pytest.mark.parametrize("offset", [0.0, 0.5, -3.0, 1e3])
def test_the_compiled_form_is_the_same(compiled, offset):
    rows = (np.random.default_rng(3).standard_normal((2, 9, 300)) + offset).astype("f")
    rows[0, 0], rows[0, 1], rows[1, 2] = 0, -0.25, rows[1, 2] * 1e-30
    found = low_bit(rows, "ternary")
    with twins.portable():
        expected = low_bit(rows, "ternary")
    np.testing.assert_allclose(found, expected, rtol=2e-7)
    assert np.array_equal(low_bit(found, "ternary"), found)
    np.testing.assert_allclose(low_bit(rows[::1, ::2], "ternary"), expected[:, ::2], rtol=2e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_compiled_form_hides_nothing(compiled, bad):
    rows = np.ones((2, 5), "f")
    rows[1, 3] = bad
    with np.errstate(invalid="ignore"):
        found = low_bit(rows, "ternary")
    assert np.isnan(found[1]).all() and (found[0] == 1).all()


def test_matrices_are_made_low_bit_by_all_workers():
    student = random_student(weights="ternary", embedding_weights="ternary")
    one, two = (quantised(student.tree, student.config, Workers(n)) for n in (1, 2))
    for layer, other, masters in zip(
        one["encoder"]["layer"], two["encoder"]["layer"], student.tree["encoder"]["layer"], strict=True
    ):
        for at in ("intermediate", "output"):
            made = layer[at]["dense"]["weight"]
            assert np.array_equal(made, other[at]["dense"]["weight"])
            assert np.array_equal(made, low_bit(masters[at]["dense"]["weight"], "ternary"))
        value = masters["attention"]["self"]["value"]
        assert np.array_equal(other["attention"]["self"]["value"]["weight"], low_bit(value["weight"], "ternary"))
        assert other["attention"]["self"]["value"]["bias"] is value["bias"]
