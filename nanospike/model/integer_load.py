"""From the floats of a student to its integers: units, constants and widths (integer.py says which and why).

Axes: D hidden, I inputs, O outputs, W neurons of a population.
"""

import math

import numpy as np

from ..arrays.ops_shift import LEAST_EXPONENT, LEAST_POWER, LOG2_E, SPREAD
from ..config.errors import InputError
from ..config.operators import OPERATORS
from . import settling
from .integer import LARGEST, LOUDEST, SCORE_BITS, Cells, Encoder, Integers, Matrix, Norm, tables, whole
from .quantise import split

LONGEST = 64  # time steps for which 32 bits are made to suffice
ROOM = LARGEST / (LONGEST + 0.5)
# Fractional bits: of what a matrix drives, of sums before a norm, of what leaves one. Coarser ones let neurons close to
# their threshold decide otherwise than in float32, and each such spike changes many behind it.
ROW_BITS, POINT_BITS, NORM_BITS = 16, 28, 24
CLASSIFIER_BITS = 8


def require_integer(config, device):
    """InputError unless a student of this configuration can be run in integers."""
    if config.activation == "ann":
        raise InputError("arithmetic integer: this student is an ordinary BERT (activation ann): it has no spikes")
    if config.shifts != OPERATORS:
        needed = "; the student has to be distilled with --operators shift, and ternary or binary weights"
        raise InputError(f"arithmetic integer: for operators shift, found {config.operators}{needed}")
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
    every = lambda table: whole(table[np.arange(table.shape[0])], embedded.point)  # noqa: E731
    return Integers(
        signs,
        *(every(table) for table in tables(tree)[1:]),
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
    cost = np.full(config.hidden_size, whole(v_th("attention"), context_bits))
    cells["attention"] = Cells.of(cost, np.zeros_like(cost), 2.0 ** (context_bits + 0.5))
    mix, mixed, cells["attention_output"] = _normalised(attention["output"], v_th("attention_output"), config)
    widen, cells["intermediate"] = _driven(p["intermediate"]["dense"], v_th("intermediate"))
    narrow, narrowed, cells["output"] = _normalised(p["output"], v_th("output"), config)
    return Encoder(
        Matrix.beside(inward),
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
    pattern, alpha = split(p["weight"])
    used = abs(pattern).sum(axis=1, dtype=np.int64)
    bias, v_th = np.asarray(p["bias"], np.float64), np.asarray(v_th, np.float64)
    bits, live, cost, bias = _per_gain(alpha, bias, v_th, lambda unit: used + (abs(bias) + v_th) / unit, ROW_BITS)
    reach = np.where(live, np.ldexp(used.astype(float), bits), 0)
    return Matrix(_turned(pattern * live[:, None]), bits), Cells.of(cost, bias, reach)


def _turned(pattern):
    return np.ascontiguousarray(pattern.T, np.int8)


def _normalised(p, v_th, config):
    """(Matrix, Norm, Cells) of neurons behind a matrix, a residual and a norm; p: dense and LayerNorm."""
    pattern, alpha = split(p["dense"]["weight"])
    alpha, bias = alpha.astype(np.float64), np.asarray(p["dense"]["bias"], np.float64)
    growth = alpha * abs(pattern).sum(axis=1) + 1 + abs(bias)
    point = _point(max(1, alpha.max(), abs(bias).max()))
    norm, cells, signs = _norm(p["LayerNorm"], v_th, config, (growth.max(), point), (alpha, 1, bias))
    return Matrix(_turned(pattern), np.zeros(len(signs), np.int32)), norm, cells


def _embedding(p, v_th, config, rows):
    """(Norm, Cells, signs) of the embedding, to which nothing is added from step to step."""
    largest = sum(table.largest if hasattr(table, "largest") else float(abs(table).max()) for table in rows)
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
