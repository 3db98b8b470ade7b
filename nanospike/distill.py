"""python -m nanospike.distill: a BERT teacher teaches a spiking student."""

import math
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import __version__
from .backend import library
from .checkpoint import write_json
from .config import CHOICES, InputError, flag, option, parse, require_at_least
from .corpus import read_corpus
from .glue import TASK_HELP, run_tasks
from .inference import bundled, evaluate_student, nested, peak_memory_mb, run_student, table, with_teacher
from .initial import FRESH, as_given_student, initial_student
from .loss import teacher_layers
from .models import load_teacher
from .monitor import PROBE_STEPS
from .neuron import SPIKES
from .report import write_report
from .simulate import DRIVES
from .solve import ADJOINT_METHODS, FORWARD_METHODS, adjoint_methods
from .tasks import find_task, read_splits, training_texts
from .teaching import cache_of, loss_terms, stages_of
from .text import Encoded, encode_splits, load_tokenizer, require_segments, save_tokenizer
from .train import Run, TrainingOptions, begin, command, require_startable

GENERAL_TEXTS = 64  # of the corpus, evenly spread, on which a student without a task is looked at
WITHOUT_TOLERANCE = ("one-step", "spide")  # adjoint solvers that do what they do, whatever the residual
STAGES = ("general", "internal", "prediction", "few-steps")
STAGE_EPOCHS = {"general": 1.0, "internal": 3.0, "prediction": 2.0, "few-steps": 0.5}
STAGE_LEARNING_RATES = {"general": 1e-3, "internal": 1e-3, "prediction": 3e-4, "few-steps": 2e-4}


@dataclass(frozen=True, kw_only=True)
class Distill(TrainingOptions):
    """Distil a BERT into a spiking student, evaluate it, and save it. Without options: the bundled teacher and text.

    Options that take one value per stage (epochs, learning rate) use a single value for all stages.
    """

    teacher: Path | None = option(
        "directory of a BERT with the task's classifier, which the stage general alone does not need; without it, the "
        "bundled teacher",
        None,
    )
    task: str = option(TASK_HELP + "; opinions: the bundled text", "opinions")
    data_dir: Path | None = option("directory of the task's data, or the GLUE directory above it", None)
    output_dir: Path = option(
        "directory to write to; must be empty or absent, unless --resume", Path("nanospike-student")
    )
    stages: tuple[str, ...] = option(
        "what to train, in this order: general (hidden states and attention, on --corpus), internal (the same, on the "
        "task's texts), prediction (logits), few-steps (logits at rates simulated for --few-steps); without it, "
        "internal and prediction, after general if there is a corpus",
        (),
        choices=STAGES,
    )
    corpus: tuple[Path, ...] = option("plain text files, a paragraph a line, for the general stage", ())
    encoders: int = option("encoders of the student; 0: as many as the teacher's", 0)
    init: str = option(
        "where the student's weights start: teacher, random, or a student's directory (of several tasks, DIR/TASK)",
        "teacher",
    )
    layer_map: tuple[int, ...] = option(
        "the teacher's layer (from 1) for each of the student's; without it, evenly", ()
    )
    student: str = option(
        "ann: an ordinary BERT of the same size, as a baseline", "spiking", choices=("spiking", "ann")
    )
    feedback: bool = option("feed the last encoder's rates back to the embedding neurons", False)
    feedback_rank: int = option("rank of the feedback weight; 0: a full matrix", 0)
    feedback_from: str = option(
        "whose rates are fed back: each token's to itself, or those of the first, [CLS], to all", "tokens",
        choices=CHOICES["feedback_from"],
    )  # fmt: skip
    looped: bool = option("one or two encoders over and over, their output fed back until it is their input", False)
    lateral: bool = option("let the last encoder's output neurons inhibit one another", False)
    v_th: float = option("firing threshold, in units of the current", 1.0)
    leak: float = option("membrane's factor per time step: 1 is IF, below 1 LIF", 1.0)
    spikes: str = option("what a neuron may emit", "binary", choices=SPIKES)
    thresholds: str = option(
        "fixed: all at --v-th; learnt: one per population, from there on", "fixed", choices=("fixed", "learnt")
    )
    epochs: tuple[float, ...] = option(
        "passes over the data, one value or one per stage; without it, 1 general, 3 internal, 2 prediction, 0.5 "
        "few-steps",
        (),
    )
    learning_rate: tuple[float, ...] = option(
        "peak learning rate of AdamW, one value or one per stage; without it, 0.001, for prediction 0.0003, for "
        "few-steps 0.0002",
        (),
    )
    hidden: float = option("weight of the hidden states in the loss", 1.0)
    attention: float = option("weight of the attention scores in the loss (their squares are large numbers)", 0.01)
    logits: float = option("weight of the teacher's logits in the prediction stage", 1.0)
    labels: float = option("weight of the task's labels in the prediction stage", 0.0)
    keep_internal: float = option("weight of the internal stage's loss within the prediction stage", 0.0)
    temperature: float = option("temperature of the logits", 1.0)
    forward: str = option(
        "where the loss is taken: at the equilibrium, or at simulated spiking rates (with the implicit gradient there)",
        "equilibrium",
        choices=("equilibrium", "spikes"),
    )
    drive: str | None = option(
        "how spiking neurons are driven; without it, differential (leaky neurons: instant)", None, choices=DRIVES
    )
    time_steps: tuple[int, ...] = option(
        "time steps at which the student is evaluated; the largest is that of --forward spikes", (2, 4, 8, 16, 32, 64)
    )
    few_steps: int = option("time steps of the stage few-steps", 4)
    settled_share: float = option(
        "share of the updates of few-steps that are at the equilibrium, which drifts otherwise", 0.0
    )
    probe_every: int = option(
        f"updates per measurement of the equilibrium gap (T = {PROBE_STEPS}, a fixed batch), for the next line of the "
        "log; 0: none",
        100,
    )
    forward_solver: str = option(
        "solver of the equilibrium while training, with feedback", "anderson", choices=FORWARD_METHODS
    )
    adjoint_solver: str = option("solver of the adjoint system, with feedback", "gmres", choices=ADJOINT_METHODS)
    adjoint_rtol: float = option(
        "relative residual at which the adjoint system counts as solved; 0: 1e-4, that of float32", 0.0
    )
    jacobian_penalty: float = option(
        "weight in the loss of the feedback loop's squared Jacobian norm, along one random direction per update", 0.0
    )
    teacher_cache: float = option(
        "most GB (10^9 bytes) of the teacher's activations to keep on disk, rounded to float16, in stages of more than "
        "one epoch and in all with --cache-dir; a stage that needs more computes them in every epoch; 0: keep none",
        4.0,
    )
    cache_dir: Path | None = option(
        "where the tokenised corpus and the teacher's activations are kept, for any number of runs; without it, in the "
        "output directory, until the end of the run",
        None,
    )

    def __post_init__(self):
        super().__post_init__()
        require_at_least(self, probe_every=0, few_steps=1, settled_share=0)
        if self.settled_share > 1:
            raise InputError(f"--settled-share: found {self.settled_share}, expected a share between 0 and 1")
        if self.data_dir is None and self.task != "opinions":
            raise InputError(f"--data-dir: needed for --task {self.task}")
        if "general" in self.stages and not self.corpus:
            raise InputError("--corpus: needed for the stage general")
        if len(set(self.stages)) < len(self.stages):
            raise InputError(f"--stages: found {','.join(self.stages)}, expected each stage once")
        if self.corpus and self.stages and "general" not in self.stages:
            raise InputError("--corpus: is read by the stage general, which --stages leaves out")
        self._resolve_stages()
        if not self.time_steps or min(self.time_steps) < 1:
            raise InputError(f"--time-steps: found {list(self.time_steps)}, expected whole numbers of at least 1")
        require_at_least(self, encoders=0, hidden=0, attention=0, logits=0, labels=0, keep_internal=0)
        require_at_least(self, teacher_cache=0, jacobian_penalty=0, feedback_rank=0, adjoint_rtol=0)
        if not 0 < self.temperature < math.inf:
            raise InputError(f"--temperature: found {self.temperature}, expected above 0")
        if self.drive == "differential" and self.leak != 1:
            raise InputError(f"--drive differential: for neurons without a leak, found --leak {self.leak}; use instant")
        self._require_effect()

    @property
    def recurrent(self):
        return self.feedback or self.looped or self.lateral

    def _require_effect(self):
        """InputError for an option that would do nothing in this run."""
        if self.student == "ann":
            neurons = {"v_th": 1.0, "leak": 1.0, "spikes": "binary", "drive": None, "forward": "equilibrium"}
            neurons |= {"thresholds": "fixed"}
            if given := [flag(n) for n, default in neurons.items() if getattr(self, n) != default]:
                raise InputError(f"{', '.join(given)}: an ann student has no spiking neurons")
            if "few-steps" in self.stages:
                raise InputError("--stages few-steps: an ann student has no spiking neurons")
        if "few-steps" not in self.stages and (self.few_steps != 4 or self.settled_share):
            raise InputError("--few-steps, --settled-share: for the stage few-steps, which --stages leaves out")
        self._require_effect_on_the_loop()
        if not self.feedback and (self.feedback_rank or self.feedback_from != "tokens"):
            raise InputError(
                "--feedback-rank, --feedback-from: they shape the weight of --feedback, which is not given"
            )
        if self.looped and self.feedback:
            raise InputError("--looped, --feedback: a loop is a feedback of its own; give one of them")
        if self.looped and self.encoders > 2:
            raise InputError(f"--looped: found --encoders {self.encoders}, expected 1 or 2")
        if not {"prediction", "few-steps"} & set(self.stages) and (self.labels or self.keep_internal):
            raise InputError(
                "--labels, --keep-internal: for the stages prediction and few-steps, which --stages leaves out"
            )
        for stage in self.stages:
            weights = loss_terms(self, stage)
            if not any(weights.values()):
                raise InputError(f"--stages {stage}: every weight of its loss is 0")

    def _require_effect_on_the_loop(self):
        loop = {"jacobian_penalty": 0.0, "forward_solver": "anderson", "adjoint_rtol": 0.0, "adjoint_solver": "gmres"}
        given = [flag(n) for n, default in loop.items() if getattr(self, n) != default]
        if given and not self.recurrent and self.init in FRESH:  # another student may have a loop
            raise InputError(f"{', '.join(given)}: there is no loop without --feedback, --looped or --lateral")
        if self.adjoint_rtol >= 1:
            raise InputError(f"--adjoint-rtol: found {self.adjoint_rtol}, expected below 1")
        if self.adjoint_rtol and self.adjoint_solver in WITHOUT_TOLERANCE:
            raise InputError(f"--adjoint-rtol: --adjoint-solver {self.adjoint_solver} looks at no tolerance")

    def _resolve_stages(self):
        """Fill in the stages, and one value per stage of the options that have one."""
        stages = self.stages or (STAGES[:3] if self.corpus else STAGES[1:3])
        object.__setattr__(self, "stages", stages)
        for name, defaults in (("epochs", STAGE_EPOCHS), ("learning_rate", STAGE_LEARNING_RATES)):
            values = getattr(self, name) or tuple(defaults[s] for s in stages)
            if len(values) not in (1, len(stages)):
                wanted = f"1 or one for each stage ({', '.join(stages)})"
                raise InputError(f"{flag(name)}: found {len(values)} values, expected {wanted}")
            object.__setattr__(self, name, values * len(stages) if len(values) == 1 else values)


def resolved(options, teacher):
    """The options with what was left open filled in, as they are printed, saved and compared on --resume."""
    options = as_given_student(options)
    encoders = options.encoders or teacher.config.num_hidden_layers
    drive = options.drive or ("differential" if options.leak == 1 else "instant")
    data_dir = None if headless(options, teacher) else options.data_dir or bundled("text")
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


def read_data(options, teacher, task):
    """({stage: Encoded, "dev" (and "dev_mismatched"): Encoded}, tokenizer), everything that a run reads.

    "general" is a corpus.Corpus, and all there is of a headless run.
    """
    tokenizer = load_tokenizer(teacher.directory, teacher.config.vocab_size)
    length = min(options.max_length, teacher.config.max_position_embeddings)
    if headless(options, teacher):
        return {"general": read_corpus(options.corpus, tokenizer, length)}, tokenizer
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
    task = find_task(options.task)
    teacher = load_teacher(options.teacher or bundled("teacher"), options.device)
    if headless(options, teacher) and (options.data_dir or options.task != "opinions"):
        raise InputError(f"--task, --data-dir: of no use, {teacher.directory} has no classifier; run finetune first")
    options = resolved(options, teacher)
    require_usable(options, teacher, task)
    data, tokenizer = read_data(options, teacher, task)
    require_startable(options)
    return began, options, task, teacher, data, tokenizer


def run(began, options, task, teacher, data, tokenizer):
    student = initial_student(options, teacher, task, headless(options, teacher))
    labels = {} if student.config.headless else {"id2label": task.id2label}
    student.raw_config = labels | {"nanospike_version": __version__}
    begin(options)
    job = Run(options, student.parameters())
    if "general" in data:
        data["general"] = job.world.in_turn(lambda: data["general"].tokenised(cache_of(options)))
    summary = job.train(stages_of(options, teacher, student, data, job.workers))
    if job.world.rank:
        return None
    student.save(options.output_dir)
    save_tokenizer(tokenizer, options.output_dir)
    if student.config.headless:
        results = settling(options, student, data["general"], job.workers)
    else:
        results = evaluate(options, teacher, student, task, data, job.workers)
    results |= {"training": summary, "total_seconds": round(time.perf_counter() - began, 1)}
    write_json(options.output_dir / "train_results.json", summary | {"peak_memory_mb": peak_memory_mb()})
    write_json(options.output_dir / "eval_results.json", results)
    write_report(options.output_dir, results)
    if options.cache_dir is None:
        shutil.rmtree(cache_of(options), ignore_errors=True)
    print(table(results))
    print(f"{results['total_seconds']:.0f} s, {results['peak_memory_mb']:.0f} MB; saved in {options.output_dir}")
    return results


def main(argv=None):
    run_tasks(parse(Distill, argv, prog="python -m nanospike.distill"), prepare, run, models=("teacher",))


def evaluate(options, teacher, student, task, data, workers):
    print("evaluating at equilibrium and spike by spike ...", file=sys.stderr)
    found = {}
    for name in (n for n in data if n.startswith("dev")):
        results = evaluate_student(student, task, data[name], options.time_steps, drive=options.drive, workers=workers)
        found[name] = with_teacher(results, task, teacher, data[name], workers=workers)
    return nested(found)


def settling(options, student, store, workers):
    """What there is to measure of a student without a task: how its spikes settle, on GENERAL_TEXTS of the corpus."""
    count = min(GENERAL_TEXTS, len(store))
    ids, types = zip(*store.examples(np.arange(count) * len(store) // count), strict=True)
    some = Encoded(list(ids), list(types))
    _, facts = run_student(student, some, options.time_steps, drive=options.drive, workers=workers)
    return {"task": "general text", "metric": None, "examples": count, "equilibrium": None, "spiking": {}} | facts


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]), processes=None)
