"""Kernels of an encoder's blocks on a GPU: what stands between two products is one launch, forward and backward.

Each function launches the kernel of its name in SOURCE; arrays are C-contiguous and of one dtype, float32 or float64.
What they compute is written in ops.py and model/neuron.py, which stay the reference; model/fused.py puts them together.

A neuron is (v_th, low): it sends clip(current / v_th, low, 1); None sends its current. Between its bounds, and only
there, what it sent is neither: so the backward kernels need what was sent, not the current.

Axes: B examples, L tokens, H heads, K = D/H, D hidden, F inner width, R = B L rows.
"""

from .backend import launch, namespace

WARPS = 4  # rows side by side in a block, each by one warp
COLUMNS, LANES = 32, 8  # a block of column sums: 32 columns, 8 rows at a time
SPLITS = 16  # parts of the rows whose column sums are added up at last
SHARED = 48 * 1024  # bytes that every GPU gives a block unasked

HELPERS = r"""
#define MASKED ((REAL)-1e9)

struct Neuron { REAL v_th, low; bool clips; };

__device__ __forceinline__ Neuron neuron(double v_th, double low) {
    Neuron n = {(REAL)v_th, (REAL)low, v_th > 0};
    return n;
}

__device__ __forceinline__ REAL fire(REAL current, Neuron n) {
    if (!n.clips) return current;
    REAL drive = current / n.v_th;
    if (drive < n.low) return n.low;
    return drive > (REAL)1 ? (REAL)1 : drive;  // a NaN stays one
}

__device__ __forceinline__ REAL slope(REAL dy, REAL sent, Neuron n) {
    if (!n.clips) return dy;
    return sent > n.low && sent < (REAL)1 ? dy / n.v_th : (REAL)0;
}

__device__ __forceinline__ REAL warp_sum(REAL x) {
    for (int half = 16; half > 0; half /= 2) x += __shfl_xor_sync(0xffffffffu, x, half);
    return x;
}

__device__ __forceinline__ REAL warp_max(REAL x) {
    for (int half = 16; half > 0; half /= 2) {
        REAL other = __shfl_xor_sync(0xffffffffu, x, half);
        x = other > x || other != other ? other : x;
    }
    return x;
}

__device__ __forceinline__ void column_sum(REAL (*sums)[33], REAL sum, REAL* partial, long long c, long long width) {
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && c < width) {
        for (int k = 1; k < 8; k++) sum += sums[k][threadIdx.x];
        partial[(long long)blockIdx.y * width + c] = sum;
    }
}
"""

KERNELS = r"""
__device__ __forceinline__ REAL distribution(REAL x) {
    return ((REAL)erf(x * (REAL)0.70710678118654752) + 1) * (REAL)0.5;
}

// One warp: LayerNorm of the row that is in `unit`, in place; then what the neurons send.
__device__ void normalise(REAL* unit, const REAL* weight, const REAL* bias, REAL* inv_std, REAL* sent, int width,
                          int lane, REAL sum, REAL eps, Neuron n) {
    REAL mean = warp_sum(sum) / width, square = 0;
    for (int c = lane; c < width; c += 32) {
        REAL centred = unit[c] - mean;
        unit[c] = centred;
        square += centred * centred;
    }
    REAL inverse = (REAL)1 / sqrt(warp_sum(square) / width + eps);
    for (int c = lane; c < width; c += 32) {
        REAL value = unit[c] * inverse;
        unit[c] = value;
        sent[c] = fire(value * weight[c] + bias[c], n);
    }
    if (lane == 0) *inv_std = inverse;
}

extern "C" {

__global__ void embed(const long long* words, const long long* types, const REAL* word, const REAL* position,
                      const REAL* type, const REAL* weight, const REAL* bias, double eps, REAL* unit, REAL* inv_std,
                      REAL* sent, long long rows, long long length, long long width, double v_th, double low) {
    long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows) return;
    const REAL* w = word + words[row] * width;
    const REAL* p = position + (row % length) * width;
    const REAL* t = type + types[row] * width;
    REAL sum = 0;
    for (int c = lane; c < width; c += 32) {
        REAL x = w[c] + p[c] + t[c];
        unit[row * width + c] = x;
        sum += x;
    }
    normalise(unit + row * width, weight, bias, inv_std + row, sent + row * width, (int)width, lane, sum, (REAL)eps,
              neuron(v_th, low));
}

__global__ void norm_fire(const REAL* mixed, const REAL* mixed_bias, const REAL* residual, const REAL* weight,
                          const REAL* bias, double eps, REAL* unit, REAL* inv_std, REAL* sent, long long rows,
                          long long width, double v_th, double low) {
    long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows) return;
    REAL sum = 0;
    for (int c = lane; c < width; c += 32) {
        REAL x = mixed[row * width + c] + mixed_bias[c] + residual[row * width + c];
        unit[row * width + c] = x;
        sum += x;
    }
    normalise(unit + row * width, weight, bias, inv_std + row, sent + row * width, (int)width, lane, sum, (REAL)eps,
              neuron(v_th, low));
}

// dx of the LayerNorm's input. partial (blocks, 3, D): column sums of dx, of dcurrent, of dcurrent * unit; each warp
// has 3 D numbers of shared memory, in which only its lanes add, row after row.
__global__ void norm_fire_back(const REAL* dy, const REAL* sent, const REAL* unit, const REAL* inv_std,
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
        REAL sum = 0, along = 0;
        for (int c = lane; c < w; c += 32) {
            REAL d = slope(dy[at + c], sent[at + c], n), u = unit[at + c];
            sums[w + c] += d;
            sums[2 * w + c] += d * u;
            d *= weight[c];
            dx[at + c] = d;
            sum += d;
            along += d * u;
        }
        sum = warp_sum(sum) / w;
        along = warp_sum(along) / w;
        for (int c = lane; c < w; c += 32) {
            REAL d = (dx[at + c] - sum - unit[at + c] * along) * inv_std[row];
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

// out[c] = the sum of partial[p][c] over p, always in the same order.
__global__ void finish_columns(const REAL* partial, REAL* out, long long parts, long long width) {
    __shared__ REAL sums[8][33];
    long long c = (long long)blockIdx.x * 32 + threadIdx.x;
    REAL sum = 0;
    for (long long p = threadIdx.y; p < parts; p += 8)
        if (c < width) sum += partial[p * width + c];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && c < width) {
        for (int k = 1; k < 8; k++) sum += sums[k][threadIdx.x];
        out[c] = sum;
    }
}

__global__ void gelu_fire(REAL* wide, const REAL* bias, REAL* sent, long long rows, long long width, double v_th,
                          double low) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= rows * width) return;
    REAL x = wide[i] + bias[i % width];
    wide[i] = x;
    sent[i] = fire(x * distribution(x), neuron(v_th, low));
}

__global__ void gelu_fire_back(const REAL* dy, const REAL* sent, const REAL* wide, REAL* dx, REAL* partial,
                               long long rows, long long width, double v_th, double low) {
    long long c = (long long)blockIdx.x * 32 + threadIdx.x;
    Neuron n = neuron(v_th, low);
    __shared__ REAL sums[8][33];
    REAL sum = 0;
    for (long long row = (long long)blockIdx.y * 8 + threadIdx.y; row < rows; row += 8LL * gridDim.y)
        if (c < width) {
            long long i = row * width + c;
            REAL x = wide[i], d = slope(dy[i], sent[i], n);
            d *= distribution(x) + x * (REAL)exp((REAL)-0.5 * x * x) * (REAL)0.39894228040143268;
            dx[i] = d;
            sum += d;
        }
    column_sum(sums, sum, partial, c, width);
}

// raw (R, 3 D) of the products, biases -> heads (3, B, H, L, K) of query, key and value, and what key and value
// neurons send as (B, L, D), if wanted.
__global__ void split_fire(const REAL* raw, const REAL* query_bias, const REAL* key_bias, const REAL* value_bias,
                           REAL* heads, REAL* keys, REAL* values, long long rows, long long length, long long width,
                           long long head, double key_v, double key_low, double value_v, double value_low) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= rows * 3 * width) return;
    long long row = i / (3 * width), c = i % (3 * width), kind = c / width, d = c % width;
    long long place = (((row / length) * (width / head) + d / head) * length + row % length) * head + d % head;
    REAL x = raw[i];
    if (kind == 0) x += query_bias[d];
    if (kind == 1) x = fire(x + key_bias[d], neuron(key_v, key_low));
    if (kind == 2) x = fire(x + value_bias[d], neuron(value_v, value_low));
    heads[kind * rows * width + place] = x;
    if (kind == 1 && keys) keys[row * width + d] = x;
    if (kind == 2 && values) values[row * width + d] = x;
}

__global__ void split_fire_back(const REAL* dheads, const REAL* heads, REAL* draw, REAL* partial, long long rows,
                                long long length, long long width, long long head, double key_v, double key_low,
                                double value_v, double value_low) {
    long long c = (long long)blockIdx.x * 32 + threadIdx.x, kind = c / width, d = c % width;
    Neuron n = kind == 0 ? neuron(0, 0) : kind == 1 ? neuron(key_v, key_low) : neuron(value_v, value_low);
    __shared__ REAL sums[8][33];
    REAL sum = 0;
    for (long long row = (long long)blockIdx.y * 8 + threadIdx.y; row < rows; row += 8LL * gridDim.y)
        if (c < 3 * width) {
            long long place = (((row / length) * (width / head) + d / head) * length + row % length) * head + d % head;
            place += kind * rows * width;
            REAL value = slope(dheads[place], heads[place], n);
            draw[row * 3 * width + c] = value;
            sum += value;
        }
    column_sum(sums, sum, partial, c, 3 * width);
}

// context (B, H, L, K) -> what the attention neurons send (B, L, D)
__global__ void merge_fire(const REAL* context, REAL* sent, long long rows, long long length, long long width,
                           long long head, double v_th, double low) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= rows * width) return;
    long long row = i / width, d = i % width;
    long long place = (((row / length) * (width / head) + d / head) * length + row % length) * head + d % head;
    sent[i] = fire(context[place], neuron(v_th, low));
}

__global__ void merge_fire_back(const REAL* dy, const REAL* sent, REAL* dcontext, long long rows, long long length,
                                long long width, long long head, double v_th, double low) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= rows * width) return;
    long long row = i / width, d = i % width;
    long long place = (((row / length) * (width / head) + d / head) * length + row % length) * head + d % head;
    dcontext[place] = slope(dy[i], sent[i], neuron(v_th, low));
}

// a - target where tokens are real, and partial sums of its squares: (B, L, W), or (B, heads, L, L) with heads > 0
__global__ void difference(const REAL* a, const REAL* target, const long long* mask, REAL* out, REAL* partial,
                           long long count, long long heads, long long length, long long width) {
    __shared__ REAL sums[256];
    REAL sum = 0;
    for (long long i = (long long)blockIdx.x * 256 + threadIdx.x; i < count; i += 256LL * gridDim.x) {
        long long row = i / width;
        bool real = heads ? mask[row / (heads * length) * length + row % length]
                && mask[row / (heads * length) * length + i % width] : mask[row] != 0;
        REAL d = real ? a[i] - target[i] : (REAL)0;
        out[i] = d;
        sum += d * d;
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int half = 128; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) partial[blockIdx.x] = sums[0];
}

// scores (B, H, L, L): scaled in place; weights: their softmax where keys are real
__global__ void softmax(REAL* scores, const long long* mask, REAL* weights, double scale, long long rows,
                        long long heads, long long length) {
    long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32, keys = (int)length;
    if (row >= rows) return;
    REAL* s = scores + row * length;
    REAL* w = weights + row * length;
    const long long* real = mask + (row / (heads * length)) * length;
    REAL most = -1e30, sum = 0;
    for (int k = lane; k < keys; k += 32) {
        REAL x = s[k] * (REAL)scale;
        s[k] = x;
        if (!real[k]) x += MASKED;
        w[k] = x;
        most = x > most || x != x ? x : most;
    }
    most = warp_max(most);
    for (int k = lane; k < keys; k += 32) {
        REAL e = exp(w[k] - most);
        w[k] = e;
        sum += e;
    }
    sum = warp_sum(sum);
    for (int k = lane; k < keys; k += 32) w[k] /= sum;
}

// dweights becomes d(unscaled scores); dscores: of the scaled scores, from elsewhere, or null; ratios: 1 / the sums of
// rows of weights, or null, where they are 1
__global__ void softmax_back(REAL* dweights, const REAL* weights, const REAL* ratios, const REAL* dscores, double scale,
                             long long rows, long long length) {
    long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows) return;
    REAL sum = 0;
    for (long long k = row * length + lane; k < (row + 1) * length; k += 32) sum += dweights[k] * weights[k];
    sum = warp_sum(sum);
    if (ratios) sum *= ratios[row];
    for (long long k = row * length + lane; k < (row + 1) * length; k += 32) {
        REAL d = (dweights[k] - sum) * weights[k];
        if (dscores) d += dscores[k];
        dweights[k] = d * (REAL)scale;
    }
}

}
"""
SOURCE = HELPERS + KERNELS


def _run(name, like, shape, *arguments):
    launch(SOURCE, name, like.dtype, shape, arguments)


def elementwise(count):
    return (-(-count // 256), 256, 0)


def by_warps(rows):
    return (-(-rows // WARPS), 32 * WARPS, 0)


def numbers_of(neuron):
    return (0.0, 0.0) if neuron is None else (float(neuron[0]), float(neuron[1]))


def finished(partial):
    """(W,) of partial column sums (P, W)."""
    parts, width = partial.shape
    out = namespace(partial).empty(width, partial.dtype)
    _run("finish_columns", partial, (-(-width // COLUMNS), (COLUMNS, LANES), 0), partial, out, parts, width)
    return out


def column_blocks(rows, width, like):
    """(grid, partial (P, width)) of a kernel that sums columns on its way."""
    splits = max(1, min(SPLITS, -(-rows // LANES)))
    grid = ((-(-width // COLUMNS), splits), (COLUMNS, LANES), 0)
    return grid, namespace(like).empty((splits, width), like.dtype)


def norm_blocks(dy):
    """(shape of the launch, dx, partial) of a kernel that goes back through a norm of rows (..., D)."""
    xp, width = namespace(dy), dy.shape[-1]
    rows, bytes_each = dy.size // width, 3 * width * dy.itemsize
    warps = max(1, min(8, SHARED // bytes_each))
    blocks = min(256, -(-rows // warps))
    dx, partial = xp.empty(dy.shape, dy.dtype), xp.empty((blocks, 3 * width), dy.dtype)
    return (blocks, 32 * warps, warps * bytes_each), dx, partial


def embed(input_ids, token_type_ids, p, eps, neuron):
    """ids (B, L), p = tree["embeddings"] -> what is sent (B, L, D), and what norm_fire_back needs: unit, inv_std."""
    word, weight = p["word_embeddings"]["weight"], p["LayerNorm"]["weight"]
    xp, (batch, length), width = namespace(word), input_ids.shape, word.shape[1]
    unit, sent = (xp.empty((batch, length, width), word.dtype) for _ in range(2))
    inv_std, rows = xp.empty(batch * length, word.dtype), batch * length
    _run(
        "embed", word, by_warps(rows), input_ids, token_type_ids, word, p["position_embeddings"]["weight"],
        p["token_type_embeddings"]["weight"], weight, p["LayerNorm"]["bias"], float(eps), unit, inv_std, sent, rows,
        length, width, *numbers_of(neuron),
    )  # fmt: skip
    return sent, unit, inv_std


def norm_fire(mixed, mixed_bias, residual, norm, eps, neuron):
    """fire(LayerNorm(mixed + bias + residual)), (..., D); norm = {weight, bias}. `mixed` is overwritten.

    Returns what is sent, and what norm_fire_back needs: unit, inv_std.
    """
    rows, width = mixed.size // mixed.shape[-1], mixed.shape[-1]
    xp = namespace(mixed)
    sent, inv_std = xp.empty(residual.shape, residual.dtype), xp.empty(rows, mixed.dtype)
    _run(
        "norm_fire", mixed, by_warps(rows), mixed, mixed_bias, residual, norm["weight"], norm["bias"], float(eps),
        mixed, inv_std, sent, rows, width, *numbers_of(neuron),
    )  # fmt: skip
    return sent, mixed, inv_std


def norm_fire_back(dy, sent, unit, inv_std, weight, neuron):
    """(dx, sums (3, D)): gradients of what was normalised and, one after the other, of the bias that was added to it,
    of LayerNorm's bias and of its weight."""
    shape, dx, partial = norm_blocks(dy)
    rows, width = dy.size // dy.shape[-1], dy.shape[-1]
    arguments = dy, sent, unit, inv_std, weight, dx, partial, rows, width, *numbers_of(neuron)
    _run("norm_fire_back", dy, shape, *arguments)
    return dx, finished(partial).reshape(3, width)


def gelu_fire(wide, bias, neuron):
    """fire(GELU(wide + bias)) of (R, F). `wide` becomes wide + bias."""
    sent = namespace(wide).empty(wide.shape, wide.dtype)
    _run("gelu_fire", wide, elementwise(wide.size), wide, bias, sent, *wide.shape, *numbers_of(neuron))
    return sent


def gelu_fire_back(dy, sent, wide, neuron):
    """(gradient of wide + bias (R, F), its column sums (F,))"""
    grid, partial = column_blocks(*wide.shape, wide)
    dx = namespace(wide).empty(wide.shape, wide.dtype)
    _run("gelu_fire_back", wide, grid, dy, sent, wide, dx, partial, *wide.shape, *numbers_of(neuron))
    return dx, finished(partial)


def split_fire(raw, biases, shape, neurons, record):
    """raw (R, 3 D), the biases (D,) of query, key and value -> heads (3, B, H, L, K), and what the neurons of key and
    value send (B, L, D), None each unless `record`.   shape (B, L, H); neurons: those of key and value."""
    batch, length, heads = shape
    xp, width = namespace(raw), raw.shape[1] // 3
    split = xp.empty((3, batch, heads, length, width // heads), raw.dtype)
    kept = [xp.empty((batch, length, width), raw.dtype) if record else None for _ in range(2)]
    numbers = [x for n in neurons for x in numbers_of(n)]
    _run(
        "split_fire", raw, elementwise(raw.size), raw, *biases, split, *kept, batch * length, length, width,
        width // heads, *numbers,
    )  # fmt: skip
    return split, *kept


def split_fire_back(dsplit, split, neurons):
    """(gradient of raw + biases (R, 3 D), its column sums (3 D,)) of that of heads (3, B, H, L, K)."""
    xp, (_, batch, heads, length, head) = namespace(split), split.shape
    rows, width = batch * length, heads * head
    draw = xp.empty((rows, 3 * width), split.dtype)
    grid, partial = column_blocks(rows, 3 * width, split)
    numbers = [x for n in neurons for x in numbers_of(n)]
    _run("split_fire_back", split, grid, dsplit, split, draw, partial, rows, length, width, head, *numbers)
    return draw, finished(partial)


def merge_fire(context, neuron):
    """What attention neurons send (B, L, D) at the currents (B, H, L, K)."""
    batch, heads, length, head = context.shape
    sent = namespace(context).empty((batch, length, heads * head), context.dtype)
    numbers = (batch * length, length, heads * head, head, *numbers_of(neuron))
    _run("merge_fire", context, elementwise(sent.size), context, sent, *numbers)
    return sent


def merge_fire_back(dy, sent, heads, neuron):
    """Gradient of the currents (B, H, L, K) from that of what was sent (B, L, D)."""
    batch, length, width = sent.shape
    dcontext = namespace(sent).empty((batch, heads, length, width // heads), sent.dtype)
    numbers = (batch * length, length, width, width // heads, *numbers_of(neuron))
    _run("merge_fire_back", sent, elementwise(sent.size), dy, sent, dcontext, *numbers)
    return dcontext


def difference(a, target, mask):
    """See loss.difference_of; mask (B, L) int64."""
    xp, heads = namespace(a), a.shape[1] if a.ndim == 4 else 0
    blocks = max(1, min(256, -(-a.size // 1024)))
    out, partial = xp.empty(a.shape, a.dtype), xp.empty((blocks, 1), a.dtype)
    sizes = a.size, heads, a.shape[-2], a.shape[-1]
    _run("difference", a, (blocks, 256, 0), a, target, mask, out, partial, *sizes)
    return out, finished(partial).reshape(())


def softmax(scores, mask, scale):
    """Softmax over real keys of scale * scores (B, H, L, L), mask (B, L) int64; `scores` is scaled in place."""
    weights = namespace(scores).empty(scores.shape, scores.dtype)
    _, heads, length, _ = scores.shape
    rows = scores.size // length
    _run("softmax", scores, by_warps(rows), scores, mask, weights, float(scale), rows, heads, length)
    return weights


def softmax_back(dweights, weights, dscores, scale, ratios=None):
    """Gradient of the unscaled scores, in place of dweights; dscores: that of the scaled ones themselves, or None;
    ratios: 1 / the sums of rows of weights, where these are not 1."""
    length = weights.shape[-1]
    rows = weights.size // length
    _run("softmax_back", weights, by_warps(rows), dweights, weights, ratios, dscores, float(scale), rows, length)
    return dweights
