"""The commands on files of one's own: from a CSV to a spiking classifier, a regression, a teacher without labels."""

import csv
import json
import shutil

import numpy as np
import pytest
from tiny import DEV, TRAIN, contents, edit_json, run, write_teacher

import nanospike
from nanospike import distill, evaluate, finetune
from nanospike.data.own import own_data
from nanospike.data.text import collate, encode
from nanospike.data.tokenizer import load_tokenizer
from nanospike.training.loop import Run

LEARN = ("--batch-size", 7, "--epochs", 6, "--learning-rate", 3e-3, "--log-every", 20, "--workers", 1)
FEW = ("--time-steps", "2,8")
WORDS = {"0": "bad", "1": "good"}
YEARS = {"0": 1980.5, "1": 2020.5}


def rows(text, names):
    return [(t, names[label]) for label, _, t in (line.partition("\t") for line in text.splitlines())]


def write_csv(path, pairs, header=("text", "label")):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *pairs])
    return path


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with files, a BERT, and a teacher and a student of words and of years."""
    root = tmp_path_factory.mktemp("own")
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    write_teacher(root / "bert", seed=4, pooler=False, mixing=4, hidden_size=16, intermediate_size=32, **still)
    for name, names in (("words", WORDS), ("years", YEARS)):
        write_csv(root / f"{name}.csv", rows(TRAIN, names))
        write_csv(root / f"{name}-dev.csv", rows(DEV, names))
    (root / "texts.txt").write_text("\n".join(t for t, _ in rows(TRAIN, WORDS)))
    for name, more in (("words", ()), ("years", ("--regression",))):
        data = ("--train-file", root / f"{name}.csv", "--dev-file", root / f"{name}-dev.csv")
        out = ("--output-dir", root / f"{name}-teacher")
        assert run(finetune.main, "--model", root / "bert", *data, *more, *out, *LEARN) == 0
        argv = ("--teacher", root / f"{name}-teacher", *data, "--output-dir", root / f"{name}-student")
        assert run(distill.main, *argv, *LEARN, *FEW) == 0
    return root


def teacher_logits(directory, texts):
    data = encode(load_tokenizer(directory), texts, 16)
    batch = collate(data, np.arange(len(data)))
    return nanospike.load_teacher(directory)(batch.input_ids, batch.attention_mask, batch.token_type_ids).logits


def test_words_become_classes_that_every_model_names(made):
    for directory in ("words-teacher", "words-student"):
        config = read(made / directory / "config.json")
        assert config["id2label"] == {"0": "bad", "1": "good"} and config["label2id"] == {"bad": 0, "good": 1}
        assert "target" not in config
    results = read(made / "words-teacher" / "eval_results.json")
    texts, labels = zip(*rows(DEV, WORDS), strict=True)
    said = np.array(["bad", "good"])[teacher_logits(made / "words-teacher", texts).argmax(axis=1)]
    assert results["teacher"] == np.mean(said == labels) > 0.6 and results["examples"] == len(texts)
    assert results["metrics"]["teacher"].keys() == {"accuracy", "macro_f1", "matthews"}
    table = np.array(results["confusion"]["teacher"])
    expected = [[np.sum((said == c) & (np.array(labels) == r)) for c in ("bad", "good")] for r in ("bad", "good")]
    assert table.tolist() == expected
    answers = nanospike.predict(made / "words-student", list(texts), time_steps=8)
    right = np.mean([a["label"] == label for a, label in zip(answers, labels, strict=True)])
    assert read(made / "words-student" / "eval_results.json")["spiking"]["8"] == right


def test_a_student_is_scored_on_a_file_and_answers_another(made, tmp_path, capsys):
    texts = [t for t, _ in rows(DEV, WORDS)][:4]
    test = write_csv(tmp_path / "test.csv", [(f"row {3 * i}", t) for i, t in enumerate(texts)], ("index", "text"))
    argv = ("--model", made / "words-student", "--dev-file", made / "words-dev.csv", "--test-file", test, *FEW)
    assert run(evaluate.main, *argv, "--output-dir", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "words-dev.csv, accuracy, 12 examples" in printed and "confusion, T = 8" in printed and "macro_f1" in printed
    assert printed.partition("all others at")[2].count("accuracy") == 1  # it heads the table, and its rows hold it
    assert "only 12 examples: a score has a standard error of about " in printed
    results, trained = (read(d / "eval_results.json") for d in (tmp_path / "out", made / "words-student"))
    for key in ("spiking", "equilibrium", "confusion"):
        if key == "confusion":
            trained[key].pop("teacher")
        assert results[key] == trained[key]
    lines = (tmp_path / "out" / "predictions.tsv").read_text().splitlines()
    said = [a["label"] for a in nanospike.predict(made / "words-student", texts, time_steps=8)]
    assert lines == ["index\tprediction", *(f"row {3 * i}\t{label}" for i, label in enumerate(said))]
    assert results["predictions"] == {"test": "predictions.tsv"} and "metric" not in results["test"]


def test_a_test_file_with_labels_is_scored_too(made, capsys):
    argv = ("--model", made / "words-student", "--test-file", made / "words-dev.csv", *FEW)
    assert run(evaluate.main, *argv) == 0
    spiking = read(made / "words-student" / "eval_results.json")["spiking"]
    printed = capsys.readouterr().out
    assert f"T = 2{' ' * 21}{100 * spiking['2']:6.2f} %" in printed and "confusion, T = 8" in printed


def test_a_regression_answers_in_the_unit_of_its_labels(made, tmp_path, capsys):
    texts, years = zip(*rows(DEV, YEARS), strict=True)
    logits = teacher_logits(made / "years-teacher", texts)[:, 0]
    results = read(made / "years-teacher" / "eval_results.json")
    assert 1960 < logits.min() and logits.max() < 2040 and np.ptp(logits) > 5
    found = results["metrics"]["teacher"]
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((logits - years) ** 2)), rel=1e-5) and found["rmse"] < 25
    assert results["metric"] == "pearson" and "confusion" not in results
    config = read(made / "years-student" / "config.json")
    trained = [y for _, y in rows(TRAIN, YEARS)]
    assert config["target"] == {"mean": np.mean(trained), "deviation": pytest.approx(np.std(trained))}
    answers = nanospike.predict(made / "years-student", list(texts), time_steps=8)
    assert all(a["label"] is None and 1940 < a["score"] < 2060 for a in answers)
    argv = ("--model", made / "years-student", "--dev-file", made / "years-dev.csv", "--test-file", made / "years.csv")
    assert run(evaluate.main, *argv, *FEW, "--output-dir", tmp_path / "out") == 0
    results = read(tmp_path / "out" / "eval_results.json")
    scores = [a["score"] for a in answers]
    assert results["metrics"]["spiking"]["8"]["rmse"] == pytest.approx(
        np.sqrt(np.mean((np.array(scores) - years) ** 2))
    )
    assert "rmse" in capsys.readouterr().out and results["test"]["metrics"]["spiking"]["8"]["rmse"] > 0
    written = [float(x.split("\t")[1]) for x in (tmp_path / "out" / "predictions.tsv").read_text().splitlines()[1:]]
    assert len(written) == len(trained) and min(written) > 100


def test_a_teacher_that_knows_the_task_needs_no_labels(made, tmp_path, capsys):
    argv = ("--teacher", made / "words-teacher", "--train-file", made / "texts.txt", "--output-dir", tmp_path / "out")
    assert run(distill.main, *argv, *LEARN, *FEW) == 0
    results = read(tmp_path / "out" / "eval_results.json")
    assert results["metric"] == "agreement_with_teacher" and results["teacher"] is None
    assert "texts.txt, agreement_with_teacher, 2 examples" in capsys.readouterr().out
    student, teacher = (nanospike.load_student(tmp_path / "out"), made / "words-teacher")
    held = own_data(distill.Distill(train_file=made / "texts.txt"), student, need_labels=False)[1]["dev"].texts
    said = teacher_logits(teacher, held).argmax(axis=1)
    answers = nanospike.predict(tmp_path / "out", held, time_steps=8)
    same = np.mean([a["label"] == ("bad", "good")[s] for a, s in zip(answers, said, strict=True)])
    assert results["spiking"]["8"] == same
    assert read(tmp_path / "out" / "config.json")["id2label"] == {"0": "bad", "1": "good"}


def test_the_same_tenth_is_held_out_by_every_command(made, tmp_path):
    data = ("--train-file", made / "words.csv")
    argv = ("--model", made / "bert", *data, "--output-dir", tmp_path / "t", *LEARN, "--max-steps", 1, "--seed", 5)
    assert run(finetune.main, *argv) == 0
    argv = ("--teacher", tmp_path / "t", *data, "--output-dir", tmp_path / "s", *LEARN, "--max-steps", 1, *FEW)
    assert run(distill.main, *argv) == 0
    argv = ("--model", tmp_path / "s", "--teacher", tmp_path / "t", *data, *FEW, "--output-dir", tmp_path / "e")
    assert run(evaluate.main, *argv) == 0
    first, second, third = (read(tmp_path / d / "eval_results.json") for d in "tse")
    assert first["teacher"] == second["teacher"] == third["teacher"] and first["examples"] == 2
    assert second["equilibrium"] == third["equilibrium"] and second["confusion"] == third["confusion"]


def test_class_weights_shift_the_answers(made, tmp_path):
    data = ("--train-file", made / "words.csv", "--dev-file", made / "words-dev.csv")
    answered = {}
    for name, weights in (("plain", ()), ("good", ("--class-weights", "1,500"))):
        argv = ("--model", made / "bert", *data, "--output-dir", tmp_path / name, *LEARN, "--max-steps", 6, *weights)
        assert run(finetune.main, *argv) == 0
        table = read(tmp_path / name / "eval_results.json")["confusion"]["teacher"]
        answered[name] = table[0][1] + table[1][1]
    assert answered["good"] == 12 > answered["plain"]
    argv = ("--teacher", made / "words-teacher", *data, *LEARN, *FEW, "--max-steps", 2, "--stages", "prediction")
    labels = ("--logits", 0, "--labels", 1)
    for name, weights in (("a", ()), ("b", ("--class-weights", "balanced")), ("c", ("--class-weights", "1,9"))):
        assert run(distill.main, *argv, *labels, *weights, "--output-dir", tmp_path / name) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]  # the training file has as many of each class
    assert run(distill.main, *argv, "--class-weights", "balanced", "--output-dir", tmp_path / "d") == 2


def test_keep_best_leaves_the_checkpoint_with_the_best_dev_score(made, tmp_path, monkeypatch):
    data = ("--train-file", made / "words.csv", "--dev-file", made / "words-dev.csv")
    scores, saved, whole = iter([0.25, 0.75, 0.75, 0.5, 0.5, 0.5]), [], Run._write

    def noting(self, stage, step, optimizer, summary):
        from dataclasses import replace

        saved.append({n: p.copy() for n, p in self.parameters.items()})
        whole(self, replace(stage, score=lambda: next(scores)), step, optimizer, summary)

    monkeypatch.setattr(Run, "_write", noting)
    argv = ("--model", made / "bert", *data, "--output-dir", tmp_path / "best", *LEARN, "--keep", "best")
    assert run(finetune.main, *argv) == 0
    assert len(saved) == 6
    found = nanospike.load_teacher(tmp_path / "best").parameters()
    assert all(np.array_equal(found[n], saved[1][n]) for n in found)  # the first with 0.75
    assert not all(np.array_equal(found[n], saved[-1][n]) for n in found)
    steps = sorted(p.name for p in (tmp_path / "best" / "checkpoints").iterdir())
    assert steps == ["finetune-0000008", "finetune-0000020", "finetune-0000024"]


def test_keep_best_scores_each_epoch_on_dev(made, tmp_path, capsys):
    data = ("--train-file", made / "years.csv", "--dev-file", made / "years-dev.csv", "--regression")
    argv = ("--model", made / "bert", *data, "--output-dir", tmp_path / "best", *LEARN, "--keep", "best")
    assert run(finetune.main, *argv) == 0
    state = [read(p) for p in (tmp_path / "best" / "checkpoints").glob("*/state.json")]
    best = max(s["score"] for s in state)
    assert read(tmp_path / "best" / "eval_results.json")["teacher"] == pytest.approx(best, abs=1e-5)
    assert f"score {best:.4f}" in capsys.readouterr().err


def test_the_diagnostic_is_answered_by_the_model_of_mnli(made, tmp_path):
    names = ("entailment", "neutral", "contradiction")
    texts = [t for t, _ in rows(DEV, WORDS)]
    pairs = list(zip(texts[:5], texts[5:10], strict=True))
    for folder, lines in (("MNLI", ("test_matched", "test_mismatched")), ("AX", ("test",))):
        (tmp_path / "glue" / folder).mkdir(parents=True)
        for line in lines:
            body = "\n".join(f"{7 + i}\t{a}\t{b}" for i, (a, b) in enumerate(pairs))
            (tmp_path / "glue" / folder / f"{line}.tsv").write_text(f"index\tsentence1\tsentence2\n{body}\n")
    student = nanospike.load_student(made / "words-student")
    config = {k: v for k, v in vars(student.config).items() if k != "num_labels"} | {"num_labels": 3}
    fresh = nanospike.init_student(config, None, seed=1)
    fresh.raw_config = {"id2label": dict(zip("012", names, strict=True))}
    fresh.save(tmp_path / "models" / "mnli")
    for file in ("vocab.txt", "tokenizer.json"):
        if (made / "words-student" / file).exists():
            (tmp_path / "models" / "mnli" / file).write_bytes((made / "words-student" / file).read_bytes())
    argv = ("--model", tmp_path / "models", "--data-dir", tmp_path / "glue", "--split", "test", "--time-steps", 4)
    assert run(evaluate.main, "--task", "all", *argv, "--output-dir", tmp_path / "out") == 0
    found = contents(tmp_path / "out" / "submission")
    assert set(found) == {"MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"} and found["AX.tsv"] == found["MNLI-m.tsv"]
    assert found["AX.tsv"].decode().splitlines()[1].startswith("7\t")


OWN = ("--train-file", "{p}/words.csv")
BAD = {
    "a task and files": (finetune, ("--task", "sst-2", *OWN), "--task: not together with --train-file, your own data"),
    "a directory and files": (distill, ("--data-dir", "{p}", *OWN), "--data-dir: not together with --train-file"),
    "neither": (finetune, (), "missing --task, --data-dir; or give --train-file"),
    "columns of a task": (evaluate, ("--text-column", "x"), "--text-column: for data of your own; give --train-file"),
    "a regression of a task": (distill, ("--regression",), "--regression: for data of your own"),
    "dev alone": (distill, ("--dev-file", "{p}/words-dev.csv"), "--dev-file: needs a --train-file"),
    "a split": (evaluate, ("--split", "train", *OWN), "--split train: of a task; give --dev-file"),
    "texts without labels": (finetune, ("--train-file", "{p}/texts.txt"), "texts without labels; only distill trains"),
    "weights of a regression": (finetune, (*OWN[:1], "{p}/years.csv", "--regression", "--class-weights", "balanced"),
                                "--class-weights: years.csv is a regression"),
    "weights without labels": (distill, (*OWN, "--class-weights", "balanced"), "--labels 0 leaves out"),
    "labels that are not there": (distill, ("--train-file", "{p}/texts.txt", "--labels", 1), "have no labels"),
    "a teacher of years": (distill, ("--train-file", "{p}/words.csv", "--teacher", "{p}/years-teacher"),
                           "words.csv, line 2: label 'good', expected a number"),
    "a student of others": (evaluate, ("--dev-file", "{p}/years-dev.csv"), "line 2: label '2020.5', the classes"),
    "answers without a place": (evaluate, ("--test-file", "{p}/texts.txt"), "--output-dir: needed for the predictions"),
    "a teacher on a test file": (evaluate, ("--test-file", "{p}/texts.txt", "--teacher", "{p}/words-teacher"),
                                 "--teacher: cannot be scored on a --test-file"),
    "a file that is not there": (finetune, ("--train-file", "{p}/none.csv"), "none.csv: No such file"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_go_together_is_one_line(name, made, tmp_path, capsys):
    command, more, said = BAD[name]
    argv = [str(m).format(p=made) for m in more]
    if command is finetune:
        argv += ["--model", str(made / "bert")]
    elif "--teacher" not in argv and command is distill:
        argv += ["--teacher", str(made / "words-teacher")]
    elif command is evaluate:
        argv += ["--model", str(made / "words-student")]
    argv += ["--output-dir", str(tmp_path / "out")] if command is not evaluate else []
    assert run(command.main, *argv) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and said in printed, printed
    assert not (tmp_path / "out").exists()


def test_a_scale_that_cannot_be_is_refused(made, tmp_path):
    shutil.copytree(made / "years-teacher", tmp_path / "t")
    for wrong in ({"mean": 1}, {"mean": 1, "deviation": 0}, {"mean": "x", "deviation": 1}, [1, 2]):
        edit_json(tmp_path / "t" / "config.json", target=wrong)
        argv = ("--teacher", tmp_path / "t", "--train-file", made / "years.csv", "--output-dir", tmp_path / "o")
        assert run(distill.main, *argv) == 2


def test_a_teacher_that_is_worse_than_guessing_is_warned_of(made, tmp_path, capsys):
    """Its classes are those of the labels in another order, and are called LABEL_0 and LABEL_1."""
    write_csv(tmp_path / "numbers.csv", 3 * rows(TRAIN, {"0": "0", "1": "1"}))
    teacher = nanospike.load_teacher(made / "words-teacher")
    logits = teacher_logits(made / "words-teacher", [t for t, _ in rows(TRAIN, WORDS)])
    right = (logits.argmax(axis=1) == [int(line[0]) for line in TRAIN.splitlines()]).mean()
    assert right > 0.7
    for values in teacher.tree["classifier"].values():
        values[...] = values[::-1].copy()
    teacher.raw_config = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}
    teacher.save(tmp_path / "t")
    for file in ("vocab.txt", "tokenizer.json"):
        (tmp_path / "t" / file).write_bytes((made / "words-teacher" / file).read_bytes())
    data = ("--train-file", made / "texts.txt", "--dev-file", tmp_path / "numbers.csv")
    argv = ("--teacher", tmp_path / "t", *data, "--output-dir", tmp_path / "s", "--max-steps", 1, "--time-steps", 2)
    assert run(distill.main, *argv) == 0
    told = f"right on {100 * (1 - right):.1f} % of 84 examples, where guessing is on 50.0 %: are its classes in another"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "head", [{"architectures": ["BertForTokenClassification"]}, {"problem_type": "multi_label_classification"}]
)
def test_a_model_with_a_head_of_another_kind_is_finetuned_to_a_classifier(head, made, tmp_path, capsys):
    shutil.copytree(made / "bert", tmp_path / "bert")
    edit_json(tmp_path / "bert" / "config.json", **head)
    data = ("--train-file", made / "words.csv")
    argv = ("--model", tmp_path / "bert", *data, "--output-dir", tmp_path / "t", *LEARN, "--max-steps", 1)
    assert run(finetune.main, *argv) == 0
    assert "is left out: it does not tell texts apart" in capsys.readouterr().err
    assert nanospike.load_teacher(tmp_path / "t").tree["classifier"]["weight"].shape == (2, 16)  # without a warning
    assert read(tmp_path / "t" / "config.json")["problem_type"] == "single_label_classification"
