"""tools/sst2_study.py from end to end: rows that go on with another's students, and the table of seeds."""

import json

import pytest
import sst2_study
from tiny import CORPUS, run, write_sst2, write_teacher


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(its arguments, the work directory, the table as JSON)"""
    root = tmp_path_factory.mktemp("study")
    (root / "corpus.txt").write_text(CORPUS, encoding="utf-8")
    teacher = write_teacher(root / "bert", num_hidden_layers=3)
    argv = ("--teacher", teacher, "--data-dir", write_sst2(root / "data"), "--work", root / "work")
    argv += ("--corpus", root / "corpus.txt", "--json", root / "table.json", "--batch-size", 5, "--max-steps", 2)
    assert run(sst2_study.main, *argv, "--only", "distilled,few,ann,labels,general") == 0
    return argv, root / "work", json.loads((root / "table.json").read_text())["rows"]


def test_rows_with_seeds_and_what_they_go_on_with(study):
    _, work, rows = study
    assert list(rows) == ["distilled", "few", "ann", "labels", "general"]
    assert not any("failed" in row for row in rows.values())
    distilled = rows["distilled"]
    assert len(distilled["seeds"]) == 3 and distilled["summary"]["equilibrium"][1] is not None
    assert {"binary 2", "binary 16", "corrective 4"} <= distilled["summary"].keys()
    assert "binary 4" not in rows["ann"]["summary"] and rows["labels"]["summary"]["equilibrium"][1] is None
    for seed in (0, 1, 2):
        given = json.loads((work / f"distilled-{seed}" / "training_args.json").read_text())
        assert given["seed"] == seed and given["encoders"] == 3
    given = json.loads((work / "few-0" / "training_args.json").read_text())
    assert given["init"] == str(work / "distilled-0") and given["stages"] == ["few-steps"] and given["encoders"] == 3
    results = json.loads((work / "distilled-1-corrective" / "eval_results.json").read_text())
    assert results["spikes"] == "corrective" and distilled["seeds"][1]["corrective 4"] == results["spiking"]["4"]
    stages = [json.loads(x)["stage"] for x in (work / "general-0" / "train_log.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(stages)) == ["general", "internal", "prediction"]


def test_what_is_done_is_not_done_again(study, capsys):
    argv, work, rows = study
    before = (work / "few-0" / "model.safetensors").stat().st_mtime_ns
    assert run(sst2_study.main, *argv, "--only", "few") == 0
    assert (work / "few-0" / "model.safetensors").stat().st_mtime_ns == before
    assert "distill ..." not in capsys.readouterr().err


def test_a_row_that_needs_a_corpus(study, capsys):
    argv, *_ = study
    without = [a for i, a in enumerate(argv) if "--corpus" not in (a, argv[i - 1])]
    assert run(sst2_study.main, *without, "--only", "general") == 2
    assert "--corpus: needed for the row general" in capsys.readouterr().err
