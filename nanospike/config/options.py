"""The options of a command: a flat frozen record. The command line is its mirror image."""

import argparse
import math
import os
import sys
import types
import typing
from dataclasses import MISSING, asdict, field, fields
from pathlib import Path

from .errors import InputError


def flag(name):
    """The option on the command line of a field."""
    return "--" + name.replace("_", "-")


def require_at_least(record, **bounds):
    """InputError unless each named option, and each value of one that has several, is finite and within its bound."""
    for name, least in bounds.items():
        value = getattr(record, name)
        if not all(least <= v < math.inf for v in (value if isinstance(value, tuple) else (value,))):
            raise InputError(f"{flag(name)}: found {_shown(value)}, expected at least {least}")


def option(help, default=MISSING, *, choices=None, word=None, shown=None):
    """A field of a record of options: help with the unit, and a default unless it is required.

    word: a text that it may be although it is a number otherwise, such as "auto". shown: what the usage calls it, where
    it is positional.
    """
    return field(default=default, metadata={"help": help, "choices": choices, "word": word, "shown": shown})


_typed = {}  # a command's name: what was typed in its place


def typed_as(prog, words):
    """From here on, the usage and the errors of the command `prog` call it by these words."""
    _typed[prog] = words


class OneLineParser(argparse.ArgumentParser):
    def error(self, message):
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        sys.exit(2)


def parse(record, argv=None, *, prog, positional=()):
    """Build `record` from its defaults, then `--config FILE.toml`, then flags: the last one wins.

    positional: names of fields that have no flag. One of several values takes any number of them; any other is given
    once, here or in the file.
    """
    prog, known = _typed.get(prog, prog), {f.name: f for f in fields(record)}
    first = OneLineParser(prog=prog, add_help=False, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    first.add_argument("--config", type=Path, help="TOML file with the same names as the options")
    parser = OneLineParser(
        prog=prog, description=record.__doc__, argument_default=argparse.SUPPRESS, allow_abbrev=False, parents=[first]
    )
    try:
        path = vars(first.parse_known_args(argv)[0]).get("config")
        from_file = _from_file(path, known) if path else {}
        for name, f in known.items():
            if name in positional:
                _add_positional(parser, f, name in from_file)
            else:
                _add_flag(parser, f)
        given = vars(parser.parse_args(argv))
        given.pop("config", None)
        given = {n: _convert(known[n], v) for n, v in (from_file | given).items()}
        if missing := [n for n, f in known.items() if f.default is MISSING and n not in given]:
            raise InputError(f"missing {', '.join(map(flag, missing))}")
        return record(**given)
    except InputError as error:
        parser.error(str(error))


def _add_positional(parser, f, may_be_absent):
    count = "*" if base_type(f.type) is tuple else "?" if may_be_absent else None
    help = f.metadata["help"].replace("%", "%%")
    parser.add_argument(f.name, nargs=count, metavar=f.metadata["shown"] or f.name.upper(), help=help)


def _add_flag(parser, f):
    help, choices = f.metadata["help"].replace("%", "%%"), f.metadata["choices"]
    note = f"default: {_shown(f.default)}"
    if f.default is MISSING or f.default in (None, (), ""):
        note = "required" if f.default is MISSING else None
    text = f"{help} ({note})" if note else help
    if f.type is bool:
        parser.add_argument(flag(f.name), action=argparse.BooleanOptionalAction, help=text)
    elif typing.get_origin(f.type) is tuple and typing.get_args(f.type)[0] is Path:
        parser.add_argument(flag(f.name), nargs="+", metavar="FILE", help=text)
    else:
        kind = base_type(f.type)
        metavar = {int: "N", float: "X", Path: "PATH"}.get(kind, "A,B,..." if kind is tuple else "NAME")
        parser.add_argument(flag(f.name), metavar="{" + ",".join(choices) + "}" if choices else metavar, help=text)


def _shown(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def base_type(kind):
    """int of `int | None`, tuple of `tuple[int, ...]`."""
    if isinstance(kind, types.UnionType):
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    return typing.get_origin(kind) or kind


ONE = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
MANY = {int: "whole numbers", float: "numbers", str: "texts", Path: "paths"}
READ_FROM = {int: (int, str), float: (int, float, str), bool: bool, str: str, Path: (str, Path)}


def _convert(f, value):
    """`value`, from a flag (text) or a TOML file, as the type of field `f`."""
    kind, several = base_type(f.type), base_type(f.type) is tuple
    if value == (word := f.metadata["word"]):
        return word
    parts = value if several and isinstance(value, list) else [value]
    if several:
        kind = typing.get_args(f.type)[0]
        if isinstance(value, str):
            parts = [p for p in value.split(",") if p]
    try:
        converted = tuple(_as(kind, p) for p in parts)
    except ValueError:
        expected = (MANY if several else ONE)[kind] + (f" or {word}" if word else "")
        raise InputError(f"{flag(f.name)}: found {value!r}, expected {expected}") from None
    choices = f.metadata["choices"]
    for v in converted:
        if choices and v not in choices:
            raise InputError(f"{flag(f.name)}: found {v!r}, expected one of {', '.join(choices)}")
    return converted if several else converted[0]


def _as(kind, value):
    """`value` as a `kind`; ValueError where it says something else, such as 1.5 or true for a whole number."""
    if not isinstance(value, READ_FROM[kind]) or isinstance(value, bool) != (kind is bool):
        raise ValueError
    if kind is str:
        return _as_utf8(value)
    return Path(value).expanduser() if kind is Path else kind(value)


def _as_utf8(text):
    """Text of the command line as UTF-8, whatever the locale made of its bytes; what is none stays as it is."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text


def _from_file(path, known):
    import tomllib  # this and others that are seldom needed, only then: a first answer comes that much sooner

    try:
        values = {k.replace("-", "_"): v for k, v in tomllib.loads(path.read_text(encoding="utf-8-sig")).items()}
    except RecursionError:
        raise InputError(f"--config {path}: too deep to be read") from None
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise InputError(f"--config {path}: {getattr(error, 'strerror', None) or error}") from None
    if unknown := sorted(values.keys() - known.keys()):
        raise InputError(f"--config {path}: unknown {', '.join(unknown)}; known: {', '.join(known)}")
    return values


def plain(record):
    """The record as a dict that JSON can hold."""
    return {name: plain_value(value) for name, value in asdict(record).items()}


def plain_value(value):
    """An option's value as JSON gives it back: a text for a path, a list for a tuple."""
    if isinstance(value, tuple):
        return [plain_value(v) for v in value]
    return str(value) if isinstance(value, Path) else value
