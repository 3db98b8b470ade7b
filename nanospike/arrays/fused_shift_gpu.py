"""Kernels on a GPU of what needs no multiplication, and of neurons: shift operators, low-bit weights, rates, spikes.

What they compute: ops_shift, quantise.ternary, neuron.rate and simulate. As in fused_gpu, whose conventions these are.
"""

import numpy as np

from . import fused_gpu
from .backend import launch, namespace
from .fused_gpu import (
    HELPERS,
    by_warps,
    column_blocks,
    elementwise,
    finished,
    norm_blocks,
    numbers_of,
)
from .ops_shift import LEAST_EXPONENT, LEAST_POWER, LOG2_E, SPREAD

KINDS = {"binary": 0, "corrective": 1, "signed": 2}

KERNELS = r"""
#define SINGLE (sizeof(REAL) == 4)

// ops_shift.power_of_two
__device__ __forceinline__ REAL power(int exponent) {
    return exponent < (SINGLE ? -126 : -1022) ? (REAL)0 : (REAL)ldexp((REAL)1, exponent);
}

// ops_shift.nearest_exponent of a positive number
__device__ __forceinline__ int nearest_exponent(REAL x) {
    int exponent;
    REAL mantissa = frexp(x, &exponent);
    return exponent - (mantissa < (REAL)0.70710678118654752);
}

// ops_shift.reciprocal
__device__ __forceinline__ REAL reciprocal(REAL x, REAL least, bool half_steps) {
    x = x < least ? least : x;
    REAL gain = power(-nearest_exponent(x));
    if (half_steps) {
        REAL ratio = x * gain;
        if (ratio < (REAL)0.81649658092772603) gain *= (REAL)1.5;       // sqrt(2/3)
        else if (ratio > (REAL)1.1547005383792515) gain *= (REAL)0.75;  // sqrt(4/3)
    }
    return gain;
}

__device__ __forceinline__ double warp_sum_of_doubles(double x) {
    for (int half = 16; half > 0; half /= 2) x += __shfl_xor_sync(0xffffffffu, x, half);
    return x;
}

extern "C" {

// mixed_bias and residual may be null. scale (R, 2): the gain, and what `along` is multiplied by on the way back
__global__ void shift_norm_fire(const REAL* mixed, const REAL* mixed_bias, const REAL* residual, const REAL* weight,
                                const REAL* bias, double spread, double least, long long half_steps, REAL* unit,
                                REAL* scale, REAL* sent, long long rows, long long width, double v_th, double low) {
    long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, at = row * width;
    int lane = threadIdx.x % 32;
    if (row >= rows) return;
    REAL sum = 0;
    for (int c = lane; c < width; c += 32) {
        REAL x = mixed[at + c];
        if (mixed_bias) x += mixed_bias[c];
        if (residual) x += residual[at + c];
        unit[at + c] = x;
        sum += x < 0 ? -x : x;
    }
    REAL mean = warp_sum(sum) / width, size = mean * (REAL)spread;
    REAL gain = reciprocal(size, (REAL)least, half_steps), of_unit = mean * gain;
    Neuron n = neuron(v_th, low);
    for (int c = lane; c < width; c += 32) {
        REAL value = unit[at + c] * gain;
        unit[at + c] = value;
        sent[at + c] = fire(value * weight[c] + bias[c], n);
    }
    if (lane > 0) return;
    scale[2 * row] = gain;
    scale[2 * row + 1] = size < (REAL)least ? (REAL)0 : (REAL)1 / (of_unit < (REAL)0.25 ? (REAL)0.25 : of_unit);
}

// See fused_gpu.norm_fire_back.
__global__ void shift_norm_fire_back(const REAL* dy, const REAL* sent, const REAL* unit, const REAL* scale,
                                     const REAL* weight, REAL* dx, REAL* partial, long long rows, long long width,
                                     double v_th, double low) {
    extern __shared__ char memory[];
    int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32, w = (int)width;
    REAL* sums = (REAL*)memory + warp * 3 * w;
    Neuron n = neuron(v_th, low);
    for (int c = lane; c < 3 * w; c += 32) sums[c] = 0;
    __syncwarp();
    for (long long row = (long long)blockIdx.x * warps + warp; row < rows; row += (long long)gridDim.x * warps) {
        long long at = row * width;
        REAL along = 0, gain = scale[2 * row];
        for (int c = lane; c < w; c += 32) {
            REAL d = slope(dy[at + c], sent[at + c], n), u = unit[at + c];
            sums[w + c] += d;
            sums[2 * w + c] += d * u;
            d *= weight[c];
            dx[at + c] = d;
            along += d * u;
        }
        along = warp_sum(along) / w * scale[2 * row + 1];
        for (int c = lane; c < w; c += 32) {
            REAL u = unit[at + c], d = dx[at + c];
            d = (d - (u > 0 ? along : (u < 0 ? -along : (REAL)0))) * gain;
            dx[at + c] = d;
            sums[c] += d;
        }
    }
    __syncthreads();
    for (int c = threadIdx.x; c < 3 * w; c += blockDim.x) {
        REAL sum = 0;
        for (int k = 0; k < warps; k++) sum += ((REAL*)memory)[k * 3 * w + c];
        partial[(long long)blockIdx.x * 3 * w + c] = sum;
    }
}

__global__ void bias_fire(REAL* wide, const REAL* bias, long long count, long long width, double v_th, double low) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) wide[i] = fire(wide[i] + bias[i % width], neuron(v_th, low));
}

__global__ void bias_fire_back(const REAL* dy, const REAL* sent, REAL* dx, REAL* partial, long long rows,
                               long long width, double v_th, double low) {
    __shared__ REAL sums[8][33];
    long long c = (long long)blockIdx.x * 32 + threadIdx.x;
    Neuron n = neuron(v_th, low);
    REAL sum = 0;
    if (c < width)
        for (long long row = (long long)blockIdx.y * 8 + threadIdx.y; row < rows; row += 8 * gridDim.y) {
            REAL d = slope(dy[row * width + c], sent[row * width + c], n);
            dx[row * width + c] = d;
            sum += d;
        }
    column_sum(sums, sum, partial, c, width);
}

// scores (B, H, L, L): scaled in place; ratios (B H L,): 1 / the sum of a row's weights
__global__ void shift_softmax(REAL* scores, const long long* mask, REAL* weights, REAL* ratios, double scale,
                              double log2_e, double least, long long rows, long long heads, long long length) {
    long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32, keys = (int)length;
    if (row >= rows) return;
    REAL* s = scores + row * length;
    REAL* w = weights + row * length;
    const long long* real = mask + (row / (heads * length)) * length;
    REAL most = -1e30, total = 0;
    for (int k = lane; k < keys; k += 32) {
        REAL x = s[k] * (REAL)scale;
        s[k] = x;
        if (!real[k]) x += MASKED;
        w[k] = x;
        most = x > most || x != x ? x : most;
    }
    most = warp_max(most);
    for (int k = lane; k < keys; k += 32) {
        REAL d = rint((w[k] - most) * (REAL)log2_e);
        REAL value = d < (REAL)least ? (REAL)0 : power((int)d) + d * (REAL)0;  // a NaN stays one
        w[k] = value;
        total += value;
    }
    total = warp_sum(total);
    REAL gain = total == total ? power(-nearest_exponent(total)) : total;
    if (lane == 0) ratios[row] = (REAL)1 / (gain * total);
    for (int k = lane; k < keys; k += 32) w[k] *= gain;
}

__global__ void ternary(const REAL* weight, REAL* low_bit, double cut_off, long long rows, long long width) {
    long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows) return;
    const REAL* w = weight + row * width;
    double total = 0, size = 0, kept = 0;
    for (int c = lane; c < width; c += 32) total += fabs((double)w[c]);
    total = warp_sum_of_doubles(total);
    REAL cut = (REAL)cut_off * (REAL)(total / width);
    for (int c = lane; c < width; c += 32) {
        REAL x = w[c] < 0 ? -w[c] : w[c];
        if (x > cut) {
            size += x;
            kept += 1;
        }
    }
    size = warp_sum_of_doubles(size) + total * 0;  // of a NaN or an infinity: a NaN
    kept = warp_sum_of_doubles(kept);
    REAL scale = (REAL)(size / (kept < 1 ? 1 : kept));
    for (int c = lane; c < width; c += 32)
        low_bit[row * width + c] = (w[c] > cut ? (REAL)1 : (w[c] < -cut ? (REAL)-1 : (REAL)0)) * scale;
}

// thresholds: of one neuron each, or one of all (many = 1), or null: then all have v_th
__global__ void rate(const REAL* current, const REAL* thresholds, REAL* sent, long long count, long long many,
                     double v_th, double low) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    Neuron n = neuron(v_th, low);
    if (thresholds) n.v_th = thresholds[i % many];
    sent[i] = fire(current[i], n);
}

__global__ void rate_back(const REAL* dy, const REAL* current, const REAL* thresholds, REAL* dx, long long count,
                          long long many, double v_th, double low) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    Neuron n = neuron(v_th, low);
    if (thresholds) n.v_th = thresholds[i % many];
    dx[i] = slope(dy[i], current[i] / n.v_th, n);
}

// also what the thresholds get: column sums of -dx current / v_th
__global__ void rate_back_sums(const REAL* dy, const REAL* current, const REAL* thresholds, REAL* dx, REAL* partial,
                               long long rows, long long width, long long many, double low) {
    __shared__ REAL sums[8][33];
    long long c = (long long)blockIdx.x * 32 + threadIdx.x;
    Neuron n = neuron(1, low);
    REAL sum = 0;
    if (c < width) {
        n.v_th = thresholds[c % many];
        for (long long row = (long long)blockIdx.y * 8 + threadIdx.y; row < rows; row += 8 * gridDim.y) {
            REAL drive = current[row * width + c] / n.v_th, d = slope(dy[row * width + c], drive, n);
            dx[row * width + c] = d;
            sum -= d * drive;
        }
    }
    column_sum(sums, sum, partial, c, width);
}

}

// Time steps first, first + 1, ... of a population, see membranes.Neurons; thresholds: one number, or null.
template <typename COUNT>
__device__ __forceinline__ void differential(const REAL* currents, REAL* membrane, COUNT* counts, COUNT* fired,
                                             signed char* emitted, REAL* sent, const REAL* thresholds, double v_th,
                                             double initial, double window, double tie, long long kind,
                                             long long first, long long steps, long long neurons) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= neurons) return;
    // what the portable form rounds: with a learnt threshold every product, otherwise the last sum
    REAL v = thresholds ? thresholds[0] : (REAL)v_th, start = thresholds ? (REAL)initial * v : (REAL)(initial * v_th);
    double below = 2 * initial - 1 - window;
    int count = counts[i], spikes = fired[i], spike = 0;
    REAL u = 0;
    for (long long t = 0; t < steps; t++) {
        REAL step = (REAL)(first + t), upper, lower;
        double near = tie * (double)(first + t);
        if (thresholds) {
            upper = (REAL)(1 + window) * v - (REAL)near * v;
            lower = (REAL)below * v + (REAL)near * v;
        } else {
            upper = (REAL)((1 + window) * v_th - near * v_th);
            lower = (REAL)(below * v_th + near * v_th);
        }
        u = currents[t * neurons + i] * step;
        u = u + start;
        u = u - (REAL)count * v;
        spike = u >= upper;
        if (kind == 2) spike -= u <= lower;
        else if (kind == 1) spike -= u <= lower && count >= 1;
        count += spike;
        spikes += spike & 1;
        sent[t * neurons + i] = (REAL)count / step;
    }
    membrane[i] = u;
    emitted[i] = (signed char)spike;
    if (kind != 0) fired[i] = (COUNT)spikes;
    counts[i] = (COUNT)count;
}
"""
STEPS = r"""
extern "C" __global__ void differential_KIND(const REAL* currents, REAL* membrane, COUNT* counts, COUNT* fired,
                                             signed char* emitted, REAL* sent, const REAL* thresholds, double v_th,
                                             double initial, double window, double tie, long long kind,
                                             long long first, long long steps, long long neurons) {
    differential<COUNT>(currents, membrane, counts, fired, emitted, sent, thresholds, v_th, initial, window, tie, kind,
                        first, steps, neurons);
}
"""
COUNTS = {"int16": "short", "int32": "int"}
SOURCE = "".join([HELPERS, KERNELS, *(STEPS.replace("KIND", kind).replace("COUNT", c) for kind, c in COUNTS.items())])


def _run(name, like, shape, *arguments):
    launch(SOURCE, name, like.dtype, shape, arguments, exact=True)


def norm_fire(mixed, mixed_bias, residual, norm, half_steps, neuron):
    """fire(shift_norm(mixed + bias + residual)), (..., D); mixed_bias, residual: may be None. `mixed` is overwritten.

    Returns what is sent, and what norm_fire_back needs: unit, scale.
    """
    xp, width = namespace(mixed), mixed.shape[-1]
    rows = mixed.size // width
    like = mixed if residual is None else residual
    sent, scale = xp.empty(like.shape, like.dtype), xp.empty((rows, 2), mixed.dtype)
    _run(
        "shift_norm_fire", mixed, by_warps(rows), mixed, mixed_bias, residual, norm["weight"], norm["bias"], SPREAD,
        2.0**LEAST_EXPONENT, int(half_steps), mixed, scale, sent, rows, width, *numbers_of(neuron),
    )  # fmt: skip
    return sent, mixed, scale


def norm_fire_back(dy, sent, unit, scale, weight, neuron):
    """See fused_gpu.norm_fire_back."""
    shape, dx, partial = norm_blocks(dy)
    rows, width = dy.size // dy.shape[-1], dy.shape[-1]
    _run(
        "shift_norm_fire_back", dy, shape, dy, sent, unit, scale, weight, dx, partial, rows, width, *numbers_of(neuron)
    )
    return dx, finished(partial).reshape(3, width)


def bias_fire(wide, bias, neuron):
    """What neurons without an activation before them send, in the place of `wide`."""
    _run("bias_fire", wide, elementwise(wide.size), wide, bias, wide.size, wide.shape[-1], *numbers_of(neuron))
    return wide


def bias_fire_back(dy, sent, neuron):
    rows, width = sent.shape
    grid, partial = column_blocks(rows, width, sent)
    dx = namespace(sent).empty(sent.shape, sent.dtype)
    _run("bias_fire_back", sent, grid, dy, sent, dx, partial, rows, width, *numbers_of(neuron))
    return dx, finished(partial)


def softmax(scores, mask, scale):
    """(weights, what softmax_back needs besides); scores (B, H, L, L) are scaled in place."""
    xp, (_, heads, length, _) = namespace(scores), scores.shape
    rows = scores.size // length
    weights, ratios = xp.empty(scores.shape, scores.dtype), xp.empty(rows, scores.dtype)
    _run(
        "shift_softmax", scores, by_warps(rows), scores, mask, weights, ratios, float(scale), LOG2_E,
        float(LEAST_POWER), rows, heads, length,
    )  # fmt: skip
    return weights, ratios


def softmax_back(dweights, weights, ratios, dscores, scale):
    """See fused_gpu.softmax_back."""
    return fused_gpu.softmax_back(dweights, weights, dscores, scale, ratios)


def ternary(weight, cut_off):
    """quantise.ternary of rows (..., I); cut_off: TERNARY_CUT there."""
    xp, width = namespace(weight), weight.shape[-1]
    weight, rows = xp.ascontiguousarray(weight), weight.size // width
    low_bit = xp.empty(weight.shape, weight.dtype)
    _run("ternary", weight, by_warps(rows), weight, low_bit, cut_off, rows, width)
    return low_bit


def rate(current, v_th, low):
    """neuron.rate of currents (..., W): what is sent."""
    sent = namespace(current).empty(current.shape, current.dtype)
    thresholds, many, number = _thresholds(v_th)
    arguments = current, thresholds, sent, current.size, many, number, float(low)
    _run("rate", current, elementwise(current.size), *arguments)
    return sent


def rate_back(dy, current, v_th, low, learnt):
    """(cotangent of the currents, gradient of v_th if `learnt`)"""
    xp, width = namespace(current), current.shape[-1]
    dx, (thresholds, many, number) = xp.empty(current.shape, current.dtype), _thresholds(v_th)
    if not learnt:
        arguments = dy, current, thresholds, dx, current.size, many, number, float(low)
        _run("rate_back", current, elementwise(current.size), *arguments)
        return dx, None
    rows = current.size // width
    grid, partial = column_blocks(rows, width, current)
    _run("rate_back_sums", current, grid, dy, current, thresholds, dx, partial, rows, width, many, float(low))
    sums = finished(partial)
    return dx, sums if many > 1 else sums.sum().reshape(1)


def _thresholds(v_th):
    """(array or None, how many, the number where there is no array)"""
    return (v_th, v_th.size, 1.0) if hasattr(v_th, "shape") else (None, 1, float(v_th))


def differential(state, currents, sent, first, rule):
    """Time steps of a population under the differential drive, from the number `first` on; see fused_shift."""
    neurons, (thresholds, _, number) = state.membrane.size, _thresholds(rule.v_th)
    arguments = (
        namespace(currents).ascontiguousarray(currents), state.membrane, state.count, state.fired, state.emitted, sent,
        thresholds, number, float(rule.initial), float(rule.window), float(rule.tie), KINDS[rule.spikes], first,
        len(currents), neurons,
    )  # fmt: skip
    _run(f"differential_{np.dtype(state.count.dtype).name}", currents, elementwise(neurons), *arguments)
