"""Kernels on a CPU, compiled by numba, that a GPU has no twin of: shift operators, low-bit weights, spikes.

What they compute: ops_shift, quantise.ternary and simulate. As in fused_cpu, not-a-number passes through.
"""

import functools
import math

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from .fused_cpu import ONE, ZERO, _fire, _numbers, _power_of_two, _rows, _scaled, _slope, inline, kernel
from .ops_shift import LEAST_EXPONENT, LEAST_POWER, LOG2_E, SPREAD

exact = numba.njit(nogil=True, cache=True, error_model="numpy")  # rounds as NumPy does: every sum in its order
LOG2, LEAST, SPREAD_OF_SIZE, LEAST_SIZE = map(np.float32, (LOG2_E, LEAST_POWER, SPREAD, 2.0**LEAST_EXPONENT))
NEAR, QUARTER, HALF_MORE, THREE_QUARTERS = map(np.float32, (math.sqrt(0.5), 0.25, 1.5, 0.75))
LOW_RATIO, HIGH_RATIO = np.float32(math.sqrt(2 / 3)), np.float32(math.sqrt(4 / 3))
BIAS, MANTISSA, FRACTION, OF_HALF = map(np.int32, (127, 23, 2**23 - 1, 126 << 23))
BINARY, CORRECTIVE, SIGNED = range(3)
KINDS = {"binary": BINARY, "corrective": CORRECTIVE, "signed": SIGNED}


@intrinsic
def _bits(typingctx, x):
    """The bits of a float32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return numba.int32(numba.float32), generate


@inline
def _nearest_exponent(x):
    """ops_shift.nearest_exponent of a positive normal number, int32."""
    bits = _bits(x)
    exponent = (bits >> MANTISSA) - np.int32(126)
    return exponent - np.int32(1) if _power_of_two((bits & FRACTION) | OF_HALF) < NEAR else exponent


@inline
def _power(exponent):
    """2^exponent of an int32 from -126 to 127; 0 below."""
    exponent = -BIAS if exponent < -BIAS else exponent
    return _power_of_two((exponent + BIAS) << MANTISSA)


@inline
def _reciprocal(x, half_steps):
    """ops_shift.reciprocal."""
    x = LEAST_SIZE if x < LEAST_SIZE else x
    gain = _power(-_nearest_exponent(x))
    if half_steps:
        ratio = x * gain
        if ratio < LOW_RATIO:
            gain *= HALF_MORE
        elif ratio > HIGH_RATIO:
            gain *= THREE_QUARTERS
    return gain


@kernel
def _norm_fire(mixed, mixed_bias, residual, weight, bias, half_steps, scale, sent, v_th, low):
    for r in range(len(mixed)):
        row, other, out = mixed[r], residual[r], sent[r]
        total = ZERO
        for c in range(row.size):
            x = row[c] + mixed_bias[c] + other[c]
            row[c] = x
            total += abs(x)
        size = total / np.float32(row.size) * SPREAD_OF_SIZE
        gain = _reciprocal(size, half_steps)
        of_unit = size / SPREAD_OF_SIZE * gain
        scale[r, 0] = gain
        scale[r, 1] = ZERO if size < LEAST_SIZE else ONE / max(of_unit, QUARTER)
        for c in range(row.size):
            unit = row[c] * gain
            row[c] = unit
            out[c] = _fire(unit * weight[c] + bias[c], v_th, low)


@kernel
def _norm_fire_back(dy, sent, unit, scale, weight, dx, sums, v_th, low):
    of_dx, of_current, of_product = sums[0], sums[1], sums[2]
    width = np.float32(dy.shape[1])
    for r in range(len(dy)):
        given, fired, u, d, gain = dy[r], sent[r], unit[r], dx[r], scale[r, 0]
        along = ZERO
        for c in range(d.size):
            current = _slope(given[c], fired[c], v_th, low)
            product = current * u[c]
            of_current[c] += current
            of_product[c] += product
            current *= weight[c]
            d[c] = current
            along += product * weight[c]
        along *= scale[r, 1] / width
        for c in range(d.size):
            x = u[c]
            value = (d[c] - (along if x > ZERO else (-along if x < ZERO else ZERO))) * gain
            d[c] = value
            of_dx[c] += value


@kernel
def _bias_fire(wide, bias, v_th, low):
    for r in range(len(wide)):
        row = wide[r]
        for c in range(row.size):
            row[c] = _fire(row[c] + bias[c], v_th, low)


@kernel
def _bias_fire_back(dy, sent, dx, sums, v_th, low):
    for r in range(len(sent)):
        given, fired, out = dy[r], sent[r], dx[r]
        for c in range(fired.size):
            value = _slope(given[c], fired[c], v_th, low)
            out[c] = value
            sums[c] += value


@kernel
def _softmax(scores, mask, weights, ratios, scale):
    batch, heads, length, keys = scores.shape
    for b in range(batch):
        real = mask[b]
        for h in range(heads):
            for token in range(length):
                s, w = scores[b, h, token], weights[b, h, token]
                most = _scaled(s, w, real, scale)
                total = ZERO
                for k in range(keys):
                    d = np.rint((w[k] - most) * LOG2)
                    bounded = d if d >= LEAST else LEAST  # of a NaN too: it comes back by the product
                    power = _power(np.int32(bounded)) + w[k] * ZERO
                    power = ZERO if d < LEAST else power
                    w[k] = power
                    total += power
                gain = _power(-_nearest_exponent(total))
                ratios[b, h, token] = ONE / (gain * total)
                for k in range(keys):
                    w[k] *= gain


@kernel
def _softmax_back(dweights, weights, ratios, dscores, scale):
    for r in range(len(weights)):
        d, w = dweights[r], weights[r]
        total = ZERO
        for k in range(w.size):
            total += d[k] * w[k]
        total *= ratios[r]
        for k in range(w.size):
            d[k] = (d[k] - total) * w[k] * scale
        if dscores.size:
            other = dscores[r]
            for k in range(w.size):
                d[k] += other[k] * scale


@kernel
def _ternary(weight, low_bit, cut_off):
    for r in range(len(weight)):
        row, out = weight[r], low_bit[r]
        total = 0.0
        for c in range(row.size):
            total += abs(row[c])
        cut = cut_off * np.float32(total / row.size)
        kept, size = 0, total * 0.0  # of a NaN or an infinity: a NaN
        for c in range(row.size):
            if abs(row[c]) > cut:
                size += abs(row[c])
                kept += 1
        scale = np.float32(size / max(kept, 1))
        for c in range(row.size):
            x = row[c]
            out[c] = (ONE if x > cut else (-ONE if x < -cut else ZERO)) * scale


@exact
def _differential(currents, membrane, count, fired, emitted, sent, levels, start, v_th, kind):
    """levels (T, 3): the number of the time step, and the two thresholds; see membranes.Neurons._differential."""
    for i in range(len(currents)):
        step, upper, lower = levels[i]
        current, out = currents[i], sent[i]
        for c in range(current.size):
            spent = np.float32(count[c])
            u = current[c] * step + start
            u -= spent * v_th
            spike = np.int8(u >= upper)
            if kind == SIGNED:
                spike -= np.int8(u <= lower)
            elif kind == CORRECTIVE:
                spike -= np.int8((u <= lower) & (count[c] >= 1))
            membrane[c] = u
            emitted[c] = spike
            count[c] += spike
            if kind != BINARY:
                fired[c] += spike & 1
            out[c] = np.float32(count[c]) / step


# ---- what model/fused.py, quantise and simulate call; see fused_cpu for those of the same names -------------------


def norm_fire(mixed, mixed_bias, residual, norm, half_steps, neuron):
    sent, scale = np.empty_like(residual), np.empty((len(mixed), 2), np.float32)
    tables = mixed_bias, _rows(residual), norm["weight"], norm["bias"]
    _norm_fire(mixed, *tables, half_steps, scale, _rows(sent), *_numbers(neuron))
    return sent, mixed, scale


def norm_fire_back(dy, sent, unit, scale, weight, neuron):
    dx, sums = np.empty_like(dy), np.zeros((3, dy.shape[-1]), np.float32)
    _norm_fire_back(_rows(dy), _rows(sent), _rows(unit), scale, weight, _rows(dx), sums, *_numbers(neuron))
    return dx, sums


def bias_fire(wide, bias, neuron):
    """What neurons without an activation before them send, in the place of `wide`."""
    _bias_fire(wide, bias, *_numbers(neuron))
    return wide


def bias_fire_back(dy, sent, neuron):
    dx, sums = np.empty_like(sent), np.zeros(sent.shape[1], np.float32)
    _bias_fire_back(_rows(dy), sent, dx, sums, *_numbers(neuron))
    return dx, sums


def softmax(scores, mask, scale):
    """(weights, what softmax_back needs besides)."""
    weights, ratios = np.empty_like(scores), np.empty(scores.shape[:-1], np.float32)
    _softmax(scores, mask, weights, ratios, np.float32(scale))
    return weights, ratios.reshape(-1)


def softmax_back(dweights, weights, ratios, dscores, scale):
    other = np.empty((0, 0), np.float32) if dscores is None else _rows(dscores)
    _softmax_back(_rows(dweights), _rows(weights), ratios, other, np.float32(scale))
    return dweights


def ternary(weight, cut_off):
    """quantise.ternary of float32 rows (..., I); cut_off: TERNARY_CUT there."""
    weight = np.ascontiguousarray(weight)
    low_bit = np.empty_like(weight)
    _ternary(_rows(weight), _rows(low_bit), np.float32(cut_off))
    return low_bit


def differential(state, currents, sent, first, rule):
    """Time steps of a population under the differential drive, one after the other, bit for bit as simulate takes them.

    currents and sent (T, ...) for T steps, the first of which has the number `first`; state: a membranes.Population;
    rule: a neuron.Rule with one v_th.
    """
    currents, sent = (a.reshape(len(currents), -1) for a in (currents, sent))
    flat = [a.reshape(-1) for a in (state.membrane, state.count, state.fired, state.emitted)]
    learnt = hasattr(rule.v_th, "shape")  # an array of one number
    _differential(
        currents, *flat, sent, *(_levels if learnt else _known_levels)(rule, first, len(currents)), KINDS[rule.spikes]
    )


def _levels(rule, first, count):
    """(levels (count, 3), start, v_th) of _differential, float32."""
    numbers = rule.initial * rule.v_th, rule.v_th, *(x for i in range(count) for x in (first + i, *rule.at(first + i)))
    start, v_th, *levels = np.array([x.item() if hasattr(x, "shape") else x for x in numbers], np.float32)
    return np.reshape(levels, (-1, 3)), start, v_th


_known_levels = functools.lru_cache(1024)(_levels)
