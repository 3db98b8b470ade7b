"""Low-bit weights as they are held: bytes by hand, float rows and matrices against patterns times scales, loading."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import random_batch, random_student

import nanospike
from nanospike.arrays.backend import to_device, to_host
from nanospike.arrays.tree import leaves
from nanospike.files.packing import pack
from nanospike.model.held import FileRows, PackedRows
from nanospike.model.loading import load_held
from nanospike.model.quantise import low_bit_names, split
from nanospike.model.simulate import SpikingRun

VALUES = {"ternary": [-1, 0, 1], "binary": [-1, 1]}
KINDS = pytest.mark.parametrize("kind", VALUES)


def drawn(kind, shape, seed, dtype="float32"):
    """(pattern, scale); some scales are 0 or negative, as a file may have them."""
    rng = np.random.default_rng(seed)
    return rng.choice(np.array(VALUES[kind], np.int8), shape), rng.integers(-2, 4, shape[0]).astype(dtype) / 3


def test_bytes_by_hand():
    ternary = np.array([[1, 0, -1, 0, 1], [-1, -1, 0, 1, 0]], np.int8)
    codes = PackedRows(ternary, np.ones(2), "ternary").codes
    assert codes.tolist() == [[0b01_00_01_10, 0b10], [0b10_01_00_00, 0b01]] and codes.dtype == np.uint8
    binary = np.array([[1, -1, 1, 1, -1, -1, 1, -1, 1]], np.int8)
    assert PackedRows(binary, np.ones(1), "binary").codes.tolist() == [[0b01001101, 0b1]]


@KINDS
@given(seed=st.integers(0, 2**31), shape=st.tuples(st.integers(1, 7), st.integers(1, 19)))
def test_rows_and_matrix_are_patterns_times_scales(kind, seed, shape):
    pattern, scale = drawn(kind, shape, seed)
    wanted, index = pattern * scale[:, None], np.random.default_rng(seed).integers(0, shape[0], (2, 3))
    as_in_a_file = FileRows(pack(pattern, kind), scale, kind, shape)
    for held in (PackedRows(pattern, scale, kind), as_in_a_file):
        expected = (held[index], wanted[index]), (held[:2], wanted[:2]), (held.T, wanted.T), (np.asarray(held), wanted)
        for found, values in expected:
            assert found.dtype == np.float32 and np.array_equal(found, values)
        assert held.shape == shape and held.largest == abs(wanted).max()
        for found, values in zip(held.split(), split(wanted), strict=True):
            assert found.dtype == values.dtype and np.array_equal(found, values)
    per_byte = {"ternary": 4, "binary": 8}[kind]
    assert PackedRows(pattern, scale, kind).nbytes == shape[0] * (-(-shape[1] // per_byte) + 4)
    assert as_in_a_file.nbytes == -(-pattern.size // {"ternary": 5, "binary": 8}[kind]) + 4 * shape[0]


@KINDS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_product_on_every_backend(kind, dtype, xp, device):
    pattern, scale = drawn(kind, (6, 10), 1, dtype)
    held = PackedRows(to_device(pattern, device), to_device(scale, device), kind)
    x = np.random.default_rng(2).standard_normal((4, 10)).astype(dtype)
    found = to_device(x, device) @ held.T
    assert type(found) is type(xp.zeros(1)) and found.dtype == dtype
    np.testing.assert_allclose(to_host(found), x @ (pattern * scale[:, None]).T, rtol=1e-6, atol=1e-6)
    codes, index = to_device(pack(pattern, kind), device), np.array([[5, 0], [2, 5]])
    rows = FileRows(codes, to_device(scale, device), kind, pattern.shape)[to_device(index, device)]
    assert type(rows) is type(xp.zeros(1)) and np.array_equal(to_host(rows), (pattern * scale[:, None])[index])


@KINDS
@pytest.mark.parametrize("operators", ["float", "shift"])
def test_a_held_student_computes_the_same_bits(kind, operators, tmp_path):
    """Packed from its file, or from float masters; spike by spike, settled, counted, in integers, saved again."""
    student = random_student(1, dtype="float32", weights=kind, embedding_weights=kind, operators=operators)
    student.save(tmp_path / "whole")
    loaded, inputs = nanospike.load_student(tmp_path / "whole"), random_batch(2)
    runs = [SpikingRun(time_steps=5, count=True)]
    runs += [SpikingRun(time_steps=5, arithmetic="integer")] if operators == "shift" else []
    for held in (load_held(tmp_path / "whole"), loaded.held(), student.held()):
        packed = {n for n, p in held.parameters().items() if isinstance(p, PackedRows)}
        assert packed == low_bit_names(student.config).keys()
        for how in runs:
            found, wanted = (s.run(inputs, how) for s in (held, loaded))
            assert np.array_equal(found.logits[5], wanted.logits[5]) and found.operations == wanted.operations
        assert np.array_equal(held.equilibrium(*inputs).logits, loaded.equilibrium(*inputs).logits)
        for s, name in ((held, "held"), (loaded, "loaded")):
            s.save(tmp_path / name, for_training=False)
        files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("held", "loaded")]
        assert files[0] == files[1]


@KINDS
def test_loading_makes_no_float_table_on_the_way(kind, tmp_path):
    low = {"weights": kind, "embedding_weights": kind, "vocab_size": 20_000, "hidden_size": 32}
    random_student(1, dtype="float32", **low).save(tmp_path)
    nanospike.load_student(tmp_path)  # what is imported and cached by then counts for neither
    tracemalloc.start()
    try:
        held = load_held(tmp_path)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    table = 20_000 * 32
    assert sum(p.nbytes for _, p in leaves(held.tree)) < now < 4 * table / 3
    assert peak < 4 * table  # bytes of the table in float32
    tracemalloc.start()
    try:
        held.parameters()["embeddings.word_embeddings.weight"].split()
        assert tracemalloc.get_traced_memory()[1] < 3 * table
    finally:
        tracemalloc.stop()


def test_masters_in_a_file_are_made_low_bit_once(tmp_path):
    from nanospike.files.model_files import write_tensors

    student, inputs = random_student(1, dtype="float32", weights="ternary"), random_batch(2)
    student.save(tmp_path)
    write_tensors(tmp_path / "model.safetensors", student.parameters())
    held = load_held(tmp_path)
    assert held.low_bit and not nanospike.load_student(tmp_path).low_bit
    found, wanted = (s.simulate(*inputs, time_steps=4, record=()).logits[4] for s in (held, student))
    assert np.array_equal(found, wanted)
