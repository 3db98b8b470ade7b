"""Short parameter lists: what travels together is one record, and nothing hides behind **kwargs."""

import ast
from pathlib import Path

import nanospike

PACKAGE = Path(nanospike.__file__).resolve().parent
MOST = 7
NAMED = {"require_at_least", "Graph.node"}  # their keywords are names of others: of options, of ONNX's attributes
PUBLIC = {  # the public surface keeps its keywords
    "load_teacher", "load_student", "init_student", "predict", "solve_adjoint",
    "Student.distill_gradients", "Student.simulate", "Student.equilibrium", "Classifier.__init__", "Probe.__init__",
}  # fmt: skip


# numba's functions take arrays and numbers, no records
COMPILED = {f"arrays/fused_{name}.py" for name in ("cpu", "events", "integer", "shift")}


def functions(path):
    """(qualified name, node) of all functions of a file, those within others too."""
    waiting = [("", ast.parse(path.read_text(encoding="utf-8")))]
    while waiting:
        prefix, node = waiting.pop()
        for inner in ast.iter_child_nodes(node):
            name = f"{prefix}{inner.name}" if hasattr(inner, "name") and hasattr(inner, "body") else prefix.rstrip(".")
            if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield name, inner
            waiting.append((f"{name}." if name else "", inner))


def test_no_function_takes_more_than_a_few_parameters():
    long, hiding = [], []
    for path in sorted(PACKAGE.rglob("*.py")):
        for name, node in functions(path):
            a = node.args
            names = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs) if p.arg not in ("self", "cls")]
            where = f"{path.relative_to(PACKAGE)}: {name}"
            compiled = str(path.relative_to(PACKAGE)) in COMPILED and name.startswith("_")
            if name not in PUBLIC and len(names) > MOST and not compiled:
                long.append(f"{where} has {len(names)}")
            if a.kwarg is not None and name not in NAMED:
                hiding.append(f"{where} hides some in **{a.kwarg.arg}")
    assert not long and not hiding, "\n".join(long + hiding)
