"""Low-bit weights as they are held to compute with: as small as in a file, float only while they are used.

    ternary   four values a byte, two bits each, the first lowest, -1, 0, 1 as 0, 1, 2
    binary    eight values a byte, the first lowest, -1 and 1 as 0 and 1

In a file five ternary values share a byte (files/packing.py); four are read three times as fast, as each byte is the
number of a row of a table. Tables, of which a text needs a few rows, stay as they are in the file.

Axes: O outputs (rows), I inputs.
"""

import functools

import numpy as np

from ..arrays.backend import namespace, to_host
from ..files import packing

PER_BYTE = {"ternary": 4, "binary": 8}


class PackedRows:
    """Low-bit weights (O, I): codes (O, I / values of a byte) uint8 and a scale (O,); they stand where a table does, of
    which rows are asked for ([index]), or a matrix of a product (x @ weights.T). What is asked for becomes float.

    pattern: int8 (O, I) of -1, 0, 1 (ternary) or -1, 1 (binary). Without a dtype: no twin computes with it.
    """

    def __init__(self, pattern, scale, kind):
        self.codes, self.scale, self.kind, self.shape = _codes(pattern, PER_BYTE[kind]), scale, kind, pattern.shape

    @property
    def nbytes(self):
        return self.codes.nbytes + self.scale.nbytes

    @property
    def T(self):
        """The float matrix, transposed: made anew, to be dropped after its product.   (I, O)"""
        return self[:].T

    def __getitem__(self, index):
        """Float rows.   index (...) int  ->  (..., I)"""
        rows = self._pattern(index, self.scale.dtype.name)
        rows *= self.scale[index][..., None]
        return rows

    def __array__(self, dtype=None, copy=None):
        return np.asarray(to_host(self[:]), dtype)

    def split(self):
        """(pattern int8 (O, I), scale (O,)), as quantise.split gives them of the float weights."""
        pattern = self._pattern(slice(None), "int8")
        pattern *= namespace(self.scale).sign(self.scale).astype("int8")[:, None]
        return pattern, abs(self.scale) * pattern.any(axis=1)

    @property
    def largest(self):
        """The largest size of a weight, a float."""
        return float(self.split()[1].max())

    def _pattern(self, index, dtype):
        """Rows of the pattern, a fresh contiguous array of this dtype.   index (...)  ->  (..., I)"""
        codes = self.codes[index]
        values = _values(self.kind, dtype, namespace(codes)).take(codes, axis=0)
        values = values.reshape(*codes.shape[:-1], -1)[..., : self.shape[1]]
        return namespace(codes).ascontiguousarray(values)


class FileRows(PackedRows):
    """The same, held as the bytes that packing.pack makes of the pattern, checked: rows begin within a byte."""

    def __init__(self, codes, scale, kind, shape):
        self.codes, self.scale, self.kind, self.shape = codes, scale, kind, shape

    def _pattern(self, index, dtype):
        xp, (rows, width), per_byte = namespace(self.codes), self.shape, packing.PER_BYTE[self.kind]
        values = _file_values(self.kind, dtype, xp)
        if isinstance(index, slice) and index == slice(None):
            return values.take(self.codes, axis=0).reshape(-1)[: rows * width].reshape(self.shape)
        start = xp.arange(rows)[index][..., None] * width
        places = start // per_byte + xp.arange(-(-width // per_byte) + 1)
        codes = self.codes.take(xp.minimum(places, len(self.codes) - 1))
        values = values.take(codes, axis=0).reshape(*codes.shape[:-1], -1)
        return xp.take_along_axis(values, start % per_byte + xp.arange(width), axis=-1)


def _codes(pattern, per_byte):
    xp, bits = namespace(pattern), 8 // per_byte
    codes = xp.zeros((len(pattern), -(-pattern.shape[1] // per_byte)), xp.uint8)
    for place in range(per_byte):
        column = pattern[:, place::per_byte]
        digits = (column + 1 if bits == 2 else column > 0).astype(xp.uint8)
        codes[:, : digits.shape[1]] |= digits << (place * bits)
    return codes


@functools.cache
def _values(kind, dtype, xp):
    """The values that each byte stands for.   (256, values of a byte)"""
    bits = 8 // PER_BYTE[kind]
    digits = np.arange(256)[:, None] >> np.arange(0, 8, bits) & (2**bits - 1)
    return xp.asarray(digits - 1 if kind == "ternary" else 2 * digits - 1, dtype)


@functools.cache
def _file_values(kind, dtype, xp):
    """The same of a byte of a file."""
    every = np.arange(3**5 if kind == "ternary" else 256, dtype=np.uint8)
    return xp.asarray(packing.unpack(every, kind, (len(every), packing.PER_BYTE[kind])), dtype)
