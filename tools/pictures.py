"""The pictures of docs/energy.md, of the bundled student: a raster of one sentence, and score against energy.

nanospike energy --output-dir DIR
python tools/pictures.py DIR/energy.json docs
"""

import argparse
from pathlib import Path

from nanospike import load_student
from nanospike.data.text import encode
from nanospike.data.tokenizer import load_tokenizer
from nanospike.files.bundled import bundled
from nanospike.files.model_files import read_json, replacing
from nanospike.results import charts
from nanospike.results.drawing import standalone
from nanospike.results.look import look_at
from nanospike.results.sentence import raster

TEXT = "A warm and clever film, funny in places, and never for one minute dull."
POPULATION = "encoder.1.attention_output"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("energy", type=Path, help="energy.json of the bundled student")
    parser.add_argument("output", type=Path, help="directory for raster.svg and tradeoff.svg")
    options = parser.parse_args(argv)
    student = load_student(bundled("student"))
    data = encode(load_tokenizer(student.directory), [TEXT], student.config.max_position_embeddings)
    look = look_at(student, data, population=POPULATION)
    for name, picture in (("raster", raster(look)), ("tradeoff", charts.tradeoff(read_json(options.energy)))):
        with replacing(options.output / f"{name}.svg") as temporary:
            temporary.write_text(standalone(picture.svg), encoding="utf-8")


if __name__ == "__main__":
    main()
