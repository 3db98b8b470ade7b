"""convert: the same model from PyTorch's files, safetensors of any layout and ONNX; every refusal leaves nothing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import contents, edit_json, run, write_teacher

import nanospike
from nanospike import convert
from nanospike.files.foreign import bare_names

GOLDEN = Path(__file__).resolve().parent / "golden"
FAMILIES = GOLDEN / "families"
INPUTS = (np.array([[2, 7, 9, 5, 3]]), np.ones((1, 5), int), np.array([[0, 0, 0, 1, 1]]))


def logits(directory):
    return nanospike.load_teacher(directory)(*INPUTS).logits


def test_pytorch_s_file(tmp_path, capsys):
    shutil.copytree(FAMILIES / "distilbert", tmp_path / "in")
    (tmp_path / "in" / "model.safetensors").unlink()
    shutil.copy(GOLDEN / "pickles" / "distilbert.bin", tmp_path / "in" / "pytorch_model.bin")
    (tmp_path / "in" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    assert run(convert.main, tmp_path / "in", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert printed.err == "" and "40 tensors of" in printed.out
    line = next(x for x in printed.out.splitlines() if x.startswith("pre_classifier.weight"))
    assert line.split() == ["pre_classifier.weight", "(16,", "16)", "pre_classifier.weight"]
    assert np.array_equal(logits(tmp_path / "out"), logits(FAMILIES / "distilbert"))
    expected = load_file(FAMILIES / "distilbert" / "model.safetensors")
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == expected.keys()
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors", "vocab.txt"}


def test_a_file_beside_its_configuration_and_half_the_bits(tmp_path, capsys):
    shutil.copy(FAMILIES / "distilbert" / "config.json", tmp_path)
    shutil.copy(GOLDEN / "pickles" / "distilbert.bin", tmp_path / "weights.pt")
    assert run(convert.main, tmp_path / "weights.pt", tmp_path / "out", "--dtype", "float16") == 0
    assert "has no tokenizer" in capsys.readouterr().err
    assert {str(t.dtype) for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {"float16"}
    np.testing.assert_allclose(logits(tmp_path / "out"), logits(FAMILIES / "distilbert"), atol=0.02)


@pytest.mark.parametrize("outer", ["", "module.", "0.auto_model.", "model.teacher."])
@pytest.mark.parametrize("inner", ["bert.", ""])
def test_safetensors_of_any_layout(outer, inner, tmp_path, capsys):
    write_teacher(tmp_path / "in")
    path, expected = tmp_path / "in" / "model.safetensors", logits(tmp_path / "in")
    tensors = {n.removeprefix("bert."): t for n, t in load_file(path).items()}
    named = {outer + (n if n.startswith("classifier") else inner + n): t for n, t in tensors.items()}
    save_file(named | {"cls.predictions.bias": np.zeros(3, "f"), "extra.x": np.zeros(1, "f")}, path)
    path.rename(path.with_name("strange.safetensors"))
    assert run(convert.main, tmp_path / "in", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert printed.err == "" and sum("left out" in line for line in printed.out.splitlines()) == 2
    assert np.array_equal(logits(tmp_path / "out"), expected)
    assert "bert.pooler.dense.weight" in load_file(tmp_path / "out" / "model.safetensors")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [
        "BertForSequenceClassification"
    ]


def test_shards_of_both_kinds(tmp_path):
    shutil.copytree(FAMILIES / "distilbert", tmp_path / "in")
    (tmp_path / "in" / "model.safetensors").unlink()
    shutil.copy(GOLDEN / "pickles" / "distilbert.bin", tmp_path / "in" / "a.bin")
    index = tmp_path / "in" / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "a.bin"}}))
    assert run(convert.main, tmp_path / "in", tmp_path / "out") == 0
    assert np.array_equal(logits(tmp_path / "out"), logits(FAMILIES / "distilbert"))


BAD = {
    "no configuration": (lambda p: (p / "in/config.json").unlink(), ("in", "out"), "config.json: No such file"),
    "no weights": (lambda p: (p / "in/model.safetensors").unlink(), ("in", "out"), "found none, expected one file"),
    "two files": (
        lambda p: [(p / "in/model.safetensors").rename(p / "in/a.safetensors"), (p / "in/b.pt").touch()],
        ("in", "out"),
        "found a.safetensors, b.pt, expected one file",
    ),
    "a strange file": (lambda p: (p / "in/x.h5").touch(), ("in/x.h5", "out"), "x.h5: expected a directory"),
    "no path": (None, (), "the following arguments are required: IN, OUT"),
    "full": (lambda p: (p / "out").mkdir() or (p / "out/x").touch(), ("in", "out"), "out: not empty"),
    "another model": (
        lambda p: edit_json(p / "in/config.json", model_type="t5"),
        ("in", "out"),
        "model_type: found 't5'",
    ),
    "no embedding": (
        lambda p: save_file({"a": np.zeros(1, "f")}, p / "in/model.safetensors"),
        ("in", "out"),
        "found 0 tensors whose names end in embeddings.word_embeddings.weight",
    ),
    "a hostile pickle": (
        lambda p: (p / "in/m.bin").write_bytes(b"cos\nsystem\n(S'touch made'\ntR."),
        ("in/m.bin", "out"),
        "asks for os.system, which is not needed",
    ),
    "other sizes": (
        lambda p: edit_json(p / "in/config.json", hidden_size=16),
        ("in", "out"),
        "in: mis-shaped tensors: embeddings.word_embeddings.weight",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_converted_is_one_line_and_leaves_nothing(name, tmp_path, capsys):
    spoil, paths, said = BAD[name]
    write_teacher(tmp_path / "in")
    if spoil:
        spoil(tmp_path)
    before = contents(tmp_path)
    assert run(convert.main, *(tmp_path / p for p in paths)) == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    assert contents(tmp_path) == before


def test_names_lose_what_wrappers_put_before_them():
    names = ["m.bert.embeddings.word_embeddings.weight", "m.bert.pooler.dense.bias", "m.classifier.bias", "x"]
    assert list(bare_names(names, "bert.")) == [
        *("embeddings.word_embeddings.weight", "pooler.dense.bias", "classifier.bias", "x")
    ]


# ---- ONNX -----------------------------------------------------------------------------------------------------------


def as_onnx(tensors, anonymous):
    """A graph with these weights, in the shape that PyTorch's exporter gives a linear layer; equal ones stored once."""
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    helper, kept, nodes = onnx.helper, {}, []
    for i, (name, array) in enumerate(tensors.items()):
        twin = next((n for n, a in kept.items() if np.array_equal(a, array)), None)
        if twin:
            nodes.append(helper.make_node("Identity", [twin], [name]))
        elif anonymous(name, array):
            kept[f"onnx::MatMul_{i}"] = array.T.copy()
            nodes.append(helper.make_node("MatMul", ["x", f"onnx::MatMul_{i}"], [f"y{i}"]))
            nodes.append(helper.make_node("Add", [name.removesuffix("weight") + "bias", f"y{i}"], [f"z{i}"]))
        else:
            kept[name] = array
    made = [onnx.numpy_helper.from_array(a, n) for n, a in kept.items()]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph(nodes, "g", [x], [], made))


@pytest.mark.parametrize("name", ["distilbert", "roberta", "electra"])
def test_onnx_with_matrices_without_names(name, tmp_path):
    tensors = load_file(FAMILIES / name / "model.safetensors")
    tensors = {n: np.zeros_like(t) if n.endswith("lin1.bias") else t for n, t in tensors.items()}
    model = as_onnx(tensors, lambda n, a: a.ndim == 2 and "embeddings." not in n and "classifier" not in n)
    (tmp_path / "in").mkdir()
    shutil.copy(FAMILIES / name / "config.json", tmp_path / "in")
    (tmp_path / "in" / "model.onnx").write_bytes(model.SerializeToString())
    assert run(convert.main, tmp_path / "in", tmp_path / "out") == 0
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == tensors.keys() and all(np.array_equal(found[n], tensors[n]) for n in found)


def test_what_is_no_onnx_is_refused(tmp_path, capsys):
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    write_teacher(tmp_path / "in")
    (tmp_path / "in" / "x.onnx").write_bytes(b"\x00\x01not onnx")
    assert run(convert.main, tmp_path / "in" / "x.onnx", tmp_path / "out") == 2
    assert "x.onnx: not an ONNX file" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    write_teacher(tmp_path / "in")
    (tmp_path / "in" / "x.onnx").write_bytes(b"")
    assert run(convert.main, tmp_path / "in" / "x.onnx", tmp_path / "out") == 2
    assert "pip install 'nanospike[onnx]'" in capsys.readouterr().err
