"""The model card: a YAML head that the Hub reads, scores that are those of the results, what is hybrid."""

import json
import re
from pathlib import Path

import pytest
from models import random_student, random_teacher

from nanospike.files.bundled import bundled
from nanospike.model.teacher import load_teacher
from nanospike.results.card import origin, write_card

RESULTS = {
    "task": "sst-2",
    "metric": "accuracy",
    "examples": 872,
    "teacher": 0.91,
    "equilibrium": 0.875,
    "spiking": {"2": 0.8, "4": 0.8625},
}


def card(tmp_path, results=RESULTS, costs=None, raw=None, **config):
    student, teacher = random_student(**config), random_teacher()
    student.raw_config, teacher.directory = raw or {}, tmp_path / "teacher"
    teacher.directory.mkdir(exist_ok=True)
    (tmp_path / "my student").mkdir(exist_ok=True)
    write_card(tmp_path / "my student", student, teacher, results, costs)
    return (tmp_path / "my student" / "README.md").read_text(encoding="utf-8")


def test_the_head_says_what_the_hub_reads(tmp_path):
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    _, head, body = card(tmp_path).split("---\n", 2)
    found = yaml.safe_load(head)
    assert found["library_name"] == "nanospike" and found["pipeline_tag"] == "text-classification"
    assert (found["license"], found["base_model"]) == ("unknown", "teacher") and found["metrics"] == ["accuracy"]
    (index,) = found["model-index"]
    assert index["name"] == "my student" and index["results"][0]["dataset"]["name"] == "sst-2"
    values = {m["name"]: (m["type"], m["value"]) for m in index["results"][0]["metrics"]}
    assert values == {n: ("accuracy", v) for n, v in (("equilibrium", 0.875), ("T = 2", 0.8), ("T = 4", 0.8625))}
    assert "# my student" in body


def test_the_head_without_a_yaml_reader(tmp_path):
    lines = card(tmp_path).splitlines()
    assert lines[0] == "---" and lines.index("---", 1) > 10
    assert {"library_name: nanospike", 'license: "unknown"', 'base_model: "teacher"'} <= set(lines)
    assert lines[lines.index('      name: "T = 4"') - 1] == "      value: 0.8625"


def test_the_body_has_use_scores_and_what_is_hybrid(tmp_path):
    costs = {"audit": [{"operation": "x", "kind": "float", "count": 25.0, "share": 0.25, "pj": 1}]}
    text = card(tmp_path, costs=costs, raw={"recommended_time_steps": 4}, spikes="corrective")
    assert 'classify = nanospike.Classifier("my student")' in text
    assert "\n    hf download OWNER/'my student' --local-dir 'my student'\n" in text
    assert "| teacher | 0.9100 |" in text and "| student, T = 4 | 0.8625 |" in text
    assert "Recommended: 4 time steps." in text and "IF, corrective spikes" in text
    assert "queries, softmax, LayerNorm, the embedding's LayerNorm, GELU. It is a hybrid." in text
    assert "25.0 % of its operations (25 a text): floating-point operations on rates." in text


def test_the_path_is_the_one_that_was_given(tmp_path, monkeypatch):
    """From where the command was run, the block runs as it stands; nobody else's directories are in it."""
    monkeypatch.chdir(tmp_path)
    student, teacher = random_student(), random_teacher()
    teacher.directory = tmp_path
    Path("runs/s").mkdir(parents=True)
    write_card(Path("runs/s"), student, teacher, RESULTS)
    text = Path("runs/s/README.md").read_text(encoding="utf-8")
    assert 'nanospike.Classifier("runs/s")' in text and "OWNER/s --local-dir runs/s" in text and "# s\n" in text
    write_card(tmp_path / "runs" / "s", student, teacher, RESULTS)
    text = Path("runs/s/README.md").read_text(encoding="utf-8")
    assert 'nanospike.Classifier("s")' in text and str(tmp_path) not in text


def test_a_student_without_multiplications_is_no_hybrid(tmp_path):
    text = card(tmp_path, operators="shift", weights="ternary")
    assert "Without multiplications" in text and "hybrid." not in text and "Weights: ternary" in text
    text = card(tmp_path, operators="softmax,norm", hidden_act="silu")
    assert "shifts and additions: softmax, norm." in text and "queries, the embedding's LayerNorm, SiLU." in text


def test_baselines_and_students_without_a_task(tmp_path):
    text = card(tmp_path, activation="ann", results=RESULTS | {"spiking": {}})
    assert "Nothing in it spikes" in text and "load_student" in text and "T =" not in text
    unscored = {"task": "general text", "metric": None, "examples": 64, "equilibrium": None, "spiking": {}}
    text = card(tmp_path, headless=True, results=unscored)
    assert "pipeline_tag: feature-extraction" in text and "model-index" not in text and "## Scores" not in text


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, ("unknown", "teacher")),
        ({"_name_or_path": "distilbert/distilbert-base-uncased"}, ("unknown", "distilbert/distilbert-base-uncased")),
        ({"_name_or_path": "/home/me/models/x"}, ("unknown", "teacher")),
    ],
)
def test_where_it_comes_from(given, expected, tmp_path):
    teacher = random_teacher()
    teacher.raw_config, teacher.directory = given, tmp_path / "teacher"
    assert tuple(origin(teacher).values()) == expected
    teacher.directory.mkdir()
    (teacher.directory / "README.md").write_text("---\nlicense: mit\nbase_model: 'a/b'\n---\n# x\nlicense: no\n")
    assert origin(teacher) == {"license": "mit", "base_model": "a/b"}


def test_the_bundled_teacher_is_under_the_project_s_licence():
    assert origin(load_teacher(bundled("teacher")))["license"] == "apache-2.0"


def test_texts_cannot_break_out_of_the_head(tmp_path):
    text = card(tmp_path, results=RESULTS | {"task": 'x"\n---\nlicense: no'})
    head = text.split("\n---\n")[0]
    assert "license: no" not in head.splitlines() and json.dumps('x"\n---\nlicense: no') in head
    assert len(re.findall("^license:", head, re.MULTILINE)) == 1
