"""python -m nanospike.report: draw a student's report again, with a sentence of one's own."""

import sys
from dataclasses import dataclass
from pathlib import Path

from .config.errors import InputError
from .config.options import option, parse
from .data.tasks import find_task, read_splits
from .data.text import encode
from .data.tokenizer import load_tokenizer
from .files.bundled import bundled
from .files.model_files import read_json
from .model.loading import load_student
from .model.student_teacher import load_any_teacher
from .results.look import TIME_STEPS, look_at
from .results.report import write_report
from .start import command

TEXTS = 8  # of the bundled ones, evenly spread, that a student without --text is looked at on


@dataclass(frozen=True, kw_only=True)
class Report:
    """Draw DIR/report.html again: from what is found in DIR, and from a new look at the student there."""

    directory: Path = option("directory of a student", shown="DIR")
    text: str | None = option("the sentence to be looked at; without it, one of the bundled texts", None)
    population: str | None = option("whose spikes are drawn; without it, the last encoder's output", None)
    teacher: Path | None = option(
        "directory of its teacher; without it, the one that it was trained with, if there", None
    )
    time_steps: tuple[int, ...] = option("time steps after which the sentence is looked at", TIME_STEPS)
    device: str = option("where to compute", "cpu", choices=("cpu", "cuda"))
    seed: int = option("accepted for uniformity: a report draws no random numbers", 0)

    def __post_init__(self):
        if not self.time_steps or min(self.time_steps) < 1:
            raise InputError(f"--time-steps: found {list(self.time_steps)}, expected whole numbers of at least 1")


def run(options):
    directory = options.directory
    student = load_student(directory, options.device)
    results = found(directory, "eval_results.json") or {"task": "no task", "examples": 0}
    costs, look = found(directory, "energy.json"), None
    if student.config.activation != "ann":
        tokenizer = load_tokenizer(directory, student.config.vocab_size)
        data = encode(tokenizer, texts_of(options), student.config.max_position_embeddings)
        look = look_at(student, data, teacher_of(options), options.population, options.time_steps)
        costs = costs or look.costs
    elif given := [name for name in ("--text", "--population") if getattr(options, name[2:]) is not None]:
        raise InputError(f"{', '.join(given)}: {directory} is an ordinary BERT: it has no spikes to be looked at")
    write_report(directory, results, costs, look)
    print(directory / "report.html")


def found(directory, name):
    """A JSON file of the directory; {} where it is not."""
    return read_json(directory / name) if (directory / name).exists() else {}


def texts_of(options):
    """The sentence and, if it is not one's own, some more: of them all, gaps and rates are taken."""
    if options.text is not None:
        return [options.text]
    texts = next(iter(read_splits(find_task("opinions"), bundled("text"), "dev").values())).texts
    return [texts[i * len(texts) // TEXTS] for i in range(TEXTS)]


def teacher_of(options):
    """The teacher that is given, or of the record of the run if it is still there, else None."""
    if options.teacher:
        return load_any_teacher(options.teacher, options.device)
    named = found(options.directory, "training_args.json").get("teacher")
    if not named or not (Path(named) / "config.json").exists():
        return None
    return load_any_teacher(named, options.device)


def main(argv=None):
    run(parse(Report, argv, prog="python -m nanospike.report", positional=("directory",)))


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
