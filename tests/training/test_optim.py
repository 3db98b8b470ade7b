"""AdamW against its published equations, and the row-sparse update against the dense one."""

import numpy as np
import pytest

from nanospike.arrays.backend import to_device, to_host
from nanospike.arrays.tree import RowSum
from nanospike.arrays.workers import Workers
from nanospike.model import twins
from nanospike.training.optim import CHUNK, AdamW, Diverged, evenly_shared, global_norm, linear_schedule


def reference(p, gradients, rate, decay, b1=0.9, b2=0.999, eps=1e-8):
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        p = p - rate * decay * p - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return p


@pytest.mark.parametrize("name, decay", [("a.weight", 0.1), ("a.bias", 0.0), ("a.LayerNorm.weight", 0.0)])
def test_published_equations(name, decay, xp, device):
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal((3, CHUNK // 2)), rng.standard_normal((4, 3, CHUNK // 2))
    parameter = to_device(start.copy(), device)
    optimizer = AdamW({name: parameter}, weight_decay=0.1)
    for g in gradients:
        norm = optimizer.update({name: to_device(g, device)}, 1e-2)
        assert norm == pytest.approx(np.linalg.norm(g))
    assert type(parameter) is type(xp.zeros(1))
    np.testing.assert_allclose(to_host(parameter), reference(start, gradients, 1e-2, decay), rtol=1e-10)


def test_compiled_equals_the_portable_update():
    pytest.importorskip("numba", reason="the extra `fast` is not installed")
    found = []
    for fast in (True, False):
        rng = np.random.default_rng(4)
        parameters = {n: rng.standard_normal((40, 33)).astype("f") for n in ("a.weight", "a.bias", "e.weight")}
        optimizer = AdamW(parameters, weight_decay=0.1)
        twins.use_fast(fast)
        for _ in range(4):
            rows = RowSum((40, 33))
            rows.add(rng.integers(0, 20, 30), rng.standard_normal((30, 33)).astype("f"))
            grads = {n: rng.standard_normal((40, 33)).astype("f") for n in ("a.weight", "a.bias")}
            optimizer.update(grads | {"e.weight": rows}, 1e-2, 1.0)
        twins.use_fast(False)
        found.append(parameters | {f"{n}.{i}": m for n, pair in optimizer.moments.items() for i, m in enumerate(pair)})
    for name, value in found[1].items():
        np.testing.assert_allclose(found[0][name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_clipping_scales_the_whole_gradient():
    rng = np.random.default_rng(1)
    grads = {n: 10 * rng.standard_normal((4, 4)) for n in ("a.weight", "b.weight")}
    clipped, scaled = ({n: np.ones((4, 4)) for n in grads} for _ in range(2))
    norm = AdamW(clipped).update(grads, 0.1, max_norm=1.0)
    AdamW(scaled).update({n: g / norm for n, g in grads.items()}, 0.1)
    for n in grads:
        np.testing.assert_allclose(clipped[n], scaled[n], rtol=1e-12)


def test_rows_of_the_batch_move_as_in_the_dense_update_and_no_others(xp, device):
    rng = np.random.default_rng(2)
    table = rng.standard_normal((10, 3))
    rows = RowSum((10, 3))
    rows.add(to_device(np.array([4, 1, 4]), device), to_device(rng.standard_normal((3, 3)), device))
    rows.add(to_device(np.array([7, 1]), device), to_device(rng.standard_normal((2, 3)), device))
    sparse, dense = to_device(table.copy(), device), to_device(table.copy(), device)
    gradient = rows.dense()
    AdamW({"e.weight": sparse}).update({"e.weight": rows}, 0.1)
    AdamW({"e.weight": dense}).update({"e.weight": gradient}, 0.1)
    touched = [1, 4, 7]
    np.testing.assert_allclose(to_host(sparse)[touched], to_host(dense)[touched], rtol=1e-12)
    untouched = [i for i in range(10) if i not in touched]
    assert np.array_equal(to_host(sparse)[untouched], table[untouched])
    assert type(sparse) is type(xp.zeros(1))


def test_row_sums_add_up():
    rows = RowSum((5, 2))
    rows.add(np.array([3, 0, 3]), np.array([[1.0, 2], [3, 4], [5, 6]]))
    assert np.array_equal(rows.dense(), [[3, 4], [0, 0], [0, 0], [6, 8], [0, 0]])
    rows.add(np.array([0]), np.array([[1.0, 1]]))
    indices, sums = rows.rows()
    assert indices.tolist() == [0, 3] and sums.tolist() == [[4, 5], [6, 8]]


def test_norm_counts_summed_rows():
    rows = RowSum((5, 2))
    rows.add(np.array([1, 1]), np.array([[1.0, 0], [2.0, 0]]))
    assert global_norm({"e": rows, "b": np.array([4.0])}) == pytest.approx(5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    parameters = {"a.weight": np.ones((2, 2)), "b.weight": np.ones((2, 2))}
    optimizer = AdamW(parameters)
    with pytest.raises(Diverged, match="gradient norm is .* at update 1"):
        optimizer.update({"a.weight": np.ones((2, 2)), "b.weight": np.full((2, 2), bad)}, 0.1)
    assert optimizer.step == 0 and all(np.all(p == 1) for p in parameters.values())


def of_norm(norm):
    return {"a.weight": np.full((2, 2), norm / 2)}


def learnt(norms, max_norm=1.0):
    """An AdamW after updates with these norms."""
    optimizer = AdamW({"a.weight": np.ones((2, 2))})
    for norm in norms:
        optimizer.update(of_norm(norm), 0.1, max_norm)
    return optimizer


USUAL = (5e3, 1.0, 0.0, *8 * [1.0])  # before there is a usual norm, anything goes


@pytest.mark.parametrize("max_norm", [1.0, None])
def test_gradients_that_explode_five_times_in_a_row_are_a_divergence(max_norm):
    """A thousand times the usual norm, of ten updates at least; what the norm shrinks by does not matter."""
    optimizer = learnt(USUAL, max_norm)
    usual, parameter = np.exp(optimizer.log_norm), optimizer.parameters["a.weight"]
    for _ in range(4):
        optimizer.update(of_norm(1001 * usual), 0.1, max_norm)
    before, moments = parameter.copy(), optimizer.moments["a.weight"][0].copy()
    with pytest.raises(
        Diverged, match=f"is .* at update 16, the 5th .* in a row, {usual:.3g} before; lower --learning"
    ):
        optimizer.update(of_norm(1001 * usual), 0.1, max_norm)
    assert optimizer.step == 15 and np.array_equal(parameter, before)
    assert np.array_equal(optimizer.moments["a.weight"][0], moments) and np.exp(optimizer.log_norm) == usual


def test_one_large_gradient_now_and_then_is_clipped_and_forgotten():
    """As of the one wrong label of a set that is known by heart."""
    optimizer = learnt([*20 * [0.01], *3 * [*4 * [24.0], 0.01]])
    assert optimizer.step == 35 and optimizer.exploded == 0
    np.testing.assert_allclose(np.exp(optimizer.log_norm), 0.01)


@pytest.mark.parametrize("times", [999, 1001])
def test_a_thousand_times_is_the_line(times):
    optimizer = learnt(USUAL)
    optimizer.update(of_norm(times * np.exp(optimizer.log_norm)), 0.1, 1.0)
    assert optimizer.exploded == (times > 1000)


@pytest.mark.parametrize("max_norm, harmless, harmful", [(1.0, 0.999, 1.001), (5.0, 4.999, 5.001), (0, 0.999, 1.001)])
def test_what_is_not_clipped_alarms_nobody(max_norm, harmless, harmful):
    """A run that starts at its optimum: 0.175 after 0.0001 is learning. Without clipping, up to 1."""
    assert learnt([*20 * [1e-4], *50 * [harmless]], max_norm).step == 70
    with pytest.raises(Diverged):
        learnt([*20 * [1e-4], *5 * [harmful]], max_norm)


def test_schedule():
    factors = [linear_schedule(s, 10, 4) for s in range(10)]
    np.testing.assert_allclose(factors, [0.25, 0.5, 0.75, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert linear_schedule(0, 5, 0) == 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_of_about_as_many_numbers(count):
    rows = RowSum((50, 4))
    rows.add(np.array([1, 3]), np.ones((2, 4)))
    rows.add(np.array([1]), np.ones((1, 4)))
    sizes = {"large": 20, "rows": rows.size, "middle": 10, **{str(i): 1 for i in range(6)}}
    shares = evenly_shared(sizes, count)
    assert sorted(n for names in shares for n in names) == sorted(sizes) and len(shares) == count
    loads = [sum(sizes[n] for n in names) for names in shares]
    assert sum(loads) == 48 and max(loads) == {1: 48, 2: 24, 3: 20}[count]
    assert evenly_shared({"one": 3}, count) == [["one"]] and evenly_shared({}, count) == []


def test_small_parameters_move_at_once_as_they_would_alone():
    """Moments are slices of one array, by decay and dtype; where a gradient is of rows, or none, each moves alone."""
    rng = np.random.default_rng(5)
    shapes = {"a.weight": (3, 4), "a.bias": (4,), "b.weight": (300, 300), "c.weight": (5, 2), "LayerNorm.weight": (7,)}
    start = {n: rng.standard_normal(s).astype("f") for n, s in shapes.items()} | {"d.bias": rng.standard_normal(3)}
    together, alone = ({n: p.copy() for n, p in start.items()} for _ in range(2))
    several, single = AdamW(together), {n: AdamW({n: p}) for n, p in alone.items()}
    assert [group.names for group in several.together] == [
        ["a.weight", "c.weight"],
        ["a.bias", "LayerNorm.weight"],
        ["d.bias"],
    ]
    for update in range(4):
        grads = {n: rng.standard_normal(p.shape).astype(p.dtype) for n, p in start.items()}
        if update == 1:
            del grads["c.weight"]
        if update == 2:
            rows = RowSum((3, 4))
            rows.add(np.array([1]), np.ones((1, 4), "f"))
            grads["a.weight"] = rows
        for optimizer in single.values():
            optimizer.step = several.step
        several.update(grads, 1e-2)
        for n, g in grads.items():
            single[n].update({n: g}, 1e-2)
        for n, p in together.items():
            np.testing.assert_array_equal(p, alone[n], err_msg=f"{n}, update {update}")
            for mine, theirs in zip(several.moments[n], single[n].moments[n], strict=True):
                np.testing.assert_array_equal(mine, theirs, err_msg=n)
    assert several.moments["c.weight"][0].base is several.moments["a.weight"][0].base


def test_any_number_of_workers_updates_to_the_same_bits():
    rng, found = np.random.default_rng(0), []
    start = {f"{i}.weight": rng.standard_normal(i + 1).astype(np.float32) for i in range(9)}
    grads = {n: rng.standard_normal(p.shape).astype(np.float32) for n, p in start.items()}
    for size in (1, 2, 3):
        parameters = {n: p.copy() for n, p in start.items()}
        optimizer = AdamW(parameters)
        norms = [optimizer.update(grads, 1e-2, 1.0, Workers(size)) for _ in range(3)]
        found.append((norms, {n: p.tobytes() for n, p in parameters.items()}))
    assert found[0] == found[1] == found[2]
