"""A student in whole numbers: what its weights, biases, thresholds and norms become where nothing is a float.

For students whose operators are all shifts and whose layers are ternary or binary. Every quantity has a unit of its
own, a power of two per row or per norm, as fine as 32 bits allow for 64 time steps (integer_load makes them):

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

import functools
import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..arrays.ops_shift import LEAST_POWER

LARGEST = 2**31 - 1
LOUDEST = 2  # thresholds in each time step that a drive behind a norm is cut off at: nothing fires more than one spike
SCORE_BITS = 24  # fractional, of what turns scores into powers of two
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
    """weights (I, O) int8, each -1, 0 or 1; shift (O,) int32: sums are taken times 2^shift.

    populations: as many of the same width that it drives are side by side.
    """

    weights: Any
    shift: Any
    populations: int = 1
    made: dict = field(default_factory=dict, compare=False)

    @classmethod
    def beside(cls, matrices):
        """Several as one."""
        weights, shifts = zip(*((m.weights, m.shift) for m in matrices), strict=True)
        return cls(np.hstack(weights), np.concatenate(shifts), len(matrices))

    def tiles(self, columns):
        """(n, I, columns): so many columns at a time, of one population, the last filled up with zeros; made once."""
        if columns not in self.made:
            inputs, width = len(self.weights), self.weights.shape[1] // self.populations
            each = -(-width // columns)
            tiles = np.zeros((self.populations, each, inputs, columns), np.int8)
            for which, tile in itertools.product(range(self.populations), range(each)):
                part = self.weights[:, which * width : (which + 1) * width][:, tile * columns : (tile + 1) * columns]
                tiles[which, tile, :, : part.shape[1]] = part
            self.made[columns] = tiles.reshape(-1, inputs, columns)
        return self.made[columns]


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

    signs (D,) int32: -1 where the gain of the embedding's norm is negative. places (n, D), segments (n, D) int32: rows
    of their tables, in units of 2^-embedded.point. classifier (D, C) int32, class_bias (C,) int32: logits in units of
    logit_scale / t. made: what is made of these when it is first needed.
    """

    signs: Any
    places: Any
    segments: Any
    embedded: Norm
    embedding: Cells
    encoders: tuple
    context_bits: int
    classifier: Any
    class_bias: Any
    logit_scale: float
    made: dict = field(default_factory=dict, compare=False)

    @functools.cached_property
    def cells(self):
        """{population: Cells}, in the order of a sweep."""
        found = {"embedding": self.embedding}
        for i, encoder in enumerate(self.encoders):
            found |= {f"encoder.{i}.{name}": cells for name, cells in encoder.cells.items()}
        return found

    def uppers(self, rest):
        """{population: what a membrane has to reach, (W,) int32}; rest: as a share of a spike's cost; made once."""
        if rest not in self.made:
            self.made[rest] = {name: np.rint(cells.cost * rest).astype(np.int32) for name, cells in self.cells.items()}
        return self.made[rest]

    def longest(self):
        """(time steps that 32 bits suffice for, 64 before a norm, whatever the text; the population that stops it)."""
        steps = {name: LARGEST / cells.growth for name, cells in self.cells.items()}
        for i, encoder in enumerate(self.encoders):
            for name, norm in (("attention_output", encoder.mixed), ("output", encoder.narrowed)):
                steps[f"encoder.{i}.{name}"] = min(steps[f"encoder.{i}.{name}"], 2.0**63 / norm.growth)
        first = min(steps, key=steps.get)
        return int(steps[first]), first


def embedding_rows(tree, constants, input_ids, token_type_ids):
    """Sums of table rows in units of 2^-constants.embedded.point.   ids (B, L)  ->  (B, L, D) int32"""
    total = whole(tables(tree)[0][input_ids], constants.embedded.point)
    total += constants.places[: input_ids.shape[1]]
    total += constants.segments[token_type_ids]
    total *= constants.signs
    return total


def tables(tree):
    """The three tables of the embedding."""
    return tuple(tree["embeddings"][f"{name}_embeddings"]["weight"] for name in ("word", "position", "token_type"))


def whole(x, bits):
    """x 2^bits, rounded, as int32."""
    return np.rint(np.asarray(x, np.float64) * np.ldexp(1.0, bits)).astype(np.int32)
