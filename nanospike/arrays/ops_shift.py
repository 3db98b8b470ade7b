"""Operators that need no multiplication: powers of two in the place of exponentials, quotients and square roots.

Each is a step function of what it rounds. Its vjp is that of its *twin*, the same function with what the rounding added
(the residues) held constant: at every point the twin has the operator's value, and a slope. For complex x the functions
here are their twins, so that a complex step differentiates those; what is rounded or compared is the real part.

Axes: as in ops.
"""

import math

from .backend import namespace
from .ops import affine

LOG2_E = math.log2(math.e)
LEAST_POWER = -15  # of a softmax: keys whose power of two, relative to the largest, is below are left out
SPREAD = math.sqrt(math.pi / 2)  # standard deviation of normal numbers over the mean of their sizes
LEAST_EXPONENT = -24  # of a norm: rows whose size is below 2^LEAST_EXPONENT are not blown up any further
BIASES = {"float32": (127, 23, "int32"), "float64": (1023, 52, "int64")}  # of exponents; bits of mantissa; of the whole


def shift_softmax(x):
    """2^(d - k), d = rint((x - max x) log2 e), k = rint(log2 sum 2^d), over the last axis.   (..., K)  ->  (..., K)

    d below LEAST_POWER is left out before the sum. The rows sum to something in [0.7071, 1.4143].
    """
    d = rounded((x - x.real.max(axis=-1, keepdims=True)) * LOG2_E)
    d = namespace(x).where(d.real < LEAST_POWER, -BIASES["float64"][0], d)
    powers = power_of_two(d)
    total = powers.sum(axis=-1, keepdims=True)
    y = powers * power_of_two(-nearest_exponent(total))

    def vjp(dy):
        dx = dy * y
        along = dx.sum(axis=-1, keepdims=True)
        dx -= powers * (along / total)
        return dx

    return y, vjp


def shift_norm(x, weight, bias, half_steps=False):
    """unit weight + bias, unit = x 2^-m, m = rint(log2(sqrt(pi/2) mean |x|)), over the last axis.   (..., D)

    For normal numbers it divides by about their standard deviation; nothing is centred or squared. half_steps: the
    factor may also be 1.5 times a power of two (a shift and an addition), which is off by 1.22 at most, not by 1.41.
    A row with m < LEAST_EXPONENT gets that factor, and its slope.
    """
    xp = namespace(x)
    sign = xp.sign(x.real)
    size = (x * sign).mean(axis=-1, keepdims=True)
    gain = reciprocal(size * SPREAD, half_steps)
    unit = x * gain
    y, affine_vjp = affine(unit, weight, bias)

    def vjp(dy, grads=None):
        dx = affine_vjp(dy, grads)
        # The output cannot grow with the row: the gain of the twin is a constant / mean |x|.
        along = (dx * unit).mean(axis=-1, keepdims=True)
        held = size * SPREAD < 2.0**LEAST_EXPONENT
        along /= xp.maximum(size * gain, 0.25)  # it is at least 0.56 where the row is not held
        along *= ~held
        dx -= sign * along
        dx *= gain
        return dx

    return y, vjp


def rounded(x):
    """x to the nearest whole number, of two at the same distance the even one; a fresh array."""
    xp = namespace(x)
    if x.dtype.kind != "c":
        return xp.rint(x)
    return x + (xp.rint(x.real) - x.real)


def power_of_two(exponent):
    """2^exponent of whole numbers, made of their bits; 0 below the least normal number.   float in, float out"""
    xp = namespace(exponent)
    if exponent.dtype.kind == "c":
        return xp.exp(exponent * math.log(2)) * (exponent.real > -BIASES["float64"][0])
    bias, mantissa, kind = BIASES[str(exponent.dtype)]
    bits = xp.maximum(exponent, -bias).astype(kind)
    bits += bias
    bits <<= mantissa
    return bits.view(exponent.dtype)


def nearest_exponent(x):
    """rint(log2 x) of positive numbers, as floats: where x is a power of two times a number, so is what counts."""
    xp = namespace(x)
    if x.dtype.kind == "c":
        exponent = xp.log(x) / math.log(2)
        return exponent + (nearest_exponent(x.real) - exponent.real)
    mantissa, exponent = xp.frexp(x)  # mantissa in [1/2, 1)
    return exponent.astype(x.dtype) - (mantissa < math.sqrt(0.5))


def reciprocal(x, half_steps=False):
    """The power of two nearest to 1 / x by their ratio; with half_steps, also 1.5 times a power of two.

    At most 2^-LEAST_EXPONENT, whatever x.   positive numbers, or 0
    """
    x = namespace(x).maximum(x, 2.0**LEAST_EXPONENT)
    gain = power_of_two(-nearest_exponent(x))
    if not half_steps:
        return gain
    ratio = (x * gain).real  # in [sqrt(1/2), sqrt(2)]
    gain = gain * (1 + (ratio < math.sqrt(2 / 3)).astype(ratio.dtype) / 2)
    return gain * (1 - (ratio > math.sqrt(4 / 3)).astype(ratio.dtype) / 4)
