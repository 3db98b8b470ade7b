"""Several tasks in one command: what each leaves, what they give together, and what is missing stops it at once."""

import json
import shutil

import numpy as np
import pytest
from tiny import DEV, TRAIN, contents, edit_json, run, write_sst2, write_sts_b, write_teacher

import nanospike
from nanospike import distill, evaluate, finetune
from nanospike.data.tasks import find_task, read_split
from nanospike.data.text import collate, encode
from nanospike.data.tokenizer import load_tokenizer
from nanospike.glue import average, summary, summary_table, task_score

SHORT = ("--batch-size", 7, "--epochs", 1, "--log-every", 2)
NLI = "index\tpromptID\tpairID\tgenre\tb1\tb2\tp1\tp2\tsentence1\tsentence2\tlabel1\tgold_label"
KINDS = ("entailment", "neutral", "contradiction")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def sentences(text):
    return [line.partition("\t")[2] for line in text.splitlines()]


def write_test_file(directory, header, texts):
    rows = [f"{i}\t{text}" for i, text in enumerate(texts)]
    (directory / "test.tsv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def write_mnli(directory):
    directory.mkdir()
    for name, texts in (("train", TRAIN), ("dev_matched", DEV), ("dev_mismatched", DEV[:300])):
        rows = [f"{i}\t0\t0\tg\t\t\t\t\t{t}\tthe tea .\tx\t{KINDS[i % 3]}" for i, t in enumerate(sentences(text=texts))]
        (directory / f"{name}.tsv").write_text("\n".join([NLI, *rows]) + "\n", encoding="utf-8")
    for name, n in (("test_matched", 4), ("test_mismatched", 3)):
        rows = [f"{i}\t0\t0\tg\t\t\t\t\t{t}\tthe tea ." for i, t in enumerate(sentences(DEV)[:n])]
        header = NLI.removesuffix("\tlabel1\tgold_label")
        (directory / f"{name}.tsv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a GLUE directory of three tasks, a BERT, and what finetune and distill made of all of it."""
    root = tmp_path_factory.mktemp("glue")
    write_sst2(root / "data" / "SST-2")
    write_test_file(root / "data" / "SST-2", "index\tsentence", sentences(DEV)[:5])
    texts = sentences(DEV)
    write_sts_b(
        root / "data" / "STS-B", [(a, b, 0.4 * i) for i, (a, b) in enumerate(zip(texts, texts[1:], strict=False))]
    )
    header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
    write_test_file(root / "data" / "STS-B", header, [f"g\tf\t2\t1\tn\tn\t{t}\tthe tea" for t in texts[:3]])
    write_mnli(root / "data" / "MNLI")
    write_teacher(root / "bert", seed=4, pooler=False, mixing=4, hidden_size=16, intermediate_size=32)
    where = ("--task", "all", "--data-dir", root / "data")
    assert run(finetune.main, "--model", root / "bert", *where, "--output-dir", root / "teachers", *SHORT) == 0
    argv = ("--teacher", root / "teachers", *where, "--output-dir", root / "students", "--time-steps", "2,4", *SHORT)
    assert run(distill.main, *argv) == 0
    return root


def test_every_task_has_a_directory_and_all_have_a_summary(made):
    names = {"sst-2", "sts-b", "mnli"}
    for folder, model in (("teachers", "bert"), ("students", "nanospike")):
        assert {p.name for p in (made / folder).iterdir()} == names | {"glue_results.json"}
        whole = read(made / folder / "glue_results.json")
        assert list(whole["tasks"]) == ["sst-2", "sts-b", "mnli"]
        for name in names:
            assert read(made / folder / name / "config.json")["model_type"] == model
            assert whole["tasks"][name]["metrics"] == read(made / folder / name / "eval_results.json")["metrics"]
            assert read(made / folder / name / "training_args.json")["task"] == name
    assert read(made / "students" / "mnli" / "training_args.json")["teacher"] == str(made / "teachers" / "mnli")
    assert (made / "students" / "sts-b" / "report.html").exists()


def test_the_average_is_glue_s(made):
    """The mean over tasks of the mean of a task's metrics; MNLI's is the mean of its two files."""
    whole = read(made / "students" / "glue_results.json")
    tasks, score = whole["tasks"], {}
    score["sst-2"] = tasks["sst-2"]["metrics"]["spiking"]["4"]["accuracy"]
    score["sts-b"] = np.mean([tasks["sts-b"]["metrics"]["spiking"]["4"][m] for m in ("pearson", "spearman")])
    both = tasks["mnli"]["metrics"], tasks["mnli"]["mismatched"]["metrics"]
    score["mnli"] = np.mean([m["spiking"]["4"]["accuracy"] for m in both])
    for name, value in score.items():
        assert tasks[name]["score"]["spiking"]["4"] == pytest.approx(value)
    assert whole["average"]["spiking"]["4"] == pytest.approx(np.mean(list(score.values())))
    assert whole["average"].keys() == {"teacher", "equilibrium", "spiking"}


def test_the_table_has_a_line_per_task(made, capsys):
    results = {n: read(made / "students" / n / "eval_results.json") for n in ("sst-2", "sts-b", "mnli")}
    head, *rows = summary_table(results).splitlines()
    assert head.split() == "task examples metric teacher equilibrium T = 2 T = 4".split()
    assert [row.split()[0] for row in rows] == ["sst-2", "sts-b", "mnli", "average"]
    assert "accuracy, m and mm" in rows[2] and "pearson, spearman" in rows[1]
    assert rows[3].split()[-1] == f"{100 * summary(results)['average']['spiking']['4']:.2f}"


def test_score_of_a_task_by_hand():
    metrics = {"teacher": {"f1": 0.8, "accuracy": 0.6}, "equilibrium": {"f1": 0.5, "accuracy": 0.3}, "spiking": {}}
    assert task_score({"metrics": metrics}) == {
        "teacher": pytest.approx(0.7),
        "equilibrium": pytest.approx(0.4),
        "spiking": {},
    }
    assert average([{"a": 1.0, "b": {"4": 0.0, "8": 1.0}}, {"a": 0.0, "c": 1.0, "b": {"8": 0.0}}]) == {
        "a": 0.5,
        "b": {"8": 0.5},
    }


def test_mnli_reports_both_files(made, capsys):
    where = ("--task", "mnli", "--data-dir", made / "data", "--model", made / "students" / "mnli", "--time-steps", 2)
    assert run(evaluate.main, *where, "--teacher", made / "teachers" / "mnli") == 0
    printed = capsys.readouterr().out
    assert "mnli, accuracy, 12 examples" in printed and "mnli mismatched, accuracy, 10 examples" in printed
    results = read(made / "students" / "mnli" / "eval_results.json")
    assert results["examples"] == 12 and results["mismatched"]["examples"] == 10
    assert results["mismatched"]["equilibrium"] == results["mismatched"]["metrics"]["equilibrium"]["accuracy"]
    assert run(evaluate.main, *where, "--split", "dev_mismatched") == 0
    printed = capsys.readouterr().out
    assert "mnli, accuracy, 10 examples" in printed and "mismatched" not in printed.partition("\n")[2]


def test_all_metrics_are_in_eval_results(made):
    results = read(made / "students" / "sts-b" / "eval_results.json")
    assert results["metrics"].keys() == {"teacher", "equilibrium", "spiking"}
    assert results["metrics"]["spiking"].keys() == {"2", "4"}
    for path in (("teacher",), ("equilibrium",), ("spiking", "4")):
        value, metrics = results, results["metrics"]
        for key in path:
            value, metrics = value[key], metrics[key]
        assert metrics.keys() == {"pearson", "spearman"} and value == pytest.approx(np.mean(list(metrics.values())))


def test_evaluate_on_some_tasks(made, tmp_path, capsys):
    argv = ("--model", made / "students", "--teacher", made / "teachers", "--data-dir", made / "data")
    argv += ("--time-steps", "2,4", "--output-dir", tmp_path / "out", "--task", "sts-b,sst-2")
    assert run(evaluate.main, *argv) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("average")
    found, before = read(tmp_path / "out" / "glue_results.json"), read(made / "students" / "glue_results.json")
    assert list(found["tasks"]) == ["sts-b", "sst-2"]
    assert all(found["tasks"][n] == before["tasks"][n] for n in found["tasks"])


def test_predictions_are_those_of_the_longest_spiking_run(made, tmp_path):
    argv = ("--model", made / "students", "--data-dir", made / "data", "--split", "test", "--time-steps", "2,6")
    assert run(evaluate.main, *argv, "--output-dir", tmp_path / "out", "--task", "all") == 0
    assert not (tmp_path / "out" / "glue_results.json").exists()
    official = {"SST-2.tsv": ("sst-2", ""), "STS-B.tsv": ("sts-b", "")}
    official |= {"MNLI-m.tsv": ("mnli", ""), "MNLI-mm.tsv": ("mnli", "_mismatched")}
    assert {p.name for p in (tmp_path / "out" / "submission").iterdir()} == official.keys()
    for file, (name, variant) in official.items():
        text = (tmp_path / "out" / "submission" / file).read_text()
        assert text == (tmp_path / "out" / name / f"predictions{variant}.tsv").read_text()
        task, directory = find_task(name), made / "students" / name
        examples = read_split(task, made / "data", f"test{variant}", need_labels=False)
        batch = collate(encode(load_tokenizer(directory), examples.texts, 16), np.arange(len(examples.texts)))
        inputs = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        logits = nanospike.load_student(directory).simulate(*inputs, time_steps=6).logits[6]
        header, *rows = [line.split("\t") for line in text.splitlines()]
        assert header == ["index", "prediction"] and [r[0] for r in rows] == [str(i) for i in range(len(logits))]
        if task.labels:
            assert [r[1] for r in rows] == [task.labels[i] for i in logits.argmax(axis=1)]
        else:
            assert [float(r[1]) for r in rows] == pytest.approx(np.clip(logits[:, 0], 0, 5), abs=6e-4)
    results = read(tmp_path / "out" / "mnli" / "eval_results.json")
    assert results["predictions"] == {"test": "predictions.tsv", "test_mismatched": "predictions_mismatched.tsv"}
    assert "metrics" not in results and list(results["equilibrium_gap"]) == ["6"]


def test_predictions_with_a_margin_stop_where_scores_do(made, tmp_path):
    argv = ("--model", made / "students" / "sst-2", "--data-dir", made / "data", "--task", "sst-2", "--margin", 0)
    argv += ("--time-steps", "2,6")
    for split in ("dev", "test"):
        assert run(evaluate.main, *argv, "--split", split, "--output-dir", tmp_path / split) == 0
        assert read(tmp_path / split / "eval_results.json")["mean_time_steps"] == 2


def test_a_regression_runs_to_the_end_whatever_the_margin(made, tmp_path, capsys):
    argv = ("--model", made / "students" / "sts-b", "--data-dir", made / "data", "--task", "sts-b", "--margin", 0)
    assert run(evaluate.main, *argv, "--time-steps", "2,6", "--output-dir", tmp_path / "out") == 0
    assert "warning: --margin: sts-b is a regression" in capsys.readouterr().err
    assert read(tmp_path / "out" / "eval_results.json")["mean_time_steps"] == 6


def test_resuming_where_a_task_was_stopped_before_its_first_checkpoint(made, tmp_path):
    shutil.copytree(made / "students", tmp_path / "out")
    begun = tmp_path / "out" / "mnli"
    for path in begun.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.name == "training_args.json" or path.unlink()
    argv = ("--teacher", made / "teachers", "--task", "all", "--data-dir", made / "data", "--time-steps", "2,4", *SHORT)
    assert run(distill.main, *argv, "--output-dir", tmp_path / "out", "--resume") == 0
    assert (begun / "model.safetensors").read_bytes() == (made / "students" / "mnli" / "model.safetensors").read_bytes()


def test_predictions_of_one_task_and_of_an_ann(made, tmp_path):
    where = ("--task", "sst-2", "--data-dir", made / "data")
    argv = ("--teacher", made / "teachers" / "sst-2", *where, "--student", "ann", *SHORT)
    assert run(distill.main, *argv, "--output-dir", tmp_path / "ann") == 0
    argv = ("--model", tmp_path / "ann", *where, "--split", "test", "--output-dir", tmp_path / "out")
    assert run(evaluate.main, *argv) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"predictions.tsv", "eval_results.json"}
    assert len((tmp_path / "out" / "predictions.tsv").read_text().splitlines()) == 6


def test_resume_goes_on_with_the_task_that_was_interrupted(made, tmp_path):
    shutil.copytree(made / "students", tmp_path / "students")
    shutil.rmtree(tmp_path / "students" / "mnli")  # not begun
    (tmp_path / "students" / "sts-b" / "eval_results.json").unlink()  # trained, but not evaluated
    (tmp_path / "students" / "glue_results.json").unlink()
    edit_json(tmp_path / "students" / "sst-2" / "eval_results.json", examples=99)  # done: it is not done again
    argv = ("--teacher", made / "teachers", "--task", "all", "--data-dir", made / "data", "--time-steps", "2,4", *SHORT)
    assert run(distill.main, *argv, "--output-dir", tmp_path / "students", "--resume") == 0
    found, before = (read(d / "students" / "glue_results.json") for d in (tmp_path, made))
    assert found["tasks"]["sst-2"]["examples"] == 99 and before["tasks"]["sst-2"]["examples"] == 12
    for name, task in before["tasks"].items():
        score = found["tasks"][name]["score"]
        assert score == task["score"], name
    weights = [(d / "students" / "mnli" / "model.safetensors").read_bytes() for d in (tmp_path, made)]
    assert weights[0] == weights[1]


def commands(p):
    data = ("--data-dir", p / "data", "--output-dir", p / "out")
    return {
        finetune: ("--model", p / "bert", *data),
        distill: ("--teacher", p / "teachers", *data),
        evaluate: ("--model", p / "students", *data, "--time-steps", 2),
    }


INIT = ("--init", "{p}/students")
# name: (command, what is spoilt first, options, what the line says)
BAD = {
    "a file is missing": (
        *(finetune, lambda p: (p / "data/STS-B/dev.tsv").unlink(), ("--task", "all")),
        "no dev.tsv in it, nor in its folder STS-B",
    ),
    "a label of the last": (
        *(distill, lambda p: (p / "data/MNLI/dev_mismatched.tsv").write_text(NLI + "\n1\n"), ("--task", "all")),
        "dev_mismatched.tsv, line 2: found 1 columns, expected 12",
    ),
    "no teacher of a task": (
        *(distill, lambda p: shutil.rmtree(p / "teachers/sts-b"), ("--task", "sst-2,sts-b")),
        "teachers/sts-b/config.json: No such file",
    ),
    "a student to begin with is broken": (
        *(distill, lambda p: (p / "students/sts-b/model.safetensors").write_bytes(b"x" * 9), ("--task", "all", *INIT)),
        "students/sts-b/model.safetensors: not a whole safetensors file",
    ),
    "no student of a task": (
        *(evaluate, lambda p: shutil.rmtree(p / "students/mnli"), ("--task", "all")),
        "students/mnli: no such directory",
    ),
    "no test file": (
        *(evaluate, lambda p: (p / "data/STS-B/test.tsv").unlink(), ("--task", "all", "--split", "test")),
        "no test.tsv in it, nor in its folder STS-B",
    ),
    "a list with a stranger": (finetune, None, ("--task", "sst-2,sst-3"), "--task: found 'sst-3', expected one of"),
    "an empty list": (finetune, None, ("--task", ","), "--task: found ',', expected one of"),
    "no folder of GLUE": (
        finetune,
        None,
        ("--task", "all", "--data-dir", "{p}/bert"),
        "found none of the folders SST-2",
    ),
    "not empty": (finetune, None, ("--task", "all", "--output-dir", "{p}/students"), "students: not empty"),
    "nothing to resume": (finetune, None, ("--task", "all", "--resume"), "--resume: {p}/out has no checkpoint"),
    "other options on resume": (
        *(distill, None, ("--task", "all", "--resume", "--output-dir", "{p}/students", "--seed", 5)),
        "--resume: other values of",
    ),
    "a variant that others lack": (evaluate, None, ("--task", "all", "--split", "dev_matched"), "--split: found"),
    "predictions to nowhere": (
        *(evaluate, None, ("--task", "sst-2", "--split", "test", "--teacher", "{p}/teachers/sst-2")),
        "--teacher: cannot be scored on --split test",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_missing_is_one_line_before_anything_is_trained(name, made, tmp_path, capsys):
    command, spoil, more, said = BAD[name]
    shutil.copytree(made, tmp_path / "p")
    if spoil:
        spoil(tmp_path / "p")
    before = contents(tmp_path)
    argv = (*commands(tmp_path / "p")[command], *(str(m).format(p=tmp_path / "p") for m in more))
    assert run(command.main, *argv) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and said.format(p=tmp_path / "p") in printed.err, printed.err
    assert printed.out == "" and contents(tmp_path) == before


@pytest.mark.parametrize(
    "command, argv, said",
    [
        (distill, ("--task", "all", "--data-dir", "d"), "--teacher: needed for --task all: a directory with one in"),
        (evaluate, ("--task", "sst-2,rte", "--data-dir", "d"), "--model: needed for --task sst-2,rte"),
        (distill, ("--task", "all"), "--data-dir: needed for --task all"),
        (
            evaluate,
            ("--task", "sst-2", "--data-dir", "d", "--split", "test"),
            "--output-dir: needed for the predictions",
        ),
    ],
)
def test_what_must_be_given(command, argv, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(command.main, *argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err
    assert contents(tmp_path) == {}
