"""What a run of distill can be asked for, and what does not go together."""

import math
from dataclasses import dataclass
from pathlib import Path

from .config.errors import InputError
from .config.models import CHOICES
from .config.options import flag, option, require_at_least
from .data.own import OwnFiles
from .glue import TASK_HELP
from .model.neuron import SPIKES
from .model.simulate import DRIVES
from .solvers.adjoint import ADJOINT_METHODS, FORWARD_METHODS
from .training.initial import FRESH, NEURONS
from .training.monitor import PROBE_STEPS
from .training.options import WITH_LOGITS, TrainingOptions
from .training.resume import begun_with
from .training.shift_options import ShiftOptions
from .training.teaching import loss_terms

WITHOUT_TOLERANCE = ("one-step", "spide")  # adjoint solvers that do what they do, whatever the residual
OPEN = "; without it, {} or what the student of --init has"
STAGES = ("general", "internal", "prediction", "few-steps")
STAGE_EPOCHS = {"general": 1.0, "internal": 1.0, "prediction": 0.3, "few-steps": 0.25}
FEW_STEPS = (1, 2, 4)
WITHOUT_MULTIPLICATIONS = {"operators": "shift", "weights": "ternary", "spikes": "signed"}
# Options that a run which goes on takes from its beginning, and what they were where it did not say.
BEGUN = {"operators": "float", "weights": "float", "embedding_weights": "float", "spikes": "binary"}
BEGUN |= {"stages": (), "epochs": (), "few_steps": (4,), "classifier": "learnt"}
CLASSIFIERS = ("fitted", "learnt")
STAGE_LEARNING_RATES = {"general": 1e-3, "internal": 1e-3, "prediction": 3e-4, "few-steps": 2e-4}


@dataclass(frozen=True, kw_only=True)
class Distill(OwnFiles, ShiftOptions, TrainingOptions):
    """Distil a BERT into a spiking student, evaluate it, and save it. Without options: the bundled teacher and text.

    Options that take one value per stage (epochs, learning rate, spike penalty) use a single value for all stages.
    """

    teacher: Path | None = option(
        "directory of a BERT with the task's classifier, which the stage general alone does not need; without it, the "
        "bundled teacher",
        None,
    )
    task: str | None = option(TASK_HELP + "; without it and files of your own, opinions: the bundled text", None)
    data_dir: Path | None = option("directory of the task's data, or the GLUE directory above it", None)
    output_dir: Path = option(
        "directory to write to; must be empty or absent, unless --resume", Path("nanospike-student")
    )
    stages: tuple[str, ...] = option(
        "what to train, in this order: general (hidden states and attention, on --corpus), internal (the same, on the "
        "task's texts), prediction (logits), few-steps (logits at rates simulated for --few-steps); without it, "
        "internal, prediction and, for a fresh student without multiplications, few-steps, after general if there is a "
        "corpus",
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
    student: str | None = option(
        "spiking, or ann: an ordinary BERT of the same size, as a baseline" + OPEN.format("spiking"),
        None,
        choices=CHOICES["activation"],
    )
    feedback: bool = option("feed the last encoder's rates back to the embedding neurons", False)
    feedback_rank: int = option("rank of the feedback weight; 0: a full matrix", 0)
    feedback_from: str = option(
        "whose rates are fed back: each token's to itself, or those of the first, [CLS], to all", "tokens",
        choices=CHOICES["feedback_from"],
    )  # fmt: skip
    looped: bool = option("one or two encoders over and over, their output fed back until it is their input", False)
    lateral: bool = option("let the last encoder's output neurons inhibit one another", False)
    v_th: float | None = option("firing threshold, in units of the current" + OPEN.format("1"), None)
    leak: float | None = option("membrane's factor per time step: 1 is IF, below 1 LIF" + OPEN.format("1"), None)
    spikes: str | None = option(
        "what a neuron may emit" + OPEN.format("signed, with --operators binary"), None, choices=SPIKES
    )
    epochs: tuple[float, ...] = option(
        "passes over the data, one value or one per stage; without it, 1 general, 1 internal, 0.3 "
        "prediction, 0.25 few-steps",
        (),
    )
    learning_rate: tuple[float, ...] = option(
        "peak learning rate of AdamW, one value or one per stage; without it, 0.001, for prediction 0.0003, for "
        "few-steps 0.0002",
        (),
    )
    hidden: float = option("weight of the hidden states in the loss", 1.0)
    attention: float = option("weight of the attention scores in the loss (their squares are large numbers)", 0.01)
    logits: float = option("weight of the teacher's logits in the stages prediction and few-steps", 1.0)
    labels: float = option("weight of the task's labels in the stages prediction and few-steps", 0.0)
    classifier: str | None = option(
        "how it begins, before the first of the stages prediction and few-steps: fitted by least squares to the "
        "teacher's logits, or learnt from what it is; without it, fitted, but learnt where a student of --init begins "
        "with few-steps",
        None,
        choices=CLASSIFIERS,
    )
    keep_internal: float = option("weight of the internal stage's loss within the stages prediction and few-steps", 0.0)
    temperature: float = option("temperature of the logits of teacher and student, where they are compared", 1.0)
    mask: float = option(
        "share of the word pieces that teacher and student read as [MASK], drawn anew for every batch; the teacher's "
        "activations cannot be kept then",
        0.0,
    )
    dropout: float = option(
        "dropout of the student's attention weights and of what an encoder's blocks give out, while training; the same "
        "in all sweeps and time steps of an update, another with another number of workers or MPI ranks",
        0.0,
    )
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
    few_steps: tuple[int, ...] = option(
        "time steps of the stage few-steps; of several, the loss is taken at each, in equal parts, of one simulation; "
        "without it, 1,2,4",
        (),
    )
    settled_share: float = option(
        "share of the updates of few-steps that are at the equilibrium, which drifts otherwise", 0.0
    )
    probe_every: int = option(
        f"updates per measurement of the equilibrium gap (T = {PROBE_STEPS}, a fixed batch), for the next line of the "
        "log; 0: none",
        100,
    )
    forward_solver: str = option(
        "solver of the equilibrium while training, where rates return", "anderson", choices=FORWARD_METHODS
    )
    adjoint_solver: str = option(
        "solver of the adjoint system, where rates return; gmres and dense also measure the loop's gain, and only with "
        "them is a loop held down",
        "gmres",
        choices=ADJOINT_METHODS,
    )
    adjoint_rtol: float = option(
        "relative residual at which the adjoint system counts as solved; 0: 1e-4, that of float32", 0.0
    )
    jacobian_penalty: float = option(
        "weight in the loss of the loop's squared Jacobian norm, along one random direction per update", 0.0
    )
    graphs: bool = option(
        "on a GPU, record what an update asks of it, once for each length of texts, and ask for it at once (CUDA "
        "graphs); without dropout, and not where rates return",
        True,
    )
    teacher_cache: float = option(
        "most GB (10^9 bytes) of the teacher's activations to keep on disk, rounded to float16, in stages of more than "
        "one epoch and in all with --cache-dir; a stage that needs more computes them in every epoch; 0: keep none; "
        "a GPU computes them in every step",
        4.0,
    )
    cache_dir: Path | None = option(
        "where the tokenised corpus and the teacher's activations are kept, for any number of runs; without it, in the "
        "output directory, until the end of the run",
        None,
    )

    def __post_init__(self):
        super().__post_init__()
        self._resolve_task()
        self._resolve_kind()
        if len(set(self.few_steps)) < len(self.few_steps):
            raise InputError(f"--few-steps: found {list(self.few_steps)}, expected time steps, each once")
        require_at_least(self, probe_every=0, few_steps=1, settled_share=0)
        for name in ("mask", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"--{name}: found {getattr(self, name)}, expected a share, at least 0 and below 1")
        if not self.graphs and self.device != "cuda":
            raise InputError(f"--no-graphs: for --device cuda, found {self.device}")
        if self.settled_share > 1:
            raise InputError(f"--settled-share: found {self.settled_share}, expected a share between 0 and 1")
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
        if self.drive == "differential" and self.leak not in (None, 1):
            raise InputError(f"--drive differential: for neurons without a leak, found --leak {self.leak}; use instant")
        self.require_shift_options()
        self._require_effect()

    def _resolve_task(self):
        self.require_one_source(task_needed=False)
        if self.own and self.train_file is None:
            raise InputError("--dev-file: needs a --train-file, the texts to train on")
        if not self.own and self.task is None:
            object.__setattr__(self, "task", "opinions")
        if self.data_dir is None and self.task not in (None, "opinions"):
            raise InputError(f"--data-dir: needed for --task {self.task}")

    @property
    def learns_logits(self):
        """Whether a stage learns from the teacher's logits."""
        return bool(self.logits) and not set(WITH_LOGITS).isdisjoint(self.stages)

    @property
    def recurrent(self):
        return self.feedback or self.looped or self.lateral

    def _require_effect(self):
        """InputError for an option that would do nothing in this run."""
        if self.student == "ann":
            neurons = NEURONS | {"drive": None, "forward": "equilibrium"}
            if given := [flag(n) for n, default in neurons.items() if getattr(self, n) not in (None, default)]:
                raise InputError(f"{', '.join(given)}: an ann student has no spiking neurons")
            if "few-steps" in self.stages:
                raise InputError("--stages few-steps: an ann student has no spiking neurons")
        if "few-steps" not in self.stages and (self.few_steps or self.settled_share):
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
        if self.mask and self.teacher_cache not in (0, Distill.teacher_cache):
            raise InputError("--teacher-cache: with --mask no text comes twice, there is nothing to keep")
        if self.mask and self.cache_dir and "general" not in self.stages:
            raise InputError("--cache-dir: with --mask no text comes twice, there is nothing to keep but a corpus")
        if not set(WITH_LOGITS) & set(self.stages) and (self.labels or self.keep_internal or self.classifier):
            given = "--labels, --keep-internal, --classifier"
            raise InputError(f"{given}: for the stages prediction and few-steps, which --stages leaves out")
        if self.classifier == "fitted" and not self.logits:
            raise InputError("--classifier fitted: to the teacher's logits, which --logits 0 leaves out")
        if self.class_weights and not self.labels:
            raise InputError("--class-weights: for the loss of the labels, which --labels 0 leaves out")
        for stage in self.stages:
            weights = loss_terms(self, stage)
            if not (weights.hidden or weights.attention or weights.logits or weights.labels):
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

    def _resolve_kind(self):
        """What is left open of a fresh student makes it one without multiplications, that learns to run few steps.

        A run that goes on is what it was begun as, whatever was the default then.
        """
        begun = begun_with(self.output_dir) if self.resume else {}
        for name in (n for n in BEGUN if begun and not getattr(self, n)):
            value = BEGUN[name] if begun.get(name) is None else begun[name]
            if isinstance(BEGUN[name], tuple):
                value = tuple(value) if isinstance(value, list | tuple) else (value,)  # few_steps was one number once
            kind = (int, float) if name in ("epochs", "few_steps") else str
            if not all(isinstance(v, kind) for v in (value if isinstance(value, tuple) else (value,))):
                raise InputError(f"--resume: {self.output_dir}: training_args.json: {name}: found {value!r}")
            if {"few_steps": "few-steps" in self.stages, "classifier": self.learns_logits}.get(name, True):
                object.__setattr__(self, name, value)
        free = self.operators is None and self.init in FRESH and self._may_shift()
        if free:
            tables = "float" if self.weights == "float" else "ternary"
            for name, value in (WITHOUT_MULTIPLICATIONS | {"embedding_weights": tables}).items():
                if getattr(self, name) is None:
                    object.__setattr__(self, name, value)
        if not self.stages:
            stages = STAGES if self.corpus else STAGES[1:]
            values = {len(self.epochs), len(self.learning_rate)} - {0, 1}
            short = not free or values == {len(stages) - 1}  # one value each for the stages but few-steps
            object.__setattr__(self, "stages", stages[:-1] if short else stages)
        if not self.few_steps and "few-steps" in self.stages:
            object.__setattr__(self, "few_steps", FEW_STEPS)

    def _may_shift(self):
        """Whether nothing was asked for that shifts do not go together with."""
        spiking = self.student != "ann" and self.leak in (None, 1) and self.drive != "instant"
        return spiking and not self.recurrent

    def _resolve_stages(self):
        """Fill in one value per stage of the options that have one."""
        for name, defaults in (("epochs", STAGE_EPOCHS), ("learning_rate", STAGE_LEARNING_RATES)):
            values = getattr(self, name) or tuple(defaults[s] for s in self.stages)
            if len(values) not in (1, len(self.stages)):
                wanted = f"1 or one for each stage ({', '.join(self.stages)})"
                raise InputError(f"{flag(name)}: found {len(values)} values, expected {wanted}")
            object.__setattr__(self, name, values * len(self.stages) if len(values) == 1 else values)
