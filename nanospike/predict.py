"""python -m nanospike.predict: label texts with a spiking student."""

import json
import sys
import types
from dataclasses import dataclass
from pathlib import Path

from .arrays.workers import WORKERS_HELP
from .config.errors import InputError
from .config.options import option, parse, require_at_least
from .files.bundled import bundled
from .files.model_files import finite
from .model.simulate import ARITHMETICS
from .model.twins import use_fast
from .results.classifier import ANYTIME_STEPS, AUTO, Classifier, predict
from .results.stream import as_they_come, lines_of
from .start import command

BATCHES_AHEAD = 4  # of every worker: what is answered at a time while the input does not pause


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Label texts, spike by spike. Prints one line per text: label, score, text (tab-separated).

    A tab inside a text separates the two texts of a pair. Standard input is answered while it comes, in its order: at
    once when it pauses.
    """

    texts: tuple[str, ...] = option("texts to label; without any, the lines of standard input", (), shown="TEXT")
    model: Path | None = option("directory of a student; without one, the bundled student", None)
    time_steps: int | None = option(
        f"time steps that the network runs; auto: each text until its decision is clear, at most {ANYTIME_STEPS}; "
        "without it, what the student recommends",
        None,
        word=AUTO,
    )
    json: bool = option(
        "print one JSON object per text instead; a line of standard input may then be a JSON text, a list of the two "
        'texts of a pair, or an object with "text", perhaps "pair", and what else is to be printed with the answer',
        False,
    )
    arithmetic: str = option(
        "numbers of the simulation; integer: whole ones only, of students with shift operators and ternary or binary "
        "weights",
        "float",
        choices=ARITHMETICS,
    )
    fast: bool = option("compile what can be, by numba, which takes a second to load: for many texts", False)
    encoding: str = option("of standard input and output", "utf-8")
    seed: int = option("accepted for uniformity: prediction draws no random numbers", 0)
    device: str = option("where to compute", "cpu", choices=("cpu", "cuda"))
    workers: int = option(WORKERS_HELP, 0)

    def __post_init__(self):
        require_at_least(self, workers=0)
        require_byte_lines(self.encoding)
        if self.time_steps not in (None, AUTO):
            require_at_least(self, time_steps=1)


@dataclass(frozen=True)
class Request:
    """A text, or a pair of them, and what is printed with its answer: line as it is, fields as JSON."""

    text: str | tuple
    line: str
    fields: dict


def plain_request(line):
    """The Request of a line of plain text, in which a tab separates a pair."""
    return Request(tuple(line.split("\t", 1)) if "\t" in line else line, line, {"text": line})


def json_request(line, number):
    """The Request of a line that may be JSON: it is, if it begins with a bracket, a brace or a quotation mark."""
    if not line.lstrip().startswith(("{", "[", '"')):
        return plain_request(line)
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"standard input, line {number}: not JSON: {error}") from None
    if isinstance(value, list) and len(value) == 2:
        value = dict(zip(("text", "pair"), value, strict=True))
    fields = {"text": value} if isinstance(value, str) else value
    if not isinstance(fields, dict) or not all(isinstance(fields.get(k, ""), str) for k in ("text", "pair")):
        raise InputError(f"standard input, line {number}: found {line[:80]}, expected a text, a pair or an object")
    if "text" not in fields:
        raise InputError(f'standard input, line {number}: an object without "text"')
    return Request((fields["text"], fields["pair"]) if "pair" in fields else fields["text"], line, fields)


def require_byte_lines(encoding):
    """InputError unless it is an encoding, one in which the end of a line is one byte."""
    try:
        fits = "\n\t".encode(encoding) == b"\n\t"
    except (LookupError, ValueError):
        fits = False
    if not fits:
        raise InputError(f"--encoding: found {encoding!r}, expected one such as utf-8, latin-1 or cp1252")


def requests_of(stream, as_json, encoding):
    """The requests of a stream's lines, as they come. InputError after the last if none of them has any text."""
    empty = True
    for number, line in enumerate(lines_of(stream, encoding=encoding), 1):
        empty &= not line.strip()
        yield json_request(line, number) if as_json else plain_request(line)
    if empty:
        raise InputError("no text given: expected texts as arguments, or lines on standard input")


def show(request, answer, as_json):
    if as_json:
        print(json.dumps(finite(request.fields | answer), ensure_ascii=False))
    else:
        label = "-" if answer["label"] is None else answer["label"]
        print(f"{label}\t{answer['score']:.4f}\t{request.line}")


def main(argv=None):
    options = parse(Predict, argv, prog="python -m nanospike.predict", positional=("texts",))
    if options.texts and not any(t.strip() for t in options.texts):
        raise InputError("no text given: expected texts as arguments, or lines on standard input")
    if sys.stdout is None:
        raise InputError("standard output is closed: nobody would get the answers")
    if options.encoding != "utf-8" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding=options.encoding)
    if options.fast and not use_fast(True):
        raise InputError("--fast: numba is not installed; pip install 'nanospike[fast]'")
    model = options.model or bundled("student")
    classify = Classifier(
        model, options.time_steps, options.device, options.workers, quiet=False, arithmetic=options.arithmetic
    )
    if options.texts:
        batches = [[plain_request(t) for t in options.texts]]
    else:
        most = BATCHES_AHEAD * classify.batch_size * classify.workers.size
        batches = as_they_come(requests_of(sys.stdin, options.json, options.encoding), most)
    for batch in batches:
        answers = classify.answers([request.text for request in batch])
        for request, answer in zip(batch, answers, strict=True):
            show(request, answer, options.json)
        sys.stdout.flush()


class _CallableModule(types.ModuleType):
    """Importing this module binds it over the function nanospike.predict: so it can be called like it."""

    __call__ = staticmethod(predict)

    def __reduce__(self):
        return _this_module, ()


def _this_module():
    return sys.modules[__name__]


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
