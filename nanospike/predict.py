"""python -m nanospike.predict: label texts with a spiking student."""

import json
import sys
import types
from dataclasses import dataclass
from pathlib import Path

from .arrays.workers import WORKERS_HELP, Workers
from .config.errors import InputError
from .config.options import option, parse, require_at_least
from .files.bundled import bundled
from .results.inference import PREDICT_STEPS, predict
from .start import command


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Label texts, spike by spike. Prints one line per text: label, score, text (tab-separated).

    A tab inside a text separates the two texts of a pair.
    """

    texts: tuple[str, ...] = option("texts to label; without any, the lines of standard input", ())
    model: Path | None = option("directory of a student; without one, the bundled student", None)
    time_steps: int = option("time steps that the network runs", PREDICT_STEPS)
    json: bool = option("print one JSON object per text instead", False)
    seed: int = option("accepted for uniformity: prediction draws no random numbers", 0)
    device: str = option("where to compute", "cpu", choices=("cpu", "cuda"))
    workers: int = option(WORKERS_HELP, 0)

    def __post_init__(self):
        require_at_least(self, time_steps=1, workers=0)


def read_stdin():
    try:
        return [line.rstrip("\n") for line in sys.stdin]
    except UnicodeDecodeError as error:
        raise InputError(f"standard input: not UTF-8 text: {error.reason} at byte {error.start}") from None


def main(argv=None):
    options = parse(Predict, argv, prog="python -m nanospike.predict", positional="texts")
    texts = list(options.texts) or read_stdin()
    if not any(t.strip() for t in texts):
        raise InputError("no text given: expected texts as arguments, or lines on standard input")
    model = options.model or bundled("student")
    inputs = [tuple(t.split("\t", 1)) if "\t" in t else t for t in texts]
    workers = Workers(options.workers, options.device)
    answers = predict(model, inputs, options.time_steps, options.device, workers=workers)
    for text, answer in zip(texts, answers, strict=True):
        if options.json:
            print(json.dumps({"text": text} | answer, ensure_ascii=False))
        else:
            label = "-" if answer["label"] is None else answer["label"]
            print(f"{label}\t{answer['score']:.4f}\t{text}")


class _CallableModule(types.ModuleType):
    """Importing this module binds it over the function nanospike.predict: so it can be called like it."""

    __call__ = staticmethod(predict)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
