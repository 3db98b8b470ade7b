"""The equilibrium as an ONNX graph, under onnxruntime, against student.equilibrium."""

import json

import numpy as np
import pytest
from models import random_batch, random_student
from tiny import contents, run

import nanospike
from nanospike import export
from nanospike.arrays.backend import to_host
from nanospike.config.errors import InputError
from nanospike.config.models import ACTIVATIONS
from nanospike.results import to_onnx

SHIFT = {"operators": "shift", "spikes": "signed"}
STUDENTS = {
    "float": {},
    "signed, another threshold": {"spikes": "signed", "v_th": 1.5},
    "ordinary": {"activation": "ann"},
    "thresholds": {"thresholds": ("embedding", "encoder.1.value", "encoder.0.intermediate")},
    "ternary": {"weights": "ternary"},
    "binary, tables too": {"weights": "binary", "embedding_weights": "ternary"},
    **{act: {"hidden_act": act} for act in ("gelu_new", "silu", "relu")},
    "shift": SHIFT,
    "shift, half steps, ternary": SHIFT | {"half_steps": True, "weights": "ternary", "embedding_weights": "ternary"},
    "shift softmax and norms alone": {"operators": "softmax,norm"},
    "shift, another threshold": SHIFT | {"v_th": 0.7},
    "shift, binary spikes": {"operators": "shift"},
}


def packages():
    return [pytest.importorskip(n, reason=f"{n} is not installed") for n in ("onnx", "onnxruntime")]


@pytest.mark.parametrize("name", STUDENTS)
def test_the_graph_computes_the_equilibrium(name, tmp_path):
    """In float64, except for erf, which onnxruntime has in float32 only; step functions then fall on the same side."""
    onnx, runtime = packages()
    config = dict(STUDENTS[name])
    gelu = config.get("hidden_act", "gelu") == "gelu" and config.get("operators") != "shift"
    student = random_student(3, dtype="float32" if gelu else "float64", **config)
    to_onnx.write_onnx(student, tmp_path / "m.onnx")
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    for seed, lengths in enumerate([(5, 3, 4), (1,), (10, 10)]):
        inputs = random_batch(seed, lengths)
        expected = student.equilibrium(*inputs)
        given = dict(zip(to_onnx.INPUTS, inputs, strict=True))
        logits, rates = session.run(["logits", "rates"], given)
        real = inputs[1].astype(bool)
        assert logits.dtype == expected.logits.dtype
        np.testing.assert_allclose(logits, to_host(expected.logits), rtol=0, atol=1e-5)
        np.testing.assert_allclose(rates[real], to_host(expected.hidden_states[-1])[real], rtol=0, atol=1e-5)
    kinds = {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    assert {node.domain for node in onnx.load(tmp_path / "m.onnx").graph.node} == {""}
    assert ("Pow" in kinds) == ("operators" in config) and ("Clip" in kinds) == (config.get("activation") != "ann")


def test_exponents_are_those_of_the_engine():
    """Of all halves of powers and their neighbours, in both dtypes."""
    onnx, runtime = packages()
    from nanospike.arrays.ops_shift import nearest_exponent

    for dtype in (np.float32, np.float64):
        student = random_student(dtype=np.dtype(dtype).name)
        g = to_onnx.Graph(student, onnx)
        made = to_onnx.nearest_exponent(g, "x")
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        x, y = (onnx.helper.make_tensor_value_info(n, kind, ["n"]) for n in ("x", made))
        graph = onnx.helper.make_graph(g.nodes, "g", [x], [y], g.constants)
        opset = [onnx.helper.make_opsetid("", to_onnx.OPSET)]
        model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=to_onnx.IR)
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        middle = 2.0 ** np.arange(-20, 20) * np.array([[1], [np.sqrt(0.5)], [1.3]])
        around = [middle * (1 + k * np.finfo(dtype).eps) for k in (-4, -1, 0, 1, 4)]
        values = np.concatenate([a.ravel() for a in around]).astype(dtype)
        assert np.array_equal(session.run(None, {"x": values})[0], nearest_exponent(values))


def test_low_bit_weights_stay_small(tmp_path):
    packages()
    for name, more in (("float", {}), ("ternary", {"weights": "ternary", "embedding_weights": "ternary"})):
        shape = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 500}
        to_onnx.write_onnx(random_student(dtype="float32", **shape, **more), tmp_path / name)
    assert (tmp_path / "ternary").stat().st_size < 0.35 * (tmp_path / "float").stat().st_size


def test_every_activation_has_its_nodes():
    assert to_onnx.ACTIVATIONS.keys() == set(ACTIVATIONS)


def test_as_a_command(tmp_path, capsys):
    onnx, _ = packages()
    student = random_student(dtype="float32")
    student.raw_config = {"id2label": {"0": "a", "1": "b", "2": "c"}}
    student.save(tmp_path / "s")
    argv = ("--model", tmp_path / "s", "--format", "onnx")
    assert run(export.main, *argv, tmp_path / "a" / "m.onnx") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a" / "m.onnx")
    props = {p.key: p.value for p in onnx.load(tmp_path / "a" / "m.onnx").metadata_props}
    assert json.loads(props["id2label"])["2"] == "c"
    before = contents(tmp_path)
    assert run(export.main, *argv, tmp_path / "a" / "m.onnx") == 2
    assert "exists already" in capsys.readouterr().err and contents(tmp_path) == before


@pytest.mark.parametrize(
    "config, said",
    [
        ({"feedback": True}, "a student with a loop"),
        ({"looped": True}, "a student with a loop"),
        ({"reset": "hard"}, "hard reset"),
        ({"activation": "ann", "activation_bits": 4}, "activations are rounded"),
    ],
)
def test_a_student_that_is_no_chain_of_layers_is_refused(config, said, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", object())
    with pytest.raises(InputError, match=said):
        to_onnx.write_onnx(nanospike.init_student(random_student(**config).config.__dict__), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(InputError, match="pip install 'nanospike\\[onnx\\]'"):
        to_onnx.write_onnx(random_student(), tmp_path / "m")
