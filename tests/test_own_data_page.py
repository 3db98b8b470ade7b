"""The four commands of docs/own-data.md, as they stand there, on a part of the bundled opinions, labels as words."""

import csv
import importlib
import json
import re
import shlex
from pathlib import Path

from tiny import run

from nanospike.files.bundled import bundled

PAGE = Path(__file__).resolve().parents[1] / "docs" / "own-data.md"
SHORT = {"finetune": ("--max-steps", 12), "distill": ("--max-steps", 12, "--time-steps", "2,8")}
WORDS = {"0": "complaint", "1": "praise"}


def opinions(most=160):
    """[(text, word)] of the first labelled opinions that come with the package."""
    place = bundled("text")
    labelled = place / "train.tsv" if (place / "train.tsv").exists() else place / "dev.tsv"
    rows = [line.split("\t") for line in labelled.read_text(encoding="utf-8").splitlines()]
    text, label = rows[0].index("sentence"), rows[0].index("label")
    return [(row[text], WORDS[row[label]]) for row in rows[1 : most + 1]]


def test_from_a_csv_to_a_spiking_classifier_in_four_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with open("reviews.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *opinions()])
    (tmp_path / "BERT_DIR").symlink_to(bundled("teacher"))
    block = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[0]
    lines = [shlex.split(line) for line in block.splitlines()]
    assert [words[:2] for words in lines] == [["nanospike", n] for n in ("finetune", "distill", "evaluate", "predict")]
    for _, name, *words in lines:
        more = SHORT.get(name, ()) + ("--workers", 1)
        assert run(importlib.import_module(f"nanospike.{name}").main, *words, *more) == 0, name
    printed = capsys.readouterr().out
    label, score, text = printed.splitlines()[-1].split("\t")
    assert label in WORDS.values() and 0.5 <= float(score) <= 1 and text == "The battery died after a week."
    results = json.loads((tmp_path / "runs" / "student" / "eval_results.json").read_text(encoding="utf-8"))
    assert results["teacher"] > 0.6 and results["examples"] == 16  # a tenth; the bundled teacher knows opinions already
    assert f"reviews.csv, accuracy, {results['examples']} examples" in printed and "confusion, T = 8" in printed
