"""Twins of the graph's blocks: products, and kernels for what stands between them. What they compute: bert.py.

The kernels are those of arrays/fused_gpu.py (a GPU) or of arrays/fused_cpu.py (NumPy, the extra `fast`), which has the
same functions. Only twins.py chooses them. A vjp changes nothing that it may need again: a solver calls it many times.
"""

import math

import numpy as np

from ..arrays.backend import joined, namespace, product
from ..arrays.ops import split_heads
from ..arrays.tree import RowSum, add, child
from .neuron import bounds

PARTS = ("query", "key", "value")


def kernels(xp):
    """The module with the kernels for arrays of a library."""
    if xp is np:
        from ..arrays import fused_cpu as module
    else:
        from ..arrays import fused_gpu as module
    return module


def embeddings(input_ids, token_type_ids, p, eps):
    """See bert.embeddings."""
    xp = namespace(input_ids)
    ids, types = (xp.ascontiguousarray(a, dtype=xp.int64) for a in (input_ids, token_type_ids))
    y, unit, inv_std = kernels(xp).embed(ids, types, p, eps, None)
    positions, length = p["position_embeddings"]["weight"], ids.shape[1]

    def vjp(dy, grads):
        dx, sums = kernels(xp).norm_fire_back(
            xp.ascontiguousarray(dy), y, unit, inv_std, p["LayerNorm"]["weight"], None
        )
        norm = child(grads, "LayerNorm")
        add(norm, "bias", sums[1])
        add(norm, "weight", sums[2])
        rows = child(grads, "position_embeddings").setdefault("weight", RowSum(positions.shape))
        rows.add(xp.arange(length), dx.sum(axis=0))
        for table, indices in (("token_type_embeddings", types), ("word_embeddings", ids)):
            rows = child(grads, table).setdefault("weight", RowSum(p[table]["weight"].shape))
            rows.add(indices.reshape(-1), dx.reshape(-1, dx.shape[-1]))

    return y, vjp


class Neurons:
    """Of one encoder: their bounds (see neuron.bounds) by population, and where what they send is kept, if anywhere."""

    def __init__(self, fire, name):
        self.fire, self.name, self.rates = fire, name, getattr(fire, "rates", None)

    def __call__(self, population):
        return bounds(self.fire, f"{self.name}.{population}")

    def note(self, population, sent):
        if self.rates is not None:
            self.rates[f"{self.name}.{population}"] = sent


def encoder(x, p, config, mask, flow, name):
    """See bert.encoder; mask (B, L) instead of the bias that is made of it."""
    heads, eps, state = config.num_attention_heads, config.layer_norm_eps, Neurons(flow.fire, name)
    this, output = p["attention"]["self"], p["attention"]["output"]
    split, project_vjp = project(x, this, heads, state)
    context, scores, attend_vjp = attend(split, mask, state)
    middle, middle_vjp = dense_norm(context, x, output, eps, state, "attention_output")
    inner, inner_vjp = dense_gelu(middle, p["intermediate"]["dense"], state)
    y, y_vjp = dense_norm(inner, middle, p["output"], eps, state, "output")

    def vjp(dy, dscores=None, grads=None, neurons=None, drates=None):
        def plus(kind, d):
            own = drates.get(f"{name}.{kind}") if drates else None
            return d if own is None else d + own.reshape(d.shape)

        dinner, dmiddle = y_vjp(plus("output", dy), child(grads, "output"))
        inner_vjp(plus("intermediate", dinner), dmiddle, child(grads, "intermediate", "dense"))
        dcontext, dx = middle_vjp(plus("attention_output", dmiddle), child(grads, "attention", "output"))
        dsplit = attend_vjp(plus("attention", dcontext), dscores)
        for part, kind in enumerate(("key", "value"), 1):
            if drates and (own := drates.get(f"{name}.{kind}")) is not None:
                dsplit[part] += split_heads(own, heads)
        project_vjp(dsplit, dx, child(grads, "attention", "self"))
        return dx

    return y, scores, vjp


def project(x, p, heads, neurons):
    """Queries, keys and values by heads, (3, B, H, L, K), of x (B, L, D); vjp(dsplit, dx, grads) adds to dx."""
    xp, (batch, length, width) = namespace(x), x.shape
    flat, raw = x.reshape(-1, width), xp.empty((batch * length, 3 * width), x.dtype)
    weights = [p[n]["weight"] for n in PARTS]
    together = joined(weights)
    whole = slice(0, 3 * width)
    blocks = [(together, whole)] if together is not None else _column_blocks(weights, width)
    for weight, columns in blocks:
        product(flat, weight, raw[:, columns], transpose_b=True)
    between = [neurons(n) for n in ("key", "value")]
    shape = (batch, length, heads)
    split, key, value = kernels(xp).split_fire(
        raw, [p[n]["bias"] for n in PARTS], shape, between, neurons.rates is not None
    )
    neurons.note("key", key)
    neurons.note("value", value)

    def vjp(dsplit, dx, grads):
        draw, sums = kernels(xp).split_fire_back(dsplit, split, between)
        if grads is not None:
            dweight = product(draw, flat, xp.empty((3 * width, width), x.dtype), transpose_a=True)
            for i, n in enumerate(PARTS):
                rows = slice(i * width, (i + 1) * width)
                add(child(grads, n), "weight", dweight[rows])
                add(child(grads, n), "bias", sums[rows])
        for weight, columns in blocks:
            product(draw[:, columns], weight, dx.reshape(-1, width), accumulate=True)

    return split, vjp


def _column_blocks(weights, width):
    return [(w, slice(i * width, (i + 1) * width)) for i, w in enumerate(weights)]


def attend(split, mask, neurons):
    """What attention neurons send (B, L, D), the scores (B, H, L, L), and vjp(dsent, dscores) -> dsplit."""
    xp, (_, batch, heads, length, head) = namespace(split), split.shape
    query, key, value = (part.reshape(-1, length, head) for part in split)
    scale, square = 1 / math.sqrt(head), (batch * heads, length, length)
    scores = product(query, key, xp.empty(square, split.dtype), transpose_b=True).reshape(batch, heads, length, length)
    weights = kernels(xp).softmax(scores, xp.ascontiguousarray(mask, dtype=xp.int64), scale)
    stacked = weights.reshape(square)
    context = product(stacked, value, xp.empty_like(value))
    between = neurons("attention")
    sent = kernels(xp).merge_fire(context.reshape(split.shape[1:]), between)
    neurons.note("attention", sent)

    def vjp(dsent, dscores):
        dcontext = kernels(xp).merge_fire_back(dsent, sent, heads, between).reshape(value.shape)
        dsplit = xp.empty_like(split)
        dquery, dkey, dvalue = (part.reshape(value.shape) for part in dsplit)
        dweights = product(dcontext, value, xp.empty(square, split.dtype), transpose_b=True)
        product(stacked, dcontext, dvalue, transpose_a=True)
        kernels(xp).softmax_back(dweights, stacked, None if dscores is None else xp.ascontiguousarray(dscores), scale)
        product(dweights, key, dquery)
        product(dweights, query, dkey, transpose_a=True)
        return dsplit

    return sent, scores, vjp


def dense_norm(x, residual, p, eps, neurons, population):
    """fire(LayerNorm(dense(x) + residual)), x (B, L, I), residual (B, L, D), p = {dense, LayerNorm}.

    vjp(dy, grads) -> gradients of x and of the residual, both fresh.
    """
    xp, dense, norm, between = namespace(x), p["dense"], p["LayerNorm"], neurons(population)
    flat, width = x.reshape(-1, x.shape[-1]), residual.shape[-1]
    mixed = product(flat, dense["weight"], xp.empty((len(flat), width), x.dtype), transpose_b=True)
    y, unit, inv_std = kernels(xp).norm_fire(mixed, dense["bias"], residual, norm, eps, between)
    neurons.note(population, y)

    def vjp(dy, grads):
        dsum, sums = kernels(xp).norm_fire_back(xp.ascontiguousarray(dy), y, unit, inv_std, norm["weight"], between)
        dflat = dsum.reshape(-1, width)
        if grads is not None:
            dense_grads, norm_grads = child(grads, "dense"), child(grads, "LayerNorm")
            weight = xp.empty_like(dense["weight"])
            add(dense_grads, "weight", product(dflat, flat, weight, transpose_a=True))
            add(dense_grads, "bias", sums[0])
            add(norm_grads, "bias", sums[1])
            add(norm_grads, "weight", sums[2])
        return product(dflat, dense["weight"], xp.empty_like(flat)).reshape(x.shape), dsum

    return y, vjp


def dense_gelu(x, dense, neurons):
    """fire(GELU(dense(x))) of x (B, L, D): (B, L, F); vjp(dy, dx, grads) adds to dx (B, L, D)."""
    xp, between = namespace(x), neurons("intermediate")
    flat = x.reshape(-1, x.shape[-1])
    wide = product(flat, dense["weight"], xp.empty((len(flat), len(dense["weight"])), x.dtype), transpose_b=True)
    sent = kernels(xp).gelu_fire(wide, dense["bias"], between)
    y = sent.reshape(*x.shape[:-1], -1)
    neurons.note("intermediate", y)

    def vjp(dy, dx, grads):
        dwide, sums = kernels(xp).gelu_fire_back(dy, sent, wide, between)
        if grads is not None:
            add(grads, "weight", product(dwide, flat, xp.empty_like(dense["weight"]), transpose_a=True))
            add(grads, "bias", sums)
        product(dwide, dense["weight"], dx.reshape(flat.shape), accumulate=True)

    return y, vjp
