"""The paths on which the last encoder's activity z returns: currents, linear in z and in the weights, with their vjps.

    feedback   z Wfb^T to the embedding neurons; of low rank, (z down^T) up^T; from "cls", z of the first token to all
    looped     scale * z to the embedding neurons, channel by channel: the same one or two encoders over and over, each
               time with the embedding current e (depth without parameters, but for D numbers)
    lateral    -z Wlat^T to the last encoder's output neurons, from one another: token by token, Wlat >= 0, diagonal 0

Axes: B examples, L tokens, D hidden, r rank.
"""

import numpy as np

from ..arrays import ops
from ..arrays.backend import namespace, to_host
from ..arrays.tree import add, child

LEAST_THRESHOLD = 0.01  # that training leaves a population of neurons
SCALED = ("feedback.weight", "feedback.up", "feedback.scale", "lateral.weight")  # the loop is linear in these together


def parameter_shapes(config):
    """{name: shape} of the weights of a student's return paths, matrices (out, in)."""
    d, r = config.hidden_size, config.feedback_rank
    shapes = {}
    if config.feedback:
        shapes |= {"feedback.down": (r, d), "feedback.up": (d, r)} if r else {"feedback.weight": (d, d)}
    if config.looped:
        shapes["feedback.scale"] = (d,)
    if config.lateral:
        shapes["lateral.weight"] = (d, d)
    return shapes


def fresh(name, shape, gain, rng):
    """Weights to start with: entries of size gain / sqrt(D) for feedback, `gain` for a loop; lateral sums of gain."""
    if name == "feedback.scale":
        return np.full(shape, gain)
    if name == "lateral.weight":
        return gain * np.abs(rng.standard_normal(shape)) * (1 - np.eye(shape[0])) / shape[1]
    return (1.0 if name == "feedback.down" else gain) * rng.standard_normal(shape) / np.sqrt(shape[1])


def to_embedding(z, config, tree):
    """Current (B, L, D), or (B, 1, D) for all tokens, from z (B, L, D) or of the first token alone (B, 1, D).

    vjp(dy, grads) -> dz, dy (B, L, D); grads is that of the whole model. None, None without a path to the embedding.
    """
    if not (config.feedback or config.looped):
        return None, None
    weights, only_first = tree["feedback"], config.feedback and config.feedback_from == "cls"
    source = z[:, :1] if only_first else z
    if config.looped:
        y, weigh_vjp = channelwise(source, **weights)
    elif "up" in weights:
        y, weigh_vjp = low_rank(source, **weights)
    else:
        y, weigh_vjp = ops.linear(source, **weights)

    def vjp(dy, grads=None):
        dsource = weigh_vjp(dy.sum(axis=1, keepdims=True) if only_first else dy, child(grads, "feedback"))
        if dsource.shape == z.shape:
            return dsource
        dz = namespace(dsource).zeros(z.shape, dsource.dtype)
        dz[:, :1] = dsource
        return dz

    return y, vjp


def to_output(z, config, tree):
    """Lateral inhibition: the current -z Wlat^T (B, L, D), vjp(dy, grads) -> dz; None, None without."""
    if not config.lateral:
        return None, None
    y, linear_vjp = ops.linear(z, **tree["lateral"])
    return -y, lambda dy, grads=None: linear_vjp(-dy, child(grads, "lateral"))


def channelwise(x, scale):
    """scale * x.   x (..., D), scale (D,)"""

    def vjp(dy, grads=None):
        if grads is not None:
            add(grads, "scale", (dy * x).reshape(-1, x.shape[-1]).sum(axis=0))
        return dy * scale

    return x * scale, vjp


def low_rank(x, down, up):
    """(x down^T) up^T.   x (..., D), down (r, D), up (D, r)"""
    narrow, down_vjp = ops.linear(x, down)
    y, up_vjp = ops.linear(narrow, up)

    def vjp(dy, grads=None):
        into = {} if grads is not None else None
        dnarrow = up_vjp(dy, into)
        if grads is not None:
            add(grads, "up", into.pop("weight"))
        dx = down_vjp(dnarrow, into)
        if grads is not None:
            add(grads, "down", into.pop("weight"))
        return dx

    return y, vjp


def is_inhibition(weight):
    """Whether a lateral weight (D, D) is non-negative with a diagonal of 0."""
    weight = to_host(weight)
    return bool((weight >= 0).all() and not np.diagonal(weight).any())


def project(parameters):
    """Put lateral weights and thresholds among {name: live array} back where they must be, after an update."""
    for name, value in parameters.items():
        if name == "lateral.weight":
            namespace(value).maximum(value, 0, out=value)
            value.reshape(-1)[:: len(value) + 1] = 0
        elif name.startswith("thresholds."):
            namespace(value).maximum(value, LEAST_THRESHOLD, out=value)
