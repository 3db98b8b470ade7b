"""GLUE's files as they are laid out, what is wrong in them, and metrics against hand-worked values and scipy."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nanospike import InputError
from nanospike.tasks import (
    METRICS,
    TASKS,
    accuracy,
    f1,
    find_task,
    matthews,
    pearson_spearman,
    read_split,
    score,
    training_texts,
)

# task: (file, official header or None, rows, texts, labels)
LAYOUTS = {
    "opinions": ("dev.tsv", "sentence\tlabel", ["fine tea\t1", "cold tea\t0"], ["fine tea", "cold tea"], [1, 0]),
    "sst-2": ("dev.tsv", "sentence\tlabel", ["a joy . \t1", "a bore\t0"], ["a joy . ", "a bore"], [1, 0]),
    "cola": ("dev.tsv", None, ["gj04\t1\t\tHe ran.", "ad03\t0\t*\tHim ran."], ["He ran.", "Him ran."], [1, 0]),
    "mrpc": (
        "dev.tsv",
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        ['1\t13\t15\tHe said so .\t" He did .', "0\t2\t4\tA .\tB ."],
        [("He said so .", '" He did .'), ("A .", "B .")],
        [1, 0],
    ),
    "sts-b": (
        "dev.tsv",
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        ["0\tmain\tMSR\t2012\t0000\tnone\tnone\tA man .\tA boy .\t3.800", "1\tm\tf\t2\t1\tn\tn\tX .\tY .\t0"],
        [("A man .", "A boy ."), ("X .", "Y .")],
        [3.8, 0.0],
    ),
    "qqp": (
        "dev.tsv",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        ["0\t1\t2\tWho?\tWhich?\t0", "1\t3\t4\tWhy?\tHow come?\t1"],
        [("Who?", "Which?"), ("Why?", "How come?")],
        [0, 1],
    ),
    "mnli": (
        "dev_matched.tsv",
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
        "sentence2_parse\tsentence1\tsentence2\tlabel1\tlabel2\tgold_label",
        [
            "0\t1\t1e\tfic\t( A )\t( B )\t(R A)\t(R B)\tA .\tB .\tneutral\tneutral\tentailment",
            "1\t1\t1n\tfic\t( C )\t( D )\t(R C)\t(R D)\tC .\tD .\tneutral\tneutral\tneutral",
            "2\t1\t1c\tfic\t\t\t\t\tE .\tF .\tneutral\tneutral\tcontradiction",
        ],
        [("A .", "B ."), ("C .", "D ."), ("E .", "F .")],
        [0, 1, 2],
    ),
    "qnli": (
        "dev.tsv",
        "index\tquestion\tsentence\tlabel",
        ["0\tWhat?\tThat.\tentailment", "1\tWho?\tIt rained.\tnot_entailment"],
        [("What?", "That."), ("Who?", "It rained.")],
        [0, 1],
    ),
    "rte": (
        "dev.tsv",
        "index\tsentence1\tsentence2\tlabel",
        ["0\tIt rains.\tIt is dry.\tnot_entailment", "1\tIt rains.\tIt is wet.\tentailment"],
        [("It rains.", "It is dry."), ("It rains.", "It is wet.")],
        [1, 0],
    ),
    "wnli": (
        "dev.tsv",
        "index\tsentence1\tsentence2\tlabel",
        ["0\tThe drain is clogged.\tThe hair is.\t0", "1\tS.\tT.\t1"],
        [("The drain is clogged.", "The hair is."), ("S.", "T.")],
        [0, 1],
    ),
}


def write(path, header, rows, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((end.join(([header] if header else []) + rows) + end).encode())


# ---- reading ------------------------------------------------------------------------------------------------


def test_every_task_has_a_layout_here():
    assert LAYOUTS.keys() == TASKS.keys()


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_official_layout(name, end, tmp_path):
    file, header, rows, texts, labels = LAYOUTS[name]
    write(tmp_path / file, header, rows, end)
    examples = read_split(find_task(name), tmp_path, "dev")
    assert examples.texts == texts and examples.labels.tolist() == labels
    assert examples.labels.dtype == (np.float64 if name == "sts-b" else np.int64)


@pytest.mark.parametrize("name", TASKS)
def test_the_glue_directory_above_is_found_too(name, tmp_path):
    task = find_task(name)
    _, header, rows, texts, labels = LAYOUTS[name]
    write(tmp_path / task.folder / "train.tsv", header, rows)
    examples = read_split(task, tmp_path, "train")
    assert examples.texts == texts and examples.labels.tolist() == labels


@pytest.mark.parametrize(
    "name, header, rows, texts",
    [
        ("sst-2", "index\tsentence", ["0\ta joy ."], ["a joy ."]),
        ("cola", "index\tsentence", ["0\tHe ran."], ["He ran."]),
        ("mrpc", "index\t#1 ID\t#2 ID\t#1 String\t#2 String", ["0\t1\t2\tA .\tB ."], [("A .", "B .")]),
        ("qqp", "id\tquestion1\tquestion2", ["0\tWho?\tWhich?"], [("Who?", "Which?")]),
        ("rte", "index\tsentence1\tsentence2", ["0\tA.\tB."], [("A.", "B.")]),
    ],
)
def test_official_test_files_have_no_labels(name, header, rows, texts, tmp_path):
    write(tmp_path / "test.tsv", header, rows)
    examples = read_split(find_task(name), tmp_path, "test", need_labels=False)
    assert examples.texts == texts and examples.labels is None
    with pytest.raises(
        InputError, match=f"test.tsv: no column {find_task(name).label_column}; found {header.split()[0]}"
    ):
        read_split(find_task(name), tmp_path, "test")


def test_quotes_belong_to_the_text(tmp_path):
    rows = ['"an open quote\t1', 'say "yes"\t0', "it's \"\t1", '""\t0']
    write(tmp_path / "dev.tsv", "sentence\tlabel", rows)
    examples = read_split(find_task("sst-2"), tmp_path, "dev")
    assert examples.texts == ['"an open quote', 'say "yes"', "it's \"", '""']


def test_odd_characters_do_not_end_a_line(tmp_path):
    text = "one\u2028two\x0bthree\x0cfour\x85five"
    write(tmp_path / "dev.tsv", "sentence\tlabel", [text + "\t1"])
    assert read_split(find_task("sst-2"), tmp_path, "dev").texts == [text]


def test_a_very_long_text_is_read(tmp_path):
    write(tmp_path / "dev.tsv", "sentence\tlabel", ["word " * 40000 + "\t1"])
    assert read_split(find_task("sst-2"), tmp_path, "dev").texts == ["word " * 40000]


def test_extra_columns_and_blank_lines_are_nothing(tmp_path):
    write(tmp_path / "dev.tsv", "sentence\tlabel", ["a\t1\tnote", "", "b\t0", "  "])
    examples = read_split(find_task("sst-2"), tmp_path, "dev")
    assert examples.texts == ["a", "b"] and examples.labels.tolist() == [1, 0]


def test_training_texts_need_no_labels(tmp_path):
    write(tmp_path / "train.tsv", "sentence", ["a", "b"])
    examples = training_texts(find_task("sst-2"), tmp_path)
    assert examples.texts == ["a", "b"] and examples.labels is None
    write(tmp_path / "train.tsv", "sentence\tlabel", ["a\t1", "b\t0"])
    assert training_texts(find_task("sst-2"), tmp_path).labels.tolist() == [1, 0]


def test_bundled_task_trains_on_lines(tmp_path):
    (tmp_path / "train.txt").write_text("warm tea\n\n  cold tea  \n")
    examples = training_texts(find_task("opinions"), tmp_path)
    assert examples.texts == ["warm tea", "cold tea"] and examples.labels is None


# ---- what is wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, lines, said",
    [
        ("sst-2", ["sentence\tlabel", "a\t1", "b\t2"], "line 3: label '2', expected one of 0, 1"),
        ("sst-2", ["sentence\tlabel", "", "a\t1", "", "b\tx"], "line 5: label 'x'"),
        ("sst-2", ["sentence\tlabel", "a\t1", "b"], "line 3: label '', expected one of 0, 1"),
        ("sst-2", ["sentence\tlabel", "a\t 1"], "line 2: label ' 1'"),
        ("cola", ["gj04\t1\t\tHe ran.", "gj04\t7\t*\tHe ran."], "line 2: label '7'"),
        ("cola", ["gj04\t1\t\tHe ran.", "gj04\t1"], "line 2: found 2 columns, expected 4"),
        ("rte", ["index\tsentence1\tsentence2\tlabel", "0\ta\tb\tmaybe"], "line 2: label 'maybe', .* entailment, not"),
        ("rte", ["index\tsentence1\tsentence2\tlabel", "0\ta"], "line 2: found 2 columns, expected 4"),
        ("sts-b", ["sentence1\tsentence2\tscore", "a\tb\tgood"], "line 2: score 'good', expected a number"),
        ("sts-b", ["sentence1\tsentence2\tscore", "a\tb\tnan"], "line 2: score 'nan', expected a number"),
        ("sts-b", ["sentence1\tsentence2\tscore", "a\tb"], "line 2: score '', expected a number"),
        ("sst-2", ["text\tlabel", "a\t1"], "no column sentence; found text, label"),
        ("sst-2", ["sentence\tgold", "a\t1"], "no column label; found sentence, gold"),
        ("mrpc", ["Quality\t#1 String", "1\ta"], "no column #2 String; found Quality, #1 String"),
        ("sst-2", ["sentence\tlabel"], "no examples in it"),
        ("sst-2", [], "no examples in it"),
        ("cola", [], "no examples in it"),
    ],
)
def test_message_names_file_and_place(name, lines, said, tmp_path):
    (tmp_path / "dev.tsv").write_text("".join(line + "\n" for line in lines))
    with pytest.raises(InputError, match=f"{tmp_path}/dev.tsv(: |, ){said}") as caught:
        read_split(find_task(name), tmp_path, "dev")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    task = find_task("sst-2")
    with pytest.raises(InputError, match=f"{tmp_path}: no dev.tsv in it, nor in its folder SST-2"):
        read_split(task, tmp_path, "dev")
    with pytest.raises(InputError, match="no dev_matched.tsv in it, nor in its folder MNLI"):
        read_split(find_task("mnli"), tmp_path / "absent", "dev")
    (tmp_path / "dev.tsv").write_bytes("sentence\tlabel\ncafé\t1\n".encode("latin-1"))
    with pytest.raises(InputError, match="dev.tsv: not UTF-8 text: .* at byte 18"):
        read_split(task, tmp_path, "dev")
    (tmp_path / "train.tsv").mkdir()
    with pytest.raises(InputError, match="train.tsv: Is a directory"):
        read_split(task, tmp_path, "train")


def test_unknown_task_lists_the_known_ones():
    with pytest.raises(InputError, match="--task: found 'sst2', expected one of opinions, sst-2, cola"):
        find_task("sst2")


@pytest.mark.parametrize("name", TASKS)
def test_label_names(name):
    task = find_task(name)
    assert task.num_labels == (1 if name == "sts-b" else 3 if name == "mnli" else 2)
    assert len(task.id2label) == len(task.labels) and task.metric in METRICS


def test_names_for_people():
    assert find_task("sst-2").id2label == {"0": "negative", "1": "positive"}
    assert find_task("rte").id2label == {"0": "entailment", "1": "not_entailment"}
    assert find_task("sts-b").id2label == {}


# ---- metrics ------------------------------------------------------------------------------------------------


def test_metrics_worked_out_by_hand():
    predicted, labels = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 1, 1])  # 2 hits, 1 false, 1 missed, 1 rejected
    assert accuracy(predicted, labels) == 3 / 5
    assert f1(predicted, labels) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert matthews(predicted, labels) == pytest.approx((2 * 1 - 1 * 1) / np.sqrt(3 * 3 * 2 * 2))
    x, y = np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 40])
    pearson = (x - 2.5) @ (y - 11.5) / np.sqrt(5 * ((y - 11.5) @ (y - 11.5)))
    assert pearson_spearman(x, y) == pytest.approx((pearson + (1 - 6 * 2 / (4 * 15))) / 2)


def test_metrics_where_a_class_is_missing():
    none, ones = np.zeros(4, int), np.ones(4, int)
    assert f1(none, none) == 0 and f1(ones, ones) == 1 and f1(none, ones) == 0
    assert matthews(none, np.array([0, 1, 0, 1])) == 0 and matthews(ones, ones) == 0
    assert pearson_spearman(np.ones(3), np.array([1.0, 2, 3])) == 0


binary = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30)


@given(binary)
def test_two_class_metrics_from_the_table_of_counts(pairs):
    predicted, labels = np.array(pairs).T
    tp, fp, fn, tn = (pairs.count(c) for c in ((1, 1), (1, 0), (0, 1), (0, 0)))
    assert accuracy(predicted, labels) == pytest.approx((tp + tn) / len(pairs))
    assert f1(predicted, labels) == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0)
    under = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    assert matthews(predicted, labels) == pytest.approx((tp * tn - fp * fn) / np.sqrt(under) if under else 0, abs=1e-12)
    if under:
        assert matthews(predicted, labels) == pytest.approx(stats.pearsonr(predicted, labels).statistic, abs=1e-9)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=30))
def test_correlations_equal_scipy_also_with_ties(pairs):
    x, y = np.array(pairs, float).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert pearson_spearman(x, y) == 0
    else:
        expected = (stats.pearsonr(x, y).statistic + stats.spearmanr(x, y).statistic) / 2
        assert pearson_spearman(x, y) == pytest.approx(expected, abs=1e-9)
        assert pearson_spearman(3 * x - 7, y) == pytest.approx(expected, abs=1e-9)


def test_score_takes_the_task_s_metric():
    logits = np.array([[2.0, 1], [0, 1], [0, 3], [5, 0]])
    labels = np.array([0, 1, 0, 1])  # predicted 0, 1, 1, 0
    expected = {"accuracy": 0.5, "f1": 0.5, "matthews": 0.0}
    for name, task in TASKS.items():
        if task.num_labels == 2:
            assert score(task, logits, labels) == expected[task.metric], name
    assert score(find_task("sts-b"), np.array([[1.0], [2], [4]]), np.array([1.0, 2, 4])) == pytest.approx(1)
    three = np.array([row for row in itertools.permutations([0.0, 1, 2])])
    assert score(find_task("mnli"), three, three.argmax(axis=1)) == 1
    assert score(find_task("mnli"), three, (three.argmax(axis=1) + 1) % 3) == 0
    assert [find_task(n).metric for n in ("sst-2", "cola", "mrpc", "qqp")] == ["accuracy", "matthews", "f1", "f1"]
