"""python -m nanospike.convert: a BERT's weights, from PyTorch, ONNX or safetensors, in Hugging Face's layout."""

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

from .arrays.backend import library
from .config.errors import InputError
from .config.options import option, parse
from .files.foreign import bare_names, read_weights
from .files.model_files import SAVED_AS, TOKENIZER_FILES, hugging_face_names, read_json, require_empty
from .model.families import family_of
from .model.teacher import teacher_of
from .start import command


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Write the BERT, or one of its family, in IN as a Hugging Face directory OUT, and say which tensor became which.

    IN: a directory with config.json and pytorch_model.bin, model.safetensors, model.onnx or shards of the first two, or
    one such file beside a config.json. No pickle is executed. ONNX needs the extra onnx.
    """

    source: Path = option("what to read", shown="IN")
    out: Path = option("directory to write; must be empty or absent")
    dtype: str = option("numbers of the file that is written", "float32", choices=SAVED_AS)
    seed: int = option("accepted for uniformity: nothing is drawn", 0)
    device: str = option("where to hold the weights", "cpu", choices=("cpu", "cuda"))


def mapped(tensors, family):
    """({BERT's name: tensor}, {BERT's name: name in the file}) of the tensors of a file."""
    named = hugging_face_names(bare_names(tensors, family.prefix), family.prefix)
    ours = family.our_tensors(named)
    return {name: tensors[given] for name, given in ours.items()}, ours


def run(options):
    source, target = options.source, options.out
    library(options.device)
    require_empty(target)
    place, file, tensors = read_weights(source)
    raw = read_json(place / "config.json")
    family = family_of(raw, place / "config.json")
    try:
        ours, given = mapped(tensors, family)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ignoring unexpected tensors")  # they are shown below
        teacher = teacher_of(raw, ours, place, options.device)
    teacher.save(target, options.dtype)
    print("\n".join(told(teacher, given, set(tensors) - {given[n] for n in teacher.parameters()})))
    print(f"{len(teacher.parameters())} tensors of {file}; saved in {target}")
    if not any((target / name).exists() for name in TOKENIZER_FILES[:4]):
        print(f"warning: {place} has no tokenizer; put its files into {target}", file=sys.stderr)


def told(teacher, given, left_out):
    """Lines: the name of a tensor in the file, its shape, its name in the directory that is written."""
    written = teacher.family.file_names(teacher.parameters())
    width = max(len(given[name]) for name in written)
    lines = [f"{given[n]:{width}}  {teacher.parameters()[n].shape!s:<14} {new}" for n, new in written.items()]
    return lines + [f"{name:{width}}  left out" for name in sorted(left_out)]


def main(argv=None):
    run(parse(Convert, argv, prog="python -m nanospike.convert", positional=("source", "out")))


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
