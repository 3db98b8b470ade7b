"""A close look at a student, and its pictures: what they show is what the student does."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
import tiny
from tiny import run

import nanospike
from nanospike import report
from nanospike.data.text import Encoded, collate
from nanospike.model import bert
from nanospike.results import charts
from nanospike.results.look import SENTENCE, look_at
from nanospike.results.populations import audit_bar, gap_map, rate_bars
from nanospike.results.sentence import attention_maps, raster

TEXTS = ([2, 9, 8, 3], [2, 7, 8, 9, 10, 11, 3], [2, 5, 3])  # the second is nearest to SENTENCE


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(teacher, student) of two encoders, signed, in a directory with a vocabulary."""
    at = tmp_path_factory.mktemp("look")
    tiny.write_teacher(at / "teacher", mixing=3)
    teacher = nanospike.load_teacher(at / "teacher")
    shape = vars(teacher.config) | {"spikes": "signed"}
    student = nanospike.init_student(shape, teacher=teacher, seed=0)
    student.save(at / "student")
    (at / "student/vocab.txt").write_text((at / "teacher/vocab.txt").read_text())
    return teacher, nanospike.load_student(at / "student")


@pytest.fixture(scope="module")
def seen(made):
    teacher, student = made
    data = Encoded(list(map(np.array, TEXTS)), [np.zeros(len(t), int) for t in TEXTS])
    return look_at(student, data, teacher, time_steps=(1, 3)), collate(data, np.arange(3))


def test_the_look_is_what_the_student_does(made, seen):
    teacher, student = made
    look, batch = seen
    assert len(look.tokens) == 7 <= SENTENCE and (look.tokens[0], look.tokens[-1]) == ("[CLS]", "[SEP]")
    inputs = (batch.input_ids, batch.attention_mask)
    settled = student.equilibrium(*inputs)
    assert look.population == "encoder.1.output" and look.spikes.shape == (3, 7, 8)
    np.testing.assert_allclose(
        look.spikes.mean(axis=0), student.simulate(*inputs, time_steps=3).rates[look.population][1, :7]
    )
    assert list(look.gaps) == bert.populations(student.config) and all(list(g) == [1, 3] for g in look.gaps.values())
    real = batch.attention_mask.astype(bool)
    rates = student.simulate(*inputs, time_steps=3).rates["encoder.0.key"]
    wanted = np.abs(rates - settled.rates["encoder.0.key"])[real].mean()
    assert look.gaps["encoder.0.key"][3] == pytest.approx(wanted, rel=1e-5)
    size = np.abs(settled.rates["encoder.0.intermediate"][real])
    found = look.rates["encoder.0.intermediate"]
    assert found["rate"] == pytest.approx(size.mean(), rel=1e-5)
    assert found["dead"] == (size.max(axis=0) == 0).mean() and found["saturated"] == (size.min(axis=0) == 1).mean()
    scores = teacher(*inputs).attention_scores[-1][1, :, :7, :7]
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    np.testing.assert_allclose(look.attention["teacher"], (weights / weights.sum(-1, keepdims=True)).mean(0), rtol=1e-4)
    np.testing.assert_allclose(look.attention["student"].sum(axis=1), 1, rtol=1e-5)
    assert set(look.costs["time_steps"]) == {"1", "3"} and look.costs["teacher"]["sop_pj"] > 0


def elements(picture):
    """[(tag, element)] of a picture, and its rows as CSV would give them back."""
    return [(e.tag.rpartition("}")[2], e) for e in ElementTree.fromstring(picture.svg).iter()]


def test_every_spike_is_one_mark(seen):
    look, _ = seen
    picture = raster(look)
    marks = {e.get("class"): e.get("d").count("M") for tag, e in elements(picture) if tag == "path"}
    assert marks == {"spiking": (look.spikes == 1).sum(), "equilibrium": (look.spikes == -1).sum()} and all(
        marks.values()
    )
    head, *rows = picture.rows
    assert head == ("neuron", *look.tokens) and sorted(row[0] for row in rows) == list(range(8))
    fired = [sum(cell.count("+") + cell.count("-") for cell in row[1:]) for row in rows]
    assert fired == sorted(fired, reverse=True), "the neurons that fire most are at the top"
    for neuron, *cells in rows:
        for token, cell in enumerate(cells):
            assert [{"+": 1, "-": -1, ".": 0}[c] for c in cell] == look.spikes[:, token, neuron].tolist()


def test_long_texts_are_cut_and_say_so(seen):
    look, _ = seen
    long = replace(look, tokens=["x"] * 90, spikes=np.tile(look.spikes[:, :1], (1, 90, 200)))
    picture = raster(long)
    assert "the first 48 tokens" in picture.svg and "96 of 1600 neurons" in picture.svg and len(picture.rows) == 97
    assert len(picture.rows[1]) == 49
    assert attention_maps(replace(long, attention={"teacher": None, "student": np.ones((90, 90)) / 90}))


def test_attention_is_a_cell_for_each_pair(seen):
    look, _ = seen
    cells = [e for tag, e in elements(attention_maps(look)) if tag == "rect"]
    assert len(cells) == 2 * 7 * 7
    most = max(w.max() for w in look.attention.values())
    shades = np.array([float(e.get("fill-opacity")) for e in cells]).reshape(2, 7, 7)
    np.testing.assert_allclose(shades[0], look.attention["teacher"] / most, atol=1e-3)
    np.testing.assert_allclose(shades[1], look.attention["student"] / most, atol=1e-3)
    alone = attention_maps(replace(look, attention=look.attention | {"teacher": None}))
    assert len([e for tag, e in elements(alone) if tag == "rect"]) == 49 and len(alone.rows) == 8


def test_populations_have_a_row_each(seen):
    look, _ = seen
    gaps, rates = gap_map(look.gaps), rate_bars(look.rates)
    assert gaps.rows[1:] == [(n, *g.values()) for n, g in look.gaps.items()]
    assert rates.rows[1:] == [(n, r["rate"], r["dead"], r["saturated"]) for n, r in look.rates.items()]
    bars = [float(e.get("width")) for tag, e in elements(rates) if tag == "rect" and e.get("class") == "spiking"]
    sizes = [r["rate"] for r in look.rates.values()]
    np.testing.assert_allclose(np.array(bars) / max(bars), np.array(sizes) / max(sizes), atol=1e-3)
    assert not gap_map({}) and not rate_bars({}) and not rate_bars({"a": {"rate": None, "dead": 0, "saturated": 0}})
    assert gap_map({"a": {1: 0.0}}) and rate_bars({"a": {"rate": 0.0, "dead": 1.0, "saturated": 0.0}})


def test_the_audit_s_bar_is_whole(seen):
    look, _ = seen
    bars = [e for tag, e in elements(audit_bar(look.costs)) if tag == "rect" and float(e.get("height")) > 20]
    assert sum(float(e.get("width")) for e in bars) == pytest.approx(760, abs=0.1)
    assert float(bars[0].get("width")) == pytest.approx(760 * sum(
        r["share"] for r in look.costs["audit"] if r["kind"] == "spike-driven"), abs=0.1)  # fmt: skip
    assert not audit_bar({})


COSTS = {
    "task": "sst-2",
    "metric": "accuracy",
    "time_steps": {
        "1": {"sop_pj": 1e7, "memory_pj": 1e8, "accuracy": 0.8},
        "4": {"sop_pj": 1e8, "memory_pj": 1e9, "accuracy": 0.9},
    },
    "teacher": {"sop_pj": 1e9, "memory_pj": 1e9, "accuracy": 0.92},
    "ann": {"sop_pj": 1e8, "memory_pj": 5e8, "accuracy": None},
    "ann_int8": {"sop_pj": 1e7, "memory_pj": 2e8, "accuracy": 0.7},
}


def test_the_trade_off_has_a_curve_for_each_accounting():
    picture = charts.tradeoff(COSTS)
    found = elements(picture)
    dots = [e for tag, e in found if tag == "circle"]
    at = {c: [float(e.get("cx")) for e in dots if e.get("class") == c] for c in ("spiking", "equilibrium")}
    decade = at["spiking"][1] - at["spiking"][0]
    assert at["equilibrium"] == pytest.approx([at["spiking"][0] + decade, at["spiking"][1] + decade], abs=0.02)
    lines = [e for tag, e in found if tag == "polyline" and "dashed" in e.get("class")]
    assert len(lines) == 2, "an ordinary BERT without a score is a line at its energy, once for each accounting"
    assert float(lines[0].get("points").split(",")[0]) == pytest.approx(at["spiking"][1], abs=0.02)
    squares = [e for tag, e in found if tag == "rect"]
    assert [e.get("class") for e in squares] == ["spiking", "teacher", "equilibrium", "teacher"]
    assert picture.rows[1] == ("student", 1, 0.8, 10.0, 100.0) and picture.rows[-1][0] == "teacher"
    unscored = {t: row | {"accuracy": None} for t, row in COSTS["time_steps"].items()}
    assert not charts.tradeoff(COSTS | {"time_steps": unscored})
    assert charts.tradeoff(COSTS | {"teacher": None})


def test_the_command_draws_a_page_whose_csv_is_the_data(made, capsys):
    teacher, student = made
    directory, text = student.directory, "the soup was <b>cold</b> , again"
    argv = (
        directory,
        "--teacher",
        teacher.directory,
        "--text",
        text,
        "--population",
        "encoder.0.key",
        "--time-steps",
        "1,2",
    )
    assert run(report.main, *argv) == 0
    assert capsys.readouterr().out.strip() == str(directory / "report.html")
    page = (directory / "report.html").read_text()
    assert "<script" not in page and "<b>" not in page and not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "spikes of encoder.0.key" in page and ">teacher</text>" in page and "hybrid" in page
    tables = [list(csv.reader(io.StringIO(unescape(t)))) for t in re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)]
    heads = [table[0][0] for table in tables]
    assert heads == ["population", "population", "neuron", "model", "operation"], heads
    assert tables[2][0][1:6] == ["[CLS]", "the", "soup", "was", "[UNK]"] and tables[2][0][-1] == "[SEP]"
    (directory / "eval_results.json").write_text(json.dumps({"task": "x", "spiking": {"1": 0.5, "2": 0.75}}))
    (directory / "energy.json").write_text(json.dumps(COSTS | {"audit": [], "words": "hybrid", "audit_time_steps": 1}))
    assert run(report.main, directory, "--time-steps", 2) == 0
    page = (directory / "report.html").read_text()
    assert "against energy" in page and ">teacher</text>" not in page.split("attention of")[1]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "the following arguments are required: DIR"),
        (("a", "b"), "unrecognized arguments: b"),
        (
            ("{p}", "--text", "x", "--population", "encoder.9.key"),
            "--population: found 'encoder.9.key', expected one of embedding",
        ),
        (("{p}", "--time-steps", "0"), "--time-steps: found [0]"),
        (("nowhere",), "nowhere: no such directory"),
    ],
)
def test_bad_options_are_one_line(made, argv, words, capsys):
    argv = [a.replace("{p}", str(made[1].directory)) for a in argv]
    assert run(report.main, *argv) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_an_ordinary_bert_has_no_spikes_to_look_at(made, tmp_path, capsys):
    teacher, _ = made
    ann = nanospike.init_student(vars(teacher.config) | {"activation": "ann"}, teacher=teacher)
    ann.save(tmp_path)
    assert run(report.main, tmp_path) == 0 and "no spiking neurons" in (tmp_path / "report.html").read_text()
    assert run(report.main, tmp_path, "--text", "x") == 2
    assert "--text: " in capsys.readouterr().err
