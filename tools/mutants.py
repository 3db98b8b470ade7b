"""Small mistakes, one at a time, and whether a test notices: mutation testing of nanospike.

    python tools/mutants.py map --output mutants                   which test runs which function, once (minutes)
    python tools/mutants.py run --output mutants --number 200 [--shard 1/4] [--folders solvers,model] [--seed 0]
    python tools/mutants.py report --output mutants

A mutant is one change of one place in the source, by its syntax tree (mutations.py): a number becomes another, a
comparison its neighbour, an operator its inverse, a condition its opposite, a keyword is not handed on, a call is not
made. `run` draws --number of them from --folders, and for each runs the tests that reach the changed function, those of
the module's own folder first, the quick before the slow, until one fails: then it is killed, if that test passes
without the change. One that takes far more time than its tests did before is killed by its time. What is left has
survived; `report` lists it, and tools/results/mutants.md says of each why nothing can notice it, or which test it led
to. A smaller --budget leaves the slow tests out, which can only make more of them survive: `run --survivors` tries
those again with all of the budget that it is given.

The tests run in a fork of a process that has collected them (forks.py), in which the function has its changed code; a
change of what is done when a module is imported takes a fork in which it is imported anew. No file is changed, and
shards may run beside one another, as may `map` with other --tests.
"""

import json
import os
import sys
import threading
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from forks import QUIETLY, Failure, Tests, outcome_anew
from mutations import ROOT, changed_codes, drawn

from nanospike.config.errors import InputError
from nanospike.config.options import option, parse, require_at_least
from nanospike.start import command

FOLDERS = ("solvers", "model", "training", "data", "files")
TESTS = (*FOLDERS, "arrays", "config", "results", "test_effects.py", "test_commands.py", "test_glue.py")
KILLED = ("killed", "time")
FEW = 30  # tests that are tried first, so that the files of others need not be read


@dataclass(frozen=True, kw_only=True)
class Mutants:
    """Plant small mistakes in nanospike and see whether a test notices."""

    job: tuple[str, ...] = option("map, run or report", ())
    output: Path = option("directory of what is found: map/, and a file of results per shard")
    folders: tuple[str, ...] = option("folders of nanospike that mutants are drawn from", FOLDERS)
    tests: tuple[str, ...] = option("files and folders of tests whose reach is mapped", TESTS)
    number: int = option("mutants drawn, over all shards", 200)
    shard: str = option("which part of them, such as 2/4", "1/1")
    seed: int = option("of the draw", 0)
    budget: float = option("CPU seconds of tests per mutant, at most", 60.0)
    survivors: bool = option("try those again that have survived before", False)

    def __post_init__(self):
        require_at_least(self, number=1, seed=0, budget=1)
        if self.job not in (("map",), ("run",), ("report",)):
            raise InputError(f"found {' '.join(self.job) or 'nothing'}, expected map, run or report")


# ---- which test runs what ------------------------------------------------------------------------------------------


class Reach:
    """A pytest plugin: the functions of nanospike that each test runs, those of its fixtures included, and its time."""

    def __init__(self):
        self.codes, self.tests, self.fixtures, self.failed = {}, {}, defaultdict(set), set()

    def note(self, frame, event, argument):
        code = frame.f_code
        self.codes[id(code)] = (
            code  # hashing a code object takes longer; None is returned: no line of it is of interest
        )

    def calls(self):
        """What was noted since the last time: a set of file::function."""
        noted, self.codes = list(self.codes.values()), {}
        ours = (c for c in noted if "/nanospike/" in c.co_filename)
        return {f"{c.co_filename.rpartition('/nanospike/')[2]}::{c.co_qualname}" for c in ours}

    def pytest_fixture_setup(self, fixturedef, request):
        self.reached |= self.calls()
        value = yield
        self.fixtures[fixturedef.argname, fixturedef.baseid] |= (found := self.calls())
        self.reached |= found
        return value

    def pytest_runtest_logreport(self, report):
        if not report.passed:  # skipped ones too: neither can notice anything
            self.failed.add(report.nodeid)

    def pytest_runtest_protocol(self, item):
        self.codes, self.reached, began = {}, set(), time.process_time()
        threading.settrace(self.note)
        sys.settrace(self.note)
        result = yield
        sys.settrace(None)
        threading.settrace(None)
        self.reached |= self.calls()
        for definitions in item._fixtureinfo.name2fixturedefs.values():
            for definition in definitions:
                self.reached |= self.fixtures[definition.argname, definition.baseid]
        if item.nodeid not in self.failed:
            took = round(time.process_time() - began, 4)
            self.tests[item.nodeid] = {"seconds": took, "reached": sorted(self.reached)}
        return result


def map_reach(options):
    """Write map/NAME.json, {test: {seconds, reached: [file::function]}}, for one file or folder of tests after another.

    What is there already is not made again.
    """
    import pytest

    for name in ("pytest_fixture_setup", "pytest_runtest_protocol"):
        setattr(Reach, name, pytest.hookimpl(wrapper=True)(getattr(Reach, name)))
    folder = options.output / "map"
    folder.mkdir(exist_ok=True)
    for name in options.tests:
        path = folder / f"{name.replace('/', '.')}.json"
        if path.exists():
            continue
        plugin = Reach()
        pytest.main([*QUIETLY, str(ROOT / "tests" / name)], plugins=[plugin])
        path.write_text(json.dumps(plugin.tests, indent=0))
        print(f"{name}: {len(plugin.tests)} tests, {len(plugin.failed)} failed or skipped", flush=True)


def mapped(folder):
    """The reach of all tests in map/: {test: {seconds, reached}}."""
    return {
        name: found for path in sorted(folder.glob("*.json")) for name, found in json.loads(path.read_text()).items()
    }


def those_there(reach, names):
    """The part of the reach whose tests are still there, which have these names; the others are said."""
    if gone := reach.keys() - names:
        print(f"map/: {len(gone)} of {len(reach)} tests are not there any more, such as {min(gone)}", flush=True)
    return {test: found for test, found in reach.items() if test in names}


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


def tried(mutant, names, outcome, trusted):
    """(what became of a mutant by these tests, a few of them first; the test that noticed).

    outcome: a function of (mutant, names) that runs them. trusted: tests that are known to pass without a change; where
    another one fails, it is run without: if it fails then, too, it is left out.
    """
    for part in (names[:FEW], names[FEW:]):
        while part:
            found, by = outcome(mutant, part)
            if found != "killed" or by in trusted or passes_unchanged(by, part, outcome):
                break
            part = [name for name in part if not name.startswith(by)]
        if part and found != "survived":
            trusted |= {by} - {""}
            return found, by
    return ("survived" if names else "no test"), ""


def passes_unchanged(by, names, outcome):
    """Whether the test, or those of the file, that noticed something pass without any change: else it is no kill.

    by: its name; "" if none had failed when the process ended, then it may have been any of them.
    """
    if outcome(None, [name for name in names if name.startswith(by)])[0] == "survived":
        return True
    print(f"fails without any change: {by or 'one of ' + ', '.join(names)}", flush=True)
    return False


class Shard:
    """A pytest plugin that tries the mutants of a shard with the tests that pytest has collected."""

    def __init__(self, options):
        part, parts = map(int, options.shard.split("/"))
        self.options, self.failure, self.trusted = options, Failure(), set()
        self.mutants = drawn(options.folders, options.number, options.seed)[part - 1 :: parts]
        self.path = options.output / f"results-{part}-of-{parts}.jsonl"
        self.known = latest(results_in(self.path)) if self.path.exists() else {}
        self.reach = mapped(options.output / "map")

    def pytest_runtest_logreport(self, report):
        self.failure.pytest_runtest_logreport(report)

    def pytest_runtestloop(self, session):
        session.config._tmp_path_factory.getbasetemp()  # one for all forks, which goes as pytest's do
        tests, self.reach = Tests(session, self.failure), those_there(self.reach, {i.nodeid for i in session.items})
        for mutant in self.mutants:
            before = self.known.get((mutant.module, mutant.place, mutant.choice))
            if not before or (self.options.survivors and before["outcome"] not in KILLED):
                self.write(mutant, tests)
        return True

    def write(self, mutant, tests):
        names, seconds = tests_for(mutant, self.reach, self.options.budget)
        anew = self.options.survivors or changed_codes(mutant) is None
        one = outcome_anew if anew else tests.outcome
        began = time.monotonic()
        found, by = tried(mutant, names, lambda m, part: one(m, part, seconds), self.trusted)
        line = asdict(mutant) | {"outcome": found, "by": by, "tests": len(names)}
        line["seconds"] = round(time.monotonic() - began, 1)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{found:<9}{mutant.module}:{mutant.line} {mutant.function}: {mutant.what}", by, flush=True)


def run_shard(options):
    """Try the shard's mutants, a line of JSON for each; those that are there already are not tried again."""
    import pytest

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as for the tests
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]
    os.chdir(ROOT)
    shard = Shard(options)
    files = sorted({file for name in shard.reach if (file := ROOT / name.partition("::")[0]).exists()})
    pytest.main([*QUIETLY, "-s", *map(str, files)], plugins=[shard])


def results_in(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def latest(results):
    """{(module, place, choice): the last of the results of a mutant}"""
    return {(r["module"], r["place"], r["choice"]): r for r in results}


def report(options):
    """Print how many of each folder were killed, and what survived."""
    paths = sorted(options.output.glob("results-*.jsonl"))
    found = list(latest(r for path in paths for r in results_in(path)).values())
    by_folder = defaultdict(list)
    for r in found:
        by_folder[r["module"].split("/")[1]].append(r["outcome"] in KILLED)
    for folder, killed in sorted(by_folder.items()):
        print(f"{folder:<10}{sum(killed):>5} of {len(killed):>4}  {100 * sum(killed) / len(killed):5.1f} %")
    every = [k for killed in by_folder.values() for k in killed]
    print(f"{'all':<10}{sum(every):>5} of {len(every):>4}  {100 * sum(every) / max(1, len(every)):5.1f} %")
    for r in found:
        if r["outcome"] not in KILLED:
            print(f"{r['outcome']}: {r['module']}:{r['line']} {r['function'] or 'the module'}: {r['what']}")


def main(argv=None):
    options = parse(Mutants, argv, prog="python tools/mutants.py", positional=("job",))
    options.output.mkdir(parents=True, exist_ok=True)
    {"map": map_reach, "run": run_shard, "report": report}[options.job[0]](options)


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
