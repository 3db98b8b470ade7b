"""The classifier that fits a teacher's logits: least squares against another route, and the stages that begin with it."""

import json

import numpy as np
import pytest
from models import random_student, random_teacher
from tiny import TRAIN, run, write_sst2, write_teacher

import nanospike
from nanospike import distill
from nanospike.arrays.workers import Workers
from nanospike.data.text import Encoded
from nanospike.training.head_fit import RIDGE, begin_with_head, fit_head, least_squares


@pytest.mark.parametrize(("rows", "outputs"), [(40, 2), (40, 1), (3, 2)])
def test_least_squares_with_a_penalty(rows, outputs):
    """The penalty is as many more rows of a plain least squares problem, which are to be 0."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((rows, 5)) * 3 + 1, rng.standard_normal((rows, outputs)) - 2
    weight, bias = least_squares(x, y)
    strength = np.sqrt(RIDGE * x.var(axis=0).mean() * rows)
    more = np.concatenate([strength * np.eye(5), np.zeros((5, 1))], axis=1)
    a, b = np.concatenate([np.c_[x, np.ones(rows)], more]), np.concatenate([y, np.zeros((5, outputs))])
    found = np.linalg.lstsq(a, b, rcond=None)[0]
    np.testing.assert_allclose(np.c_[weight, bias], found.T, rtol=1e-9, atol=1e-12)


def test_features_that_say_nothing_give_the_mean():
    weight, bias = least_squares(np.full((4, 3), 0.5), np.array([[1.0], [2.0], [3.0], [6.0]]))
    assert not weight.any() and bias == pytest.approx([3.0])


@pytest.mark.parametrize("weights", ["float", "ternary"])
def test_what_is_fitted_are_the_rates_of_the_first_token(weights):
    rng = np.random.default_rng(1)
    teacher, student = random_teacher(2), random_student(3, weights=weights)
    ids = [rng.integers(1, 40, n) for n in rng.integers(2, 9, 50)]
    data = Encoded(ids, [np.zeros_like(i) for i in ids])
    head, explained = fit_head(student, teacher, data, Workers(2))
    alone = [(i[None], np.ones((1, len(i)), np.int64)) for i in ids]
    rates = np.concatenate([student.equilibrium(*one).hidden_states[-1][:, 0] for one in alone])
    logits = np.concatenate([teacher(*one).logits for one in alone])
    np.testing.assert_allclose(head["weight"], least_squares(rates, logits)[0], rtol=1e-7)
    missed = logits - rates @ head["weight"].T - head["bias"]
    assert explained == pytest.approx(1 - (missed**2).sum() / ((logits - logits.mean(axis=0)) ** 2).sum(), rel=1e-7)
    begin_with_head(student, teacher, data, Workers(1), start=0)
    assert np.array_equal(student.parameters()["classifier.bias"], head["bias"])
    student.parameters()["classifier.bias"][...] = 7  # where a run goes on it is what it has become
    begin_with_head(student, teacher, data, Workers(1), start=5)
    assert (student.parameters()["classifier.bias"] == 7).all()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("heads")
    write_sst2(root / "data", train=TRAIN * 4)
    write_teacher(root / "teacher", mixing=4, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return root


def distilled(places, name, *options, init="teacher"):
    where = ("--teacher", places / "teacher", "--task", "sst-2", "--data-dir", places / "data")
    short = ("--max-steps", 1, "--time-steps", 2, "--workers", 1, "--init", init, "--learning-rate", 0)
    assert run(distill.main, *where, "--output-dir", places / name, *short, *options) == 0
    return nanospike.load_student(places / name), json.loads((places / name / "training_args.json").read_text())


def test_stages_that_begin_with_a_fitted_classifier(places, capsys):
    """With a rate of 0 nothing else moves: the student's answers are those of the classifier that was fitted."""
    fitted, args = distilled(places, "fitted")
    assert args["head"] == "fitted" and "classifier fitted to the teacher's logits" in capsys.readouterr().err
    learnt, _ = distilled(places, "learnt", "--head", "learnt")
    head, _ = fit_head(learnt, nanospike.load_teacher(places / "teacher"), train(places))
    found, before = fitted.parameters(), learnt.parameters()
    np.testing.assert_allclose(found["classifier.weight"], head["weight"], rtol=1e-3, atol=1e-4)
    assert all(np.array_equal(found[n], before[n]) for n in found if not n.startswith("classifier."))
    assert "fitted" not in capsys.readouterr().err
    again, args = distilled(places, "again", "--stages", "few-steps", init=places / "learnt")
    assert args["head"] == "learnt" and np.array_equal(
        again.parameters()["classifier.weight"], before["classifier.weight"]
    )
    _, args = distilled(places, "anew", "--stages", "internal,few-steps", init=places / "learnt")
    assert args["head"] == "fitted"


def train(places):
    from nanospike.data.tasks import find_task, training_texts
    from nanospike.data.text import encode
    from nanospike.data.tokenizer import load_tokenizer

    texts = training_texts(find_task("sst-2"), places / "data").texts
    return encode(load_tokenizer(places / "teacher"), texts, 128)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--stages", "internal", "--head", "fitted"), "--head"),
        (("--head", "fitted", "--logits", 0, "--labels", 1), "--head fitted: to the teacher's logits"),
        (("--head", "drawn"), "--head"),
    ],
)
def test_a_classifier_that_cannot_be_fitted(places, tmp_path, capsys, options, told):
    assert run(distill.main, "--teacher", places / "teacher", "--output-dir", tmp_path / "out", *options) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "out").exists()
