"""The integer simulation on a CPU, compiled by numba (the extra `fast`): what arrives at populations, and who fires.

What is computed: model/integer_run.py, number for number. Work is driven by events: a matrix adds up the rows of
weights where spikes arrive, in 8 bits, so that what nobody sends costs nothing. Padding never fires, and is left out.

Axes: T time steps of a sweep, B examples, L tokens, R = B L rows, I inputs, O outputs, W neurons, D hidden, H heads.
"""

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from .fused_shift import BINARY, CORRECTIVE, KINDS, SIGNED, exact
from .ops_shift import LEAST_POWER

__all__ = ["COLUMNS", "KINDS", "encoder", "fed"]

COLUMNS = 128  # of a tile of weights; their sums stay in registers
VECTOR = 32  # columns that are added at once
MOST_EVENTS = 127  # of which 8 bits hold the sum
LINE = 64  # bytes that come into a cache together
BLOCK = 64  # rows times time steps of which a tile is used before the next is
ROOM = 8  # that a list of events needs besides
NOTHING, NEVER, POWERS = np.int32(0), np.int32(31), np.int32(1 << (1 - LEAST_POWER))
LEFT_OUT, FAR = np.int32(1 - LEAST_POWER), np.int32(2**30)
UP_TO_63 = np.int64(63)

# Of 8 spikes as one number of 64 bits: the lowest bits of all, signs, and what gathers the lowest bits in a byte.
LOWEST, HIGHEST, GATHER = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080), np.uint64(0x0102040810204080)
SEVEN, OF_LAST = np.uint64(7), np.uint64(56)
PLACES = np.array([([i for i in range(8) if byte >> i & 1] + [0] * 8)[:8] for byte in range(256)], np.int16)
HOW_MANY = np.array([bin(byte).count("1") for byte in range(256)], np.int64)


def _pointer(context, builder, signature, arguments):
    """pointer(i): of the first number of the array that is argument i of an intrinsic."""
    return lambda i: context.make_array(signature.args[i])(context, builder, arguments[i]).data


def _vector_at(builder, numbers, at, vector):
    """The place of a vector that begins with the number `at` of an array; at: an IR number."""
    return builder.bitcast(builder.gep(numbers, [at]), vector.as_pointer())


@intrinsic
def _append_eight(typingctx, places, byte, base, events, size):
    """events[size : size + 8] = places[byte] + base, for places (256, 8) and events (n,) int16."""

    def generate(context, builder, signature, arguments):
        pointer, number = _pointer(context, builder, signature, arguments), ir.IntType(64)
        short = ir.VectorType(ir.IntType(16), 8)
        row = builder.mul(arguments[1], ir.Constant(number, 8))
        found = builder.load(_vector_at(builder, pointer(0), row, short), align=2)
        bases = ir.Constant(short, ir.Undefined)
        for i in range(8):
            bases = builder.insert_element(bases, arguments[2], ir.Constant(ir.IntType(32), i))
        builder.store(builder.add(found, bases), _vector_at(builder, pointer(3), arguments[4], short), align=2)
        return context.get_dummy_value()

    return numba.types.void(places, numba.int64, numba.int16, events, numba.int64), generate


@exact
def _events(spikes, lists, sizes):
    """The numbers of those that send 1, and of those that send -1."""
    more = less = 0
    plus, minus = lists[0], lists[1]
    whole = spikes.size // 8
    eights = spikes[: 8 * whole].view(np.uint64)
    for i in range(whole):
        eight, base = eights[i], np.int16(8 * i)
        negative = (eight & HIGHEST) >> SEVEN
        if eight:
            byte = np.int64(((eight & LOWEST & ~negative) * GATHER) >> OF_LAST)
            _append_eight(PLACES, byte, base, plus, more)
            more += HOW_MANY[byte]
        if negative:
            byte = np.int64((negative * GATHER) >> OF_LAST)
            _append_eight(PLACES, byte, base, minus, less)
            less += HOW_MANY[byte]
    for i in range(8 * whole, spikes.size):
        plus[more] = minus[less] = i
        more += spikes[i] > 0
        less += spikes[i] < 0
    sizes[0] = more
    sizes[1] = less


@intrinsic
def _sum_rows(typingctx, tile, plus, plus_begin, plus_end, minus, minus_begin, minus_end, sums):
    """sums (COLUMNS,) int8: the rows of tile (I, COLUMNS) int8 at some events of `plus`, less those at some of `minus`.

    Written in LLVM's language, so that the sums are in registers while events come one by one.
    """

    def generate(context, builder, signature, arguments):
        pointer, number = _pointer(context, builder, signature, arguments), ir.IntType(64)
        vector = ir.VectorType(ir.IntType(8), VECTOR)
        place = lambda row, at: _vector_at(builder, row, ir.Constant(number, at), vector)  # noqa: E731
        totals = {at: cgutils.alloca_once(builder, vector) for at in range(0, COLUMNS, VECTOR)}
        for total in totals.values():
            builder.store(ir.Constant(vector, None), total)
        for events, begin, end, combined in ((1, 2, 3, builder.add), (4, 5, 6, builder.sub)):
            listed, one = pointer(events), ir.Constant(number, 1)
            with cgutils.for_range_slice(builder, arguments[begin], arguments[end], one) as (i, _):
                event = builder.sext(builder.load(builder.gep(listed, [i])), number)
                row = builder.gep(pointer(0), [builder.mul(event, ir.Constant(number, COLUMNS))])
                for at, total in totals.items():
                    builder.store(combined(builder.load(total), builder.load(place(row, at), align=1)), total)
        for at, total in totals.items():
            builder.store(builder.load(total), place(pointer(7), at), align=1)
        return context.get_dummy_value()

    places = (numba.int64,) * 2
    return numba.types.void(tile, plus, *places, minus, *places, sums), generate


@exact
def _add_up(lists, sizes, tile, sums, total):
    """Add to `total` (n,) int32 the rows of a tile at the events; sums (COLUMNS,) int8: room."""
    more = less = 0
    while more < sizes[0] or less < sizes[1]:
        more_end = min(sizes[0], more + MOST_EVENTS)
        less_end = min(sizes[1], less + MOST_EVENTS - (more_end - more))
        _sum_rows(tile, lists[0], more, more_end, lists[1], less, less_end, sums)
        for c in range(total.size):
            total[c] += sums[c]
        more, less = more_end, less_end


@exact
def _lists(emitted, columns, real, begin, end, lists, sizes):
    """The events among `columns` of the rows begin to end of emitted (T, R, W), each time step."""
    low, high = columns
    for r in range(begin, end):
        if real[r]:
            for t in range(len(emitted)):
                _events(emitted[t, r, low:high], lists[r - begin, t], sizes[r - begin, t])


@exact
def _receive(lists, sizes, tile, shift, real, received, begin, columns, drives):
    """What `columns` of the rows from `begin` of received (R, O) have received by each time step, times 2^shift.

    shift (O,); drives (rows, T, O)
    """
    low, high = columns
    sums, left = np.empty(COLUMNS, np.int8), shift[low:high]
    sums[0] = 0
    for i in range(len(tile)):  # read in order it is in the cache sooner than in the order of events
        for c in range(0, COLUMNS, LINE):
            sums[0] ^= tile[i, c]
    for r in range(begin, min(begin + len(drives), len(real))):
        if real[r]:
            total = received[r, low:high]
            for t in range(drives.shape[1]):
                _add_up(lists[r - begin, t], sizes[r - begin, t], tile, sums, total)
                drive = drives[r - begin, t, low:high]
                for c in range(total.size):
                    drive[c] = np.int32(total[c] << left[c])


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
def _driven(emitted, columns, real, matrix, received, cells, first, kind, group, places):
    """Populations behind one matrix, at `places` in a group; they hear `columns` of emitted (T, R, W).

    matrix: tiles and shifts of an integer.Matrix; received (R, O); cells, places: of each population.
    """
    steps, rows, _ = emitted.shape
    tiles, shift = matrix
    count, fired, sent, after = group
    width, tile, block = len(cells[0][0]), tiles.shape[2], max(1, BLOCK // steps)
    lists = np.empty((block, steps, 2, columns[1] - columns[0] + ROOM), np.int16)
    sizes, drives = np.empty((block, steps, 2), np.int64), np.empty((block, steps, len(shift)), np.int32)
    each = len(tiles) // len(cells)
    for begin in range(0, rows, block):
        end = min(begin + block, rows)
        _lists(emitted, columns, real, begin, end, lists, sizes)
        for i in range(len(tiles)):
            which, part = divmod(i, each)
            out = which * width + part * tile, which * width + min((part + 1) * tile, width)
            _receive(lists, sizes, tiles[i], shift, real, received, begin, out, drives)
        for r in range(begin, end):
            for which in range(len(cells)):
                low, high = places[which], places[which] + width
                counted, all_fired = count[r, low:high], fired[r, low:high]
                for t in range(steps):
                    spikes, now = sent[t, r, low:high], after[t, r, low:high]
                    if real[r]:
                        drive = drives[r - begin, t, which * width : (which + 1) * width]
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
def _normed(emitted, columns, real, matrix, received, past, norm, cells, first, kind, group, place):
    """The population behind a matrix, what goes past it and the norm of both, at `place` in a group; see _driven.

    past: counts (T, R', W), where those meant begin, and every how many rows. norm: (scale, residual, before), (edges,
    triples, exponents), (places, which are its shift less its point, live, after, limit): see integer.Norm.
    """
    steps, rows, _ = emitted.shape
    tiles, shift = matrix
    passing, start, every = past
    reads, gains, writes = norm
    scale, residual, before = reads
    count, fired, sent, after = group
    width, tile, block = len(shift), tiles.shape[2], max(1, BLOCK // steps)
    low, high = place, place + width
    lists = np.empty((block, steps, 2, columns[1] - columns[0] + ROOM), np.int16)
    sizes, drives = np.empty((block, steps, 2), np.int64), np.empty((block, steps, width), np.int32)
    total = np.empty(width, np.int64)
    for begin in range(0, rows, block):
        end = min(begin + block, rows)
        _lists(emitted, columns, real, begin, end, lists, sizes)
        for i in range(len(tiles)):
            out = i * tile, min((i + 1) * tile, width)
            _receive(lists, sizes, tiles[i], shift, real, received, begin, out, drives)
        for r in range(begin, end):
            for t in range(steps):
                spikes, now = sent[t, r, low:high], after[t, r, low:high]
                if not real[r]:
                    _silence(spikes, now)
                    continue
                step, drive, other = np.int64(first + t), drives[r - begin, t], passing[t, r * every, start:]
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
def _weigh(scores, powers, steps, sums, whole):
    """From products of counts (H, L) to the weights of the keys, in place: powers of two, of which `whole` is 1.

    Keys as far behind as padding is have none. powers (H L,): room.
    """
    heads, length = scores.shape
    every = scores.reshape(-1)
    for h in range(heads):
        of_head, best = scores[h], -FAR
        for k in range(length):
            best = max(best, of_head[k])
        for k in range(length):
            of_head[k] = best - of_head[k]
    powers[:] = 0
    for n in range(steps.size):
        edge = steps[n]
        for i in range(every.size):
            powers[i] += np.int32(edge < every[i])
    for h in range(heads):
        of_head, power, total, more = scores[h], powers[h * length : (h + 1) * length], NOTHING, NOTHING
        for k in range(length):
            total += np.int32(POWERS >> (power[k] + 1))
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
                _weigh(scores, powers, score_steps[t], sums, whole)
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
    heard = start, start + width
    _driven(
        emitted, heard, all_rows, inward, received[0], (query, key, value), first, kind, front, (0, width, 2 * width)
    )
    side_by_side = front[3].reshape(len(emitted), real.shape[0], real.shape[1], 3 * width)
    _attended(side_by_side, real, weights, attention, first, kind, behind)
    sent, now = behind[2], behind[3]
    past = counts, start, every
    heard = 0, width
    _normed(sent, heard, rows, mix, received[1], past, mixed, attention_output, first, kind, behind, width)
    heard = width, 2 * width
    _driven(sent, heard, rows, widen, received[2], (intermediate,), first, between, behind, (2 * width,))
    past = now, width, 1
    heard = 2 * width, 2 * width + inner
    last = 2 * width + inner
    _normed(sent, heard, rows, narrow, received[3], past, narrowed, output, first, kind, behind, last)


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
