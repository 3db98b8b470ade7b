"""Matrices that hear spikes, on a CPU, compiled by numba: rows of weights added up where spikes arrive.

Spikes become lists of the numbers of those that sent 1 and of those that sent -1. Rows of weights, a byte for each
weight, are added in 8 bits, in registers, as long as these hold the sum; what nobody sends costs nothing. Processors
are taken to be little-endian.

Axes: T time steps, R rows (tokens), I inputs, O outputs, W neurons of several populations side by side.
"""

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from .fused_shift import exact

COLUMNS = 128  # of a tile of weights; their sums stay in registers
VECTOR = 32  # columns that are added at once
AT_ONCE = 127  # events of which 8 bits hold the sum
LINE = 64  # bytes that come into a cache together
ROOM = 8  # that a list of events needs besides

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


@intrinsic
def _eight(typingctx, spikes, at):
    """spikes[at : at + 8], int8, as one number, wherever they begin."""

    def generate(context, builder, signature, arguments):
        number = ir.IntType(64)
        first = builder.gep(_pointer(context, builder, signature, arguments)(0), [arguments[1]])
        return builder.load(builder.bitcast(first, number.as_pointer()), align=1)

    return numba.uint64(spikes, numba.int64), generate


@exact
def _events(spikes, lists, sizes):
    """The numbers of those that send 1, and of those that send -1."""
    more = less = 0
    plus, minus = lists[0], lists[1]
    whole = spikes.size // 8
    for i in range(whole):
        eight, base = _eight(spikes, 8 * i), np.int16(8 * i)
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
        more_end = min(sizes[0], more + AT_ONCE)
        less_end = min(sizes[1], less + AT_ONCE - (more_end - more))
        _sum_rows(tile, lists[0], more, more_end, lists[1], less, less_end, sums)
        for c in range(total.size):
            total[c] += sums[c]
        more, less = more_end, less_end


@exact
def room_for(block, steps, inputs, outputs):
    """What `hear` needs for blocks of so many rows: lists of events, their sizes, and drives (block, T, O)."""
    lists = np.empty((block, steps, 2, inputs + ROOM), np.int16)
    return lists, np.empty((block, steps, 2), np.int64), np.empty((block, steps, outputs), np.int32)


@exact
def hear(heard, begin, real, matrix, populations, received, room):
    """What some rows of `received` (R, O), from `begin` on, have received by each time step, times 2^shift: the drives
    of room_for, for as many rows as these have.

    heard: emitted (T, R, W), and which columns of it. real (R,). matrix: tiles and shift (O,) of an integer.Matrix, of
    so many populations side by side.
    """
    (emitted, (low, high)), (tiles, shift), (lists, sizes, drives) = heard, matrix, room
    end, steps, each = min(begin + len(drives), len(real)), len(emitted), len(tiles) // populations
    width, tile, sums = len(shift) // populations, tiles.shape[2], np.empty(COLUMNS, np.int8)
    for r in range(begin, end):
        if real[r]:
            for t in range(steps):
                _events(emitted[t, r, low:high], lists[r - begin, t], sizes[r - begin, t])
    for i in range(len(tiles)):
        which, part = divmod(i, each)
        first, last = which * width + part * tile, which * width + min((part + 1) * tile, width)
        weights, left = tiles[i], shift[first:last]
        _fetch(weights, sums)
        for r in range(begin, end):
            if real[r]:
                total = received[r, first:last]
                for t in range(steps):
                    _add_up(lists[r - begin, t], sizes[r - begin, t], weights, sums, total)
                    drive = drives[r - begin, t, first:last]
                    for c in range(total.size):
                        drive[c] = np.int32(total[c] << left[c])


@exact
def _fetch(tile, sums):
    """Read a tile in order: it is in the cache sooner than in the order of events (a third of the time of a text)."""
    sums[0] = 0
    for i in range(len(tile)):
        for c in range(0, COLUMNS, LINE):
            sums[0] ^= tile[i, c]
