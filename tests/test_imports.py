"""Who imports whom: folders only from those below them, no circles, cupy in one file, and nothing slow at import."""

import ast
import functools
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nanospike

PACKAGE = Path(nanospike.__file__).resolve().parent
ROOT = PACKAGE.parent
REPOSITORY = Path(__file__).resolve().parents[1]
TOP = "commands"  # what stands beside the folders
FOLDERS = [TOP, "results", "training", "model", "data", "solvers", "files", "arrays", "config"]
RANK = {name: number for number, name in enumerate(FOLDERS)}
PATHS = {
    ".".join(p.relative_to(PACKAGE).with_suffix("").parts): p
    for p in sorted(PACKAGE.rglob("*.py"))
    if p.name != "__init__.py" and "weights" not in p.parts
}
COMMANDS = [n for n, p in PATHS.items() if "." not in n and "__main__" in p.read_text(encoding="utf-8")]
FOREIGN = {"torch", "transformers", "sklearn", "pandas", "tensorflow", "jax"}


@functools.cache
def imports(path):
    """[(module, names, level)] of every import statement, wherever it stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, (), 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", tuple(alias.name for alias in node.names), node.level))
    return found


def siblings(name, path):
    """The modules of the package that a module (name, path) imports."""
    for module, names, level in imports(path):
        if level == 0 and module.partition(".")[0] == "nanospike":
            base = module.split(".")[1:]
        elif level:
            base = [*name.split(".")[: -level or None], *module.split(".")] if module else name.split(".")[:-level]
        else:
            continue
        base = ".".join(base)
        found = [".".join(filter(None, (base, n))) for n in names]
        yield from {base if base in PATHS else f for f in found or [base]} & PATHS.keys()


def folder(name):
    return name.partition(".")[0] if "." in name else TOP


def tops(path):
    """The names of the top-level packages that a file imports."""
    return {module.partition(".")[0] for module, _, level in imports(path) if level == 0}


def test_every_folder_has_its_place_and_its_line():
    """In the order above, in the packages that the wheel contains, and a docstring that says what is in it."""
    folders = {folder(name) for name in PATHS}
    assert folders == set(FOLDERS)
    listed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(["nanospike", "nanospike.weights", *(f"nanospike.{f}" for f in folders - {TOP})])
    for name in folders - {TOP}:
        assert ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text(encoding="utf-8"))), name


@pytest.mark.parametrize("name", PATHS)
def test_a_module_imports_from_its_folder_and_those_below(name):
    for target in siblings(name, PATHS[name]):
        assert RANK[folder(target)] >= RANK[folder(name)], f"{name} may not import {target}"


def test_the_imports_are_found():
    """Else the tests here would pass on anything."""
    assert sum(len(set(siblings(n, p))) for n, p in PATHS.items()) > 150
    assert "model.equilibrium" in set(siblings("model.student", PATHS["model.student"]))
    assert "start" in set(siblings("distill", PATHS["distill"]))


def test_no_circles():
    waiting = {n: set(siblings(n, p)) for n, p in PATHS.items()}
    while waiting:
        free = {n for n, targets in waiting.items() if not targets & waiting.keys()}
        assert free, f"circles among {', '.join(waiting)}"
        waiting = {n: t for n, t in waiting.items() if n not in free}


def test_nobody_imports_a_command():
    assert {"distill", "finetune", "evaluate", "predict"} <= set(COMMANDS)
    for name, path in PATHS.items():
        assert not set(COMMANDS) & set(siblings(name, path)), name
    assert not set(COMMANDS) & set(siblings("__init__", PACKAGE / "__init__.py"))


def test_few_files_at_the_top():
    assert len(list(PACKAGE.glob("*.py"))) <= 20


def test_only_the_backend_imports_cupy():
    assert [n for n, p in PATHS.items() if tops(p) & {"cupy", "cupyx"}] == ["arrays.backend"]
    named = [n for n, p in PATHS.items() if "import_module" in p.read_text(encoding="utf-8")]
    assert set(named) <= {"__main__"}, "an import by name hides from this test"


def test_nothing_in_the_repository_imports_another_framework():
    paths = [p for folder in ("nanospike", "tests", "tools", "weights") for p in (REPOSITORY / folder).rglob("*.py")]
    assert len(paths) > 30
    guilty = {str(p.relative_to(REPOSITORY)): tops(p) & FOREIGN for p in paths if tops(p) & FOREIGN}
    reference = {f"tools/make_{kind}golden{more}.py" for kind, more in (("", ""), ("energy_", ""), ("", "_families"))}
    assert guilty.keys() <= reference | {"tools/bench_torch.py"}, guilty


LATE = "scipy scipy.stats scipy.sparse matplotlib onnx huggingface_hub torch tokenizers safetensors cupy mpi4py".split()


def test_import_is_light():
    """A command that only says --help, and a program that only names the package, wait for NumPy and no more."""
    code = f"import sys, nanospike; print([m for m in {LATE} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_what_the_package_offers_is_there():
    assert len(set(nanospike.__all__)) == len(nanospike.__all__)
    for name in nanospike.__all__:
        assert callable(getattr(nanospike, name)), name
    assert {"load_teacher", "load_student", "init_student", "predict", "solve_adjoint"} <= set(nanospike.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", nanospike.__version__)


def test_optional_packages_are_never_needed_at_the_top_of_a_module():
    for path in PATHS.values():
        compiled = path.name in (
            "fused_cpu.py",
            "fused_events.py",
            "fused_integer.py",
            "fused_shift.py",
            "half_products.py",
        )  # kernels for numba, imported late themselves
        optional = set(LATE) | {"cupyx"} | (set() if compiled else {"numba"})
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "") or ""]
            )
            assert not {n.partition(".")[0] for n in names} & optional, f"{path.name} imports {names} at its top"


def test_what_is_imported_from_the_package_is_there():
    """In the package, its tests and its tools: a name that moved is missed here, whatever else is run."""
    missing = []
    for path in [*PACKAGE.rglob("*.py"), *(REPOSITORY / "tests").rglob("*.py"), *(REPOSITORY / "tools").rglob("*.py")]:
        inside = PACKAGE in path.parents
        own = ("nanospike", *path.relative_to(PACKAGE).with_suffix("").parts) if inside else ()
        for module, names, level in imports(path):
            whole = ".".join((*own[: len(own) - level], *filter(None, [module]))) if level else module
            if whole.partition(".")[0] != "nanospike":
                continue
            try:
                found = importlib.import_module(whole)
            except ModuleNotFoundError as error:
                if error.name not in {*LATE, "numba"}:  # kernels import one another, and what is optional
                    raise
                continue
            for name in names:
                if not hasattr(found, name) and importlib.util.find_spec(f"{whole}.{name}") is None:
                    missing.append(f"{path.name}: {name} of {whole}")
    assert not missing
