"""The student that a run of distill begins with: a fresh one, or one that was trained before."""

from dataclasses import fields, replace
from pathlib import Path

from ..config.errors import InputError
from ..config.models import StudentConfig, read_config
from ..config.operators import chosen
from ..config.options import flag
from ..files.model_files import read_json
from ..model.families import student_shape
from ..model.fresh import init_student, with_classifier, with_operators, with_thresholds
from ..model.loading import load_student
from .query_thresholds import with_calibrated_thresholds
from .shift_options import MADE_OF

FRESH = ("teacher", "random")  # values of --init that are no directory of a student
LOOP = ("feedback", "feedback_rank", "feedback_from", "looped", "lateral")
NEURONS = {"v_th": 1.0, "leak": 1.0, "spikes": "binary"}  # and what they are where nothing is said
MAY_DIFFER = ("spikes", *MADE_OF)  # from those of a student that exists


def student_config(options, teacher, task, headless=False):
    """The configuration of a fresh student as a dict: the teacher's shape, the options' neurons."""
    shape = student_shape(teacher.config) | {
        "num_hidden_layers": options.encoders or teacher.config.num_hidden_layers,
        "num_labels": task.num_labels,
        "teacher_hidden_size": teacher.config.hidden_size,
        "headless": headless,
    }
    neurons = {n: getattr(options, n) for n in (*NEURONS, *LOOP, *MADE_OF)}
    activation = {"activation": "ann" if options.student == "ann" else "spiking"}
    return {k: v for k, v in (shape | neurons | activation).items() if k in StudentConfig.__dataclass_fields__}


def with_student(options):
    """The options with the student's kind and neurons filled in. Of one that exists: its own, and InputError for others
    that were asked; what its neurons may emit is a choice.

    The student is in DIR or, of several tasks, in DIR/TASK.
    """
    if options.init in FRESH:
        spiking_queries = "query" in chosen(options.operators or "float")
        values = NEURONS | MADE_OF | {"student": "spiking", "thresholds": "calibrated" if spiking_queries else "fixed"}
        values["classifier"] = "fitted" if options.learns_logits else None
        return replace(options, **{n: v for n, v in values.items() if getattr(options, n) is None})
    places = [
        p for p in (Path(options.init), Path(options.init) / (options.task or "")) if (p / "config.json").exists()
    ]
    if not places:
        raise InputError(f"--init: found {options.init}, expected {', '.join(FRESH)} or a student's directory")
    path = places[0] / "config.json"
    config = read_config(StudentConfig, read_json(path), path)
    theirs = {n: getattr(config, n) for n in (*NEURONS, *LOOP, *MADE_OF)}
    theirs |= {"encoders": config.num_hidden_layers, "student": config.activation}
    defaults = {f.name: f.default for f in fields(options)}
    changes = {"init": str(places[0])}
    if options.classifier is None and options.learns_logits:
        knows = options.stages[0] == "few-steps" and not config.headless
        changes["classifier"] = "learnt" if knows else "fitted"
    for name, value in theirs.items():
        asked = getattr(options, name)
        if asked == defaults[name]:
            changes[name] = value
        elif asked != value and name not in MAY_DIFFER:
            raise InputError(f"{flag(name)}: found {asked}, the student in {options.init} has {value}")
    options = replace(options, **changes)
    if options.thresholds is None and "query" in chosen(options.operators) and "query" not in config.shifts:
        return replace(options, thresholds="calibrated")
    return options


def initial_student(options, teacher, task, headless=False):
    """The student of options that are resolved (distill.resolved), before its first update.

    headless: the run trains no classifier; a student that was made so gets one for the task, see with_classifier.
    """
    if options.init in FRESH:
        of_teacher = teacher if options.init == "teacher" else None
        layer_map = options.layer_map or None
        config = student_config(options, teacher, task, headless)
        student = init_student(config, of_teacher, options.seed, options.device, layer_map=layer_map)
        student.directory = teacher.directory
    else:
        student = _given(options, teacher, task, headless)
    return with_thresholds(student) if options.thresholds == "learnt" else student


def fit_thresholds(student, options, teacher, data):
    """The student, with thresholds of queries and keys calibrated on `data` where the options say so."""
    if options.thresholds not in ("learnt", "calibrated") or "query" not in student.config.shifts:
        return student
    return with_calibrated_thresholds(student, teacher, data, options.layer_map or None)


def _given(options, teacher, task, headless):
    student = load_student(options.init, options.device)
    config, headed = student.config, student.config.headless and not headless
    width = config.teacher_hidden_size or config.hidden_size
    for what, found, expected in (
        ("labels", task.num_labels if headed else config.num_labels, task.num_labels),
        ("word pieces", config.vocab_size, teacher.config.vocab_size),
        ("outputs of distill_map", width, teacher.config.hidden_size),
    ):
        if found != expected:
            raise InputError(f"--init {options.init}: has {found} {what}, the task and the teacher need {expected}")
    if options.thresholds == "fixed" and "thresholds" in student.tree:
        raise InputError(f"--thresholds fixed: the student in {options.init} has learnt ones")
    student = with_classifier(student, teacher, options.seed) if headed else student
    made_of = {n: getattr(options, n) for n in MAY_DIFFER}
    return with_operators(student, made_of | {"headless": headless})
