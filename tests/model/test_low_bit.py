"""Students with low-bit weights: what they compute with, their gradients and files; rounded activations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import SHAPE, random_batch, random_student, random_teacher

import nanospike
from nanospike.arrays.backend import to_host
from nanospike.config.errors import InputError
from nanospike.model.quantise import low_bit, low_bit_activation, low_bit_names

KINDS = pytest.mark.parametrize("kind", ["ternary", "binary"])
LAYERS = {f"encoder.layer.{i}.{n}.weight" for i in (0, 1) for n in (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "intermediate.dense", "output.dense",
)}  # fmt: skip
TABLES = {f"embeddings.{n}_embeddings.weight" for n in ("word", "position", "token_type")}


def low_bit_student(kind, tables="float", seed=1, **changes):
    return random_student(seed, weights=kind, embedding_weights=tables, **changes)


def with_written_out(student):
    """The float student whose weights are what the low-bit one computes with."""
    plain = random_student(1, operators=student.config.operators, dtype=str(student.tree["distill_map"]["bias"].dtype))
    for name, p in student.parameters().items():
        kind = low_bit_names(student.config).get(name)
        plain.parameters()[name][...] = low_bit(p, kind) if kind else p
    return plain


@KINDS
@pytest.mark.parametrize("tables", ["float", "ternary", "binary"])
@pytest.mark.parametrize("operators", ["float", "shift"])
def test_values_and_gradients_are_those_of_the_low_bit_weights(kind, tables, operators):
    """Straight-through: masters get the gradient of what stands in their place."""
    student, inputs = low_bit_student(kind, tables, operators=operators), random_batch(2)
    assert low_bit_names(student.config).keys() == LAYERS | (set() if tables == "float" else TABLES)
    plain, out = with_written_out(student), random_teacher(3)(*inputs)
    before = {n: p.copy() for n, p in student.parameters().items()}
    value, grads = student.distill_gradients(*inputs[:2], out, inputs[2])
    wanted, wanted_grads = plain.distill_gradients(*inputs[:2], out, inputs[2])
    assert value == wanted and grads.keys() == student.parameters().keys()
    for name, g in grads.items():
        np.testing.assert_allclose(g, wanted_grads[name], rtol=1e-12, atol=1e-14, err_msg=name)
        assert np.array_equal(student.parameters()[name], before[name])
    runs = [s.simulate(*inputs, time_steps=5, record=()) for s in (student, plain)]
    assert np.array_equal(*(r.logits[5] for r in runs))


@KINDS
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_files_hold_what_it_computes_with(kind, dtype, tmp_path):
    student, inputs = low_bit_student(kind, kind, dtype="float32", operators="shift"), random_batch(2)
    student.save(tmp_path, dtype)
    loaded = nanospike.load_student(tmp_path)
    assert loaded.low_bit and loaded.computing() is loaded and not student.low_bit
    for name, p in loaded.parameters().items():
        kind_of = low_bit_names(student.config).get(name)
        if kind_of:
            assert np.array_equal(p, low_bit(student.parameters()[name], kind_of)), name
    if dtype is None:
        assert np.array_equal(loaded.equilibrium(*inputs).logits, student.equilibrium(*inputs).logits)
    before = loaded.equilibrium(*inputs).logits
    weight = loaded.parameters()["encoder.layer.0.output.dense.weight"]
    weight *= 2  # used as they are, whatever they are
    assert not np.allclose(loaded.equilibrium(*inputs).logits, before)
    weight /= 2
    loaded.save(tmp_path / "again", dtype)
    once, twice = ((d / "model.safetensors").read_bytes() for d in (tmp_path, tmp_path / "again"))
    assert once == twice


def test_a_published_file_has_no_map_for_training(tmp_path):
    student, inputs = low_bit_student("ternary", dtype="float32", v_th=0.5), random_batch(2)
    student.save(tmp_path / "whole")
    student.save(tmp_path / "published", for_training=False)
    sizes = [(tmp_path / d / "model.safetensors").stat().st_size for d in ("whole", "published")]
    loaded = nanospike.load_student(tmp_path / "published")
    assert sizes[1] < sizes[0] - 4 * SHAPE.hidden_size**2
    assert np.array_equal(loaded.equilibrium(*inputs).logits, student.equilibrium(*inputs).logits)
    assert np.array_equal(loaded.parameters()["distill_map.weight"], 0.5 * np.eye(SHAPE.hidden_size))


def test_a_file_of_masters_is_a_student_of_masters(tmp_path):
    from nanospike.files.model_files import write_tensors

    student, inputs = low_bit_student("ternary", dtype="float32"), random_batch(2)
    student.save(tmp_path)
    write_tensors(tmp_path / "model.safetensors", student.parameters())
    loaded = nanospike.load_student(tmp_path)
    assert not loaded.low_bit
    assert np.array_equal(loaded.equilibrium(*inputs).logits, student.equilibrium(*inputs).logits)


def test_a_packed_file_that_lost_its_scales_is_named(tmp_path):
    from safetensors.numpy import load_file, save_file

    low_bit_student("ternary", dtype="float32").save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors, tmp_path / "model.safetensors")  # without the metadata
    with pytest.raises(InputError, match="mis-shaped tensors: encoder.layer.0"):
        nanospike.load_student(tmp_path)


@KINDS
def test_low_bit_students_run_on_the_device(kind, xp, device):
    inputs = random_batch(3, device=device)
    student, here = (low_bit_student(kind, kind, dtype="float32", device=d) for d in (device, "cpu"))
    found = student.equilibrium(*inputs).logits
    assert type(found) is type(xp.zeros(1))
    np.testing.assert_allclose(to_host(found), here.equilibrium(*random_batch(3)).logits, atol=1e-4)


@given(seed=st.integers(0, 2**31), bits=st.integers(1, 8), scale=st.sampled_from([1e-3, 1.0, 50.0]))
def test_activations_of_few_bits(seed, bits, scale):
    x = scale * np.random.default_rng(seed).standard_normal((3, 40))
    y = low_bit_activation(x, bits)
    for row, rounded in zip(x, y, strict=True):
        assert len(np.unique(rounded)) <= 2**bits
        if bits == 1:
            np.testing.assert_allclose(rounded, np.sign(row) * np.mean(np.abs(row)), rtol=1e-14)
        else:
            step = np.abs(row).max() / (2 ** (bits - 1) - 1)
            np.testing.assert_allclose(rounded, np.round(row / step) * step, rtol=1e-12, atol=1e-14 * scale)
    np.testing.assert_array_equal(low_bit_activation(x[1:2], bits), y[1:2])


def test_an_ordinary_bert_with_rounded_activations():
    inputs = random_batch(4)
    make = lambda **changes: random_student(4, activation="ann", weights="ternary", **changes)  # noqa: E731
    exact, fine, coarse = (make(activation_bits=b).equilibrium(*inputs) for b in (0, 16, 3))
    assert np.abs(fine.logits - exact.logits).max() < 0.01 * np.abs(exact.logits).max()
    assert np.abs(coarse.logits - exact.logits).max() > 0.01 * np.abs(exact.logits).max()
    for name, rates in coarse.rates.items():
        assert np.array_equal(low_bit_activation(rates, 3), rates), name
    assert "encoder.0.query" in coarse.rates and "encoder.0.query" not in exact.rates
    with pytest.raises(InputError, match="no spikes"):
        make(activation_bits=3).simulate(*inputs, time_steps=2)
