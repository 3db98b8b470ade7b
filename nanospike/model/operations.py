"""What the parts of the graph compute, part by part: the table behind counted operations, energies and the audit.

One table of costs by operator set (COSTS) and one list of parts in the order of a sweep (`parts`). How often each part
works is counted from the spikes of a run (counting.py). A part is either

    Synapses   a matrix, or the identity of a residual: it adds up weights where spikes arrive
    Operator   anything else: done for every token, pair of tokens or text, whether anything spikes or not

The words for what it is made of (KEYS): `multiply_accumulate`, and `float` for every other operation of floating-point
numbers, a product, quotient, root, exponential or error function alike; `addition`, `comparison`, `shift` of whole or
fixed-point numbers; `constant` for a product with a constant of the time step.

Axes: W width of the population that spikes, D hidden, F intermediate, H heads, N encoders.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..arrays.backend import to_host
from ..config.operators import FLOAT, OPERATORS

KEYS = ("addition", "shift", "comparison", "constant", "float", "multiply_accumulate")
SPIKE_DRIVEN, SHIFT, CONSTANT = "spike-driven", "shift", "constant"
LOOKED_UP = 5  # comparisons that find a number's place among 16
KINDS = (SPIKE_DRIVEN, SHIFT, CONSTANT, FLOAT)


@dataclass(frozen=True)
class Cost:
    """What one operator takes: its kind, and {key: operations} for each of its numbers and, on top, for each row."""

    kind: str
    number: dict
    row: dict = field(default_factory=dict)


# A row of a softmax is one query's of one head, that of a norm is a token. Softmax: maximum, difference, exponential,
# sum, quotient. LayerNorm: sum, difference, square and sum, two products and a sum; the root and three quotients per
# row. GELU: x / sqrt 2, erf, 1 + it, x / 2, their product. Shift operators: see arrays.ops_shift; a gain is part of
# the threshold that follows it (a neuron compares x / 2^m with v_th / gain), so it costs nothing.
COSTS = {
    ("softmax", False): Cost(FLOAT, {FLOAT: 5}),
    ("softmax", True): Cost(SHIFT, {"comparison": 1, "addition": 3, SHIFT: 2}, {"comparison": 1, SHIFT: 1}),
    ("norm", False): Cost(FLOAT, {FLOAT: 3, "multiply_accumulate": 2}, {FLOAT: 4}),
    ("norm", True): Cost(SHIFT, {"comparison": 1, "addition": 2, SHIFT: 1}, {"comparison": 1, "addition": 1}),
    ("gelu", False): Cost(FLOAT, {FLOAT: 5}),
    ("context", False): Cost(FLOAT, {"multiply_accumulate": 1}),
    ("context", True): Cost(SHIFT, {SHIFT: 1, "addition": 1}),
    ("scores", False): Cost(FLOAT, {"multiply_accumulate": 1}),
    ("scale", False): Cost(FLOAT, {FLOAT: 1}),
    ("scale", True): Cost(CONSTANT, {CONSTANT: 1}),
    ("sum", False): Cost(FLOAT, {FLOAT: 1}),
    ("sum", True): Cost(SHIFT, {"addition": 1}),
    ("tanh", False): Cost(FLOAT, {FLOAT: 1}),
    ("product", False): Cost(FLOAT, {"multiply_accumulate": 1}),
}


@dataclass(frozen=True)
class Synapses:
    """A matrix that works where spikes of `source` arrive, at every time step.

    population: the one whose current it makes. weight: the name of its tensor, None of the identity. used (W,): how
    many weights other than 0 a spike of each neuron uses; None: one for each real token of its text (the product of
    spiking queries and keys). outputs: weights that a spike fetches, and biases that a token does. source_token: "all",
    or "first" if only a text's first token sends. when: "step"; "decision": where logits are taken. delay: steps that
    a spike takes to arrive: those of the last `delay` steps of a run do not.
    """

    operation: str
    population: str
    source: str
    used: Any
    outputs: int
    weight: str | None = None
    bias: str | None = None
    source_token: str = "all"
    when: str = "step"
    delay: int = 0


@dataclass(frozen=True)
class Operator:
    """Work that does not wait for spikes: `work` {key: operations} for each token, pair or text (`per`).

    when: "step"; "start": once per text; "decision": where logits are taken. states: numbers per token that it keeps
    from one time step to the next, besides the membranes. delay: it begins so many steps after the first.
    """

    operation: str
    population: str
    kind: str
    per: str
    when: str
    work: dict
    states: int = 0
    delay: int = 0


def operator(name, at, numbers, *, rows=1, shift=False):
    """The Operator of COSTS[name, shift] with so many numbers and rows, for every token at every step.

    at: (operation, population).
    """
    cost, work = COSTS[name, shift], {}
    for costs, times in ((cost.number, numbers), (cost.row, rows)):
        for key, count in costs.items():
            work[key] = work.get(key, 0) + count * times
    return Operator(*at, cost.kind, "token", "step", work)


def per_pair(part):
    """The Operator for every pair of tokens."""
    return replace(part, per="pair")


def parts(config, tree, drive=None):
    """Everything that a model computes: a list of Synapses and Operator, in the order of a sweep.

    config, tree: a student's, or an ordinary BERT's with drive None (then nothing is kept from step to step).
    """
    shift, d, last = config.shifts, config.hidden_size, f"encoder.{config.num_hidden_layers - 1}.output"
    shifted = "embedding-norm" in shift
    found = [operator("sum", ("embeddings.tables", "embedding"), 2 * d, shift=shifted)]
    found += [operator("norm", ("embeddings.LayerNorm", "embedding"), d, shift=shifted)]
    found = [replace(part, when="start") for part in found]
    found += return_parts(config, tree, last)
    for i in range(config.num_hidden_layers):
        found += attention_parts(config, tree, i, drive, shift)
        found += feed_forward_parts(config, tree, i, drive, shift)
    if "pooler" in tree:
        found += [replace(synapses(tree, "pooler.dense", "classifier", last), source_token="first", when="decision")]
        found += [replace(operator("tanh", ("pooler.tanh", "classifier"), d), per="text", when="decision")]
    if "classifier" in tree:  # without float operators it adds up where [CLS] spikes; else it reads rates
        when = "step" if shift == OPERATORS and drive else "decision"
        found += [replace(synapses(tree, "classifier", "classifier", last), source_token="first", when=when)]
    return found


def in_integers(found):
    """The parts of a run in integers: scores are looked up among a step's constants, not multiplied by one."""
    look_up = lambda part: {"comparison": LOOKED_UP * part.work[CONSTANT]}  # noqa: E731
    return [replace(p, kind=SHIFT, work=look_up(p)) if getattr(p, "kind", None) == CONSTANT else p for p in found]


def attention_parts(config, tree, i, drive, shift):
    """Queries, keys, values, scores, weights and context of encoder i, for the population `attention`."""
    d, heads, name, layer = config.hidden_size, config.num_attention_heads, f"encoder.{i}", f"encoder.layer.{i}."
    source, at = sender(i), f"encoder.layer.{i}.attention.self."
    attention, shifted = f"{name}.attention", "softmax" in shift
    spiking_query = "query" in shift and drive is not None
    query = f"{name}.query" if spiking_query else attention
    found = [synapses(tree, layer + "attention.self.query", query, source)]
    found += [synapses(tree, layer + f"attention.self.{p}", f"{name}.{p}", source) for p in ("key", "value")]
    if spiking_query:
        found += [Synapses(at + f"scores.{p}", attention, f"{name}.{p}", None, 0) for p in ("query", "key")]
        found += [per_pair(operator("scale", (at + "scale", attention), heads, shift=shifted))]
    else:
        found += [per_pair(operator("scores", (at + "scores", attention), d))]
    found += [per_pair(operator("softmax", (at + "softmax", attention), heads, rows=0, shift=shifted))]
    if COSTS["softmax", shifted].row:
        found += [operator("softmax", (at + "softmax.rows", attention), 0, rows=heads, shift=shifted)]
    found += [per_pair(operator("context", (at + "context", attention), d, shift=shifted))]
    if drive == "differential" and not shifted:
        found += [time_scale(at, attention, d * (2 if spiking_query else 4), 0 if spiking_query else d)]
    return found


def feed_forward_parts(config, tree, i, drive, shift):
    """What drives the populations `attention_output`, `intermediate` and `output` of encoder i."""
    name, layer, width = f"encoder.{i}", f"encoder.layer.{i}.", config.intermediate_widths[i]
    middle, inner = f"{name}.attention_output", f"{name}.intermediate"
    options = {"shift": "norm" in shift, "by_time": drive == "differential"}
    found = norm_block(tree, layer + "attention.output.", middle, (f"{name}.attention", sender(i)), **options)
    found.append(synapses(tree, layer + "intermediate.dense", inner, middle))
    if "relu" not in shift:
        found.append(operator("gelu", (layer + "intermediate.gelu", inner), width))
        found += [time_scale(layer + "intermediate.", inner, 2 * width, width)] if options["by_time"] else []
    return found + norm_block(tree, layer + "output.", f"{name}.output", (inner, middle), **options)


def norm_block(tree, at, population, senders, *, shift, by_time):
    """A matrix, a residual and a norm; senders: the populations that send to the matrix and to the residual."""
    dense = synapses(tree, at + "dense", population, senders[0])
    d = dense.outputs
    found = [dense, Synapses(at + "residual", population, senders[1], np.ones(d, np.int64), 0)]
    found.append(operator("norm", (at + "LayerNorm", population), d, shift=shift))
    return found + ([time_scale(at, population, 2 * d, d)] if by_time and not shift else [])


def return_parts(config, tree, last):
    """The paths on which the last encoder's spikes return, a step later (recurrence.py)."""
    found, d, rank = [], config.hidden_size, getattr(config, "feedback_rank", 0)
    if getattr(config, "feedback", False):
        first = config.feedback_from == "cls"
        matrix = "feedback.down" if rank else "feedback.weight"
        into = synapses(tree, matrix, "embedding", last, tensor=matrix)
        found.append(replace(into, source_token="first" if first else "all", delay=1))
        if rank:
            up = operator("product", ("feedback.up", "embedding"), rank * d)
            found.append(replace(up, per="text" if first else "token", states=rank, delay=1))
        if first:
            work = {"addition": d}
            found.append(Operator("feedback.to_all", "embedding", SPIKE_DRIVEN, "token", "step", work, delay=1))
    if getattr(config, "looped", False):
        used = (to_host(tree["feedback"]["scale"]) != 0).astype(np.int64)
        found.append(Synapses("feedback.scale", "embedding", last, used, 1, "feedback.scale", delay=1))
    if getattr(config, "lateral", False):
        found.append(replace(synapses(tree, "lateral.weight", last, last, tensor="lateral.weight"), delay=1))
    return found


def synapses(tree, name, population, source, tensor=None):
    """The Synapses of the matrix (out, in) `name`.weight of the tree, or of the one that `tensor` names."""
    tensor, node = tensor or f"{name}.weight", tree
    for key in tensor.split("."):
        node = node[int(key) if isinstance(node, list) else key]
    matrix, bias = to_host(node), None if tensor == name else f"{name}.bias"
    return Synapses(name, population, source, np.count_nonzero(matrix, axis=0), len(matrix), tensor, bias)


def sender(i):
    """The population whose rates enter encoder i."""
    return f"encoder.{i - 1}.output" if i else "embedding"


def time_scale(at, population, numbers, states):
    """Sums of spikes as rates and back (x / t, t g): float operators of the differential drive act on rates."""
    return replace(operator("scale", (at + "time", population), numbers), states=states)
