"""Small mistakes, one at a time, and whether a test notices: mutation testing of nanospike.

    python tools/mutants.py map --output mutants                   which test runs which function, once (minutes)
    python tools/mutants.py run --output mutants --number 200 [--shard 1/4] [--folders solvers,model] [--seed 0]
    python tools/mutants.py report --output mutants

A mutant is one change of one place in the source, by its syntax tree: a number becomes another, a comparison its
neighbour, an operator its inverse, a condition its opposite, a keyword is not handed on, a call is not made. `run`
draws --number of them from --folders, and for each runs the tests that reach the changed function, those of the
module's own folder first, the quick before the slow, until one fails: then it is killed. One that takes far more time
than its tests did before is killed by its time. What is left has survived; `report` lists it, and
tools/results/mutants.md says of each why nothing can notice it, or which test it led to.

The tests run in a fork of this process, in which the changed source takes the place of the module's: no file is
changed, and shards may run beside one another.
"""

import ast
import io
import json
import os
import random
import resource
import signal
import sys
import threading
import time
from collections import defaultdict
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from importlib.util import spec_from_loader
from pathlib import Path

from nanospike.config.errors import InputError
from nanospike.config.options import option, parse, require_at_least
from nanospike.start import command

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("solvers", "model", "training", "data", "files")
TESTS = (*FOLDERS, "arrays", "config", "results", "test_effects.py", "test_commands.py", "test_glue.py")
COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
NOTHING_RUN = 5  # pytest's exit status where it finds no test; others but 0 say that one failed, or cannot be imported
SLOWER = 5.0  # times the CPU seconds that a mutant's tests took before, and
PATIENCE = 20.0  # seconds more, before it is stopped


@dataclass(frozen=True, kw_only=True)
class Mutants:
    """Plant small mistakes in nanospike and see whether a test notices."""

    job: tuple[str, ...] = option("map, run or report", ())
    output: Path = option("directory of what is found: map.json, and a file of results per shard")
    folders: tuple[str, ...] = option("folders of nanospike that mutants are drawn from", FOLDERS)
    tests: tuple[str, ...] = option("files and folders of tests whose reach is mapped", TESTS)
    number: int = option("mutants drawn, over all shards", 200)
    shard: str = option("which part of them, such as 2/4", "1/1")
    seed: int = option("of the draw", 0)
    budget: float = option("CPU seconds of tests per mutant, at most", 60.0)

    def __post_init__(self):
        require_at_least(self, number=1, seed=0, budget=1)
        if self.job not in (("map",), ("run",), ("report",)):
            raise InputError(f"found {' '.join(self.job) or 'nothing'}, expected map, run or report")


# ---- the mutants ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """module: its path below the root; place: the number of the node in a walk of its tree; choice: which of the
    changes of that node; function: qualified name of the innermost function or "" for the module itself."""

    module: str
    place: int
    choice: int
    function: str
    line: int
    what: str


def mutants_of(path):
    """All Mutants of a source file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = functions_of(tree)
    found = []
    for place, node in enumerate(ast.walk(tree)):
        if node in functions:  # only what is in a function, or a constant of the module
            changes = list(changes_of(node))
            for choice, (what, _) in enumerate(changes):
                found.append(Mutant(str(path), place, choice, functions[node], node.lineno, what))
    return found


def functions_of(tree):
    """{node: qualified name of the function around it, "" in none} of all nodes that may be changed."""
    found = {}

    def visit(node, name, function):
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "bases"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if not isinstance(child, ast.AST) or is_text(child):
                    continue
                if isinstance(child, ast.FunctionDef):
                    visit(child, f"{name}{child.name}.<locals>.", f"{name}{child.name}")
                elif isinstance(child, ast.ClassDef):
                    visit(child, f"{name}{child.name}.", "")
                else:
                    if hasattr(child, "lineno"):
                        found[child] = function
                    visit(child, name, function)

    visit(tree, "", "")
    return found


def is_text(node):
    """Docstrings, messages: what is said is not what is computed."""
    return isinstance(node, (ast.JoinedStr, ast.Raise, ast.Import, ast.ImportFrom)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def changes_of(node):
    """(what in words, function that changes a copy of the node in place or returns another) of each change."""
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} -> {not node.value}", lambda n: ast.Constant(not n.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        other = node.value + 1 if isinstance(node.value, int) else node.value * 2 + (node.value == 0)
        yield f"{node.value} -> {other}", lambda n: ast.Constant(other)
    elif isinstance(node, ast.Compare):
        for i, old in enumerate(node.ops):
            new = COMPARED[type(old)]
            yield f"{type(old).__name__} -> {new.__name__}", lambda n, i=i, new=new: n.ops.__setitem__(i, new())
    elif isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)) and type(node.op) in OPERATED:
        new = OPERATED[type(node.op)]
        yield f"{type(node.op).__name__} -> {new.__name__}", lambda n: setattr(n, "op", new())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield f"{type(node.op).__name__} removed", lambda n: n.operand
    elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
        yield "condition negated", lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
    elif isinstance(node, ast.Call):
        for i, keyword in enumerate(node.keywords):
            yield f"keyword {keyword.arg or '**'} dropped", lambda n, i=i: n.keywords.__delitem__(i)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "call removed", lambda n: ast.Pass()
    elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
        yield "first of what is returned twice", lambda n: n.value.elts.__setitem__(-1, n.value.elts[0])


def changed_source(mutant):
    """The source of the mutant's module with the change in it."""
    tree = ast.parse((ROOT / mutant.module).read_text(encoding="utf-8"))
    node = next(n for i, n in enumerate(ast.walk(tree)) if i == mutant.place)
    _, change = list(changes_of(node))[mutant.choice]
    replaced = change(node)
    if replaced is not None:
        tree = Replace(node, ast.copy_location(replaced, node)).visit(tree)
    return ast.unparse(ast.fix_missing_locations(tree))


class Replace(ast.NodeTransformer):
    def __init__(self, old, new):
        self.old, self.new = old, new

    def visit(self, node):
        return self.new if node is self.old else self.generic_visit(node)


def drawn(folders, number, seed):
    """`number` Mutants of the folders, as many as there are at most: the same for the same seed and source."""
    paths = [p.relative_to(ROOT) for f in folders for p in sorted((ROOT / "nanospike" / f).glob("*.py"))]
    every = [m for path in paths for m in mutants_of(path)]
    return random.Random(seed).sample(every, min(number, len(every)))


# ---- which test runs what ------------------------------------------------------------------------------------------


class Reach:
    """A pytest plugin: the functions of nanospike that each test runs, those of its fixtures included, and its time."""

    def __init__(self):
        self.calls, self.tests, self.fixtures, self.failed = set(), {}, defaultdict(set), set()

    def note(self, frame, event, argument):
        code = frame.f_code
        if event == "call" and "/nanospike/" in code.co_filename:
            self.calls.add((code.co_filename.rpartition("/nanospike/")[2], code.co_qualname))

    def pytest_fixture_setup(self, fixturedef, request):
        before, self.calls = self.calls, set()
        value = yield
        self.fixtures[fixturedef.argname, fixturedef.baseid] |= self.calls
        self.calls |= before
        return value

    def pytest_runtest_logreport(self, report):
        if not report.passed:  # skipped ones too: neither can notice anything
            self.failed.add(report.nodeid)

    def pytest_runtest_protocol(self, item):
        self.calls, began = set(), time.process_time()
        threading.setprofile(self.note)
        sys.setprofile(self.note)
        result = yield
        sys.setprofile(None)
        threading.setprofile(None)
        for definitions in item._fixtureinfo.name2fixturedefs.values():
            for definition in definitions:
                self.calls |= self.fixtures[definition.argname, definition.baseid]
        reached = sorted("::".join(c) for c in self.calls)
        if item.nodeid not in self.failed:
            self.tests[item.nodeid] = {"seconds": time.process_time() - began, "reached": reached}
        return result


def map_reach(options):
    """Write map.json: {test: {seconds, reached: [file::function]}}, one file or folder of tests after the other."""
    import pytest

    for name in ("pytest_fixture_setup", "pytest_runtest_protocol"):
        setattr(Reach, name, pytest.hookimpl(wrapper=True)(getattr(Reach, name)))
    path = options.output / "map.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    for name in options.tests:
        if any(test.startswith(f"tests/{name}") for test in known):
            continue
        plugin = Reach()
        pytest.main([*QUIETLY, str(ROOT / "tests" / name)], plugins=[plugin])
        known |= plugin.tests
        path.write_text(json.dumps(known, indent=0))
        print(f"{name}: {len(plugin.tests)} tests, {len(plugin.failed)} failed or skipped", flush=True)


QUIETLY = ("-q", "--no-header", "-p", "no:cacheprovider", f"--rootdir={ROOT}")


def tests_for(mutant, reach, budget):
    """The tests that run the mutant's function, in the order in which they are tried, and their CPU seconds.

    Those of the module's own folder come first. Of a constant of the module: all tests that run any function of it.
    """
    file = mutant.module.removeprefix("nanospike/")
    here = f"tests/{file.partition('/')[0]}/"
    key = f"{file}::{mutant.function}"
    chosen = [
        (not test.startswith(here), found["seconds"], test)
        for test, found in reach.items()
        if any(r == key or (not mutant.function and r.startswith(f"{file}::")) for r in found["reached"])
    ]
    names, seconds = [], 0.0
    for _, took, test in sorted(chosen):
        if names and seconds + took > budget:
            break
        names.append(test)
        seconds += took
    return names, seconds


# ---- the runs ------------------------------------------------------------------------------------------------------


class Changed(MetaPathFinder):
    """Finds one module with another source."""

    def __init__(self, mutant):
        self.name, self.mutant = mutant.module.removesuffix(".py").replace("/", "."), mutant

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        loader = SourceFileLoader(name, str(ROOT / self.mutant.module))
        source = changed_source(self.mutant)
        loader.get_code = lambda _: compile(source, loader.path, "exec")
        return spec_from_loader(name, loader)


def outcome(mutant, tests, seconds):
    """What became of a mutant (None: no change at all) in a fork of this process: killed by a test, or by its time,
    survived, or error: without a change, or without a test, nothing is killed."""
    if not tests:
        return "no test"
    child = os.fork()
    if child == 0:
        status = 3
        try:
            status = in_child(mutant, tests, seconds)
        finally:
            os._exit(status)
    deadline = time.monotonic() + 20 * (SLOWER * seconds + PATIENCE)  # of a wait that takes no CPU
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "time"
        time.sleep(0.05)
    if os.WIFSIGNALED(status):
        return "time" if os.WTERMSIG(status) == signal.SIGXCPU else "killed"
    if os.WEXITSTATUS(status) == 0:
        return "survived"
    return "killed" if mutant and os.WEXITSTATUS(status) != NOTHING_RUN else "error"


def in_child(mutant, tests, seconds):
    """The exit status of pytest with the mutant in place of its module."""
    import pytest

    for name, module in list(sys.modules.items()):  # ours, and tests that have taken names from ours
        ours = name.partition(".")[0] == "nanospike"  # it may be an installed one
        if name != "__main__" and (ours or (getattr(module, "__file__", None) or "").startswith(f"{ROOT}/")):
            del sys.modules[name]
    if mutant:
        sys.meta_path.insert(0, Changed(mutant))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + SLOWER * seconds + PATIENCE)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return int(pytest.main([*QUIETLY, "-x", *(f"{ROOT}/{t}" for t in tests)]))


def run_shard(options):
    """Try the shard's mutants, a line of JSON for each; those that are there already are not tried again."""
    part, parts = map(int, options.shard.split("/"))
    reach = json.loads((options.output / "map.json").read_text())
    path = options.output / f"results-{part}-of-{parts}.jsonl"
    done = {(r["module"], r["place"], r["choice"]) for r in results_in(path)} if path.exists() else set()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]
    import scipy.sparse.linalg  # noqa: F401  imported once, before the forks
    import scipy.special  # noqa: F401
    import tokenizers  # noqa: F401

    os.chdir(ROOT)
    _require_sound(reach)
    for mutant in drawn(options.folders, options.number, options.seed)[part - 1 :: parts]:
        if (mutant.module, mutant.place, mutant.choice) in done:
            continue
        tests, seconds = tests_for(mutant, reach, options.budget)
        began = time.monotonic()
        found = outcome(mutant, tests, seconds)
        line = asdict(mutant) | {"outcome": found, "tests": len(tests), "seconds": round(time.monotonic() - began, 1)}
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{found:<9}{mutant.module}:{mutant.line} {mutant.function}: {mutant.what}", flush=True)


def _require_sound(reach):
    """InputError unless tests pass where nothing is changed: else every mutant would seem to be noticed."""
    quick = sorted(reach, key=lambda test: reach[test]["seconds"])[:3]
    if (found := outcome(None, quick, 1.0)) != "survived":
        raise InputError(f"map.json: found {found} without any change, by {', '.join(quick)}; make it again")


def results_in(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def report(options):
    """Print how many of each folder were killed, and what survived."""
    found = [r for path in sorted(options.output.glob("results-*.jsonl")) for r in results_in(path)]
    by_folder = defaultdict(list)
    for r in found:
        by_folder[r["module"].split("/")[1]].append(r["outcome"] in ("killed", "time"))
    for folder, killed in sorted(by_folder.items()):
        print(f"{folder:<10}{sum(killed):>5} of {len(killed):>4}  {100 * sum(killed) / len(killed):5.1f} %")
    every = [k for killed in by_folder.values() for k in killed]
    print(f"{'all':<10}{sum(every):>5} of {len(every):>4}  {100 * sum(every) / max(1, len(every)):5.1f} %")
    for r in found:
        if r["outcome"] not in ("killed", "time"):
            print(f"{r['outcome']}: {r['module']}:{r['line']} {r['function'] or 'the module'}: {r['what']}")


def main(argv=None):
    options = parse(Mutants, argv, prog="python tools/mutants.py", positional=("job",))
    options.output.mkdir(parents=True, exist_ok=True)
    {"map": map_reach, "run": run_shard, "report": report}[options.job[0]](options)


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
