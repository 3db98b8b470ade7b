"""Which small mistakes can be planted in nanospike, and the source with one of them. Used by mutants.py."""

import ast
import random
import types
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from importlib.util import spec_from_loader
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


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


def source_tree(mutant):
    return ast.parse((ROOT / mutant.module).read_text(encoding="utf-8"))


def changed_tree(mutant):
    """The syntax tree of the mutant's module with the change in it."""
    tree = source_tree(mutant)
    node = next(n for i, n in enumerate(ast.walk(tree)) if i == mutant.place)
    _, change = list(changes_of(node))[mutant.choice]
    replaced = change(node)
    if replaced is not None:
        tree = Replace(node, ast.copy_location(replaced, node)).visit(tree)
    return ast.fix_missing_locations(tree)


def changed_source(mutant):
    return ast.unparse(changed_tree(mutant))


def changed_codes(mutant):
    """(before, after): the code of the outermost function around the change; None if the change is in no such code, but
    in what is done when the module is imported (a constant, a default), or if the name stands for several functions."""
    outer = mutant.function.partition(".<locals>")[0]
    trees = source_tree(mutant), changed_tree(mutant)
    found = [[c for c in codes_in(compile(t, ROOT / mutant.module, "exec")) if c.co_qualname == outer] for t in trees]
    if not outer or [len(codes) for codes in found] != [1, 1]:
        return None
    (before,), (after,) = found
    return (before, after) if before != after and before.co_freevars == after.co_freevars else None


def codes_in(code):
    """The code objects of functions and classes within one, at any depth."""
    for inner in (c for c in code.co_consts if isinstance(c, types.CodeType)):
        yield inner
        yield from codes_in(inner)


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
