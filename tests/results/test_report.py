"""report.html and the README's chart: what they say, where their points lie, and what they do without."""

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from nanospike.results import charts, drawing
from nanospike.results.drawing import standalone
from nanospike.results.report import write_report

RIGHT, BOTTOM, LOW_BOTTOM = drawing.WIDTH - drawing.RIGHT, drawing.HEIGHT - drawing.BOTTOM, drawing.LOW - drawing.BOTTOM
HALF = (drawing.LEFT + RIGHT) / 2
HOSTILE = "</svg><script>alert('\"&')</script>\x00\ud800"
VOID = {"meta", "link"}
# Ticks of the score's axis: 60, 65 ... 90 (%). T from 2 to 32: 8 lies in the middle of a log axis.
RESULTS = {
    "teacher": 0.9, "task": "sst-2", "metric": "accuracy", "examples": 872, "drive": "differential", "spikes": "binary",
    "equilibrium": 0.85, "spiking": {"2": 0.6, "8": 0.75, "32": 0.8412},
    "equilibrium_gap": {"2": 0.16, "8": 0.05, "32": 0.0123}, "mean_rate": 0.1498, "spiking_mean_rate": 0.1509,
    "seconds": 30.84, "peak_memory_mb": 1403.7, "training": {"internal": {"steps": 40, "loss": 2.0, "seconds": 97.5}},
    "total_seconds": 158.7,
}  # fmt: skip
ANN = {
    "drive": None,
    "spikes": None,
    "spiking": {},
    "equilibrium_gap": {},
    "mean_rate": None,
    "spiking_mean_rate": None,
}
LOG = [
    {"stage": "internal", "step": 20, "loss": 5.0, "mean_rate": 0.1},
    {"stage": "internal", "step": 40, "loss": 2.0, "mean_rate": 0.15},
    {"stage": "prediction", "step": 20, "loss": 0.5, "mean_rate": 0.2},
    {"stage": "prediction", "step": 40, "loss": 0.2, "mean_rate": 0.2},
]
BROKEN = ['{"stage": "predic', "3", "[]", "null", '{"stage": [], "step": 1}', '{"stage": "a", "step": 1e999}']


class Page(HTMLParser):
    """The tags, the texts outside of <style>, and whether every tag is closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.attributes = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def page_of(directory, results, log=LOG, options=None):
    """The report's text, once its HTML and each of its charts parse."""
    if log is not None:
        lines = [line if isinstance(line, str) else json.dumps(line) for line in log]
        (directory / "train_log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    if options is not None:
        (directory / "training_args.json").write_text(json.dumps(options), encoding="utf-8")
    write_report(directory, results)
    text = (directory / "report.html").read_text(encoding="utf-8")
    Page(text)
    return text


def charts_of(text):
    return [Chart(svg) for svg in re.findall("<svg.*?</svg>", text, re.DOTALL)]


class Chart:
    def __init__(self, svg):
        self.elements = [(e.tag.rpartition("}")[2], e) for e in ElementTree.fromstring(svg).iter()]
        self.texts = {e.text: (float(e.get("x")), float(e.get("y"))) for tag, e in self.elements if tag == "text"}
        circles = [e for tag, e in self.elements if tag == "circle"]
        self.points = [(float(e.get("cx")), float(e.get("cy"))) for e in circles]

    def lines(self, kind):
        found = [e.get("points") for tag, e in self.elements if tag == "polyline" and e.get("class") == kind]
        return [[tuple(map(float, pair.split(","))) for pair in points.split()] for points in found]


def test_page_says_what_was_measured(tmp_path):
    text = page_of(tmp_path, RESULTS, options={"seed": 7, "drive": None, "time_steps": [2, 8, 32]})
    words = "|".join(Page(text).words)
    for expected in (
        f"Spiking student {tmp_path.name} on sst-2", "differential drive, binary spikes", "872 examples",
        "90.00 %", "85.00 %", "84.12 %", "0.0123", "0.1498", "0.1509", "97.5 s", "30.8 s", "158.7 s", "1,404 MB",
        "time_steps", "[2, 8, 32]", "null",
    ):  # fmt: skip
        assert expected in words, expected
    assert len(charts_of(text)) == 4


def test_page_needs_nothing_else(tmp_path):
    text = page_of(tmp_path, RESULTS, options={"seed": 7})
    page = Page(text)
    assert not {"script", "img", "iframe", "object"} & set(page.tags)
    assert [v for n, v in page.attributes if n in ("src", "href")] == ["data:,"]
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text)
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert "".join(page.words).count("Options of the run") == 1 and ("open", None) not in page.attributes
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "train_log.jsonl", "training_args.json"]


def test_points_of_the_score_lie_at_their_values(tmp_path):
    chart = charts_of(page_of(tmp_path, RESULTS))[0]
    share = (84.12 - 60) / (90 - 60)
    expected = [
        (drawing.LEFT, BOTTOM),
        (HALF, (BOTTOM + drawing.TOP) / 2),
        (RIGHT, BOTTOM + share * (drawing.TOP - BOTTOM)),
    ]
    assert chart.points == [pytest.approx(point, abs=0.01) for point in expected]
    assert chart.lines("spiking") == [chart.points]
    assert chart.lines("teacher") == [[(drawing.LEFT, drawing.TOP), (RIGHT, drawing.TOP)]]
    (left, y), (right, _) = chart.lines("equilibrium")[0]
    assert (left, right) == (drawing.LEFT, RIGHT) and y == pytest.approx(
        BOTTOM + 25 / 30 * (drawing.TOP - BOTTOM), abs=0.01
    )
    assert [chart.texts[t][0] for t in ("2", "8", "32")] == [drawing.LEFT, HALF, RIGHT]
    assert chart.texts["90"][1] == drawing.TOP + drawing.MIDDLE and chart.texts["60"][1] == BOTTOM + drawing.MIDDLE
    labels = [chart.texts[t] for t in ("teacher 90.00 %", "equilibrium 85.00 %", "spiking 84.12 %")]
    assert all(x > RIGHT for x, _ in labels)
    assert labels[2][1] - labels[1][1] >= drawing.LINE_GAP, "labels of close values are moved apart"


def test_gap_and_its_guide(tmp_path):
    """From 0.005 to 0.2, a factor of 40; the guide from 0.16 at T = 2 to 0.01 at T = 32."""
    chart = charts_of(page_of(tmp_path, RESULTS | {"equilibrium_gap": {"2": 0.16, "8": 0.02, "32": 0.0075}}))[1]
    assert chart.texts["0.2"][1] == drawing.TOP + drawing.MIDDLE and chart.texts["0.005"][1] == BOTTOM + drawing.MIDDLE
    ((left, top), (right, bottom)) = chart.lines("dashed")[0]
    per_factor_of_2 = (bottom - top) / 4
    assert (left, right) == (drawing.LEFT, RIGHT) and chart.points[0] == (left, top)
    assert chart.points[1] == (HALF, pytest.approx(top + 3 * per_factor_of_2, abs=0.02))
    assert {"falling as 1/T", "gap 0.0075"} <= set(chart.texts)


def test_stages_follow_one_another(tmp_path):
    loss, rate = charts_of(page_of(tmp_path, RESULTS))[2:]
    assert [x for x, _ in loss.lines("spiking")[0]] == [(drawing.LEFT + HALF) / 2, HALF]
    assert [x for x, _ in loss.lines("spiking")[1]] == [(HALF + RIGHT) / 2, RIGHT]
    assert loss.lines("dashed") == [[(HALF, drawing.TOP), (HALF, BOTTOM)]]
    assert loss.texts["internal"][0] == drawing.LEFT and loss.texts["prediction"][0] == HALF
    (_, five), (_, two) = loss.lines("spiking")[0]
    (_, half), (_, fifth) = loss.lines("spiking")[1]
    assert two - five == pytest.approx(fifth - half, abs=0.02), "equal factors of the loss are equal distances"
    assert rate.points[-1] == (RIGHT, drawing.TOP), "0.2 is the last tick"
    assert rate.lines("spiking")[0][0][1] == pytest.approx((drawing.TOP + LOW_BOTTOM) / 2)


def test_short_stages_keep_their_names_apart(tmp_path):
    log = [{"stage": s, "step": n, "loss": 1.0} for s, n in (("general", 1), ("internal", 1), ("prediction", 998))]
    texts = charts_of(page_of(tmp_path, RESULTS, log))[2].texts
    places = [texts[s][0] for s in ("general", "internal", "prediction")]
    assert places == [drawing.LEFT, drawing.LEFT + charts.STAGE_GAP, drawing.LEFT + 2 * charts.STAGE_GAP]


@pytest.mark.parametrize(
    ("changes", "log", "pictures"),
    [
        (ANN, LOG, 1),
        (ANN, None, 0),
        ({"teacher": None}, LOG, 4),
        ({"spiking": {"8": 0.8}, "equilibrium_gap": {"8": 0.1}}, LOG, 4),
        ({"equilibrium_gap": {"2": 0.0, "8": 0.0}}, LOG, 3),
        ({"equilibrium": 1.0, "teacher": 1.0, "spiking": {"2": 1.0}, "mean_rate": 0.0}, None, 2),
        ({"spiking": {str(t): 0.5 for t in range(1, 100)}, "metric": "matthews", "teacher": -0.1}, None, 2),
        ({"training": None, "total_seconds": None, "seconds": None, "peak_memory_mb": None}, None, 2),
        ({}, [], 2),
        ({}, [{k: v for k, v in line.items() if k != "mean_rate"} for line in LOG], 3),
        ({}, [line | {"mean_rate": 0.0} for line in LOG], 4),
        ({}, LOG[:1], 4),
        ({}, [*LOG, *BROKEN], 4),
        ({}, [line | {"loss": v} for line, v in zip(LOG, (float("nan"), float("inf"), -1.0, "x"), strict=True)], 3),
        ({}, [{"stage": "internal", "step": 0, "loss": 1e-9}, {"stage": "internal", "step": 0, "loss": 1e9}], 3),
    ],
)  # fmt: skip
def test_missing_pieces(tmp_path, changes, log, pictures):
    text = page_of(tmp_path, RESULTS | changes, log)
    assert len(charts_of(text)) == pictures == text.count("(CSV)") and "Options of the run" not in text
    for chart in charts_of(text):
        for kind in ("spiking", "grid", "dashed", "teacher", "equilibrium"):
            assert all(0 <= x <= RIGHT and 0 <= y <= BOTTOM for line in chart.lines(kind) for x, y in line)


def test_results_may_be_bare(tmp_path):
    page_of(tmp_path, {"task": "rte", "equilibrium": 0.5}, log=None)
    assert charts_of(standalone(charts.accuracy({}).svg))[0].points == []


def test_a_single_t_lies_in_the_middle(tmp_path):
    score, gap = charts_of(page_of(tmp_path, RESULTS | {"spiking": {"8": 0.8}, "equilibrium_gap": {"8": 0.1}}))[:2]
    assert score.points[0][0] == gap.points[0][0] == HALF and gap.lines("dashed") == []


def test_crowded_ticks_are_thinned(tmp_path):
    chart = charts_of(page_of(tmp_path, RESULTS | {"spiking": {str(t): 0.5 for t in range(1, 100)}}))[0]
    places = sorted(x for text, (x, y) in chart.texts.items() if y == BOTTOM + drawing.TICK)
    assert len(chart.points) == 99 and min(b - a for a, b in zip(places, places[1:], strict=False)) >= drawing.TICK_GAP


def test_little_noise_does_not_fill_the_axis(tmp_path):
    chart = charts_of(page_of(tmp_path, {"equilibrium": 0.999, "spiking": {"2": 0.998, "4": 0.999}}))[0]
    ticks = [float(text) for text, (x, _) in chart.texts.items() if x == drawing.LEFT - drawing.BESIDE]
    assert max(ticks) == 100 and max(ticks) - min(ticks) >= charts.LEAST_SPAN / 2


def test_hostile_strings_are_escaped(tmp_path):
    directory = tmp_path / "<b>run&"
    directory.mkdir()
    hostile = {k: HOSTILE for k in ("task", "metric", "drive", "spikes", "examples")}
    training = {HOSTILE: {"seconds": HOSTILE}}
    log = [line | {"stage": HOSTILE} for line in LOG]
    text = page_of(
        directory, RESULTS | hostile | {"training": training}, log, options={HOSTILE: HOSTILE, "b": [HOSTILE]}
    )
    assert not {"script", "b"} & set(Page(text).tags)
    assert len(charts_of(text)) == 4 and "\x00" not in text and "&lt;script&gt;" in text


def test_unreadable_options_are_left_out(tmp_path):
    (tmp_path / "training_args.json").write_text("{")
    assert "Options of the run" not in page_of(tmp_path, RESULTS)


def test_versions_are_said(tmp_path):
    (tmp_path / "config.json").write_text('{"nanospike_version": "0.0.7"}')
    text = page_of(tmp_path, RESULTS)
    assert "0.0.7" in text and np.__version__ in text


def test_failure_leaves_the_old_report(tmp_path):
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(ValueError):
        write_report(tmp_path, RESULTS | {"spiking": {"not a number": 0.5}})
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"] and (tmp_path / "report.html").read_text() == "old"


def test_svg_for_the_readme_stands_alone():
    svg = standalone(charts.accuracy(RESULTS).svg)
    chart = Chart(svg)
    assert "var(" not in svg and drawing.LIGHT["teacher"] in svg
    background = next(e for tag, e in chart.elements if tag == "rect")
    assert (background.get("width"), background.get("height")) == (str(drawing.WIDTH), str(drawing.HEIGHT))
    assert f".paper {{ fill: {drawing.LIGHT['paper']} }}" in svg and len(chart.points) == 3
