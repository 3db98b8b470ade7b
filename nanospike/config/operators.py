"""Which operators of a student are shifts instead of multiplications: one name per part, "float" where none is.

query            queries are spikes of a seventh population, not currents
softmax          powers of two in the place of exponentials and of their sum
norm             the two normalisations of an encoder divide by a power of two near the mean size
embedding-norm   so does that of the embedding
relu             no GELU: intermediate rates stay in [0, 1], also where spikes are signed
"""

import functools

from .errors import InputError

OPERATORS = ("query", "softmax", "norm", "embedding-norm", "relu")
FLOAT, SHIFT = "float", "shift"


def chosen(value):
    """The operators that are shifts, in the order of OPERATORS, of "float", "shift", "softmax,norm" or a list."""
    return _named_in(value) if isinstance(value, str) else _chosen(value, value)


@functools.lru_cache
def _named_in(value):
    return _chosen(value.split(","), value)


def _chosen(names, value):
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(n, str) for n in names):
        raise InputError(f"operators: found {value!r}, expected {_expected()}")
    names = [n.strip() for n in names]
    if names in ([FLOAT], [SHIFT]):
        return OPERATORS if names == [SHIFT] else ()
    if unknown := [n for n in names if n not in OPERATORS]:
        raise InputError(f"operators: found {', '.join(map(repr, unknown))}, expected {_expected()}")
    return tuple(n for n in OPERATORS if n in names)


def named(value):
    """The one way to write what `chosen` reads: "float", "shift" (all of them) or the names with commas."""
    names = chosen(value)
    return {(): FLOAT, OPERATORS: SHIFT}.get(names, ",".join(names))


def _expected():
    return f"{FLOAT}, {SHIFT} or some of {', '.join(OPERATORS)}"
