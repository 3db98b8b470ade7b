"""tools/anytime_study.py: the rule by hand, and the tool from end to end."""

import json
from dataclasses import replace

import anytime_study
import pytest
from anytime_study import chosen
from models import random_student
from tiny import POSITIONS, VOCABULARY, run, write_sst2, write_teacher


def test_the_margin_loses_at_most_what_is_allowed():
    lines = [
        {"margin": None, "time_steps": 16.0, "score": 0.9},
        {"margin": 0.5, "time_steps": 2.0, "score": 0.88},
        {"margin": 1.0, "time_steps": 4.0, "score": 0.898},
        {"margin": 2.0, "time_steps": 8.0, "score": 0.91},
    ]
    assert chosen(lines, 0.003) == 1.0 and chosen(lines, 0.03) == 0.5 and chosen(lines, 0.0) == 2.0
    assert chosen(lines[:2], 0.0) is None


def test_the_tool(tmp_path, capsys):
    teacher = write_teacher(tmp_path / "bert")
    student = random_student(0, dtype="float32", vocab_size=len(VOCABULARY), max_position_embeddings=POSITIONS)
    student.directory = teacher
    student.save(tmp_path / "student")
    where = ("--model", tmp_path / "student", "--data-dir", write_sst2(tmp_path / "data"))
    argv = (*where, "--examples", 10, "--time-steps", 4, "--json", tmp_path / "out.json")
    assert run(anytime_study.main, *argv) == 0
    assert "(chosen)" in capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["error"]["4"] == 0 < found["error"]["1"] and set(found["error"]) == {"1", "2", "3", "4"}
    for lines in found["curves"].values():
        steps = [line["time_steps"] for line in lines]
        assert steps[0] == 4 and steps[1:] == sorted(steps[1:]) and all(0 <= line["score"] <= 1 for line in lines)
    with pytest.raises(SystemExit):
        anytime_study.main(["--spikes", "no"])
    assert run(anytime_study.main, *where, "--task", "sts-b") == 2
    capsys.readouterr()
    student.config = replace(student.config, activation="ann")
    student.save(tmp_path / "student")
    assert run(anytime_study.main, *where) == 2
    assert "an ordinary BERT: it has no time steps" in capsys.readouterr().err
