"""Model directories: what is read, what is refused and how it is said, and writing that is all or nothing."""

import json
import os
import sys

import numpy as np
import pytest
from models import LOOPS, random_batch, random_student, random_teacher
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny import bfloat16, contents, edit_json, run, write_safetensors, write_teacher

import nanospike
from nanospike import InputError, finetune
from nanospike.files.model_files import read_tensors, replacing, require_empty, write_json, write_tensors
from nanospike.model.teacher import Teacher

WORD = "embeddings.word_embeddings.weight"
NORM = "encoder.layer.1.output.LayerNorm"


@pytest.fixture
def teacher():
    return random_teacher(dtype="float32")


@pytest.fixture
def saved(teacher, tmp_path):
    teacher.save(tmp_path / "bert")
    return tmp_path / "bert"


def rewrite(directory, change):
    """Pass the tensors of a directory, under names without a prefix, through `change`."""
    path = directory / "model.safetensors"
    tensors = {name.removeprefix("bert."): value for name, value in load_file(path).items()}
    save_file(change(tensors), path, metadata={"format": "pt"})


def logits(model, seed=1):
    if isinstance(model, Teacher):
        return model(*random_batch(seed)).logits
    return model.equilibrium(*random_batch(seed)).logits


def old_names(tensors):
    """As TensorFlow's checkpoints were converted: a prefix, gamma and beta, and the index of positions as a tensor."""
    renamed = {}
    for name, value in tensors.items():
        for new, old in ((".weight", ".gamma"), (".bias", ".beta")):
            name = name.replace("LayerNorm" + new, "LayerNorm" + old)
        renamed[name if name.startswith("classifier") else "bert." + name] = value
    return renamed | {"bert.embeddings.position_ids": np.arange(10)[None]}


# ---- names and kinds of tensors -----------------------------------------------------------------------------


def test_a_model_is_saved_wherever_it_is_asked_to_and_again(teacher, tmp_path):
    place = tmp_path / "some" / "new" / "place"
    for _ in range(2):
        teacher.save(place)
    assert np.array_equal(logits(nanospike.load_teacher(place)), logits(teacher))


def test_prefix_gamma_beta_and_position_ids_are_the_same_model(teacher, saved):
    rewrite(saved, old_names)
    loaded = nanospike.load_teacher(saved)  # -W error: a warning about position_ids would fail
    assert sorted(loaded.parameters()) == sorted(teacher.parameters())
    assert np.array_equal(logits(loaded), logits(teacher))


def test_position_ids_without_prefix(teacher, saved):
    rewrite(saved, lambda t: t | {"embeddings.position_ids": np.arange(10, dtype=np.int64)[None]})
    assert np.array_equal(logits(nanospike.load_teacher(saved)), logits(teacher))


def test_without_pooler_the_classifier_reads_the_first_state_itself(teacher, saved):
    rewrite(saved, lambda t: {n: v for n, v in t.items() if not n.startswith("pooler.")})
    out = nanospike.load_teacher(saved)(*random_batch(1))
    p = teacher.parameters()
    expected = out.hidden_states[-1][:, 0] @ p["classifier.weight"].T + p["classifier.bias"]
    np.testing.assert_allclose(out.logits, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(out.logits - logits(teacher)).max() > 0.1


@pytest.mark.parametrize("pooler", [True, False])
def test_without_classifier_there_are_hidden_states_and_no_logits(pooler, teacher, saved):
    dropped = ("classifier.",) if pooler else ("classifier.", "pooler.")
    rewrite(saved, lambda t: {n: v for n, v in t.items() if not n.startswith(dropped)})
    loaded = nanospike.load_teacher(saved)
    out = loaded(*random_batch(1))
    assert out.logits is None and ("pooler" in loaded.tree) == pooler
    assert np.array_equal(out.hidden_states[-1], teacher(*random_batch(1)).hidden_states[-1])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_any_float_becomes_the_dtype_asked_for(dtype, teacher, saved):
    rewrite(saved, lambda t: {n: v.astype(dtype) for n, v in t.items()})
    for asked in ("float32", "float64"):
        loaded = nanospike.load_teacher(saved, dtype=asked).parameters()
        assert {str(v.dtype) for v in loaded.values()} == {asked}
        for name, value in teacher.parameters().items():
            assert np.array_equal(loaded[name], value.astype(dtype).astype(asked)), name


def test_bfloat16_written_by_hand(teacher, saved):
    entries, expected = {}, {}
    for name, value in teacher.parameters().items():
        body, expected[name] = bfloat16(value)
        entries[name] = ("BF16", value.shape, body)
    entries["embeddings.position_ids"] = ("I64", (1, 10), np.arange(10).tobytes())
    write_safetensors(saved / "model.safetensors", entries)
    loaded = nanospike.load_teacher(saved).parameters()
    assert loaded.keys() == expected.keys()
    for name, value in loaded.items():
        assert np.array_equal(value, expected[name]), name


def test_bfloat16_special_values(tmp_path):
    body = np.array([0x3F80, 0xC000, 0x7F7F, 0x0000, 0x8000, 0x4049], "<u2").tobytes()
    write_safetensors(tmp_path / "t", {"b": ("BF16", (2, 3), body), "a": ("F32", (1,), np.float32(7).tobytes())})
    tensors = read_tensors(tmp_path / "t")
    assert tensors["b"].tolist() == [[1.0, -2.0, 255 * 2.0**120], [0.0, -0.0, 3.140625]] and tensors["a"].tolist() == [
        7.0
    ]
    assert np.signbit(tensors["b"][1, 1])


def test_a_kind_of_number_that_numpy_lacks_is_named(tmp_path):
    write_safetensors(tmp_path / "t", {"b": ("F8_E4M3", (2,), b"\0\0")})
    with pytest.raises(InputError, match="t: .*b.*F8_E4M3"):
        read_tensors(tmp_path / "t")


def test_tensors_of_whole_numbers_are_refused(saved):
    rewrite(saved, lambda t: t | {NORM + ".bias": np.zeros(8, np.int64)})
    with pytest.raises(InputError, match=f"not floating point: {NORM}.bias"):
        nanospike.load_teacher(saved)


# ---- shards -------------------------------------------------------------------------------------------------


def split(directory, lost=()):
    """Spread the tensors over two shards with an index; `lost` are in the index only."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    shards, where = {}, {}
    for i, (name, value) in enumerate(sorted(tensors.items())):
        where[name] = f"model-0000{i % 2 + 1}-of-00002.safetensors"
        shards.setdefault(where[name], {}).update({} if name in lost else {name: value})
    for shard, part in shards.items():
        save_file(part, directory / shard)
    write_json(directory / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": where})
    return sorted(shards)


def test_sharded_model_is_the_same_model(teacher, saved):
    split(saved)
    assert np.array_equal(logits(nanospike.load_teacher(saved)), logits(teacher))


def test_missing_shard_is_named(saved):
    shard = split(saved)[1]
    (saved / shard).unlink()
    with pytest.raises(InputError, match=f"{shard}.*No such file"):
        nanospike.load_teacher(saved)


def test_tensor_that_only_the_index_has_is_named(saved):
    split(saved, lost=("bert." + WORD,))
    with pytest.raises(InputError, match=f"index.json: .*{WORD}"):
        nanospike.load_teacher(saved)


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}])
def test_index_without_a_map_of_files(weight_map, saved):
    split(saved)
    (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(InputError, match="index.json: .*weight_map"):
        nanospike.load_teacher(saved)


# ---- what does not fit --------------------------------------------------------------------------------------


def test_every_missing_tensor_is_named(saved):
    rewrite(saved, lambda t: {n: v for n, v in t.items() if n not in (WORD, NORM + ".bias")})
    with pytest.raises(InputError, match=f"{saved}: missing tensors: {WORD}, {NORM}.bias$"):
        nanospike.load_teacher(saved)


def test_unexpected_tensors_are_one_warning_and_ignored(teacher, saved):
    extra = {"cls.predictions.bias": np.zeros(3, np.float32), "cls.seq.weight": np.zeros((2, 2), np.float32)}
    rewrite(saved, lambda t: t | extra)
    with pytest.warns(UserWarning, match="ignoring unexpected tensors: cls.predictions.bias, cls.seq.weight$") as seen:
        loaded = nanospike.load_teacher(saved)
    assert len(seen) == 1 and loaded.parameters().keys() == teacher.parameters().keys()


def test_mis_shaped_tensor_is_named_with_both_shapes(saved):
    rewrite(saved, lambda t: t | {NORM + ".weight": np.ones(9, np.float32)})
    with pytest.raises(InputError, match=rf"mis-shaped tensors: {NORM}.weight is \(9,\), config.json says \(8,\)$"):
        nanospike.load_teacher(saved)


def test_many_missing_tensors_are_counted_not_listed_for_ever(saved):
    rewrite(saved, lambda t: {"classifier.weight": t["classifier.weight"]})
    with pytest.raises(InputError, match=r"missing tensors: (\S+, ){7}\S+ and \d\d more$"):
        nanospike.load_teacher(saved)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"hidden_size": 12}, r"mis-shaped.*word_embeddings.weight is \(40, 8\), config.json says \(40, 12\)"),
        ({"intermediate_size": 13}, r"intermediate.dense.weight is \(12, 8\), config.json says \(13, 8\)"),
        ({"num_hidden_layers": 3}, r"missing tensors: encoder.layer.2.attention.self.query.weight"),
        ({"num_labels": 5}, "classifier.weight has 3 labels, config.json says 5"),
        ({"num_labels": None, "id2label": {"0": "a", "1": "b"}}, "classifier.weight has 3 labels, config.json says 2"),
        ({"hidden_act": "mish"}, "hidden_act: found 'mish', expected one of gelu, "),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type: found 'relative_key'"),
        ({"num_attention_heads": 3}, "hidden_size 8 does not divide into 3 heads"),
        ({"hidden_size": None}, "missing hidden_size$"),
        ({"vocab_size": None, "intermediate_size": None}, "missing vocab_size, intermediate_size$"),
        ({"hidden_size": "8"}, "hidden_size: found '8', expected a whole number"),
        ({"num_hidden_layers": True}, "num_hidden_layers: found True, expected a whole number"),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps: found -1.0, expected a number of at least 0"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps: found nan, expected a number of at least 0"),
        ({"model_type": "t5"}, "model_type: found 't5', expected one of bert, distilbert, "),
        ({"id2label": 7, "num_labels": None}, "id2label: found 7"),
    ],
)
def test_config_that_does_not_fit(changes, said, saved):
    edit_json(saved / "config.json", **changes)
    with pytest.raises(InputError, match=said) as caught:
        nanospike.load_teacher(saved)
    assert str(saved) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"hidden_size": 12}, r"mis-shaped.*word_embeddings.weight is \(40, 8\)"),
        ({"num_labels": 5}, r"classifier.weight is \(3, 8\), config.json says \(5, 8\)"),
        ({"feedback": True}, "missing tensors: feedback.weight"),
        ({"feedback": "no"}, "feedback: found 'no', expected true or false"),
        ({"feedback": True, "feedback_rank": 2}, "missing tensors: feedback.down, feedback.up"),
        ({"looped": True}, "missing tensors: feedback.scale"),
        ({"lateral": True}, "missing tensors: lateral.weight"),
        ({"teacher_hidden_size": 9}, r"distill_map.weight is \(8, 8\), config.json says \(9, 8\)"),
        ({"teacher_hidden_size": "9"}, "teacher_hidden_size: found '9'"),
        ({"leak": 1.5}, "leak: found 1.5, expected above 0 and at most 1"),
        ({"v_th": 0}, "v_th: found 0, expected a positive threshold"),
        ({"spikes": "triple"}, "spikes: found 'triple', expected one of binary, corrective, signed"),
        ({"model_type": "bert"}, "model_type: found 'bert', expected 'nanospike'"),
        ({"model_type": None}, "model_type: found None, expected 'nanospike'"),
    ],
)
def test_student_config_that_does_not_fit(changes, said, tmp_path):
    random_student(dtype="float32").save(tmp_path)
    edit_json(tmp_path / "config.json", **changes)
    with pytest.raises(InputError, match=said):
        nanospike.load_student(tmp_path)


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "config.json: No such file"),
        ("{'hidden_size': 8}", "config.json: not JSON"),
        ("", "config.json: not JSON"),
        ("[1, 2]", "config.json: found a JSON list, expected an object"),
        (b"\xff\xfe{}", "config.json: not JSON"),
    ],
)
def test_config_that_cannot_be_read(text, said, saved):
    path = saved / "config.json"
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=said):
        nanospike.load_teacher(saved)


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-7], lambda b: b[: len(b) // 2], lambda b: b[:40], lambda b: b[:5], lambda b: b""],
    ids=["7 bytes short", "half", "within the header", "within the length", "empty"],
)
def test_truncated_weights(damage, saved):
    path = saved / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=f"{path}: not a whole safetensors file"):
        nanospike.load_teacher(saved)


@pytest.mark.parametrize(
    "garbage", [b"\xff" * 64, b"<html>404: not found</html>" * 9, b"\x08" + 7 * b"\0" + b"notjson!"]
)
def test_garbage_for_weights(garbage, saved):
    (saved / "model.safetensors").write_bytes(garbage)
    with pytest.raises(InputError, match="model.safetensors: not a whole safetensors file"):
        nanospike.load_teacher(saved)


def test_missing_and_unreadable_weights(saved):
    path = saved / "model.safetensors"
    path.unlink()
    with pytest.raises(InputError, match=f"{path}: No such file"):
        nanospike.load_teacher(saved)
    path.mkdir()
    with pytest.raises(InputError, match=str(path)):
        nanospike.load_teacher(saved)
    with pytest.raises(InputError, match="nowhere: no such directory"):
        nanospike.load_student(saved / "nowhere")


# ---- dtype and device ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "banana", "int32", "complex128", None, 3])
def test_unknown_dtype(dtype, saved):
    with pytest.raises(InputError, match="dtype: found .*, expected one of float32, float64"):
        nanospike.load_teacher(saved, dtype=dtype)


@pytest.mark.parametrize("device", ["gpu", "cuda:0", "", None])
def test_unknown_device(device, saved):
    with pytest.raises(InputError, match="device: found .*, expected one of cpu, cuda"):
        nanospike.load_teacher(saved, device=device)


def test_cuda_without_cupy_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    model = write_teacher(tmp_path / "bert")
    before = contents(tmp_path)
    argv = ("--model", model, "--task", "sst-2", "--data-dir", tmp_path, "--output-dir", tmp_path / "out")
    assert run(finetune.main, *argv, "--device", "cuda") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "CuPy is not installed" in said and "--device cpu" in said
    assert contents(tmp_path) == before


# ---- saving -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", [None, *LOOPS])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saved_student_gives_the_same_outputs(loop, dtype, tmp_path):
    student = random_student(dtype=dtype, feedback_gain=0.1, v_th=0.7, spikes="signed", **LOOPS.get(loop, {}))
    student.save(tmp_path)
    loaded = nanospike.load_student(tmp_path, dtype=dtype)
    assert loaded.config == student.config and loaded.parameters().keys() == student.parameters().keys()
    a, b = (m.equilibrium(*random_batch(2)) for m in (student, loaded))
    assert np.array_equal(a.logits, b.logits) and a.rates.keys() == b.rates.keys()
    assert all(np.array_equal(a.rates[p], b.rates[p]) for p in a.rates)
    a, b = (m.simulate(*random_batch(2), time_steps=5) for m in (student, loaded))
    assert np.array_equal(a.logits[5], b.logits[5])


@pytest.mark.parametrize("entry, value", [((0, 1), -0.1), ((2, 2), 0.1)])
def test_a_lateral_weight_that_does_not_inhibit_is_refused(entry, value, tmp_path):
    student = random_student(lateral=True)
    student.parameters()["lateral.weight"][entry] = value
    student.save(tmp_path)
    with pytest.raises(InputError, match="lateral.weight: expected numbers of at least 0, and 0 in the diagonal"):
        nanospike.load_student(tmp_path)


def test_student_directory_is_what_other_tools_expect(tmp_path):
    student = random_student(dtype="float32")
    student.save(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"} and set(file.keys()) == student.parameters().keys()
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "nanospike" and config["hidden_size"] == 8 and config["v_th"] == 1.0
    assert sorted(contents(tmp_path)) == ["config.json", "model.safetensors"]


def test_saving_in_float16_halves_the_file_and_rounds(tmp_path):
    student = random_student(dtype="float32")
    for name, dtype in (("whole", None), ("half", "float16")):
        student.save(tmp_path / name, dtype)
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {str(t.dtype) for t in stored.values()} == {"float16"}
    live, loaded = student.parameters(), nanospike.load_student(tmp_path / "half").parameters()
    for name, value in loaded.items():
        assert value.dtype == np.float32 and np.array_equal(value, live[name].astype(np.float16)), name
    nanospike.load_student(tmp_path / "half").save(tmp_path / "again", "float16")
    assert contents(tmp_path / "again") == contents(tmp_path / "half")


def test_unknown_settings_of_a_teacher_survive_loading_and_saving(saved, tmp_path):
    edit_json(saved / "config.json", id2label={"0": "no", "1": "so", "2": "yes"}, made_by="someone")
    nanospike.load_teacher(saved).save(tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    assert config["made_by"] == "someone" and config["id2label"]["2"] == "yes" and config["model_type"] == "bert"


def test_saving_takes_the_tokenizer_along(tmp_path):
    write_teacher(tmp_path / "a")
    (tmp_path / "a" / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    nanospike.load_teacher(tmp_path / "a").save(tmp_path / "b")
    for name in ("vocab.txt", "tokenizer_config.json"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


@pytest.mark.parametrize("make", [random_teacher, random_student])
def test_parameters_are_the_live_arrays(make, tmp_path):
    make(dtype="float32").save(tmp_path)
    load = nanospike.load_teacher if make is random_teacher else nanospike.load_student
    model, other = load(tmp_path), load(tmp_path)
    before = logits(model)
    model.parameters()["classifier.bias"][...] += 2
    np.testing.assert_allclose(logits(model), before + 2, rtol=1e-5)
    for name, array in model.parameters().items():
        assert array.flags.writeable, name
        old, was = logits(model), array.copy()
        array[...] = was[..., ::-1] + 0.5
        changed = not np.array_equal(logits(model), old)
        assert changed == (not name.startswith("distill_map")), name
        array[...] = was
    assert np.array_equal(logits(other), before)


# ---- all or nothing -----------------------------------------------------------------------------------------


class Stop(Exception):
    pass


@pytest.mark.parametrize("old", [None, "old"])
def test_an_exception_while_writing_leaves_the_old_file_and_nothing_else(old, tmp_path):
    path = tmp_path / "a.txt"
    if old:
        path.write_text(old)
    before = contents(tmp_path)
    with pytest.raises(Stop):
        with replacing(path) as temporary:
            temporary.write_text("half of the new")
            raise Stop
    assert contents(tmp_path) == before
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert contents(tmp_path).get("a.txt") == before.get("a.txt")
    assert contents(tmp_path) == {"a.txt": b"new"}


def test_an_exception_while_writing_a_directory_leaves_nothing_of_it(tmp_path):
    with pytest.raises(Stop):
        with replacing(tmp_path / "checkpoint") as temporary:
            temporary.mkdir()
            (temporary / "model").write_text("half")
            raise Stop
    assert contents(tmp_path) == {}


def test_weights_that_cannot_be_written_leave_the_old_ones(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"a": np.ones(3, np.float32)})
    before = contents(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(path, {"a": np.zeros(3, np.float32)})
    assert contents(tmp_path) == before


def test_a_value_that_json_cannot_hold_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1} and len(contents(tmp_path)) == 1


def test_json_has_no_numbers_that_json_lacks(tmp_path):
    value = {"a": float("nan"), "b": [1.5, float("inf"), {"c": (-float("inf"), 2)}], "d": np.float64("nan"), "e": "NaN"}
    write_json(tmp_path / "a.json", value)
    strict = json.loads((tmp_path / "a.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert strict == {"a": None, "b": [1.5, None, {"c": [None, 2]}], "d": None, "e": "NaN"}


def test_only_an_absent_or_empty_directory_is_written_to(tmp_path):
    require_empty(tmp_path / "absent")
    require_empty(tmp_path)
    assert not (tmp_path / "absent").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not empty"):
        require_empty(tmp_path)
    with pytest.raises(InputError, match="file: is a file, expected a directory"):
        require_empty(tmp_path / "file")
