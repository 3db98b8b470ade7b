"""Which blocks of the graph run fused: the one place where a twin is chosen. A block's portable form is the reference.

A twin serves where its arrays are (a GPU) and where it can do what is asked; otherwise the portable form does. Twins
are not imported where they cannot be used.
"""

from contextlib import contextmanager

from ..arrays import ops
from ..arrays.backend import has_kernels, namespace
from .neuron import POPULATIONS, UNKNOWN, bounds

GELU = ("gelu", "gelu_python")  # values of hidden_act that the twin of an encoder computes
WIDEST = 16 * 1024  # bytes of a row: the kernels keep three in a block's shared memory

_state = {"fused": True}


@contextmanager
def portable():
    """Within it no twin serves, on any thread."""
    _state["fused"] = False
    try:
        yield
    finally:
        _state["fused"] = True


def usable(*arrays):
    """Whether kernels can run on these arrays, all of one dtype, float32 or float64."""
    kinds = {a.dtype.name for a in arrays}
    return _state["fused"] and len(kinds) == 1 and kinds < {"float32", "float64"} and has_kernels(namespace(*arrays))


def encoder(x, p, config, flow, name):
    """The twin of bert.encoder, or None. It has float operators, no dropout, neurons that are a clip or nothing."""
    if (
        config.shifts
        or config.fires_queries
        or config.hidden_act not in GELU
        or not usable(x, p["attention"]["self"]["query"]["weight"])
    ):
        return None
    if x.shape[-1] * x.itemsize > WIDEST or flow.drop is not ops.identity or flow.drop_attention is not ops.identity:
        return None
    if UNKNOWN in [bounds(flow.fire, f"{name}.{population}") for population in POPULATIONS]:
        return None
    from . import fused

    return fused.encoder


def embeddings(p, norm, positions):
    """The twin of bert.embeddings, or None; its norm is a LayerNorm; it has segments, and positions 0, 1, ..."""
    if positions is not None or "token_type_embeddings" not in p:
        return None
    if getattr(norm, "func", None) is not ops.layer_norm or not usable(p["word_embeddings"]["weight"]):
        return None
    from . import fused

    return fused.embeddings
