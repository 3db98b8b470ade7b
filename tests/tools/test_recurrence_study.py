"""tools/recurrence_study.py from end to end: what it trains, goes on with, skips, and says of what failed."""

import json
import runpy
from pathlib import Path

import pytest
from tiny import run, write_sst2, write_teacher

TOOL = Path(__file__).resolve().parents[2] / "tools" / "recurrence_study.py"
SHORT = (
    "--examples",
    20,
    "--epochs",
    "1,1",
    "--batch-size",
    5,
    "--log-every",
    1,
    "--time-steps",
    "2,4",
    "--max-steps",
    3,
)


@pytest.fixture(scope="module")
def tool():
    return runpy.run_path(str(TOOL))


@pytest.fixture(scope="module")
def study(tool, tmp_path_factory):
    """(its arguments, the work directory): a student, a looped one, and one that fails."""
    root = tmp_path_factory.mktemp("study")
    where = ("--teacher", write_teacher(root / "bert"), "--data-dir", write_sst2(root / "data"))
    argv = (*where, "--work", root / "work", *SHORT, "--only", "1,1-looped,3", "--json", root / "table.json")
    assert run(tool["main"], *argv) == 0
    return argv, root / "work"


def test_what_is_measured(study):
    argv, work = study
    found = json.loads(Path(argv[-1]).read_text())
    plain, looped, failed = found["students"]
    assert [r["student"] for r in found["students"]] == ["1", "1-looped", "3"]
    assert looped["parameters"] - plain["parameters"] == looped["loop"] == 8 and plain["loop"] == 0
    assert (plain["forward_sweeps"], plain["adjoint_sweeps"], plain["loop_gain"]) == (1, 0, None)
    assert looped["forward_sweeps"] > 2 and looped["adjoint_sweeps"] >= 1 and 0 < looped["loop_gain"] < 1
    for row in (plain, looped):
        results = json.loads((work / row["student"] / "eval_results.json").read_text())
        assert row["equilibrium"] == results["equilibrium"] and list(row["spiking"]) == ["2", "4"]
        assert row["step_ms"] > 0 and row["peak_memory_mb"] > 20 and row["dropped"] == 0
        given = json.loads((work / row["student"] / "training_args.json").read_text())
        assert (given["stages"], given["attention"], given["max_steps"]) == (["internal", "prediction"], 1, 3)
    assert failed == {"student": "3", "failed": failed["failed"]} and "3 encoders do not divide" in failed["failed"]
    assert list(found["adjoint"]) == ["1-looped"] and {"gmres", "spide"} <= {
        r["solver"] for r in found["adjoint"]["1-looped"]
    }


def test_the_data_is_a_part_of_the_tasks(study):
    argv, work = study
    whole, part = ((d / "train.tsv").read_text().splitlines() for d in (argv[3], work / "data"))
    assert part[0] == whole[0] and len(part) == 21 and len(set(part)) == 21 and set(part) < set(whole)
    assert (work / "data" / "dev.tsv").read_bytes() == (argv[3] / "dev.tsv").read_bytes()


def test_what_is_done_is_not_done_again_and_the_rest_goes_on(study, tool, capsys):
    argv, work = study
    logs = {p: p.read_bytes() for p in work.glob("*.log")}
    before = Path(argv[-1]).read_text()
    (work / "1" / "eval_results.json").unlink()
    assert run(tool["main"], *argv) == 0
    printed = capsys.readouterr()
    assert printed.err == "1: distill ...\n"
    assert "resuming prediction after step 3" in (work / "1.log").read_text()
    assert all(p.read_bytes() == said for p, said in logs.items() if p.name != "1.log")
    rows, again = (json.loads(text)["students"] for text in (before, Path(argv[-1]).read_text()))
    assert rows[1:] == again[1:] and rows[0]["equilibrium"] == again[0]["equilibrium"]
    lines = printed.out.splitlines()
    assert lines[0].startswith("| student | equilibrium | T = 2 | T = 4 | parameters |")
    assert {len(line.split("|")) for line in lines[:5]} == {16}
    assert "| 3 | failed: error: " in printed.out and "Adjoint solvers on 1-looped:" in printed.out


def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_again(study, tool, tmp_path):
    argv, _ = study
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "training_args.json").write_text("{}")
    argv = [*argv[:5], tmp_path, *SHORT, "--only", "1"]
    assert run(tool["main"], *argv) == 0
    assert (tmp_path / "1" / "eval_results.json").exists()


@pytest.mark.parametrize(
    "more, said",
    [
        (("--examples", 10), "its students have other values of --examples"),
        (("--only", "4"), "--only: found '4', expected one of 3, "),
        (("--data-dir", "absent"), "--data-dir"),
    ],
)
def test_what_it_refuses(more, said, study, tool, capsys):
    assert run(tool["main"], *study[0], *more) == 2
    assert said in capsys.readouterr().err
