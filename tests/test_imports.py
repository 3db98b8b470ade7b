"""Who imports whom: modules only from the rows above them, cupy in one file, and nothing slow at import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nanospike

PACKAGE = Path(nanospike.__file__).resolve().parent
ROOT = PACKAGE.parent
REPOSITORY = Path(__file__).resolve().parents[1]
ORDER = [
    ["config"],
    ["backend", "workers", "progress", "rows"],
    ["tree", "checkpoint", "solution"],
    ["ops", "neuron", "optim", "text", "report", "metrics", "cache", "fixedpoint", "krylov", "library", "spide"],
    ["loss", "simulate", "tasks", "bert", "corpus", "linear", "parallel", "recurrence", "resume"],
    ["train", "solve"],
    ["spiking_bert", "stability", "models", "monitor", "teacher_cache"],
    ["student"],
    ["inference", "teaching", "fresh"],
    ["initial"],
    ["glue"],
    ["distill_options"],
    ["distill", "finetune", "evaluate", "predict"],
]
RANK = {name: row for row, names in enumerate(ORDER) for name in names}
MODULES = sorted(p.stem for p in PACKAGE.glob("*.py") if p.stem not in ("__init__", "__main__"))
FOREIGN = {"torch", "transformers", "sklearn", "pandas", "tensorflow", "jax"}


def imports(path):
    """(module, names, level) of every import statement, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, (), 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", tuple(alias.name for alias in node.names), node.level


def siblings(path):
    """The modules of the package that a file of the package imports."""
    for module, names, level in imports(path):
        if level == 0 and module.partition(".")[0] == "nanospike":
            level, module = 1, module.partition(".")[2]
        if level:
            assert level == 1, f"{path.name}: relative import from above the package"
            yield from [module.partition(".")[0]] if module else [n for n in names if n in MODULES]


def tops(path):
    """The names of the top-level packages that a file imports."""
    return {module.partition(".")[0] for module, _, level in imports(path) if level == 0}


def test_the_order_names_every_module_once():
    named = [name for row in ORDER for name in row]
    assert sorted(named) == MODULES, "a module has no row, or two: give it one in ORDER"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_the_rows_above(name):
    for target in siblings(PACKAGE / f"{name}.py"):
        assert RANK[target] < RANK[name], f"{name} may not import {target}"


def test_nobody_imports_a_command():
    for name in MODULES:
        assert not set(ORDER[-1]) & set(siblings(PACKAGE / f"{name}.py")), name
    assert not set(ORDER[-1]) & set(siblings(PACKAGE / "__init__.py"))


def test_only_the_backend_imports_cupy():
    assert [p.stem for p in PACKAGE.glob("*.py") if tops(p) & {"cupy", "cupyx"}] == ["backend"]
    strings = [p.stem for p in PACKAGE.glob("*.py") if "import_module" in p.read_text(encoding="utf-8")]
    assert not strings, "an import by name hides from this test"


def test_nothing_in_the_repository_imports_another_framework():
    paths = [p for folder in ("nanospike", "tests", "tools", "weights") for p in (REPOSITORY / folder).rglob("*.py")]
    assert len(paths) > 30
    guilty = {str(p.relative_to(REPOSITORY)): tops(p) & FOREIGN for p in paths if tops(p) & FOREIGN}
    assert guilty.keys() <= {"tools/make_golden.py", "tools/bench_torch.py"}, guilty


LATE = "scipy scipy.stats scipy.sparse matplotlib tqdm huggingface_hub torch tokenizers safetensors cupy mpi4py".split()


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
    assert nanospike.__version__.count(".") == 2


def test_optional_packages_are_never_needed_at_the_top_of_a_module():
    optional = {
        "cupy",
        "cupyx",
        "mpi4py",
        "matplotlib",
        "tqdm",
        "huggingface_hub",
        "tokenizers",
        "safetensors",
        "scipy",
    }
    for path in PACKAGE.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "") or ""]
            )
            assert not {n.partition(".")[0] for n in names} & optional, f"{path.name} imports {names} at its top"
