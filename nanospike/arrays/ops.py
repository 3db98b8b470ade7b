"""Differentiable array functions, each with its backward pass written beside it.

Every function returns `(value, vjp)`. `vjp(dy)` is the gradient of sum(dy * value) with respect to x and
changes nothing, so that a solver may call it as often as it likes. `vjp(dy, grads)` also adds the parameter
gradients into `grads`, a dict with the keys of the function's parameters.

Axes: B examples, L tokens, D hidden, H heads, I inputs, O outputs, V rows of a table. All of it is analytic in
x and the parameters (no abs, no conjugate), so that complex-step differentiation goes through.
"""

import math

import numpy as np

from .backend import BLOCK, erf, matmul, namespace
from .tree import RowSum, add

MASKED = -1e9  # added to the scores of keys that are padding: exp of it is exactly 0


def identity(x):
    return x, lambda dy: dy


def linear(x, weight, bias=None):
    """y = x W^T + b.   x (..., I), weight (O, I), bias (O,)  ->  (..., O)"""
    flat = x.reshape(-1, x.shape[-1])  # one large product: on (B, L, I) NumPy would do B small ones
    y = matmul(flat, weight.T)
    if bias is not None:
        y += bias

    def vjp(dy, grads=None):
        if x.ndim == 3 and of_first_alone(dy):
            dx = namespace(x).zeros(x.shape, dy.dtype)
            dx[:, 0] = pulled_back(dy[:, 0], x[:, 0], grads)
            return dx
        return pulled_back(dy.reshape(-1, dy.shape[-1]), flat, grads).reshape(x.shape)

    def pulled_back(dflat, flat, grads):
        if grads is not None:
            add(grads, "weight", matmul(dflat.T, flat))
            if bias is not None:
                add(grads, "bias", dflat.sum(axis=0))
        return matmul(dflat, weight)

    return y.reshape(*x.shape[:-1], weight.shape[0]), vjp


def of_first_alone(dy):
    """Whether a cotangent on the host is 0 but for each example's first token, as that of [CLS] alone. (B, L, D)

    Most have something at the second token: then nothing else is looked at.
    """
    if namespace(dy) is not np or dy.shape[1] < 2:
        return False
    return not dy[:, 1].any() and not dy[:, 2:].any()


def embedding(indices, weight):
    """Rows of a table.   indices (...) int, weight (V, D)  ->  (..., D). Its vjp returns nothing."""

    def vjp(dy, grads):
        if "weight" not in grads:
            grads["weight"] = RowSum(weight.shape)
        grads["weight"].add(indices.reshape(-1), dy.reshape(-1, dy.shape[-1]))

    return weight[indices], vjp


def affine(x, weight, bias):
    """weight x + bias, number by number: the end of a norm.   x (..., D), weight, bias (D,)  ->  (..., D)"""
    y = x * weight
    y += bias

    def vjp(dy, grads=None):
        if grads is not None:
            add(grads, "weight", (dy * x).reshape(-1, x.shape[-1]).sum(axis=0))
            add(grads, "bias", dy.reshape(-1, x.shape[-1]).sum(axis=0))
        return dy * weight

    return y, vjp


def layer_norm(x, weight, bias, eps=1e-12):
    """Ba, Kiros & Hinton 2016 (arXiv 1607.06450), over the last axis.   x (..., D)  ->  (..., D)"""
    unit = x - x.mean(axis=-1, keepdims=True)
    inv_std = ((unit * unit).mean(axis=-1, keepdims=True) + eps) ** -0.5
    unit *= inv_std
    y, affine_vjp = affine(unit, weight, bias)

    def vjp(dy, grads=None):
        # The output cannot move along `1` (centring) nor along `unit` (scaling): take both components out.
        dx = affine_vjp(dy, grads)
        along = (dx * unit).mean(axis=-1, keepdims=True)
        dx -= dx.mean(axis=-1, keepdims=True)
        dx -= unit * along
        dx *= inv_std
        return dx

    return y, vjp


def gelu(x):
    """x times the normal distribution function of x, by erf (Hendrycks & Gimpel 2016).   any shape"""
    xp = namespace(x)
    cdf = erf(x * math.sqrt(0.5))
    cdf += 1
    cdf *= 0.5

    def vjp(dy):  # on the host run by run: every pass finds its numbers in a core's cache
        dx = xp.empty(x.shape, x.dtype)
        for part, below, given, slope in _runs(x, cdf, dy, dx):
            xp.multiply(part, part, out=slope)
            slope *= -0.5
            xp.exp(slope, out=slope)
            slope *= part
            slope *= 1 / math.sqrt(2 * math.pi)
            slope += below
            slope *= given
        return dx

    return x * cdf, vjp


def _runs(*arrays):
    """Tuples of flat runs of arrays of one shape, on the host of BLOCK elements. What is written to is contiguous."""
    flat = [a.reshape(-1) for a in arrays]
    size = flat[0].size
    step = BLOCK if namespace(*arrays) is np else max(size, 1)
    for start in range(0, size, step):
        yield tuple(a[start : start + step] for a in flat)


def gelu_tanh(x):
    """gelu, its distribution function by a tanh (Hendrycks & Gimpel 2016, section 2).   any shape"""
    xp = namespace(x)
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    square = x * x
    t = xp.tanh(scale * x * (1 + cubic * square))

    def vjp(dy):
        return dy * (0.5 * (1 + t) + 0.5 * scale * x * (1 - t * t) * (1 + 3 * cubic * square))

    return 0.5 * x * (1 + t), vjp


def silu(x):
    """x times its logistic function (Elfwing et al. 2018, arXiv 1702.03118).   any shape"""
    s = 0.5 * (1 + namespace(x).tanh(0.5 * x))  # 1 / (1 + exp(-x)), without an overflow
    return x * s, lambda dy: dy * s * (1 + x * (1 - s))


def relu(x):
    """max(x, 0).   any shape"""
    positive = x.real > 0
    return x * positive, lambda dy: dy * positive


def tanh(x):
    y = namespace(x).tanh(x)
    return y, lambda dy: dy * (1 - y * y)


def softmax(x):
    """exp(x) / sum exp(x) over the last axis.   (..., K)  ->  (..., K)"""
    y = namespace(x).exp(x - x.max(axis=-1, keepdims=True))
    y /= y.sum(axis=-1, keepdims=True)

    def vjp(dy):
        dx = dy * y
        dx -= y * dx.sum(axis=-1, keepdims=True)
        return dx

    return y, vjp


def dropout(x, probability, generator):
    """Zero each element with `probability`, scale the rest to keep the mean.   any shape

    `generator` is the library's random generator; the mask is drawn once and kept by the vjp.
    """
    return scaled(x, dropout_scale(x, probability, generator))


def dropout_scale(x, probability, generator):
    """What dropout multiplies x with: 0 or 1 / (1 - probability), of its shape and dtype."""
    keep = generator.random(x.shape, dtype=namespace(x).float32) >= probability
    return keep * x.dtype.type(1 / (1 - probability))


def scaled(x, scale):
    return x * scale, lambda dy: dy * scale


def split_heads(x, heads):
    """(B, L, D) -> (B, H, L, D/H), a view."""
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)


def merge_heads(x):
    """(B, H, L, D/H) -> (B, L, D), a copy."""
    batch, heads, length, width = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, length, heads * width)


def mask_bias(attention_mask, dtype):
    """(B, L) with 1 for real tokens -> (B, 1, 1, L) to add to scores: 0 for real keys, MASKED for padding."""
    return ((attention_mask == 0) * namespace(attention_mask).asarray(MASKED, dtype))[:, None, None, :]


def attention(q, k, v, bias, heads, drop=identity, softmax=softmax):
    """softmax(S + bias) v with S = q k^T / sqrt(D/H), head by head (Vaswani et al. 2017, section 3.2).

    q, k, v (B, L, D), bias (B, 1, 1, L)  ->  context (B, L, D), scores S (B, H, L, L), vjp.
    `vjp(dcontext, dscores=None)` -> dq, dk, dv. softmax: that, or what stands in its place.
    """
    scale = 1 / math.sqrt(q.shape[-1] // heads)
    qh, kh, vh = split_heads(q, heads), split_heads(k, heads), split_heads(v, heads)
    scores = qh @ kh.swapaxes(-1, -2)
    scores *= scale
    weights, softmax_vjp = softmax(scores + bias)
    kept, drop_vjp = drop(weights)

    def vjp(dcontext, dscores=None):
        dh = split_heads(dcontext, heads)
        ds = softmax_vjp(drop_vjp(dh @ vh.swapaxes(-1, -2)))
        if dscores is not None:
            ds = ds + dscores
        ds = ds * scale
        dv = kept.swapaxes(-1, -2) @ dh
        return merge_heads(ds @ kh), merge_heads(ds.swapaxes(-1, -2) @ qh), merge_heads(dv)

    return merge_heads(kept @ vh), scores, vjp
