"""The kernels of fused_gpu.py on a CPU, compiled by numba (the optional extra `fast`): the same functions, float32.

Each runs in one thread without Python's lock: threads are those of workers.Workers. Compiled code is kept on disk.
Not-a-number passes through: no arithmetic assumes that there is none.
"""

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from .backend import ERF_P, ERF_Q

FASTMATH = {"reassoc", "contract", "arcp", "nsz"}  # sums in any order; NaN and infinity as ever
kernel = numba.njit(nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy")
inline = numba.njit(nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy", inline="always")

ZERO, HALF, ONE, FOUR = map(np.float32, (0, 0.5, 1, 4))
ROOT_HALF, DENSITY, MASKED = np.float32(0.5**0.5), np.float32((2 * np.pi) ** -0.5), np.float32(-1e9)
P0, P1, P2, P3, P4, P5, P6 = map(np.float32, ERF_P)
Q0, Q1, Q2, Q3, Q4 = map(np.float32, ERF_Q)
# exp(x) = 2^n exp(f), |f| <= log(2) / 2: the polynomial of Cephes (Moshier), 2e-7 relative
LOWEST, LOG2_E, LN2_HIGH, LN2_LOW = map(np.float32, (-87.33, 1.4426950408889634, 0.693359375, -2.12194440e-4))
E0, E1, E2, E3, E4, E5 = map(
    np.float32,
    (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1),
)
BIAS, MANTISSA = np.int32(127), np.int32(23)


@intrinsic
def _power_of_two(typingctx, bits):
    """The float32 of these bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return numba.float32(numba.int32), generate


@inline
def _exp(x):
    """exp of float32 x <= 88; exactly 0 below LOWEST."""
    bounded = x if x > LOWEST else LOWEST  # of a NaN too: it comes back by f
    n = np.int32(np.floor(bounded * LOG2_E + HALF))
    whole = np.float32(n)
    f = x - whole * LN2_HIGH - whole * LN2_LOW
    y = ((((E0 * f + E1) * f + E2) * f + E3) * f + E4) * f + E5
    y = (y * f * f + f + ONE) * _power_of_two((n + BIAS) << MANTISSA)
    return ZERO if x < LOWEST else y


@inline
def _distribution(x):
    """The normal distribution function, float32; see backend.erf."""
    t = x * ROOT_HALF
    t = -FOUR if t < -FOUR else (FOUR if t > FOUR else t)
    s = t * t
    top = (((((P0 * s + P1) * s + P2) * s + P3) * s + P4) * s + P5) * s + P6
    bottom = (((Q0 * s + Q1) * s + Q2) * s + Q3) * s + Q4
    return (t * top / bottom + ONE) * HALF


@inline
def _fire(current, v_th, low):
    if v_th > ZERO:
        current = current / v_th
        current = low if current < low else (ONE if current > ONE else current)
    return current


@inline
def _slope(dy, sent, v_th, low):
    if v_th > ZERO:
        dy = dy / v_th if (sent > low) & (sent < ONE) else ZERO
    return dy


@inline
def _normalise(row, weight, bias, total, eps, sent, v_th, low):
    """LayerNorm of a row in place, what the neurons send into `sent`; returns 1 / std."""
    width = np.float32(row.size)
    mean, square = total / width, ZERO
    for c in range(row.size):
        centred = row[c] - mean
        row[c] = centred
        square += centred * centred
    inverse = ONE / np.sqrt(square / width + eps)
    for c in range(row.size):
        value = row[c] * inverse
        row[c] = value
        sent[c] = _fire(value * weight[c] + bias[c], v_th, low)
    return inverse


@kernel
def _embed(words, types, word, position, kind, weight, bias, eps, unit, inv_std, sent, length, v_th, low):
    for r in range(words.size):
        w, p, t, row = word[words[r]], position[r % length], kind[types[r]], unit[r]
        total = ZERO
        for c in range(row.size):
            x = w[c] + p[c] + t[c]
            row[c] = x
            total += x
        inv_std[r] = _normalise(row, weight, bias, total, eps, sent[r], v_th, low)


@kernel
def _norm_fire(mixed, mixed_bias, residual, weight, bias, eps, inv_std, sent, v_th, low):
    for r in range(len(mixed)):
        row, other = mixed[r], residual[r]
        total = ZERO
        for c in range(row.size):
            x = row[c] + mixed_bias[c] + other[c]
            row[c] = x
            total += x
        inv_std[r] = _normalise(row, weight, bias, total, eps, sent[r], v_th, low)


@kernel
def _norm_fire_back(dy, sent, unit, inv_std, weight, dx, sums, v_th, low):
    of_dx, of_current, of_product = sums[0], sums[1], sums[2]
    width = np.float32(dy.shape[1])
    for r in range(len(dy)):
        given, fired, u, d = dy[r], sent[r], unit[r], dx[r]
        total = along = ZERO
        for c in range(d.size):
            current = _slope(given[c], fired[c], v_th, low)
            of_current[c] += current
            of_product[c] += current * u[c]
            current *= weight[c]
            d[c] = current
            total += current
            along += current * u[c]
        total /= width
        along /= width
        for c in range(d.size):
            value = (d[c] - total - u[c] * along) * inv_std[r]
            d[c] = value
            of_dx[c] += value


@kernel
def _gelu_fire(wide, bias, sent, v_th, low):
    for r in range(len(wide)):
        row, out = wide[r], sent[r]
        for c in range(row.size):
            x = row[c] + bias[c]
            row[c] = x
            out[c] = _fire(x * _distribution(x), v_th, low)


@kernel
def _gelu_fire_back(dy, sent, wide, dx, sums, v_th, low):
    for r in range(len(wide)):
        given, fired, row, out = dy[r], sent[r], wide[r], dx[r]
        for c in range(row.size):
            x = row[c]
            slope = _distribution(x) + x * _exp(-HALF * x * x) * DENSITY
            value = _slope(given[c], fired[c], v_th, low) * slope
            out[c] = value
            sums[c] += value


@kernel
def _split_fire(raw, bias, split, part, fired, v_th, low):
    """One of query, key and value (`part`) of raw (B, L, 3, H, K) into split[part] (B, H, L, K); fired (B, L, H, K)."""
    batch, length, _, heads, head = raw.shape
    for b in range(batch):
        for token in range(length):
            for h in range(heads):
                row, offset, out = raw[b, token, part, h], bias[h], split[part, b, h, token]
                for k in range(head):
                    out[k] = _fire(row[k] + offset[k], v_th, low)
                if fired.size:
                    fired[b, token, h] = out


@kernel
def _split_fire_back(dsplit, split, draw, sums, part, v_th, low):
    batch, length, _, heads, head = draw.shape
    for b in range(batch):
        for token in range(length):
            for h in range(heads):
                given, sent, out, total = (
                    dsplit[part, b, h, token],
                    split[part, b, h, token],
                    draw[b, token, part, h],
                    sums[h],
                )
                for k in range(head):
                    value = _slope(given[k], sent[k], v_th, low)
                    out[k] = value
                    total[k] += value


@kernel
def _merge_fire(context, sent, v_th, low):
    batch, heads, length, head = context.shape
    for b in range(batch):
        for token in range(length):
            for h in range(heads):
                row, out = context[b, h, token], sent[b, token, h]
                for k in range(head):
                    out[k] = _fire(row[k], v_th, low)


@kernel
def _merge_fire_back(dy, sent, dcontext, v_th, low):
    batch, heads, length, head = dcontext.shape
    for b in range(batch):
        for token in range(length):
            for h in range(heads):
                given, fired, out = dy[b, token, h], sent[b, token, h], dcontext[b, h, token]
                for k in range(head):
                    out[k] = _slope(given[k], fired[k], v_th, low)


@inline
def _scaled(scores, masked, real, scale):
    """Scale the scores (keys,) of a row in place, and put them, masked, into `masked`: the largest of these."""
    most = np.float32(-1e30)
    for k in range(scores.size):
        x = scores[k] * scale
        scores[k] = x
        x = x if real[k] != 0 else x + MASKED
        masked[k] = x
        most = x if x > most else most
    return most


@kernel
def _softmax(scores, mask, weights, scale):
    batch, heads, length, keys = scores.shape
    for b in range(batch):
        real = mask[b]
        for h in range(heads):
            for token in range(length):
                s, w = scores[b, h, token], weights[b, h, token]
                most = _scaled(s, w, real, scale)
                total = ZERO
                for k in range(keys):
                    e = _exp(w[k] - most)
                    w[k] = e
                    total += e
                for k in range(keys):
                    w[k] /= total


@kernel
def _softmax_back(dweights, weights, dscores, scale):
    for r in range(len(weights)):
        d, w = dweights[r], weights[r]
        total = ZERO
        for k in range(w.size):
            total += d[k] * w[k]
        for k in range(w.size):
            d[k] = (d[k] - total) * w[k] * scale
        if dscores.size:
            other = dscores[r]
            for k in range(w.size):
                d[k] += other[k] * scale


@kernel
def _adamw(parameter, mean, square, gradient, factors):
    clip, rate, eps, keep, old1, new1, old2, new2 = factors
    for i in range(parameter.size):
        g = gradient[i] * clip
        m = mean[i] * old1 + g * new1
        v = square[i] * old2 + g * g * new2
        mean[i] = m
        square[i] = v
        parameter[i] = parameter[i] * keep - m / (np.sqrt(v) + eps) * rate


def adamw(parameter, mean, square, gradient, factors):
    """One step of optim.AdamW on flat arrays, in place. factors: clip, rate, eps, 1 - decay, b1, 1 - b1, b2, 1 - b2."""
    _adamw(parameter, mean, square, gradient, tuple(map(np.float32, factors)))


# ---- the functions of fused_gpu.py ---------------------------------------------------------------------------------

NOTHING = np.empty(0, np.float32)


def _numbers(neuron):
    return (ZERO, ZERO) if neuron is None else (np.float32(neuron[0]), np.float32(neuron[1]))


def _rows(array):
    return array.reshape(-1, array.shape[-1])


def embed(input_ids, token_type_ids, p, eps, neuron):
    word, norm = p["word_embeddings"]["weight"], p["LayerNorm"]
    shape = (*input_ids.shape, word.shape[1])
    unit, sent, inv_std = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(input_ids.size, np.float32)
    tables = word, p["position_embeddings"]["weight"], p["token_type_embeddings"]["weight"]
    _embed(
        input_ids.reshape(-1), token_type_ids.reshape(-1), *tables, norm["weight"], norm["bias"], np.float32(eps),
        _rows(unit), inv_std, _rows(sent), input_ids.shape[1], *_numbers(neuron),
    )  # fmt: skip
    return sent, unit, inv_std


def norm_fire(mixed, mixed_bias, residual, norm, eps, neuron):
    sent, inv_std = np.empty_like(residual), np.empty(len(mixed), np.float32)
    tables = mixed_bias, _rows(residual), norm["weight"], norm["bias"]
    _norm_fire(mixed, *tables, np.float32(eps), inv_std, _rows(sent), *_numbers(neuron))
    return sent, mixed, inv_std


def norm_fire_back(dy, sent, unit, inv_std, weight, neuron):
    dx, sums = np.empty_like(dy), np.zeros((3, dy.shape[-1]), np.float32)
    _norm_fire_back(_rows(dy), _rows(sent), _rows(unit), inv_std, weight, _rows(dx), sums, *_numbers(neuron))
    return dx, sums


def gelu_fire(wide, bias, neuron):
    sent = np.empty_like(wide)
    _gelu_fire(wide, bias, sent, *_numbers(neuron))
    return sent


def gelu_fire_back(dy, sent, wide, neuron):
    dx, sums = np.empty_like(wide), np.zeros(wide.shape[1], np.float32)
    _gelu_fire_back(_rows(dy), sent, wide, dx, sums, *_numbers(neuron))
    return dx, sums


def split_fire(raw, biases, shape, neurons, record):
    batch, length, heads = shape
    width = raw.shape[1] // 3
    head = width // heads
    split = np.empty((3, batch, heads, length, head), np.float32)
    kept = [np.empty((batch, length, width), np.float32) if record else None for _ in range(2)]
    fired = [None, *kept]
    raw = raw.reshape(batch, length, 3, heads, head)
    for part, (bias, neuron) in enumerate(zip(biases, (None, *neurons), strict=True)):
        out = (
            np.empty((0, 0, 0, 0), np.float32)
            if fired[part] is None
            else fired[part].reshape(batch, length, heads, head)
        )
        _split_fire(raw, bias.reshape(heads, head), split, part, out, *_numbers(neuron))
    return split, *kept


def split_fire_back(dsplit, split, neurons):
    _, batch, heads, length, head = split.shape
    draw, sums = np.empty((batch, length, 3, heads, head), np.float32), np.zeros((3, heads, head), np.float32)
    for part, neuron in enumerate((None, *neurons)):
        _split_fire_back(dsplit, split, draw, sums[part], part, *_numbers(neuron))
    return draw.reshape(batch * length, -1), sums.reshape(-1)


def merge_fire(context, neuron):
    batch, heads, length, head = context.shape
    sent = np.empty((batch, length, heads, head), np.float32)
    _merge_fire(context, sent, *_numbers(neuron))
    return sent.reshape(batch, length, heads * head)


def merge_fire_back(dy, sent, heads, neuron):
    batch, length, width = sent.shape
    shape = batch, length, heads, width // heads
    dcontext = np.empty((batch, heads, length, width // heads), np.float32)
    _merge_fire_back(dy.reshape(shape), sent.reshape(shape), dcontext, *_numbers(neuron))
    return dcontext


def softmax(scores, mask, scale):
    weights = np.empty_like(scores)
    _softmax(scores, mask, weights, np.float32(scale))
    return weights


def softmax_back(dweights, weights, dscores, scale):
    other = NOTHING.reshape(0, 0) if dscores is None else _rows(dscores)
    _softmax_back(_rows(dweights), _rows(weights), other, np.float32(scale))
    return dweights
