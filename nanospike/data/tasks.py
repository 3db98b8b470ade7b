"""GLUE tasks: how their files are read, how answers are scored, and how predictions are handed in."""

import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..config.errors import InputError
from ..files.model_files import replacing
from .metrics import METRICS
from .tables import Table, file_text, lines_of


@dataclass(frozen=True)
class Task:
    """folder: below a GLUE directory. text: the one or two columns read. labels: as the files write them, () for a
    regression (scores from 0 to 5). metric: the one that stands for the task; metrics: all that GLUE asks for, if it
    is more than that one. names: for people, if they are other than labels. variants: of the dev and test files; the
    first is meant where none is named. ragged: labelled rows with too few columns are skipped, as the official loaders
    do. bounds: of a regression's answers that are handed in. model: the task whose models answer it, if it has none of
    its own: then it has a test file only, under one of the names test_files. own: a data set of the user's, not GLUE's.
    """

    name: str
    folder: str
    text: tuple
    labels: tuple
    metric: str
    label_column: str = "label"
    header: tuple = ()  # the columns of a file without a header line
    names: tuple = ()
    metrics: tuple = ()
    variants: tuple = ()
    ragged: bool = False
    bounds: tuple = ()
    model: str = ""
    test_files: tuple = ("test.tsv",)
    own: bool = False

    @property
    def id2label(self):
        """As config.json has it: {"0": "negative", ...}; empty for a regression."""
        return {str(i): name for i, name in enumerate(self.names or self.labels)}

    @property
    def num_labels(self):
        return len(self.labels) or 1

    @property
    def splits(self):
        """Every name that a split of the task has."""
        if self.model:
            return ("test",)
        return ("train", "dev", "test", *(f"{s}_{v}" for s in ("dev", "test") for v in self.variants))


NUMBERED = ("0", "1")
ENTAILMENT = ("entailment", "not_entailment")
INFERENCE = ("entailment", "neutral", "contradiction")
SENTIMENT = ("negative", "positive")
PAIR = ("sentence1", "sentence2")
F1_ACCURACY = ("f1", "accuracy")
TASKS = {
    t.name: t
    for t in (
        Task("opinions", "text", ("sentence",), NUMBERED, "accuracy", names=SENTIMENT),
        Task("sst-2", "SST-2", ("sentence",), NUMBERED, "accuracy", names=SENTIMENT),
        Task("cola", "CoLA", ("sentence",), NUMBERED, "matthews", header=("source", "label", "star", "sentence")),
        Task("mrpc", "MRPC", ("#1 String", "#2 String"), NUMBERED, "f1", label_column="Quality", metrics=F1_ACCURACY),
        Task(
            "sts-b", "STS-B", PAIR, (), "pearson_spearman",
            label_column="score", metrics=("pearson", "spearman"), bounds=(0, 5),
        ),
        Task(
            "qqp", "QQP", ("question1", "question2"), NUMBERED, "f1",
            label_column="is_duplicate", metrics=F1_ACCURACY, ragged=True,
        ),
        Task(
            "mnli", "MNLI", PAIR, INFERENCE, "accuracy",
            label_column="gold_label", variants=("matched", "mismatched"),
        ),
        Task("qnli", "QNLI", ("question", "sentence"), ENTAILMENT, "accuracy"),
        Task("rte", "RTE", PAIR, ENTAILMENT, "accuracy"),
        Task("wnli", "WNLI", PAIR, NUMBERED, "accuracy"),
        Task(
            "ax", "AX", PAIR, INFERENCE, "matthews",
            model="mnli", test_files=("test.tsv", "AX.tsv", "diagnostic.tsv", "../diagnostic/diagnostic.tsv"),
        ),
    )
}  # fmt: skip
CONFUSED = 20  # most classes of which a table is shown
SPLITS = tuple(dict.fromkeys(split for task in TASKS.values() for split in task.splits))


@dataclass(frozen=True)
class Examples:
    """texts: strings or pairs; labels (n,): int64 class, float64 score, or None where the file has none; index: what
    the file itself calls the rows (texts), None where it does not."""

    texts: list
    labels: np.ndarray | None
    index: list | None = None


def first(examples, count):
    """The first `count` of Examples."""
    labels, index = (part if part is None else part[:count] for part in (examples.labels, examples.index))
    return Examples(examples.texts[:count], labels, index)


def find_task(name):
    if name not in TASKS:
        raise InputError(f"--task: found {name!r}, expected one of {', '.join(TASKS)}")
    return TASKS[name]


def require_label_order(raw_config, task, where):
    """InputError if a model's config.json has the task's classes, by their names, in another order than the task.

    Other names than the task's, such as LABEL_0, say nothing of the order.
    """
    theirs = [str(name).lower() for _, name in sorted((raw_config.get("id2label") or {}).items(), key=_number)]
    ours = [name.lower() for name in task.id2label.values()]
    if theirs != ours and sorted(theirs) == sorted(ours):
        found = (
            f"found {', '.join(theirs)}, {task.name} needs {', '.join(ours)}: reorder them and the classifier's rows"
        )
        raise InputError(f"{where}: config.json: id2label: {found}")


def _number(item):
    return int(item[0])


def training_texts(task, data_dir):
    """The texts of the training split, whose labels distillation does not need: an Examples."""
    return read_split(task, data_dir, "train", need_labels=False)


def split_path(task, data_dir, split):
    """DIR/train.tsv, or DIR/SST-2/train.tsv; of dev and test with variants the first, such as dev_matched.tsv."""
    if task.model and split not in task.splits:
        raise InputError(f"--task {task.name}: has a test file only, for models of {task.model}: evaluate --split test")
    if split not in task.splits:
        raise InputError(f"--split: found {split!r}, {task.name} has {', '.join(task.splits)}")
    variant = f"_{task.variants[0]}" if task.variants and split in ("dev", "test") else ""
    names = task.test_files if split == "test" and not variant else (f"{split}{variant}.tsv",)
    for folder in (Path(data_dir), Path(data_dir) / task.folder):
        for name in names:
            if (path := folder / name).exists():
                return path
    raise InputError(f"--data-dir {data_dir}: no {names[0]} in it, nor in its folder {task.folder}")


def read_splits(task, data_dir, split, need_labels=True):
    """{split: Examples}: of the split, and of its other variants whose files exist: dev, dev_mismatched."""
    found = {split: read_split(task, data_dir, split, need_labels)}
    for variant in task.variants[1:] if split in ("dev", "test") else ():
        name = f"{split}_{variant}"
        if (split_path(task, data_dir, split).parent / f"{name}.tsv").exists():
            found[name] = read_split(task, data_dir, name, need_labels)
    return found


def read_split(task, data_dir, split, need_labels=True):
    """The Examples of one split. InputError names file and line of what cannot be used.

    A test file's labels are not read unless they are needed: GLUE's has none. Quotes are characters as any other.
    """
    path = split_path(task, data_dir, split)
    is_test = split.startswith("test")
    rows = [(number, line.split("\t")) for number, line in _rows(path, every_row=is_test)]
    header = list(task.header) if task.header and not is_test else rows.pop(0)[1] if rows else []
    if not rows:
        raise InputError(f"{path}: no examples in it")
    if missing := [c for c in task.text if c not in header]:
        raise InputError(f"{path}: no column {', '.join(missing)}; found {', '.join(header)}")
    if need_labels and task.label_column not in header:
        raise InputError(f"{path}: no column {task.label_column}; found {', '.join(header)}")
    for number, row in rows:
        if len(row) > len(header):
            raise InputError(f"{path}, line {number}: found {len(row)} columns, expected {len(header)}")
    has_labels = task.label_column in header and (need_labels or not is_test)
    places = [header.index(c) for c in (*task.text, *((task.label_column,) if has_labels else ()))]
    if task.ragged and has_labels:
        rows = _without_short(rows, max(places), path)
    index = row_index(Table(path, header, rows)) if is_test else None
    return replace(_examples(task, rows, places, len(header), path), index=index)


def _rows(path, every_row):
    """[(number, line)] of a file without its empty lines; those before its end are an error if every_row."""
    lines = lines_of(file_text(path))
    while lines and not lines[-1][1].strip():
        lines.pop()
    if every_row:
        for number, line in lines:
            if not line.strip():
                raise InputError(f"{path}, line {number}: found nothing in it, expected a row: each one gets an answer")
    return [(number, line) for number, line in lines if line.strip()]


def row_index(table):
    """What the column `index` says of each row, as texts; None if there is no such column."""
    if table.header.count("index") != 1:
        return None
    place, seen = table.header.index("index"), {}
    for number, row in table.rows:
        value = "" if len(row) <= place or row[place] is None else str(row[place])
        if not value.strip() or any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in value):
            raise InputError(f"{table.path}, line {number}: index: found {value!r}, expected one for each row")
        if seen.setdefault(value, number) != number:
            raise InputError(f"{table.path}, line {number}: index {value}: found again, as in line {seen[value]}")
    return list(seen)


def _without_short(rows, last, path):
    """The rows that reach column `last`, with one warning about the others."""
    whole = [(number, row) for number, row in rows if len(row) > last]
    if len(whole) < len(rows):
        skipped = len(rows) - len(whole)
        warnings.warn(f"{path}: {skipped} of {len(rows)} rows have too few columns and were skipped", stacklevel=4)
    if not whole:
        raise InputError(f"{path}: no examples in it")
    return whole


def _examples(task, rows, places, columns, path):
    """places: the columns of the texts, and that of the label if it is to be read."""
    parts = len(task.text)
    texts, labels = [], []
    for number, row in rows:
        if len(row) <= max(places[:parts]):
            raise InputError(f"{path}, line {number}: found {len(row)} columns, expected {columns}")
        texts.append(row[places[0]] if parts == 1 else tuple(row[p] for p in places[:parts]))
        labels += [_label(task, row, p, f"{path}, line {number}") for p in places[parts:]]
    kind = np.int64 if task.labels else np.float64
    return Examples(texts, np.array(labels, kind) if len(places) > parts else None)


def _label(task, row, place, where):
    text = row[place] if place < len(row) else ""
    if task.labels:
        if text not in task.labels:
            raise InputError(f"{where}: label {text!r}, expected one of {', '.join(task.labels)}")
        return task.labels.index(text)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: score {text!r}, expected a number")
    return value


def answers(task, logits):
    """Classes (n,) int64, or the scores (n,) of a regression, of logits (n, C) on the host."""
    return logits.argmax(axis=1) if task.labels else logits[:, 0]


def score(task, logits, labels):
    """The metric that stands for the task, for logits (n, C) and labels (n,), on the host."""
    return METRICS[task.metric](answers(task, logits), labels)


def scores(task, logits, labels):
    """{metric: value} of all metrics that GLUE asks for."""
    return {name: METRICS[name](answers(task, logits), labels) for name in task.metrics or (task.metric,)}


def confusion(task, logits, labels):
    """How often each class (row) was taken for each (column), nested lists, of a set of one's own; None of others, and
    of more than CONFUSED classes.
    """
    if not task.own or not 1 < len(task.labels) <= CONFUSED:
        return None
    size = len(task.labels)
    return np.bincount(labels * size + answers(task, logits), minlength=size**2).reshape(size, size).tolist()


def submission_name(task, split):
    """GLUE's name for the predictions of a test split: SST-2.tsv, MNLI-m.tsv, MNLI-mm.tsv."""
    short = {"matched": "-m", "mismatched": "-mm"}
    variant = split.partition("_")[2] or (task.variants or ("",))[0]
    return f"{task.folder}{short.get(variant, '')}.tsv"


def write_predictions(path, task, logits, index=None):
    """A file as GLUE wants it: index and prediction, the label as the task's files write it, or a score in its bounds.

    index: what the file calls its rows; None: their numbers from 0.
    """
    found = answers(task, logits)
    scored = np.clip(found, *task.bounds) + 0.0 if task.bounds else found  # + 0.0: no minus before a zero
    number = "{:.3f}" if task.bounds else "{:.7g}"
    texts = [task.labels[i] if task.labels else number.format(i) for i in scored]
    index = range(len(texts)) if index is None else index
    with replacing(path) as temporary:
        lines = ["index\tprediction", *(f"{i}\t{text}" for i, text in zip(index, texts, strict=True))]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
