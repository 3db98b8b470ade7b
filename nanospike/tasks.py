"""GLUE tasks: how their files are read and how their answers are scored. Metrics are fractions."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .config import InputError
from .text import read_lines, read_text


@dataclass(frozen=True)
class Task:
    """folder: below a GLUE directory. text: the one or two columns read. labels: as the files write them, () for a
    regression. names: for people, if they are other than labels. train_lines: an unlabelled training file, if any.
    """

    name: str
    folder: str
    text: tuple
    labels: tuple
    metric: str
    label_column: str = "label"
    header: tuple = ()  # the columns of a file without a header line
    dev: str = "dev"
    names: tuple = ()
    train_lines: str = ""

    @property
    def id2label(self):
        """As config.json has it: {"0": "negative", ...}; empty for a regression."""
        return {str(i): name for i, name in enumerate(self.names or self.labels)}

    @property
    def num_labels(self):
        return len(self.labels) or 1


NUMBERED = ("0", "1")
ENTAILMENT = ("entailment", "not_entailment")
SENTIMENT = ("negative", "positive")
PAIR = ("sentence1", "sentence2")
TASKS = {
    t.name: t
    for t in (
        Task("opinions", "text", ("sentence",), NUMBERED, "accuracy", names=SENTIMENT, train_lines="train.txt"),
        Task("sst-2", "SST-2", ("sentence",), NUMBERED, "accuracy", names=SENTIMENT),
        Task("cola", "CoLA", ("sentence",), NUMBERED, "matthews", header=("source", "label", "star", "sentence")),
        Task("mrpc", "MRPC", ("#1 String", "#2 String"), NUMBERED, "f1", label_column="Quality"),
        Task("sts-b", "STS-B", PAIR, (), "pearson_spearman", label_column="score"),
        Task("qqp", "QQP", ("question1", "question2"), NUMBERED, "f1", label_column="is_duplicate"),
        Task(
            "mnli", "MNLI", PAIR, ("entailment", "neutral", "contradiction"), "accuracy",
            label_column="gold_label", dev="dev_matched",
        ),
        Task("qnli", "QNLI", ("question", "sentence"), ENTAILMENT, "accuracy"),
        Task("rte", "RTE", PAIR, ENTAILMENT, "accuracy"),
        Task("wnli", "WNLI", PAIR, NUMBERED, "accuracy"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Examples:
    """texts: strings or pairs; labels (n,): int64 class, float64 score, or None where the file has none."""

    texts: list
    labels: np.ndarray | None


def find_task(name):
    if name not in TASKS:
        raise InputError(f"--task: found {name!r}, expected one of {', '.join(TASKS)}")
    return TASKS[name]


def training_texts(task, data_dir):
    """The texts of the training split, whose labels distillation does not need: an Examples."""
    if task.train_lines and (Path(data_dir) / task.train_lines).exists():
        return Examples(read_lines([Path(data_dir) / task.train_lines]), None)
    return read_split(task, data_dir, "train", need_labels=False)


def split_path(task, data_dir, split):
    """DIR/train.tsv, or DIR/SST-2/train.tsv."""
    name = f"{task.dev if split == 'dev' else split}.tsv"
    for folder in (Path(data_dir), Path(data_dir) / task.folder):
        if (folder / name).exists():
            return folder / name
    raise InputError(f"--data-dir {data_dir}: no {name} in it, nor in its folder {task.folder}")


def read_split(task, data_dir, split, need_labels=True):
    """The Examples of one split (train, dev, test). InputError names file and line of what cannot be used."""
    path = split_path(task, data_dir, split)
    lines = read_text(path, "utf-8-sig").split("\n")
    rows = [(number, line.split("\t")) for number, line in enumerate(lines, 1) if line.strip()]
    header = list(task.header) if task.header and split != "test" else rows.pop(0)[1] if rows else []
    if not rows:
        raise InputError(f"{path}: no examples in it")
    if missing := [c for c in task.text if c not in header]:
        raise InputError(f"{path}: no column {', '.join(missing)}; found {', '.join(header)}")
    if need_labels and task.label_column not in header:
        raise InputError(f"{path}: no column {task.label_column}; found {', '.join(header)}")
    places = [header.index(c) for c in task.text]
    label_place = header.index(task.label_column) if task.label_column in header else None
    texts, labels = [], []
    for number, row in rows:
        if len(row) <= max(places):
            raise InputError(f"{path}, line {number}: found {len(row)} columns, expected {len(header)}")
        texts.append(row[places[0]] if len(places) == 1 else tuple(row[p] for p in places))
        if label_place is not None:
            labels.append(_label(task, row, label_place, f"{path}, line {number}"))
    kind = np.int64 if task.labels else np.float64
    return Examples(texts, np.array(labels, kind) if label_place is not None else None)


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


def accuracy(predicted, labels):
    return float(np.mean(predicted == labels))


def f1(predicted, labels):
    """Of class 1; 0 where there is nothing to count."""
    hits = int(np.sum((predicted == 1) & (labels == 1)))
    total = int(np.sum(predicted == 1) + np.sum(labels == 1))
    return 2 * hits / total if total else 0.0


def matthews(predicted, labels):
    """Matthews correlation of two classes; 0 where a class is missing."""
    p, y = np.asarray(predicted == 1, float), np.asarray(labels == 1, float)
    spread = p.std() * y.std()
    return float(((p - p.mean()) * (y - y.mean())).mean() / spread) if spread else 0.0


def pearson_spearman(predicted, labels):
    """The mean of Pearson's and Spearman's correlation."""
    from scipy.stats import rankdata

    def correlation(a, b):
        return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else 0.0

    return (correlation(predicted, labels) + correlation(rankdata(predicted), rankdata(labels))) / 2


METRICS = {m.__name__: m for m in (accuracy, f1, matthews, pearson_spearman)}


def score(task, logits, labels):
    """The task's metric for logits (n, C) and labels (n,), on the host."""
    predicted = logits.argmax(axis=1) if task.labels else logits[:, 0]
    return METRICS[task.metric](predicted, labels)
