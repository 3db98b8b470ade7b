"""What comes with the package: the text is what it claims to be, the models score what the README says."""

import re
from dataclasses import replace

import pytest

import nanospike
from nanospike.data.tasks import find_task, read_split, score, training_texts
from nanospike.data.text import encode
from nanospike.data.tokenizer import load_tokenizer
from nanospike.files.bundled import bundled
from nanospike.model.simulate import SpikingRun
from nanospike.results.inference import evaluate_student, teacher_logits

OPINIONS = find_task("opinions")
LARGEST, TEXT = 12e6, 1.5e6  # bytes of all of weights/, and of its text
ATTRIBUTION = "Pros and cons dataset by Bing Liu [http://www.cs.uic.edu/~liub] is licensed under CC BY 4.0"
COARSE = re.compile(r"\b(shit|fuck|crap|suck|bitch|damn)", re.IGNORECASE)


@pytest.fixture(scope="module")
def dev():
    return read_split(OPINIONS, bundled("text"), "dev")


def encoded(directory, examples):
    return encode(load_tokenizer(directory), examples.texts, 128, examples.labels)


def test_the_text_is_distinct_balanced_and_kept_apart(dev):
    train = training_texts(OPINIONS, bundled("text")).texts
    alike = lambda text: " ".join(re.findall("[a-z0-9]+", text.lower()))  # noqa: E731
    assert len(train) >= 19_000 and len(dev.texts) >= 2000
    assert len({alike(text) for text in (*train, *dev.texts)}) == len(train) + len(dev.texts)
    assert 0.45 < dev.labels.mean() < 0.55
    assert not [text for text in (*train, *dev.texts) if COARSE.search(text)]


def test_the_text_names_who_made_it():
    """In the file that goes into the wheel with it."""
    said = bundled("README.md").read_text(encoding="utf-8")
    assert ATTRIBUTION in said and "http://creativecommons.org/licenses/by/4.0/" in said


def test_what_comes_along_is_small():
    assert sum(p.stat().st_size for p in bundled("text").iterdir()) <= TEXT
    assert sum(p.stat().st_size for p in bundled("README.md").parent.rglob("*") if p.is_file()) <= LARGEST


def test_the_bundled_teacher_knows_the_task(dev):
    directory = bundled("teacher")
    data = encoded(directory, dev)
    assert score(OPINIONS, teacher_logits(nanospike.load_teacher(directory), data), data.labels) > 0.956


def test_the_bundled_student_keeps_up_at_equilibrium_and_spike_by_spike(dev):
    """Without a multiplication, on the first 240 opinions; by the counts of its spikes, in whole numbers, too."""
    directory, some = bundled("student"), replace(dev, texts=dev.texts[:240], labels=dev.labels[:240])
    student, data = nanospike.load_student(directory), encoded(directory, some)
    config = student.config
    assert (config.operators, config.weights, config.embedding_weights) == ("shift", "ternary", "ternary")
    results = evaluate_student(student, OPINIONS, data, [2, 4])
    assert results["equilibrium"] > 0.94 and results["spiking"]["2"] > 0.93 and results["spiking"]["4"] > 0.94
    assert results["equilibrium_gap"]["4"] < 0.8 * results["equilibrium_gap"]["2"]
    whole = evaluate_student(student, OPINIONS, data, [4], SpikingRun(arithmetic="integer"))
    assert abs(whole["spiking"]["4"] - results["spiking"]["4"]) < 0.01


def test_predictions_of_the_bundled_student():
    answers = nanospike.predict(bundled("student"), ["a warm , funny and moving film .", "a dull , lifeless mess ."])
    assert [a["label"] for a in answers] == ["positive", "negative"]


def test_the_real_sst2_score(data_root):
    """On the SST-2 dev set, where it is at hand: a student of MiniLM, which is more accurate than the bundled teacher.

    Measured: 83.37 % of the teacher, 88.42 % at equilibrium and 88.07 % at 4 time steps; another processor may decide a
    sentence or two of the 872 otherwise.
    """
    folder = data_root / "data" / "glue" / "SST-2"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    task = find_task("sst-2")
    examples = read_split(task, folder, "dev")
    theirs = encoded(bundled("teacher"), examples)
    assert score(task, teacher_logits(nanospike.load_teacher(bundled("teacher")), theirs), theirs.labels) >= 0.83
    ours = evaluate_student(
        nanospike.load_student(bundled("student")), task, encoded(bundled("student"), examples), [4]
    )
    assert ours["spikes"] == "signed" and ours["equilibrium"] >= 0.878
    assert ours["spiking"]["4"] >= 0.873
