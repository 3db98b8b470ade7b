"""Weights of 1.58 bits (ternary) and 1 bit (binary): row by row a pattern times one scale, float masters behind them.

    ternary   pattern sign(w) where |w| > 0.7 mean |w|, else 0; scale the mean |w| of what is kept  (Zhang et al. 2020,
              TernaryBERT, arXiv 2009.12812; Li & Liu 2016, arXiv 1605.04711, for the 0.7)
    binary    pattern sign(w - mean w); scale mean |w|  (Liu et al. 2022, BiT, arXiv 2205.13016)

Training is straight-through: the forward pass uses the low-bit weights, and their gradient is that of the masters. What
is low-bit already comes out bit for bit as it went in: nothing changes when it is quantised again.

Axes: O outputs (rows), I inputs.
"""

import functools
import operator

from ..arrays.backend import namespace
from ..arrays.tree import leaves, nest
from ..arrays.workers import ALONE
from . import twins
from .held import PackedRows

TERNARY_CUT = 0.7  # of a row's mean size: what is smaller becomes 0
LAYERS = (
    ("attention", "self", "query"),
    ("attention", "self", "key"),
    ("attention", "self", "value"),
    ("attention", "output", "dense"),
    ("intermediate", "dense"),
    ("output", "dense"),
)
TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")


def low_bit(weight, kind):
    """The low-bit weights of masters, a fresh array; packed ones are so already.   (..., I) rows  ->  (..., I)"""
    if isinstance(weight, PackedRows):
        return weight
    return {"ternary": ternary, "binary": binary}[kind](weight)


def ternary(weight):
    if compiled := twins.ternary(weight):
        return compiled(weight, TERNARY_CUT)
    size = abs(weight)
    kept = size > TERNARY_CUT * _row_mean(size)
    size *= kept
    count = namespace(weight).maximum(kept.sum(axis=-1, keepdims=True), 1)
    scale = (size.sum(axis=-1, keepdims=True, dtype="float64") / count).astype(weight.dtype)
    return namespace(weight).sign(weight) * kept * scale


def binary(weight):
    xp = namespace(weight)
    mean = _row_mean(weight)
    over = weight - mean
    level = abs(over) <= 4 * xp.finfo(weight.dtype).eps * abs(mean)  # a row of one number keeps that number's sign
    positive = xp.where(level, weight >= 0, over > 0)
    return (2 * positive.astype(weight.dtype) - 1) * _row_mean(abs(weight))


def _row_mean(x):
    """Means of rows, summed in double precision: of equal float32 numbers it is that number.   (..., I) -> (..., 1)"""
    return x.mean(axis=-1, keepdims=True, dtype="float64").astype(x.dtype)


def split(weight):
    """(pattern int8 (O, I), scale (O,)) of low-bit weights (O, I): each row holds its scale, its negative, or 0."""
    if isinstance(weight, PackedRows):
        return weight.split()
    return namespace(weight).sign(weight).astype("int8"), abs(weight).max(axis=-1)


def low_bit_names(config):
    """{parameter's name: "ternary" or "binary"} of a student's weights that are not float."""
    kinds = {}
    if config.weights != "float":
        for i in range(config.num_hidden_layers):
            kinds |= {f"encoder.layer.{i}.{'.'.join(path)}.weight": config.weights for path in LAYERS}
    if config.embedding_weights != "float":
        kinds |= {f"embeddings.{table}.weight": config.embedding_weights for table in TABLES}
    return kinds


class LowBitRows:
    """A table of masters (V, D), of which the rows that are asked for are made low-bit."""

    def __init__(self, table, kind):
        self.table, self.kind, self.shape = table, kind, table.shape

    @property
    def largest(self):
        """The largest size of a master, a float: no low-bit weight is larger."""
        return float(abs(self.table).max())

    def __getitem__(self, index):
        return low_bit(self.table[index], self.kind)


def quantised(tree, config, workers=ALONE):
    """The tree of parameters with which a student computes, from that of its masters; shares all other arrays."""
    tree = dict(tree)
    if config.weights != "float":
        paths, made = [(*path, "weight") for path in LAYERS], {}
        matrices = [leaf for layer in tree["encoder"]["layer"] for leaf in _at(layer, paths)]
        workers.map(lambda w: made.update({id(w): low_bit(w, config.weights)}), matrices)
        layers = [_with_low_bit(layer, paths, lambda w: made[id(w)]) for layer in tree["encoder"]["layer"]]
        tree["encoder"] = tree["encoder"] | {"layer": layers}
    if config.embedding_weights != "float":
        paths = [(table, "weight") for table in TABLES]
        tree["embeddings"] = _with_low_bit(tree["embeddings"], paths, lambda w: LowBitRows(w, config.embedding_weights))
    return tree


def held(tree, config):
    """The tree with which a student computes again and again: made low-bit once, and packed (held.PackedRows); the tree
    itself where nothing is to be done."""
    kinds = low_bit_names(config)
    parameters = dict(leaves(tree))
    if all(isinstance(parameters[name], PackedRows) for name in kinds):
        return tree
    make = lambda name, weight: PackedRows(*split(low_bit(weight, kinds[name])), kinds[name])  # noqa: E731
    return nest({name: make(name, p) if name in kinds else p for name, p in parameters.items()})


def rounding(bits):
    """The `fire` of an ordinary BERT whose layers hand on numbers of so many bits; straight-through."""

    def fire(population, current):
        return low_bit_activation(current, bits), lambda dy, grads=None: dy

    return fire


def low_bit_activation(x, bits):
    """x rounded to 2^bits - 1 levels, evenly spaced from -max |x| to max |x| of its row; of 1 bit sign(x) mean |x|.

    (..., W)  ->  (..., W)
    """
    xp = namespace(x)
    if bits == 1:
        return xp.where(x >= 0, 1, -1).astype(x.dtype) * _row_mean(abs(x))
    step = xp.maximum(abs(x).max(axis=-1, keepdims=True), xp.finfo(x.dtype).tiny) / (2 ** (bits - 1) - 1)
    return xp.rint(x / step) * step


def _at(tree, paths):
    """The leaves of a nested dict at the paths."""
    return [functools.reduce(operator.getitem, path, tree) for path in paths]


def _with_low_bit(tree, paths, change):
    """A copy of a nested dict in which change(leaf) stands at the paths."""
    tree = dict(tree)
    for head in {path[0] for path in paths}:
        below = [path[1:] for path in paths if path[0] == head]
        tree[head] = change(tree[head]) if below == [()] else _with_low_bit(tree[head], below, change)
    return tree
