"""How often students answer as their teacher on texts that nobody labelled: to choose by, without a look at a dev set.

    python tools/agreement.py STUDENT_DIR ... --teacher DIR --data-dir GLUE/SST-2 [--split test] [--time-steps 1,2,4]

GLUE's test sets have the distribution of its dev sets, and no labels.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from nanospike.arrays.backend import DEVICES
from nanospike.arrays.workers import Workers
from nanospike.config.errors import InputError
from nanospike.config.options import option, parse, require_at_least
from nanospike.data.own import agreement
from nanospike.data.tasks import SPLITS, answers, find_task, read_split
from nanospike.data.text import encode
from nanospike.data.tokenizer import load_tokenizer
from nanospike.files.model_files import write_json
from nanospike.model.loading import load_student
from nanospike.model.student_teacher import load_any_teacher
from nanospike.model.twins import use_fast
from nanospike.results.inference import evaluate_student, teacher_logits
from nanospike.start import command


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Compare students with their teacher on texts without labels."""

    students: tuple[Path, ...] = option("directories of students", ())
    teacher: Path = option("directory of their teacher")
    task: str = option("GLUE task", "sst-2")
    data_dir: Path = option("directory of the task, or the GLUE directory above it")
    split: str = option("which file; labels in it are not looked at", "test", choices=SPLITS)
    max_length: int = option("word pieces per text; longer ones are cut", 64)
    time_steps: tuple[int, ...] = option("time steps at which they are compared", (1, 2, 4))
    device: str = option("where to compute", "cpu", choices=DEVICES)
    json: Path | None = option("file to write the figures to", None)

    def __post_init__(self):
        require_at_least(self, time_steps=1, max_length=3)
        if not self.students:
            raise InputError("no student given: expected directories")


def fitting(student, teacher):
    """The student; InputError for one that reads or answers something else than the teacher."""
    for what, name in (("word pieces", "vocab_size"), ("labels", "num_labels")):
        theirs, own = getattr(teacher.config, name), getattr(student.config, name)
        if own != theirs:
            raise InputError(f"{student.directory}: has {own} {what}, the teacher {theirs}")
    return student


def main(argv=None):
    options = parse(Agreement, argv, prog="python tools/agreement.py", positional=("students",))
    task, workers = find_task(options.task), Workers(0, options.device)
    use_fast(True)
    texts = read_split(task, options.data_dir, options.split, need_labels=False).texts
    data = encode(load_tokenizer(options.teacher), texts, options.max_length)
    teacher = load_any_teacher(options.teacher, options.device)
    students = [fitting(load_student(directory, options.device), teacher) for directory in options.students]
    data = replace(data, labels=answers(task, teacher_logits(teacher, data, workers=workers)))
    found = {}
    for directory, student in zip(options.students, students, strict=True):
        found[str(directory)] = evaluate_student(student, agreement(task), data, options.time_steps, workers=workers)
        scores = found[str(directory)]
        shown = {"equilibrium": scores["equilibrium"], **{f"T = {t}": v for t, v in scores["spiking"].items()}}
        print(f"{directory}: " + ", ".join(f"{name} {100 * value:.2f} %" for name, value in shown.items()), flush=True)
    if options.json:
        write_json(options.json, found)
    return found


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
