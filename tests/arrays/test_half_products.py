"""Products of bfloat16 factors by MKL: rounding by hand, products against float64 of what is rounded, refusals."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from models import random_student, random_teacher
from tiny import run, write_sst2, write_teacher

from nanospike import distill
from nanospike.arrays import backend, machine
from nanospike.config.errors import InputError
from nanospike.model import twins
from nanospike.model.loss import Targets
from nanospike.start import accelerate
from nanospike.training import options as training_options
from nanospike.training.options import require_precision

CAN = importlib.util.find_spec("numba") is not None and machine.mkl_library() is not None
needs_mkl = pytest.mark.skipif(not CAN, reason="needs numba and mkl")


@pytest.fixture(autouse=True)
def as_before():
    yield
    twins.use_fast(False)
    backend.set_host_product(None)


def widened(halves):
    return (halves.astype(np.uint32) << 16).view(np.float32)


@needs_mkl
@pytest.mark.parametrize(
    ("value", "upper"),
    [
        (1.0, 0x3F80), (1 + 2**-9, 0x3F80), (1 + 2**-8, 0x3F80), (1 + 2**-7 + 2**-8, 0x3F82),
        (1 + 2**-8 + 2**-20, 0x3F81), (-0.0, 0x8000), (np.inf, 0x7F80), (3.4e38, 0x7F80), (-1e-45, 0x8000),
    ],
)  # fmt: skip
def test_rounding_is_to_nearest_and_to_even(value, upper):
    from nanospike.arrays.half_products import rounded

    assert rounded(np.array([[value]], np.float32)) == upper


@needs_mkl
@given(hnp.arrays(np.uint32, (3, 4), elements=st.integers(0, 2**32 - 1)))
def test_what_is_rounded_is_the_nearer_neighbour(bits):
    from nanospike.arrays.half_products import rounded

    x = bits.view(np.float32)
    found = widened(rounded(x))
    assert np.array_equal(np.isnan(found), np.isnan(x))
    below = widened((bits >> 16).astype(np.uint16)).astype(np.float64)  # towards zero
    fine = np.isfinite(x) & (abs(x) < 3.3e38)
    step = np.maximum(abs(below) * 2.0**-7, 2.0**-133)
    assert (abs(found.astype(np.float64) - x)[fine] <= step[fine] / 2).all()


@needs_mkl
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("accumulate", [False, True])
def test_products_of_blocks_of_columns(transpose_a, transpose_b, accumulate):
    from nanospike.arrays.half_products import product, rounded

    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    a = draw(*((7, 9) if transpose_a else (5, 9)))[:, 2 : 7 if transpose_a else 9]
    b = draw(*((6, 12) if transpose_b else (7, 12)))[:, 3 : 10 if transpose_b else 9]
    whole = draw(5, 11)
    before = whole.copy()
    out = whole[:, 4:10]
    turned = [m.T if turn else m for m, turn in ((a, transpose_a), (b, transpose_b))]
    wanted = np.matmul(*(widened(rounded(np.ascontiguousarray(m))).astype(np.float64) for m in turned))
    assert product(a, b, out, transpose_a, transpose_b, accumulate) is out
    np.testing.assert_allclose(out, wanted + accumulate * before[:, 4:10], rtol=1e-5, atol=1e-5)
    whole[:, 4:10] = before[:, 4:10]
    assert np.array_equal(whole, before)


@needs_mkl
def test_a_nan_is_seen_and_nothing_is_nothing():
    from nanospike.arrays.half_products import product

    a, b = np.ones((2, 3), np.float32), np.ones((3, 2), np.float32)
    a[1, 1] = np.nan
    assert np.array_equal(np.isnan(product(a, b, np.empty((2, 2), np.float32))), [[False] * 2, [True] * 2])
    assert product(a[:0], b, np.empty((0, 2), np.float32)).shape == (0, 2)
    assert not product(a[:, :0], b[:0], np.ones((2, 2), np.float32)).any()


@needs_mkl
def test_gradients_of_a_student_are_near_those_of_float32():
    """A factor is off by 2^-9 at most; a gradient by more, for some neurons cross the ends of their range."""
    shape = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
    student, teacher = random_student(1, dtype="float32", **shape), random_teacher(2, dtype="float32", **shape)
    for name, p in student.parameters().items():
        if "dense" in name or "self" in name:
            p *= 0.3
    rng = np.random.default_rng(3)
    inputs = rng.integers(1, 40, (8, 9)), np.ones((8, 9), np.int64), np.zeros((8, 9), np.int64)
    target = Targets(teacher.forward(inputs)[0])
    found = {}
    for precision in ("float32", "bfloat16"):
        accelerate(SimpleNamespace(device="cpu", fast=True, precision=precision))
        found[precision] = dict(backend_leaves(student.gradients(inputs, target).grads))
    exact, rough = (np.concatenate([np.ravel(found[p][n]) for n in sorted(found[p])]) for p in found)
    error = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.1


def backend_leaves(grads):
    from nanospike.arrays.tree import RowSum, leaves

    return {n: g.dense() if isinstance(g, RowSum) else g for n, g in leaves(grads)}.items()


@needs_mkl
def test_a_run_says_so_and_differs(tmp_path, capsys):
    write_sst2(tmp_path / "data")
    write_teacher(tmp_path / "teacher", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    where = ("--teacher", tmp_path / "teacher", "--task", "sst-2", "--data-dir", tmp_path / "data", "--max-steps", 1)
    weights = set()
    for name in ("float32", "bfloat16"):
        assert run(distill.main, *where, "--time-steps", 2, "--precision", name, "--output-dir", tmp_path / name) == 0
        assert ("bfloat16 by MKL" in capsys.readouterr().err) == (name == "bfloat16")
        weights.add((tmp_path / name / "model.safetensors").read_bytes())
    assert len(weights) == 2


@pytest.mark.parametrize("missing", ["numba", "mkl", None])
def test_what_it_needs(missing, monkeypatch):
    monkeypatch.setattr(training_options, "find_spec", lambda name: None if missing == "numba" else object())
    monkeypatch.setattr(training_options, "mkl_library", lambda: None if missing == "mkl" else "libmkl_rt.so.3")
    asked = SimpleNamespace(device="cpu", fast=missing is not None, precision="bfloat16")
    with pytest.raises(InputError, match=f"{missing} missing; pip install" if missing else "found --no-fast"):
        require_precision(asked)
    if missing is None:
        require_precision(SimpleNamespace(device="cpu", fast=True, precision="bfloat16"))
