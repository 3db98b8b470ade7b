"""The front door: which commands it lists, and that each is the command that python -m nanospike.NAME runs."""

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nanospike
from nanospike.__main__ import commands, main

ROOT = Path(nanospike.__file__).resolve().parent.parent
REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def process(*argv, **options):
    """(status, standard output, standard error) of python with these arguments."""
    given = {"capture_output": True, "text": True, "env": ENVIRONMENT} | options
    done = subprocess.run([sys.executable, "-W", "error", *argv], **given)
    return done.returncode, done.stdout, done.stderr


def test_every_command_is_listed_with_the_line_of_its_docstring(capsys):
    main([])
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  "))
    assert {"distill", "evaluate", "finetune", "predict"} <= listed.keys()
    for path in (ROOT / "nanospike").glob("*.py"):
        if f"python -m nanospike.{path.stem}:" in path.read_text(encoding="utf-8").partition("\n")[0]:
            module = importlib.import_module(f"nanospike.{path.stem}")
            assert f"python -m nanospike.{path.stem}: {listed.pop(path.stem)}." == module.__doc__.partition("\n")[0]
            assert callable(module.main)
    assert not listed


def test_a_new_command_is_listed_without_another_list(tmp_path):
    (tmp_path / "listen.py").write_text(
        '"""python -m nanospike.listen: hear spikes.\n\nMore."""\n\ndef main(argv): ...\n'
    )
    (tmp_path / "helper.py").write_text('"""What listen needs: much."""\n\ndef main(argv): ...\n')
    (tmp_path / "plans.py").write_text('"""python -m nanospike.plans: not written yet."""\n')
    (tmp_path / "broken.py").write_text('import nowhere\n\n"""python -m nanospike.broken: no."""\n\ndef main(): ...\n')
    assert commands(tmp_path) == {"listen": "hear spikes"}


def test_listing_imports_no_command():
    code = (
        "import sys; from nanospike.__main__ import commands, main; main(['--help'])\n"
        "assert not [n for n in commands() if f'nanospike.{n}' in sys.modules]"
    )
    status, out, err = process("-c", code)
    assert (status, err) == (0, "") and out.startswith(f"nanospike {nanospike.__version__}: ")


def test_a_command_of_the_front_door_is_the_command(tmp_path):
    for argv in (["predict", "--help"], ["predict", "--json", "a good film", "two\thalves"], ["predict", "--nothing"]):
        through = process("-m", "nanospike", *argv, cwd=tmp_path)
        directly = process("-m", f"nanospike.{argv[0]}", *argv[1:], cwd=tmp_path)
        assert [x.replace("nanospike predict", "nanospike.predict").split() for x in map(str, through)] == [
            x.split()
            for x in map(str, directly)  # the usage is wrapped where its lines are full
        ]
        assert through[0] == (2 if argv[-1] == "--nothing" else 0) and through[1 if through[0] == 0 else 2]
    assert not list(tmp_path.iterdir())


def test_errors_and_usage_begin_with_what_was_typed(tmp_path):
    script = "import sys; from nanospike.__main__ import start; sys.argv[0] = '/usr/bin/nanospike'; start()"
    for typed, argv in (("nanospike", ("-c", script)), ("python -m nanospike", ("-m", "nanospike"))):
        status, out, err = process(*argv, "evaluate", "--nothing", cwd=tmp_path)
        assert (status, out) == (2, "") and err.startswith(f"{typed} evaluate: error: ") and err.count("\n") == 1
    status, _, err = process("-m", "nanospike.evaluate", "--nothing", cwd=tmp_path)
    assert status == 2 and err.startswith("python -m nanospike.evaluate: error: ")


def test_version_and_an_unknown_command():
    assert process("-m", "nanospike", "--version") == (0, f"nanospike {nanospike.__version__}\n", "")
    status, out, err = process("-m", "nanospike", "distil")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: nanospike distil: no such command") and "distill" in err


@pytest.mark.parametrize("argv", [[], ["predict", "a good film"]])
def test_a_closed_pipe_is_quiet(argv):
    """Standard output is a pipe that nobody reads, as after `| head -1` has seen its line."""
    read, write = os.pipe()
    os.close(read)
    status, _, err = process("-m", "nanospike", *argv, capture_output=False, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (status, err) == (141, "")


def test_the_console_script_is_the_front_door():
    script = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, function = script["nanospike"].partition(":")
    assert getattr(importlib.import_module(module), function) is sys.modules["nanospike.__main__"].start
    status, out, err = process("-c", f"import sys; from {module} import {function}; {function}()", "--version")
    assert (status, out, err) == (0, f"nanospike {nanospike.__version__}\n", "")
