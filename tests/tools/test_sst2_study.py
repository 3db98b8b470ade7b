"""tools/sst2_study.py from end to end: rows that go on with another's students, and the table of seeds."""

import json

import pytest
import sst2_study
from tiny import CORPUS, run, write_sst2, write_teacher

from nanospike import distill


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(its arguments, the work directory, the table as JSON)"""
    root = tmp_path_factory.mktemp("study")
    (root / "corpus.txt").write_text(CORPUS, encoding="utf-8")
    teacher = write_teacher(root / "bert", num_hidden_layers=3)
    argv = ("--teacher", teacher, "--data-dir", write_sst2(root / "data"))
    general = ("--task", "sst-2", "--stages", "general", "--corpus", root / "corpus.txt", "--time-steps", 2)
    general += ("--operators", "float")
    assert run(distill.main, *argv, *general, "--output-dir", root / "general") == 0
    argv += ("--work", root / "work", "--general", root / "general", "--json", root / "table.json")
    argv += ("--batch-size", 5, "--max-steps", 2)
    assert run(sst2_study.main, *argv, "--only", "distilled,few,ann,labels,general,mask") == 0
    return argv, root / "work", json.loads((root / "table.json").read_text())["rows"]


def test_rows_with_seeds_and_what_they_go_on_with(study):
    _, work, rows = study
    assert list(rows) == ["distilled", "few", "ann", "labels", "general", "mask"]
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
    given = json.loads((work / "general-0" / "training_args.json").read_text())
    assert given["init"] == str(work.parent / "general") and given["stages"] == ["internal", "prediction"]


def test_what_is_done_is_not_done_again(study, capsys):
    argv, work, rows = study
    before = (work / "few-0" / "model.safetensors").stat().st_mtime_ns
    assert run(sst2_study.main, *argv, "--only", "few") == 0
    assert (work / "few-0" / "model.safetensors").stat().st_mtime_ns == before
    assert "distill ..." not in capsys.readouterr().err


def test_what_was_made_with_other_options_is_not_taken_for_done(study, capsys):
    argv, work, _ = study
    assert run(sst2_study.main, *argv, "--only", "ann", "--max-steps", 3) == 2
    assert f"{work / 'ann-0'}: was made with other options than now" in capsys.readouterr().err


def test_the_table_has_a_row_s_own_spikes_in_one_column():
    scores = {f"corrective {t}": [0.5, None] for t in sst2_study.STEPS} | {"seconds": [1, None], "mean_rate": None}
    binary = scores | {f"binary {t}": [0.25, None] for t in sst2_study.STEPS} | {"equilibrium": [0.75, 0.01]}
    rows = {"few": {"seeds": [0], "summary": binary}, "few-corrective": {"seeds": [0], "summary": scores}}
    *_, first, second = sst2_study.markdown(rows).splitlines()
    assert first.split(" | ")[3:12] == ["75.00 ± 1.00", *4 * ["25.00"], *4 * ["50.00"]]
    assert second.split(" | ")[3:12] == ["", *8 * ["50.00"]]


def test_a_row_that_needs_a_student_of_general_text(study, capsys):
    argv, *_ = study
    without = [a for i, a in enumerate(argv) if "--general" not in (a, argv[i - 1])]
    assert run(sst2_study.main, *without, "--only", "general") == 2
    assert "--general: needed for the row general" in capsys.readouterr().err
