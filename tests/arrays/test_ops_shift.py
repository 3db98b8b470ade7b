"""Shift operators: values by another way, the twin's slope by complex step, exact equivariance under powers of two."""

import inspect
import math

import numpy as np
import pytest
from check import STEP
from conftest import check_owner
from hypothesis import given
from hypothesis import strategies as st

from nanospike.arrays import ops_shift
from nanospike.arrays.backend import to_device, to_host

SEEDS = st.integers(0, 2**31)
LEADS = st.lists(st.integers(1, 4), min_size=0, max_size=2)
SCALES = st.sampled_from([2.0**-40, 0.3, 1.0, 17.0])


def softmax_of_row(scores):
    """The formula, one number at a time, in exact powers."""
    d = [round((s - max(scores)) * math.log2(math.e)) for s in scores]
    total = sum(2.0**n for n in d if n >= -15)
    k = round(math.log2(total))
    return [2.0 ** (n - k) if n >= -15 else 0.0 for n in d]


def norm_of_row(row, weight, bias):
    m = max(round(math.log2(math.sqrt(math.pi / 2) * np.mean(np.abs(row)))), -24)
    return [x / 2.0**m * w + b for x, w, b in zip(row, weight, bias, strict=True)]


def softmax_twin(x, at):
    """The operator with its residues at the real point `at` held constant: analytic in x."""
    scaled = (at - at.max(axis=-1, keepdims=True)) * math.log2(math.e)
    d = np.rint(scaled)
    kept = d >= -15
    total = (2.0**d * kept).sum(axis=-1, keepdims=True)
    k = np.rint(np.log2(total))
    moved = (x - at.max(axis=-1, keepdims=True)) * math.log2(math.e) + (d - scaled)
    powers = np.exp(moved * math.log(2)) * kept
    logarithm = np.log(powers.sum(axis=-1, keepdims=True)) / math.log(2) + (k - np.log2(total))
    return powers * np.exp(-logarithm * math.log(2))


def norm_twin(x, weight, bias, at, factor):
    """unit = factor x / mean |x|, factor a constant (..., 1)."""
    return x * factor / (x * np.sign(at)).mean(axis=-1, keepdims=True) * weight + bias


def random_params(rng, width):
    return {"weight": 1 + 0.3 * rng.standard_normal(width), "bias": rng.standard_normal(width)}


@given(seed=SEEDS, lead=LEADS, width=st.integers(1, 40), scale=SCALES)
def test_softmax_is_its_formula(seed, lead, width, scale):
    x = 5 * scale * np.random.default_rng(seed).standard_normal((*lead, width))
    y, _ = ops_shift.shift_softmax(x)
    wanted = [softmax_of_row(row) for row in x.reshape(-1, width).tolist()]
    np.testing.assert_array_equal(y.reshape(-1, width), wanted)
    total = y.sum(axis=-1)
    assert (total > 0.707).all() and (total < 1.4143).all()


@given(seed=SEEDS, lead=LEADS, width=st.integers(1, 40), scale=SCALES)
def test_norm_is_its_formula(seed, lead, width, scale):
    rng = np.random.default_rng(seed)
    x, params = scale * rng.standard_normal((*lead, width)), random_params(rng, width)
    y, _ = ops_shift.shift_norm(x, **params)
    wanted = [norm_of_row(row, *params.values()) for row in x.reshape(-1, width).tolist()]
    np.testing.assert_allclose(y.reshape(-1, width), wanted, rtol=1e-14, atol=1e-14)


@given(seed=SEEDS, lead=LEADS, width=st.integers(1, 12), scale=SCALES)
def test_softmax_has_its_twins_slope(seed, lead, width, scale):
    rng = np.random.default_rng(seed)
    x, u, v = rng.standard_normal((3, *lead, width))
    x *= 5 * scale
    y, vjp = ops_shift.shift_softmax(x)
    np.testing.assert_allclose(softmax_twin(x, x), y, rtol=1e-12)
    slope = np.imag(softmax_twin(x + 1j * STEP * u, x)) / STEP
    np.testing.assert_allclose(np.vdot(vjp(v), u), np.vdot(v, slope), rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(vjp(v), vjp(v))
    itself = ops_shift.shift_softmax(x + 1j * STEP * u)[0]
    np.testing.assert_allclose(itself.imag / STEP, slope, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(itself.real, y, rtol=1e-12)


@given(seed=SEEDS, lead=LEADS, width=st.integers(1, 12), scale=SCALES, half_steps=st.booleans())
def test_norm_has_its_twins_slope(seed, lead, width, scale, half_steps):
    rng = np.random.default_rng(seed)
    x, u, v = rng.standard_normal((3, *lead, width))
    x *= scale
    params, along = random_params(rng, width), random_params(rng, width)
    y, vjp = ops_shift.shift_norm(x, **params, half_steps=half_steps)
    grads = {}
    assert np.array_equal(vjp(v, grads), vjp(v))
    size = np.abs(x).mean(axis=-1, keepdims=True)
    gain = ops_shift.reciprocal(size * math.sqrt(math.pi / 2), half_steps)
    held = size * math.sqrt(math.pi / 2) < 2.0**-24

    def twin(h):
        moved = {n: p + 1j * h * along[n] for n, p in params.items()}
        z = x + 1j * h * u
        return np.where(
            held, z * gain * moved["weight"] + moved["bias"], norm_twin(z, **moved, at=x, factor=gain * size)
        )

    np.testing.assert_allclose(twin(0).real, y, rtol=1e-12, atol=1e-14)
    slope = np.vdot(v, np.imag(twin(STEP)) / STEP)
    found = np.vdot(vjp(v), u) + sum(np.vdot(grads[n], along[n]) for n in params)
    scale = np.linalg.norm(vjp(v)) * np.linalg.norm(u) + sum(np.linalg.norm(g) for g in grads.values())
    assert abs(found - slope) <= 1e-11 * scale
    itself = ops_shift.shift_norm(x + 1j * STEP * u, **params, half_steps=half_steps)[0]
    assert abs(np.vdot(v, itself.imag / STEP) - np.vdot(vjp(v), u)) <= 1e-11 * scale
    np.testing.assert_allclose(itself.real, y, rtol=1e-12, atol=1e-14)


@given(seed=SEEDS, width=st.integers(1, 12), power=st.integers(-8, 20), half_steps=st.booleans())
def test_a_norm_of_rows_times_a_power_of_two_is_the_same(seed, width, power, half_steps):
    """Bit for bit, and the slope is divided by it."""
    rng = np.random.default_rng(seed)
    x, v = rng.standard_normal((2, 3, width)).astype(np.float32)
    params = {n: p.astype(np.float32) for n, p in random_params(rng, width).items()}
    y, vjp = ops_shift.shift_norm(x, **params, half_steps=half_steps)
    z, scaled_vjp = ops_shift.shift_norm(x * np.float32(2.0**power), **params, half_steps=half_steps)
    assert np.array_equal(y, z) and np.array_equal(vjp(v), scaled_vjp(v) * np.float32(2.0**power))


@given(seed=SEEDS, width=st.integers(1, 12), shift=st.integers(-64, 64), order=st.randoms(use_true_random=False))
def test_a_softmax_of_shifted_scores_is_the_same(seed, width, shift, order):
    """Bit for bit: scores with few bits can be shifted without rounding; keys may come in any order."""
    rng = np.random.default_rng(seed)
    x = (rng.integers(-(2**9), 2**9, (4, width)) / 2**6).astype(np.float32)
    y, _ = ops_shift.shift_softmax(x)
    assert np.array_equal(ops_shift.shift_softmax(x + np.float32(shift / 4))[0], y)
    keys = list(range(width))
    order.shuffle(keys)
    assert np.array_equal(ops_shift.shift_softmax(x[:, keys])[0], y[:, keys])


def test_what_is_left_out_of_a_softmax_changes_nothing():
    x = np.array([[0.0, -1.0, -3.0]])
    padded = np.array([[0.0, -1.0, -3.0, -1e9, -15.6 * math.log(2)]])
    y, z = ops_shift.shift_softmax(x)[0], ops_shift.shift_softmax(padded)[0]
    assert np.array_equal(z[:, :3], y) and not z[:, 3:].any()
    assert ops_shift.shift_softmax(np.array([[0.0, -15.4 * math.log(2)]]))[0][0, 1] == 2.0**-15


@pytest.mark.parametrize("half_steps", [False, True])
def test_gains_are_the_nearest(half_steps):
    x = np.exp(np.linspace(-10, 10, 4001)).astype(np.float32)
    gain = ops_shift.reciprocal(x, half_steps)
    choices = 2.0 ** np.arange(-20, 21)
    choices = np.concatenate([choices, 1.5 * choices]) if half_steps else choices
    errors = np.abs(np.log(x[:, None] * choices))
    np.testing.assert_allclose(np.abs(np.log(x * gain)), errors.min(axis=1), atol=1e-6)
    assert errors.min(axis=1).max() < math.log(1.225 if half_steps else 1.4143)


def test_rows_of_zeros_have_values_and_slopes():
    params = {"weight": np.array([1.0, 2.0]), "bias": np.array([0.5, -0.5])}
    y, vjp = ops_shift.shift_norm(np.zeros((1, 2)), **params)
    assert np.array_equal(y, [[0.5, -0.5]])
    np.testing.assert_array_equal(vjp(np.ones((1, 2))), [[2.0**24, 2.0**25]])


@given(seed=SEEDS)
def test_powers_and_exponents(seed):
    rng = np.random.default_rng(seed)
    n = rng.integers(-126, 127, 50)
    for kind in (np.float32, np.float64):
        assert np.array_equal(ops_shift.power_of_two(n.astype(kind)), np.ldexp(kind(1), n))
        x = np.exp(rng.uniform(-20, 20, 50)).astype(kind)
        assert np.array_equal(ops_shift.nearest_exponent(x), np.rint(np.log2(x.astype(np.float64))))
    assert not ops_shift.power_of_two(np.array([-127.0, -2000.0], np.float32)).any()
    assert np.array_equal(ops_shift.rounded(np.array([0.5, 1.5, -2.5, 0.6])), [0, 2, -2, 1])


CHECKED = {"shift_softmax", "shift_norm", "rounded", "power_of_two", "nearest_exponent", "reciprocal"}


def test_every_operator_is_tested_here():
    functions = inspect.getmembers(ops_shift, inspect.isfunction)
    assert {n for n, f in functions if f.__module__ == ops_shift.__name__ and n[0] != "_"} == CHECKED


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["shift_softmax", "shift_norm"])
def test_values_and_cotangents_keep_dtype_and_library(name, dtype, xp, device):
    rng = np.random.default_rng(0)
    x, v = rng.standard_normal((2, 2, 3, 6)).astype(dtype)
    params = {n: p.astype(dtype) for n, p in random_params(rng, 6).items()} if name == "shift_norm" else {}

    def run(place):
        y, vjp = getattr(ops_shift, name)(place(x), **{n: place(p) for n, p in params.items()})
        return y, vjp(place(v))

    found, wanted = run(lambda a: to_device(a, device)), run(lambda a: a)
    check_owner(xp, *found)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(to_host(a), b, rtol=1e-6, atol=1e-6)
