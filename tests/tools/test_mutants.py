"""tools/mutants.py: each mutant is one change that compiles, is tried by the tests that reach it, and is told apart."""

import ast
import difflib
import gc
import json
import random

import forks
import mutants
import mutations
import pytest
from tiny import run

FILE = "nanospike/solvers/fixed_point.py"


def test_every_mutant_is_one_change_that_compiles():
    every = mutations.mutants_of(FILE)
    assert len(every) > 100 and len({(m.place, m.choice) for m in every}) == len(every)
    before = ast.unparse(ast.parse((mutations.ROOT / FILE).read_text(encoding="utf-8"))).splitlines()
    for mutant in random.Random(0).sample(every, 60):
        after = mutations.changed_source(mutant)
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
    nodes = mutations.functions_of(ast.parse(source))
    assert {what for node in nodes for what, _ in mutations.changes_of(node)} == whats


def test_functions_have_the_names_that_running_ones_have():
    source = "class A:\n    z = 1\n    def f(self):\n        def g():\n            return 2\n        return lambda: 3\n"
    names = {n.value: f for n, f in mutations.functions_of(ast.parse(source)).items() if isinstance(n, ast.Constant)}
    assert names == {1: "", 2: "A.f.<locals>.g", 3: "A.f"}


def test_tests_are_tried_near_first_quick_first_and_within_the_budget():
    mutant = mutations.Mutant(FILE, 0, 0, "iterate", 1, "")
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
    constant = mutations.Mutant(FILE, 0, 0, "", 1, "")
    assert len(mutants.tests_for(constant, reach, 60)[0]) == 4


def test_code_of_a_function_is_changed_where_it_is_held_and_what_an_import_does_is_told_apart(tmp_path, monkeypatch):
    source = "LIMIT = 2\ndef f(a, b=3):\n    def g(c):\n        return c + 4\n    return g(a) - b\n"
    (tmp_path / "nanospike").mkdir()
    (tmp_path / "nanospike" / "planted.py").write_text(source)
    monkeypatch.setattr(mutations, "ROOT", tmp_path)
    every = {m.what: m for m in mutations.mutants_of("nanospike/planted.py")}
    assert [mutations.changed_codes(every[what]) for what in ("2 -> 3", "3 -> 4")] == [None, None]
    module = {"__name__": "nanospike.planted"}
    exec(compile(source, "planted", "exec"), module)
    function = module["f"]
    assert function(1) == 2
    forks.put_in_place(every["4 -> 5"])
    assert function(1) == 3
    forks.put_in_place(every["Add -> Sub"])
    assert function(1) == -6
    del module["f"], function
    gc.collect()
    with pytest.raises(LookupError):
        forks.put_in_place(every["4 -> 5"])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with the map of one small file of tests."""
    place = tmp_path_factory.mktemp("mutants")
    assert run(mutants.main, "map", "--output", place, "--tests", "data/test_metrics.py") == 0
    return place


@pytest.fixture(scope="module")
def reach(place):
    return mutants.mapped(place / "map")


def test_mutants_that_a_test_notices_are_killed(place, reach, monkeypatch, capfd):
    """The whole of it on one small file: what `map` finds, `run` tries and `report` tells."""
    assert any("data/metrics.py::f1" in r for found in reach.values() for r in found["reached"])
    assert all(found["seconds"] < 5 for found in reach.values())
    every = [m for m in mutations.mutants_of("nanospike/data/metrics.py") if m.function == "f1"]
    of = {m.what: m for m in every}
    gone = "tests/data/test_metrics.py::test_that_is_not_there"
    (place / "map" / "gone.json").write_text(json.dumps({gone: {"seconds": 0.1, "reached": ["data/metrics.py::f1"]}}))
    monkeypatch.setattr(mutants, "drawn", lambda *options: [of["2 -> 3"], every[0]])
    assert run(mutants.main, "run", "--output", place, "--shard", "1/2") == 0
    told = capfd.readouterr().out
    assert f"1 of {len(reach) + 1} tests are not there any more, such as {gone}" in told
    (found,) = mutants.results_in(place / "results-1-of-2.jsonl")
    assert found["what"] == "2 -> 3" and found["outcome"] == "killed" and found["by"] in reach
    with open(place / "results-1-of-2.jsonl", "a") as file:
        file.write(json.dumps(found | {"place": 0, "function": "rmse", "outcome": "survived"}) + "\n")
    assert run(mutants.main, "report", "--output", place) == 0
    told = capfd.readouterr().out.splitlines()
    assert told[0].split() == ["data", "1", "of", "2", "50.0", "%"]
    assert told[-1] == f"survived: nanospike/data/metrics.py:{found['line']} rmse: 2 -> 3"
    assert run(mutants.main, "walk", "--output", place) == 2


def test_an_outcome_anew(reach):
    of = {m.what: m for m in mutations.mutants_of("nanospike/data/metrics.py") if m.function == "f1"}
    tests, seconds = mutants.tests_for(of["2 -> 3"], reach, 60)
    found, by = forks.outcome_anew(of["2 -> 3"], tests, seconds)
    assert found == "killed" and by in tests
    harmless = [t for t, found in reach.items() if "data/metrics.py::f1" not in found["reached"]]
    assert forks.outcome_anew(of["2 -> 3"], harmless[:2], 1.0) == ("survived", "")
    assert forks.outcome_anew(None, ["tests/data/test_metrics.py::test_that_is_not_there"], 1.0) == ("error", "")


def test_what_fails_without_any_change_is_no_kill(capfd):
    """A test that fails as it is must not seem to notice anything: it is left out, and said."""

    def outcome(mutant, names):
        return ("killed", "a::failing") if "a::failing" in names else ("survived", "")

    assert mutants.tried("mutant", ["a::passing", "a::failing"], outcome, set()) == ("survived", "")
    assert "fails without any change: a::failing" in capfd.readouterr().out
    assert mutants.tried("mutant", ["a::failing"], outcome, {"a::failing"}) == ("killed", "a::failing")
    assert mutants.tried("mutant", [], outcome, set()) == ("no test", "")
    trusted = set()
    assert mutants.tried("mutant", ["a::b"], lambda m, n: ("killed", "a::b") if m else ("survived", ""), trusted) == (
        "killed",
        "a::b",
    )
    assert trusted == {"a::b"}
