"""How long a student has to run: the rules by hand, and what is found of a student."""

import numpy as np
import pytest
from models import random_student

from nanospike.data.text import Encoded
from nanospike.results import anytime
from nanospike.results.anytime import MARGINS, calibrated, recommended, smallest_margin, stopped
from nanospike.results.inference import run_student


def test_an_example_stops_at_its_first_clear_decision():
    logits = {
        1: np.array([[0.0, 2.0], [0.0, 0.5], [0.0, 0.1]]),
        2: np.array([[3.0, 0.0], [1.5, 0.0], [0.0, 0.1]]),
        4: np.array([[3.0, 0.0], [0.0, 4.0], [0.2, 0.0]]),
    }
    final, taken = stopped(logits, 1.0)
    assert taken.tolist() == [1, 2, 4] and final.argmax(axis=1).tolist() == [1, 0, 0]
    assert stopped(logits, 2.4, decay=1.0)[1].tolist() == [2, 2, 4]  # leads of 2.4, 1.2, 0.6 are enough


def test_the_recommended_number_decides_as_the_equilibrium_does():
    one, two = np.eye(2)[np.zeros(100, int)], np.eye(2)[np.ones(100, int)]
    mostly = np.concatenate([one[:99], two[:1]])
    assert recommended({"equilibrium": one, 1: two, 2: mostly, 3: one, 4: one}) == 2
    assert recommended({"equilibrium": one, 1: two, 2: two, 3: one, 4: one}) == 4
    assert recommended({"equilibrium": one, 1: two, 2: two, 16: two}) == 16


def test_the_margin_is_the_smallest_that_changes_few_decisions():
    """At step 1 all lean to the wrong side, one in ten by 3 and the others by 0.3."""
    early = np.stack([np.zeros(1000), np.where(np.arange(1000) % 10, 0.3, 3.0)], axis=1)
    late = np.stack([np.full(1000, 9.0), np.zeros(1000)], axis=1)
    assert smallest_margin({1: early, 2: late, 3: late}) == 4.0  # the first above 3
    assert smallest_margin({1: np.minimum(early, 0.3), 2: late, 3: late}) == 0.5
    few = np.where(np.arange(1000)[:, None] < 5, early, late)
    assert smallest_margin({1: few, 2: late, 3: late}) == MARGINS[0]  # five of a thousand may change
    assert smallest_margin({1: early * 100, 2: late, 3: late}) == MARGINS[-1]


def test_a_student_is_calibrated_on_some_of_the_texts(monkeypatch):
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, 40, n) for n in rng.integers(3, 9, 60)]
    data = Encoded(ids, [np.zeros_like(i) for i in ids])
    student = random_student(2, dtype="float32", spikes="signed", num_hidden_layers=1)
    monkeypatch.setattr(anytime, "EXAMPLES", 20)
    found = calibrated(student, data)
    some = Encoded(ids[::3], data.types[::3])
    logits, _ = run_student(student, some, range(1, 33))
    steps, margin = found["recommended_time_steps"], found["anytime_margin"]
    settled = logits["equilibrium"].argmax(axis=1)
    assert (logits[steps].argmax(axis=1) == settled).mean() >= 0.99 or steps == 32
    assert steps == 1 or (logits[steps // 2].argmax(axis=1) == settled).mean() < 0.99
    assert margin == smallest_margin({t: logits[t] for t in range(1, 17)})
    assert calibrated(student, data, few_steps=3) == found | {"recommended_time_steps": 3}


@pytest.mark.parametrize("changes", [{"activation": "ann"}, {"num_labels": 1}])
def test_there_is_nothing_to_find_where_nothing_is_decided_in_time(changes):
    data = Encoded([np.array([5, 6])], [np.array([0, 0])])
    assert calibrated(random_student(2, **changes), data) == {}
