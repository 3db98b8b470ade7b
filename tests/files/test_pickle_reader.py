"""PyTorch's files: those of torch.save itself (tests/golden/pickles), and hostile ones, of which no line is run."""

import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanospike.config.errors import InputError
from nanospike.files import pickle_reader
from nanospike.files.model_files import read_tensors
from nanospike.files.pickle_reader import MAGIC, VERSION, Machine, read_pickled

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "pickles"


@pytest.mark.parametrize("name", ["zip.bin", "legacy.bin", "nested.bin"])
def test_tensors_of_torch_save(name):
    """Float16, bfloat16, float64, int64, bool, an empty one, views that are transposed, cut out and shared."""
    found, expected = read_pickled(GOLDEN / name), read_tensors(GOLDEN / "expected.safetensors")
    assert found.keys() == expected.keys() and len(found) == 12
    for key, array in found.items():
        assert array.dtype == expected[key].dtype and array.shape == expected[key].shape, key
        assert np.array_equal(array, expected[key]) and array.flags.c_contiguous, key


def test_a_whole_model():
    expected = read_tensors(GOLDEN.parent / "families" / "distilbert" / "model.safetensors")
    found = read_pickled(GOLDEN / "distilbert.bin")
    assert found.keys() == expected.keys() and all(np.array_equal(found[n], expected[n]) for n in found)


# ---- pickles by hand ------------------------------------------------------------------------------------------------


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"J" + struct.pack("<i", value)


def storage(key="0", kind="FloatStorage", count=12):
    return (
        b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + number(count) + b"tQ"
    )


def numbers(values):
    return b"(" + b"".join(number(v) for v in values) + b"t"


def tensor(shape=(3, 4), stride=(4, 1), offset=0, **of):
    tail = b"\x89ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(**of) + number(offset) + numbers(shape) + numbers(stride)
        + tail + b"tR"
    )  # fmt: skip


def state(body):
    return b"\x80\x02}(" + text("x") + body + b"u."


def write_zip(path, pickled, data=None, root="archive", compression=zipfile.ZIP_STORED, **more):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{root}/data.pkl", pickled)
        archive.writestr(f"{root}/data/0", np.arange(12, dtype="<f4").tobytes() if data is None else data)
        for name, content in more.items():
            archive.writestr(f"{root}/{name}", content)
    return path


def test_by_hand(tmp_path):
    found = read_pickled(write_zip(tmp_path / "m", state(tensor((2, 2), (1, 4), 5))))
    assert found["x"].tolist() == [[5, 9], [6, 10]]


def test_attributes_of_a_dict_are_not_its_items(tmp_path):
    """As those of a module's state_dict(): an OrderedDict with _metadata."""
    ordered = b"\x80\x02ccollections\nOrderedDict\n)R(" + text("x") + tensor((2,), (1,)) + b"u"
    found = read_pickled(write_zip(tmp_path / "m", ordered + b"}" + text("_metadata") + b"}sb."))
    assert {name: array.tolist() for name, array in found.items()} == {"x": [0, 1]}


class Calls:
    """Unpickled by pickle, it makes a directory."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_program_in_the_pickle_is_refused_and_not_run(protocol, tmp_path):
    body = pickle.dumps({"x": Calls(tmp_path / "made")}, protocol)
    with pytest.raises(InputError, match="m: not a file of tensors"):
        read_pickled(write_zip(tmp_path / "m", body))
    (tmp_path / "old").write_bytes(body)
    with pytest.raises(InputError, match="old: not a file of tensors"):
        read_pickled(tmp_path / "old")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["os\nsystem", "builtins\neval", "torch._utils\n_rebuild_tensor_v3", "torch\nload"])
def test_a_global_that_is_not_listed_is_named(name, tmp_path):
    body = state(b"c" + name.encode() + b"\n(" + text("true") + b"tR")
    with pytest.raises(InputError, match="asks for " + name.replace("\n", ".") + ", which is not needed"):
        read_pickled(write_zip(tmp_path / "m", body))


@pytest.mark.parametrize(
    "body, said",
    [
        (tensor((4, 4)), "x: size \\(4, 4\\), stride \\(4, 1\\), offset 0 do not fit a storage of 12"),
        (tensor(offset=1), "offset 1 do not fit"),
        (tensor((3, 4), (5, 1)), "do not fit"),
        (tensor((1000, 1000), (0, 0)), "do not fit"),
        (tensor((3, 4), (-4, 1)), "stride \\(-4, 1\\)"),
        (tensor((-3, 4)), "size \\(-3, 4\\)"),
        (tensor((3, 4), (4,)), "of different lengths"),
        (tensor(count=13), "storage 0 of 13 numbers is not there"),
        (tensor(key="../0"), "storage ../0 of 12 numbers is not there"),
        (tensor(kind="ComplexFloatStorage"), "asks for torch.ComplexFloatStorage"),
        (tensor((1,) * 9, (0,) * 9), "do not fit"),
        (b"ctorch\nFloatStorage\n)R", "a type of storage that is called"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R", "_rebuild_tensor_v2 of 0 arguments"),
        (b"ccollections\nOrderedDict\n(]tR", "no tensors in it"),
        (number(3), "no tensors in it"),
        (b"(", "does not find what it needs"),
        (b"]}b", "does not find what it needs"),
        (b"tu", "without its mark"),
        (b"q\x00", "whose keys are not texts"),
        (b"h\x07", "object 7 is recalled"),
        (b"\x93", "opcode b'\\\\x93'"),
        (b"X\xff\xff\xff\x7fabc", "ends too soon"),
    ],
)
def test_what_does_not_fit_is_named(body, said, tmp_path):
    with pytest.raises(InputError, match=said):
        read_pickled(write_zip(tmp_path / "m", state(body)))


def test_archives_that_are_not_torch_s(tmp_path):
    whole = state(tensor())
    for made, said in (
        (write_zip(tmp_path / "a", whole, compression=zipfile.ZIP_DEFLATED), "is compressed"),
        (write_zip(tmp_path / "b", whole, byteorder="big"), "not little-endian"),
        (write_zip(tmp_path / "c", whole, **{"x/data.pkl": whole}), "2 files data.pkl"),
        (write_zip(tmp_path / "d", whole, data=b"1234"), "storage 0 of 12 numbers is not there"),
        (write_zip(tmp_path / "e", whole, data=np.full(12, np.nan, "<f4").tobytes()), "x"),
    ):
        with pytest.raises(InputError, match=said):
            read_pickled(made)
    (tmp_path / "f").write_bytes((tmp_path / "a").read_bytes()[:-30])
    with pytest.raises(InputError, match="a damaged archive"):
        read_pickled(tmp_path / "f")
    with pytest.raises(InputError, match="No such file"):
        read_pickled(tmp_path / "none")


def test_many_tensors_of_one_storage_are_bounded(tmp_path):
    data = np.zeros(2**14, "<f4").tobytes()
    body = b"".join(text(f"x{i}") + tensor((2**14,), (1,), count=2**14) for i in range(6))
    with pytest.raises(InputError, match="4 times as large as the file"):
        read_pickled(write_zip(tmp_path / "m", b"\x80\x02}(" + body + b"u.", data))


def test_the_older_layout_by_hand(tmp_path):
    def legacy(count=12, order=b"\x88", version=VERSION):
        system = b"\x80\x02}(" + text("little_endian") + order + b"u."
        keys = b"\x80\x02](" + text("0") + b"e."
        parts = (pickle.dumps(MAGIC, 2), pickle.dumps(version, 2), system, state(tensor()), keys)
        return b"".join(parts) + struct.pack("<q", count) + np.arange(12, dtype="<f4").tobytes()

    (tmp_path / "m").write_bytes(legacy())
    assert read_pickled(tmp_path / "m")["x"].tolist() == np.arange(12).reshape(3, 4).tolist()
    for body, said in (
        (legacy(count=11), "storage 0: not of the 12 numbers"),
        (legacy()[:-1], "storage 0: not of the 12 numbers"),
        (legacy(order=b"\x89"), "not little-endian"),
        (legacy(version=999), "version 999"),
    ):
        (tmp_path / "m").write_bytes(body)
        with pytest.raises(InputError, match=said):
            read_pickled(tmp_path / "m")


@settings(max_examples=150)
@given(name=st.sampled_from(["zip.bin", "legacy.bin"]), data=st.data())
def test_a_damaged_file_is_read_or_refused(name, data):
    """Bytes of a real file are replaced, cut off or doubled: arrays or an InputError, and nothing else."""
    body = bytearray((GOLDEN / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        kind = data.draw(st.sampled_from(["replace", "cut", "double"]))
        if kind == "replace":
            body[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del body[at : at + data.draw(st.integers(1, 50))]
        else:
            body[at:at] = body[at : at + data.draw(st.integers(1, 50))]
        body = body or bytearray(b".")
    path = GOLDEN.parent / f".fuzz-{os.getpid()}"
    try:
        path.write_bytes(body)
        assert all(isinstance(a, np.ndarray) for a in read_pickled(path).values())
    except InputError as error:
        assert "\n" not in str(error)
    finally:
        path.unlink()


OPCODES = st.sampled_from([*pickle_reader.OPCODES, b".", b"i", b"o", b"\x93", b"\x81", b"P", b"S"])
PIECES = st.one_of(
    OPCODES,
    st.sampled_from(
        [storage(), tensor(), text("a"), number(7), numbers((1, 2)), b"ccollections\nOrderedDict\n", b"\x00"]
    ),
)


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=30))
def test_any_program_ends_in_data_or_a_refusal(pieces):
    body = b"\x80\x02" + b"".join(pieces) + b"."
    try:
        Machine(body).run()
    except InputError:
        pass


def test_the_machine_never_imports_or_looks_up(monkeypatch):
    source = Path(pickle_reader.__file__).read_text()
    assert not any(
        word in source for word in ("import pickle", "getattr(", "__import__", "import_module", "eval(", "exec(")
    )
    monkeypatch.setattr("builtins.__import__", None)
    assert Machine(state(tensor())).run()["x"].shape == (3, 4)


def test_what_is_no_tensor_is_left_out(tmp_path):
    body = b"\x80\x02}(" + text("epoch") + number(3) + text("x") + tensor() + text("name") + text("n") + b"u."
    assert list(read_pickled(write_zip(tmp_path / "m", body))) == ["x"]
    assert list(read_pickled(write_zip(tmp_path / "n", body, root="a/b"))) == ["x"]
