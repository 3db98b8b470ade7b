"""The dump of integers: docs/integer.md's page of NumPy runs it spike for spike; its README names every array."""

import importlib
import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from effects import batch_of
from test_documents import blocks
from tiny import DEV, contents, run, write_teacher

import nanospike
from nanospike import export
from nanospike.model import bert
from nanospike.results.integer_dump import write_integers

REPOSITORY = Path(__file__).resolve().parents[1]
TEXTS = [line.partition("\t")[2] for line in DEV.splitlines()][:5]
VARIANTS = {
    "signed": {"spikes": "signed", "weights": "ternary"},
    "corrective": {"spikes": "corrective", "weights": "binary", "half_steps": True, "embedding_weights": "ternary"},
    "binary": {"spikes": "binary", "weights": "ternary", "v_th": 0.8},
}


@pytest.fixture(scope="module")
def p(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs")
    write_teacher(root / "teacher", pooler=False, mixing=4, hidden_size=16, intermediate_size=24)
    teacher = nanospike.load_teacher(root / "teacher")
    for name, options in VARIANTS.items():
        nanospike.init_student(asdict(teacher.config) | {"operators": "shift"} | options, teacher).save(root / name)
    nanospike.init_student(asdict(teacher.config), teacher).save(root / "hybrid")
    return root


def page():
    """The Python of the page."""
    (block,) = (b for b in blocks(REPOSITORY / "docs" / "integer.md") if b.language == "python")
    assert "nanospike" not in block.text
    return block.text


@pytest.mark.parametrize("name", VARIANTS)
def test_the_page_of_numpy_repeats_every_spike_and_decision(name, p, tmp_path, monkeypatch, capsys):
    assert run(export.main, "--model", p / name, "--format", "integer", tmp_path / "integer-student") == 0
    monkeypatch.chdir(tmp_path)
    there = {"__name__": "page"}
    exec(compile(page(), "docs/integer.md", "exec"), there)
    student, inputs = nanospike.load_student(p / name), batch_of(p / name, TEXTS).inputs
    probes = [nanospike.Probe(population) for population in bert.populations(student.config)]
    sim = student.simulate(*inputs, time_steps=5, probes=probes, arithmetic="integer")
    fired = 0
    for i, (ids, mask, segments) in enumerate(zip(*inputs, strict=True)):
        length = mask.sum()
        best, logits = there["run"](ids[:length], 5, segments[:length])
        assert best == sim.logits[5][i].argmax()
        np.testing.assert_allclose(logits * there["logit_unit"] / 5, sim.logits[5][i], rtol=1e-6)
        assert there["history"].keys() == sim.probes.keys()
        for population, spikes in there["history"].items():
            expected = sim.probes[population]["spikes"][:, i, :length]
            np.testing.assert_array_equal(np.stack(spikes), expected, err_msg=population)
            fired += abs(expected).sum()
    assert fired > 1000


def test_the_readme_names_every_array_and_its_type(p, tmp_path):
    student = nanospike.load_student(p / "corrective")
    write_integers(student, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    arrays = np.load(tmp_path / "out" / "integers.npz")
    for name in arrays.files:
        bare = re.sub(r"^encoder\.\d+\.", "", name)
        bare = re.sub(r"^(" + "|".join(("embedding", "query", *bert.POPULATIONS)) + r")\.", "", bare)
        words = [bare] if bare in text else bare.split(".")
        assert all(re.search(rf"\b{re.escape(word)}\b", text) for word in words), name
        assert arrays[name].dtype.name in text, name
    assert [n for n in arrays.files if arrays[n].dtype.kind == "f"] == ["logit_unit"]
    assert arrays["encoder.0.inward.weights"].dtype == np.int8
    assert set(np.unique(arrays["encoder.0.widen.weights"])) == {-1, 1}
    assert "{" not in text and (tmp_path / "out" / "vocab.txt").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (("--format", "integer", "--model", "{p}/signed", "{p}"), "expected a directory that is empty or absent"),
        (("--format", "integer", "--model", "{p}/signed"), "the following arguments are required: OUT"),
        (
            ("--format", "integer", "--model", "{p}/hybrid", "{out}"),
            "arithmetic integer: for operators shift, found float",
        ),
        (("--format", "integer", "--model", "{p}/signed", "--device", "cuda", "{out}"), "device cuda: CuPy is not"),
        (("--format", "spice", "{out}"), "--format: found 'spice'"),
        (("{out}",), "--format"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(options, message, p, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(importlib.import_module("sys").modules, "cupy", None)
    before = contents(p)
    assert run(export.main, *(o.format(p=p, out=tmp_path / "out") for o in options)) == 2
    assert message in capsys.readouterr().err
    assert contents(tmp_path) == {} and contents(p) == before


def test_names_of_labels_are_in_the_readme(p, tmp_path):
    path = p / "binary" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": {"0": "bad", "1": "good"}}))
    assert run(export.main, "--model", p / "binary", "--format", "integer", tmp_path / "out") == 0
    assert "2 outputs, 0: bad, 1: good" in (tmp_path / "out" / "README.md").read_text()
