"""tools/adjoint_study.py runs, and its numbers hang together."""

import json
import runpy
from pathlib import Path

import pytest
from models import random_student

TOOL = Path(__file__).resolve().parents[1] / "tools" / "adjoint_study.py"
SMALL = ["--batch", "2", "--length", "4", "--repeats", "1"]


@pytest.fixture(scope="module")
def study():
    return runpy.run_path(str(TOOL))["main"]


def test_the_study_of_random_students(study, tmp_path, capsys):
    study([*SMALL, "--gains", "0.5", "--json", str(tmp_path / "rows.json")])
    rows = {row["solver"]: row for row in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    assert rows["gmres"]["converged"] and rows["gmres"]["error"] < 1e-3 and 0 < rows["gmres"]["radius"] < 1
    assert rows["one-step"]["sweeps"] == 1 and rows["one-step"]["error"] > rows["gmres"]["error"]
    assert rows["library-gmres"]["sweeps"] >= rows["gmres"]["sweeps"]
    assert len(capsys.readouterr().out.splitlines()) == len(rows) + 1


def test_a_student_on_disk(study, tmp_path, capsys):
    for feedback, name in ((True, "looped"), (False, "plain")):
        random_student(0, dtype="float32", feedback=feedback).save(tmp_path / name)
    study([*SMALL, "--model", str(tmp_path / "looped"), "--solvers", "gmres"])
    assert "gmres" in capsys.readouterr().out
    for name, message in (("plain", "has no feedback"), ("absent", "absent")):
        with pytest.raises(SystemExit):
            study(["--model", str(tmp_path / name)])
        assert message in capsys.readouterr().err
