"""Tables of texts: .csv (RFC 4180), .tsv (no quoting), .jsonl (an object a line), .txt (a text a line), also with .gz.

A line ends with a line feed, or a carriage return and a line feed. A carriage return alone is a character as any other.
"""

import csv
import gzip
import io
import zlib
from dataclasses import dataclass
from pathlib import Path

from ..config.errors import InputError
from ..files.model_files import json_object


@dataclass(frozen=True)
class Table:
    """header: the names of the columns; rows: [(number of the line, [value of each column])].

    A value is a string; from .jsonl also a number, true, false, or None where the object has no such key.
    """

    path: Path
    header: list
    rows: list


def kind_of(path):
    """ ".csv" of reviews.csv and REVIEWS.CSV.GZ; InputError for a name that is none of the kinds."""
    name = Path(path).name.lower().removesuffix(".gz")
    for kind in READERS:
        if name.endswith(kind):
            return kind
    raise InputError(f"{path}: found another kind of file, expected {', '.join(READERS)}, or one of these with .gz")


def read_table(path, every_row=False):
    """The Table of a file; InputError names the line of what cannot be used.

    every_row: each row needs an answer of its own, so that an empty line is an error; otherwise it is passed over. The
    end of a file may be empty lines.
    """
    path = Path(path)
    header, rows = READERS[kind_of(path)](file_text(path), path)
    while rows and not rows[-1][1]:
        rows.pop()
    if every_row:
        for number, row in rows:
            if not row:
                raise InputError(f"{path}, line {number}: found nothing in it, expected a row: each one gets an answer")
    rows = [(number, row) for number, row in rows if row]
    for number, row in rows:
        if len(row) != len(header):
            raise InputError(f"{path}, line {number}: found {len(row)} columns, the first line has {len(header)}")
    if not rows:
        raise InputError(f"{path}: no examples in it")
    return Table(path, header, rows)


def file_text(path):
    """All of a UTF-8 file, unpacked if it ends in .gz, its line ends as they are."""
    path = Path(path)
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: not a whole gzip file: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None


def lines_of(text):
    """[(number, line)] of a text, without line ends."""
    return [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1)]


def _tsv(text, path):
    (_, first), *lines = lines_of(text)
    return first.split("\t"), [(number, line.split("\t") if line.strip() else []) for number, line in lines]


def _csv(text, path):
    reader, rows, start = csv.reader(io.StringIO(text, newline="\n"), strict=True), [], 1
    limit = csv.field_size_limit(max(len(text), 1))
    try:
        for row in reader:
            rows.append((start, row if any(value.strip() for value in row) or len(row) > 1 else []))
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {start}: not CSV as RFC 4180 has it: {error}") from None
    finally:
        csv.field_size_limit(limit)
    return (rows[0][1], rows[1:]) if rows else ([], [])


def _jsonl(text, path):
    objects, header = [], {}
    for number, line in lines_of(text):
        objects.append(
            (number, json_object(line, f"{path}, line {number}", parse_constant=_refuse) if line.strip() else {})
        )
        header |= dict.fromkeys(objects[-1][1])
    return list(header), [(number, [value.get(key) for key in header] if value else []) for number, value in objects]


def _refuse(name):
    raise ValueError(f"{name} is no number of JSON")


def _lines(text, path):
    return ["text"], [(number, [line] if line.strip() else []) for number, line in lines_of(text)]


READERS = {".csv": _csv, ".tsv": _tsv, ".jsonl": _jsonl, ".txt": _lines}
