"""The options that the training commands have in common."""

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..arrays.backend import PRECISIONS
from ..arrays.machine import mkl_library
from ..arrays.workers import WORKERS_HELP
from ..config.errors import InputError
from ..config.options import option, require_at_least

WITH_LOGITS = ("prediction", "few-steps")  # stages of distill


def part_of(share, number):
    """share * number, without what rounding adds or takes: 7, not a little more, of 0.28 and 25; 29 of 0.29 and 100."""
    return round(share * number, 6)


FAST_HELP = "on the CPU, compile what stands between matrix products, if numba is installed"
PRECISION_HELP = (
    "how products round their factors; sums are float32. tf32: on a GPU; bfloat16: on a GPU, or on a CPU (worth it "
    "with AMX), where it needs the extras fast and mkl"
)


def require_precision(options):
    """InputError for a precision that the device cannot have."""
    if options.precision == "float32" or options.device == "cuda":
        return
    if options.precision != "bfloat16":
        raise InputError(f"--precision {options.precision}: for --device cuda, found {options.device}")
    if not options.fast:
        raise InputError("--precision bfloat16: on a CPU for compiled blocks, found --no-fast")
    missing = [name for name, there in (("numba", find_spec("numba")), ("mkl", mkl_library())) if not there]
    if missing:
        told = f"{' and '.join(missing)} missing; pip install 'nanospike[fast,mkl]'"
        raise InputError(f"--precision bfloat16: on a CPU it needs numba and mkl: {told}")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What the training commands have in common."""

    output_dir: Path = option("directory to write to; must be empty or absent, unless --resume")
    batch_size: int = option("examples per update", 32)
    learning_rate: float = option("peak learning rate of AdamW", 5e-5)
    weight_decay: float = option("decoupled weight decay of matrices", 0.01)
    warmup: float = option("warm-up: share of a stage's updates", 0.1)
    clip_norm: float = option("largest norm of the gradient; 0: no clipping", 1.0)
    epochs: float = option("passes over the data, per stage", 3.0)
    class_weights: str | None = option(
        "what an example of each class counts in the loss of the labels: balanced, or a number for each class in their "
        "order; their mean over the training data becomes 1; without it, 1 for each",
        None,
    )
    max_steps: int = option("most updates per stage; 0: as many as the epochs need", 0)
    max_length: int = option("word pieces per text; longer ones are cut", 128)
    log_every: int = option("updates per line of train_log.jsonl", 20)
    save_every: int = option("updates per checkpoint; 0: only at the end of a stage", 500)
    resume: bool = option("go on from the last checkpoint in the output directory", False)
    seed: int = option("seed of all that is random: initial weights, order of the data, masks, dropout", 0)
    device: str = option("where to compute", "cpu", choices=("cpu", "cuda"))
    workers: int = option(WORKERS_HELP, 0)
    fast: bool = option(FAST_HELP, True)
    precision: str = option(PRECISION_HELP, "float32", choices=tuple(PRECISIONS))

    @property
    def class_factors(self):
        """(C,) float32 of --class-weights, once they are numbers."""
        return np.array([float(w) for w in self.class_weights.split(",")], np.float32)

    def __post_init__(self):
        require_at_least(self, workers=0, batch_size=1, max_steps=0, max_length=3, log_every=1, save_every=0, seed=0)
        require_at_least(self, learning_rate=0, weight_decay=0, clip_norm=0)
        require_precision(self)
        if not 0 <= self.warmup <= 1:
            raise InputError(f"--warmup: found {self.warmup}, expected a share between 0 and 1")
        if not all(0 < v < math.inf for v in (self.epochs if isinstance(self.epochs, tuple) else (self.epochs,))):
            raise InputError(f"--epochs: found {self.epochs}, expected above 0")
