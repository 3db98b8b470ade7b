"""What comes with the package: the text is what it claims to be, the models score what the README says."""

import subprocess
import sys
from pathlib import Path

import pytest

import nanospike
from nanospike.data.tasks import find_task, read_split, score, training_texts
from nanospike.data.text import encode
from nanospike.data.tokenizer import load_tokenizer
from nanospike.files.bundled import bundled
from nanospike.results.inference import evaluate_student, teacher_logits

ROOT = Path(__file__).resolve().parents[1]
OPINIONS = find_task("opinions")
LARGEST = 8e6  # bytes of all bundled models together


@pytest.fixture(scope="module")
def dev():
    return read_split(OPINIONS, bundled("text"), "dev")


def encoded(directory, examples):
    return encode(load_tokenizer(directory), examples.texts, 128, examples.labels)


def test_the_text_is_distinct_balanced_and_kept_apart(dev):
    train = training_texts(OPINIONS, bundled("text")).texts
    assert len(train) >= 3000 and len(set(train)) == len(train)
    assert len(dev.texts) >= 400 and len(set(dev.texts)) == len(dev.texts)
    assert not set(train) & set(dev.texts)
    assert 0.45 < dev.labels.mean() < 0.55


def test_the_text_program_makes_the_text(tmp_path):
    argv = [sys.executable, ROOT / "tools" / "make_text.py", "--output", tmp_path / "train.txt"]
    subprocess.run(argv, check=True, capture_output=True)
    assert (tmp_path / "train.txt").read_bytes() == (ROOT / "weights" / "text" / "train.txt").read_bytes()


def test_the_models_are_small():
    files = [p for name in ("teacher", "student") for p in bundled(name).iterdir()]
    assert sum(p.stat().st_size for p in files) <= LARGEST


def test_the_bundled_teacher_knows_the_task(dev):
    directory = bundled("teacher")
    data = encoded(directory, dev)
    assert score(OPINIONS, teacher_logits(nanospike.load_teacher(directory), data), data.labels) > 0.83


def test_the_bundled_student_keeps_up_at_equilibrium_and_spike_by_spike(dev):
    directory = bundled("student")
    results = evaluate_student(nanospike.load_student(directory), OPINIONS, encoded(directory, dev), [8, 32])
    assert results["equilibrium"] > 0.81
    assert abs(results["spiking"]["32"] - results["equilibrium"]) < 0.02
    assert results["equilibrium_gap"]["32"] < 0.5 * results["equilibrium_gap"]["8"]


def test_predictions_of_the_bundled_student():
    answers = nanospike.predict(bundled("student"), ["a warm , funny and moving film .", "a dull , lifeless mess ."])
    assert [a["label"] for a in answers] == ["positive", "negative"]


def test_the_real_sst2_score(data_root):
    """On the SST-2 dev set, where it is at hand: at least 83 % and, for the student, 82 %, at 4 time steps close to it.

    Measured: 83.03 and 82.68 %; another processor may decide a sentence or two of the 872 otherwise.
    """
    folder = data_root / "data" / "glue" / "SST-2"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    task = find_task("sst-2")
    examples = read_split(task, folder, "dev")
    data = encoded(bundled("teacher"), examples)
    theirs = score(task, teacher_logits(nanospike.load_teacher(bundled("teacher")), data), data.labels)
    ours = evaluate_student(nanospike.load_student(bundled("student")), task, data, [4])
    assert ours["spikes"] == "corrective" and theirs >= 0.83 and ours["equilibrium"] >= 0.82
    assert abs(ours["spiking"]["4"] - ours["equilibrium"]) < 0.007
