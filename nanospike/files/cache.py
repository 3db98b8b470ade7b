"""Directories of files that are made once and then read through the memory map: whole or absent, never half-written."""

import hashlib
import json
import mmap
import shutil
import struct
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..config.errors import InputError
from .model_files import read_json, remove_leftovers, replacing, write_json

LISTING = "complete.json"  # written last: {file: [bytes, SHA-256]}
STALE = 3600.0  # seconds in which nothing was written to what a process had begun: it is gone
KINDS = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8"}


def kept(directory, make):
    """`directory`, as make(directory) once filled it: made now, unless it is there and nothing in it has changed.

    It is made under another name and then renamed. One that is damaged is made again, with a line on standard error.
    What was begun beside it, of its kind (the name up to a hyphen), and left is removed.
    """
    directory = Path(directory)
    remove_leftovers(directory.parent, f"{directory.name.partition('-')[0]}*", STALE)
    if (problem := damage(directory)) is None:
        return directory
    if directory.exists():
        print(f"{directory}: {problem}; made again", file=sys.stderr)
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(directory) as temporary:
            temporary.mkdir()
            make(temporary)
            write_json(temporary / LISTING, {p.name: _described(p) for p in sorted(temporary.iterdir())})
            if damage(directory) is not None:
                shutil.rmtree(directory, ignore_errors=True)
    except OSError:  # one that another process finished meanwhile is not replaced, but used
        if damage(directory) is not None:
            raise
    return directory


def damage(directory):
    """What is wrong with a kept directory, in a few words; None if it is whole. Reads every byte of it once."""
    try:
        listing = read_json(directory / LISTING)
    except InputError:
        return f"no {LISTING} that can be read"
    for name, described in listing.items():
        path = directory / name
        try:
            if path.stat().st_size != described[0]:
                return f"{name} is not of {described[0]} bytes"
            if _described(path) != described:
                return f"{name} has changed"
        except FileNotFoundError:  # never there, or gone while it was looked at
            return f"{name} is gone"
    return None


def _described(path):
    with open(path, "rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def size(directory):
    """Bytes of the files in `directory`; of those that another process has removed meanwhile, 0."""
    total = 0
    with suppress(FileNotFoundError):
        for path in directory.iterdir():
            with suppress(FileNotFoundError):
                total += path.stat().st_size
    return total


def last_used(directory):
    """When it was used last, in seconds; of one that another process has removed meanwhile, 0."""
    with suppress(FileNotFoundError):
        return directory.stat().st_mtime
    return 0.0


def map_file(path):
    """The bytes of a file, not empty, as a read-only memory map: a page is in memory once it has been touched."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def release(*mappings):
    """Give the pages touched so far back; what is touched again comes from the system's cache, or from the disk.

    Without this a process seems to grow to the size of the files that it reads.
    """
    for mapping in mappings if hasattr(mmap, "MADV_DONTNEED") else ():
        mapping.madvise(mmap.MADV_DONTNEED)


def map_tensors(path):
    """({name: read-only array over the map}, map) of a whole safetensors file; safe_open would copy what it reads.

    Layout: 8 bytes little-endian header length, the JSON header, then the tensors at their data_offsets.
    """
    mapping = map_file(path)
    (length,) = struct.unpack("<Q", mapping[:8])
    tensors = {}
    for name, entry in json.loads(mapping[8 : 8 + length]).items():
        if name != "__metadata__":
            kind, (start, stop) = np.dtype(KINDS[entry["dtype"]]), entry["data_offsets"]
            flat = np.frombuffer(mapping, kind, (stop - start) // kind.itemsize, 8 + length + start)
            tensors[name] = flat.reshape(entry["shape"])
    return tensors, mapping
