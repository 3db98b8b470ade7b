"""python -m nanospike.export: write a student in a form that other programs and hardware read."""

import sys
from dataclasses import dataclass
from pathlib import Path

from .config.options import option, parse
from .files.bundled import bundled
from .model.loading import load_student
from .results.integer_dump import write_integers
from .results.to_onnx import write_onnx
from .start import command

FORMATS = {"integer": write_integers, "onnx": write_onnx}  # name: write(student, out)


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a student to OUT in another format.

    integer: a directory with integers.npz, all that its integer simulation needs, and a README of the layout; for
    students with shift operators and ternary or binary weights.
    onnx: a file with the equilibrium of a student without a loop, in ordinary nodes: input_ids, attention_mask and
    token_type_ids (batch, length) to logits and the last encoder's rates. Needs the extra onnx.
    """

    out: Path = option("where to write")
    model: Path | None = option("directory of a student; without one, the bundled student", None)
    format: str = option("what to write", choices=tuple(FORMATS))
    seed: int = option("accepted for uniformity: nothing is drawn", 0)
    device: str = option("where to compute", "cpu", choices=("cpu", "cuda"))


def run(options):
    student = load_student(options.model or bundled("student"), options.device)
    FORMATS[options.format](student, options.out)
    print(options.out)


def main(argv=None):
    run(parse(Export, argv, prog="python -m nanospike.export", positional=("out",)))


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
