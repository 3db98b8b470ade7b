"""What comes with the package: the text is what it claims to be, the models score what the README says."""

import re

import pytest

import nanospike
from nanospike.data.tasks import find_task, read_split, score, training_texts
from nanospike.data.text import encode
from nanospike.data.tokenizer import load_tokenizer
from nanospike.files.bundled import bundled
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
    directory = bundled("student")
    results = evaluate_student(nanospike.load_student(directory), OPINIONS, encoded(directory, dev), [8, 32])
    assert results["equilibrium"] > 0.945
    assert abs(results["spiking"]["32"] - results["equilibrium"]) < 0.02
    assert results["equilibrium_gap"]["32"] < 0.5 * results["equilibrium_gap"]["8"]


def test_predictions_of_the_bundled_student():
    answers = nanospike.predict(bundled("student"), ["a warm , funny and moving film .", "a dull , lifeless mess ."])
    assert [a["label"] for a in answers] == ["positive", "negative"]


def test_the_real_sst2_score(data_root):
    """On the SST-2 dev set, where it is at hand: at least 83 %, the student 81.5 %, at 4 time steps close to it.

    Measured: 83.37, 82.34 and 81.42 %; another processor may decide a sentence or two of the 872 otherwise.
    """
    folder = data_root / "data" / "glue" / "SST-2"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    task = find_task("sst-2")
    examples = read_split(task, folder, "dev")
    data = encoded(bundled("teacher"), examples)
    theirs = score(task, teacher_logits(nanospike.load_teacher(bundled("teacher")), data), data.labels)
    ours = evaluate_student(nanospike.load_student(bundled("student")), task, data, [4])
    assert ours["spikes"] == "corrective" and theirs >= 0.83 and ours["equilibrium"] >= 0.815
    assert abs(ours["spiking"]["4"] - ours["equilibrium"]) < 0.015
