"""Model directories in Hugging Face's layout: config.json, model.safetensors, tokenizer.json.

Whatever is written is written under another name first and then renamed, so that a file is whole or absent.
"""

import json
import math
import os
import re
import secrets
import shutil
import struct
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ..arrays.backend import to_device, to_host
from ..config.errors import InputError
from .packing import PER_BYTE, packed, packed_tensors, unpacked

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json")
TENSOR_KINDS = "BOOL U8 U16 U32 U64 I8 I16 I32 I64 BF16 F16 F32 F64 C64".split()


def read_json(path):
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: found a JSON {type(value).__name__}, expected an object")
    return value


def read_tensors(path):
    """{name: array} of one safetensors file; float16, bfloat16 and packed tensors (packing.py) become float32."""
    with _opened(path) as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}
        if strange := [f"{name} ({kind})" for name, kind in kinds.items() if kind not in TENSOR_KINDS]:
            raise InputError(f"{path}: tensors of a type that NumPy lacks: {_some(strange)}")
        tensors = {name: file.get_tensor(name) for name, kind in kinds.items() if kind != "BF16"}
        metadata = file.metadata()
    if len(tensors) < len(kinds):
        tensors |= _read_bfloat16(path)
    return {
        n: t.astype(np.float32) if t.dtype == np.float16 else t for n, t in unpacked(tensors, metadata, path).items()
    }


def require_whole(path):
    """InputError unless a safetensors file is there and as long as its header says; reads only that."""
    with _opened(path):
        pass


@contextmanager
def _opened(path):
    """safetensors' reader of a file; InputError for one that cannot be read or is not whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            yield file
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file: {error}") from None


def _read_bfloat16(path):
    """The BF16 tensors of a valid file as float32: NumPy has no such type, so the header is read here.

    Layout: 8 bytes little-endian header length, the JSON header, then the tensors at their data_offsets.
    """
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        tensors = {}
        for name, entry in header.items():
            if entry.get("dtype") == "BF16":
                start, stop = entry["data_offsets"]
                file.seek(8 + length + start)
                halves = np.frombuffer(file.read(stop - start), "<u2").astype(np.uint32)
                tensors[name] = (halves << 16).view(np.float32).reshape(entry["shape"])
    return tensors


def read_model_tensors(directory):
    """{name: array} of model.safetensors, or of the shards that model.safetensors.index.json names."""
    directory = Path(directory)
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").exists() or not index.exists():
        return read_tensors(directory / "model.safetensors")
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise InputError(f"{index}: weight_map: expected an object of tensor names and files")
    tensors = {}
    for shard in sorted(set(shards.values())):
        tensors |= read_tensors(directory / shard)
    if missing := sorted(shards.keys() - tensors.keys()):
        raise InputError(f"{index}: names tensors that its shards lack: {_some(missing)}")
    return tensors


def packed_names(directory):
    """The names of those tensors of model.safetensors that are packed in low-bit form, once it is known to be valid."""
    from safetensors import safe_open

    path = Path(directory) / "model.safetensors"
    if not path.exists():
        return frozenset()
    with safe_open(path, framework="np") as file:
        return frozenset(packed_tensors(file.metadata(), path))


def stored_bits(directory):
    """{name: bits of a number} of the tensors of a model's files, by Hugging Face names; packed ones 1.6 or 1."""
    from safetensors import safe_open

    bits = {}
    for path in sorted(Path(directory).glob("model*.safetensors")):
        with safe_open(path, framework="np") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}
            listing = packed_tensors(file.metadata(), path)
        bits |= {name: int("".join(filter(str.isdigit, kind)) or 8) for name, kind in kinds.items()}
        bits |= {name: 8 / PER_BYTE[entry["kind"]] for name, entry in listing.items()}
    return hugging_face_names(bits)


def hugging_face_names(tensors):
    """Without the prefix `bert.`, with LayerNorm weight and bias for gamma and beta, without position_ids."""
    renamed = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("bert.")
        for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
            name = name[: -len(old)] + new if name.endswith("LayerNorm" + old) else name
        if not name.endswith("position_ids"):
            renamed[name] = tensor
    return renamed


def fit_tensors(tensors, shapes, optional, where):
    """The `tensors` that a model of `shapes` ({name: shape}) uses; the names in `optional` may be absent.

    InputError names every missing and mis-shaped tensor; unexpected ones are a warning.
    """
    missing = [n for n in shapes if n not in tensors and n not in optional]
    if missing:
        raise InputError(f"{where}: missing tensors: {_some(missing)}")
    wrong = [
        f"{n} is {tensors[n].shape}, config.json says {s}"
        for n, s in shapes.items()
        if n in tensors and tensors[n].shape != s
    ]
    if wrong:
        raise InputError(f"{where}: mis-shaped tensors: {_some(wrong, '; ')}")
    not_float = [n for n in shapes if n in tensors and tensors[n].dtype.kind != "f"]
    if not_float:
        raise InputError(f"{where}: tensors that are not floating point: {_some(not_float)}")
    if unexpected := sorted(tensors.keys() - shapes.keys()):
        warnings.warn(f"{where}: ignoring unexpected tensors: {_some(unexpected)}", stacklevel=3)
    return {n: tensors[n] for n in shapes if n in tensors}


def _some(names, comma=", ", most=8):
    return comma.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def placed(tensors, device, dtype, copy=True):
    """The tensors as arrays of the device and dtype; copy=False: they may be used as they are, where they fit."""
    return {n: to_device(np.array(t, dtype, order="C", copy=copy or None), device) for n, t in tensors.items()}


@contextmanager
def replacing(path):
    """A temporary path beside `path` that takes its place when the block ends well, and is removed otherwise.

    The block may make it a file or a directory. Its name is random: processes of several machines may write beside one
    another, and their numbers are no names. What it holds is on the disk before it has the name.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        for written in (*temporary.glob("**/*"), temporary):
            _to_disk(written)
        os.replace(temporary, path)
        _to_disk(path.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def _to_disk(path):
    """Wait until the file, or the names in the directory, are on the disk, where the system can say so."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems know no such thing
            os.fsync(handle)
    finally:
        os.close(handle)


def leftovers(directory, of="*"):
    """What `replacing` began in `directory`, for names that match `of`, and has not finished (yet)."""
    return [p for p in Path(directory).glob(f".{of}.tmp") if re.fullmatch(r"\..+\.[0-9a-f]+\.tmp", p.name)]


def remove_leftovers(directory, of="*", older_than=0.0):
    """Remove what a killed process left of `replacing`: where nothing was written for so many seconds."""
    for path in leftovers(directory, of):
        with suppress(FileNotFoundError):  # its process is alive, and done with it
            latest = max(p.stat().st_mtime for p in (path, *path.glob("**/*")))
            if time.time() - latest >= older_than:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def finite(value):
    """A value for JSON, which knows no NaN and no infinity: null in their place, in dicts and lists too."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path, value):
    """Write a JSON file; what is not a finite number becomes null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(finite(value), indent=2) + "\n", encoding="utf-8")


def write_tensors(path, tensors, dtype=None, patterns=None):
    """Write {name: array}, from either device, as safetensors with the metadata that PyTorch tools expect.

    patterns: of those tensors that are packed in its low-bit form, see packing.packed; dtype: of all others.
    """
    from safetensors.numpy import save

    host = {n: np.ascontiguousarray(to_host(t), dtype) for n, t in tensors.items() if n not in (patterns or {})}
    host, listing = packed(host, {n: (kind, *map(to_host, pair)) for n, (kind, *pair) in (patterns or {}).items()})
    with replacing(path) as temporary:
        data = save(host, metadata={"format": "pt"} | listing)  # save_file would make it unreadable to others
        temporary.write_bytes(_in_order(data) if listing else data)


def _in_order(data):
    """A safetensors file with its metadata in the order of their names; the library's order changes from run to run."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return data[:8] + text.ljust(length) + data[8 + length :] if len(text) <= length else data


def write_model(directory, config, tensors, tokenizer_from=None, dtype=None, patterns=None):
    """Write config.json, model.safetensors and, if known, the tokenizer's files into `directory`.

    dtype, patterns: see write_tensors.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES if tokenizer_from else ():
        source = Path(tokenizer_from) / name
        if source.exists() and source.resolve() != (directory / name).resolve():
            with replacing(directory / name) as temporary:
                shutil.copyfile(source, temporary)
    write_tensors(directory / "model.safetensors", tensors, dtype, patterns)
    write_json(directory / "config.json", config)


def require_empty(directory):
    """InputError unless `directory` is absent or empty: nothing of an earlier run is overwritten."""
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory}: is a file, expected a directory to write to")
    if directory.is_dir() and any(directory.iterdir()):
        raise InputError(f"{directory}: not empty; name another --output-dir, empty it, or go on with --resume")
