"""Tensors of safetensors files: known by the header first, read one by one, when they are wanted.

So a configuration can be held against what is there before anything is read, and at most one tensor is in memory in the
file's form beside those of the model.
"""

import json
import math
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config.errors import InputError
from .packing import PER_BYTE, packed_tensors, require_bytes, unpack

# name in a header: how it lies there; what NumPy has no type for is made of its bits
KINDS = {
    "BOOL": "?", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "I8": "i1", "I16": "<i2", "I32": "<i4",
    "I64": "<i8", "BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
}  # fmt: skip
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
POINTER = b"version https://git-lfs"  # what Git LFS leaves in the place of a file


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: np.array(stored, dtype) reads it. InputError for one with numbers that are not finite.

    dtype: what it is read as, float32 for float16 and bfloat16.
    """

    path: Path
    name: str
    kind: str
    shape: tuple
    start: int

    @property
    def dtype(self):
        return np.dtype(np.float32) if self.kind in ("F16", "BF16") else np.dtype(KINDS[self.kind])

    @property
    def bits(self):
        """Of one number in the file."""
        return 8 * np.dtype(KINDS[self.kind]).itemsize

    @property
    def ndim(self):
        return len(self.shape)

    def __array__(self, dtype=None, copy=None):
        raw = np.fromfile(self.path, KINDS[self.kind], math.prod(self.shape), offset=self.start)
        if raw.size != math.prod(self.shape):
            raise InputError(f"{self.path}: {self.name}: the file has become shorter")
        if self.kind == "BF16":
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # said below
            values = raw.astype(dtype or self.dtype, copy=False).reshape(self.shape)
        return all_finite(values, f"{self.path}: {self.name}")


@dataclass(frozen=True)
class Packed:
    """A low-bit tensor in a file, likewise: its bytes and its scale are two tensors (packing.py)."""

    data: Stored
    scale: Stored
    kind: str
    shape: tuple
    dtype = np.dtype(np.float32)

    @property
    def ndim(self):
        return len(self.shape)

    def bytes(self):
        """(bytes (n,) uint8, scale float32 (O,)) as they are in the file."""
        data = np.asarray(self.data)
        try:
            require_bytes(data, self.kind, self.shape)
        except ValueError as error:
            raise InputError(f"{self.data.path}: {self.data.name} ({self.kind}, {self.shape}): {error}") from None
        return data, np.asarray(self.scale, np.float32)

    def parts(self):
        """(pattern int8 (O, I), scale float32 (O,))"""
        data, scale = self.bytes()
        return unpack(data, self.kind, self.shape), scale

    def __array__(self, dtype=None, copy=None):
        pattern, scale = self.parts()
        return np.asarray(pattern * scale[:, None], dtype)


def all_finite(values, where):
    """The array; InputError, which begins with `where`, if not all of its numbers are finite."""
    if values.dtype.kind in "fc" and values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        number = int(values.size - np.isfinite(values).sum())
        raise InputError(f"{where}: {number} of its {values.size} numbers are not finite in {values.dtype.name}")
    return values


def stored_tensors(path):
    """({name: Stored or Packed}, names of the packed ones) of one safetensors file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with safe_open(path, framework="np") as file:  # which checks all of the header
            metadata = file.metadata()
        header, start = _header(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise InputError(f"{path}: {pointer(path) or f'not a whole safetensors file: {error}'}") from None
    if strange := [f"{n} ({e['dtype']})" for n, e in header.items() if e["dtype"] not in KINDS]:
        shown = ", ".join(strange[:8]) + (f" and {len(strange) - 8} more" if len(strange) > 8 else "")
        raise InputError(f"{path}: tensors of a type that NumPy lacks: {shown}")
    plain = {n: Stored(path, n, e["dtype"], tuple(e["shape"]), start + e["data_offsets"][0]) for n, e in header.items()}
    listing = packed_tensors(metadata, path)
    return _with_packed(plain, listing, path), frozenset(listing)


def _header(path):
    """({name: entry}, where the data begins) of a file that is known to be whole.

    Layout: 8 bytes little-endian header length, the JSON header, then the tensors at their data_offsets.
    """
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return {n: e for n, e in header.items() if n != "__metadata__"}, 8 + length


def _with_packed(stored, listing, path):
    """The tensors with those of the listing (packing.packed_tensors) in place of their bytes and scales."""
    found = dict(stored)
    for name, entry in listing.items():
        scale = found.pop(f"{name}.scale", None)
        if name not in found or scale is None:
            missing = f"{name}.scale" if name in found else name
            raise InputError(f"{path}: missing tensors: {missing}, which its metadata lists as {entry['kind']}")
        shape = tuple(entry["shape"])
        if scale.shape != shape[:1] or scale.dtype.kind != "f":
            raise InputError(f"{path}: {name}.scale: found {scale.dtype} {scale.shape}, expected floats {shape[:1]}")
        size = -(-math.prod(shape) // PER_BYTE[entry["kind"]])
        if found[name].dtype != np.uint8 or found[name].shape != (size,):
            told = f"found {found[name].dtype} {found[name].shape}, expected {size} bytes"
            raise InputError(f"{path}: {name} ({entry['kind']}, {shape}): {told}")
        found[name] = Packed(found[name], scale, entry["kind"], shape)
    return found


def pointer(path):
    """What to do about a file that Git LFS has left out, "" if it is none."""
    try:
        with open(path, "rb") as file:
            is_one = file.read(len(POINTER)) == POINTER
    except OSError:
        return ""
    return "a pointer of Git LFS, not the file itself: run `git lfs pull` where it was cloned" if is_one else ""


def require_directory(directory):
    """InputError that says what else it may be, unless `directory` is the directory of a model with tensors."""
    directory = Path(directory)
    names = set(os.listdir(directory)) if directory.is_dir() else set()
    if not directory.exists():
        hint = ""
        if HUB_ID.fullmatch(str(directory)) and not directory.parent.exists():
            hint = f"; if it is a name on the Hugging Face Hub: `hf download {directory} --local-dir DIR`, and give DIR"
        raise InputError(f"{directory}: no such directory{hint}")
    if not directory.is_dir():
        raise InputError(f"{directory}: a file, expected the directory of a model")
    if "snapshots" in names and "config.json" not in names:
        found = sorted(p.name for p in (directory / "snapshots").iterdir())[:1] or ["..."]
        raise InputError(f"{directory}: a directory of the Hub's cache; give {directory / 'snapshots' / found[0]}")
    whole = {"model.safetensors", "model.safetensors.index.json"}
    if not whole & names and (
        other := sorted(n for n in names if n.startswith(("pytorch_model", "tf_model", "flax_")))
    ):
        remedy = "python -m nanospike.convert makes model.safetensors of a pytorch_model.bin"
        raise InputError(f"{directory}: no model.safetensors, only {other[0]}; {remedy}")
