"""Model directories in Hugging Face's layout: config.json, model.safetensors, tokenizer.json.

Whatever is written is written under another name first and then renamed, so that a file is whole or absent.
"""

import json
import math
import os
import re
import shutil
import struct
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ..arrays.backend import to_device, to_host
from ..config.errors import InputError
from .packing import PER_BYTE, packed
from .tensors import Packed, all_finite, pointer, require_directory, stored_tensors

TOKENIZER_FILES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model"),
    *("tokenizer_config.json", "special_tokens_map.json"),
)
LAYER = re.compile(r"encoder\.layer\.([0-9]{1,9})\.")
NAMED_LAYERS = 1000  # so many can be missed by the names of their tensors
SAVED_AS = ("float16", "float32", "float64")


def read_json(path):
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    if told := pointer(path):
        raise InputError(f"{path}: {told}")
    return json_object(text, path)


def json_object(text, where, parse_constant=None):
    """The dict that a JSON text holds; InputError, which begins with `where`, for any other.

    parse_constant(name): of NaN and the infinities, which JSON does not know; None: as json.loads reads them.
    """
    try:
        value = json.loads(text, parse_constant=parse_constant)
    except RecursionError:
        raise InputError(f"{where}: not JSON that can be read: too deep") from None
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{where}: found a JSON {type(value).__name__}, expected an object")
    return value


def read_tensors(path):
    """{name: array} of one safetensors file; float16, bfloat16 and packed tensors (packing.py) become float32."""
    return {name: np.asarray(tensor) for name, tensor in stored_tensors(path)[0].items()}


def require_whole(path):
    """InputError unless a safetensors file is there and as long as its header says; reads only that."""
    stored_tensors(path)


def read_model_tensors(directory):
    """{name: tensors.Stored} of model.safetensors, or of the shards that model.safetensors.index.json names."""
    directory = Path(directory)
    require_directory(directory)
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").exists() or not index.exists():
        return stored_tensors(directory / "model.safetensors")[0]
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise InputError(f"{index}: weight_map: expected an object of tensor names and files")
    tensors = {}
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard:
            raise InputError(f"{index}: weight_map: found {shard!r}, expected the name of a file beside it")
        tensors |= stored_tensors(directory / shard)[0]
    if missing := sorted(shards.keys() - tensors.keys()):
        raise InputError(f"{index}: names tensors that its shards lack: {_some(missing)}")
    return tensors


def packed_names(directory):
    """The names of those tensors of model.safetensors that are packed in low-bit form."""
    path = Path(directory) / "model.safetensors"
    return stored_tensors(path)[1] if path.exists() else frozenset()


def stored_bits(directory, prefix="bert."):
    """{name: bits of a number} of the tensors of a model's files, by Hugging Face names; packed ones 1.6 or 1."""
    bits = {}
    for path in sorted(Path(directory).glob("model*.safetensors")):
        for name, tensor in stored_tensors(path)[0].items():
            if isinstance(tensor, Packed):
                bits |= {name: 8 / PER_BYTE[tensor.kind], f"{name}.scale": tensor.scale.bits}
            else:
                bits[name] = tensor.bits
    return hugging_face_names(bits, prefix)


def hugging_face_names(tensors, prefix="bert."):
    """Without the prefix of the encoder, with LayerNorm weight and bias for gamma and beta, without position_ids.

    InputError if two tensors then have one name.
    """
    renamed, given = {}, {}
    for full, tensor in tensors.items():
        name = full.removeprefix(prefix)
        for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
            name = name[: -len(old)] + new if name.endswith("LayerNorm" + old) else name
        if name.endswith("position_ids"):
            continue
        if given.setdefault(name, full) != full:
            raise InputError(f"tensors {given[name]} and {full}: found both, and they are one weight; remove one")
        renamed[name] = tensor
    return renamed


def require_depth(config, tensors, where):
    """InputError if config.json speaks of more layers than there are tensors {name: ...}: it may name any number."""
    if config.num_hidden_layers > max(len(tensors), NAMED_LAYERS):
        layers = [int(found[1]) for name in tensors if (found := LAYER.match(name))]
        told = f"found {config.num_hidden_layers}, the tensors are of {1 + max(layers, default=-1)} layers"
        raise InputError(f"{Path(where) / 'config.json'}: num_hidden_layers: {told}")


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
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
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

    patterns: of those tensors that are packed in its low-bit form, see packing.packed; dtype: of all others, a name of
    SAVED_AS. InputError, before anything is written, for another, and for numbers that are not finite, or not in it.
    """
    from safetensors.numpy import save

    if dtype is not None and dtype not in SAVED_AS:
        raise InputError(f"dtype: found {dtype!r}, expected one of {', '.join(SAVED_AS)}")
    host = {n: _converted(n, t, dtype, path) for n, t in tensors.items() if n not in (patterns or {})}
    host, listing = packed(host, {n: (kind, *map(to_host, pair)) for n, (kind, *pair) in (patterns or {}).items()})
    with replacing(path) as temporary:
        data = save(host, metadata={"format": "pt"} | listing)  # save_file would make it unreadable to others
        temporary.write_bytes(_in_order(data) if listing else data)


def _converted(name, tensor, dtype, path):
    with np.errstate(over="ignore"):
        return all_finite(np.ascontiguousarray(to_host(tensor), dtype), f"{path}: not written: {name}")


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
    write_tensors(directory / "model.safetensors", tensors, dtype, patterns)
    for name in TOKENIZER_FILES if tokenizer_from else ():
        source = Path(tokenizer_from) / name
        if source.exists() and source.resolve() != (directory / name).resolve():
            with replacing(directory / name) as temporary:
                shutil.copyfile(source, temporary)
    write_json(directory / "config.json", config)


def require_empty(directory):
    """InputError unless `directory` is absent or empty: nothing of an earlier run is overwritten."""
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory}: is a file, expected a directory to write to")
    if directory.is_dir() and any(directory.iterdir()):
        raise InputError(f"{directory}: not empty; name another --output-dir, empty it, or go on with --resume")
