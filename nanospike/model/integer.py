"""A student in whole numbers: what its weights, biases, thresholds and norms become where nothing is a float.

For students whose operators are all shifts and whose layers are ternary or binary. Every quantity has a unit of its
own, a power of two per row or per norm, as fine as 32 bits allow for LONGEST time steps:

    query, key, value, intermediate   drive = alpha X + b t >= v (c + 1 - initial), X a sum of patterns: both sides are
                                      divided by alpha and have `bits` fractional bits, per row
    before a norm                     rows of different alpha are added up, so that all have one unit, 2^-point; in 64
                                      bits
    behind a norm                     both sides are divided by |w|; where w is negative, what the norm reads has been
                                      turned round; where w is next to nothing, the drive is b t alone. A drive beyond
                                      2 v t is as good as 2 v t: so much is kept, in 32 bits
    scores, weights                   compared with constants of the time step; weights are powers of two
    context                           sums of powers of two, with `context_bits` fractional bits

Axes: D hidden, F intermediate, I inputs, O outputs, W neurons of a population, C labels.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays.ops_shift import LEAST_EXPONENT, LEAST_POWER, LOG2_E, SPREAD
from ..config.errors import InputError
from ..config.operators import OPERATORS
from . import settling
from .quantise import split

LONGEST = 64  # time steps for which 32 bits are made to suffice
LARGEST = 2**31 - 1
ROOM = LARGEST / (LONGEST + 0.5)
# Fractional bits: of what a matrix drives, of sums before a norm, of what leaves one. Coarser ones let neurons close to
# their threshold decide otherwise than in float32, and each such spike changes many behind it.
ROW_BITS, POINT_BITS, NORM_BITS = 16, 28, 24
LOUDEST = 2  # thresholds in each time step that a drive behind a norm is cut off at: nothing fires more than one spike
SCORE_BITS = 24  # fractional, of what turns scores into powers of two
CLASSIFIER_BITS = 8
POWERS = np.array([2**n for n in range(-LEAST_POWER, -1, -1)] + [0], np.int32)  # 2^(15 + d) of d = 0, -1, ..., left out
EXPONENTS = np.array([int(2 ** (k + 0.5 - LEAST_POWER)) for k in range(15)], np.int32)  # sums above: k + 1 or more


@dataclass(frozen=True)
class Cells:
    """Neurons that fire where drive + bias t - cost c reaches cost (1 - initial); c: their spikes so far, with signs.

    cost, bias (W,) int32; growth: the most that a membrane grows by in a time step, whatever arrives.
    """

    cost: Any
    bias: Any
    growth: float

    @classmethod
    def of(cls, cost, bias, reach):
        """reach: the most that a drive grows by in a time step, one number or (W,)."""
        return cls(cost, bias, float(np.max(reach + abs(bias.astype(np.float64)) + cost)))


@dataclass(frozen=True)
class Matrix:
    """weights (I, O) int16, each -1, 0 or 1; shift (O,) int32: sums are taken times 2^shift."""

    weights: Any
    shift: Any


@dataclass(frozen=True)
class Norm:
    """A norm by a power of two, of numbers in units of 2^-point.

    scale (D,): what one weight of the matrix before it counts; residual (D,): what a spike that goes past the matrix
    does; before (D,): the bias of each time step; all three negative where the gain is. steps (n,): a row whose sizes
    add up to less than t steps[0] is multiplied by triples[0] 2^-exponents[0], one below t steps[1] by the next, ...;
    triples: 1 or 3, exponents (n + 1,). shift (D,): fractional bits of what leaves it; live (D,): 0 where the gain is
    next to nothing, else -1. after (D,): the bias behind it, of each time step; limit (D,): the most, of either sign,
    that is heard of it in a time step. growth: the most that a row's sizes grow by in a time step. All int64, but only
    the sums and steps need it.
    """

    point: int
    scale: Any
    residual: Any
    before: Any
    steps: Any
    triples: Any
    exponents: Any
    shift: Any
    live: Any
    after: Any
    limit: Any
    growth: float


@dataclass(frozen=True)
class Encoder:
    """inward: the matrices of queries, keys and values side by side; half: 2^SCORE_BITS / (2 kappa), where a score is
    kappa times the product of two rates, in powers of two; mixed, narrowed: the norms behind the matrices mix, narrow.
    cells: {last part of a population's name: Cells}."""

    inward: Matrix
    half: int
    mix: Matrix
    mixed: Norm
    widen: Matrix
    narrow: Matrix
    narrowed: Norm
    cells: dict


@dataclass(frozen=True)
class Integers:
    """A whole student but for its tables, of whose rows `embedding_rows` makes integers.

    signs (D,) int32: -1 where the gain of the embedding's norm is negative. classifier (D, C) int32, class_bias (C,)
    int32: logits in units of logit_scale / t.
    """

    signs: Any
    embedded: Norm
    embedding: Cells
    encoders: tuple
    context_bits: int
    classifier: Any
    class_bias: Any
    logit_scale: float

    def cells(self):
        """{population: Cells}, in the order of a sweep."""
        found = {"embedding": self.embedding}
        for i, encoder in enumerate(self.encoders):
            found |= {f"encoder.{i}.{name}": cells for name, cells in encoder.cells.items()}
        return found

    def longest(self):
        """(time steps that 32 bits suffice for, 64 before a norm, whatever the text; the population that stops it)."""
        steps = {name: LARGEST / cells.growth for name, cells in self.cells().items()}
        for i, encoder in enumerate(self.encoders):
            for name, norm in (("attention_output", encoder.mixed), ("output", encoder.narrowed)):
                steps[f"encoder.{i}.{name}"] = min(steps[f"encoder.{i}.{name}"], 2.0**63 / norm.growth)
        first = min(steps, key=steps.get)
        return int(steps[first]), first


def embedding_rows(tree, constants, indices):
    """Sums of table rows in units of 2^-constants.embedded.point.

    indices: of words, positions and segments, each (B, L)  ->  (B, L, D) int32
    """
    found = [whole(table[i], constants.embedded.point) for table, i in zip(tables(tree), indices, strict=True)]
    return (found[0] + found[1] + found[2]) * constants.signs


def tables(tree):
    """The three tables of the embedding."""
    return tuple(tree["embeddings"][f"{name}_embeddings"]["weight"] for name in ("word", "position", "token_type"))


def whole(x, bits):
    """x 2^bits, rounded, as int32."""
    return np.rint(np.ldexp(np.asarray(x, np.float64), bits)).astype(np.int32)


def require_integer(config, device):
    """InputError unless a student of this configuration can be run in integers."""
    if config.activation == "ann":
        raise InputError("arithmetic integer: this student is an ordinary BERT (activation ann): it has no spikes")
    if config.shifts != OPERATORS:
        raise InputError(f"arithmetic integer: for operators shift, found {config.operators}")
    if config.weights == "float":
        raise InputError("arithmetic integer: for ternary or binary weights, found weights float")
    if device != "cpu":
        raise InputError(f"arithmetic integer: on the cpu only, found device {device}")


def integers(tree, config):
    """The Integers of a student whose layers hold low-bit weights (Student.computing). InputError: see below."""
    own = {name: np.asarray(v, np.float64) for name, v in settling.thresholds(tree).items()}
    v_th = lambda population: own.get(population, config.v_th)  # noqa: E731
    norm = tree["embeddings"]["LayerNorm"]
    embedded, embedding, signs = _embedding(norm, v_th("embedding"), config, tables(tree))
    bits = _context_bits(config, [v_th(f"encoder.{i}.attention") for i in range(config.num_hidden_layers)])
    scale_query = settling.score_scale(config, own)
    encoders = []
    for i, p in enumerate(tree["encoder"]["layer"]):
        gain, _ = scale_query(f"encoder.{i}", np.ones(1))
        encoders.append(_encoder(p, config, lambda kind, i=i: v_th(f"encoder.{i}.{kind}"), (gain.item(), bits)))
    weight, bias = (np.asarray(tree["classifier"][name], np.float64) for name in ("weight", "bias"))
    scale = abs(weight).max() / (2 ** (CLASSIFIER_BITS - 1) - 1) or 1.0
    return Integers(
        signs,
        embedded,
        embedding,
        tuple(encoders),
        bits,
        whole(weight.T / scale, 0),
        whole(bias / scale, 0),
        float(scale),
    )


def _encoder(p, config, v_th, products):
    """v_th(the last part of a population's name); products: (gain of the scores, fractional bits of the context)."""
    attention, cells, inward = p["attention"], {}, []
    gain, context_bits = products
    for name in ("query", "key", "value"):
        matrix, cells[name] = _driven(attention["self"][name], v_th(name))
        inward.append(matrix)
    kappa = gain * LOG2_E / math.sqrt(config.hidden_size // config.num_attention_heads)
    cost = np.broadcast_to(whole(v_th("attention"), context_bits), config.hidden_size)
    cells["attention"] = Cells.of(cost, np.zeros_like(cost), 2.0 ** (context_bits + 0.5))
    mix, mixed, cells["attention_output"] = _normalised(attention["output"], v_th("attention_output"), config)
    widen, cells["intermediate"] = _driven(p["intermediate"]["dense"], v_th("intermediate"))
    narrow, narrowed, cells["output"] = _normalised(p["output"], v_th("output"), config)
    return Encoder(
        Matrix(np.hstack([m.weights for m in inward]), np.concatenate([m.shift for m in inward])),
        round(2**SCORE_BITS / (2 * kappa)),
        mix,
        mixed,
        widen,
        narrow,
        narrowed,
        cells,
    )


def _driven(p, v_th):
    """(Matrix, Cells) of neurons that a matrix drives; p: its weight (O, I) and bias (O,)."""
    pattern, alpha = split(np.asarray(p["weight"]))
    used = abs(pattern).sum(axis=1, dtype=np.int64)
    bias, v_th = np.asarray(p["bias"], np.float64), np.asarray(v_th, np.float64)
    bits, live, cost, bias = _per_gain(alpha, bias, v_th, lambda unit: used + (abs(bias) + v_th) / unit, ROW_BITS)
    reach = np.where(live, np.ldexp(used.astype(float), bits), 0)
    weights = np.ascontiguousarray((pattern * live[:, None]).T, np.int16)
    return Matrix(weights, bits), Cells.of(cost, bias, reach)


def _normalised(p, v_th, config):
    """(Matrix, Norm, Cells) of neurons behind a matrix, a residual and a norm; p: dense and LayerNorm."""
    pattern, alpha = split(np.asarray(p["dense"]["weight"]))
    alpha, bias = alpha.astype(np.float64), np.asarray(p["dense"]["bias"], np.float64)
    growth = alpha * abs(pattern).sum(axis=1) + 1 + abs(bias)
    point = _point(max(1, alpha.max(), abs(bias).max()))
    norm, cells, signs = _norm(p["LayerNorm"], v_th, config, (growth.max(), point), (alpha, 1, bias))
    return Matrix(np.ascontiguousarray(pattern.T, np.int16), np.zeros(len(signs), np.int32)), norm, cells


def _embedding(p, v_th, config, rows):
    """(Norm, Cells, signs) of the embedding, to which nothing is added from step to step."""
    largest = sum(float(abs(getattr(table, "table", table)).max()) for table in rows)
    return _norm(p, v_th, config, (largest, _point(largest)), (0, 0, 0))


def _point(largest):
    """Fractional bits of numbers up to `largest` that are to fit into 32."""
    return int(np.clip(math.floor(math.log2(LARGEST / largest)), 0, POINT_BITS))


def _norm(p, v_th, config, comes, reads):
    """(Norm, Cells, signs) of a LayerNorm p; comes: (the most that a number before it grows by in a time step, the
    point); reads: alpha (D,), what a residual's spike is worth, bias (D,)."""
    (growth, point), width, half = comes, config.hidden_size, config.half_steps
    gain, bias, v_th = (np.asarray(x, np.float64) for x in (p["weight"], p["bias"], v_th))
    signs = np.where(gain < 0, -1, 1)
    least = max(LEAST_EXPONENT, -point)
    most = max(math.ceil(math.log2(SPREAD * growth)), least) + 1
    edges, triples, exponents = _gains(least, most, half)
    # A membrane is a drive of at most LOUDEST thresholds, less what one spike a step has cost; a bias has to fit too.
    need = np.maximum((LOUDEST + 1) * v_th, abs(bias) / LONGEST)
    bits, live, cost, after = _per_gain(abs(gain), bias, v_th, lambda unit: need / unit, NORM_BITS)
    norm = Norm(
        point,
        *(whole(np.broadcast_to(x, width), point).astype(np.int64) * signs for x in reads),
        np.rint(edges * width * 2.0**point / SPREAD).astype(np.int64),
        triples,
        exponents,
        bits.astype(np.int64),
        -live.astype(np.int64),
        after.astype(np.int64),
        LOUDEST * cost.astype(np.int64),
        float(np.ldexp(growth * width, point)),
    )
    return norm, Cells.of(cost, np.zeros_like(cost), LOUDEST * cost.astype(np.float64)), signs.astype(np.int32)


def _gains(least, most, half_steps):
    """(edges, triples, exponents): sizes below edges[i] are multiplied by triples[i] 2^-exponents[i], see Norm.

    The gains of ops_shift.reciprocal for sizes from 2^least to 2^most; 1.5 2^-(m + 1) is 3 2^-(m + 2).
    """
    m = np.arange(least, most)
    if not half_steps:
        return 2.0 ** (m + 0.5), np.ones(len(m) + 1, np.int64), np.append(m, most)
    edges = np.stack([2.0**m * math.sqrt(4 / 3), 2.0 ** (m + 1) * math.sqrt(2 / 3)], axis=1).reshape(-1)
    exponents = np.append(np.stack([m, m + 2], axis=1).reshape(-1), most)
    return edges, np.append(np.tile([1, 3], len(m)), 1), exponents


def _per_gain(gain, bias, v_th, growth, most):
    """(bits, live, cost, bias) of neurons that compare gain X + bias t with v_th (c + 1 - initial); all (W,).

    growth(unit): what has to fit, grows at most by this in a time step if `unit` is 1; most: fractional bits. Neurons
    whose gain is so small that v_th / gain does not fit are not live: their drive is bias t alone.
    """
    unit = np.where(gain > 0, gain, 1)
    bits = _bits(growth(unit), most)
    live = (gain > 0) & (bits >= 0)
    unit = np.where(live, unit, 1)
    bits = np.maximum(np.where(live, bits, _bits(growth(unit), most)), 0).astype(np.int32)
    return bits, live, whole(v_th / unit, bits), whole(bias / unit, bits)


def _bits(growth, most):
    return np.clip(np.floor(np.log2(ROOM / growth)), -1, most).astype(np.int32)


def _context_bits(config, v_th):
    """Enough for the smallest weight that a key can have, unless 32 bits are not: then the smallest are 0."""
    smallest = -LEAST_POWER + round(math.log2(config.max_position_embeddings))
    room = math.log2(ROOM / (math.sqrt(2) + max(np.max(v) for v in v_th)))
    return max(min(smallest, math.floor(room)), 0)
