"""What a model's files may hold: numbers that are finite, a shape that the header has, and causes that are named."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from tiny import bfloat16, edit_json, write_safetensors, write_teacher

import nanospike
from nanospike import InputError
from nanospike.files.model_files import read_json, read_tensors, write_json, write_tensors
from nanospike.files.tensors import all_finite, stored_tensors

NAME = "encoder.layer.1.output.dense.weight"
WRONG = {"nan": np.nan, "inf": np.inf, "minus inf": -np.inf}


@pytest.fixture
def bert(tmp_path):
    return write_teacher(tmp_path / "bert")


@pytest.fixture
def student(bert, tmp_path):
    teacher = nanospike.load_teacher(bert)
    made = nanospike.init_student(vars(teacher.config) | {"num_labels": 2}, teacher)
    made.save(tmp_path / "student")
    return tmp_path / "student"


def rewrite(directory, change):
    """Tensors {name: (kind, shape, bytes)} of model.safetensors as `change` returns them."""
    tensors = read_tensors(directory / "model.safetensors")
    entries = {n: ("F32", t.shape, t.astype("<f4").tobytes()) for n, t in tensors.items()}
    write_safetensors(directory / "model.safetensors", change(entries))


def full(entries, name=NAME):
    """The name in a file, which may have a prefix."""
    return next(n for n in entries if n.endswith(name))


def spoilt(entries, name, value, kind="F32"):
    name = full(entries, name)
    _, shape, body = entries[name]
    numbers = np.frombuffer(body, "<f4").copy()
    numbers[len(numbers) // 2] = value
    types = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
    body = bfloat16(numbers)[0] if kind == "BF16" else numbers.astype(types[kind]).tobytes()
    return entries | {name: (kind, shape, body)}


# ---- numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "F64"])
@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
def test_a_model_with_a_number_that_is_not_finite_is_refused(value, kind, bert, student):
    for directory, load in ((bert, nanospike.load_teacher), (student, nanospike.load_student)):
        rewrite(directory, lambda entries: spoilt(entries, NAME, value, kind))
        said = f"model.safetensors: (bert.)?{re.escape(NAME)}: 1 of its [0-9]+ numbers are not finite in float32$"
        with pytest.raises(InputError, match=said):
            load(directory)


def test_a_number_that_is_too_large_for_the_dtype_is_refused(bert):
    """1e300 is a number in float64."""
    rewrite(bert, lambda entries: {n: ("F64", s, np.frombuffer(b, "<f4").astype("<f8").tobytes())
                                   for n, (_, s, b) in entries.items()})  # fmt: skip
    assert nanospike.load_teacher(bert, dtype="float64").parameters()[NAME].dtype == np.float64
    header, start = json.loads((bert / "model.safetensors").read_bytes()[8:].split(b"}}")[0] + b"}}"), None
    start = (bert / "model.safetensors").stat().st_size - max(
        e["data_offsets"][1] for n, e in header.items() if n != "__metadata__"
    )
    with open(bert / "model.safetensors", "r+b") as file:
        file.seek(start + header[full(header)]["data_offsets"][0])
        file.write(np.float64(1e300).tobytes())
    assert nanospike.load_teacher(bert, dtype="float64").parameters()[NAME].flat[0] == 1e300
    with pytest.raises(InputError, match=f"{re.escape(NAME)}: 1 of .* not finite in float32"):
        nanospike.load_teacher(bert)


def test_all_finite_looks_at_every_number():
    for shape in ((), (1,), (3, 4), (0, 5)):
        array = np.ones(shape, np.float32)
        assert all_finite(array, "x") is array
        for value in WRONG.values() if array.size else ():
            for place in range(array.size):
                spoiled = array.copy()
                spoiled.flat[place] = value
                with pytest.raises(InputError, match="^x: 1 of its"):
                    all_finite(spoiled, "x")
    all_finite(np.array([2**62]), "x")


@pytest.mark.parametrize("dtype", ["int8", "bfloat16", "float8", "int32", "bool", "complex64", np.float16, 5])
def test_only_dtypes_that_exist_are_saved(dtype, student):
    before = {p.name: p.read_bytes() for p in student.iterdir()}
    with pytest.raises(InputError, match="dtype: found .* expected one of float16, float32, float64"):
        nanospike.load_student(student).save(student, dtype)
    assert {p.name: p.read_bytes() for p in student.iterdir()} == before


@pytest.mark.parametrize("value, dtype", [(7e4, "float16"), (np.nan, None), (np.inf, "float32"), (-1e30, "float16")])
def test_what_does_not_fit_is_not_written_and_nothing_is_lost(value, dtype, student, tmp_path):
    before = {p.name: p.read_bytes() for p in student.iterdir()}
    model = nanospike.load_student(student)
    model.parameters()[NAME][0, 0] = value
    for target in (student, tmp_path / "new"):
        with pytest.raises(InputError, match=f"not written: {re.escape(NAME)}: 1 of .* not finite in float"):
            model.save(target, dtype)
    assert {p.name: p.read_bytes() for p in student.iterdir()} == before
    assert not list((tmp_path / "new").iterdir())


def test_float16_that_fits_is_saved(student):
    nanospike.load_student(student).save(student, "float16")
    assert {t.kind for t in stored_tensors(student / "model.safetensors")[0].values()} == {"F16"}
    nanospike.load_student(student)


def test_json_has_no_word_for_nan(tmp_path):
    write_json(tmp_path / "a.json", {"x": math.nan, "y": [1.5, math.inf, {"z": -math.inf}], "n": "nan"})
    assert read_json(tmp_path / "a.json") == {"x": None, "y": [1.5, None, {"z": None}], "n": "nan"}


# ---- shapes that the header does not have -------------------------------------------------------------------


HUGE = 99999999999999999999
KEYS = ["num_hidden_layers", "vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings",
        "type_vocab_size", "num_attention_heads", "num_labels", "teacher_hidden_size"]  # fmt: skip


@pytest.mark.parametrize("number", [HUGE, 10**9, 10**400])
@pytest.mark.parametrize("key", KEYS)
def test_a_configuration_that_asks_for_more_than_there_is_costs_nothing(key, number, bert, student):
    """In time and in memory: a name for each of 10^9 layers would be made before the first is missed."""
    for directory, load in ((bert, nanospike.load_teacher), (student, nanospike.load_student)):
        if key == "teacher_hidden_size" and directory == bert:
            continue
        edit_json(directory / "config.json", **{key: number})
        with pytest.raises(InputError, match=str(directory)):
            load(directory)


def test_a_layer_number_of_the_file_may_be_any(bert):
    rewrite(bert, lambda e: e | {f"encoder.layer.{HUGE}.output.dense.weight": e[full(e)]})
    with pytest.warns(UserWarning, match="ignoring unexpected tensors"):
        nanospike.load_teacher(bert)


def test_a_student_without_its_map_gets_none_that_is_larger_than_all_it_has(student):
    rewrite(student, lambda e: {n: v for n, v in e.items() if not n.startswith("distill_map")})
    assert nanospike.load_student(student).parameters()["distill_map.bias"].shape == (8,)
    edit_json(student / "config.json", teacher_hidden_size=10**9)
    with pytest.raises(InputError, match="missing tensors: distill_map.weight, which config.json makes"):
        nanospike.load_student(student)


MEASURE = """
import resource, sys
import numpy as np
import nanospike
from nanospike.files import model_files
nanospike.load_teacher(sys.argv[2], dtype=sys.argv[3])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
model = nanospike.load_teacher(sys.argv[1], dtype=sys.argv[3])
print(peak() - before, sum(p.nbytes for p in model.parameters().values()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
@pytest.mark.parametrize("kind, dtype", [("F16", "float32"), ("F32", "float64")])
def test_loading_takes_what_the_model_takes_and_its_largest_tensor(kind, dtype, bert, tmp_path):
    """One tensor that no model uses is larger than all others: it is not read."""
    shape = {"vocab_size": 15000, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2}
    big = write_teacher(tmp_path / "big", **shape, num_attention_heads=2)
    types = {"F32": "<f4", "F16": "<f2"}

    def change(entries):
        made = {}
        for name, (_, s, body) in entries.items():
            numbers = np.frombuffer(body, "<f4")
            made[name] = (kind, s, bfloat16(numbers)[0] if kind == "BF16" else numbers.astype(types[kind]).tobytes())
        return made | {"cls.predictions.decoder.weight": ("F32", (15000, 640), bytes(15000 * 640 * 4))}

    rewrite(big, change)
    argv = [sys.executable, "-W", "ignore", "-c", MEASURE, str(big), str(bert), dtype]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    used, model = map(int, told)
    largest = 15000 * 128 * (8 if dtype == "float64" else 4)
    assert model > 8e6 and used < model + largest + 4e6, (used, model)


# ---- causes that are named ----------------------------------------------------------------------------------

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pointer_of_git_lfs_is_called_one(name, bert):
    (bert / name).write_text(POINTER)
    with pytest.raises(InputError, match=f"{name}: a pointer of Git LFS, not the file itself: run `git lfs pull`"):
        nanospike.load_teacher(bert)


def test_a_name_on_the_hub_is_not_a_directory(tmp_path, monkeypatch):
    """The hint comes where it may be one: owner/name, and nothing here is called like the owner."""
    monkeypatch.chdir(tmp_path)
    name = "google/bert_uncased_L-2_H-128_A-2"
    for load in (nanospike.load_teacher, nanospike.load_student):
        with pytest.raises(InputError, match=f"{name}: no such directory; .* `hf download {name} --local-dir DIR`"):
            load(name)
    (tmp_path / "runs").mkdir()
    for mistyped in ("/none/such/place", "studnet", "runs/studnet", "../runs", "./a", "a/b/c", "-a/b"):
        with pytest.raises(InputError, match=f"{mistyped.removeprefix('./')}: no such directory$"):
            nanospike.load_teacher(mistyped)


def test_a_directory_of_the_cache_is_told_apart(tmp_path, bert):
    (tmp_path / "models--org--name" / "snapshots").mkdir(parents=True)
    bert.rename(tmp_path / "models--org--name" / "snapshots" / "0a1b")
    with pytest.raises(InputError, match="a directory of the Hub's cache; give .*snapshots/0a1b$"):
        nanospike.load_teacher(tmp_path / "models--org--name")


def test_other_kinds_of_weights_and_a_file_for_a_directory(bert):
    with pytest.raises(InputError, match="model.safetensors: a file, expected the directory of a model"):
        nanospike.load_teacher(bert / "model.safetensors")
    (bert / "model.safetensors").rename(bert / "pytorch_model.bin")
    with pytest.raises(InputError, match="no model.safetensors, only pytorch_model.bin; python -m nanospike.convert"):
        nanospike.load_teacher(bert)


@pytest.mark.parametrize("second", ["embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.gamma"])
def test_two_tensors_for_one_weight_are_refused(second, bert):
    rewrite(bert, lambda e: e | {second: e["bert.embeddings.LayerNorm.weight"]})
    with pytest.raises(InputError, match=f"{second}.*: found both, and they are one weight"):
        nanospike.load_teacher(bert)


@pytest.mark.parametrize(
    "changes",
    [{"architectures": ["BertForTokenClassification"]}, {"problem_type": "multi_label_classification"},
     {"architectures": ["BertForMultipleChoice"]}],
)  # fmt: skip
def test_a_head_of_another_kind_is_left_out(changes, bert):
    edit_json(bert / "config.json", **changes)
    with pytest.warns(UserWarning, match="the classifier of .* is left out: it does not tell texts apart"):
        assert "classifier" not in nanospike.load_teacher(bert).tree


@pytest.mark.parametrize("body", ["[" * 10**5, '{"a": ' * 10**5, '{"x": ' + "9" * 5000 + "}", "{", "\x00", "nan"])
def test_json_that_cannot_be_read(body, tmp_path):
    (tmp_path / "a.json").write_text(body)
    with pytest.raises(InputError, match="a.json: (not JSON|found a JSON)"):
        read_json(tmp_path / "a.json")


def test_a_shard_is_a_file_beside_its_index(bert, tmp_path):
    (bert / "model.safetensors").rename(tmp_path / "model.safetensors")
    index = {"weight_map": {"a": "../model.safetensors"}}
    (bert / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="weight_map: found '../model.safetensors', expected the name of a file"):
        nanospike.load_teacher(bert)


def test_tensors_are_read_as_they_were_written(tmp_path):
    made = {
        "a": np.arange(6.0, dtype=np.float32).reshape(2, 3),
        "b": np.array([5], np.int64),
        "c": np.zeros((0, 3), "f4"),
    }
    write_tensors(tmp_path / "t", made)
    found = read_tensors(tmp_path / "t")
    assert all(np.array_equal(found[n], v) and found[n].dtype == v.dtype for n, v in made.items())
