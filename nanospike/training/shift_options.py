"""What a student's operators, weights and activations are made of: options of distill, and what goes together."""

from dataclasses import dataclass

from ..config.errors import InputError
from ..config.models import CHOICES
from ..config.operators import OPERATORS, chosen, named
from ..config.options import option, require_at_least

# What a fresh student is made of where nothing is said. Of one that exists, these may be others than they were.
MADE_OF = {
    "operators": "float",
    "half_steps": False,
    "weights": "float",
    "embedding_weights": "float",
    "activation_bits": 0,
    "window": 0.0,
}
OPEN = "; without it, {}, or what the student of --init has"
THRESHOLDS = ("fixed", "learnt", "calibrated")


@dataclass(frozen=True, kw_only=True)
class ShiftOptions:
    """The part of distill's options that is about a student without multiplications."""

    operators: str | None = option(
        f"operators that are shifts instead of multiplications: float (none), shift (all), or some of "
        f"{','.join(OPERATORS)}" + OPEN.format("shift (float with a loop, a leak, --drive instant and --student ann)"),
        None,
    )
    half_steps: bool = option(
        "let shift norms also multiply by 1.5 times a power of two (a shift and an addition): finer, and fewer jumps",
        False,
    )
    weights: str | None = option(
        "numbers of the encoders' matrices: ternary and binary ones have one scale per row"
        + OPEN.format("ternary, with --operators float"), None, choices=CHOICES["weights"],
    )  # fmt: skip
    embedding_weights: str | None = option(
        "the same of the embedding's tables" + OPEN.format("ternary, with --operators or --weights float float"),
        None,
        choices=CHOICES["embedding_weights"],
    )
    activation_bits: int = option(
        "bits of what the layers of --student ann hand on; 0: not rounded, or what the student of --init has", 0
    )
    thresholds: str | None = option(
        "fixed: all at --v-th; calibrated: those of spiking queries and keys fit the teacher's currents, and are "
        "learnt from there on; learnt: one per population, the former calibrated; without it, calibrated with spiking "
        "queries, otherwise fixed, or what the student of --init has",
        None,
        choices=THRESHOLDS,
    )

    spike_penalty: tuple[float, ...] = option(
        "weight in the loss of the spikes: the sum over populations of their mean |rate|; one value or one per stage; "
        "without it, 0",
        (),
    )

    window: float = option(
        "how many more spikes a neuron must be short of, or ahead by, than half a one to fire: fewer, coarser spikes; "
        "0, or what the student of --init has",
        0.0,
    )
    prune: float = option(
        "before the last stage, remove the intermediate neurons whose mean |rate| on training text is below this", 0.0
    )

    def spike_penalty_in(self, stage):
        """The weight of the spikes in the loss of a stage."""
        values = self.spike_penalty or (0.0,)
        return values[0] if len(values) == 1 else values[self.stages.index(stage)]

    def require_shift_options(self):
        """InputError for what does not go together or does nothing; operators in the one way to write them."""
        if self.operators is not None:
            try:
                object.__setattr__(self, "operators", named(self.operators))
            except InputError as error:
                raise InputError(f"--{error}") from None
        require_at_least(self, activation_bits=0, spike_penalty=0, window=0, prune=0)
        if len(self.spike_penalty) not in (0, 1, len(self.stages)):
            wanted = f"1 or one for each stage ({', '.join(self.stages)})"
            raise InputError(f"--spike-penalty: found {len(self.spike_penalty)} values, expected {wanted}")
        if self.student == "ann" and (
            given := [n for n in ("spike-penalty", "window", "prune") if getattr(self, n.replace("-", "_"))]
        ):
            raise InputError(f"--{', --'.join(given)}: an ann student has no spiking neurons")
        if self.window and self.leak not in (None, 1):
            raise InputError(f"--window: for neurons without a leak, found --leak {self.leak}")
        shifts = chosen(self.operators or "float")
        if self.activation_bits and self.student == "spiking":
            raise InputError("--activation-bits: of --student ann; spiking neurons hand on spikes")
        if self.student == "ann" and "query" in shifts:
            raise InputError(f"--operators {self.operators}: an ann student has no spiking queries")
        if self.student == "ann" and self.thresholds not in (None, "fixed"):
            raise InputError("--thresholds: an ann student has no spiking neurons")
        if shifts and self.leak not in (None, 1):
            raise InputError(f"--operators {self.operators}: for neurons without a leak, found --leak {self.leak}")
        if shifts and self.drive == "instant":
            raise InputError(f"--operators {self.operators}: for the differential drive, found --drive instant")
        if shifts and self.recurrent:
            raise InputError(
                f"--operators {self.operators}: not with --feedback, --looped or --lateral: a loop of step functions "
                "need not have a fixed point"
            )
