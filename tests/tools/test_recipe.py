"""tools/recipe.py: options are those of the tables, what is done stays done, figures are those of the files."""

import json
from pathlib import Path

import average
import pytest
import recipe
from tiny import run, write_sst2, write_teacher

ROOT = Path(__file__).resolve().parents[2]
TINY = """
[all]
task = "sst-2"
data-dir = "{data}"
encoders = 1
batch-size = 14
max-steps = 1
workers = 1
time-steps = [1, 2]

[student]
command = "distill"
says = "a first one"
seeds = [0, 1]
teacher = "{bert}"
spikes = "signed"

[more]
command = "distill"
teacher = "{bert}"
init = "{work}/student-1"
epochs = [2, 1]

[score]
command = "evaluate"
seeds = [1]
model = "{work}/student-{seed}"
task = "sst-2"
data-dir = "{data}"
time-steps = [4]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(its arguments, the work directory, what it wrote as JSON, what it printed)"""
    root = tmp_path_factory.mktemp("recipe")
    bert, data = write_teacher(root / "bert"), write_sst2(root / "data")
    (root / "tiny.toml").write_text(TINY, encoding="utf-8")
    argv = (root / "tiny.toml", "--work", root / "work", "--places", f"bert={bert},data={data}")
    assert run(recipe.main, *argv, "--json", root / "found.json") == 0
    return argv, root / "work", json.loads((root / "found.json").read_text())["runs"]


def test_options_of_a_run_are_those_of_its_table(made):
    _, work, runs = made
    assert list(runs) == ["student-0", "student-1", "more", "score-1"]
    given = {n: json.loads((work / n / "training_args.json").read_text()) for n in ("student-0", "student-1", "more")}
    assert [given[n]["seed"] for n in given] == [0, 1, 0]
    assert all(g["encoders"] == 1 and g["spikes"] == "signed" and g["time_steps"] == [1, 2] for g in given.values())
    assert given["more"]["init"] == str(work / "student-1") and given["more"]["epochs"] == [2, 1]


def test_options_given_are_those_of_every_distill(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    tables = recipe.read_recipe(tmp_path / "tiny.toml", {"device": "cuda", "encoders": "5"})
    told = {name: (table.get("device"), table.get("encoders")) for name, table in tables.items()}
    assert told == {"student": ("cuda", "5"), "more": ("cuda", "5"), "score": (None, None)}
    assert recipe.arguments({"half-steps": False, "fast": True}, {}, "a") == ["--no-half-steps", "--fast"]


def test_options_given_reach_the_runs(made, tmp_path):
    argv, _, _ = made
    given = ("--only", "student", "--options", "max-steps=1,fast=false")
    assert run(recipe.main, argv[0], "--work", tmp_path, *argv[3:], *given) == 0
    for name in ("student-0", "student-1"):
        kept = json.loads((tmp_path / name / "training_args.json").read_text())
        assert (kept["max_steps"], kept["fast"]) == (1, False)


def test_figures_are_those_of_the_files(made):
    _, work, runs = made
    results = json.loads((work / "student-1" / "eval_results.json").read_text())
    found = runs["student-1"]
    assert (found["teacher"], found["equilibrium"]) == (results["teacher"], results["equilibrium"])
    assert [found[f"T = {t}"] for t in (1, 2)] == [results["spiking"][t] for t in ("1", "2")]
    assert found["T r, T = 2"] > 0
    assert found["MB"] == (work / "student-1" / "model.safetensors").stat().st_size / 1e6
    assert runs["score-1"]["equilibrium"] == results["equilibrium"] and "T = 4" in runs["score-1"]
    assert all(entry["loss"] > 0 for entry in found["log"])


def test_what_is_done_is_not_done_again_and_several_seeds_are_a_mean(made, capsys):
    argv, work, runs = made
    before = (work / "student-0" / "eval_results.json").stat().st_mtime_ns
    assert run(recipe.main, *argv, "--only", "student") == 0
    assert (work / "student-0" / "eval_results.json").stat().st_mtime_ns == before
    head, _, line = capsys.readouterr().out.splitlines()
    cells = dict(zip(*([c.strip() for c in row.strip("|").split("|")] for row in (head, line)), strict=True))
    both = [runs[f"student-{s}"]["equilibrium"] for s in (0, 1)]
    assert cells["what"] == "a first one" and cells["equilibrium"].startswith(f"{50 * sum(both):.2f} ±")


def test_a_log_is_thinned_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "LINES", 4)
    lines = [{"stage": "internal", "step": i, "loss": 1.0, "dead": {}} for i in range(1, 11)]
    (tmp_path / "train_log.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    kept = recipe.thinned(tmp_path)
    assert [entry["step"] for entry in kept] == [1, 4, 7, 10] and "dead" not in kept[0]
    assert recipe.thinned(tmp_path / "none") == []


@pytest.mark.parametrize(
    "text, argv, said",
    [
        ('[a]\ncommand = "train"', (), "a: expected a table with a command"),
        ('[a]\ncommand = "distill"\nteacher = "{nowhere}"', (), "no place called 'nowhere'; known: work"),
        ('[a]\ncommand = "distill"', ("--only", "b"), "--only: found b, expected some of a"),
        ('[a]\ncommand = "distill"', ("--places", "glue"), "--places: found 'glue', expected NAME=DIR"),
        ('[a]\ncommand = "distill"', ("--options", "device"), "--options: found 'device', expected NAME=VALUE"),
        ("[a", (), "Expected"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(tmp_path, capsys, text, argv, said):
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    assert run(recipe.main, tmp_path / "r.toml", "--work", tmp_path / "work", *argv) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_a_run_that_fails_is_said_and_the_others_go_on(made, tmp_path, capsys):
    argv, work, _ = made
    (work / "more.failed").write_text("error: no luck")
    (work / "more" / "eval_results.json").rename(work / "more" / "aside")
    assert run(recipe.main, *argv) == 2
    said = capsys.readouterr()
    assert "1 of 4 runs failed: more: error: no luck" in said.err and "| score |" in said.out
    (work / "more" / "aside").rename(work / "more" / "eval_results.json")
    (work / "more.failed").unlink()


@pytest.mark.parametrize("path", sorted((ROOT / "tools" / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_the_recipes_name_options_that_exist(path):
    """Each table of a recipe that comes along is parsed by the command that it names."""
    from nanospike import distill, evaluate, finetune
    from nanospike.config.options import parse

    records = {"distill": distill.Distill, "evaluate": evaluate.Evaluate, "finetune": finetune.Finetune}
    records["average"] = average.Average
    places = {n: "x" for n in ("work", "glue", "minilm", "both")}
    for name, table in recipe.read_recipe(path).items():
        for out, argv in recipe.runs_of(name, table, places):
            assert parse(records[table["command"]], [*argv, "--output-dir", out], prog=out)
