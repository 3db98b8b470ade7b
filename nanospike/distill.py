"""python -m nanospike.distill: a BERT teacher teaches a spiking student."""

import math
import sys
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from . import __version__
from .backend import krylov, library
from .checkpoint import write_json
from .config import InputError, StudentConfig, flag, option, parse, require_at_least
from .inference import bundled, evaluate_student, peak_memory_mb, table, teacher_logits
from .loss import teacher_layers
from .models import load_teacher
from .neuron import SPIKES
from .optim import Diverged
from .report import write_report
from .simulate import DRIVES
from .solve import ADJOINT_METHODS
from .student import init_student, mean_rate
from .tasks import find_task, read_split, score, training_texts
from .text import encode_splits, encode_windows, load_tokenizer, read_lines, require_segments, save_tokenizer
from .train import Run, Stage, TrainingOptions, begin, command
from .tree import leaves, summed

STAGES = ("general", "internal", "prediction")
STAGE_EPOCHS = {"general": 1.0, "internal": 3.0, "prediction": 2.0}
STAGE_LEARNING_RATES = {"general": 1e-3, "internal": 1e-3, "prediction": 3e-4}
MOST_FAILURES = 50  # batches in a row whose equilibrium or adjoint does not converge, before the run is stopped


@dataclass(frozen=True, kw_only=True)
class Distill(TrainingOptions):
    """Distil a BERT into a spiking student, evaluate it, and save it. Without options: the bundled teacher and text.

    Options that take one value per stage (epochs, learning rate) use a single value for all stages.
    """

    teacher: Path | None = option("directory of a BERT with a classifier; without one, the bundled teacher", None)
    task: str = option("GLUE task, such as sst-2; opinions: the bundled text", "opinions")
    data_dir: Path | None = option("directory of the task's data, or the GLUE directory above it", None)
    output_dir: Path = option(
        "directory to write to; must be empty or absent, unless --resume", Path("nanospike-student")
    )
    stages: tuple[str, ...] = option(
        "what to train, in this order: general (hidden states and attention, on --corpus), internal (the same, on the "
        "task's texts), prediction (logits); without it, internal and prediction, after general if there is a corpus",
        (),
        choices=STAGES,
    )
    corpus: tuple[Path, ...] = option("plain text files, a paragraph a line, for the general stage", ())
    encoders: int = option("encoders of the student; 0: as many as the teacher's", 0)
    init: str = option("where the student's weights start", "teacher", choices=("teacher", "random"))
    layer_map: tuple[int, ...] = option(
        "the teacher's layer (from 1) for each of the student's; without it, evenly", ()
    )
    student: str = option(
        "ann: an ordinary BERT of the same size, as a baseline", "spiking", choices=("spiking", "ann")
    )
    feedback: bool = option("feed the last encoder's rates back to the embedding neurons", False)
    v_th: float = option("firing threshold, in units of the current", 1.0)
    leak: float = option("membrane's factor per time step: 1 is IF, below 1 LIF", 1.0)
    spikes: str = option("what a neuron may emit", "binary", choices=SPIKES)
    epochs: tuple[float, ...] = option(
        "passes over the data, one value or one per stage; without it, 1 general, 3 internal, 2 prediction", ()
    )
    learning_rate: tuple[float, ...] = option(
        "peak learning rate of AdamW, one value or one per stage; without it, 0.001, for prediction 0.0003", ()
    )
    hidden: float = option("weight of the hidden states in the loss", 1.0)
    attention: float = option("weight of the attention scores in the loss (their squares are large numbers)", 0.01)
    logits: float = option("weight of the teacher's logits in the prediction stage", 1.0)
    labels: float = option("weight of the task's labels in the prediction stage", 0.0)
    keep_internal: float = option("weight of the internal stage's loss within the prediction stage", 0.0)
    temperature: float = option("temperature of the logits", 1.0)
    forward: str = option(
        "where the loss is taken: at the equilibrium, or at simulated spiking rates (with the same implicit gradient)",
        "equilibrium",
        choices=("equilibrium", "spikes"),
    )
    drive: str | None = option(
        "how spiking neurons are driven; without it, differential (leaky neurons: instant)", None, choices=DRIVES
    )
    time_steps: tuple[int, ...] = option(
        "time steps at which the student is evaluated; the largest is that of --forward spikes", (2, 4, 8, 16, 32, 64)
    )
    adjoint_solver: str = option("solver of the adjoint system, with feedback", "gmres", choices=ADJOINT_METHODS)

    def __post_init__(self):
        super().__post_init__()
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
        if not 0 < self.temperature < math.inf:
            raise InputError(f"--temperature: found {self.temperature}, expected above 0")
        if self.drive == "differential" and self.leak != 1:
            raise InputError(f"--drive differential: for neurons without a leak, found --leak {self.leak}; use instant")
        self._require_effect()

    def _require_effect(self):
        """InputError for an option that would do nothing in this run."""
        if self.student == "ann":
            neurons = {"v_th": 1.0, "leak": 1.0, "spikes": "binary", "drive": None, "forward": "equilibrium"}
            if given := [flag(n) for n, default in neurons.items() if getattr(self, n) != default]:
                raise InputError(f"{', '.join(given)}: an ann student has no spiking neurons")
        if "prediction" not in self.stages and (self.labels or self.keep_internal):
            raise InputError(
                "--labels, --keep-internal: they belong to the stage prediction, which --stages leaves out"
            )
        for stage in self.stages:
            weights = loss_terms(self, stage)
            if not any(weights.values()):
                raise InputError(f"--stages {stage}: every weight of its loss is 0")

    def _resolve_stages(self):
        """Fill in the stages, and one value per stage of the options that have one."""
        stages = self.stages or (STAGES if self.corpus else STAGES[1:])
        object.__setattr__(self, "stages", stages)
        for name, defaults in (("epochs", STAGE_EPOCHS), ("learning_rate", STAGE_LEARNING_RATES)):
            values = getattr(self, name) or tuple(defaults[s] for s in stages)
            if len(values) not in (1, len(stages)):
                wanted = f"1 or one for each stage ({', '.join(stages)})"
                raise InputError(f"{flag(name)}: found {len(values)} values, expected {wanted}")
            object.__setattr__(self, name, values * len(stages) if len(values) == 1 else values)


def student_config(options, teacher, task):
    """The student's configuration as a dict: the teacher's shape, the options' neurons."""
    shape = asdict(teacher.config) | {
        "num_hidden_layers": options.encoders or teacher.config.num_hidden_layers,
        "num_labels": task.num_labels,
        "teacher_hidden_size": teacher.config.hidden_size,
    }
    neurons = {n: getattr(options, n) for n in ("v_th", "leak", "spikes", "feedback")}
    activation = {"activation": "ann" if options.student == "ann" else "spiking"}
    return {k: v for k, v in (shape | neurons | activation).items() if k in StudentConfig.__dataclass_fields__}


def loss_terms(options, stage):
    """The weights of loss.distillation in a stage."""
    if stage != "prediction":
        return {"hidden": options.hidden, "attention": options.attention, "logits": 0.0, "label_weight": 0.0}
    return {
        "hidden": options.hidden * options.keep_internal,
        "attention": options.attention * options.keep_internal,
        "logits": options.logits,
        "label_weight": options.labels,
    }


def gradients(teacher, student, options, stage, workers):
    """Stage.gradients of the distillation loss."""
    terms = loss_terms(options, stage) | {"temperature": options.temperature, "layer_map": options.layer_map or None}
    simulation = None
    if options.forward == "spikes":
        simulation = {"time_steps": max(options.time_steps), "drive": options.drive}
    failures = [0]

    def part(batch, totals):
        inputs = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        out, _ = teacher.forward(*inputs, differentiable=False)
        return student.gradients(
            *inputs, out, adjoint_solver=options.adjoint_solver, simulation=simulation, totals=totals,
            labels=batch.labels if terms["label_weight"] else None, **terms,
        )  # fmt: skip

    def step(batches, seed, totals):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # solves that fail are counted and logged below
            results = workers.map(lambda batch: part(batch, totals), batches)
        _count_failures(failures, results)
        values = {name: sum(r.terms[name] for r in results) for name in results[0].terms}
        grads = summed([dict(leaves(r.grads)) for r in results], workers)
        return values, grads, lambda: notes(student, results, batches, failures[0])

    return step


def _count_failures(failures, results):
    bad = [r for result in results for r in (result.equilibrium, result.adjoint) if r and not r.converged]
    failures[0] = failures[0] + 1 if bad else 0
    if failures[0] > MOST_FAILURES:
        raise Diverged(f"{failures[0]} batches in a row without convergence: {bad[0].message}")


def notes(student, results, batches, failures):
    """What a line of the log says about the student's state: over all parts of a batch."""
    spiking = student.config.activation != "ann"
    tokens = [int(b.attention_mask.sum()) for b in batches]
    rates = [mean_rate(r.equilibrium, b.attention_mask) for r, b in zip(results, batches, strict=True) if spiking]
    values = {"mean_rate": float(np.average(rates, weights=tokens)) if spiking else None}
    if results[0].adjoint is not None:
        values |= {
            "equilibrium_sweeps": max(r.equilibrium.iterations for r in results),
            "equilibrium_residual": max(r.equilibrium.residual for r in results),
            "adjoint_sweeps": max(r.adjoint.iterations for r in results),
            "adjoint_residual": max(r.adjoint.residual for r in results),
            "failed_in_a_row": failures,
        }
    return values


def resolved(options, teacher):
    """The options with what was left open filled in, as they are printed, saved and compared on --resume."""
    encoders = options.encoders or teacher.config.num_hidden_layers
    drive = options.drive or ("differential" if options.leak == 1 else "instant")
    data_dir = options.data_dir or bundled("text")
    spiking = options.student == "spiking"
    return replace(
        options, teacher=teacher.directory, data_dir=data_dir, encoders=encoders, drive=drive if spiking else None
    )


def require_usable(options, teacher, task):
    """InputError if the teacher, the task and the options do not go together."""
    labels = teacher.config.num_labels if "classifier" in teacher.tree else "no"
    if labels != task.num_labels:
        needed = f"{task.name} needs {task.num_labels}; run finetune first"
        raise InputError(f"--teacher {teacher.directory}: has {labels} labels, {needed}")
    teacher_layers(options.encoders, teacher.config.num_hidden_layers, options.layer_map)
    solvers = krylov(library(options.device))[1] if options.feedback and options.adjoint_solver != "sweep" else ()
    if solvers and options.adjoint_solver not in solvers:
        raise InputError(
            f"--adjoint-solver {options.adjoint_solver}: not on {options.device}; there: {', '.join(solvers)}"
        )


def read_data(options, teacher, task):
    """({stage: Encoded, "dev": Encoded}, tokenizer), everything that a run reads."""
    tokenizer = load_tokenizer(teacher.directory, teacher.config.vocab_size)
    texts, dev = training_texts(task, options.data_dir), read_split(task, options.data_dir, "dev")
    if options.labels and texts.labels is None:
        raise InputError(f"--labels: the training texts of {task.name} have no labels")
    paragraphs = read_lines(options.corpus) if "general" in options.stages else []
    length = min(options.max_length, teacher.config.max_position_embeddings)
    data = encode_splits(tokenizer, {"internal": texts, "dev": dev}, length)
    require_segments(data["internal"], teacher.config, teacher.directory)
    data["prediction"] = data["internal"]
    if paragraphs:
        data["general"] = encode_windows(tokenizer, paragraphs, length)
    return data, tokenizer


def main(argv=None):
    options = parse(Distill, argv, prog="python -m nanospike.distill")
    began = time.perf_counter()
    task = find_task(options.task)
    teacher = load_teacher(options.teacher or bundled("teacher"), options.device)
    options = resolved(options, teacher)
    require_usable(options, teacher, task)
    data, tokenizer = read_data(options, teacher, task)
    student = init_student(
        student_config(options, teacher, task),
        teacher if options.init == "teacher" else None,
        options.seed,
        options.device,
        layer_map=options.layer_map or None,
    )
    student.directory = teacher.directory
    student.raw_config = {"id2label": task.id2label, "nanospike_version": __version__}
    begin(options)
    run = Run(options, student.parameters())
    summary = run.train(stages_of(options, teacher, student, data, run.workers))
    if run.world.rank:
        return
    student.save(options.output_dir)
    save_tokenizer(tokenizer, options.output_dir)
    results = evaluate(options, teacher, student, task, data["dev"])
    results |= {"training": summary, "total_seconds": round(time.perf_counter() - began, 1)}
    write_json(options.output_dir / "train_results.json", summary | {"peak_memory_mb": peak_memory_mb()})
    write_json(options.output_dir / "eval_results.json", results)
    write_report(options.output_dir, results)
    print(table(results))
    print(f"{results['total_seconds']:.0f} s, {results['peak_memory_mb']:.0f} MB; saved in {options.output_dir}")


def stages_of(options, teacher, student, data, workers):
    plan = zip(options.stages, options.epochs, options.learning_rate, strict=True)
    learn = {name: gradients(teacher, student, options, name, workers) for name in options.stages}
    return [Stage(name, data[name], learn[name], epochs, rate) for name, epochs, rate in plan]


def evaluate(options, teacher, student, task, dev_data):
    print("evaluating at equilibrium and spike by spike ...", file=sys.stderr)
    results = evaluate_student(student, task, dev_data, options.time_steps, drive=options.drive)
    return {"teacher": score(task, teacher_logits(teacher, dev_data), dev_data.labels)} | results


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]), processes=None)
