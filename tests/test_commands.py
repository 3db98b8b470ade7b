"""The commands from end to end on a few dozen lines of text, and every bad input: one line, status 2, nothing left."""

import importlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from models import random_student
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny import (
    CORPUS,
    POSITIONS,
    VOCABULARY,
    contents,
    edit_json,
    log_lines,
    run,
    write_sst2,
    write_sts_b,
    write_teacher,
)

import nanospike
from nanospike import distill, evaluate, finetune
from nanospike.data.tasks import find_task, read_split
from nanospike.data.text import collate, encode
from nanospike.data.tokenizer import load_tokenizer
from nanospike.files.bundled import bundled
from nanospike.model.loss import LossWeights, Targets
from nanospike.model.simulate import SpikingRun
from nanospike.model.student import Student
from nanospike.model.teacher import Teacher, with_classifier
from nanospike.results.anytime import MARGINS

predict = importlib.import_module("nanospike.predict")  # the module: nanospike.predict may be the function
ROOT = Path(nanospike.__file__).resolve().parent.parent
LOG_KEYS = {"stage", "step", "loss", "learning_rate", "step_ms", "examples_per_second", "mean_rate"}
EVAL_KEYS = {
    *("task", "metric", "teacher", "equilibrium", "spiking", "mean_rate", "equilibrium_gap", "seconds"),
    "peak_memory_mb",
}
STUDENT_FILES = {
    *("config.json", "model.safetensors", "tokenizer.json", "training_args.json", "train_log.jsonl"),
    *("train_results.json", "eval_results.json", "report.html", "README.md", "checkpoints"),
}
SHORT = ("--batch-size", 7, "--epochs", 1, "--log-every", 2)
LEARN = ("--batch-size", 7, "--epochs", 8, "--learning-rate", 3e-3, "--log-every", 20)
AFEW = ("--batch-size", 7, "--epochs", 3, "--learning-rate", 3e-3, "--log-every", 8)
FLOAT = ("--operators", "float")  # a hybrid: what it says of operators, weights and stages is left out
LONG = "the tea was hot and the cake was fresh " * 3


def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with data, corpus.txt, a BERT, the teacher that finetune made of it, and distill's student."""
    root = tmp_path_factory.mktemp("made")
    write_sst2(root / "data")
    (root / "corpus.txt").write_text(CORPUS)
    write_teacher(root / "headless", labels=0)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    write_teacher(root / "bert", seed=4, pooler=False, mixing=4, hidden_size=16, intermediate_size=32, **still)
    where = ("--task", "sst-2", "--data-dir", root / "data")
    assert run(finetune.main, "--model", root / "bert", *where, "--output-dir", root / "teacher", *LEARN) == 0
    argv = ("--teacher", root / "teacher", *where, "--output-dir", root / "student", "--time-steps", "2,4,8", *FLOAT)
    assert run(distill.main, *argv, *LEARN, "--classifier", "learnt") == 0  # some texts stay unclear at T = 1
    return root


@pytest.fixture
def place(made, tmp_path):
    """A copy of `made` to spoil."""
    shutil.copytree(made, tmp_path / "place")
    return tmp_path / "place"


def dev_batch(directory, data):
    examples = read_split(find_task("sst-2"), data, "dev")
    encoded = encode(load_tokenizer(directory), examples.texts, POSITIONS, examples.labels)
    return examples, collate(encoded, np.arange(len(encoded)))


# ---- end to end ---------------------------------------------------------------------------------------------


def test_finetune_leaves_a_teacher(made):
    out = made / "teacher"
    files = {"config.json", "model.safetensors", "tokenizer.json", "training_args.json", "train_log.jsonl"}
    assert {p.name for p in out.iterdir()} - {"vocab.txt"} == files | {"eval_results.json", "checkpoints"}
    assert (out / "vocab.txt").read_bytes() == (made / "bert" / "vocab.txt").read_bytes()
    config = read(out / "config.json")
    assert config["model_type"] == "bert" and config["num_labels"] == 2
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    lines = log_lines(out, timed=True)
    assert [(x["stage"], x["step"]) for x in lines] == [("finetune", 20), ("finetune", 32)]
    assert all(x.keys() >= LOG_KEYS and x["mean_rate"] is None for x in lines)
    args = read(out / "training_args.json")
    assert args["batch_size"] == 7 and args["task"] == "sst-2" and args["model"] == str(made / "bert")
    teacher = nanospike.load_teacher(out)
    examples, batch = dev_batch(out, made / "data")
    logits = teacher(batch.input_ids, batch.attention_mask, batch.token_type_ids).logits
    results = read(out / "eval_results.json")
    assert results["teacher"] == np.mean(logits.argmax(axis=1) == examples.labels)
    assert (results["task"], results["metric"]) == ("sst-2", "accuracy") and results["seconds"] >= 0


def test_the_tokenizer_that_is_written_is_the_one_that_was_read(made):
    texts = ["the tea was hot .", ("was it ?", "Café crème"), "the [MASK] was [SEP]"]
    expected = encode(load_tokenizer(made / "bert"), texts, 99)
    for name in ("teacher", "student"):
        assert (made / name / "tokenizer.json").exists()
        found = encode(load_tokenizer(made / name), texts, 99)
        assert [i.tolist() for i in found.ids] == [i.tolist() for i in expected.ids]


@pytest.mark.parametrize("labels", [0, 3])
def test_finetune_makes_the_classifier_that_a_model_lacks(labels, made, tmp_path):
    write_teacher(tmp_path / "bert", labels)
    argv = ("--model", tmp_path / "bert", "--task", "sst-2", "--data-dir", made / "data", *SHORT)
    assert run(finetune.main, *argv, "--output-dir", tmp_path / "out") == 0
    old, new = (nanospike.load_teacher(tmp_path / d) for d in ("bert", "out"))
    assert new.config.num_labels == 2 and new.parameters()["classifier.weight"].shape == (2, 8)
    assert ("pooler" in new.tree) == (labels == 3)
    changed = {n for n, p in old.parameters().items() if n[:10] != "classifier" and np.any(p != new.parameters()[n])}
    assert len(changed) > 30  # the whole model is trained


VARIANTS = {
    "plain": (),
    "hybrid": FLOAT,
    "feedback": ("--feedback", "--adjoint-solver", "bicgstab"),
    "feedback, cut short": ("--feedback", "--adjoint-solver", "one-step"),
    "feedback of low rank": ("--feedback", "--feedback-rank", 3),
    "feedback from the first token": ("--feedback", "--feedback-from", "cls", "--adjoint-solver", "dense"),
    "looped": ("--looped", "--jacobian-penalty", 0.01),
    "lateral": ("--lateral", "--forward", "spikes"),
    "ann": ("--student", "ann"),
    "spikes, instant": ("--forward", "spikes", "--drive", "instant"),
    "spikes, signed": (*FLOAT, "--forward", "spikes", "--spikes", "signed", "--v-th", 0.5),
    "leak": ("--leak", 0.9),
    "few steps": (*FLOAT, "--stages", "internal,few-steps", "--few-steps", 2, "--thresholds", "learnt"),
    "corpus": (*FLOAT, "--stages", "general,prediction", "--epochs", "2,1"),
    "from scratch": (*FLOAT, "--init", "random", "--labels", 0.5, "--keep-internal", 0.1),
    "one encoder": (*FLOAT, "--encoders", 1, "--layer-map", 2, "--spikes", "corrective"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_distill_evaluate_predict(variant, made, tmp_path, capsys):
    out, more = tmp_path / "student", VARIANTS[variant]
    corpus = ("--corpus", made / "corpus.txt") if variant == "corpus" else ()
    where = ("--task", "sst-2", "--data-dir", made / "data")
    argv = ("--teacher", made / "teacher", *where, "--output-dir", out, "--time-steps", "2,4", *AFEW, *more, *corpus)
    assert run(distill.main, *argv) == 0
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err and printed.out.startswith("options: ")

    costs = set() if variant == "ann" else {"energy.json"}
    assert {p.name for p in out.iterdir()} - {"vocab.txt"} == STUDENT_FILES | costs
    config, args = read(out / "config.json"), read(out / "training_args.json")
    assert config["model_type"] == "nanospike" and config["id2label"] == {"0": "negative", "1": "positive"}
    assert config["activation"] == ("ann" if variant == "ann" else "spiking")
    assert config["num_hidden_layers"] == (1 if variant == "one encoder" else 2)
    assert config["feedback"] == variant.startswith("feedback") and config["leak"] == (0.9 if variant == "leak" else 1)
    assert args["time_steps"] == [2, 4] and args["output_dir"] == str(out)
    with safe_open(out / "model.safetensors", framework="np") as file:
        assert (file.metadata() == {"format": "pt"}) == (variant != "plain")
        names = set(file.keys())
    returns = {"feedback of low rank": {"feedback.down", "feedback.up"}, "looped": {"feedback.scale"}}
    returns = returns.get(variant, {"feedback.weight"} if variant.startswith("feedback") else set())
    returns = {"lateral.weight"} if variant == "lateral" else returns
    assert {n for n in names if n.startswith(("feedback.", "lateral."))} == returns
    assert {"classifier.weight", "distill_map.bias", "embeddings.word_embeddings.weight"} <= names

    lines = log_lines(out, timed=True)
    stages = {"corpus": ["general", "prediction"], "few steps": ["few-steps", "internal"]}
    stages["plain"] = ["few-steps", "internal", "prediction"]
    stages = stages.get(variant, ["internal", "prediction"])
    gone = {"internal"} if variant == "plain" else set()  # the last two checkpoints are kept
    assert sorted({x["stage"] for x in lines}) == stages
    assert all(x.keys() >= LOG_KEYS and x["loss"] > 0 and x["step_ms"] > 0 for x in lines)
    assert all((x["mean_rate"] is None) == (variant == "ann") for x in lines)
    assert sorted({p.name.rpartition("-")[0] for p in (out / "checkpoints").iterdir()}) == sorted(set(stages) - gone)

    results, steps = read(out / "eval_results.json"), [] if variant == "ann" else ["2", "4"]
    assert results.keys() >= EVAL_KEYS
    assert list(results["spiking"]) == list(results["equilibrium_gap"]) == steps
    scores = [results["teacher"], results["equilibrium"], *results["spiking"].values()]
    assert all(0 <= v <= 1 for v in scores) and results["examples"] == 12
    assert results["teacher"] == read(made / "teacher" / "eval_results.json")["teacher"]
    assert results["peak_memory_mb"] > 20 and results["seconds"] >= 0
    drive = {"ann": None, "leak": "instant", "spikes, instant": "instant"}.get(variant, "differential")
    assert results["drive"] == drive
    assert "<html" in (out / "report.html").read_text(encoding="utf-8")

    drives = ("--drive", drive) if drive else ()
    argv = ("--model", out, "--teacher", made / "teacher", *where, "--time-steps", "4,2,4", *drives)
    assert run(evaluate.main, *argv, "--output-dir", tmp_path / "eval") == 0
    again = read(tmp_path / "eval" / "eval_results.json")
    for key in ("task", "metric", "teacher", "equilibrium", "spiking", "equilibrium_gap", "mean_rate", "drive"):
        assert again[key] == results[key], key

    if variant == "ann":
        with pytest.raises(nanospike.InputError, match="activation ann"):
            nanospike.predict(out, ["a joy"])
    elif drive == ("instant" if variant == "leak" else "differential"):
        examples, _ = dev_batch(out, made / "data")
        answers = nanospike.predict(out, examples.texts, time_steps=4)
        different = len({a["score"] for a in answers})  # not an answer that ignores the text, in few time steps
        assert different > 2 or variant == "from scratch"
        hits = [a["label"] == ("negative", "positive")[y] for a, y in zip(answers, examples.labels, strict=True)]
        assert np.mean(hits) == results["spiking"]["4"]


def test_a_student_goes_on_in_another_run(made, tmp_path):
    """--init DIR: the shape and the neurons are those of the student, which the stage few-steps trains further."""
    where = ("--teacher", made / "teacher", "--task", "sst-2", "--data-dir", made / "data", "--time-steps", 2)
    first = (*FLOAT, "--stages", "internal", "--encoders", 1, "--v-th", 0.8, "--max-steps", 1)
    assert run(distill.main, *where, *first, "--output-dir", tmp_path / "first") == 0
    more = ("--init", tmp_path / "first", "--stages", "few-steps", "--spikes", "corrective", "--max-steps", 2)
    assert run(distill.main, *where, *more, "--learning-rate", 0, "--output-dir", tmp_path / "same") == 0
    more = ("--init", tmp_path, *more[2:])  # now that of the task, as where several were trained
    (tmp_path / "first").rename(tmp_path / "sst-2")
    assert run(distill.main, *where, *more, "--thresholds", "learnt", "--output-dir", tmp_path / "learnt") == 0
    before, same, learnt = (nanospike.load_student(tmp_path / d) for d in ("sst-2", "same", "learnt"))
    assert same.config.num_hidden_layers == 1 and same.config.v_th == 0.8 and same.config.spikes == "corrective"
    assert before.config.spikes == "binary"
    for name, p in before.parameters().items():
        np.testing.assert_array_equal(p, same.parameters()[name], err_msg=name)
    own = {n: p for n, p in learnt.parameters().items() if n.startswith("thresholds.")}
    assert len(own) == 7 and all(p.shape == (1,) and p > 0 for p in own.values())
    assert any(p != np.float32(0.8) for p in own.values())


def test_what_is_asked_of_a_given_student_is_not_taken_for_a_default(made, tmp_path, capsys):
    where = ("--teacher", made / "teacher", "--task", "sst-2", "--data-dir", made / "data", "--time-steps", 2)
    where += ("--stages", "internal", "--max-steps", 1)
    first = ("--encoders", 1, "--spikes", "signed", "--v-th", 0.8, "--thresholds", "learnt")
    assert run(distill.main, *where, *first, "--output-dir", tmp_path / "first") == 0
    for spikes, more in (("signed", ()), ("binary", ("--spikes", "binary"))):
        out = tmp_path / spikes
        assert run(distill.main, *where, *more, "--init", tmp_path / "first", "--output-dir", out) == 0
        assert read(out / "config.json")["spikes"] == spikes and read(out / "config.json")["v_th"] == 0.8
    capsys.readouterr()
    for more in (("--v-th", 1), ("--student", "spiking", "--v-th", 1), ("--thresholds", "fixed")):
        assert run(distill.main, *where, *more, "--init", tmp_path / "first", "--output-dir", tmp_path / "no") == 2
        assert f"{more[-2]}{' fixed' if more[-1] == 'fixed' else ': found 1.0'}" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_few_steps_and_the_equilibrium_take_turns(made, tmp_path, monkeypatch):
    """With --settled-share 0.5, every other update is at the equilibrium; else at rates of --few-steps time steps."""
    seen, gradients = [], Student.gradients

    def watched(student, inputs, targets, weights, loop, run, *more):
        seen.append(run)
        return gradients(student, inputs, targets, weights, loop, run, *more)

    monkeypatch.setattr(Student, "gradients", watched)
    where = ("--teacher", made / "teacher", "--task", "sst-2", "--data-dir", made / "data", "--time-steps", 2)
    argv = (
        *where,
        "--stages",
        "few-steps",
        "--few-steps",
        3,
        "--epochs",
        1,
        "--max-steps",
        4,
        "--workers",
        1,
        "--batch-size",
        4,
    )
    assert run(distill.main, *argv, "--output-dir", tmp_path / "out") == 0
    assert [s and s.time_steps for s in seen] == [3, 3, 3, 3]
    argv += ("--settled-share", 0.5, "--batch-size", 2)
    assert run(distill.main, *argv, "--output-dir", tmp_path / "half") == 0
    assert [s and s.time_steps for s in seen[4:]] == [3, 3, None, 3]


@pytest.mark.parametrize(
    "argv, said",
    [
        (("--init", "nowhere"), "--init: found nowhere, expected teacher, random or a student's directory"),
        (("--encoders", 2), "--encoders: found 2, the student in "),
        (("--v-th", 2), "--v-th: found 2.0, the student in "),
        (("--feedback",), "--feedback: found True, the student in "),
        (("--teacher", "bundled"), "word pieces, the task and the teacher need 8000"),
    ],
)
def test_a_student_that_does_not_fit_the_options(argv, said, made, tmp_path, capsys):
    where = ("--task", "sst-2", "--data-dir", made / "data")
    first = ("--teacher", made / "teacher", "--max-steps", 1, "--encoders", 1, "--stages", "internal")
    assert run(distill.main, *where, *first, "--output-dir", tmp_path / "first") == 0
    capsys.readouterr()
    if argv[0] == "--teacher":
        argv = ("--teacher", bundled("teacher"))
    else:
        argv = ("--teacher", made / "teacher", *argv)
    argv = argv if "--init" in argv else (*argv, "--init", tmp_path / "first")
    assert run(distill.main, *where, *argv, "--output-dir", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_the_general_stage_reads_the_corpus_and_nothing_else_is_trained(made, tmp_path):
    argv = ("--task", "sst-2", "--data-dir", made / "data", "--corpus", made / "corpus.txt", "--time-steps", 2)
    argv += ("--teacher", made / "teacher", "--stages", "general", "--output-dir", tmp_path / "out", "--epochs", 3)
    assert run(distill.main, *argv, "--batch-size", 2, "--log-every", 1) == 0
    tokenizer = load_tokenizer(made / "teacher")
    counts = [len(tokenizer.encode(x, add_special_tokens=False).ids) for x in CORPUS.splitlines() if x]
    windows = sum(-(-n // (POSITIONS - 2)) for n in counts)
    assert len(log_lines(tmp_path / "out")) == 3 * -(-windows // 2)
    before = nanospike.load_teacher(made / "teacher").parameters()
    after = nanospike.load_student(tmp_path / "out").parameters()
    assert not np.array_equal(
        before["encoder.layer.0.output.dense.weight"], after["encoder.layer.0.output.dense.weight"]
    )
    assert np.array_equal(before["classifier.weight"], after["classifier.weight"])  # no stage had logits to match


@pytest.fixture(scope="module")
def general(made, tmp_path_factory):
    """(directory of a BERT without classifier, of a student that was distilled from it on general text)."""
    where = tmp_path_factory.mktemp("general")
    bert = nanospike.load_teacher(made / "teacher")
    tree = {k: v for k, v in bert.tree.items() if k != "classifier"}
    Teacher(bert.config, tree, directory=made / "teacher").save(where / "bert")
    argv = ("--teacher", where / "bert", "--stages", "general", "--corpus", made / "corpus.txt", "--time-steps", "2,4")
    assert run(distill.main, *argv, "--output-dir", where / "student", "--batch-size", 2, "--log-every", 1) == 0
    return where / "bert", where / "student"


def test_a_student_of_general_text_has_no_task(general, capsys):
    results, config = (read(general[1] / f"{name}.json") for name in ("eval_results", "config"))
    assert config["headless"] is True and "id2label" not in config
    assert (results["equilibrium"], results["spiking"]) == (None, {}) and results["examples"] > 2
    assert 0 < results["equilibrium_gap"]["4"] < results["equilibrium_gap"]["2"]
    page = (general[1] / "report.html").read_text(encoding="utf-8")
    assert "Spiking student student on general text" in page and ">equilibrium gap<" in page
    assert run(predict.main, "--model", general[1], "good") == 2
    assert run(evaluate.main, "--model", general[1]) == 2
    assert capsys.readouterr().err.count("its classifier was never trained; distil it for a task with --init") == 2


@pytest.mark.parametrize("labels", [1, 3])
def test_a_student_of_general_text_goes_on_with_any_task(general, made, tmp_path, labels):
    bert = with_classifier(nanospike.load_teacher(general[0]), labels, 0)
    task, column, values = {1: ("sts-b", "score", "1.5"), 3: ("mnli", "gold_label", "neutral")}[labels]
    bert.save(tmp_path / "teacher")
    shutil.copyfile(made / "teacher" / "tokenizer.json", tmp_path / "teacher" / "tokenizer.json")
    for name in ("train", "dev", "dev_matched"):
        rows = "".join(f"good\tbad\t{v}\n" for v in (values, "4.5" if labels == 1 else "entailment"))
        (tmp_path / f"{name}.tsv").write_text(f"sentence1\tsentence2\t{column}\n{rows}", encoding="utf-8")
    argv = ("--teacher", tmp_path / "teacher", "--task", task, "--data-dir", tmp_path, "--init", general[1])
    argv += ("--output-dir", tmp_path / "out", "--stages", "prediction", "--epochs", 1, "--time-steps", 2)
    assert run(distill.main, *argv, "--learning-rate", 1e-9, "--classifier", "learnt") == 0
    student, before = (nanospike.load_student(d) for d in (tmp_path / "out", general[1]))
    assert student.config.num_labels == labels and not student.config.headless
    own, theirs = student.parameters(), before.parameters()
    name = "encoder.layer.0.output.dense.weight"  # what general text made of it
    assert np.allclose(own[name], theirs[name], atol=1e-6)
    weight, bias = (bert.parameters()[f"classifier.{kind}"] for kind in ("weight", "bias"))
    assert np.allclose(own["classifier.weight"], weight @ theirs["distill_map.weight"], atol=1e-6)
    assert np.allclose(own["classifier.bias"], weight @ theirs["distill_map.bias"] + bias, atol=1e-6)


def test_a_bert_without_classifier_is_for_general_text_only(general, made, tmp_path, capsys):
    argv = ("--teacher", general[0], "--corpus", made / "corpus.txt", "--output-dir", tmp_path / "out")
    assert run(distill.main, *argv) == 2
    assert "has no labels, opinions needs 2; run finetune first" in capsys.readouterr().err
    assert run(distill.main, *argv, "--stages", "general", "--task", "sst-2", "--data-dir", made / "data") == 2
    assert "--task, --data-dir: of no use" in capsys.readouterr().err


def test_gap_and_rate_are_what_the_page_says(made):
    """equilibrium_gap: mean |ASR - equilibrium| of the last encoder's output; mean_rate: spikes per neuron and step."""
    student = nanospike.load_student(made / "student")
    _, batch = dev_batch(made / "student", made / "data")
    inputs = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
    settled, real = student.equilibrium(*inputs), batch.attention_mask.astype(bool)
    results = read(made / "student" / "eval_results.json")
    for t in (2, 4, 8):
        sim = student.simulate(*inputs, time_steps=t, record=[t])
        distance = np.abs(sim.rates["encoder.1.output"] - settled.rates["encoder.1.output"])[real]
        assert results["equilibrium_gap"][str(t)] == pytest.approx(distance.mean(), rel=1e-5)
    rates = np.concatenate([r[real].ravel() for r in settled.rates.values()])
    assert results["mean_rate"] == pytest.approx(rates.mean(), rel=1e-5)
    spikes = sum(c.sum() for c in sim.spike_counts.values())
    assert results["spiking_mean_rate"] == pytest.approx(spikes / (8 * rates.size), rel=1e-5)


@pytest.mark.parametrize("drive", ["instant", "differential"])
def test_forward_spikes_takes_the_loss_at_the_rates_of_the_longest_run(drive, made, tmp_path):
    argv = ("--teacher", made / "teacher", "--task", "sst-2", "--data-dir", made / "data", "--stages", "internal")
    argv += ("--output-dir", tmp_path / "out", "--forward", "spikes", "--drive", drive, "--time-steps", "2,4")
    assert run(distill.main, *argv, "--batch-size", 28, "--epochs", 1, "--learning-rate", 0, "--attention", 1) == 0
    student, teacher = nanospike.load_student(tmp_path / "out"), nanospike.load_teacher(made / "teacher")
    examples = read_split(find_task("sst-2"), made / "data", "train")
    batch = collate(encode(load_tokenizer(made / "teacher"), examples.texts, POSITIONS), np.arange(28))
    inputs = (batch.input_ids, batch.attention_mask, batch.token_type_ids)

    def loss(simulation):
        weights = LossWeights(hidden=1, attention=1, logits=0)
        terms = student.gradients(inputs, Targets(teacher(*inputs)), weights, simulation=simulation).terms
        return float(sum(terms.values()))

    logged = log_lines(tmp_path / "out")[0]["loss"]
    assert logged == pytest.approx(loss(SpikingRun(time_steps=4, drive=drive)), rel=1e-5)
    others = [loss(SpikingRun(time_steps=2, drive=drive)), loss(None)]
    assert all(abs(logged - other) > 1e-3 * logged for other in others)


def test_a_regression_with_pairs(tmp_path):
    rows = [("the tea was hot", "the tea was warm", 4.5), ("a joy", "a bore", 0.5), ("fresh fish", "fresh bread", 2.0)]
    rows += [("the room was cold", "the room was dirty", 2.5), ("quick staff", "staff were quick", 5.0)]
    write_sts_b(tmp_path / "sts", rows)
    write_teacher(tmp_path / "bert", labels=1)
    where = ("--task", "sts-b", "--data-dir", tmp_path / "sts", "--batch-size", 2, "--epochs", 2)
    assert run(finetune.main, "--model", tmp_path / "bert", *where, "--output-dir", tmp_path / "teacher") == 0
    argv = ("--teacher", tmp_path / "teacher", *where, "--output-dir", tmp_path / "out", "--time-steps", 4)
    assert run(distill.main, *argv) == 0
    results = read(tmp_path / "out" / "eval_results.json")
    assert results["metric"] == "pearson_spearman" and -1 <= results["spiking"]["4"] <= 1
    config = read(tmp_path / "out" / "config.json")
    assert config["num_labels"] == 1
    answers = nanospike.predict(tmp_path / "out", [(a, b) for a, b, _ in rows])
    assert [a["label"] for a in answers] == [None] * 5 and len({a["score"] for a in answers}) > 1


def test_a_run_from_a_file_of_options(made, tmp_path):
    values = {"teacher": made / "teacher", "data-dir": made / "data", "output_dir": tmp_path / "out", "task": "sst-2"}
    lines = [f'{k} = "{v}"' for k, v in values.items()] + ["batch_size = 28", "epochs = 1", "time_steps = [2]"]
    (tmp_path / "run.toml").write_text("\n".join(lines))
    assert run(distill.main, "--config", tmp_path / "run.toml", "--time-steps", 3) == 0
    args = read(tmp_path / "out" / "training_args.json")
    assert args["batch_size"] == 28 and args["time_steps"] == [3] and args["epochs"] == [1.0, 1.0, 1.0]  # one per stage
    assert list(read(tmp_path / "out" / "eval_results.json")["spiking"]) == ["3"]


def test_the_same_seed_gives_the_same_bytes(made, tmp_path):
    where = ("--task", "sst-2", "--data-dir", made / "data")
    argv = ("--teacher", made / "teacher", *where, "--time-steps", "2,4,8", *FLOAT, "--classifier", "learnt")
    assert run(distill.main, *argv, *LEARN, "--output-dir", tmp_path / "a") == 0
    assert run(distill.main, *argv, *LEARN, "--output-dir", tmp_path / "b", "--seed", 1) == 0
    weights = [(d / "model.safetensors").read_bytes() for d in (made / "student", tmp_path / "a", tmp_path / "b")]
    assert weights[0] == weights[1] != weights[2]


# ---- predict ------------------------------------------------------------------------------------------------


def test_predict_as_a_function(made):
    texts = ["the tea was hot .", ("a joy .", "a bore ."), ["the soup", "was cold"], "", "the tea was hot ."]
    answers = nanospike.predict(made / "student", texts, time_steps=8)
    assert len(answers) == 5 and answers[0] == answers[4]
    for answer in answers:
        assert answer.keys() == {"label", "score", "time_steps"} and answer["time_steps"] == 8
        assert answer["label"] in ("negative", "positive") and 0.5 <= answer["score"] <= 1
        assert json.loads(json.dumps(answer)) == answer
    alone = nanospike.predict(made / "student", [texts[1]], time_steps=8)[0]
    assert answers[1] == alone | {"score": pytest.approx(alone["score"], rel=1e-6)}  # as in a batch
    assert answers[1]["score"] != nanospike.predict(made / "student", ["a joy . a bore ."], time_steps=8)[0]["score"]
    assert nanospike.predict(str(made / "student"), []) == []
    student = nanospike.load_student(made / "student")
    encoded = encode(load_tokenizer(made / "student"), texts[:1], POSITIONS)
    logits = student.simulate(encoded.ids[0][None], time_steps=8).logits[8][0].astype(float)
    odds = np.exp(logits) / np.exp(logits).sum()
    assert answers[0]["score"] == pytest.approx(odds.max(), rel=1e-5)
    assert answers[0]["label"] == ("negative", "positive")[odds.argmax()]


@pytest.mark.parametrize("texts", ["one text", [3], [("a", "b", "c")], [("a", 1)], [None]])
def test_predict_refuses_what_is_not_a_list_of_texts(texts, made):
    with pytest.raises(nanospike.InputError, match="predict: .*expected"):
        nanospike.predict(made / "student", texts)


def test_predict_as_a_command(made, capsys, monkeypatch):
    texts = ["the tea was hot .", "a bore , and long ."]
    expected = nanospike.predict(made / "student", texts, time_steps=4)
    assert run(predict.main, "--model", made / "student", "--time-steps", 4, *texts) == 0
    printed = capsys.readouterr()
    lines = [f"{a['label']}\t{a['score']:.4f}\t{t}" for a, t in zip(expected, texts, strict=True)]
    assert printed.out.splitlines() == lines and printed.err == ""
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(texts) + "\n"))
    assert run(predict.main, "--model", made / "student", "--time-steps", 4, "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [{"text": t} | a for a, t in zip(expected, texts, strict=True)]


def test_predict_takes_json_lines(made, capsys, monkeypatch):
    """A text, a pair, an object whose other keys come back; what does not look like JSON is a text."""
    given = ['"the tea was hot ."', '["a joy", "a bore"]', '{"id": 7, "text": "a joy", "pair": "a bore"}', "a\tjoy"]
    expected = nanospike.predict(made / "student", ["the tea was hot .", *[("a joy", "a bore")] * 2, ("a", "joy")])
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(given)))
    assert run(predict.main, "--model", made / "student", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    pair = {"text": "a joy", "pair": "a bore"}
    assert rows == [
        f | a
        for f, a in zip(
            [{"text": "the tea was hot ."}, pair, {"id": 7} | pair, {"text": "a\tjoy"}], expected, strict=True
        )
    ]


@pytest.mark.parametrize(
    "line, said",
    [
        ('{"text": "a', "line 2: not JSON"),
        ('["a", "b", "c"]', 'line 2: found ["a", "b", "c"], expected a text, a pair or an object'),
        ('["a", 3]', "line 2: found"),
        ('{"text": 3}', "line 2: found"),
        ('{"txt": "a"}', 'line 2: an object without "text"'),
    ],
)
def test_a_line_that_is_no_json_stops_it_after_the_lines_before(line, said, made, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f'"a joy"\n{line}\n"a bore"\n'))
    assert run(predict.main, "--model", made / "student", "--json") == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1 and len(printed.out.splitlines()) == 1


def test_predict_answers_when_the_input_pauses_and_reads_no_further_than_it_must(made):
    """A line is answered before the next is written; of an endless input, a bounded part is held."""
    argv = [sys.executable, "-m", "nanospike.predict", "--model", made / "student", "--time-steps", "2"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": ROOT, "bufsize": 0}
    with subprocess.Popen(argv, **pipes) as running:
        for text in (b"a joy", b"a bore", b""):
            running.stdin.write(text + b"\n")
            assert running.stdout.readline().rstrip(b"\n").endswith(b"\t" + text)
        running.stdin.close()
        assert running.wait(60) == 0 and running.stdout.read() == b""


def test_predict_until_its_decision_is_clear(made, capsys):
    """--time-steps auto, with the margin that distill found on the training texts."""
    config = read(made / "student" / "config.json")
    assert config["anytime_margin"] in MARGINS and 1 <= config["recommended_time_steps"] <= 32
    texts = read_split(find_task("sst-2"), made / "data", "train").texts
    assert run(predict.main, "--model", made / "student", "--json", "--time-steps", "auto", *texts) == 0
    steps = [json.loads(line)["time_steps"] for line in capsys.readouterr().out.splitlines()]
    assert 1 <= min(steps) < max(steps) <= 16


def process(*argv, stdin="", **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    given = {"input": stdin.encode(), "capture_output": True, "env": environment} | options
    done = subprocess.run([sys.executable, *map(str, argv)], **given)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_predict_in_a_process_of_its_own(made, tmp_path):
    texts = ["the tea was hot .", "ein Café"]
    argv = ("-m", "nanospike.predict", "--model", made / "student", "--time-steps", 4)
    status, out, err = process(*argv, "--json", stdin="\n".join(texts) + "\n", cwd=tmp_path)
    assert (status, err) == (0, "")
    expected = nanospike.predict(made / "student", texts, time_steps=4)
    assert [json.loads(line) for line in out.splitlines()] == [
        {"text": t} | a for a, t in zip(expected, texts, strict=True)
    ]
    assert contents(tmp_path) == {}


def test_the_function_is_still_one_after_its_module_was_imported(made):
    code = (
        "import nanospike, types; first = nanospike.predict; assert isinstance(first, types.FunctionType)\n"
        "import nanospike.predict\n"
        f"directory = {str(made / 'student')!r}\n"
        "assert nanospike.predict(directory, ['a joy'], time_steps=2) == first(directory, ['a joy'], time_steps=2)\n"
        "assert callable(nanospike.predict.main)\n"
    )
    assert process("-W", "error", "-c", code) == (0, "", "")


# ---- texts that are too long --------------------------------------------------------------------------------


def test_a_text_longer_than_the_positions_is_one_warning_and_success(made, tmp_path, capsys):
    said = f"warning: 1 of 2 texts are longer than {POSITIONS} word pieces and were cut\n"
    assert run(predict.main, "--model", made / "student", "--time-steps", 2, LONG, "a joy") == 0
    printed = capsys.readouterr()
    assert printed.err == said and len(printed.out.splitlines()) == 2
    argv = ("-m", "nanospike.predict", "--model", made / "student", "--time-steps", "2", LONG, "a joy")
    assert process(*argv) == (0, printed.out, said)
    data = write_sst2(tmp_path / "data", f"1\t{LONG}\n0\ta bore\n", "1\ta joy\n0\ta bore\n")
    where = ("--task", "sst-2", "--data-dir", data)
    assert run(finetune.main, "--model", made / "bert", *where, "--output-dir", tmp_path / "out") == 0
    assert capsys.readouterr().err == said.replace("of 2", "of 4")  # one warning for both files
    data = write_sst2(data, "1\ta joy\n0\ta bore\n", f"1\t{LONG}\n0\ta bore\n")
    assert run(evaluate.main, "--model", made / "student", *where, "--time-steps", 2) == 0
    assert capsys.readouterr().err == said


# ---- what is wrong with what was given ----------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


def replace_by_directory(path):
    path.unlink()
    path.mkdir()


def relabel(data, name, old, new):
    path = data / name
    path.write_text(path.read_text().replace(old, new, 1))


def fewer(directory, **sizes):
    """A student with smaller tables of positions or segments."""
    edit_json(directory / "config.json", **sizes)
    tensors = load_file(directory / "model.safetensors")
    for name, rows in sizes.items():
        table = {"max_position_embeddings": "position", "type_vocab_size": "token_type"}[name]
        tensors[f"embeddings.{table}_embeddings.weight"] = tensors[f"embeddings.{table}_embeddings.weight"][
            :rows
        ].copy()
    save_file(tensors, directory / "model.safetensors")


def pairs(directory):
    """RTE's files beside those of the other task."""
    (directory / "RTE").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (directory / "RTE" / name).write_text("index\tsentence1\tsentence2\tlabel\n0\ta joy\ta bore\tentailment\n")


def widen_vocabulary(directory):
    (directory / "vocab.txt").write_text("\n".join([*VOCABULARY, "more"]) + "\n")


def commands(p):
    """The command lines that work in the folder p."""
    task = ("--task", "sst-2", "--data-dir", p / "data")
    return {
        finetune: ("--model", p / "bert", *task, "--output-dir", p / "out"),
        distill: ("--teacher", p / "teacher", *task, "--output-dir", p / "out"),
        evaluate: ("--model", p / "student", *task, "--output-dir", p / "out", "--time-steps", "2"),
        predict: ("--model", p / "student", "a joy"),
    }


SWAPPED = {"0": "positive", "1": "negative"}
# name: (command, what is spoilt first, options added, what the line says)
BAD = {
    "no model": (finetune, lambda p: shutil.rmtree(p / "bert"), (), "bert: no such directory"),
    "no weights": (finetune, lambda p: (p / "bert/model.safetensors").unlink(), (), "model.safetensors: No such file"),
    "weights unreadable": (
        finetune,
        lambda p: replace_by_directory(p / "bert/model.safetensors"),
        (),
        "model.safetens",
    ),
    "weights truncated": (
        finetune,
        lambda p: truncate(p / "bert/model.safetensors"),
        (),
        "not a whole safetensors file",
    ),
    "config against tensors": (
        *(finetune, lambda p: edit_json(p / "bert/config.json", hidden_size=24), ()),
        "embeddings.word_embeddings.weight is",
    ),
    "config not JSON": (finetune, lambda p: truncate(p / "bert/config.json"), (), "bert/config.json: not JSON"),
    "no tokenizer": (finetune, lambda p: (p / "bert/vocab.txt").unlink(), (), "found neither tokenizer.json nor vocab"),
    "vocabulary too large": (finetune, lambda p: widen_vocabulary(p / "bert"), (), f"has an id {len(VOCABULARY)}, the"),
    "unknown task": (finetune, None, ("--task", "sst3"), "--task: found 'sst3', expected one of opinions, sst-2"),
    "unknown option": (finetune, None, ("--lerning-rate", "1"), "unrecognized arguments: --lerning-rate 1"),
    "value of another kind": (finetune, None, ("--epochs", "many"), "--epochs: found 'many', expected a number"),
    "no data": (finetune, lambda p: shutil.rmtree(p / "data"), (), "no train.tsv in it"),
    "empty data": (finetune, lambda p: (p / "data/dev.tsv").write_text(""), (), "dev.tsv: no examples in it"),
    "data not UTF-8": (finetune, lambda p: (p / "data/train.tsv").write_bytes(b"\xff\xfe"), (), "train.tsv: not UTF-8"),
    "label outside": (
        *(finetune, lambda p: relabel(p / "data", "train.tsv", "\t0", "\t4"), ()),
        "train.tsv, line 3: label '4', expected one of 0, 1",
    ),
    "output not empty": (
        finetune,
        lambda p: (p / "out").mkdir() or (p / "out/a").write_text("mine"),
        (),
        "out: not emp",
    ),
    "output a file": (finetune, lambda p: (p / "out").write_text("mine"), (), "out: is a file, expected a directory"),
    "output below a file": (finetune, None, ("--output-dir", "{p}/corpus.txt/out"), "corpus.txt"),
    "no file of options": (finetune, None, ("--config", "{p}/run.toml"), "run.toml: No such file"),
    "no teacher": (distill, lambda p: shutil.rmtree(p / "teacher"), (), "teacher/config.json: No such file"),
    "teacher truncated": (distill, lambda p: truncate(p / "teacher/model.safetensors"), (), "not a whole safetensors"),
    "teacher without classifier": (distill, None, ("--teacher", "{p}/headless"), "has no labels, sst-2 needs 2"),
    "teacher of another task": (
        *(distill, lambda p: (p / "data/dev_matched.tsv").write_text(""), ("--task", "mnli")),
        "has 2 labels, mnli needs 3",
    ),
    "no corpus": (distill, None, ("--corpus", "{p}/absent.txt"), "absent.txt: No such file"),
    "empty corpus": (
        distill,
        lambda p: (p / "corpus.txt").write_text(" \n\n"),
        ("--corpus", "{p}/corpus.txt"),
        "no text",
    ),
    "empty task": (distill, lambda p: (p / "data/train.tsv").write_text("\n"), (), "train.tsv: no examples in it"),
    "steps 0": (distill, None, ("--time-steps", "0"), "--time-steps: found [0], expected whole numbers of at least 1"),
    "steps -1": (distill, None, ("--time-steps", "-1"), "--time-steps"),
    "steps x": (distill, None, ("--time-steps", "x"), "--time-steps: found 'x', expected whole numbers"),
    "encoders": (distill, None, ("--encoders", "3"), "3 encoders do not divide the teacher's 2; give --layer-map"),
    "layer map": (
        distill,
        None,
        ("--encoders", "1", "--layer-map", "5"),
        "layer map: found [5], expected 1 layers between",
    ),
    "threshold": (distill, None, ("--v-th", "0"), "v_th: found 0.0, expected a positive threshold"),
    "leak": (distill, None, ("--leak", "1.5"), "leak: found 1.5, expected above 0 and at most 1"),
    "label outside, unused": (
        distill,
        lambda p: relabel(p / "data", "dev.tsv", "\t1", "\tx"),
        (),
        "dev.tsv, line 2: label",
    ),
    "teacher's classes in another order": (
        *(distill, lambda p: edit_json(p / "teacher/config.json", id2label=SWAPPED), ()),
        "teacher: config.json: id2label: found positive, negative, sst-2 needs negative, positive: reorder them",
    ),
    "student's classes in another order": (
        *(evaluate, lambda p: edit_json(p / "student/config.json", id2label=SWAPPED), ()),
        "student: config.json: id2label: found positive, negative, sst-2 needs",
    ),
    "classes of the teacher to be scored in another order": (
        *(evaluate, lambda p: edit_json(p / "teacher/config.json", id2label=SWAPPED), ("--teacher", "{p}/teacher")),
        "teacher: config.json: id2label: found positive, negative, sst-2 needs",
    ),
    "student with fewer positions": (
        *(distill, lambda p: fewer(p / "student", max_position_embeddings=8), ("--init", "{p}/student")),
        "--init {p}/student: has 8 positions, the texts have up to 13 word pieces; --max-length cuts them",
    ),
    "student with fewer positions than a window": (
        *(distill, lambda p: fewer(p / "student", max_position_embeddings=14)),
        ("--init", "{p}/student", "--corpus", "{p}/corpus.txt", "--stages", "general"),
        "--init {p}/student: has 14 positions, the texts have up to 16 word pieces",
    ),
    "student with one segment": (
        *(distill, lambda p: fewer(p / "student", type_vocab_size=1) or pairs(p / "data")),
        ("--init", "{p}/student", "--task", "rte", "--data-dir", "{p}/data/RTE"),
        "--init {p}/student: type_vocab_size is 1, pairs of texts need 2",
    ),
    "student truncated for --init": (
        *(distill, lambda p: truncate(p / "student/model.safetensors"), ("--init", "{p}/student")),
        "not a whole safetensors",
    ),
    "student output": (distill, None, ("--output-dir", "{p}/student"), "student: not empty"),
    "model is a BERT": (evaluate, None, ("--model", "{p}/teacher"), "model_type: found 'bert', expected 'nanospike'"),
    "student truncated": (evaluate, lambda p: truncate(p / "student/model.safetensors"), (), "not a whole safetensors"),
    "student against tensors": (
        *(evaluate, lambda p: edit_json(p / "student/config.json", num_hidden_layers=3, vocab_size=4), ()),
        "missing tensors: encoder.layer.2.",
    ),
    "evaluate unknown task": (evaluate, None, ("--task", "x"), "--task: found 'x'"),
    "evaluate another task": (evaluate, None, ("--task", "mnli"), "has 2 labels, mnli needs 3"),
    "evaluate steps 0": (evaluate, None, ("--time-steps", "2,0"), "--time-steps: found [2, 0]"),
    "evaluate steps -1": (evaluate, None, ("--time-steps=-1",), "--time-steps: found [-1]"),
    "evaluate steps x": (evaluate, None, ("--time-steps", "x"), "--time-steps: found 'x'"),
    "evaluate output": (evaluate, None, ("--output-dir", "{p}/data"), "data: not empty"),
    "evaluate empty data": (
        evaluate,
        lambda p: (p / "data/dev.tsv").write_text("sentence\tlabel\n"),
        (),
        "no examples",
    ),
    "evaluate label": (
        evaluate,
        lambda p: relabel(p / "data", "dev.tsv", "\t1", "\t9"),
        (),
        "dev.tsv, line 2: label '9'",
    ),
    "teacher of evaluate": (evaluate, None, ("--teacher", "{p}/headless"), "no classifier with the 2 labels of sst-2"),
    "leaky student": (
        *(evaluate, lambda p: edit_json(p / "student/config.json", leak=0.9), ("--drive", "differential")),
        "--drive differential: for neurons without a leak, the student has 0.9",
    ),
    "predict without model": (predict, lambda p: shutil.rmtree(p / "student"), (), "student: no such directory"),
    "predict truncated": (predict, lambda p: truncate(p / "student/model.safetensors"), (), "not a whole safetensors"),
    "predict tokenizer": (
        predict,
        lambda p: truncate(p / "student/tokenizer.json"),
        (),
        "tokenizer.json: not JSON",
    ),
    "predict labels": (
        predict,
        lambda p: edit_json(p / "student/config.json", id2label=[1]),
        (),
        "id2label: found [1]",
    ),
    "predict steps 0": (predict, None, ("--time-steps", "0"), "--time-steps: found 0, expected at least 1"),
    "predict steps -1": (predict, None, ("--time-steps", "-1"), "--time-steps"),
    "predict steps x": (
        predict,
        None,
        ("--time-steps", "x"),
        "--time-steps: found 'x', expected a whole number or auto",
    ),
    "predict auto": (
        predict,
        lambda p: edit_json(p / "student/config.json", anytime_margin=None),
        ("--time-steps", "auto"),
        "has no anytime_margin",
    ),
    "predict blank": (predict, None, None, "no text given"),
    "predict device": (predict, None, ("--device", "tpu"), "--device: found 'tpu', expected one of cpu, cuda"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_status_2_and_leaves_nothing(name, place, capsys):
    command, spoil, more, said = BAD[name]
    if spoil:
        spoil(place)
    argv = commands(place)[command]
    argv = (*argv[:-1], "  ") if more is None else (*argv, *(str(m).format(p=place) for m in more))
    before = contents(place)
    assert run(command.main, *argv) == 2
    printed, said = capsys.readouterr(), said.replace("{p}", str(place))
    assert printed.err.count("\n") == 1 and printed.err.endswith("\n") and said in printed.err, printed.err
    assert "error: " in printed.err and printed.out == ""
    assert contents(place) == before


def test_no_text_on_standard_input(made, capsys, monkeypatch):
    for text in ("", "\n  \n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        assert run(predict.main, "--model", made / "student") == 2
        assert "no text given" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, stdin, said",
    [
        (("finetune", "--model", "m", "--task", "x", "--data-dir", "d", "--output-dir", "o"), b"", "--task: found 'x'"),
        (("distill", "--time-steps", "x"), b"", "--time-steps: found 'x', expected whole numbers"),
        (("predict", "--model", "{student}"), b"caf\xe9\n", "not UTF-8"),
    ],
)
def test_exit_status_and_standard_error_of_a_process(argv, stdin, said, made, tmp_path):
    argv = [a.format(student=made / "student") for a in argv]
    status, out, err = process("-m", f"nanospike.{argv[0]}", *argv[1:], input=stdin, cwd=tmp_path)
    assert (status, out) == (2, "") and err.count("\n") == 1 and said in err, err
    assert contents(tmp_path) == {}


def test_where_the_system_tells_no_memory(made, tmp_path, monkeypatch, capsys):
    """Windows has no module resource: the JSON then says null, as JSON can."""
    monkeypatch.setitem(sys.modules, "resource", None)
    where = ("--task", "sst-2", "--data-dir", made / "data", "--time-steps", 2, "--output-dir")
    assert run(evaluate.main, "--model", made / "student", *where, tmp_path / "scores") == 0
    assert run(distill.main, "--teacher", made / "teacher", "--max-steps", 1, *where, tmp_path / "student") == 0
    assert " s; saved in" in capsys.readouterr().out
    for path in ("scores/eval_results.json", "student/eval_results.json", "student/train_results.json"):
        strict = json.loads((tmp_path / path).read_text(), parse_constant=lambda name: pytest.fail(name))
        assert strict["peak_memory_mb"] is None, path


def test_a_student_of_the_library_can_be_evaluated(tmp_path, made):
    """What student.save writes is a directory for the commands as soon as a tokenizer lies in it."""
    shape = {"vocab_size": len(VOCABULARY), "max_position_embeddings": POSITIONS, "num_labels": 2}
    random_student(dtype="float32", **shape).save(tmp_path / "s")
    shutil.copy(made / "bert" / "vocab.txt", tmp_path / "s")
    argv = ("--model", tmp_path / "s", "--task", "sst-2", "--data-dir", made / "data", "--time-steps", 2)
    assert run(evaluate.main, *argv) == 0
    assert {a["label"] for a in nanospike.predict(tmp_path / "s", ["a joy", "a bore"])} <= {"0", "1"}
