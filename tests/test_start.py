"""What every command says at its start: which options are not at their defaults, and where all of them are."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny import run, write_sst2, write_teacher

from nanospike import finetune
from nanospike.config.options import option
from nanospike.start import announce


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a few types."""

    out: Path = option("required")
    steps: tuple[int, ...] = option("whole numbers", (1, 2))
    rate: float = option("a number", 0.5)
    flag: bool = option("a switch", True)
    name: str | None = option("a text", None)


@pytest.mark.parametrize(
    "given, said",
    [
        ({}, "options: out=x; all others at their defaults"),
        ({"steps": (1, 2), "rate": 0.5}, "options: out=x; all others at their defaults"),
        ({"flag": False, "steps": (3,)}, "options: out=x, steps=[3], flag=False; all others at their defaults"),
        ({"rate": 0.0, "name": ""}, "options: out=x, rate=0.0, name=; all others at their defaults"),
    ],
)
def test_the_line_of_options_has_those_that_differ(given, said, capsys):
    announce(Options(out=Path("x"), **given))
    announce(Options(out=Path("x"), **given), Path("x/all.json"))
    assert capsys.readouterr().out == f"{said}\n{said}, in x/all.json\n"


def test_a_run_says_where_all_of_its_options_are_and_goes_on_with_them(tmp_path, capsys):
    write_teacher(tmp_path / "bert")
    write_sst2(tmp_path / "data")
    where = ("--model", tmp_path / "bert", "--task", "sst-2", "--data-dir", tmp_path / "data")
    argv = (*where, "--output-dir", tmp_path / "out", "--epochs", 1, "--batch-size", 28, "--save-every", 1)
    assert run(finetune.main, *argv) == 0
    line, done = capsys.readouterr().out.splitlines()
    kept = re.fullmatch(r"options: (.*); all others at their defaults, in (.*)", line)
    told = dict(pair.split("=", 1) for pair in kept[1].split(", "))
    assert told.keys() == {"model", "task", "data_dir", "output_dir", "epochs", "batch_size", "save_every"}
    saved = json.loads(Path(kept[2]).read_text(encoding="utf-8"))
    assert told.items() <= {k: str(v) for k, v in saved.items()}.items() and len(saved) > len(told) + 10
    assert "(only 12 examples: a score has a standard error of about" in done
    assert run(finetune.main, *argv, "--resume") == 0
    again = capsys.readouterr()
    assert "resume=True" in again.out.splitlines()[0] and "resuming" in again.err
