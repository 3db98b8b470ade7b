"""Low-bit tensors on disk: bytes by hand, round trips, files that lie."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from nanospike.config.errors import InputError
from nanospike.files.model_files import read_tensors, write_tensors
from nanospike.files.packing import KEY, pack, unpack

VALUES = {"ternary": [-1, 0, 1], "binary": [-1, 1]}
kinds = pytest.mark.parametrize("kind", VALUES)


def random_pattern(kind, shape, seed=0):
    return np.random.default_rng(seed).choice(np.array(VALUES[kind], np.int8), shape)


def test_bytes_by_hand():
    ternary = np.array([[1, 0, -1], [0, 1, 1], [-1, -1, 0]], np.int8)  # digits 2 1 0 1 2 | 2 0 0 1 0
    assert pack(ternary, "ternary").tolist() == [2 + 3 * 1 + 27 * 1 + 81 * 2, 2 + 27 * 1]
    binary = np.array([[1, -1, 1, 1, -1], [-1, -1, 1, 1, -1]], np.int8)
    assert pack(binary, "binary").tolist() == [0b10001101, 0b01]


@kinds
@given(seed=st.integers(0, 2**31), shape=st.tuples(st.integers(0, 7), st.integers(1, 13)))
def test_what_was_packed_comes_out(kind, seed, shape):
    pattern = random_pattern(kind, shape, seed)
    data = pack(pattern, kind)
    assert data.dtype == np.uint8 and data.size == -(-pattern.size // {"ternary": 5, "binary": 8}[kind])
    again = unpack(data, kind, shape)
    assert again.dtype == np.int8 and np.array_equal(again, pattern)


@kinds
def test_a_file_holds_both_kinds_of_tensors(kind, tmp_path):
    pattern, scale = random_pattern(kind, (40, 60)), np.linspace(0.1, 2, 40).astype(np.float32)
    low, bias = pattern * scale[:, None], np.arange(40, dtype=np.float32) / 3
    path, plain = tmp_path / "packed.safetensors", tmp_path / "plain.safetensors"
    write_tensors(path, {"weight": low, "bias": bias}, "float16", {"weight": (kind, pattern, scale)})
    write_tensors(plain, {"weight": low, "bias": bias}, "float16")
    found = read_tensors(path)
    assert found.keys() == {"weight", "bias"}
    assert found["weight"].dtype == np.float32 and np.array_equal(found["weight"], low)
    assert np.array_equal(found["bias"], bias.astype(np.float16))
    with safe_open(path, "np") as file:
        assert set(file.keys()) == {"weight", "weight.scale", "bias"} and file.metadata()["format"] == "pt"
        assert json.loads(file.metadata()[KEY]) == {"weight": {"kind": kind, "shape": [40, 60]}}
    assert path.stat().st_size < plain.stat().st_size / (3 if kind == "ternary" else 4)


def spoiled(tmp_path, entry=None, **tensors):
    path = tmp_path / "model.safetensors"
    whole = {"w": pack(random_pattern("ternary", (4, 5)), "ternary"), "w.scale": np.ones(4, np.float32)} | tensors
    listing = {"w": {"kind": "ternary", "shape": [4, 5]} | (entry or {})}
    save_file({n: t for n, t in whole.items() if t is not None}, path, metadata={KEY: json.dumps(listing)})
    return path


@pytest.mark.parametrize(
    "message, entry, tensors",
    [
        ("w.scale, which its metadata lists as ternary", {}, {"w.scale": None}),
        ("missing tensors: w, which", {}, {"w": None}),
        ("w.scale: found float32 .3,., expected floats .4,.", {}, {"w.scale": np.ones(3, np.float32)}),
        ("found uint8 .4,., expected 5 bytes", {"shape": [4, 6]}, {}),
        ("found a byte of 250, expected below 243", {}, {"w": np.full(4, 250, np.uint8)}),
        ("metadata nanospike.low_bit: expected", {"kind": "quaternary"}, {}),
        ("metadata nanospike.low_bit: expected", {"shape": [20]}, {}),
        ("metadata nanospike.low_bit: expected", {"shape": "4x5"}, {}),
    ],
)
def test_a_file_that_is_not_whole_is_named(tmp_path, message, entry, tensors):
    path = spoiled(tmp_path, entry, **tensors)
    with pytest.raises(InputError, match=message) as error:
        read_tensors(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"w": 3}'])
def test_metadata_that_say_nothing_are_named(tmp_path, text):
    path = tmp_path / "model.safetensors"
    save_file({"w": np.ones(3, np.float32)}, path, metadata={KEY: text})
    with pytest.raises(InputError, match=f"{path}: metadata"):
        read_tensors(path)
