"""evaluate, predict and the Classifier in integers: the library's integer simulation, refused before anything runs."""

import importlib.util
import json
from dataclasses import asdict

import numpy as np
import pytest
from effects import batch_of
from tiny import DEV, contents, run, write_sst2, write_teacher

import nanospike
from nanospike import evaluate
from nanospike.config.errors import InputError

TEXTS = [line.partition("\t")[2] for line in DEV.splitlines()]


@pytest.fixture(scope="module")
def p(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs")
    write_teacher(root / "teacher", pooler=False, mixing=4, hidden_size=16, intermediate_size=24)
    write_sst2(root / "SST-2")
    teacher = nanospike.load_teacher(root / "teacher")
    for name, options in (("float", {}), ("shift", {"operators": "shift", "weights": "ternary", "spikes": "signed"})):
        nanospike.init_student(asdict(teacher.config) | options, teacher).save(root / name)
    return root


def test_a_classifier_answers_from_the_integer_simulation(p):
    classify = nanospike.Classifier(p / "shift", time_steps=3, arithmetic="integer")
    student, inputs = nanospike.load_student(p / "shift"), batch_of(p / "shift", TEXTS).inputs
    logits = student.simulate(*inputs, time_steps=3, arithmetic="integer").logits[3]
    floats = student.simulate(*inputs, time_steps=3).logits[3]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = (odds / odds.sum(axis=1, keepdims=True)).max(axis=1)
    assert [a["score"] for a in classify(TEXTS)] == pytest.approx(scores, abs=1e-6)
    assert not np.allclose(logits, floats, rtol=1e-5, atol=0)  # a classifier of 8 bits
    assert [a["score"] for a in nanospike.predict(p / "shift", TEXTS, 3, arithmetic="integer")] == pytest.approx(scores)


def test_compiled_a_classifier_gives_the_same_answers(p, capsys):
    """From the command line, too; without numba that says so."""
    argv = ("--model", p / "shift", "--arithmetic", "integer", "--time-steps", 3, *TEXTS)
    main = importlib.import_module("nanospike.predict").main
    assert run(main, *argv) == 0
    expected = capsys.readouterr().out
    before = nanospike.Classifier(p / "shift", time_steps=3, arithmetic="integer")(TEXTS)
    try:
        if nanospike.use_fast(True):
            assert nanospike.Classifier(p / "shift", time_steps=3, arithmetic="integer")(TEXTS) == before
        status = run(main, "--fast", *argv)
        said = capsys.readouterr()
        if importlib.util.find_spec("numba"):
            assert (status, said.out) == (0, expected)
        else:
            assert status == 2 and said.err.endswith("--fast: numba is not installed; pip install 'nanospike[fast]'\n")
    finally:
        nanospike.use_fast(False)


def test_evaluate_says_that_it_was_integers(p, tmp_path, capsys):
    options = ("--model", p / "shift", "--task", "sst-2", "--data-dir", p, "--time-steps", "2,4")
    out = ("--output-dir", tmp_path / "out")
    assert run(evaluate.main, *options, "--arithmetic", "integer", "--energy", *out) == 0
    assert "signed spikes, integers" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert results["arithmetic"] == "integer" and results["spiking"].keys() == {"2", "4"}
    costs = json.loads((tmp_path / "out" / "energy.json").read_text())
    assert {line["kind"] for line in costs["audit"]} == {"spike-driven", "shift"}


@pytest.mark.parametrize(
    "options, message",
    [
        (("--model", "{p}/float"), "arithmetic integer: for operators shift, found float"),
        (("--model", "{p}/shift", "--time-steps", "100000"), "time steps: found 100000, expected at most"),
    ],
)
def test_what_cannot_be_run_is_one_line_before_anything_is_written(p, tmp_path, capsys, options, message):
    options = [o.format(p=p) for o in options] + ["--arithmetic", "integer"]
    out = tmp_path / "out"
    assert run(evaluate.main, *options, "--task", "sst-2", "--data-dir", p, "--output-dir", out) == 2
    assert run(importlib.import_module("nanospike.predict").main, *options, "a joy") == 2
    printed = capsys.readouterr()
    assert printed.err.count("error: ") == 2 == len(printed.err.splitlines()) and message in printed.err
    assert printed.out == "" and contents(tmp_path) == {}


def test_a_classifier_in_integers_is_refused_by_name(p):
    with pytest.raises(InputError, match="arithmetic: found 'fixed', expected one of float, integer"):
        nanospike.Classifier(p / "shift", arithmetic="fixed")
