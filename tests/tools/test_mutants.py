"""tools/mutants.py: each mutant is one change that compiles, is tried by the tests that reach it, and is told apart."""

import ast
import difflib
import json
import random
from dataclasses import asdict

import mutants
import pytest
from tiny import run

from nanospike import InputError

FILE = "nanospike/solvers/fixed_point.py"


def test_every_mutant_is_one_change_that_compiles():
    every = mutants.mutants_of(FILE)
    assert len(every) > 100 and len({(m.place, m.choice) for m in every}) == len(every)
    before = ast.unparse(ast.parse((mutants.ROOT / FILE).read_text(encoding="utf-8"))).splitlines()
    for mutant in random.Random(0).sample(every, 60):
        after = mutants.changed_source(mutant)
        compile(after, FILE, "exec")
        changed = [x for x in difflib.ndiff(before, after.splitlines()) if x.startswith("- ")]
        assert len(changed) == 1 or mutant.what == "call removed", mutant


@pytest.mark.parametrize(
    "source, whats",
    [
        ("def f(a):\n    return a < 2", {"Lt -> LtE", "2 -> 3"}),
        ("def f(a):\n    if not a: g(a, b=True)", {"condition negated", "Not removed", "keyword b dropped",
                                                    "call removed", "True -> False"}),
        ("def f(a):\n    '''doc 1'''\n    raise ValueError(a + 1)", set()),
        ("def f(a, b=0.5):\n    a += b * -b", {"0.5 -> 1.0", "Add -> Sub", "Mult -> Div", "USub removed"}),
        ("X: int = 3\n\nclass A:\n    y = 4", {"3 -> 4", "4 -> 5"}),
    ],
)  # fmt: skip
def test_changes(source, whats):
    nodes = mutants.functions_of(ast.parse(source))
    assert {what for node in nodes for what, _ in mutants.changes_of(node)} == whats


def test_functions_have_the_names_that_running_ones_have():
    source = "class A:\n    z = 1\n    def f(self):\n        def g():\n            return 2\n        return lambda: 3\n"
    names = {n.value: f for n, f in mutants.functions_of(ast.parse(source)).items() if isinstance(n, ast.Constant)}
    assert names == {1: "", 2: "A.f.<locals>.g", 3: "A.f"}


def test_tests_are_tried_near_first_quick_first_and_within_the_budget():
    mutant = mutants.Mutant(FILE, 0, 0, "iterate", 1, "")
    key = "solvers/fixed_point.py::iterate"
    reach = {
        "tests/model/a.py::far": {"seconds": 0.1, "reached": [key]},
        "tests/solvers/b.py::slow": {"seconds": 5.0, "reached": [key, "x::y"]},
        "tests/solvers/c.py::quick": {"seconds": 1.0, "reached": [key]},
        "tests/solvers/d.py::other": {"seconds": 0.0, "reached": ["solvers/fixed_point.py::anderson"]},
    }
    names, seconds = mutants.tests_for(mutant, reach, 60)
    assert names == ["tests/solvers/c.py::quick", "tests/solvers/b.py::slow", "tests/model/a.py::far"]
    assert seconds == pytest.approx(6.1)
    assert mutants.tests_for(mutant, reach, 2)[0] == names[:1]
    constant = mutants.Mutant(FILE, 0, 0, "", 1, "")
    assert len(mutants.tests_for(constant, reach, 60)[0]) == 4


def test_a_mutant_that_a_test_notices_is_killed_and_another_survives(tmp_path, capfd):
    """The whole of it on one small file: what `map` finds, `run` tries and `report` tells."""
    where = ("--output", tmp_path, "--folders", "data", "--tests", "data/test_metrics.py")
    assert run(mutants.main, "map", *where) == 0
    reach = json.loads((tmp_path / "map.json").read_text())
    assert any("data/metrics.py::f1" in r for found in reach.values() for r in found["reached"])
    assert all(found["seconds"] < 5 for found in reach.values())
    of = {m.what: m for m in mutants.mutants_of("nanospike/data/metrics.py") if m.function == "f1"}
    tests, seconds = mutants.tests_for(of["2 -> 3"], reach, 60)
    assert mutants.outcome(of["2 -> 3"], tests, seconds) == "killed"
    unseen = mutants.Mutant("nanospike/data/metrics.py", of["2 -> 3"].place, of["2 -> 3"].choice, "rmse", 1, "2 -> 3")
    harmless = [t for t, found in reach.items() if "data/metrics.py::f1" not in found["reached"]]
    assert mutants.outcome(unseen, harmless, 1.0) == "survived" and mutants.outcome(unseen, [], 0.0) == "no test"
    lines = [asdict(of["2 -> 3"]) | {"outcome": "killed"}, asdict(unseen) | {"outcome": "survived"}]
    (tmp_path / "results-1-of-1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    capfd.readouterr()
    assert run(mutants.main, "report", *where) == 0
    told = capfd.readouterr().out.splitlines()
    assert told[0].split() == ["data", "1", "of", "2", "50.0", "%"]
    assert told[-1] == "survived: nanospike/data/metrics.py:1 rmse: 2 -> 3"
    assert run(mutants.main, "walk", *where) == 2


def test_what_is_wrong_without_any_change_is_no_kill(monkeypatch):
    """Tests that fail as they are, or that pytest cannot run, must not seem to notice anything."""
    tests = ["tests/data/test_metrics.py::test_that_is_not_there"]
    assert mutants.outcome(None, tests, 1.0) == "error"
    with pytest.raises(InputError, match="found error without any change"):
        mutants._require_sound({tests[0]: {"seconds": 0.1, "reached": []}})
