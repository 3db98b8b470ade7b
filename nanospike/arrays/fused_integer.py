"""The integer simulation on a CPU, compiled by numba (the extra `fast`): encoders, what neurons hear, and who fires.

What is computed: model/integer_run.py, number for number. Work is driven by events (fused_events.py). Padding never
fires, and is left out.

Axes: T time steps of a sweep, B examples, L tokens, R = B L rows, I inputs, O outputs, W neurons, D hidden, H heads.
"""

import numpy as np

from .fused_events import COLUMNS, hear, room_for
from .fused_shift import BINARY, CORRECTIVE, KINDS, SIGNED, exact
from .ops_shift import LEAST_POWER

__all__ = ["COLUMNS", "KINDS", "encoder", "fed"]

BLOCK = 64  # rows times time steps that hear a matrix before the next do
NOTHING, NEVER, FAR = np.int32(0), np.int32(31), np.int32(2**30)
LEFT_OUT, ONE_MORE = np.int32(1 - LEAST_POWER), np.int32(1 << (1 - LEAST_POWER))
UP_TO_63 = np.int64(63)


@exact
def _fire(drive, count, fired, spikes, after, cell, step, kind):
    """One time step of neurons (n,): their spikes, and their counts after it; drive becomes the membrane.

    cell: cost, bias, upper. Loops over few arrays each: that more of them do not overlap is not looked at when compiled
    code runs, and it takes numbers one by one then.
    """
    cost, bias, upper = cell
    for c in range(drive.size):
        drive[c] += np.int32(np.int32(bias[c] * step) - np.int32(cost[c] * np.int32(count[c])))
    if kind == SIGNED:
        for c in range(drive.size):
            spikes[c] = np.int8(drive[c] >= upper[c]) - np.int8(drive[c] <= -upper[c])
    elif kind == CORRECTIVE:
        for c in range(drive.size):
            spikes[c] = np.int8(drive[c] >= upper[c]) - np.int8((drive[c] <= -upper[c]) & (count[c] >= 1))
    else:
        for c in range(drive.size):
            spikes[c] = np.int8(drive[c] >= upper[c])
    for c in range(drive.size):
        count[c] += spikes[c]
        after[c] = count[c]
    if kind != BINARY:  # there, `fired` is `count`
        for c in range(drive.size):
            fired[c] += spikes[c] & 1


@exact
def _silence(sent, after):
    sent[:] = 0
    after[:] = 0


@exact
def _driven(heard, real, matrix, received, cells, first, kind, group, places):
    """Populations behind one matrix, at `places` in a group. heard, real, matrix, received (R, O): see `hear`.

    cells, places: of each population.
    """
    steps, rows, _ = heard[0].shape
    count, fired, sent, after = group
    width, block = len(cells[0][0]), max(1, BLOCK // steps)
    room = room_for(block, steps, heard[1][1] - heard[1][0], len(matrix[1]))
    for begin in range(0, rows, block):
        hear(heard, begin, real, matrix, len(cells), received, room)
        for r in range(begin, min(begin + block, rows)):
            for which in range(len(cells)):
                low, high = places[which], places[which] + width
                counted, all_fired = count[r, low:high], fired[r, low:high]
                for t in range(steps):
                    spikes, now = sent[t, r, low:high], after[t, r, low:high]
                    if real[r]:
                        drive = room[2][r - begin, t, which * width : (which + 1) * width]
                        _fire(drive, counted, all_fired, spikes, now, cells[which], np.int32(first + t), kind)
                    else:
                        _silence(spikes, now)


@exact
def _normalise(total, gains, writes, step, drive):
    """A row of int64 (D,) times the gain nearest to one over its mean size, and a bias; see _normed."""
    edges, triples, exponents = gains
    places, live, behind, limit = writes
    sizes = np.int64(0)
    for c in range(total.size):
        sizes += abs(total[c])
    level = 0
    while level < edges.size and edges[level] * step <= sizes:
        level += 1
    triple, exponent = triples[level], exponents[level]
    for c in range(total.size):
        left = places[c] - exponent
        x = (total[c] * triple << max(left, 0)) >> min(max(-left, 0), UP_TO_63)
        x = (x & live[c]) + behind[c] * step
        most = limit[c] * step
        drive[c] = np.int32(min(max(x, -most), most))


@exact
def _normed(heard, real, matrix, received, past, norm, cells, first, kind, group, place):
    """The population behind a matrix, what goes past it and the norm of both, at `place` in a group; see _driven.

    past: counts (T, R', W), where those meant begin, and every how many rows. norm: (scale, residual, before), (edges,
    triples, exponents), (places, which are its shift less its point, live, after, limit): see integer.Norm.
    """
    steps, rows, _ = heard[0].shape
    passing, start, every = past
    reads, gains, writes = norm
    scale, residual, before = reads
    count, fired, sent, after = group
    width, block = len(scale), max(1, BLOCK // steps)
    low, high, total = place, place + width, np.empty(width, np.int64)
    room = room_for(block, steps, heard[1][1] - heard[1][0], width)
    for begin in range(0, rows, block):
        hear(heard, begin, real, matrix, 1, received, room)
        for r in range(begin, min(begin + block, rows)):
            for t in range(steps):
                spikes, now = sent[t, r, low:high], after[t, r, low:high]
                if not real[r]:
                    _silence(spikes, now)
                    continue
                step, drive, other = np.int64(first + t), room[2][r - begin, t], passing[t, r * every, start:]
                for c in range(width):
                    total[c] = drive[c] * scale[c] + other[c] * residual[c] + before[c] * step
                _normalise(total, gains, writes, step, drive)
                _fire(drive, count[r, low:high], fired[r, low:high], spikes, now, cells, np.int32(step), kind)


@exact
def _products(asked, offered, columns, padding, scores):
    """The products of a query's counts (D,) with those of the keys, columns of (L, W), of each head: scores (H, L)."""
    heads, length = scores.shape
    head = asked.size // heads
    for h in range(heads):
        part, low = asked[h * head : (h + 1) * head], columns + h * head
        for k in range(length):
            other, product = offered[k, low : low + head], NOTHING
            for c in range(head):
                product += np.int32(part[c]) * np.int32(other[c])
            scores[h, k] = product - padding[k]


@exact
def _weigh(scores, padding, powers, steps, sums, whole):
    """From products of counts (H, L) to the weights of the keys, in place: powers of two, of which `whole` is 1.

    padding (L,): how far behind each key is at least. powers (H L,): room.
    """
    heads, length = scores.shape
    every = scores.reshape(-1)
    for h in range(heads):
        of_head, best = scores[h], -FAR
        for k in range(length):
            best = max(best, of_head[k])
        for k in range(length):
            of_head[k] = max(np.int32(best - of_head[k]), padding[k])
    powers[:] = 0
    for n in range(steps.size):
        edge = steps[n]
        for i in range(every.size):
            powers[i] += np.int32(edge < every[i])
    for h in range(heads):
        of_head, power, total, more = scores[h], powers[h * length : (h + 1) * length], NOTHING, NOTHING
        for k in range(length):
            total += np.int32(ONE_MORE >> (power[k] + 1))
        for n in range(sums.size):
            more += np.int32(sums[n] < total)
        for k in range(length):
            of_head[k] = np.int32(whole >> (NEVER if power[k] == LEFT_OUT else np.int32(power[k] + more)))


@exact
def _mix(weights, value, columns, context):
    """Sums of the values' counts, columns of (L, W), each times the weight (H, L) of its key: context (D,)."""
    heads, length = weights.shape
    head = context.size // heads
    context[:] = 0
    for h in range(heads):
        part, low = context[h * head : (h + 1) * head], columns + h * head
        for k in range(length):
            weight, given = weights[h, k], value[k, low : low + head]
            if weight:
                for c in range(head):
                    part[c] += np.int32(weight * np.int32(given[c]))


@exact
def _attended(counts, real, weights, cells, first, kind, group):
    """The attention population, the first of its group: that of all tokens, or of the first of each text.

    counts (T, B, L, 3 D): of queries, keys and values; real (B, L); weights: how many heads, the score_steps (T, n) of
    each time step, sums of powers of two, and what is 1.
    """
    heads, score_steps, sums, whole = weights
    steps, batch, length, width = counts.shape
    count, fired, sent, after = group
    width //= 3
    asking = len(count) // batch
    context, padding = np.empty(width, np.int32), np.empty(length, np.int32)
    scores, powers = np.empty((heads, length), np.int32), np.empty(heads * length, np.int32)
    for b in range(batch):
        for k in range(length):
            padding[k] = NOTHING if real[b, k] else FAR
        for i in range(asking):
            r = b * asking + i
            for t in range(steps):
                spikes, now = sent[t, r, :width], after[t, r, :width]
                if not real[b, i]:
                    _silence(spikes, now)
                    continue
                _products(counts[t, b, i, :width], counts[t, b], width, padding, scores)
                _weigh(scores, padding, powers, score_steps[t], sums, whole)
                _mix(scores, counts[t, b], 2 * width, context)
                _fire(context, count[r, :width], fired[r, :width], spikes, now, cells, np.int32(first + t), kind)


@exact
def encoder(before, real, numbers, weights, when, groups, received):
    """All populations of an encoder, in the T time steps of a sweep.

    before: emitted and counts (T, R, W) of the population before it, and where in W it begins. real (B, L). numbers:
    of the matrices inward, mix, widen and narrow (see _driven), of the norms mixed and narrowed (see _normed), and the
    cells of all populations: cost, bias, upper. weights: see _attended. when: the number of the first time step, and
    the kinds of spikes of the intermediate neurons, and of all others. groups: of query, key and value, and of those
    behind them, side by side: counts and spikes fired (R, W), and what they emit and have emitted in each step (T, R,
    W). R is L times B, in the second group perhaps B: the first tokens. received (R, O): the matrices' sums so far.
    """
    emitted, counts, start = before
    inward, mix, widen, narrow, mixed, narrowed, cells = numbers
    query, key, value, attention, attention_output, intermediate, output = cells
    first, between, kind = when
    front, behind = groups
    width, inner = len(query[0]), len(intermediate[0])
    every = real.size // len(behind[0])
    rows, all_rows = real.reshape(-1)[::every].copy(), real.reshape(-1)
    heard = emitted, (start, start + width)
    _driven(heard, all_rows, inward, received[0], (query, key, value), first, kind, front, (0, width, 2 * width))
    side_by_side = front[3].reshape(len(emitted), real.shape[0], real.shape[1], 3 * width)
    _attended(side_by_side, real, weights, attention, first, kind, behind)
    sent, now, after_inner = behind[2], behind[3], 2 * width + inner
    past, heard = (counts, start, every), (sent, (0, width))
    _normed(heard, rows, mix, received[1], past, mixed, attention_output, first, kind, behind, width)
    heard = sent, (width, 2 * width)
    _driven(heard, rows, widen, received[2], (intermediate,), first, between, behind, (2 * width,))
    past, heard = (now, width, 1), (sent, (2 * width, after_inner))
    _normed(heard, rows, narrow, received[3], past, narrowed, output, first, kind, behind, after_inner)


@exact
def fed(drive, real, cells, first, kind, group):
    """A population, a group of its own, that receives the same `drive` (R, D) in each time step."""
    count, fired, sent, after = group
    total = np.empty(drive.shape[1], np.int32)
    for r in range(len(drive)):
        for t in range(len(sent)):
            if not real[r]:
                _silence(sent[t, r], after[t, r])
                continue
            step = np.int32(first + t)
            for c in range(total.size):
                total[c] = drive[r, c] * step
            _fire(total, count[r], fired[r], sent[t, r], after[t, r], cells, step, kind)
