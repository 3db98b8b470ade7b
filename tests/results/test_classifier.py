"""A student that is held: the same answers as predict's, from many threads, quiet, and again after pickling."""

import multiprocessing
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from models import random_student
from tiny import POSITIONS, TRAIN, VOCABULARY, edit_json

import nanospike
from nanospike import InputError
from nanospike.arrays.workers import blas_threads
from nanospike.data.text import encode
from nanospike.data.tokenizer import load_tokenizer
from nanospike.model.quantise import low_bit_names
from nanospike.results import classifier

TEXTS = [line.partition("\t")[2] for line in TRAIN.splitlines()]
LONG = "the tea was hot and the cake was fresh " * 3


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A random student of tiny's vocabulary, its classes named, with a margin and a recommendation."""
    place = tmp_path_factory.mktemp("held")
    shape = {"vocab_size": len(VOCABULARY), "max_position_embeddings": POSITIONS, "num_hidden_layers": 1}
    student = random_student(2, dtype="float32", spikes="signed", **shape)
    student.parameters()["encoder.layer.0.attention.self.value.weight"][...] *= 6  # the first token hears of the others
    student.parameters()["classifier.bias"][...] = 0
    student.raw_config = {
        "id2label": {"0": "bad", "1": "good", "2": "so so"},
        "recommended_time_steps": 6,
        "anytime_margin": 4.0,
    }
    student.save(place)
    (place / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return place


def logits_of(directory, text, time_steps):
    """What the student says of one text, without a Classifier."""
    student, data = nanospike.load_student(directory), encode(load_tokenizer(directory), [text], POSITIONS)
    run = student.simulate(data.ids[0][None], None, data.types[0][None], time_steps=time_steps, record=range(1, 17))
    return {t: logits[0].astype(float) for t, logits in run.logits.items()}


def close(answer, expected):
    """Equal up to the rounding of another batch."""
    assert answer == expected | {"score": pytest.approx(expected["score"], rel=1e-5)}


def test_a_text_a_pair_and_a_list(directory):
    classify = nanospike.Classifier(directory, time_steps=8)
    one, pair, several = classify("the tea was hot ."), classify(("a joy", "a bore")), classify(TEXTS[:5])
    assert one.keys() == {"label", "score", "time_steps"} and one["time_steps"] == 8
    logits = logits_of(directory, ("a joy", "a bore"), 8)[8]
    odds = np.exp(logits) / np.exp(logits).sum()
    close(pair, {"label": ("bad", "good", "so so")[odds.argmax()], "score": odds.max(), "time_steps": 8})
    assert pair["score"] != classify(["a joy a bore"])[0]["score"]
    for text, answer in zip(TEXTS, several, strict=False):
        close(answer, classify(text))
    assert classify([]) == [] and classify(["a joy"]) == [classify("a joy")]
    assert several == nanospike.predict(directory, TEXTS[:5], time_steps=8)
    assert len({a["label"] for a in classify(TEXTS)}) > 1


@pytest.mark.parametrize("texts", [3, None, b"bytes", [3], [("a", "b", "c")], ("a", "b", "c"), ("a",), [["a", 1]]])
def test_what_is_not_a_text_is_refused(texts, directory):
    with pytest.raises(nanospike.InputError, match="Classifier: .*expected"):
        nanospike.Classifier(directory)(texts)


def test_time_steps_are_what_is_asked_or_what_the_student_recommends(directory, tmp_path):
    assert nanospike.Classifier(directory)("a joy")["time_steps"] == 6
    assert nanospike.predict(directory, ["a joy"])[0]["time_steps"] == 6
    assert nanospike.Classifier(directory, time_steps=np.int64(3))("a joy")["time_steps"] == 3
    bare = copied(directory, tmp_path, recommended_time_steps=None)
    assert nanospike.Classifier(bare)("a joy")["time_steps"] == classifier.PREDICT_STEPS
    for wrong in (0, -1, 2.5, True, "many"):
        with pytest.raises(nanospike.InputError, match="time steps: found"):
            nanospike.Classifier(directory, time_steps=wrong)


def copied(directory, place, **changes):
    for name in ("config.json", "model.safetensors", "vocab.txt"):
        (place / name).write_bytes((directory / name).read_bytes())
    edit_json(place / "config.json", **changes)
    return place


def test_anytime_stops_each_text_where_its_lead_is_large_enough(directory):
    answers = nanospike.Classifier(directory, time_steps="auto")(TEXTS)
    assert len({a["time_steps"] for a in answers}) > 5
    for text, answer in zip(TEXTS, answers, strict=True):
        logits = logits_of(directory, text, 16)
        leads = {t: np.diff(np.sort(v)[-2:])[0] for t, v in logits.items()}
        stop = next((t for t in range(1, 16) if leads[t] >= 4.0 / t), 16)
        odds = np.exp(logits[stop]) / np.exp(logits[stop]).sum()
        expected = {"label": ("bad", "good", "so so")[odds.argmax()], "score": odds.max(), "time_steps": stop}
        close(answer, expected)


@pytest.mark.parametrize(
    "changes, asked, said",
    [
        ({"anytime_margin": None}, "auto", "has no anytime_margin"),
        ({"anytime_margin": -1}, "auto", "anytime_margin: found -1, expected a number of at least 0"),
        ({"anytime_margin": "x"}, "auto", "anytime_margin: found 'x'"),
        ({"recommended_time_steps": 0}, None, "recommended_time_steps: found 0, expected a whole number"),
        ({"recommended_time_steps": "4"}, None, "recommended_time_steps: found '4'"),
        ({"headless": True}, None, "never trained"),
        ({"activation": "ann"}, None, "no spikes"),
        ({"vocab_size": len(VOCABULARY) - 1}, None, "word_embeddings"),
    ],
)
def test_a_student_that_cannot_do_it_is_refused(changes, asked, said, directory, tmp_path):
    with pytest.raises(nanospike.InputError, match=said):
        nanospike.Classifier(copied(directory, tmp_path, **changes), asked)


def test_a_pair_for_a_student_of_one_segment_is_refused(tmp_path):
    shape = {"vocab_size": len(VOCABULARY), "max_position_embeddings": POSITIONS, "type_vocab_size": 1}
    random_student(dtype="float32", **shape).save(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    classify = nanospike.Classifier(tmp_path, 1)
    assert classify("a joy")["time_steps"] == 1
    with pytest.raises(nanospike.InputError, match="type_vocab_size is 1, pairs of texts need 2"):
        classify(("a joy", "a bore"))


def test_many_threads_at_once_get_what_one_gets(directory):
    """Long texts among them: the tokenizer is told to cut while others use it."""
    classify = nanospike.Classifier(directory, time_steps=4, workers=2, batch_size=4)
    lists = [TEXTS[i::7] + [LONG] * (i % 2) for i in range(7)]
    expected = [classify(texts) for texts in lists]
    get, set_ = blas_threads() or (lambda: 2, lambda threads: None)
    before = get()
    set_(2)
    try:
        with ThreadPoolExecutor(8) as pool:
            for _ in range(4):
                assert list(pool.map(classify, lists)) == expected
        assert get() == 2
    finally:
        set_(before)


def test_blas_has_one_thread_while_it_answers(directory, monkeypatch):
    if not blas_threads():
        pytest.skip("NumPy's BLAS is not an OpenBLAS that can be found")
    get, set_ = blas_threads()
    before, seen = get(), []
    set_(2)
    try:
        classify = nanospike.Classifier(directory, time_steps=1, workers=1)
        whole = classify._batch
        monkeypatch.setattr(classify, "_batch", lambda batch: seen.append(get()) or whole(batch))
        classify("a joy")
        assert (seen, get()) == ([1], 2)
    finally:
        set_(before)


def test_a_long_text_is_cut_and_said_only_where_it_should_be(directory, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = nanospike.Classifier(directory)(LONG)
    close(answer, nanospike.Classifier(directory)(LONG * 2))
    with pytest.warns(UserWarning, match="1 of 1 texts are longer"):
        nanospike.predict(directory, [LONG])
    assert capfd.readouterr() == ("", "")


def test_a_pickled_one_answers_the_same(directory):
    classify = nanospike.Classifier(str(directory), "auto", workers=2)
    again = pickle.loads(pickle.dumps(classify))
    assert again(TEXTS) == classify(TEXTS) and again.workers.size == classify.workers.size
    with pytest.raises(nanospike.InputError, match="no such directory"):
        pickle.loads(pickle.dumps(classify).replace(b"held", b"gone"))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
def test_a_fork_makes_threads_of_its_own(directory):
    """A server that loads first and forks then: the child has none of the parent's threads."""
    code = (
        "import os, sys, nanospike\n"
        "classify = nanospike.Classifier(sys.argv[1], 2, workers=2, batch_size=2)\n"
        "texts = ['a joy', 'a bore', 'the tea', 'the soup was cold .'] * 2\n"
        "before = classify(texts)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os._exit(0 if classify(texts) == before else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    argv = [sys.executable, "-W", "ignore", "-c", code, str(directory)]
    done = subprocess.run(argv, timeout=60, cwd=Path(nanospike.__file__).resolve().parents[1], capture_output=True)
    assert done.returncode == 0, done.stderr


def test_state_bytes_are_those_of_the_weights(directory):
    numbers = sum(p.size for p in nanospike.load_student(directory).parameters().values())
    assert nanospike.Classifier(directory).state_bytes == 4 * numbers


@pytest.mark.filterwarnings("ignore:(overflow|invalid value)")
def test_answers_that_are_not_finite_are_refused(directory, tmp_path):
    """The weights are finite; what they give is not."""
    student = nanospike.load_student(directory)
    student.parameters()["classifier.weight"][...] = 3e38
    student.parameters()["classifier.bias"][...] = -3e38
    student.save(tmp_path)
    with pytest.raises(InputError, match="the answers of the model, whose weights are too large: [0-9]+ of its"):
        nanospike.Classifier(tmp_path, time_steps=4)(TEXTS[0])


@pytest.mark.parametrize(
    "texts", [{"text": "a", "text_pair": "b"}, {"text": "a"}.keys(), {"a", "b"}, [{"text": "a"}], b"a", 5, None, [b"a"]]
)
def test_what_has_no_order_or_no_text_is_refused(texts, directory):
    for ask in (lambda: nanospike.predict(directory, texts), lambda: nanospike.Classifier(directory)(texts)):
        with pytest.raises(InputError, match="found"):
            ask()


def test_predict_can_be_pickled_whatever_was_imported():
    """Importing nanospike.predict, the module, puts it in the place of the function."""
    code = "import pickle, copy, nanospike{}\nf = pickle.loads(pickle.dumps(nanospike.predict))\n"
    code += "assert copy.deepcopy(f) is not None\ntry: f('x', 'y')\nexcept nanospike.InputError as e: print(e)"
    for more in ("", ", nanospike.predict"):
        done = subprocess.run([sys.executable, "-c", code.format(more)], capture_output=True, text=True)
        assert "expected a list of texts" in done.stdout, done.stderr


@pytest.mark.parametrize("kind", ["ternary", "binary"])
def test_a_low_bit_student_is_held_in_little_memory_and_answers_the_same(kind, tmp_path):
    """Packed; the same spikes as those of the student that makes its weights low-bit at every call."""
    shape = {"vocab_size": len(VOCABULARY), "max_position_embeddings": POSITIONS, "hidden_size": 16}
    low = {"weights": kind, "embedding_weights": kind}
    for name, more in (("low", low), ("float", {})):
        random_student(4, dtype="float32", spikes="signed", **shape, **more).save(tmp_path / name)
        (tmp_path / name / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    classify = nanospike.Classifier(tmp_path / "low", 6)
    for text, answer in zip(TEXTS[:4], classify(TEXTS[:4]), strict=True):
        logits = logits_of(tmp_path / "low", text, 6)[6]
        odds = np.exp(logits) / np.exp(logits).sum()
        close(answer, {"label": str(odds.argmax()), "score": odds.max(), "time_steps": 6})
    plain, per_byte = nanospike.load_student(tmp_path / "float").parameters(), {"ternary": 4, "binary": 8}[kind]
    in_a_file = {"ternary": 5, "binary": 8}[kind]
    expected = 0
    for name, p in plain.items():
        if name in low_bit_names(classify.student.config) and name.startswith("embeddings."):
            expected += -(-p.size // in_a_file) + 4 * len(p)
        elif name in low_bit_names(classify.student.config):
            expected += len(p) * (-(-p.shape[1] // per_byte) + 4)  # and a scale a row
        elif not name.startswith("distill_map"):
            expected += p.nbytes
    assert classify.state_bytes == expected
    floats = nanospike.Classifier(tmp_path / "low", 6, packed=False)
    assert floats.state_bytes == sum(p.nbytes for p in plain.values())
    assert floats(TEXTS) == classify(TEXTS) and pickle.loads(pickle.dumps(floats)).state_bytes == floats.state_bytes
    assert classify.student.held() is classify.student
