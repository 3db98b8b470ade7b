"""python -m nanospike.distill: a BERT teacher teaches a spiking student."""

import shutil
import sys
import time
from dataclasses import replace

import numpy as np

from . import __version__
from .arrays.backend import library
from .config.errors import InputError
from .config.models import StudentConfig, read_config
from .config.operators import chosen
from .config.options import parse
from .data.corpus import Corpus, read_corpus
from .data.own import agreement, own_data, with_class_weights
from .data.tasks import answers, find_task, read_splits, require_label_order, training_texts
from .data.text import Encoded, Masking, encode_splits, evenly, require_segments
from .data.tokenizer import load_tokenizer, save_tokenizer
from .distill_options import Distill
from .files.bundled import bundled
from .files.model_files import write_json
from .glue import run_tasks
from .model.head import described, in_its_unit, scale_of, standardise
from .model.loss import teacher_layers
from .model.simulate import SpikingRun
from .model.student_teacher import load_any_teacher
from .model.twins import arrange
from .results.anytime import calibrated
from .results.card import write_card
from .results.energy import of_results
from .results.inference import (
    confusion_table,
    evaluate_student,
    nested,
    peak_memory_mb,
    run_student,
    spent,
    table,
    teacher_logits,
    warn_below_chance,
    with_teacher,
)
from .results.look import look_at
from .results.report import write_report
from .solvers.adjoint import adjoint_methods
from .start import begin, command, require_startable
from .training.initial import FRESH, fit_thresholds, initial_student, student_config, with_student
from .training.loop import Run
from .training.parallel import world
from .training.pruning import without_silent
from .training.teaching import cache_of, stages_of

TRIED = 256  # labelled examples on which a teacher is tried before it teaches
LOOKED_AT = 8  # texts of the dev set on which the report looks at a student
GENERAL_TEXTS = 64  # of the corpus, evenly spread, on which a student without a task is looked at


def resolved(options, teacher):
    """The options with what was left open filled in, as they are printed, saved and compared on --resume."""
    options = with_student(options)
    encoders = options.encoders or teacher.config.num_hidden_layers
    drive = options.drive or ("differential" if options.leak == 1 else "instant")
    no_directory = options.own or headless(options, teacher)
    data_dir = None if no_directory else options.data_dir or bundled("text")
    spiking = options.student == "spiking"
    return replace(
        options, teacher=teacher.directory, data_dir=data_dir, encoders=encoders, drive=drive if spiking else None
    )


def headless(options, teacher):
    """Whether the run is about general text alone, and makes a student without a task (for --init of others)."""
    return options.stages == ("general",) and "classifier" not in teacher.tree


def require_usable(options, teacher, task):
    """InputError if the teacher, the task and the options do not go together."""
    labels = teacher.config.num_labels if "classifier" in teacher.tree else "no"
    if labels != task.num_labels and not headless(options, teacher):
        needed = f"{task.name} needs {task.num_labels}; run finetune first"
        raise InputError(f"--teacher {teacher.directory}: has {labels} labels, {needed}")
    if not headless(options, teacher):
        require_label_order(teacher.raw_config, task, f"--teacher {teacher.directory}")
    if options.init in FRESH:
        read_config(StudentConfig, student_config(options, teacher, task), "the student")
    if options.thresholds == "calibrated" and "query" not in chosen(options.operators):
        raise InputError(f"--thresholds calibrated: for spiking queries, found --operators {options.operators}")
    teacher_layers(options.encoders, teacher.config.num_hidden_layers, options.layer_map)
    if options.looped and options.encoders > 2:
        raise InputError(f"--looped: the teacher has {options.encoders} encoders; give --encoders 1 or 2")
    if options.feedback_rank > teacher.config.hidden_size:
        found = f"found {options.feedback_rank}, the teacher's hidden size is {teacher.config.hidden_size}"
        raise InputError(f"--feedback-rank: {found}")
    solvers = adjoint_methods(library(options.device)) if options.recurrent else ()
    if solvers and options.adjoint_solver not in solvers:
        raise InputError(
            f"--adjoint-solver {options.adjoint_solver}: not on {options.device}; there: {', '.join(solvers)}"
        )


def read_data(options, teacher, task, own=None):
    """({stage: Encoded, "dev" (and "dev_mismatched"): Encoded}, tokenizer), everything that a run reads.

    "general" is a corpus.Corpus, and all there is of a headless run. own: {split: Examples} of files of one's own.
    """
    tokenizer = load_tokenizer(teacher.directory, teacher.config.vocab_size)
    length = min(options.max_length, teacher.config.usable_positions)
    if headless(options, teacher):
        return {"general": read_corpus(options.corpus, tokenizer, length)}, tokenizer
    if own is not None:
        texts, devs = own["train"], {"dev": own["dev"]}
    else:
        texts, devs = training_texts(task, options.data_dir), read_splits(task, options.data_dir, "dev")
    if options.labels and texts.labels is None:
        raise InputError(f"--labels: the training texts of {task.name} have no labels")
    data = encode_splits(tokenizer, {"internal": texts} | devs, length)
    require_segments(data["internal"], teacher.config, teacher.directory)
    data["prediction"] = data["few-steps"] = data["internal"]
    if "general" in options.stages:
        data["general"] = read_corpus(options.corpus, tokenizer, length)
    return data, tokenizer


def prepare(options):
    """All that the run reads, checked: the arguments of run."""
    began = time.perf_counter()
    task, own = None if options.own else find_task(options.task), None
    teacher = load_any_teacher(options.teacher or bundled("teacher"), options.device)
    if options.own and "classifier" not in teacher.tree:
        raise InputError(f"--teacher {teacher.directory}: has no classifier; run finetune first, with the same files")
    if headless(options, teacher) and (options.data_dir or options.task != "opinions"):
        raise InputError(f"--task, --data-dir: of no use, {teacher.directory} has no classifier; run finetune first")
    if options.own:
        task, own = own_data(options, teacher, need_labels=False)
    options = resolved(options, teacher)
    require_usable(options, teacher, task)
    data, tokenizer = read_data(options, teacher, task, own)
    if own is not None and data["dev"].labels is None:
        task = agreement(task)
    masking = Masking.of(tokenizer, options.mask) if options.mask else None
    if options.class_weights:
        options = with_class_weights(options, task, data["internal"].labels)
    standardise(teacher, scale := scale_of(teacher) if options.own else None)
    student = initial_student(options, teacher, task, headless(options, teacher))
    if options.init not in FRESH:
        standardise(student, scale)
    require_room(student.config, data, options)
    require_startable(options)
    return began, options, task, (teacher, student), data, tokenizer, masking


def require_room(config, data, options):
    """InputError unless the student has positions and segments for all texts; a fresh one has the teacher's."""
    for part in data.values():
        if isinstance(part, Corpus):
            longest = part.max_length
        else:
            require_segments(part, config, f"--init {options.init}")
            longest = part.lengths.max()
        if longest > config.max_position_embeddings:
            found = f"has {config.max_position_embeddings} positions, the texts have up to {longest} word pieces"
            raise InputError(f"--init {options.init}: {found}; --max-length cuts them")


def run(began, options, task, models, data, tokenizer, masking):
    teacher, student = models
    scale = scale_of(teacher) if options.own else None
    labels = {} if student.config.headless else described(task, scale)
    student.raw_config = labels | {"nanospike_version": __version__}
    begin(options)
    if "general" in data:
        data["general"] = world().in_turn(lambda: data["general"].tokenised(cache_of(options)))
    student = fit_thresholds(student, options, teacher, data.get("internal", data.get("general")))
    for model in (teacher, student):
        arrange(model.tree)
    job = Run(options, student.parameters())
    training = in_units(data, scale)
    if job.world.rank == 0:
        try_teacher(task, teacher, training.get("dev"), job.workers)
    summary = job.train(stages_of(options, teacher, student, training, job.workers, masking))
    if job.world.rank:
        return None
    for model in models:
        in_its_unit(model, scale)
    if options.prune:
        student = without_silent(student)
    if not student.config.headless:
        few_steps = int(np.max(options.few_steps)) if "few-steps" in options.stages else None
        student.raw_config |= calibrated(student, data["internal"], job.workers, few_steps)
    student.save(options.output_dir)
    save_tokenizer(tokenizer, options.output_dir)
    student.directory = options.output_dir  # not its teacher's any more: there its weights have the bits that cost
    how = SpikingRun(drive=options.drive, count=student.config.activation != "ann")
    if student.config.headless:
        results = settling(options, student, data["general"], how, job.workers)
    else:
        results = evaluate(options, (teacher, student), task, data, how, job.workers)
    costs, look = None, None
    if how.count:
        costs = of_results(student, how, results, None if results["teacher"] is None else teacher)
        write_json(options.output_dir / "energy.json", costs)
        look = look_at(student, evenly(data.get("dev", data.get("general")), LOOKED_AT), teacher)
    results |= {"training": summary, "total_seconds": round(time.perf_counter() - began, 1)}
    write_json(options.output_dir / "train_results.json", summary | {"peak_memory_mb": peak_memory_mb()})
    write_json(options.output_dir / "eval_results.json", results)
    write_report(options.output_dir, results, costs, look)
    write_card(options.output_dir, student, teacher, results, costs)
    if options.cache_dir is None:
        shutil.rmtree(cache_of(options), ignore_errors=True)
    print("\n".join(filter(None, (table(results), confusion_table(results, task)))))
    print(f"{spent(results['total_seconds'], results['peak_memory_mb'])}; saved in {options.output_dir}")
    return results


def main(argv=None):
    run_tasks(parse(Distill, argv, prog="python -m nanospike.distill"), prepare, run, models=("teacher",))


def try_teacher(task, teacher, data, workers):
    """Warn before the training, on the first labelled examples, of a teacher that is worse than guessing."""
    if data is not None and data.labels is not None:
        some = Encoded(data.ids[:TRIED], data.types[:TRIED], data.labels[:TRIED])
        warn_below_chance(task, teacher_logits(teacher, some, workers=workers), some.labels, teacher.directory)


def in_units(data, scale):
    """{name: Encoded or Corpus} whose labels are standardised by the Scale of a regression; None: as they are."""
    if scale is None:
        return data
    labelled = [n for n, d in data.items() if n != "general" and d.labels is not None]
    return data | {n: replace(data[n], labels=scale.standardised(data[n].labels)) for n in labelled}


def evaluate(options, models, task, data, how, workers):
    """Results on the dev splits; models: (teacher, student); how: a SpikingRun. Those of a counted run have counts."""
    (teacher, student), steps = models, options.time_steps
    print("evaluating at equilibrium and spike by spike ...", file=sys.stderr)
    found = {}
    if data["dev"].labels is None:  # what the teacher says stands for them
        said = answers(task, teacher_logits(teacher, data["dev"], workers=workers))
        results = evaluate_student(student, task, replace(data["dev"], labels=said), steps, how, workers=workers)
        return {"teacher": None} | results
    for name in (n for n in data if n.startswith("dev")):
        results = evaluate_student(student, task, data[name], steps, how, workers=workers)
        how = replace(how, count=False)  # the first one's is enough
        found[name] = with_teacher(results, task, teacher, data[name], workers=workers)
    return nested(found)


def settling(options, student, store, how, workers):
    """What there is to measure of a student without a task: how its spikes settle, on GENERAL_TEXTS of the corpus."""
    some = evenly(store, GENERAL_TEXTS)
    _, facts = run_student(student, some, options.time_steps, how, workers=workers)
    unscored = {"teacher": None, "equilibrium": None, "spiking": {}}
    return {"task": "general text", "metric": None, "examples": len(some)} | unscored | facts


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]), processes=None)
