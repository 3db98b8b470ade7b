"""The shapes of the models: flat frozen records, checked when they are made."""

import sys
from dataclasses import MISSING, dataclass, fields

from .errors import InputError
from .operators import chosen, named
from .options import base_type

ACTIVATIONS = (
    *("gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish"),
)  # values of hidden_act
SIZES = {int: "a whole number of at least 1", float: "a number of at least 0", bool: "true or false"}


def _fits(kind, value):
    """Whether a field of a model's configuration may have this value."""
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and value >= 1
    return isinstance(value, (int, float)) and 0 <= value <= sys.float_info.max  # a larger int is no float


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """The shape of a BERT encoder, under Hugging Face's names."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    num_labels: int = 2
    hidden_act: str = "gelu"
    position_embedding_type: str = "absolute"

    def __post_init__(self):
        for f in fields(self):
            value, kind = getattr(self, f.name), base_type(f.type)
            is_default = type(value) is type(f.default) and value == f.default
            if kind in SIZES and not is_default and not _fits(kind, value):
                raise InputError(f"config: {f.name}: found {value!r}, expected {SIZES[kind]}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if getattr(self, name) >= 1:
                raise InputError(f"config: {name}: found {getattr(self, name)}, expected below 1")
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"config: hidden_size {self.hidden_size} does not divide into {self.num_attention_heads} heads"
            )
        for name, known in (("hidden_act", ACTIVATIONS), ("position_embedding_type", ("absolute",))):
            if getattr(self, name) not in known:
                raise InputError(f"config: {name}: found {getattr(self, name)!r}, expected one of {', '.join(known)}")

    @property
    def shifts(self):
        """The operators that are shifts: none of a BERT's."""
        return ()

    @property
    def intermediate_widths(self):
        """How many intermediate neurons each encoder has."""
        return (self.intermediate_size,) * self.num_hidden_layers

    @property
    def embedding_size(self):
        """Width of the embedding's tables."""
        return self.hidden_size

    @property
    def first_position(self):
        """Row of the position table for the first token."""
        return 0

    @property
    def segments(self):
        """Whether there is a table of segments."""
        return True

    @property
    def head_act(self):
        """Between the two matrices of the head, if it has two."""
        return "tanh"

    @property
    def usable_positions(self):
        """How many tokens an example may have."""
        return self.max_position_embeddings - self.first_position

    @property
    def fires_queries(self):
        """Whether queries are a population of their own, not the currents that scores are made of."""
        return False


CHOICES = {
    "spikes": ("binary", "corrective", "signed"),
    "activation": ("spiking", "ann"),
    "feedback_from": ("tokens", "cls"),
    "reset": ("soft", "hard"),
    "weights": ("float", "ternary", "binary"),
    "embedding_weights": ("float", "ternary", "binary"),
}


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(BertConfig):
    """A BERT or one of its family: what differs among them."""

    embedding_size: int = 0  # width of the embedding's tables; 0: hidden_size, without a projection
    first_position: int = 0  # row of the position table for the first token
    segments: bool = True  # whether there is a table of segments
    head_act: str = "tanh"  # between the two matrices of the head, if it has two

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "embedding_size", self.embedding_size or self.hidden_size)
        if self.usable_positions < 1:
            found = f"{self.max_position_embeddings}, of which the first {self.first_position} are for padding"
            raise InputError(f"config: max_position_embeddings: found {found}")


@dataclass(frozen=True, kw_only=True)
class StudentConfig(BertConfig):
    """A spiking student: BERT's shape, and its neurons."""

    v_th: float = 1.0  # firing threshold, in units of the current
    leak: float = 1.0  # factor on a membrane per time step: 1 is IF, below 1 LIF
    reset: str = "soft"  # after a spike: v_th is subtracted; "hard": the membrane is set to 0 (simulation only)
    spikes: str = "binary"  # binary, corrective: rates in [0, 1]; signed: in [-1, 1]
    feedback: bool = False  # the last encoder's rates return to the embedding neurons
    feedback_rank: int = 0  # of the feedback weight; 0: a full matrix
    feedback_from: str = "tokens"  # each token's rates to itself; "cls": the first token's rates to all
    looped: bool = False  # the same one or two encoders over and over, until they reproduce their input
    lateral: bool = False  # the last encoder's output neurons inhibit one another, token by token
    feedback_gain: float = 0.1  # scale of the fresh weights of all these
    activation: str = "spiking"  # "ann": no neurons at all, an ordinary BERT of this size (a baseline)
    teacher_hidden_size: int | None = None  # outputs of distill_map; None: hidden_size
    window: float = 0.0  # how many more spikes a neuron must be short of, or ahead by, than half a one to fire
    headless: bool = False  # distilled on general text only: its classifier has not been trained
    operators: str = "float"  # which are shifts instead of multiplications, see operators.py; "shift": all of them
    half_steps: bool = False  # gains of shift norms: 1 or 1.5 times a power of two, not only powers of two
    intermediate_sizes: tuple | None = None  # of each encoder, where neurons were removed; None: intermediate_size
    weights: str = "float"  # of the encoders' matrices; ternary, binary: a pattern and one scale per row
    embedding_weights: str = "float"  # of the embedding's three tables, likewise
    activation_bits: int = 0  # of what an ordinary BERT's layers hand on, token by token; 0: not rounded

    def __post_init__(self):
        super().__post_init__()
        if not self.v_th > 0:
            raise InputError(f"config: v_th: found {self.v_th}, expected a positive threshold")
        if not 0 < self.leak <= 1:
            raise InputError(f"config: leak: found {self.leak}, expected above 0 and at most 1")
        if self.window and self.leak != 1:
            raise InputError(f"config: window: for IF neurons only (leak 1), found leak {self.leak}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(f"config: {name}: found {getattr(self, name)!r}, expected one of {', '.join(known)}")
        self._check_loop()
        self._check_operators()
        self._check_sizes()

    def _check_loop(self):
        if self.feedback_rank > self.hidden_size:
            raise InputError(f"config: feedback_rank: found {self.feedback_rank}, hidden_size is {self.hidden_size}")
        if not self.feedback and (self.feedback_rank or self.feedback_from != "tokens"):
            raise InputError("config: feedback_rank, feedback_from: without effect, for feedback is false")
        if self.looped and self.feedback:
            raise InputError("config: looped, feedback: found both, expected one: a loop is a feedback of its own")
        if self.looped and self.num_hidden_layers > 2:
            raise InputError(f"config: looped: found {self.num_hidden_layers} encoders, expected 1 or 2")

    def _check_operators(self):
        object.__setattr__(self, "operators", named(self.operators))
        if self.shifts and self.leak != 1:
            raise InputError(
                f"config: operators {self.operators}: for IF neurons only (leak 1), found leak {self.leak}"
            )
        if self.shifts and self.reset == "hard":
            raise InputError(f"config: operators {self.operators}: for the soft reset only, found reset 'hard'")
        if self.shifts and self.recurrent:
            raise InputError(
                f"config: operators {self.operators}: not with feedback, looped or lateral: a loop of step functions "
                "need not have a fixed point"
            )
        if "query" in self.shifts and self.activation == "ann":
            raise InputError(
                f"config: operators {self.operators}: an ordinary BERT (activation ann) has no spiking query"
            )
        if self.half_steps and not {"norm", "embedding-norm"} & set(self.shifts):
            raise InputError(f"config: half_steps: without effect, for operators {self.operators} has no shift norm")
        if self.activation_bits and self.activation != "ann":
            raise InputError("config: activation_bits: of an ordinary BERT (activation ann), this student has spikes")

    def _check_sizes(self):
        sizes = self.intermediate_sizes
        if sizes is None:
            return
        fits = isinstance(sizes, (list, tuple)) and len(sizes) == self.num_hidden_layers
        if not fits or not all(_fits(int, n) and n <= self.intermediate_size for n in sizes):
            expected = f"{self.num_hidden_layers} numbers from 1 to intermediate_size, {self.intermediate_size}"
            raise InputError(f"config: intermediate_sizes: found {sizes!r}, expected {expected}")
        object.__setattr__(self, "intermediate_sizes", tuple(sizes))

    @property
    def intermediate_widths(self):
        return self.intermediate_sizes or super().intermediate_widths

    @property
    def shifts(self):
        """The operators that are shifts, a tuple of their names."""
        return chosen(self.operators)

    @property
    def fires_queries(self):
        return "query" in self.shifts or self.activation_bits > 0

    @property
    def recurrent(self):
        """Whether anything returns: the equilibrium then is a fixed point that has to be solved for."""
        return self.feedback or self.looped or self.lateral


def declared_labels(values, where):
    """How many labels the dict of a config.json says there are, None if it does not say."""
    names = values.get("id2label")
    if names is not None and not (isinstance(names, dict) and all(str(k).isdigit() for k in names)):
        raise InputError(f"{where}: id2label: found {names!r}, expected an object of label numbers and names")
    return values.get("num_labels", len(names) if names else None)


def read_config(kind, values, where):
    """A `kind` (BertConfig or StudentConfig) from a dict; keys that it does not know belong to others."""
    if (labels := declared_labels(values, where)) is not None:
        values = values | {"num_labels": labels}
    known = {f.name: values[f.name] for f in fields(kind) if f.name in values}
    if missing := [f.name for f in fields(kind) if f.default is MISSING and f.name not in known]:
        raise InputError(f"{where}: missing {', '.join(missing)}")
    try:
        return kind(**known)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
