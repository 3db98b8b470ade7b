"""tools/adjoint_study.py runs, and its numbers hang together."""

import json
import runpy
from pathlib import Path

import pytest
from models import random_student
from tiny import run, write_sst2, write_teacher

from nanospike import distill

TOOL = Path(__file__).resolve().parents[2] / "tools" / "adjoint_study.py"
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


def test_a_trained_student_on_the_text_of_its_task(study, tmp_path, capsys):
    teacher, data, model = write_teacher(tmp_path / "bert"), write_sst2(tmp_path / "data"), tmp_path / "student"
    argv = ("--teacher", teacher, "--task", "sst-2", "--data-dir", data, "--output-dir", model, "--looped")
    assert run(distill.main, *argv, "--encoders", 1, "--time-steps", 2, "--epochs", 2, "--v-th", 2) == 0
    capsys.readouterr()
    where = ["--model", str(model), "--data-dir", str(data), "--repeats", "1"]
    study([*where, "--json", str(tmp_path / "rows.json")])
    found = json.loads((tmp_path / "rows.json").read_text())["rows"]
    gmres = [row for row in found if row["solver"] == "gmres"]
    assert [row["rtol"] for row in gmres] == [0.1, 1e-4, 1e-6]
    assert gmres[0]["sweeps"] < gmres[2]["sweeps"] and gmres[0]["error"] > gmres[2]["error"]
    assert gmres[2]["error"] < 1e-4 and all(row["residual"] <= row["rtol"] for row in gmres[:2])
    errors = {row["solver"]: row["error"] for row in found}
    assert errors["one-step"] > errors["library-gmres"] and errors["anderson"] < 1e-3
    assert len({row["solver"] for row in found}) == len(found) - 2 == len(capsys.readouterr().out.splitlines()) - 3
    study(
        [*where, "--solvers", "gmres", "--rtols", "1e-12", "--dtype", "float64", "--json", str(tmp_path / "rows.json")]
    )
    assert json.loads((tmp_path / "rows.json").read_text())["rows"][-1]["error"] < 1e-10


@pytest.mark.parametrize("more, said", [((), "--data-dir: needs --model"), (("--model", "absent"), "absent")])
def test_text_that_cannot_be_studied(more, said, study, tmp_path, capsys):
    with pytest.raises(SystemExit):
        study(["--data-dir", str(tmp_path), *more])
    assert said in capsys.readouterr().err
