"""What stands around a command: locales, bytes, closed ends, memory. One line and status 2, never a traceback."""

import importlib
import os
import subprocess
import sys

import pytest
from models import random_student
from tiny import POSITIONS, VOCABULARY, run

from nanospike import evaluate, finetune
from nanospike.files.bundled import bundled

command = importlib.import_module("nanospike.predict")  # the module: nanospike.predict may be the function
ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LOCALES = {"ascii": ASCII, "cp1252": ASCII | {"PYTHONIOENCODING": "cp1252"}, "utf-8": {}}


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    place = tmp_path_factory.mktemp("terminal")
    shape = {"vocab_size": len(VOCABULARY), "max_position_embeddings": POSITIONS, "num_hidden_layers": 1}
    made = random_student(2, dtype="float32", **shape)
    made.raw_config = {"id2label": {"0": "schlecht", "1": "gut \U0001f600", "2": "geht so"}}
    made.save(place)
    (place / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return place


def predict(student, *argv, locale="utf-8", shell="", **more):
    """The finished process of python -m nanospike.predict; shell: redirections."""
    command = [
        sys.executable,
        "-m",
        "nanospike.predict",
        "--model",
        student,
        "--time-steps",
        "2",
        "--workers",
        "1",
        *argv,
    ]
    environment = {k: v for k, v in os.environ.items() if k not in ("LC_ALL", "LANG", "PYTHONUTF8", "PYTHONIOENCODING")}
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    return subprocess.run(command, capture_output=True, timeout=120, env=environment | LOCALES[locale], **more)


def one_line(done, said):
    text = done.stderr.decode()
    assert done.returncode == 2 and text.count("\n") == 1 and said in text, text


@pytest.mark.parametrize("locale", LOCALES)
def test_standard_input_and_output_are_utf8_whatever_the_locale_says(locale, student):
    text = "the tea \U0001f375 was hot . déjà"
    done = predict(student, "--json", locale=locale, input=f"{text}\r\nthe cake\n".encode())
    assert done.returncode == 0, done.stderr
    assert f'"text": "{text}"' in done.stdout.decode() and done.stdout.count(b"\n") == 2
    done = predict(student, text, locale=locale)
    assert done.returncode == 0 and done.stdout.decode().endswith(f"\t{text}\n")


def test_another_encoding_is_an_option(student, capsys):
    done = predict(student, "--encoding", "latin-1", input="the café\n".encode("latin-1"))
    assert done.returncode == 0 and done.stdout.endswith("\tthe café\n".encode("latin-1")), done.stderr
    one_line(predict(student, input="the café\n".encode("latin-1")), "standard input: not UTF-8 text")
    for wrong in ("utf-16", "no-such", "base64", ""):
        assert run(command.main, "--encoding", wrong) == 2
        assert f"--encoding: found {wrong!r}, expected one such as utf-8" in capsys.readouterr().err


def test_a_carriage_return_within_a_line_is_no_end_of_it(student):
    done = predict(student, input=b"\xef\xbb\xbfthe tea\rwas hot .\r\nthe cake")
    assert done.stdout.count(b"\n") == 2 and b"\tthe tea\rwas hot .\n" in done.stdout and b"\xef" not in done.stdout


def test_bytes_on_the_command_line_that_are_no_text(student):
    done = predict(os.fsencode(student), b"the tea \xff")
    one_line(done, "half a surrogate pair")
    one_line(predict(b"/no\xff/such"), "no such directory")
    one_line(predict("/nö/such \U0001f600", locale="cp1252"), "no such directory")


def test_ends_that_are_closed(student):
    one_line(predict(student, shell="<&-"), "standard input: closed")
    one_line(predict(student, "the tea", shell=">&-"), "standard output is closed")
    done = predict(student, "the tea", shell="2>&-")
    assert done.returncode == 0 and done.stdout.count(b"\n") == 1


def test_memory_that_is_not_there_is_one_line(student, monkeypatch, capsys):
    def full(*args, **options):
        raise MemoryError("Unable to allocate 7.45 GiB for an array")

    monkeypatch.setattr(evaluate, "run_student", full)
    monkeypatch.setattr(evaluate, "evaluate_student", full)
    argv = ("--data-dir", bundled("text"), "--workers", 1)
    assert run(evaluate.main, *argv) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(
        "error: not enough memory (Unable to allocate 7.45 GiB for an array); a smaller --batch-size"
    )


def test_a_configuration_file_with_a_mark_and_a_home(tmp_path, monkeypatch, capsys):
    """Windows editors begin a file with a byte order mark; no shell expands the ~ of a file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.toml").write_bytes(
        b'\xef\xbb\xbfmodel = "~/none"\ntask = "sst-2"\ndata_dir = "~/data"\noutput_dir = "o"\n'
    )
    assert run(finetune.main, "--config", tmp_path / "run.toml") == 2
    assert f"error: {tmp_path}/none: no such directory" in capsys.readouterr().err
    (tmp_path / "run.toml").write_text("a = " + "[" * 5000 + "\n")
    assert run(finetune.main, "--config", tmp_path / "run.toml") == 2
    assert "error: --config" in capsys.readouterr().err
