"""tools/agreement.py: a student that is its teacher agrees with it; another as often as counting by hand says."""

import json

import agreement
import numpy as np
import pytest
from models import random_student
from tiny import POSITIONS, VOCABULARY, run, write_sst2, write_teacher

import nanospike
from nanospike.data.tasks import find_task, read_split
from nanospike.data.text import encode
from nanospike.data.tokenizer import load_tokenizer


@pytest.fixture
def places(tmp_path):
    teacher = write_teacher(tmp_path / "teacher", mixing=4)
    shape = {"vocab_size": len(VOCABULARY), "max_position_embeddings": POSITIONS, "num_labels": 2}
    for seed in (8, 1):
        random_student(seed, dtype="float32", spikes="signed", **shape).save(tmp_path / f"student-{seed}")
        (tmp_path / f"student-{seed}" / "vocab.txt").write_bytes((teacher / "vocab.txt").read_bytes())
    write_sst2(tmp_path / "data")
    return tmp_path


def answers(logits):
    return [int(np.argmax(row)) for row in logits]


def test_shares_by_hand_and_of_oneself(places, capsys):
    where = ("--data-dir", places / "data", "--split", "dev", "--time-steps", "2", "--json", places / "found.json")
    students = [places / "student-8", places / "student-1"]
    assert run(agreement.main, *students, "--teacher", places / "student-8", *where) == 0
    found = json.loads((places / "found.json").read_text())
    first, second = (nanospike.load_student(s) for s in students)
    texts = read_split(find_task("sst-2"), places / "data", "dev").texts
    data = encode(load_tokenizer(places / "teacher"), texts, 64)
    alone = [(ids[None], np.ones((1, len(ids)), np.int64)) for ids in data.ids]
    said, other = ([answers(s.equilibrium(*one).logits)[0] for one in alone] for s in (first, second))
    assert found[str(students[0])]["equilibrium"] == 1 and len(set(said)) == 2
    runs = [second.simulate(*one, time_steps=2, record=()).logits[2] for one in alone]
    spiking = np.mean([answers(logits)[0] == a for logits, a in zip(runs, said, strict=True)])
    assert found[str(students[1])]["spiking"] == {"2": pytest.approx(spiking)}
    assert found[str(students[1])]["equilibrium"] == pytest.approx(np.mean(np.equal(said, other)))
    assert found[str(students[1])]["metric"] == "agreement_with_teacher"
    assert "student-1: equilibrium" in capsys.readouterr().out


def test_a_file_without_labels(places):
    (places / "data" / "test.tsv").write_text("index\tsentence\n0\ta joy .\n1\ta bore .\n", encoding="utf-8")
    where = ("--data-dir", places / "data", "--time-steps", 2, "--json", places / "found.json")
    assert run(agreement.main, places / "student-1", "--teacher", places / "student-8", *where) == 0
    (found,) = json.loads((places / "found.json").read_text()).values()
    assert found["examples"] == 2 and found["equilibrium"] in (0, 0.5, 1)


def test_students_of_another_vocabulary_are_no_match(places, capsys):
    random_student(0, dtype="float32", vocab_size=50, num_labels=2).save(places / "other")
    where = ("--teacher", places / "teacher", "--data-dir", places / "data", "--split", "dev")
    assert run(agreement.main, places / "other", *where) == 2
    assert "has 50 word pieces, the teacher" in capsys.readouterr().err


def test_without_a_student(places, capsys):
    assert run(agreement.main, "--teacher", places / "teacher", "--data-dir", places / "data") == 2
    assert "no student given" in capsys.readouterr().err
