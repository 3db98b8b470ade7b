"""Data sets of one's own: the same rows in every kind of file, columns, classes, the held-out tenth, what is wrong."""

import csv
import gzip
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanospike import InputError
from nanospike.data.own import OwnFiles, canonical, classes_of, held_out, in_order, own_data, with_class_weights
from nanospike.data.tables import lines_of, read_table
from nanospike.data.tasks import Examples, confusion, write_predictions
from nanospike.training.options import TrainingOptions

ROWS = [("warm tea", "good"), ('cold, "very" cold', "bad"), ("it rained", "dull"), ("été  à la mer", "good")] * 5


def write(path, rows=ROWS, header=("text", "label")):
    """The rows as the kind of file that the path says."""
    kind, text = path.name.removesuffix(".gz").rpartition(".")[2], io.StringIO()
    if kind == "csv":
        csv.writer(text).writerows([header, *rows])
    elif kind == "tsv":
        text.write("\n".join("\t".join(map(str, row)) for row in [header, *rows]))
    else:
        text.write("\n".join(json.dumps(dict(zip(header, row, strict=True))) for row in rows) + "\n")
    body = text.getvalue().encode()
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)
    return path


def files(**given):
    return OwnFiles(**given)


def model(names, directory="DIR"):
    """What own_data looks at of a model."""
    raw = {"id2label": {str(i): n for i, n in enumerate(names)}} if names else {}
    return SimpleNamespace(raw_config=raw, config=SimpleNamespace(num_labels=len(names) or 1), directory=directory)


# ---- files and columns --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.csv.gz", "A.TSV.GZ", "a.jsonl.gz"])
def test_every_kind_of_file_gives_the_same_examples(name, tmp_path):
    if "TSV" in name:
        path = write(tmp_path / "a.tsv.gz").rename(tmp_path / name)
    else:
        path = write(tmp_path / name)
    task, found = own_data(files(train_file=path, dev_file=path))
    assert task.labels == ("bad", "dull", "good") and task.id2label == {"0": "bad", "1": "dull", "2": "good"}
    for split in ("train", "dev"):
        assert found[split].texts == [text for text, _ in ROWS]
        assert found[split].labels.tolist() == [task.labels.index(label) for _, label in ROWS]
    assert task.name == name and task.metrics == ("accuracy", "macro_f1", "matthews")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=8), st.booleans())
def test_csv_is_read_as_rfc_4180_writes_it(tmp_path_factory, rows, crlf):
    """Every character may be in a quoted field: line ends, quotes, commas."""
    quoted = [",".join('"' + v.replace('"', '""') + '"' for v in row) for row in [("text", "label"), *rows]]
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(("\r\n" if crlf else "\n").join(quoted).encode())
    assert [tuple(row) for _, row in read_table(path).rows] == rows


def test_lines_of_csv_rows_are_those_where_they_begin(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\n"two\nlines",1\n\nb,\n')
    assert [number for number, _ in read_table(tmp_path / "a.csv").rows] == [2, 5]
    with pytest.raises(InputError, match="a.csv, line 5: label '', expected a word or a number"):
        own_data(files(train_file=tmp_path / "a.csv", dev_file=tmp_path / "a.csv"))


def test_tsv_has_no_quoting_and_a_carriage_return_ends_no_line(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b'\xef\xbb\xbftext\tlabel\r\n"a\t1\r\nb\rc\t 0 \r\n\r\n')
    found = own_data(files(train_file=tmp_path / "a.tsv", dev_file=tmp_path / "a.tsv"))[1]["train"]
    assert found.texts == ['"a', "b\rc"] and found.labels.tolist() == [1, 0]
    assert lines_of("a\r\nb\rc\n") == [(1, "a"), (2, "b\rc"), (3, "")]


def test_columns_are_found_where_there_is_no_doubt_and_named_elsewhere(tmp_path):
    rows = [("1", "a", "x", "p", "5"), ("2", "b", "y", "q", "6")] * 2
    path = write(tmp_path / "a.csv", rows, ("id", "Sentence", "LABEL", "other", "stars"))
    found = own_data(files(train_file=path, dev_file=path))[1]["train"]
    assert found.texts == ["a", "b"] * 2 and found.labels.tolist() == [0, 1] * 2
    named = files(train_file=path, dev_file=path, text_column="other", pair_column="Sentence", label_column="stars")
    task, found = own_data(named)
    assert found["train"].texts == [("p", "a"), ("q", "b")] * 2 and task.labels == ("5", "6")
    two = write(tmp_path / "b.csv", [("a", "b", "1")] * 2, ("text", "sentence", "label"))
    with pytest.raises(InputError, match="b.csv: 2 columns may be text or sentence; name one .*--text-column"):
        own_data(files(train_file=two))
    with pytest.raises(InputError, match="b.csv: no column words \\(--text-column\\); found text, sentence, label"):
        own_data(files(train_file=two, text_column="words"))


# ---- labels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, name",
    [
        ("1.0", "1"), (1.0, "1"), (1, "1"), (" 1 ", "1"), ("+1", "1"), ("1e0", "1"), ("-0", "0"), ("0.50", "0.5"),
        ("-2", "-2"), ("1e2", "100"), ("12345678901234567890", "12345678901234567890"), (True, "true"), (None, ""),
        ("nan", "nan"), ("inf", "inf"), ("1_0", "1_0"), ("1e999999999", "1e999999999"), ("Good ", "Good"), ("½", "½"),
    ],
)  # fmt: skip
def test_labels_as_words_and_numbers(given, name):
    assert canonical(given) == name and canonical(canonical(given)) == name


def test_classes_are_ordered_by_value_or_by_code_point():
    assert in_order(["10", "9", "-1", "0.5"]) == ["-1", "0.5", "9", "10"]
    assert in_order(["b", "B", "ä", "10", "9"]) == ["10", "9", "B", "b", "ä"]


@pytest.mark.parametrize("names", [("0", "1", "2"), ("LABEL_0", "LABEL_1", "LABEL_2"), ("0.0", "1.0", "2")])
def test_the_classes_of_a_model_are_those_of_its_config(names, tmp_path):
    path = write(tmp_path / "a.jsonl", [("a", 2), ("b", "2.0"), ("c", 0.0), ("d", "LABEL_1")])
    task, found = own_data(files(dev_file=path), model(names), ["dev"])
    assert task.labels == ("0", "1", "2") and found["dev"].labels.tolist() == [2, 2, 0, 1]


def test_the_order_of_a_model_s_classes_is_kept_and_others_are_refused(tmp_path):
    path = write(tmp_path / "a.csv", [("a", "good"), ("b", "bad")])
    task, found = own_data(files(dev_file=path), model(["good", "bad", "dull"]), ["dev"])
    assert task.labels == ("good", "bad", "dull") and found["dev"].labels.tolist() == [0, 1]
    with pytest.raises(InputError, match="a.csv, line 2: label 'good', the classes trained are bad, fine$"):
        own_data(files(dev_file=path), model(["bad", "fine"]), ["dev"])
    with pytest.raises(InputError, match="line 2: label 'good', the classes trained are 0, 1$"):
        own_data(files(dev_file=path), model(["LABEL_0", "LABEL_1"]), ["dev"])
    with pytest.raises(InputError, match="id2label: two classes have one name: 1, 1"):
        classes_of(model(["1", "1.0"]))


def test_a_regression_keeps_its_unit(tmp_path):
    path = write(tmp_path / "a.jsonl", [("a", 1990), ("b", "2000.5"), ("c", 1e3), ("d", "-7")])
    task, found = own_data(files(train_file=path, dev_file=path, regression=True))
    assert found["train"].labels.tolist() == [1990, 2000.5, 1000, -7] and task.num_labels == 1
    assert task.metrics == ("pearson", "spearman", "rmse") and not task.id2label
    assert own_data(files(dev_file=path), model([]), ["dev"])[0].metrics == task.metrics
    with pytest.raises(InputError, match="--regression: DIR has 2 classes, expected one output"):
        own_data(files(dev_file=path, regression=True), model(["a", "b"]), ["dev"])
    write_predictions(tmp_path / "p.tsv", task, np.array([[1990.25], [-12.5]]), ["x", "y"])
    assert (tmp_path / "p.tsv").read_text() == "index\tprediction\nx\t1990.25\ny\t-12.5\n"


# ---- the held-out tenth -------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=5, max_size=60))
def test_a_tenth_is_held_out_and_every_class_stays(labels):
    _, labels = np.unique(labels, return_inverse=True)
    examples = Examples([f"text {i}" for i in range(len(labels))], labels.astype(np.int64))
    train, dev = held_out(examples, "a.csv")
    assert sorted(train.texts + dev.texts) == sorted(examples.texts)
    assert set(train.labels) == set(labels) and 1 <= len(dev.texts) <= max(1, len(labels) // 10)
    known = dict(zip(examples.texts, labels, strict=True))
    for part in (train, dev):
        assert part.labels.tolist() == [known[t] for t in part.texts]
    again = held_out(examples, "a.csv")
    assert again[0].texts == train.texts and again[1].texts == dev.texts


def test_texts_without_labels_have_a_tenth_too(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"text {i}\n\n" for i in range(40)))
    task, found = own_data(files(train_file=path), model(["x", "y"]), need_labels=False)
    assert (len(found["train"].texts), len(found["dev"].texts)) == (36, 4) and found["dev"].labels is None
    assert task.labels == ("x", "y")


# ---- weights, confusion -------------------------------------------------------------------------------------


def test_class_weights_have_the_mean_1_over_the_training_data():
    labels, task = np.array([0] * 6 + [1] * 3 + [2]), SimpleNamespace(id2label={"0": "a", "1": "b", "2": "c"}, name="t")
    resolved = lambda w: with_class_weights(TrainingOptions(output_dir="o", class_weights=w), task, labels)  # noqa: E731
    np.testing.assert_allclose(resolved("balanced").class_factors * [6, 3, 1], 10 / 3, rtol=1e-6)
    np.testing.assert_allclose(resolved("2,4,0").class_factors, np.array([2, 4, 0]) / 2.4, rtol=1e-6)
    assert resolved(None).class_weights is None
    for wrong in ("1,2", "1,2,x", "1,-1,2", "nan,1,1", "0,0,0", ""):
        with pytest.raises(InputError, match="--class-weights: .* 3 numbers of at least 0, in the order a, b, c"):
            resolved(wrong)
    task.id2label = {}
    with pytest.raises(InputError, match="t is a regression"):
        resolved("balanced")


def test_confusion_counts_answers_class_by_class(tmp_path):
    task = own_data(files(train_file=write(tmp_path / "a.csv")))[0]
    logits, labels = np.eye(3)[[0, 0, 1, 2, 2, 2]], np.array([0, 1, 1, 2, 2, 0])
    assert confusion(task, logits, labels) == [[1, 0, 1], [1, 1, 0], [0, 0, 2]]


# ---- what is wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, body, said",
    [
        ("a.csv", "", "a.csv: no examples in it"),
        ("a.csv", "text,label\n", "a.csv: no examples in it"),
        ("a.csv", "warm tea,good\ncold tea,bad\n", "no column text or sentence .*; the first line has to name the col"),
        ("a.csv", "text;label\na;b\n", "no column text or sentence .*separated by semicolons, expected commas"),
        ("a.csv", "text\tlabel\na\tb\n", "separated by tabs, expected commas"),
        ("a.csv", "text,stars\na,b\n", "no column label \\(--label-column\\); found text, stars"),
        ("a.csv", "text,label\na,1\nb,1\n", "a.csv: every label is '1', expected two classes or more"),
        ("a.csv", "text,label\na,1\nb\n", "a.csv, line 3: found 1 columns, the first line has 2"),
        ("a.csv", "text,label\na,1\nb,2,3\n", "a.csv, line 3: found 3 columns, the first line has 2"),
        ("a.csv", 'text,label\na,1\n"b,2\n', "a.csv, line 3: not CSV as RFC 4180 has it"),
        ("a.csv", 'text,label\na,1\n"b"c,2\n', "a.csv, line 3: not CSV"),
        ("a.csv", "text,label\na,1\nb\rc,2\n", "a.csv, line 3: not CSV"),
        ("a.csv", "text,label\na,1\nb,\n", "a.csv, line 3: label '', expected a word or a number"),
        ("a.csv", 'text,label\na,1\nb,"x\ny"\n', "a.csv, line 3: label 'x.+y', expected a word"),
        ("a.csv", "text,label\n" + "".join(f"t,{i}.5\n" for i in range(30)), "30 different labels in 30 rows; give"),
        ("a.tsv", "text\tlabel\na\tb\tc\n", "a.tsv, line 2: found 3 columns, the first line has 2"),
        ("a.jsonl", '{"text": "a", "label": 1}\n[1]\n', "a.jsonl, line 2: found a JSON list, expected an object"),
        ("a.jsonl", '{"text": "a", "label": NaN}\n', "line 1: not JSON: NaN is no number of JSON"),
        ("a.jsonl", '{"text": "a", "label": 1\n', "a.jsonl, line 1: not JSON"),
        ("a.jsonl", '{"text": "a", "label": [1]}\n{"text": "a", "label": 1}', "line 1: label '\\[1\\]', expected"),
        ("a.jsonl", '{"text": 5, "label": 1}\n', "a.jsonl, line 1: found 5, expected a text"),
        ("a.jsonl", '{"text": "\\ud800", "label": 1}\n', "a.jsonl, line 1: half a surrogate pair"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"label": 1}\n', "a.jsonl, line 2: found None, expected a text"),
        ("a.jsonl", "[" * 100000, "a.jsonl, line 1: not JSON"),
        ("a.jsonl", '{"text": "a", "label": ' + "9" * 5000 + "}", "a.jsonl, line 1: not JSON"),
        ("a.xlsx", "x", "a.xlsx: found another kind of file, expected .csv, .tsv, .jsonl, .txt"),
        ("a.txt", "one\ntwo\n", "--train-file .*a.txt: texts without labels; only distill trains on them"),
        ("a.csv.gz", "text,label\n", "a.csv.gz: not a whole gzip file"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line(name, body, said, tmp_path):
    (tmp_path / name).write_bytes(body.encode())
    with pytest.raises(InputError, match=said) as caught:
        own_data(files(train_file=tmp_path / name))
    assert "\n" not in " ".join(str(caught.value).split()) and str(tmp_path) in str(caught.value)


def test_a_class_of_dev_that_train_lacks_is_refused(tmp_path):
    train = write(tmp_path / "train.csv")
    dev = write(tmp_path / "dev.csv", [("a", "bad"), ("b", "awful")])
    with pytest.raises(InputError, match="dev.csv, line 3: label 'awful', the classes trained are bad, dull, good$"):
        own_data(files(train_file=train, dev_file=dev))


def test_gzip_that_is_cut_or_not_utf8(tmp_path):
    whole = write(tmp_path / "a.csv.gz").read_bytes()
    for body in (whole[:-9], whole[:20], b"\x1f\x8b" + b"x" * 30):
        (tmp_path / "a.csv.gz").write_bytes(body)
        with pytest.raises(InputError, match="a.csv.gz: not a whole gzip file"):
            own_data(files(train_file=tmp_path / "a.csv.gz"))
    (tmp_path / "b.csv").write_bytes("text,label\ncafé,1\n".encode("utf-16"))
    with pytest.raises(InputError, match="b.csv: not UTF-8 text: .* at byte 0"):
        own_data(files(train_file=tmp_path / "b.csv"))


def test_numbers_that_are_none(tmp_path):
    for value in ("x", "nan", "inf", "", "1e999"):
        path = write(tmp_path / "a.csv", [("a", "1"), ("b", value)])
        with pytest.raises(InputError, match=f"a.csv, line 3: label '{value}', expected a number"):
            own_data(files(train_file=path, dev_file=path, regression=True))
    path = write(tmp_path / "a.csv", [("a", "3"), ("b", "3.0")])
    with pytest.raises(InputError, match="every label is 3: nothing to learn"):
        own_data(files(train_file=path, dev_file=path, regression=True))


@pytest.mark.parametrize(
    "body, said",
    [
        ("text\na\n\nb\n", "t.csv, line 3: found nothing in it"),
        ("index,text\n5,a\n5,b\n", "t.csv, line 3: index 5: found again, as in line 2"),
    ],
)
def test_every_row_of_a_test_file_has_an_answer(body, said, tmp_path):
    (tmp_path / "t.csv").write_text(body)
    with pytest.raises(InputError, match=said):
        own_data(SimpleNamespace(**vars(files()), test_file=tmp_path / "t.csv"), model(["a", "b"]), ["test"])


def test_empty_texts_are_counted(tmp_path):
    path = write(tmp_path / "a.csv", [("a", "1"), ("", "2"), (" ", "2")])
    with pytest.warns(UserWarning, match="a.csv: 2 of 3 texts are empty"):
        own_data(files(train_file=path, dev_file=path))
