"""The classifier that fits a teacher's logits: least squares by another route, and the stages that begin with it."""

import json
import warnings

import numpy as np
import pytest
from models import random_student, random_teacher
from tiny import TRAIN, run, write_sst2, write_teacher

import nanospike
from nanospike import distill
from nanospike.arrays.backend import to_device, to_host
from nanospike.arrays.workers import Workers
from nanospike.data.text import Encoded
from nanospike.solvers.solution import Code
from nanospike.training import classifier_fit
from nanospike.training.classifier_fit import RIDGE, begin_with_classifier, fit_classifier, least_squares


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
def test_what_is_fitted_are_the_rates_of_the_first_token(weights, device):
    teacher, student = random_teacher(2, device=device), random_student(3, device, weights=weights)
    data = texts(50)
    ids = data.ids
    fitted, explained = fit_classifier(student, teacher, data, Workers(2))
    alone = [to_device(np.stack([i[None], np.ones((1, len(i)), np.int64)]), device) for i in ids]
    rates = np.concatenate([to_host(student.equilibrium(*one).hidden_states[-1][:, 0]) for one in alone])
    logits = np.concatenate([to_host(teacher(*one).logits) for one in alone])
    np.testing.assert_allclose(fitted["weight"], least_squares(rates, logits)[0], rtol=1e-7)
    missed = logits - rates @ fitted["weight"].T - fitted["bias"]
    assert explained == pytest.approx(1 - (missed**2).sum() / ((logits - logits.mean(axis=0)) ** 2).sum(), rel=1e-7)
    begin_with_classifier(student, teacher, data, Workers(1), start=0)
    assert np.array_equal(to_host(student.parameters()["classifier.bias"]), fitted["bias"])
    student.parameters()["classifier.bias"][...] = 7  # where a run goes on it is what it has become
    begin_with_classifier(student, teacher, data, Workers(1), start=5)
    assert (student.parameters()["classifier.bias"] == 7).all()


def texts(count, seed=1):
    rng = np.random.default_rng(seed)
    ids = [rng.integers(1, 40, n) for n in rng.integers(2, 9, count)]
    return Encoded(ids, [np.zeros_like(i) for i in ids])


def test_texts_that_do_not_settle_count_for_nothing(recwarn):
    teacher, data = random_teacher(2), texts(60)
    student = random_student(4, spikes="signed", feedback=True, feedback_gain=100)
    fitted, _ = fit_classifier(student, teacher, data)
    assert not recwarn.list
    alone = [(i[None], np.ones((1, len(i)), np.int64)) for i in data.ids]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        settled = [student.equilibrium(*one) for one in alone]
    fine = [i for i, s in enumerate(settled) if s.codes[0] == Code.OK]
    assert 0 < len(fine) < len(settled)
    rates = np.concatenate([settled[i].hidden_states[-1][:, 0] for i in fine])
    logits = np.concatenate([teacher(*alone[i]).logits for i in fine])
    np.testing.assert_allclose(fitted["weight"], least_squares(rates, logits)[0], rtol=1e-2, atol=1e-2)
    nothing = least_squares(rates[:0], logits[:0])
    assert nothing[0].shape == (3, 8) and not nothing[0].any() and not nothing[1].any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that of a mean of nothing
        head, explained = classifier_fit._fitted(rates[:0], logits[:0])
    assert explained == 0 and not head["weight"].any() and not head["bias"].any()


def test_ranks_share_the_texts_and_find_what_one_finds(monkeypatch):
    teacher, student, data = random_teacher(2), random_student(3), texts(140)
    whole, explained = fit_classifier(student, teacher, data)
    shares = {}

    class Rank:
        size = 2

        def __init__(self, rank):
            self.rank = rank

        def gathered(self, mine):
            shares[self.rank] = mine
            return [shares[0], shares.get(1, mine)]

        def once(self, function, *arguments):
            return function(*arguments) if 1 in shares else None

    for rank in (0, 1):
        monkeypatch.setattr(classifier_fit, "world", lambda rank=rank: Rank(rank))
        found = fit_classifier(student, teacher, data)
    assert (len(shares[0]), len(shares[1])) == (5, 4) and found[1] == explained
    assert all(np.array_equal(found[0][n], whole[n]) for n in whole)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("classifiers")
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
    assert args["classifier"] == "fitted" and "fitting the classifier" in capsys.readouterr().err
    learnt, _ = distilled(places, "learnt", "--classifier", "learnt")
    wanted, _ = fit_classifier(learnt, nanospike.load_teacher(places / "teacher"), train(places))
    found, before = fitted.parameters(), learnt.parameters()
    np.testing.assert_allclose(found["classifier.weight"], wanted["weight"], rtol=1e-3, atol=1e-4)
    assert all(np.array_equal(found[n], before[n]) for n in found if not n.startswith("classifier."))
    assert "fitting" not in capsys.readouterr().err
    again, args = distilled(places, "again", "--stages", "few-steps", init=places / "learnt")
    kept = again.parameters()["classifier.weight"]
    assert args["classifier"] == "learnt" and np.array_equal(kept, before["classifier.weight"])
    for stages in ("internal,few-steps", "prediction"):
        _, args = distilled(places, f"anew {stages}", "--stages", stages, init=places / "learnt")
        assert args["classifier"] == "fitted"


@pytest.mark.parametrize("options", [("--stages", "internal"), ("--logits", 0, "--labels", 1)])
def test_a_run_that_learns_no_logits_has_none_to_fit(places, tmp_path, capsys, options):
    _, args = distilled(places, tmp_path / "run", *options)
    assert args["classifier"] is None and "fitting" not in capsys.readouterr().err
    _, args = distilled(places, tmp_path / "run", *options, "--resume")
    assert args["classifier"] is None
    _, args = distilled(places, tmp_path / "more", *options, init=tmp_path / "run")
    assert args["classifier"] is None


def test_a_run_begun_before_there_was_a_choice_goes_on_as_it_was(places, tmp_path, capsys):
    before, _ = distilled(places, tmp_path / "run", "--classifier", "learnt")
    for path in (tmp_path / "run" / "training_args.json", *(tmp_path / "run").glob("checkpoints/*/state.json")):
        whole = json.loads(path.read_text())
        (whole.get("options") or whole).pop("classifier")
        path.write_text(json.dumps(whole))
    after, args = distilled(places, tmp_path / "run", "--resume")
    assert args["classifier"] == "learnt" and "fitting" not in capsys.readouterr().err
    assert all(np.array_equal(p, after.parameters()[n]) for n, p in before.parameters().items())


def train(places):
    from nanospike.data.tasks import find_task, training_texts
    from nanospike.data.text import encode
    from nanospike.data.tokenizer import load_tokenizer

    texts = training_texts(find_task("sst-2"), places / "data").texts
    return encode(load_tokenizer(places / "teacher"), texts, 128)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--stages", "internal", "--classifier", "fitted"), "--classifier"),
        (("--classifier", "fitted", "--logits", 0, "--labels", 1), "--classifier fitted: to the teacher's logits"),
        (("--classifier", "drawn"), "--classifier"),
    ],
)
def test_a_classifier_that_cannot_be_fitted(places, tmp_path, capsys, options, told):
    assert run(distill.main, "--teacher", places / "teacher", "--output-dir", tmp_path / "out", *options) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "out").exists()
