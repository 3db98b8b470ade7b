"""GLUE's files as they are laid out, what is wrong in them, and how answers are scored and handed in."""

import itertools

import numpy as np
import pytest

from nanospike import InputError
from nanospike.data.metrics import METRICS
from nanospike.data.tasks import (
    SPLITS,
    TASKS,
    find_task,
    read_split,
    read_splits,
    require_label_order,
    score,
    scores,
    split_path,
    submission_name,
    training_texts,
    write_predictions,
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


LABELLED = {name: None for name, task in TASKS.items() if not task.model}.keys()  # those with training files


def test_every_task_has_a_layout_here():
    assert LAYOUTS.keys() == LABELLED
    assert [t.model for t in TASKS.values() if t.name not in LABELLED] == ["mnli"]


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_official_layout(name, end, tmp_path):
    file, header, rows, texts, labels = LAYOUTS[name]
    write(tmp_path / file, header, rows, end)
    examples = read_split(find_task(name), tmp_path, "dev")
    assert examples.texts == texts and examples.labels.tolist() == labels
    assert examples.labels.dtype == (np.float64 if name == "sts-b" else np.int64)


@pytest.mark.parametrize("name", LABELLED)
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


def test_other_columns_and_blank_lines_of_a_labelled_file_are_nothing(tmp_path):
    write(tmp_path / "dev.tsv", "sentence\tlabel\tnote", ["a\t1\tnote", "", "b\t0\t", "  "])
    examples = read_split(find_task("sst-2"), tmp_path, "dev")
    assert examples.texts == ["a", "b"] and examples.labels.tolist() == [1, 0]


@pytest.mark.parametrize("row", ["a film\tthat tires\t0", "a film\t0\t"])
def test_a_tab_more_than_the_header_has_is_refused(row, tmp_path):
    """It may stand in a text, whose label then would be what follows it."""
    for split in ("train", "dev"):
        write(tmp_path / f"{split}.tsv", "sentence\tlabel", ["fine\t1", row])
        with pytest.raises(InputError, match=f"{split}.tsv, line 3: found 3 columns, expected 2"):
            read_split(find_task("sst-2"), tmp_path, split)


def test_a_carriage_return_within_a_text_ends_no_row(tmp_path):
    body = "index\tsentence\r\n0\twarm\rtea\r\n1\tcold\x0b\x0c\x85\u2028tea\r\n"
    (tmp_path / "test.tsv").write_bytes(body.encode())
    examples = read_split(find_task("sst-2"), tmp_path, "test", need_labels=False)
    assert examples.texts == ["warm\rtea", "cold\x0b\x0c\x85\u2028tea"] and examples.index == ["0", "1"]


@pytest.mark.parametrize(
    "rows, said",
    [
        (["0\ta", "", "1\tb"], "line 3: found nothing in it, expected a row: each one gets an answer"),
        (["0\ta", " \t", "1\tb"], "line 3: found nothing in it"),
        (["0\ta", "1"], "line 3: found 1 columns, expected 2"),
        (["0\ta", "1\tb\tc"], "line 3: found 3 columns, expected 2"),
        (["0\ta", "0\tb"], "line 3: index 0: found again, as in line 2"),
        (["0\ta", " \tb"], "line 3: index: found ' ', expected one for each row"),
    ],
)
def test_a_row_of_a_test_file_that_gets_no_answer_is_refused(rows, said, tmp_path):
    write(tmp_path / "test.tsv", "index\tsentence", rows)
    with pytest.raises(InputError, match=f"test.tsv, {said}"):
        read_split(find_task("sst-2"), tmp_path, "test", need_labels=False)


def test_predictions_stand_under_the_file_s_own_index(tmp_path):
    write(tmp_path / "test.tsv", "index\tsentence", ["5\ta", "9\tb", "12\tc", "", ""])
    examples = read_split(find_task("sst-2"), tmp_path, "test", need_labels=False)
    logits = np.array([[0, 1], [1, 0], [0, 1.0]])
    write_predictions(tmp_path / "p.tsv", find_task("sst-2"), logits, examples.index)
    assert (tmp_path / "p.tsv").read_text() == "index\tprediction\n5\t1\n9\t0\n12\t1\n"


@pytest.mark.parametrize("place", ["AX/test.tsv", "AX/AX.tsv", "AX/diagnostic.tsv", "diagnostic/diagnostic.tsv"])
def test_the_diagnostic_is_found_under_the_names_it_has(place, tmp_path):
    task = find_task("ax")
    (tmp_path / "AX").mkdir()
    write(tmp_path / place, "index\tsentence1\tsentence2", ["0\tA .\tB .", "1\tC .\tD ."])
    examples = read_split(task, tmp_path, "test", need_labels=False)
    assert examples.texts == [("A .", "B ."), ("C .", "D .")] and examples.labels is None
    assert task.id2label == find_task("mnli").id2label and task.splits == ("test",)
    with pytest.raises(InputError, match="--task ax: has a test file only, for models of mnli"):
        read_split(task, tmp_path, "dev")


def test_training_texts_need_no_labels(tmp_path):
    write(tmp_path / "train.tsv", "sentence", ["a", "b"])
    examples = training_texts(find_task("sst-2"), tmp_path)
    assert examples.texts == ["a", "b"] and examples.labels is None
    write(tmp_path / "train.tsv", "sentence\tlabel", ["a\t1", "b\t0"])
    assert training_texts(find_task("sst-2"), tmp_path).labels.tolist() == [1, 0]


QQP = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"


def test_ragged_rows_of_qqp_are_skipped_with_one_warning(tmp_path):
    rows = [
        "0\t1\t2\tWho?\tWhich?\t0",
        "1\t3\t4\tIs it",
        "\twhat?\t1",
        "2\t5\t6\tWhy?\tHow come?\t1",
        "3\t7\t8\tA?\tB?",
    ]
    for split in ("train", "dev"):
        write(tmp_path / f"{split}.tsv", QQP, rows)
        said = f"{tmp_path}/{split}.tsv: 3 of 5 rows have too few columns and were skipped"
        with pytest.warns(UserWarning, match=said) as caught:
            examples = read_split(find_task("qqp"), tmp_path, split)
        assert len(caught) == 1
        assert examples.texts == [("Who?", "Which?"), ("Why?", "How come?")] and examples.labels.tolist() == [0, 1]
    write(tmp_path / "dev.tsv", QQP, rows[1:3])
    with pytest.warns(UserWarning), pytest.raises(InputError, match="dev.tsv: no examples in it"):
        read_split(find_task("qqp"), tmp_path, "dev")


def test_a_ragged_row_is_an_error_where_every_row_needs_an_answer(tmp_path):
    write(tmp_path / "test.tsv", "id\tquestion1\tquestion2", ["0\tWho?\tWhich?", "1\tIs it"])
    with pytest.raises(InputError, match="test.tsv, line 3: found 2 columns, expected 3"):
        read_split(find_task("qqp"), tmp_path, "test", need_labels=False)


def write_mnli(directory, *names):
    _, header, rows, *_ = LAYOUTS["mnli"]
    for i, name in enumerate(names):
        write(directory / f"{name}.tsv", header, rows[: 3 - i])


def test_mnli_matched_and_mismatched_are_kept_apart(tmp_path):
    task = find_task("mnli")
    write_mnli(tmp_path / "MNLI", "dev_matched")
    assert list(read_splits(task, tmp_path, "dev")) == ["dev"]
    write_mnli(tmp_path / "MNLI", "dev_matched", "dev_mismatched")
    both = read_splits(task, tmp_path, "dev")
    assert {k: len(v.texts) for k, v in both.items()} == {"dev": 3, "dev_mismatched": 2}
    for split, n in (("dev_matched", 3), ("dev_mismatched", 2)):
        assert {k: len(v.texts) for k, v in read_splits(task, tmp_path, split).items()} == {split: n}
    assert split_path(task, tmp_path, "dev") == split_path(task, tmp_path, "dev_matched")
    with pytest.raises(InputError, match="no test_matched.tsv in it"):
        read_splits(task, tmp_path, "test", need_labels=False)
    write_mnli(tmp_path / "MNLI", "test_matched", "test_mismatched")
    found = read_splits(task, tmp_path, "test", need_labels=False)
    assert list(found) == ["test", "test_mismatched"] and found["test"].labels is None


def test_only_mnli_has_two_dev_files(tmp_path):
    with pytest.raises(InputError, match="--split: found 'dev_matched', rte has train, dev, test$"):
        read_split(find_task("rte"), tmp_path, "dev_matched")
    assert set(SPLITS) == {s for t in TASKS.values() for s in t.splits}


def test_a_test_file_whose_label_column_is_a_dummy(tmp_path):
    write(tmp_path / "test.tsv", "sentence\tlabel", ["a joy\t-1"])
    assert read_split(find_task("sst-2"), tmp_path, "test", need_labels=False).labels is None


# task: train, dev, test examples of the files at hand; None: no such file
COUNTS = {
    "sst-2": (67349, 872, 1821),
    "cola": (8551, 1043, 1063),
    "mrpc": (3667, 408, 1725),
    "sts-b": (5749, 1500, 1379),
    "qqp": (8999, 1000, None),
    "mnli": (8999, 1000, None),
    "qnli": (8999, 5463, 5463),
    "rte": (2490, 277, 3000),
    "wnli": (635, 71, 146),
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_real_files(name, data_root):
    """Every row of them is an example."""
    task, glue = find_task(name), data_root / "data" / "glue"
    if not (glue / task.folder).is_dir():
        pytest.skip(f"no data: {glue / task.folder} is not there")
    for split, n in zip(("train", "dev", "test"), COUNTS[name], strict=True):
        if n is None:
            continue
        examples = read_split(task, glue, split, need_labels=split != "test")
        assert len(examples.texts) == n and all(all(t) if task.text[1:] else t for t in examples.texts)
        if split == "test":
            assert examples.labels is None
        elif task.labels:
            assert set(examples.labels) == set(range(task.num_labels))
        else:
            assert examples.labels.min() == 0 and examples.labels.max() == 5


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
    assert task.num_labels == (1 if name == "sts-b" else 3 if name in ("mnli", "ax") else 2)
    assert len(task.id2label) == len(task.labels) and task.metric in METRICS


def test_names_for_people():
    assert find_task("sst-2").id2label == {"0": "negative", "1": "positive"}
    assert find_task("rte").id2label == {"0": "entailment", "1": "not_entailment"}
    assert find_task("sts-b").id2label == {}


# ---- answers ----------------------------------------------------------------------------------------------


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


def test_scores_are_all_that_glue_asks_for():
    logits = np.array([[2.0, 1], [0, 1], [0, 3], [5, 0]])
    labels = np.array([0, 1, 0, 1])
    for name in ("mrpc", "qqp"):
        assert scores(find_task(name), logits, labels) == {"f1": 0.5, "accuracy": 0.5}
    assert scores(find_task("cola"), logits, labels) == {"matthews": 0}
    for name in ("sst-2", "qnli", "rte", "wnli", "opinions"):
        assert scores(find_task(name), logits, labels) == {"accuracy": 0.5}
    x, y = np.array([[1.0], [2], [4]]), np.array([1.0, 2, 3])
    found = scores(find_task("sts-b"), x, y)
    assert found["spearman"] == pytest.approx(1) and found["pearson"] < 0.99
    assert score(find_task("sts-b"), x, y) == pytest.approx((found["pearson"] + found["spearman"]) / 2)


@pytest.mark.parametrize(
    "name, logits, expected",
    [
        ("sst-2", [[0, 1], [1, 0]], ["1", "0"]),
        ("cola", [[0, 1], [1, 0]], ["1", "0"]),
        ("mrpc", [[0, 1], [1, 0]], ["1", "0"]),
        ("qqp", [[0, 1], [1, 0]], ["1", "0"]),
        ("wnli", [[0, 1], [1, 0]], ["1", "0"]),
        ("rte", [[0, 1], [1, 0]], ["not_entailment", "entailment"]),
        ("qnli", [[0, 1], [1, 0]], ["not_entailment", "entailment"]),
        ("mnli", [[0, 0, 1], [1, 0, 0], [0, 1, 0]], ["contradiction", "entailment", "neutral"]),
        ("sts-b", [[-0.2], [2.34567], [7.0], [-0.0], [5]], ["0.000", "2.346", "5.000", "0.000", "5.000"]),
    ],
)
def test_predictions_as_glue_wants_them(name, logits, expected, tmp_path):
    write_predictions(tmp_path / "p.tsv", find_task(name), np.array(logits, np.float32))
    lines = [f"{i}\t{label}" for i, label in enumerate(expected)]
    assert (tmp_path / "p.tsv").read_bytes().decode() == "\n".join(["index\tprediction", *lines]) + "\n"


def test_glue_s_names_of_the_files():
    names = {submission_name(t, "test") for t in TASKS.values() if t.name not in ("opinions", "mnli")}
    assert names == {f"{n}.tsv" for n in ("CoLA", "SST-2", "MRPC", "STS-B", "QQP", "QNLI", "RTE", "WNLI", "AX")}
    found = [submission_name(find_task("mnli"), s) for s in ("test", "test_matched", "test_mismatched")]
    assert found == ["MNLI-m.tsv", "MNLI-m.tsv", "MNLI-mm.tsv"]


def test_classes_in_another_order_than_the_task_s_are_refused():
    task = find_task("rte")
    wrong = {"id2label": {"1": "Entailment", "0": "not_entailment"}}
    with pytest.raises(InputError, match="DIR: config.json: id2label: found not_entailment, entailment, rte needs ent"):
        require_label_order(wrong, task, "DIR")
    for names in ({"0": "entailment", "1": "not_entailment"}, {"0": "LABEL_0", "1": "LABEL_1"}, {}, None):
        require_label_order({"id2label": names}, task, "DIR")
    require_label_order({}, find_task("sts-b"), "DIR")
