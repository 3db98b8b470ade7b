"""Which blocks of the graph run fused: the one place that knows whether a twin serves. A block's portable form is the
reference.

A twin serves where its arrays are (a GPU, or float32 on a CPU after use_fast) and where it can do what is asked; the
portable form does otherwise. Twins are not imported where they cannot be used.
"""

import functools
import importlib.util
from contextlib import contextmanager

import numpy as np

from ..arrays import ops, ops_shift
from ..arrays.backend import has_kernels, joined, namespace, side_by_side

GELU = ("gelu", "gelu_python")  # values of hidden_act that the twin of an encoder computes
WIDEST = 16 * 1024  # bytes of a row: the kernels keep three in a block's shared memory
NUMBERED = 2**15  # neurons of a population that compiled events have numbers for
SINGLE = {np.dtype(np.float32)}
SINGLE_OR_DOUBLE = SINGLE | {np.dtype(np.float64)}

_state = {"device": True, "host": False}


def use_fast(wanted):
    """Compile the blocks on the CPU from here on, in this process, if `wanted` and numba is there (the extra `fast`).

    What is done, in words, or "".
    """
    _state["host"] = bool(wanted) and importlib.util.find_spec("numba") is not None
    if not wanted:
        return "NumPy alone"
    return "blocks compiled by numba" if _state["host"] else ""


@contextmanager
def portable():
    """Within it no twin serves, on any thread."""
    before = dict(_state)
    _state.update(device=False, host=False)
    try:
        yield
    finally:
        _state.update(before)


def usable(*arrays):
    """Whether kernels can run on these arrays, of one dtype: float32, on a GPU also float64."""
    if not all(hasattr(a, "dtype") for a in arrays):  # a table whose rows are made low-bit as they are read
        return False
    kinds, xp = {a.dtype for a in arrays}, namespace(*arrays)
    if xp is np:
        return _state["host"] and kinds == SINGLE
    return _state["device"] and len(kinds) == 1 and kinds < SINGLE_OR_DOUBLE and has_kernels(xp)


def update(*arrays):
    """The compiled step of AdamW for these arrays on a CPU, or None; see fused_cpu.adamw."""
    if namespace(*arrays) is not np or not usable(*arrays):
        return None
    from ..arrays import fused_cpu

    return fused_cpu.adamw


def ternary(weight):
    """The compiled form of quantise.ternary for this array, or None."""
    return _shift_kernels(weight).ternary if usable(weight) else None


def differential(current, v_th):
    """The compiled time steps of neurons (membranes.Neurons) under the differential drive, or None."""
    if getattr(v_th, "size", 1) > 1 or not usable(current):
        return None
    return _shift_kernels(current).differential


def integers(config):
    """Whether integer_fused.FusedNetwork serves in the place of integer_run.IntegerNetwork."""
    return _state["host"] and max(config.hidden_size, *config.intermediate_widths) <= NUMBERED


def rate(current, v_th):
    """The twin of neuron.rate on a GPU, or None."""
    return _neurons(current, v_th, "rate")


def slope(current, v_th):
    """The twin of neuron.slope on a GPU, or None."""
    return _neurons(current, v_th, "slope")


def _neurons(current, v_th, name):
    if namespace(current) is np or not usable(current, *([v_th] if hasattr(v_th, "shape") else [])):
        return None
    from . import fused

    return getattr(fused, name)


def difference(a, target):
    """The twin of loss.difference_of on a GPU, or None."""
    if namespace(a) is np or target.shape != a.shape or not usable(a, target):
        return None
    from . import fused

    return fused.difference


def norm(function, x):
    """The twin of an operator that is a shift norm, on a GPU, else the operator itself."""
    if getattr(function, "func", None) is not ops_shift.shift_norm or namespace(x) is np or not usable(x):
        return function
    if not _fits(x):
        return function
    from . import fused

    return functools.partial(fused.shift_norm, **function.keywords)


def _shift_kernels(array):
    from . import fused

    return fused.shift_kernels(namespace(array))


def arrange(tree):
    """Put the matrices of query, key and value of every encoder side by side, so that they can be one product.

    Where twins serve: the tree's arrays are replaced by copies, views of one buffer.
    """
    for layer in tree["encoder"]["layer"]:
        parts = [layer["attention"]["self"][n] for n in ("query", "key", "value")]
        weights = [p["weight"] for p in parts]
        if usable(*weights) and joined(weights) is None:
            for part, view in zip(parts, side_by_side(weights), strict=True):
                part["weight"] = view


def encoder(x, p, config, flow, name):
    """The twin of bert.encoder, or None. It has no dropout."""
    activation = "relu" in config.shifts or config.hidden_act in GELU
    if getattr(config, "activation", "ann") == "ann":  # there, no clip of neurons is the relu
        activation = config.hidden_act in GELU and "relu" not in config.shifts
    if not activation or not usable(x, p["attention"]["self"]["query"]["weight"]):
        return None
    if flow.drop is not ops.identity or flow.drop_attention is not ops.identity:
        return None
    if namespace(x) is not np and not _fits(x):
        return None
    from . import fused

    return fused.encoder


def _fits(x):
    return x.shape[-1] * x.itemsize <= WIDEST


def embeddings(p, norm, positions):
    """The twin of bert.embeddings, or None; its norm is a LayerNorm; it has segments, and positions 0, 1, ..."""
    if positions is not None or "token_type_embeddings" not in p:
        return None
    if getattr(norm, "func", None) is not ops.layer_norm or not usable(p["word_embeddings"]["weight"]):
        return None
    from . import fused

    return fused.embeddings
