"""tools/convergence.py: the gaps that it measures against the student's own, and a picture whose lines are these."""

import json
import math
import xml.etree.ElementTree as ElementTree

import convergence
import numpy as np
import pytest
from models import random_student
from tiny import run

import nanospike
from nanospike.data.tasks import find_task, read_split
from nanospike.data.text import collate, encode
from nanospike.data.tokenizer import load_tokenizer
from nanospike.files.bundled import bundled

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def student(tmp_path):
    """A random student with the bundled tokenizer, on disk: changes of its configuration -> directory."""

    def made(**changes):
        pieces = load_tokenizer(bundled("teacher")).get_vocab_size()
        made = random_student(0, dtype="float32", vocab_size=pieces, max_position_embeddings=64, **changes)
        made.directory = bundled("teacher")
        made.save(tmp_path / "student")
        return tmp_path / "student"

    return made


def test_the_gaps_are_those_of_a_simulation(student, tmp_path, capsys):
    where = student(spikes="binary")
    argv = ("--model", where, "--examples", 3, "--time-steps", "1,4", "--json", tmp_path / "gaps.json")
    assert run(convergence.main, *argv) == 0
    found = json.loads((tmp_path / "gaps.json").read_text(encoding="utf-8"))
    assert "svg" not in found["options"] and set(found["equilibrium_gap"]) == set(convergence.WAYS)
    model = nanospike.load_student(where)
    texts = read_split(find_task("opinions"), bundled("text"), "dev").texts[:3]
    batch = collate(encode(load_tokenizer(where), texts, 128), range(3))
    printed = capsys.readouterr().out
    settled = model.equilibrium(batch.input_ids, batch.attention_mask).hidden_states[-1]
    for way, (drive, spikes, initial) in convergence.WAYS.items():
        for t, gap in found["equilibrium_gap"][way].items():
            options = {"drive": drive, "spikes": spikes, "initial": initial}
            simulated = model.simulate(batch.input_ids, batch.attention_mask, time_steps=int(t), **options)
            distance = np.abs(simulated.rates[f"encoder.{model.config.num_hidden_layers - 1}.output"] - settled)
            assert gap == pytest.approx(distance[batch.attention_mask.astype(bool)].mean(), rel=1e-5), (way, t)
        assert f"| {way} | {found['equilibrium_gap'][way]['1']:.4f} |" in printed


def test_the_picture_shows_every_gap_on_its_axes(student, tmp_path):
    where = student(spikes="signed")
    argv = ("--model", where, "--examples", 2, "--time-steps", "1,2,8", "--svg", tmp_path / "a.svg")
    assert run(convergence.main, *argv) == 0
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert any(text.startswith("differential 0.") for text in texts) and not any("corrective" in t for t in texts)
    found = {"one": {1: 0.5, 2: 0.25, 4: 0.125}, "two": {1: 0.05, 2: 0.05, 4: 0.05}}
    lines = ElementTree.fromstring(convergence.picture(found)).iter(f"{SVG}polyline")
    lines = [[tuple(map(float, p.split(","))) for p in line.get("points").split()] for line in lines]
    guide, falling, level = lines[-3:]
    assert guide == [falling[0], falling[-1]] and len({y for _, y in level}) == 1  # 0.5, 0.25, 0.125 do fall as 1/T
    (x0, y0), (x1, y1), (x2, y2) = falling
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and y1 - y0 == pytest.approx(y2 - y1, abs=0.2)
    decade = (convergence.HEIGHT - convergence.BOTTOM - convergence.TOP) / 2  # from 0.01 to 1
    assert level[0][1] - y0 == pytest.approx(decade, abs=0.2)
    assert y1 - y0 == pytest.approx(decade * math.log10(2), abs=0.2)


def test_shifts_have_the_differential_drive_alone(student, tmp_path):
    argv = ("--model", student(operators="shift"), "--examples", 1, "--time-steps", 2, "--json", tmp_path / "a.json")
    assert run(convergence.main, *argv) == 0
    found = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["equilibrium_gap"]
    assert list(found) == ["differential", "differential, corrective spikes"]


def test_an_ordinary_bert_has_no_rates(student, capsys):
    assert run(convergence.main, "--model", student(activation="ann")) == 2
    assert "it has no spiking rates" in capsys.readouterr().err
