"""The front door: `nanospike` (or python -m nanospike) lists the commands, `nanospike NAME ...` runs one.

A command is a module beside this file with a `main` and a docstring that begins with
'python -m nanospike.NAME: what it does'.
"""

import ast
import runpy
import sys
from pathlib import Path

from . import __version__
from .config.errors import InputError
from .config.options import typed_as
from .start import command

USAGE = """\
nanospike {version}: spiking language models, distilled from BERT without PyTorch

{commands}

nanospike NAME --help says what a command can be asked for; nanospike NAME is python -m nanospike.NAME."""


def commands(folder=Path(__file__).parent, names="*"):
    """{name: what it does} of every command in `folder`, read without importing any. names: a pattern of theirs."""
    found = {}
    for path in sorted(folder.glob(f"{names}.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        head, separator, line = (ast.get_docstring(module) or "").partition("\n")[0].partition(": ")
        has_main = any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in module.body)
        if separator and has_main and head == f"python -m nanospike.{path.stem}":
            found[path.stem] = line.rstrip(".")
    return found


def usage():
    found = commands()
    width = max(map(len, found))
    lines = [f"  {name:{width}}  {line}" for name, line in found.items()]
    return USAGE.format(version=__version__, commands="\n".join(lines))


def door():
    """What was typed to come here."""
    return "python -m nanospike" if Path(sys.argv[0]).name == "__main__.py" else "nanospike"


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    first = argv[0] if argv else "--help"
    if first in ("-h", "--help"):
        print(usage())
    elif first == "--version":
        print(f"nanospike {__version__}")
    elif first.isidentifier() and commands(names=first):
        typed_as(f"python -m nanospike.{first}", f"{door()} {first}")
        sys.argv[1:] = argv[1:]
        runpy.run_module(f"nanospike.{first}", run_name="__main__", alter_sys=True)
    else:
        raise InputError(f"nanospike {first}: no such command; there are {', '.join(commands())}")


def start():
    """The console script."""
    command(main, processes=None)


if __name__ == "__main__":
    start()
