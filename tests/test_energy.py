"""nanospike energy, evaluate --energy and what distill writes: one energy.json, whoever makes it."""

import json

import pytest
import tiny
from tiny import run

import nanospike
from nanospike import distill, energy, evaluate
from nanospike.model.operations import LOOKED_UP

ROW = {
    "t_r",
    "spikes",
    "sop_pj",
    "memory_pj",
    "bit_matched_ratio",
    "synaptic_operations",
    "attention_products",
    "accuracy",
}
SMALL = ("--max-steps", 2, "--batch-size", 4, "--time-steps", "1,2", "--workers", 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A teacher, a student and an ann of it, and their data."""
    at = tmp_path_factory.mktemp("energy")
    tiny.write_teacher(at / "teacher")
    tiny.write_sst2(at / "data")
    task = ("--task", "sst-2", "--data-dir", at / "data", "--teacher", at / "teacher", "--operators", "float", *SMALL)
    task += ("--classifier", "learnt")  # a fitted one has a weight of 0 for a neuron that is silent
    assert run(distill.main, *task, "--output-dir", at / "student") == 0
    assert run(distill.main, *task, "--student", "ann", "--output-dir", at / "ann") == 0
    return at


def read(path):
    return json.loads(path.read_text())


def where(made):
    return ("--task", "sst-2", "--data-dir", made / "data", "--model", made / "student", "--workers", 1)


def test_what_distill_writes_costs_weights_in_the_bits_in_which_it_stored_them(made, tmp_path):
    """Of a packed student, whose teacher's file has other bits."""
    nanospike.load_teacher(made / "teacher").save(tmp_path / "teacher", "float16")
    task = ("--task", "sst-2", "--data-dir", made / "data", *SMALL)
    argv = ("--teacher", tmp_path / "teacher", "--classifier", "learnt", "--output-dir", tmp_path / "student")
    assert run(distill.main, *task, *argv) == 0
    own = ("--task", "sst-2", "--data-dir", made / "data", "--model", tmp_path / "student", "--workers", 1)
    assert run(energy.main, *own, "--time-steps", "1,2", "--output-dir", tmp_path / "a") == 0
    distilled, found = (read(tmp_path / name / "energy.json") for name in ("student", "a"))
    for key in ("time_steps", "ann_int8", "audit"):
        assert distilled[key] == found[key], key
    assert distilled["ann"]["memory_pj"] == found["ann"]["memory_pj"]
    used = found["ann"]["synaptic_operations"]
    assert used["Effective_MACs"] == used["Dense"], "an ordinary BERT has no weights of 0, the student does"
    used = found["time_steps"]["2"]["synaptic_operations"]
    assert 0 < used["Effective_ACs"] < 2 * used["Dense"]


def test_three_commands_find_the_same(made, tmp_path, capsys):
    argv = (*where(made), "--teacher", made / "teacher", "--time-steps", "1,2")
    assert run(energy.main, *argv, "--ann", made / "ann", "--output-dir", tmp_path / "a") == 0
    table = capsys.readouterr().out
    assert run(evaluate.main, *argv, "--energy", "--output-dir", tmp_path / "b") == 0
    found, evaluated, distilled = (read(p / "energy.json") for p in (tmp_path / "a", tmp_path / "b", made / "student"))
    assert set(found["time_steps"]) == {"1", "2"} and all(set(row) == ROW for row in found["time_steps"].values())
    for other in (evaluated, distilled):
        for key in ("time_steps", "teacher", "ann_int8", "audit", "audit_time_steps", "words", "constants", "examples"):
            assert other[key] == found[key], key
        assert (
            other["ann"] | {"accuracy": None} == found["ann"] | {"accuracy": None} and other["ann"]["accuracy"] is None
        )
    scores = read(tmp_path / "b/eval_results.json")
    assert {t: row["accuracy"] for t, row in found["time_steps"].items()} == scores["spiking"]
    assert found["teacher"]["accuracy"] == scores["teacher"]
    assert found["ann"]["accuracy"] == read(made / "ann/eval_results.json")["equilibrium"]
    assert not (made / "ann/energy.json").exists(), "an ordinary BERT has no spikes"
    assert all(found[name]["t_r"] is None and found[name]["sop_pj"] > 0 for name in ("teacher", "ann", "ann_int8"))
    for words in (
        "student, T = 2",
        "ordinary BERT of this size",
        "the same in int8",
        "hybrid",
        "2409.08290",
        "membranes",
    ):
        assert words in table, words
    assert set(scores["rates"]) == set(nanospike.load_student(made / "student").equilibrium([[2, 3]]).rates)
    assert all(set(r) == {"rate", "dead", "saturated"} for r in scores["rates"].values())


def test_formats(made, tmp_path, capsys):
    argv = (*where(made), "--time-steps", "1,2")
    assert run(energy.main, *argv, "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["teacher"] is None and found["options"]["task"] == "sst-2"
    assert run(energy.main, *argv, "--format", "neurobench", "--output-dir", tmp_path / "n") == 0
    theirs = json.loads(capsys.readouterr().out)
    assert theirs == read(tmp_path / "n/neurobench.json") and set(theirs) == {"1", "2"}
    for t, row in theirs.items():
        assert row["SynapticOperations"] == found["time_steps"][t]["synaptic_operations"]
        assert row["ClassificationAccuracy"] == found["time_steps"][t]["accuracy"]
        assert row["ActivationSparsity"] == pytest.approx(1 - found["time_steps"][t]["t_r"] / int(t))
        assert row["Footprint"] == (made / "student/model.safetensors").stat().st_size - header(made / "student")
        assert row["ConnectionSparsity"] == 0


def test_a_student_in_integers_has_their_prices(made, tmp_path):
    teacher = nanospike.load_teacher(made / "teacher")
    shape = vars(teacher.config) | {"operators": "shift", "weights": "ternary"}
    nanospike.init_student(shape, teacher=teacher).save(tmp_path / "student")
    (tmp_path / "student/vocab.txt").write_text((made / "teacher/vocab.txt").read_text())
    argv = ("--task", "sst-2", "--data-dir", made / "data", "--model", tmp_path / "student", "--time-steps", "1,2")
    for name in ("float", "integer"):
        assert run(evaluate.main, *argv, "--arithmetic", name, "--energy", "--output-dir", tmp_path / name) == 0
    real, whole = (read(tmp_path / name / "energy.json") for name in ("float", "integer"))
    assert (real["constants"]["name"], whole["constants"]["name"]) == ("float32", "int32")
    assert whole["words"].startswith("multiplication-free") and whole["ann"] == real["ann"]
    looked_up = lambda name: LOOKED_UP if name.endswith(".scale") else 1  # noqa: E731  comparisons for a product
    wanted = {r["operation"]: r["count"] * looked_up(r["operation"]) for r in real["audit"]}
    assert {r["operation"]: r["count"] for r in whole["audit"]} == pytest.approx(wanted, rel=1e-12)
    assert all(r["count"] == 0 for r in whole["audit"] if r["kind"] == "float")


def header(directory):
    with open(directory / "model.safetensors", "rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def test_options_have_their_effect(made, capsys):
    def found(*argv):
        assert run(energy.main, *where(made), "--time-steps", "1,2", "--format", "json", *argv) == 0
        return json.loads(capsys.readouterr().out)

    plain, half, few = found(), found("--constants", "float16"), found("--examples", 4)
    assert (
        half["time_steps"]["1"]["sop_pj"] < plain["time_steps"]["1"]["sop_pj"] and half["constants"]["addition"] == 0.4
    )
    assert (plain["examples"], few["examples"]) == (12, 4)
    assert found("--max-length", 4)["tokens"] == 4 < plain["tokens"]
    assert set(found("--time-steps", "3")["time_steps"]) == {"3"}
    assert found("--batch-size", 1)["time_steps"] == plain["time_steps"]
    assert found("--seed", 9)["time_steps"] == plain["time_steps"]
    whole = found("--constants", "int32")
    assert whole["time_steps"]["1"]["sop_pj"] < plain["time_steps"]["1"]["sop_pj"]
    for name in ("ann", "ann_int8"):
        assert whole[name] == plain[name], "ordinary BERTs do not count in integers"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--task", "x", "--data-dir", "."), "--task: found 'x'"),
        (("--task", "rte"), "--data-dir: needed"),
        (("--time-steps", "0"), "--time-steps: found 0"),
        (("--constants", "x"), "--constants x: expected one of"),
        (("--model", "{made}/ann"), "is an ordinary BERT: it has no spikes; give it as --ann"),
        (("--ann", "{made}/student"), "is a spiking student, expected one of distill --student ann"),
        (("--output-dir", "{made}/data"), "not empty"),
        (("--model", "{made}/nowhere"), "no such directory"),
    ],
)
def test_bad_options_are_one_line(made, argv, words, capsys):
    argv = [a.replace("{made}", str(made)) for a in argv]
    assert run(energy.main, *argv) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


@pytest.mark.parametrize("extra", [("--margin", 1), ("--split", "test", "--output-dir", "x"), ("--test-file", "x.csv")])
def test_evaluate_counts_dev_sets_alone(made, extra, capsys):
    assert run(evaluate.main, "--energy", *extra) == 2
    assert "--energy: of a dev set" in capsys.readouterr().err


def test_what_is_said_of_the_bundled_student(capsys):
    """Less energy than an ordinary BERT of its size at T = 4, in int8 too once memory counts, but not than one with
    the same weights and as few levels."""
    argv = ("--examples", 8, "--time-steps", "1,4", "--workers", 1, "--format", "json")
    assert run(energy.main, *argv) == 0
    found = json.loads(capsys.readouterr().out)
    row, ann = found["time_steps"]["4"], found["ann"]
    assert row["sop_pj"] < 0.5 * ann["sop_pj"] and row["memory_pj"] < 0.2 * ann["memory_pj"]
    assert row["memory_pj"] < found["ann_int8"]["memory_pj"]
    assert found["time_steps"]["1"]["bit_matched_ratio"] < 1 < row["bit_matched_ratio"]
    assert found["words"].startswith("multiplication-free") and found["teacher"] is None
