"""Every shell and Python block of the README and of docs/ runs, and what they say of options, files and links is so.

A page's blocks run in order, in a directory of its own with tiny stand-ins (a GLUE directory, BERTs, corpora) under the
names that the page uses. What would take too long, or needs what is not here, is cut by one table, CUTS.
"""

import contextlib
import importlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from models import random_student
from tiny import CORPUS, DEV, POSITIONS, TRAIN, VOCABULARY, run, write_sst2, write_sts_b, write_teacher

import nanospike
from nanospike.__main__ import commands
from nanospike.results.inference import table

ROOT = Path(nanospike.__file__).resolve().parent.parent
REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
NOT_PROGRAMS = {"", "toml", "json"}  # languages of blocks that are no programs: output, formulas, files
NAMED = re.compile(r"(?:python -m nanospike\.|nanospike |python tools/)([a-z]\w*)")  # a command, a tool
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


@dataclass(frozen=True)
class Cut:
    """A line of a block that `pattern` finds in it runs with `add` at its end, or with `instead` where that was found.

    why: what it would take otherwise.
    """

    pattern: str
    why: str
    add: str = ""
    instead: str | None = None

    def apply(self, line):
        if self.instead is not None:
            return re.sub(self.pattern, self.instead, line)
        return f"{line} {self.add}" if re.search(self.pattern, line) else line


CUTS = (
    Cut(r"^pip install [^&]*(&& )?", "the network, and an environment of its own", instead=""),
    Cut(r"^(python -m venv torch_env|torch_env/bin/pip .*)$", "another environment", instead=""),
    Cut(r"^pytest -q -n 2 --dist worksteal$", "this suite", instead="pytest --version"),
    Cut(r"^ruff format --check \. && ruff check \.$", "it looks at the repository", instead="ruff --version"),
    Cut(r"^mpiexec -n 2 ", "mpich; tests/training/test_parallel.py has it", instead=""),
    Cut(r" --device cuda\b( --precision tf32\b)?", "a GPU", instead=""),
    Cut(r"^python -m nanospike\.distill$", "minutes on the bundled texts", add="--task sst-2 --data-dir GLUE/SST-2"),
    Cut(r" --output-dir hybrid-student$", "minutes on the bundled texts", add="--task sst-2 --data-dir GLUE/SST-2"),
    Cut(r"^(python -m nanospike\.|nanospike )finetune ", "training", add="--max-steps 2 --batch-size 4"),
    Cut(
        r"^(python -m nanospike\.|nanospike )distill ",
        "training, and 64 time steps",
        add="--max-steps 2 --batch-size 4 --time-steps 1,2",
    ),
    Cut(r"^(python -m nanospike\.|nanospike )evaluate (?!.*(--data-dir|-file))", "2,000 texts", add="--examples 8"),
    Cut(r"^nanospike energy --time-steps 1,2,4,8,16$", "minutes", add="--examples 4 --time-steps 1,2"),
    Cut(r"^python tools/convergence\.py ", "minutes", add="--examples 1 --time-steps 1,2"),
    Cut(
        r"^python tools/(sst2|recurrence|adjoint|anytime|operators)_study\.py ",
        "hours; tests/tools has them",
        add="--help",
    ),
    Cut(r"^python tools/(bench|bench_corpus|profile_step|growth)\.py ", "an hour; tests/tools", add="--help"),
    Cut(r"^python tools/(agreement|recipe)\.py ", "hours, or their students; tests/tools", add="--help"),
    Cut(r"^python tools/gpu_check\.py ", "a GPU", add="--help"),
)


ELSEWHERE = {  # (page, what is in one of its blocks): the test that runs that block
    ("docs/embedding.md", "serve_forever"): "tests/test_embedding.py",
}


@dataclass(frozen=True)
class Block:
    """A fenced block: the page's path, the number of its first line, its language and text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def lines(self):
        """The shell lines, continued ones joined, without comments."""
        joined = re.sub(r"\\\n\s*", "", self.text)
        return [bare for line in joined.splitlines() if (bare := re.sub(r"(^|\s)#.*", "", line).strip())]


def blocks(page):
    found, language, first = [], None, 0
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.startswith("```"):
            continue
        if language is None:
            language, first = line[3:].strip(), number + 1
        else:
            found.append(Block(page, first, language, "\n".join(lines[first - 1 : number - 1])))
            language = None
    assert language is None, f"{page.name}:{first}: a block without an end"
    return found


def prose(page):
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def name_of(page):
    return str(page.relative_to(REPOSITORY))


# ---- stand-ins ----------------------------------------------------------------------------------------------


def write_pairs(folder, header, row, labels):
    """train.tsv, dev.tsv and test.tsv of pairs of neighbours; row: format of (number, text, its pair, label)."""
    folder.mkdir(parents=True)
    texts = {split: [line.partition("\t")[2] for line in part.splitlines()] for split, part in SPLITS.items()}
    for split, lines in texts.items():
        rows = [row.format(i, a, b, labels[i % len(labels)]) for i, (a, b) in enumerate(pairwise(lines))]
        (folder / f"{split}.tsv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def write_own(root):
    """Files of one's own: words, numbers, pairs, and texts without labels."""
    rows = [line.partition("\t")[::2] for line in TRAIN.splitlines()]
    for name, labels in (("reviews", ("complaint", "praise")), ("stars", ("1.5", "4.5"))):
        lines = [f'"{text}",{labels[int(label)]}' for label, text in rows]
        (root / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    (root / "new.csv").write_text("\n".join(["index,text", '7,"the tea , cold"', "9,fine"]), encoding="utf-8")
    (root / "texts.txt").write_text("\n".join(text for _, text in rows), encoding="utf-8")
    asked = [{"question": "how was it ?", "answer": text, "verdict": int(label)} for label, text in rows]
    (root / "questions.jsonl").write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")


SPLITS = {"train": TRAIN, "dev": DEV, "test": DEV}


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """A directory with everything that the pages name and do not make themselves."""
    root = tmp_path_factory.mktemp("stand-ins")
    glue = root / "GLUE"
    write_sst2(glue / "SST-2")
    pairs = [
        (line.partition("\t")[2], DEV.splitlines()[0].partition("\t")[2], 2.5 + i % 3)
        for i, line in enumerate(DEV.splitlines())
    ]
    write_sts_b(glue / "STS-B", pairs)
    write_pairs(glue / "RTE", "index\tsentence1\tsentence2\tlabel", "{}\t{}\t{}\t{}", ("entailment", "not_entailment"))
    write_pairs(glue / "MRPC", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "{3}\t1\t2\t{1}\t{2}", (1, 0))
    (glue / "CoLA").mkdir()
    for split, part in SPLITS.items():
        rows = [f"x\t{label}\t\t{text}" for label, _, text in (line.partition("\t") for line in part.splitlines())]
        (glue / "CoLA" / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for bert in ("BERT_DIR", "all-MiniLM-L6-v2"):
        write_teacher(root / bert, labels=0, num_hidden_layers=6)
    student = random_student(0, dtype="float32", vocab_size=len(VOCABULARY), max_position_embeddings=POSITIONS)
    student.directory = root / "BERT_DIR"
    student.save(root / "DIR")
    for corpus in (
        "corpus",
        "wikitext2-valid",
        "wikitext2-test",
        "book-frankenstein",
        "book-the-adventures-of-sherlock-holmes",
    ):
        (root / f"{corpus}.txt").write_text(CORPUS, encoding="utf-8")
    write_own(root)
    (root / "docs").mkdir()
    (root / "tools" / "results").mkdir(parents=True)
    for program in (REPOSITORY / "tools").glob("*.py"):
        (root / "tools" / program.name).symlink_to(program)
    (root / "weights").symlink_to(REPOSITORY / "weights")
    (root / "bin").mkdir()
    for name, start in (("python", ""), ("nanospike", "-m nanospike "), ("pytest", "-m pytest "), ("ruff", "-m ruff ")):
        (root / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {start}"$@"\n')
        (root / "bin" / name).chmod(0o755)
    return root


@pytest.fixture
def place(stand_ins, tmp_path, monkeypatch):
    """A copy of the stand-ins as the working directory."""
    shutil.copytree(stand_ins, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


# ---- running ------------------------------------------------------------------------------------------------


def run_shell(block, place):
    lines = []
    for line in block.lines:
        for cut in CUTS:
            line = cut.apply(line)
        lines += [line] if line else []
    parts = [list(shlex.shlex(line, posix=True, punctuation_chars=True)) for line in lines]
    if any(set(word) <= set("();<>|&") for words in parts for word in words) or "$" in block.text:
        return in_a_shell("\n".join(lines), place)
    for line in lines:
        run_line(shlex.split(line), place)


def run_line(words, place):
    """A command of nanospike in this process, which is quicker; others in a shell."""
    if words[:2] == ["python", "-m"] and words[2].startswith("nanospike."):
        words = ["nanospike", words[2].partition(".")[2], *words[3:]]
    if words[0] == "nanospike" and len(words) > 1:
        assert words[1] in commands(), f"no command {words[1]}"
        assert run(importlib.import_module(f"nanospike.{words[1]}").main, *words[2:]) == 0, shlex.join(words)
    elif words[0] == "python" and words[1].startswith("tools/"):
        if words[-1] == "--help":
            known = options_of(Path(words[1]).stem)
            assert set(OPTION.findall(shlex.join(words))) <= known, f"{words[1]} has no such option"
        else:
            status, said = program(words[1], words[2:])
            assert status == 0, said
    else:
        in_a_shell(shlex.join(words), place)


def in_a_shell(script, place):
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": path}
    argv = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"


def program(path, argv):
    """(exit status, what it printed) of a Python file, run in this process as a program."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        patch.setattr(sys, "argv", [str(path), *argv])
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as stop:
            return stop.code or 0, said.getvalue()
    return 0, said.getvalue()


@cache
def options_of(name):
    """The options of a command, or of a program in tools/, as its --help names them."""
    if name in commands():
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            assert run(importlib.import_module(f"nanospike.{name}").main, "--help") == 0
        said = said.getvalue()
    else:
        status, said = program(REPOSITORY / "tools" / f"{name}.py", ["--help"])
        assert status == 0, said
    return set(OPTION.findall(said)) | {"--help"}


# ---- tests --------------------------------------------------------------------------------------------------


def elsewhere(block):
    """Whether another test runs this block: it reads the page."""
    for (page, phrase), test in ELSEWHERE.items():
        if page == name_of(block.page) and phrase in block.text:
            return block.page.name in (REPOSITORY / test).read_text(encoding="utf-8")
    return False


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_blocks_run(page, place, monkeypatch):
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if elsewhere(block):
            continue
        if block.language == "python":
            exec(compile(block.text, where, "exec"), {"__name__": "__main__"})
        elif block.language == "sh":
            try:
                run_shell(block, place)
            except AssertionError as error:
                raise AssertionError(f"{where}: {error}") from error
        else:
            assert block.language in NOT_PROGRAMS, f"{where}: a block of {block.language}, which nobody runs"


def test_there_are_blocks_and_every_cut_is_needed():
    """A line of a table that nothing needs any more goes."""
    found = [block for page in PAGES for block in blocks(page)]
    assert sum(map(elsewhere, found)) == len(ELSEWHERE)
    assert sum(block.language == "sh" for block in found) > 20
    assert sum(block.language == "python" for block in found) > 2
    lines = [line for block in found if block.language == "sh" for line in block.lines]
    for cut in CUTS:
        before = CUTS[: CUTS.index(cut)]
        for line in lines:
            for earlier in before:
                line = earlier.apply(line)
            if cut.apply(line) != line:
                break
        else:
            pytest.fail(f"no line is cut by {cut.pattern}")


def test_every_option_that_a_page_names_is_there():
    """In running text and tables: `--option VALUE`, and of the command or program where one is named with it."""
    tools = {path.stem: path.read_text(encoding="utf-8") for path in (REPOSITORY / "tools").glob("*.py")}
    foreign = {name for name, text in tools.items() if re.search(r"^\s*import torch$", text, re.MULTILINE)}
    names = {name for name, text in tools.items() if "__main__" in text} - foreign | commands().keys()
    known = set().union(*map(options_of, names), {"--version"})
    for page in PAGES:
        for code in re.findall(r"`([^`]+)`", prose(page)):
            first, words = code.partition(" ")[0], NAMED.match(code)
            assert not words or words[1] in names | foreign, f"{page.name}: `{code}`: no such command"
            if re.match(r"[a-z]+ [a-z]", code) and first not in names and not words:
                continue  # another program's
            name = words[1] if words else first
            there = options_of(name) if name in names else known
            assert set(OPTION.findall(code)) <= there, f"{page.name}: `{code}`: no such option"


def test_the_tests_are_run_by_one_command():
    """In a fresh environment, in the README and for developers."""
    command = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    assert re.fullmatch(r"pytest [\w -]+", command)
    for page in (REPOSITORY / "README.md", REPOSITORY / "docs" / "development.md"):
        lines = [line for block in blocks(page) if block.language == "sh" for line in block.lines]
        assert [line for line in lines if line.endswith(command)], page.name


def test_links_lead_somewhere():
    """Files in the repository, and headings of pages."""
    for page in [*PAGES, *(REPOSITORY / name for name in ("tools/results/README.md", "weights/README.md"))]:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            file, _, heading = target.partition("#")
            if re.match("[a-z]+:", target):
                continue
            there = (page.parent / file).resolve() if file else page
            assert there.is_file(), f"{page.name}: {target}"
            titles = re.findall(r"^#+ (.*)$", prose(there), re.MULTILINE) if heading else ()
            anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert not heading or heading in anchors, f"{page.name}: {target}"


def test_every_page_is_in_the_readme_s_row_of_links():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert not [page.name for page in PAGES[1:] if f"(docs/{page.name}" not in text]


def test_the_readme_shows_what_the_main_job_printed():
    """tools/results/default.json is that run's eval_results.json; the last line has what its machine and hour made."""
    shown = next(b.text for b in blocks(REPOSITORY / "README.md") if not b.language).splitlines()
    results = json.loads((REPOSITORY / "tools" / "results" / "default.json").read_text(encoding="utf-8"))
    assert shown[:-1] == table({"arithmetic": "float"} | results).splitlines()
    assert re.fullmatch(r"\d+ s, \d+ MB; saved in nanospike-student", shown[-1])


def test_the_readme_is_short():
    """At most 130 lines of at most 120 columns; tables may be wider."""
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]


@pytest.mark.parametrize("path", sorted((REPOSITORY / "tools" / "results").glob("*.json")), ids=lambda p: p.stem)
def test_results_name_no_path_of_the_machine_they_are_from(path):
    assert not re.findall(r'"/[^"]*"', path.read_text(encoding="utf-8"))
