"""python -m nanospike.energy: what a student's operations would cost, by four accountings, beside ordinary BERTs."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .arrays.workers import WORKERS_HELP, Workers
from .config.errors import InputError
from .config.options import option, parse, plain, require_at_least
from .data.tasks import find_task, read_splits, require_label_order
from .data.text import encode, require_segments
from .data.tokenizer import load_tokenizer
from .files.bundled import bundled
from .files.model_files import require_empty, write_json
from .model.loading import load_student
from .model.simulate import SpikingRun
from .model.student_teacher import load_any_teacher
from .results.costs import PRESETS, constants_of
from .results.energy import energies, energy_table, neurobench
from .results.inference import evaluate_student, require_head, with_teacher
from .start import announce, command

FORMATS = ("table", "json", "neurobench")


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Count a student's operations on a task's dev set, and what they would cost in energy, by four accountings."""

    model: Path | None = option("directory of a student; without one, the bundled student", None)
    teacher: Path | None = option("directory of its teacher, which is scored and counted beside it", None)
    ann: Path | None = option("directory of an ordinary BERT of its size (distill --student ann), for its score", None)
    task: str = option("a task of GLUE; opinions: the bundled text", "opinions")
    data_dir: Path | None = option("directory of the task's data, or the GLUE directory above it", None)
    time_steps: tuple[int, ...] = option("time steps after which the energy is looked at", (1, 2, 4, 8, 16))
    constants: str = option(f"energies of operations: {', '.join(PRESETS)}, or a .toml file with your own", "float32")
    format: str = option("what is printed: the table, energy.json, or NeuroBench's names", "table", choices=FORMATS)
    examples: int = option("texts of the dev set, evenly spread; 0: all of them", 0)
    max_length: int = option("word pieces per text; longer ones are cut", 128)
    batch_size: int = option("examples at a time; 0: 32, on a GPU 256", 0)
    output_dir: Path | None = option("directory for energy.json; must be empty or absent", None)
    seed: int = option("accepted for uniformity: counting draws no random numbers", 0)
    device: str = option("where to compute", "cpu", choices=("cpu", "cuda"))
    workers: int = option(WORKERS_HELP, 0)

    def __post_init__(self):
        if self.data_dir is None and self.task != "opinions":
            raise InputError(f"--data-dir: needed for --task {self.task}")
        if not self.time_steps:
            raise InputError("--time-steps: found none, expected whole numbers of at least 1")
        require_at_least(self, time_steps=1, batch_size=0, max_length=3, workers=0, examples=0)


def prepare(options):
    """All that the run reads, checked: the arguments of run."""
    constants, task = constants_of(options.constants), find_task(options.task)
    student = load_student(options.model or bundled("student"), options.device)
    require_head(student)
    if student.config.activation == "ann":
        raise InputError(f"--model {student.directory}: is an ordinary BERT: it has no spikes; give it as --ann")
    others = [load_any_teacher(options.teacher, options.device) if options.teacher else None]
    others += [load_student(options.ann, options.device) if options.ann else None]
    if others[1] and others[1].config.activation != "ann":
        raise InputError(f"--ann {options.ann}: is a spiking student, expected one of distill --student ann")
    splits = read_splits(task, options.data_dir or bundled("text"), "dev")
    examples = next(iter(splits.values()))
    data = []
    for model, name in zip((student, *others), ("--model", "--teacher", "--ann"), strict=True):
        if model:
            require_fitting(model, task, name)
        data.append(encoded(options, model, examples) if model else None)
    if options.output_dir:
        require_empty(options.output_dir)
    shown = replace(options, model=student.directory, teacher=others[0] and others[0].directory)
    return shown, constants, task, student, others, data


def require_fitting(model, task, name):
    """InputError unless a model has the task's labels, in its order."""
    labels = model.config.num_labels if "classifier" in model.tree else "no"
    if labels != task.num_labels:
        raise InputError(f"{name} {model.directory}: has {labels} labels, {task.name} needs {task.num_labels}")
    require_label_order(model.raw_config, task, f"{name} {model.directory}")


def encoded(options, model, examples):
    length, texts, labels = (
        min(options.max_length, model.config.max_position_embeddings),
        examples.texts,
        examples.labels,
    )
    if 0 < options.examples < len(texts):
        chosen = np.arange(options.examples) * len(texts) // options.examples
        texts, labels = [texts[i] for i in chosen], labels[chosen]
    data = encode(load_tokenizer(model.directory, model.config.vocab_size), texts, length, labels)
    require_segments(data, model.config, model.directory)
    return data


def run(options, constants, task, student, others, data):
    quiet = options.format != "table"
    if not quiet:
        announce(options)
    workers = Workers(options.workers, options.device)
    how = SpikingRun(count=True).resolved(student.config)
    results = evaluate_student(student, task, data[0], options.time_steps, how, options.batch_size, workers)
    counts, (teacher, ann) = results.pop("counts"), others
    scores = (
        teacher and (teacher, with_teacher({}, task, teacher, data[1], options.batch_size, workers)["teacher"]),
        ann and evaluate_student(ann, task, data[2], (), SpikingRun(), options.batch_size, workers)["equilibrium"],
    )
    found = energies(student, how, counts, results, constants, scores) | {"options": plain(options)}
    names = neurobench(found, student, how, counts)
    if options.output_dir:
        options.output_dir.mkdir(parents=True, exist_ok=True)
        write_json(options.output_dir / "energy.json", found)
        if options.format == "neurobench":
            write_json(options.output_dir / "neurobench.json", names)
    print({"table": energy_table(found), "json": json.dumps(found, indent=2), "neurobench": json.dumps(names, indent=2)}
          [options.format])  # fmt: skip
    return found


def main(argv=None):
    run(*prepare(parse(Energy, argv, prog="python -m nanospike.energy")))


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
