"""python -m nanospike.evaluate: score a student at equilibrium and spike by spike, or label a test file."""

import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from .arrays.backend import PRECISIONS
from .arrays.workers import WORKERS_HELP, Workers
from .config.errors import InputError
from .config.options import flag, option, parse, plain, require_at_least
from .data.own import OwnFiles, own_data
from .data.tasks import SPLITS, find_task, first, read_splits, require_label_order, write_predictions
from .data.text import encode, require_segments
from .data.tokenizer import load_tokenizer
from .files.bundled import bundled
from .files.model_files import require_empty, write_json
from .glue import TASK_HELP, run_tasks
from .model.loading import load_student
from .model.neuron import SPIKES
from .model.simulate import ARITHMETICS, DRIVES, SpikingRun
from .model.student_teacher import load_any_teacher
from .results.energy import energy_table, of_results
from .results.inference import (
    confusion_table,
    drive_for,
    evaluate_student,
    nested,
    require_head,
    run_student,
    scored,
    spent,
    table,
    with_teacher,
)
from .start import accelerate, announce, command
from .training.options import FAST_HELP, PRECISION_HELP, require_precision


@dataclass(frozen=True, kw_only=True)
class Evaluate(OwnFiles):
    """Score a spiking student on a task: at equilibrium, and spike by spike at several numbers of time steps."""

    model: Path | None = option("directory of a student; without one, the bundled student", None)
    teacher: Path | None = option("directory of its teacher, to be scored on the same data", None)
    task: str | None = option(TASK_HELP + "; without it and files of your own, opinions: the bundled text", None)
    data_dir: Path | None = option("directory of the task's data, or the GLUE directory above it", None)
    test_file: Path | None = option(
        "of your own data: predictions.tsv gets an answer to each row; scored if it has labels", None
    )
    split: str = option(
        "which file; test: write predictions.tsv, as GLUE wants it, from the longest spiking run", "dev", choices=SPLITS
    )
    time_steps: tuple[int, ...] = option("time steps at which it is scored", (2, 4, 8, 16, 32, 64))
    drive: str | None = option(
        "how neurons are driven; without it, differential (leaky: instant)", None, choices=DRIVES
    )
    spikes: str | None = option(
        "what a neuron may emit; without it, what the student was trained for", None, choices=SPIKES
    )
    initial: float = option(
        "membranes at the start, as a fraction of the threshold; of leaky neurons, how far below it they fire", 0.5
    )
    window: float | None = option(
        "how many more spikes a neuron must be short of, or ahead by, than half a one to fire: fewer, coarser spikes; "
        "without it, what the student was trained for",
        None,
    )
    examples: int = option("so many examples from the beginning of each file; 0: all of them", 0)
    max_length: int = option("word pieces per text; longer ones are cut", 128)
    batch_size: int = option("examples at a time; 0: 32, on a GPU 256", 0)
    output_dir: Path | None = option(
        "directory for eval_results.json and predictions.tsv; must be empty or absent", None
    )
    seed: int = option("accepted for uniformity: evaluation draws no random numbers", 0)
    device: str = option("where to compute", "cpu", choices=("cpu", "cuda"))
    workers: int = option(WORKERS_HELP, 0)
    fast: bool = option(FAST_HELP, True)
    precision: str = option(PRECISION_HELP, "float32", choices=tuple(PRECISIONS))
    margin: float | None = option(
        "anytime inference: an example stops at the first of the time steps where its best logit leads by this much; "
        "without it, all run to the end",
        None,
    )
    margin_decay: float = option(
        "at time step t, a lead of MARGIN / t^DECAY is enough; 1: as the error of a spiking rate falls", 0.0
    )
    arithmetic: str = option(
        "numbers of the spiking runs; integer: whole ones only, of students with --operators shift and --weights "
        "ternary or binary",
        "float",
        choices=ARITHMETICS,
    )
    energy: bool = option("also count all operations, and what they would cost: a table, and energy.json", False)

    def __post_init__(self):
        self._resolve_task()
        require_precision(self)
        if not self.time_steps or min(self.time_steps) < 1:
            raise InputError(f"--time-steps: found {list(self.time_steps)}, expected whole numbers of at least 1")
        if is_test(self.split) and self.output_dir is None:
            raise InputError(f"--output-dir: needed for the predictions of --split {self.split}")
        if is_test(self.split) and self.teacher is not None:
            raise InputError(f"--teacher: cannot be scored on --split {self.split}, which has no labels")
        if self.test_file is not None and self.teacher is not None:
            raise InputError("--teacher: cannot be scored on a --test-file; give a --dev-file")
        require_at_least(self, batch_size=0, max_length=3, workers=0, examples=0)
        if self.window is not None:
            require_at_least(self, window=0)
        if self.margin is not None:
            require_at_least(self, margin=0, margin_decay=0)
        if self.margin_decay and self.margin is None:
            raise InputError("--margin-decay: without --margin there is nothing that decays")
        if self.energy and (self.margin is not None or is_test(self.split) or self.test_file is not None):
            raise InputError(
                "--energy: of a dev set at fixed time steps; leave out --margin, --split test, --test-file"
            )
        if not 0 <= self.initial < 1:
            raise InputError(f"--initial: found {self.initial}, expected at least 0 and below 1")

    def _resolve_task(self):
        self.require_one_source(task_needed=False)
        if self.own and self.split != "dev":
            raise InputError(f"--split {self.split}: of a task; give --dev-file or --test-file alone")
        if not self.own and self.task is None:
            object.__setattr__(self, "task", "opinions")
        if self.data_dir is None and self.task not in (None, "opinions"):
            raise InputError(f"--data-dir: needed for --task {self.task}")


def prepare(options):
    """All that the run reads, checked: the arguments of run. data, theirs: {split: Encoded}."""
    task, splits = None if options.own else find_task(options.task), None
    student = load_student(options.model or bundled("student"), options.device)
    require_head(student)
    if options.own:
        task, splits = read_own(options, student)
    options = replace(
        options,
        model=student.directory,
        data_dir=None if options.own else options.data_dir or bundled("text"),
        **neuron_options(options, student),
    )
    student.require_run(replace(spiking_run(options), time_steps=max(options.time_steps)))
    require_label_order(student.raw_config, task, f"--model {options.model}")
    if student.config.num_labels != task.num_labels:
        found = student.config.num_labels
        raise InputError(f"--model {options.model}: has {found} labels, {task.name} needs {task.num_labels}")
    teacher = load_any_teacher(options.teacher, options.device) if options.teacher else None
    if teacher and (teacher.config.num_labels != task.num_labels or "classifier" not in teacher.tree):
        raise InputError(f"--teacher {options.teacher}: no classifier with the {task.num_labels} labels of {task.name}")
    if teacher:
        require_label_order(teacher.raw_config, task, f"--teacher {options.teacher}")
    if options.margin is not None and not task.labels:
        warnings.warn(
            f"--margin: {task.name} is a regression, without a decision: every text runs to the end", stacklevel=2
        )
    if splits is None:
        splits = read_splits(task, options.data_dir, options.split, need_labels=not is_test(options.split))
    if options.examples:
        splits = {name: first(examples, options.examples) for name, examples in splits.items()}
    data = {name: encoded(options, student, examples) for name, examples in splits.items()}
    theirs = {name: encoded(options, teacher, examples) if teacher else None for name, examples in splits.items()}
    if options.output_dir:
        require_empty(options.output_dir)
    index = {name: examples.index for name, examples in splits.items()}
    return options, task, student, teacher, data, theirs, index


def read_own(options, student):
    """(Task, {split: Examples}) of the files of one's own that are to be scored or labelled."""
    scored = "dev" if options.dev_file or options.train_file else None
    splits = [s for s in (scored, "test" if options.test_file else None) if s]
    files = ("train", *splits) if options.train_file and not options.dev_file else splits
    task, found = own_data(options, student, files)
    unlabelled = "test" in found and found["test"].labels is None
    if unlabelled and options.output_dir is None:
        raise InputError(f"--output-dir: needed for the predictions of {options.test_file}, which has no labels")
    return task, {name: found[name] for name in splits}


def run(options, task, student, teacher, data, theirs, index):
    announce(options, options.output_dir and options.output_dir / "eval_results.json")
    accelerate(options)
    if options.output_dir:
        options.output_dir.mkdir(parents=True, exist_ok=True)
    found, costs, how = {}, None, spiking_run(options)
    for name, part in data.items():
        if is_test(name):
            found[name] = tested(options, task, student, name, part, index[name])
            continue
        results = evaluate_student(
            student, task, part, options.time_steps, how, options.batch_size, workers_of(options)
        )
        found[name] = with_teacher(results, task, teacher, theirs[name], workers=workers_of(options))
        if how.count:
            costs, how = of_results(student, how, found[name], teacher), replace(how, count=False)  # the first's
    results = nested(found)
    if files := {name: file for part in found.values() for name, file in part.get("predictions", {}).items()}:
        results |= {"predictions": files}
    results |= {"options": plain(options)}
    if options.output_dir:
        write_json(options.output_dir / "eval_results.json", results)
        if costs:
            write_json(options.output_dir / "energy.json", costs)
    if "metric" in results:
        print("\n".join(filter(None, (table(results), confusion_table(results, task)))))
    if costs:
        print(energy_table(costs))
    if "predictions" in results:
        print(f"{task.name}: predictions in {options.output_dir}")
    print(spent(results["seconds"], results["peak_memory_mb"]))
    return results


def tested(options, task, student, name, data, index):
    """Results of a test file, scored if it has labels; writes predictions.tsv (predictions_mismatched.tsv).

    The predictions are those of the spiking run at the largest number of time steps; an ann student's those it has.
    """
    spiking = student.config.activation != "ann"
    every = options.margin is not None or data.labels is not None  # where examples may stop, or are scored
    steps = options.time_steps if every else [max(options.time_steps)]
    logits, facts = run_student(student, data, steps, spiking_run(options), options.batch_size, workers_of(options))
    results = {"task": task.name, "split": name, "examples": len(data)}
    if data.labels is not None:
        results |= scored(task, logits, data.labels)
    if options.output_dir:
        file = f"predictions{name.removeprefix('test')}.tsv"
        chosen = logits[max(options.time_steps) if spiking else "equilibrium"]
        write_predictions(options.output_dir / file, task, chosen, index)
        results |= {"predictions": {name: file}}
    return results | facts


def spiking_run(options):
    names = ("drive", "spikes", "initial", "window", "margin", "margin_decay", "arithmetic")
    return SpikingRun(**{name: getattr(options, name) for name in names}, count=options.energy)


def workers_of(options):
    return Workers(options.workers, options.device)


def is_test(split):
    return split.startswith("test")


def main(argv=None):
    run_tasks(parse(Evaluate, argv, prog="python -m nanospike.evaluate"), prepare, run, models=("model", "teacher"))


def neuron_options(options, student):
    """{drive, spikes} with the student's own where none is given; InputError where they do not fit it."""
    config = student.config
    if config.activation == "ann":
        if given := [
            flag(n)
            for n in ("drive", "spikes", "margin", "energy", "arithmetic")
            if getattr(options, n) not in (None, False, "float")
        ]:
            raise InputError(f"{', '.join(given)}: {student.directory} is an ordinary BERT: it has no spikes")
        return {"drive": None, "spikes": None}
    spikes = options.spikes or config.spikes
    if (spikes == "signed") != (config.spikes == "signed"):
        raise InputError(f"--spikes {spikes}: the student was trained for {config.spikes} spikes, another equilibrium")
    if options.drive == "differential" and config.leak != 1:
        raise InputError(
            f"--drive differential: for neurons without a leak, the student has {config.leak}; use instant"
        )
    return {"drive": options.drive or drive_for(student), "spikes": spikes}


def encoded(options, model, examples):
    length = min(options.max_length, model.config.usable_positions)
    data = encode(load_tokenizer(model.directory, model.config.vocab_size), examples.texts, length, examples.labels)
    require_segments(data, model.config, model.directory)
    return data


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
