"""Twins of the graph's blocks: products, and kernels for what stands between them. What they compute: bert.py.

The kernels are those of arrays/fused_gpu.py and fused_shift_gpu.py (a GPU) or of arrays/fused_cpu.py and
fused_shift.py (NumPy, the extra `fast`), which have the same functions. Only twins.py chooses them. A vjp changes
nothing that it may need again: a solver calls it many times.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..arrays.backend import joined, namespace, product
from ..arrays.ops import of_first_alone, split_heads
from ..arrays.tree import RowSum, add, child
from .neuron import UNKNOWN, bounds

PARTS = ("query", "key", "value")


def kernels(xp):
    """The module with the kernels for arrays of a library."""
    if xp is np:
        from ..arrays import fused_cpu as module
    else:
        from ..arrays import fused_gpu as module
    return module


def shift_kernels(xp):
    """The module with the kernels of what needs no multiplication, for arrays of a library."""
    if xp is np:
        from ..arrays import fused_shift as module
    else:
        from ..arrays import fused_shift_gpu as module
    return module


def rate(current, v_th, spikes):
    """See neuron.rate; on a GPU."""
    current, low = namespace(current).ascontiguousarray(current), -1 if spikes == "signed" else 0
    return shift_kernels(namespace(current)).rate(current, v_th, low), slope(current, v_th, spikes)


def slope(current, v_th, spikes):
    """See neuron.slope; on a GPU."""
    xp, low = namespace(current), -1 if spikes == "signed" else 0
    current = xp.ascontiguousarray(current)

    def vjp(dy, grads=None):
        learnt = grads is not None and hasattr(v_th, "shape")
        dx, own = shift_kernels(xp).rate_back(xp.ascontiguousarray(dy), current, v_th, low, learnt)
        if learnt:
            add(grads, "v_th", own)
        return dx

    return vjp


def difference(a, target, mask):
    """See loss.difference_of; on a GPU."""
    xp = namespace(a)
    a, target = (xp.ascontiguousarray(x) for x in (a, target))
    return kernels(xp).difference(a, target, xp.ascontiguousarray(mask, dtype=xp.int64))


def shift_norm(x, weight, bias, half_steps=False):
    """See ops_shift.shift_norm; on a GPU."""
    these, p = shift_kernels(namespace(x)), {"weight": weight, "bias": bias}
    y, unit, scale = these.norm_fire(x.copy(), None, None, p, half_steps, None)

    def vjp(dy, grads=None):
        dx, sums = these.norm_fire_back(namespace(x).ascontiguousarray(dy), y, unit, scale, weight, None)
        if grads is not None:
            add(grads, "bias", sums[1])
            add(grads, "weight", sums[2])
        return dx

    return y, vjp


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


@dataclass(frozen=True)
class Between:
    """What stands between the products of an encoder, each fused: norm(mixed, mixed_bias, residual, p, neuron) and
    activate(wide, bias, neuron) -> (sent, vjp(dsent) -> its cotangent, sums); softmax(scores, mask, scale) -> (weights,
    vjp(dweights, dscores)), which scales the scores in place and turns dweights into their cotangent."""

    norm: Callable
    activate: Callable
    softmax: Callable


@functools.cache
def between(config, xp):
    """The Between of a configuration."""
    floats = kernels(xp)
    shifts = shift_kernels(xp) if config.shifts else floats
    is_shift = "norm" in config.shifts
    norm_kernels, rule = (shifts, config.half_steps) if is_shift else (floats, config.layer_norm_eps)

    def norm(mixed, mixed_bias, residual, p, neuron):
        sent, unit, scale = norm_kernels.norm_fire(mixed, mixed_bias, residual, p, rule, neuron)
        back = norm_kernels.norm_fire_back
        return sent, lambda dy: back(xp.ascontiguousarray(dy), sent, unit, scale, p["weight"], neuron)

    def gelu(wide, bias, neuron):
        sent = floats.gelu_fire(wide, bias, neuron)
        return sent, lambda dy: floats.gelu_fire_back(dy, sent, wide, neuron)

    def nothing(wide, bias, neuron):
        sent = shifts.bias_fire(wide, bias, neuron)
        return sent, lambda dy: shifts.bias_fire_back(dy, sent, neuron)

    def softmax(scores, mask, scale):
        weights = floats.softmax(scores, mask, scale)
        return weights, lambda dweights, dscores: floats.softmax_back(dweights, weights, dscores, scale)

    def shift_softmax(scores, mask, scale):
        weights, ratios = shifts.softmax(scores, mask, scale)
        return weights, lambda dweights, dscores: shifts.softmax_back(dweights, weights, ratios, dscores, scale)

    return Between(
        norm, nothing if "relu" in config.shifts else gelu, shift_softmax if "softmax" in config.shifts else softmax
    )


class Neurons:
    """Of one encoder. Those whose bounds are known (see neuron.bounds) are within the kernels, which give what they
    send; of the others the kernels give the current, and what sends is the `fire` of the portable graph."""

    def __init__(self, flow, name):
        self.flow, self.name, self.rates = flow, name, getattr(flow.fire, "rates", None)

    def known(self, population):
        return bounds(self.flow.fire, f"{self.name}.{population}") != UNKNOWN

    def within(self, population):
        """The bounds of a population that is within a kernel; None: the kernel gives its current."""
        return bounds(self.flow.fire, f"{self.name}.{population}") if self.known(population) else None

    def note(self, population, sent):
        if self.rates is not None:
            self.rates[f"{self.name}.{population}"] = sent

    def send(self, population, given, known=None):
        """What a population sends, from what a kernel gave, (B, L, W), and vjp(dsent, own, drates) -> its cotangent.

        own: gradients of the neurons' own; drates: {population: cotangent}; see bert.firing.
        """
        name, fire_vjp, sent = f"{self.name}.{population}", None, given
        if self.known(population) if known is None else known:
            self.note(population, sent)
        else:
            sent, fire_vjp = self.flow.fire(name, given)

        def vjp(dsent, own=None, drates=None):
            more = drates.get(name) if drates else None
            dsent = dsent if more is None else dsent + more.reshape(dsent.shape)
            return dsent if fire_vjp is None else fire_vjp(dsent, own)

        return sent, vjp


def encoder(x, p, config, mask, flow, name):
    """See bert.encoder; mask (B, L) instead of the bias that is made of it."""
    state, these, output = Neurons(flow, name), between(config, namespace(x)), p["attention"]["output"]
    split, project_vjp = project(x, p["attention"]["self"], config, state)
    query, scale_vjp = flow.scale_query(name, split[0])
    context, scores, attend_vjp = attend(query, split, mask, these, state)
    middle, middle_vjp = dense_norm(context, x, output, these, state, "attention_output")
    inner, inner_vjp = dense_activation(middle, p["intermediate"]["dense"], these, state)
    y, y_vjp = dense_norm(inner, middle, p["output"], these, state, "output")

    def vjp(dy, dscores=None, grads=None, neurons=None, drates=None):
        own = neurons, drates
        dinner, dmiddle = y_vjp(dy, child(grads, "output"), *own)
        inner_vjp(dinner, dmiddle, child(grads, "intermediate", "dense"), *own)
        dcontext, dx = middle_vjp(dmiddle, child(grads, "attention", "output"), *own)
        dsplit = attend_vjp(dcontext, dscores, *own)
        if query is not split[0]:
            dsplit[0] = scale_vjp(dsplit[0], neurons)
        project_vjp(dsplit, dx, child(grads, "attention", "self"), *own)
        return dx

    return y, scores, vjp


def pull_back(dy, x, weight, grads, dx=None):
    """Of x W^T, x (B, L, I): the gradient of W into `grads`, and the cotangent of x, fresh or added to dx."""
    xp, alone = namespace(dy), of_first_alone(dy)
    rows = (lambda a: a[:, 0]) if alone else (lambda a: a.reshape(-1, a.shape[-1]))
    if grads is not None:
        known = "weight" in grads  # of another time step, then: the sum is the product's
        sums = grads["weight"] if known else xp.empty(weight.shape, weight.dtype)
        grads["weight"] = product(rows(dy), rows(x), sums, transpose_a=True, accumulate=known)
    given = dx is not None
    if not given:
        dx = (xp.zeros if alone else xp.empty)(x.shape, x.dtype)
    product(rows(dy), weight, rows(dx), accumulate=given)
    return dx


def project(x, p, config, neurons):
    """Queries, keys and values by heads, (3, B, H, L, K), of x (B, L, D); vjp(dsplit, dx, grads, ...) adds to dx."""
    xp, (batch, length, width), heads = namespace(x), x.shape, config.num_attention_heads
    flat, raw = x.reshape(-1, width), xp.empty((batch * length, 3 * width), x.dtype)
    weights, biases = [p[n]["weight"] for n in PARTS], [p[n]["bias"] for n in PARTS]
    columns = [slice(i * width, (i + 1) * width) for i in range(3)]
    together = joined(weights)
    blocks = [(together, slice(0, 3 * width))] if together is not None else list(zip(weights, columns, strict=True))
    for weight, block in blocks:
        product(flat, weight, raw[:, block], transpose_b=True)
    outside = {}  # neurons that no kernel computes
    for i, part in enumerate(PARTS):
        if config.fires_queries if part == "query" else not neurons.known(part):
            sent, outside[i] = neurons.send(part, (raw[:, columns[i]] + biases[i]).reshape(x.shape), known=False)
            raw[:, columns[i]], biases[i] = sent.reshape(-1, width), xp.zeros_like(biases[i])
    within, shape = [neurons.within(part) for part in PARTS[1:]], (batch, length, heads)
    split, *kept = kernels(xp).split_fire(raw, biases, shape, within, neurons.rates is not None)
    for i, sent in enumerate(kept, 1):
        if i not in outside:
            neurons.note(PARTS[i], sent)

    def vjp(dsplit, dx, grads, own=None, drates=None):
        for i in {1, 2} - outside.keys():
            if drates and (more := drates.get(f"{neurons.name}.{PARTS[i]}")) is not None:
                dsplit[i] += split_heads(more, heads)
        draw, sums = kernels(xp).split_fire_back(dsplit, split, within)
        for i, fire_vjp in outside.items():
            dcurrent = fire_vjp(draw[:, columns[i]].reshape(x.shape), own, drates).reshape(-1, width)
            draw[:, columns[i]], sums[columns[i]] = dcurrent, dcurrent.sum(axis=0)
        if grads is not None:
            for n, block in zip(PARTS, columns, strict=True):
                add(child(grads, n), "bias", sums[block])
        dquery, start = draw[:, columns[0]].reshape(x.shape), 0
        if of_first_alone(dquery):
            pull_back(dquery, x, weights[0], child(grads, "query"), dx)
            start = width
        if grads is not None:
            dweight = product(draw[:, start:], flat, xp.empty((3 * width - start, width), x.dtype), transpose_a=True)
            for n, block in zip(PARTS[start // width :], columns, strict=False):
                add(child(grads, n), "weight", dweight[block])
        for weight, block in blocks:
            begin = max(start, block.start)
            if begin < block.stop:
                part = weight[begin - block.start :]
                product(draw[:, begin : block.stop], part, dx.reshape(-1, width), accumulate=True)

    return split, vjp


def attend(query, split, mask, these, neurons):
    """What attention neurons send (B, L, D), the scores (B, H, L, L), and vjp(dsent, dscores, ...) -> dsplit, in which
    that of the query is the first; query: split[0], or what scales it."""
    xp, (_, batch, heads, length, head) = namespace(split), split.shape
    query, key, value = (part.reshape(-1, length, head) for part in (query, split[1], split[2]))
    scale, square = 1 / math.sqrt(head), (batch * heads, length, length)
    scores = product(query, key, xp.empty(square, split.dtype), transpose_b=True).reshape(batch, heads, length, length)
    weights, softmax_vjp = these.softmax(scores, xp.ascontiguousarray(mask, dtype=xp.int64), scale)
    stacked = weights.reshape(square)
    context = product(stacked, value, xp.empty_like(value))
    within = neurons.within("attention")
    given = kernels(xp).merge_fire(context.reshape(split.shape[1:]), within)
    sent, send_vjp = neurons.send("attention", given)

    def vjp(dsent, dscores, *own):
        dcurrent = xp.ascontiguousarray(send_vjp(dsent, *own))
        dcontext = kernels(xp).merge_fire_back(dcurrent, given, heads, within).reshape(value.shape)
        dsplit = xp.empty_like(split)
        dquery, dkey, dvalue = (part.reshape(value.shape) for part in dsplit)
        dweights = product(dcontext, value, xp.empty(square, split.dtype), transpose_b=True)
        product(stacked, dcontext, dvalue, transpose_a=True)
        softmax_vjp(dweights, None if dscores is None else xp.ascontiguousarray(dscores))
        product(dweights, key, dquery)
        product(dweights, query, dkey, transpose_a=True)
        return dsplit

    return sent, scores, vjp


def dense_norm(x, residual, p, these, neurons, population):
    """fire(norm(dense(x) + residual)), x (B, L, I), residual (B, L, D), p = {dense, LayerNorm}.

    vjp(dy, grads, own, drates) -> gradients of x and of the residual, both fresh.
    """
    xp, dense, width = namespace(x), p["dense"], residual.shape[-1]
    flat = x.reshape(-1, x.shape[-1])
    mixed = product(flat, dense["weight"], xp.empty((len(flat), width), x.dtype), transpose_b=True)
    given, norm_vjp = these.norm(mixed, dense["bias"], residual, p["LayerNorm"], neurons.within(population))
    y, send_vjp = neurons.send(population, given)

    def vjp(dy, grads, *own):
        dsum, sums = norm_vjp(send_vjp(dy, *own))
        if grads is not None:
            norm_grads = child(grads, "LayerNorm")
            add(child(grads, "dense"), "bias", sums[0])
            add(norm_grads, "bias", sums[1])
            add(norm_grads, "weight", sums[2])
        return pull_back(dsum, x, dense["weight"], child(grads, "dense")), dsum

    return y, vjp


def dense_activation(x, dense, these, neurons):
    """fire(activation(dense(x))) of x (B, L, D): (B, L, F); vjp(dy, dx, grads, own, drates) adds to dx (B, L, D)."""
    xp, flat = namespace(x), x.reshape(-1, x.shape[-1])
    wide = product(flat, dense["weight"], xp.empty((len(flat), len(dense["weight"])), x.dtype), transpose_b=True)
    given, activation_vjp = these.activate(wide, dense["bias"], neurons.within("intermediate"))
    y, send_vjp = neurons.send("intermediate", given.reshape(*x.shape[:-1], -1))

    def vjp(dy, dx, grads, *own):
        dwide, sums = activation_vjp(xp.ascontiguousarray(send_vjp(dy, *own)))
        if grads is not None:
            add(grads, "bias", sums)
        pull_back(dwide.reshape(y.shape), x, dense["weight"], grads, dx)

    return y, vjp
