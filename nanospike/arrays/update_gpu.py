"""The update of all parameters on a GPU in a few launches: sums of rows, the gradient's norm and its judgement, AdamW.

Nothing waits for the device: whether an update is made, and how far it is clipped, is decided there, in `State`.

Chunks are runs of at most CHUNK elements of one dense tensor. The rows of tables (see tree.RowSum) come in slots: each
has the number of a table, that of a row of it or -1 if the slot is empty, and the sum of that row's gradients.
"""

import numpy as np

from .backend import launch, namespace

CHUNK = 4096
THREADS = 256
PLACES = 128  # tables of the addresses of parameters and gradients that are kept on the device
MOST_RANKED = 32768  # indices whose order is found by comparing each with each: no library's sort does without a wait
# Of the device's state, float64: updates made, logarithm of the usual norm (NaN: none yet), the last norm, the factor
# of clipping, 1 or 2 after a divergence (not finite, exploded), its norm, the usual norm then, how many of the last
# norms were beyond it.
STEP, LOG_NORM, NORM, CLIP, DIVERGED, BAD_NORM, USUAL, EXPLODED = range(8)

SOURCE = r"""
extern "C" {

// order[r] = the index whose key is the r-th smallest; equal keys keep their order.
__global__ void ranks(const long long* keys, int* order, long long n) {
    __shared__ long long tile[256];
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    long long key = i < n ? keys[i] : 0;
    int rank = 0;
    for (long long start = 0; start < n; start += 256) {
        __syncthreads();
        if (start + threadIdx.x < n) tile[threadIdx.x] = keys[start + threadIdx.x];
        __syncthreads();
        int many = (int)(n - start < 256 ? n - start : 256);
        for (int j = 0; j < many; j++)
            rank += tile[j] < key || (tile[j] == key && start + j < i);
    }
    if (i < n) order[rank] = (int)i;
}

// The slot at which a key begins gets the sum of its rows, the others of that key are empty.
// Block: 32 columns x 8 rows at a time, so that the order of the sum is fixed.
__global__ void segment_sums(const long long* keys, const int* order, const REAL* rows, long long n, long long width,
                             int* row_of, int* table_of, REAL* values, long long table) {
    __shared__ REAL parts[8][33];
    long long slot = blockIdx.x;
    int column = blockIdx.y * 32 + threadIdx.x, lane = threadIdx.y;
    long long key = keys[order[slot]];
    bool first = slot == 0 || keys[order[slot - 1]] != key;
    if (blockIdx.y == 0 && threadIdx.x == 0 && lane == 0) {
        row_of[slot] = first ? (int)key : -1;
        table_of[slot] = (int)table;
    }
    if (!first) return;
    REAL sum = 0;
    bool more = true;
    for (long long s = slot + lane; more; s += 64) {  // eight rows at once: their loads do not wait for one another
        int source[8];
        bool same[8];
        REAL value[8];
        for (int j = 0; j < 8; j++) source[j] = s + 8 * j < n ? order[s + 8 * j] : -1;
        for (int j = 0; j < 8; j++) same[j] = source[j] >= 0 && keys[source[j]] == key;
        for (int j = 0; j < 8; j++) value[j] = same[j] && column < width ? rows[source[j] * width + column] : (REAL)0;
        for (int j = 0; j < 8; j++) sum += value[j];
        more = same[7];
    }
    parts[lane][threadIdx.x] = sum;
    __syncthreads();
    if (lane == 0 && column < width) {
        for (int l = 1; l < 8; l++) sum += parts[l][threadIdx.x];
        values[slot * width + column] = sum;
    }
}

struct Rule { double max_norm, harmless, exploded, judged, fade, in_a_row; };

// What training.optim does on the host with the norm of a gradient, on the state of the optimiser.
__device__ void judge(double total, double* state, Rule rule) {
    double norm = sqrt(total);
    state[2] = norm;
    if (state[4] != 0) return;
    bool finite = norm <= 1.7e308, known = state[1] == state[1];
    double usual = known ? state[1] : log(norm);
    bool large = finite && norm > rule.harmless && norm > 0 && state[0] >= rule.judged
        && log(norm) > usual + log(rule.exploded);
    state[7] = large ? state[7] + 1 : 0;
    if (!finite || state[7] >= rule.in_a_row) {
        state[4] = finite ? 2 : 1;
        state[5] = norm;
        state[6] = exp(usual);
        return;
    }
    if (!large && norm > 0) state[1] = rule.fade * usual + (1 - rule.fade) * log(norm);
    state[3] = rule.max_norm > 0 && norm > rule.max_norm ? rule.max_norm / norm : 1.0;
    state[0] += 1;
}

// chunks (n, 4): tensor, start in it, count, start in the moments
// tensors (m, 3): parameter, gradient, whether it decays
__global__ void norm_of_all(const long long* chunks, const long long* tensors, long long n_chunks, const int* row_of,
                     const REAL* values, long long width, double* partial, unsigned* done, double* state,
                     double max_norm, double harmless, double exploded, double judged, double fade, double in_a_row) {
    __shared__ double sums[256];
    __shared__ bool last;
    long long block = blockIdx.x;
    const REAL* source = 0;
    long long count = 0;
    if (block < n_chunks) {
        const long long* chunk = chunks + 4 * block;
        source = (const REAL*)tensors[3 * chunk[0] + 1] + chunk[1];
        count = chunk[2];
    } else if (row_of[block - n_chunks] >= 0) {
        source = values + (block - n_chunks) * width;
        count = width;
    }
    double sum = 0;
    for (long long i = threadIdx.x; i < count; i += 256) sum += (double)source[i] * (double)source[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int half = 128; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        partial[block] = sums[0];
        __threadfence();
        last = atomicAdd(done, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    sum = 0;
    for (long long i = threadIdx.x; i < gridDim.x; i += 256) sum += ((volatile double*)partial)[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int half = 128; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        *done = 0;
        Rule rule = {max_norm, harmless, exploded, judged, fade, in_a_row};
        judge(sums[0], state, rule);
    }
}

// tables (k, 3): parameter, start in the moments, whether it decays
__global__ void adamw(const long long* chunks, const long long* tensors, long long n_chunks, const int* row_of,
                      const int* table_of, const long long* tables, const REAL* values, long long width,
                      REAL* means, REAL* squares, const double* state, double learning_rate, double weight_decay,
                      double b1, double b2, double epsilon) {
    if (state[4] != 0) return;
    long long block = blockIdx.x, count, moment;
    const REAL* gradient;
    REAL* parameter;
    bool decays;
    if (block < n_chunks) {
        const long long* chunk = chunks + 4 * block;
        const long long* tensor = tensors + 3 * chunk[0];
        parameter = (REAL*)tensor[0] + chunk[1];
        gradient = (const REAL*)tensor[1] + chunk[1];
        decays = tensor[2];
        count = chunk[2];
        moment = chunk[3];
    } else {
        long long slot = block - n_chunks, row = row_of[slot];
        if (row < 0) return;
        const long long* table = tables + 3 * table_of[slot];
        parameter = (REAL*)table[0] + row * width;
        gradient = values + slot * width;
        decays = table[2];
        count = width;
        moment = table[1] + row * width;
    }
    double step = state[0], correction = sqrt(1 - pow(b2, step));
    REAL clip = (REAL)state[3], rate = (REAL)(learning_rate * correction / (1 - pow(b1, step)));
    REAL eps = (REAL)(epsilon * correction), keep = decays ? (REAL)(1 - learning_rate * weight_decay) : (REAL)1;
    REAL old1 = (REAL)b1, new1 = (REAL)(1 - b1), old2 = (REAL)b2, new2 = (REAL)(1 - b2);
    for (long long i = threadIdx.x; i < count; i += 256) {
        REAL g = gradient[i] * clip;
        REAL m = means[moment + i] * old1 + g * new1;
        REAL v = squares[moment + i] * old2 + g * g * new2;
        means[moment + i] = m;
        squares[moment + i] = v;
        parameter[i] = parameter[i] * keep - m / ((REAL)sqrt(v) + eps) * rate;
    }
}

}
"""


def order_of(keys):
    """The stable order of int64 keys (n,) on a device, int32 (n,), without a wait if there are not too many."""
    xp = namespace(keys)
    n = keys.size
    if n > MOST_RANKED:
        return xp.argsort(keys, kind="stable").astype(xp.int32)
    order = xp.empty(n, xp.int32)
    launch(SOURCE, "ranks", np.float32, (-(-n // 256), 256, 0), (keys, order, n))
    return order


def segment_sums(keys, rows, row_of, table_of, values, table=0):
    """Fill n slots from keys (n,) int64 and rows (n, D): row_of, table_of (n,) int32, values (n, D).

    The order in which rows are added is fixed: the same input gives the same bits.
    """
    n, width = rows.shape
    arguments = (keys, order_of(keys), rows, n, width, row_of, table_of, values, table)
    launch(SOURCE, "segment_sums", rows.dtype, ((n, -(-width // 32)), (32, 8), 0), arguments)


def sums_by_key(keys, rows):
    """(unique keys (U,), sums of their rows (U, D)) of keys (n,) and rows (n, D), as segment_sums adds them."""
    xp, n = namespace(rows), len(keys)
    row_of, table_of = xp.empty((2, n), np.int32)
    values = xp.empty(rows.shape, rows.dtype)
    segment_sums(xp.ascontiguousarray(keys, np.int64), xp.ascontiguousarray(rows), row_of, table_of, values)
    kept = xp.flatnonzero(row_of >= 0)
    return row_of[kept].astype(keys.dtype), values[kept]


class Update:
    """AdamW on a device: two launches a step, whatever the number of tensors, and no wait.

    parameters: {name: contiguous array}, all of one dtype. The moments of all are two flat buffers, of which `moments`
    {name: (mean, mean of squares)} are views. state: see STEP and the names after it.
    """

    def __init__(self, parameters, decays):
        first = next(iter(parameters.values()))
        self.xp, self.dtype = namespace(first), first.dtype
        self.parameters, self.decays = parameters, decays
        self.starts, size = {}, 0
        for name, p in parameters.items():
            self.starts[name] = size
            size += -(-p.size // 4) * 4
        self.means, self.squares = self.xp.zeros(size, self.dtype), self.xp.zeros(size, self.dtype)
        self.moments = {
            name: tuple(flat[self.starts[name] :][: p.size].reshape(p.shape) for flat in (self.means, self.squares))
            for name, p in parameters.items()
        }
        self.state = self.xp.zeros(EXPLODED + 1)
        self.state[LOG_NORM] = np.nan
        self.done, self.partial = self.xp.zeros(1, np.uint32), self.xp.zeros(0)
        self.plans, self.tables, self.places = {}, {}, {}

    def step(self, dense, sparse, learning_rate, weight_decay, betas, eps, judgement):
        """One update. dense {name: contiguous gradient}; sparse {name: (keys (n,) int64, rows (n, D))}, of one width D.

        judgement: the numbers of the kernels' Rule.
        """
        chunks = self._chunks(tuple(dense))
        slots = self._slots(sparse)
        blocks = len(chunks) + len(slots[0])
        if self.partial.size < blocks:
            self.partial = self.xp.zeros(2 * blocks)
        tensors = self._tensors(dense)
        row_of, table_of, values, tables, width = slots
        head = (chunks, tensors, len(chunks), row_of)
        launch(
            SOURCE, "norm_of_all", self.dtype, (blocks, THREADS, 0),
            (*head, values, width, self.partial, self.done, self.state, *map(float, judgement)),
        )  # fmt: skip
        launch(
            SOURCE, "adamw", self.dtype, (blocks, THREADS, 0),
            (*head, table_of, tables, values, width, self.means, self.squares, self.state,
             float(learning_rate), float(weight_decay), *map(float, (*betas, eps))),
        )  # fmt: skip

    def _chunks(self, names):
        """The chunks (n, 4) int64 of the dense tensors of these names, on the device."""
        if names not in self.plans:
            rows = [
                (i, start, min(CHUNK, self.parameters[name].size - start), self.starts[name] + start)
                for i, name in enumerate(names)
                for start in range(0, self.parameters[name].size, CHUNK)
            ]
            self.plans[names] = self.xp.asarray(np.array(rows, np.int64).reshape(-1, 4))
        return self.plans[names]

    def _tensors(self, dense):
        """(n, 3) int64 on the device, where gradients may be in other places at every step, or in those of a graph."""
        rows = tuple((self.parameters[n].data.ptr, g.data.ptr, self.decays(n)) for n, g in dense.items())
        if rows not in self.places:
            if len(self.places) == PLACES:
                self.places.clear()
            self.places[rows] = self.xp.asarray(np.array(rows, np.int64).reshape(-1, 3))
        return self.places[rows]

    def _slots(self, sparse):
        """(row_of, table_of, values, tables, width) of the rows of all tables."""
        xp, total = self.xp, sum(len(keys) for keys, _ in sparse.values())
        width = next((rows.shape[1] for _, rows in sparse.values()), 1)
        row_of, table_of = xp.empty((2, total), np.int32)
        values, start = xp.empty((total, width), self.dtype), 0
        for number, (keys, rows) in enumerate(sparse.values()):
            part = slice(start, start + len(keys))
            segment_sums(keys, rows, row_of[part], table_of[part], values[part], number)
            start += len(keys)
        names = tuple(sparse)
        if names not in self.tables:
            about = [(self.parameters[n].data.ptr, self.starts[n], self.decays(n)) for n in names]
            self.tables[names] = xp.asarray(np.array(about, np.int64).reshape(-1, 3))
        return row_of, table_of, values, self.tables[names], width
