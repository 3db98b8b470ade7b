"""A data set of one's own: its columns, its classes or numbers, its held-out tenth, and the Task that it makes."""

import math
import re
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import numpy as np

from ..config.errors import InputError
from ..config.options import flag, option
from .tables import kind_of, read_table
from .tasks import Examples, Task, row_index

TEXT, LABEL = ("text", "sentence"), ("label",)  # columns that are found without being named, in any letter case
HELD_OUT, HELD_OUT_SEED = 10, 0x74656E74  # one in so many is held out, drawn with a seed of its own
MANY_CLASSES = 20  # of numbers, most of them there once: then they are no classes
NUMBER = re.compile(r"[+-]?([0-9]{1,30}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][+-]?[0-9]{1,2})?")
GENERIC = re.compile(r"LABEL_([0-9]+)")
FILES = ("train_file", "dev_file", "test_file")
COLUMNS = ("text_column", "pair_column", "label_column")


@dataclass(frozen=True, kw_only=True)
class OwnFiles:
    """The options for a data set of one's own."""

    train_file: Path | None = option(
        "your own data in place of --task and --data-dir: .csv, .tsv (no quoting) or .jsonl, each also with .gz", None
    )
    dev_file: Path | None = option(
        "your own data to score on; without it, a tenth of --train-file, drawn with a fixed seed and not trained on",
        None,
    )
    text_column: str | None = option("column of the text; without it, text or sentence", None)
    pair_column: str | None = option("column of the second text of a pair; without it, single texts", None)
    label_column: str | None = option("column of the label; without it, label", None)
    regression: bool = option("the labels are numbers to be estimated, not classes", False)

    @property
    def own(self):
        """Whether the run is about files of one's own."""
        return any(getattr(self, name, None) is not None for name in FILES)

    def require_one_source(self, task_needed=True):
        """InputError unless there is either a task or files of one's own."""
        if self.own:
            if given := [flag(n) for n in ("task", "data_dir") if getattr(self, n) is not None]:
                raise InputError(f"{', '.join(given)}: not together with {self._given(FILES)}, your own data")
            return
        if given := self._given((*COLUMNS, "regression")):
            raise InputError(f"{given}: for data of your own; give --train-file")
        if task_needed and (missing := [flag(n) for n in ("task", "data_dir") if getattr(self, n) is None]):
            raise InputError(f"missing {', '.join(missing)}; or give --train-file, your own data")

    def _given(self, names):
        return ", ".join(flag(n) for n in names if getattr(self, n, None) not in (None, False))


# ---- files ---------------------------------------------------------------------------------------------------------


def own_data(options, model=None, splits=("train", "dev"), need_labels=True):
    """(Task, {split: Examples}) of the files in `options` (OwnFiles).

    model: one that knows the task already (Teacher or Student), whose classes are meant; None: they are those of the
    training file. need_labels: of the training texts; a dev split without any has labels None. Labels are classes
    int64, or the numbers of a regression in their own unit.
    """
    files = {name: getattr(options, f"{name}_file", None) for name in splits}
    tables = {name: _read(path, options, name, need_labels) for name, path in files.items() if path is not None}
    regression = _is_regression(options, model)
    classes = () if regression else classes_of(model) if model else _classes(tables["train"])
    found = {name: _examples(raw, classes, regression) for name, raw in tables.items()}
    if "dev" in splits and "dev" not in found and "train" in found:
        found["train"], found["dev"] = held_out(found["train"], options.train_file)
    if regression and "train" in found and found["train"].labels is not None:
        if np.ptp(found["train"].labels) == 0:
            raise InputError(f"{options.train_file}: every label is {found['train'].labels[0]:g}: nothing to learn")
    name = Path(next(path for path in files.values() if path is not None)).name
    return own_task(name, classes), found


def own_task(name, classes):
    """The Task of these classes, in this order; () is a regression."""
    kinds = ("accuracy", "macro_f1", "matthews") if classes else ("pearson", "spearman", "rmse")
    return Task(name, "", (), tuple(classes), kinds[0], metrics=kinds, own=True)


def agreement(task):
    """The task, scored by how well a student agrees with its teacher."""
    metric = "agreement_with_teacher" if task.labels else "pearson_with_teacher"
    return replace(task, metric=metric, metrics=(metric,))


@dataclass(frozen=True)
class _Raw:
    """What the columns of a file hold: texts, labels (as they stand there; None: no such column), lines, index."""

    path: Path
    texts: list
    labels: list | None
    lines: list
    index: list | None


def _read(path, options, split, need_labels):
    if kind_of(path) == ".txt" and split == "train" and need_labels:
        raise InputError(f"{flag(split + '_file')} {path}: texts without labels; only distill trains on them")
    table = read_table(path, every_row=split == "test")
    text = _column(table, options.text_column, "--text-column", TEXT)
    if options.pair_column is not None:
        pair = _column(table, options.pair_column, "--pair-column", ())
        texts = [tuple(_text(row[i], table, n) for i in (text, pair)) for n, row in table.rows]
    else:
        texts = [_text(row[text], table, n) for n, row in table.rows]
    if empty := sum(not "".join(t).strip() for t in texts):
        warnings.warn(f"{path}: {empty} of {len(texts)} texts are empty", stacklevel=4)
    optional = split == "test" or (not need_labels and options.label_column is None)
    label = _column(table, options.label_column, "--label-column", LABEL, optional)
    labels = None if label is None else [row[label] for _, row in table.rows]
    return _Raw(path, texts, labels, [n for n, _ in table.rows], row_index(table))


def _column(table, given, option_name, known, optional=False):
    """The place of a column; None if it is optional and not there."""
    header, path = table.header, table.path
    places = [i for i, n in enumerate(header) if n == given or (given is None and n.strip().lower() in known)]
    if len(places) == 1:
        return places[0]
    wanted = given if given is not None else " or ".join(known)
    if places:
        raise InputError(f"{path}: {len(places)} columns may be {wanted}; name one that is there once: {option_name}")
    if optional and given is None:
        return None
    shown = ", ".join(n[:40] for n in header[:12]) + (", ..." if len(header) > 12 else "")
    hint = "; the first line has to name the columns" if kind_of(path) in (".csv", ".tsv") else ""
    if len(header) == 1 and (other := [n for s, n in ((";", "semicolons"), ("\t", "tabs")) if s in header[0]]):
        hint = f"; it is separated by {other[0]}, expected commas"
    raise InputError(f"{path}: no column {wanted} ({option_name}); found {shown or 'none'}{hint}")


def _text(value, table, number):
    if not isinstance(value, str):
        raise InputError(f"{table.path}, line {number}: found {value!r}, expected a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{table.path}, line {number}: half a surrogate pair in the text, expected UTF-8") from None
    return value


# ---- labels --------------------------------------------------------------------------------------------------------


def canonical(value):
    """A label as its class is named: without spaces around; of a number, 1 for 1.0 and +1; true and false of JSON."""
    if isinstance(value, bool):
        return str(value).lower()
    text = ("" if value is None else str(value)).strip()
    if not NUMBER.fullmatch(text):
        return text
    number = Decimal(text)
    return f"{number.normalize():f}" if number else "0"


def in_order(names):
    """Class names by value if all are numbers, else by code point."""
    numbers = all(NUMBER.fullmatch(name) for name in names)
    return sorted(names, key=Decimal if numbers else None)


def classes_of(model):
    """The names of a model's classes, in order; where it has none but LABEL_0, LABEL_1: 0, 1."""
    names, count = model.raw_config.get("id2label") or {}, model.config.num_labels
    found = [str(names.get(str(i), f"LABEL_{i}")) for i in range(count)]
    generic = all(GENERIC.fullmatch(name) for name in found)
    found = [GENERIC.fullmatch(name)[1] if generic else canonical(name) for name in found]
    if len(set(found)) < count:
        raise InputError(f"{model.directory}: config.json: id2label: two classes have one name: {', '.join(found)}")
    return tuple(found)


def _is_regression(options, model):
    if model is None:
        return options.regression
    if options.regression and model.config.num_labels != 1:
        raise InputError(f"--regression: {model.directory} has {model.config.num_labels} classes, expected one output")
    return model.config.num_labels == 1


def _classes(raw):
    """The classes of a training file, in order."""
    names = [_label(raw, i) for i in range(len(raw.texts))]
    counts = Counter(names)
    if len(counts) < 2:
        raise InputError(f"{raw.path}: every label is {names[0]!r}, expected two classes or more")
    found = in_order(counts)
    if len(counts) > MANY_CLASSES and 2 * len(counts) > len(names) and all(NUMBER.fullmatch(n) for n in counts):
        raise InputError(f"{raw.path}: {len(counts)} different labels in {len(names)} rows; give --regression")
    return tuple(found)


def _label(raw, row):
    value = raw.labels[row]
    name = canonical(value)
    strange = any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in name)  # ends of lines, halves of surrogate pairs
    if not name or strange or isinstance(value, (list, dict)) or len(name) > 200:
        shown = str(value)[:40]
        raise InputError(f"{raw.path}, line {raw.lines[row]}: label {shown!r}, expected a word or a number")
    return name


def _examples(raw, classes, regression):
    if raw.labels is None:
        return Examples(raw.texts, None, raw.index)
    if regression:
        labels = np.array([_number(raw, i) for i in range(len(raw.texts))], np.float64)
        return Examples(raw.texts, labels, raw.index)
    place = {name: i for i, name in enumerate(classes)}
    names = [_label(raw, i) for i in range(len(raw.texts))]
    for row, name in enumerate(names):
        if name not in place and (known := GENERIC.fullmatch(name)) and known[1] in place:
            names[row] = known[1]
        elif name not in place:
            some = ", ".join(classes[:8]) + (f" and {len(classes) - 8} more" if len(classes) > 8 else "")
            raise InputError(f"{raw.path}, line {raw.lines[row]}: label {name!r}, the classes trained are {some}")
    return Examples(raw.texts, np.array([place[name] for name in names], np.int64), raw.index)


def _number(raw, row):
    value = raw.labels[row]
    try:
        number = math.nan if isinstance(value, (bool, list, dict, type(None))) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or abs(number) > 1e30:
        raise InputError(f"{raw.path}, line {raw.lines[row]}: label {str(value)[:40]!r}, expected a number")
    return number


def held_out(examples, path):
    """(training Examples, held-out Examples) of one file: the same whatever the options.

    One in HELD_OUT is held out, but never the last of its class.
    """
    count, labels = len(examples.texts), examples.labels
    classes = labels if labels is not None and labels.dtype == np.int64 else np.zeros(count, np.int64)
    left, taken = np.bincount(classes), []
    for i in np.random.default_rng(HELD_OUT_SEED).permutation(count):
        if len(taken) < max(1, count // HELD_OUT) and left[classes[i]] > 1:
            left[classes[i]] -= 1
            taken.append(int(i))
    if not taken:
        raise InputError(f"{path}: {count} examples are too few to hold out a tenth; give --dev-file")
    out = sorted(taken)
    kept = sorted(set(range(count)) - set(out))
    return _some(examples, kept), _some(examples, out)


def _some(examples, rows):
    labels = None if examples.labels is None else examples.labels[rows]
    return Examples([examples.texts[i] for i in rows], labels)


def with_class_weights(options, task, labels):
    """The options with numbers as --class-weights, whose mean over the training labels (n,) is 1.

    balanced: each class counts the same, however many examples it has.
    """
    wanted, classes = options.class_weights, tuple(task.id2label.values())
    if wanted is None:
        return options
    if not classes:
        raise InputError(f"--class-weights: {task.name} is a regression, without classes")
    counts = np.bincount(labels, minlength=len(classes))
    if wanted == "balanced":
        weights = 1 / np.maximum(counts, 1)
    else:
        try:
            weights = np.array([float(v) for v in wanted.split(",")])
        except ValueError:
            weights = np.zeros(0)
        if len(weights) != len(classes) or not (np.isfinite(weights) & (weights >= 0)).all() or not weights @ counts:
            expected = f"balanced, or {len(classes)} numbers of at least 0, in the order {', '.join(classes)}"
            raise InputError(f"--class-weights: found {wanted}, expected {expected}")
    weights *= counts.sum() / (weights @ counts)
    return replace(options, class_weights=",".join(f"{w:.9g}" for w in weights))
