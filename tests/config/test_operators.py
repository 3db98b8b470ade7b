"""The names of operators that are shifts."""

import pytest

from nanospike.config.errors import InputError
from nanospike.config.operators import OPERATORS, chosen, named


@pytest.mark.parametrize(
    "value, names, text",
    [
        ("float", (), "float"),
        ("shift", OPERATORS, "shift"),
        (["shift"], OPERATORS, "shift"),
        ("relu,query", ("query", "relu"), "query,relu"),
        (("norm", "softmax", "norm"), ("softmax", "norm"), "softmax,norm"),
        (list(reversed(OPERATORS)), OPERATORS, "shift"),
    ],
)
def test_every_way_to_write_them(value, names, text):
    assert chosen(value) == names and named(value) == text and chosen(named(value)) == names


@pytest.mark.parametrize("value", ["", [], "gelu", "shift,relu", 3, None, ["norm", 1]])
def test_anything_else_is_an_error_that_lists_them(value):
    with pytest.raises(InputError, match="embedding-norm"):
        chosen(value)
