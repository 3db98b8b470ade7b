"""Low-bit tensors in a safetensors file: NAME as bytes, NAME.scale (O,) float32, kind and shape in the metadata.

    ternary   five values a byte, in base 3 with the first lowest, -1, 0, 1 as 0, 1, 2 (3^5 = 243)
    binary    eight values a byte, the first lowest, -1 and 1 as 0 and 1

Values run along the rows, one row after the other without a gap; the last byte is filled up with zeros.
"""

import json
import math

import numpy as np

from ..config.errors import InputError

KEY = "nanospike.low_bit"  # in the metadata: JSON {NAME: {"kind": "ternary" or "binary", "shape": [O, I]}}
PER_BYTE = {"ternary": 5, "binary": 8}
POWERS = 3 ** np.arange(5, dtype=np.uint8)
DIGITS = (np.arange(3**5)[:, None] // POWERS % 3 - 1).astype(np.int8)  # what each byte stands for


def pack(pattern, kind):
    """Bytes (n,) uint8 of a pattern of -1, 0, 1 (ternary) or -1, 1 (binary), any shape."""
    flat = np.asarray(pattern).reshape(-1)
    if kind == "binary":
        return np.packbits(flat > 0, bitorder="little")
    digits = np.zeros(-(-flat.size // 5) * 5, np.uint8)
    digits[: flat.size] = flat + 1
    return digits.reshape(-1, 5) @ POWERS


def require_bytes(data, kind, shape):
    """ValueError unless `data` can be what `pack` makes of a pattern of this shape."""
    size = math.prod(shape)
    if data.dtype != np.uint8 or data.shape != (-(-size // PER_BYTE[kind]),):
        raise ValueError(f"found {data.dtype} {data.shape}, expected {-(-size // PER_BYTE[kind])} bytes")
    if kind == "ternary" and data.size and data.max() >= 3**5:
        raise ValueError(f"found a byte of {data.max()}, expected below {3**5}")


def unpack(data, kind, shape):
    """The pattern, int8 of `shape`, of the bytes that `pack` made, of which require_bytes says nothing."""
    if kind == "binary":
        values = np.unpackbits(data, bitorder="little").view(np.int8)
        values *= 2
        values -= 1
    else:
        values = DIGITS.take(data, axis=0).reshape(-1)
    return np.ascontiguousarray(values[: math.prod(shape)]).reshape(shape)


def packed(tensors, patterns):
    """({name: array}, metadata) to be written: low-bit tensors packed, all others as they are.

    patterns: {name: (kind, pattern (O, I), scale (O,))} of those that are low-bit, arrays on the host.
    """
    written, listing = {n: t for n, t in tensors.items() if n not in patterns}, {}
    for name, (kind, pattern, scale) in patterns.items():
        written |= {name: pack(pattern, kind), f"{name}.scale": np.asarray(scale, np.float32)}
        listing[name] = {"kind": kind, "shape": list(pattern.shape)}
    return written, {KEY: json.dumps(listing)} if listing else {}


def packed_tensors(metadata, where):
    """{name: {"kind", "shape"}} of the low-bit tensors that a file's metadata lists, checked."""
    try:
        listing = json.loads((metadata or {}).get(KEY, "{}"))
        fits = all(
            entry["kind"] in PER_BYTE
            and len(entry["shape"]) == 2
            and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in entry["shape"])
            for entry in listing.values()
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        fits = False
    if not fits:
        raise InputError(f"{where}: metadata {KEY}: expected {{name: {{kind: ternary or binary, shape: [O, I]}}}}")
    return listing
