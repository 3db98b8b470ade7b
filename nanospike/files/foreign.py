"""The weights of a model as somebody left them: which file it is, and names without what a wrapper put before them."""

from pathlib import Path

from ..config.errors import InputError
from .model_files import read_json, read_model_tensors, read_tensors
from .onnx_reader import read_onnx
from .pickle_reader import read_pickled

READERS = {
    ".safetensors": read_tensors, ".bin": read_pickled, ".pt": read_pickled, ".pth": read_pickled, ".onnx": read_onnx,
}  # fmt: skip
USUAL = ("pytorch_model.bin", "model.onnx")
LANDMARK = "embeddings.word_embeddings.weight"


def read_weights(place):
    """(the directory of config.json, the file, {name: tensor}) of a file of weights or a directory with one."""
    place = Path(place)
    if not place.is_dir():
        if place.suffix not in READERS:
            raise InputError(f"{place}: expected a directory, or a file that ends in {', '.join(READERS)}")
        return place.parent, place, READERS[place.suffix](place)
    if any((place / name).exists() for name in ("model.safetensors", "model.safetensors.index.json")):
        return place, place / "model.safetensors", read_model_tensors(place)
    index = place / "pytorch_model.bin.index.json"
    if index.exists() and not (place / USUAL[0]).exists():
        return place, index, _shards(index)
    file = next((place / name for name in USUAL if (place / name).exists()), None) or _only_one(place)
    return place, file, READERS[file.suffix](file)


def _only_one(place):
    found = sorted(p for p in place.iterdir() if p.suffix in READERS)
    if len(found) != 1:
        told = ", ".join(p.name for p in found) or "none"
        raise InputError(f"{place}: found {told}, expected one file that ends in {', '.join(READERS)}; name the file")
    return found[0]


def _shards(index):
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(s, str) and Path(s).name == s for s in shards.values()):
        raise InputError(f"{index}: weight_map: expected an object of tensor names and names of files beside it")
    tensors = {}
    for shard in sorted(set(shards.values())):
        tensors |= read_pickled(index.parent / shard)
    return tensors


def bare_names(names, prefix):
    """{name without what a wrapper put before it: name}. prefix: of an encoder in a file with a head, such as bert.

    The encoder's names lose what stands before its word embeddings, the others what stands before `prefix` there.
    """
    before = {name.removesuffix(LANDMARK) for name in names if name.endswith(LANDMARK)}
    if len(before) != 1:
        raise InputError(f"found {len(before)} tensors whose names end in {LANDMARK}, expected one")
    (encoder,) = before
    outer = encoder.removesuffix(prefix)
    return {(n.removeprefix(encoder) if n.startswith(encoder) else n.removeprefix(outer)): n for n in names}
