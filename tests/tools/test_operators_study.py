"""tools/operators_study.py: rows that go on with another's students, their figures, and rows that fail."""

import json

import operators_study
import pytest
from tiny import run, write_sst2, write_teacher


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(its arguments, the work directory, the table as JSON)"""
    root = tmp_path_factory.mktemp("study")
    argv = ("--teacher", write_teacher(root / "bert"), "--task", "sst-2", "--data-dir", write_sst2(root / "data"))
    argv += ("--work", root / "work", "--json", root / "table.json", "--batch-size", 14, "--max-steps", 1)
    argv += ("--workers", 1)
    assert run(operators_study.main, *argv, "--seeds", "0,1", "--only", "few,ann") == 0
    return argv, root / "work", json.loads((root / "table.json").read_text())["rows"]


def test_rows_with_seeds_and_what_they_go_on_with(study):
    _, work, rows = study
    assert list(rows) == ["few", "ann"] and not any("failed" in row for row in rows.values())
    means = rows["few"]["summary"]
    assert len(rows["few"]["seeds"]) == 2 and means["equilibrium"][1] is not None
    assert {"T = 1", "T = 16", "gap", "T r", "kB"} <= means.keys()
    assert "T = 4" not in rows["ann"]["summary"] and "T r" not in rows["ann"]["summary"]
    given = json.loads((work / "few-1" / "training_args.json").read_text())
    assert given["init"] == given["teacher"] == str(work / "ternary-1")
    assert (given["weights"], given["few_steps"], given["spikes"]) == ("ternary", [1, 2, 4, 8], "signed")


def test_figures_are_those_of_the_files(study):
    _, work, rows = study
    found, energy = rows["few"]["seeds"][0], json.loads((work / "few-0" / "energy.json").read_text())
    assert found["T r"] == energy["time_steps"]["4"]["t_r"] > 0
    assert found["kB"] == (work / "few-0" / "model.safetensors").stat().st_size / 1000


def test_a_row_that_fails_says_why_in_the_table(study, capsys):
    argv, work, _ = study
    (work / "relu-0.failed").write_text("error: no | luck")
    assert run(operators_study.main, *argv, "--only", "relu") == 0
    assert "| relu | failed: error: no / luck |" in capsys.readouterr().out


def test_half_of_a_task_is_refused(tmp_path, capsys):
    assert run(operators_study.main, "--work", tmp_path, "--task", "sst-2") == 2
    assert "--task, --data-dir: found one of them" in capsys.readouterr().err
