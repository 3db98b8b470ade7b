"""The fused blocks of a GPU against the portable graph on NumPy: values and gradients, for every kind of neuron."""

from dataclasses import replace

import numpy as np
import pytest
from models import LOOPS, random_batch, random_student, random_teacher

from nanospike.arrays.backend import has_kernels, joined, product, to_device, to_host
from nanospike.model import bert, equilibrium, twins

TOLERANCE = {"float32": 2e-4, "float64": 1e-10}
KINDS = {
    "binary": {},
    "signed": {"spikes": "signed"},
    "another threshold": {"v_th": 0.6},
    "ann": {"activation": "ann"},
    "feedback": LOOPS["full"],
    "lateral": LOOPS["lateral"],
    "shift operators": {"operators": "shift"},
}


@pytest.fixture
def gpu(cupy):
    if not has_kernels(cupy):
        pytest.skip("no GPU, and no emulation of one that runs kernels")
    return cupy


def compare(found, expected, dtype, what):
    largest = max(float(np.abs(expected).max()), 1e-3)
    np.testing.assert_allclose(to_host(found) / largest, expected / largest, atol=TOLERANCE[dtype], err_msg=what)


def results(make, teacher, device, **terms):
    """(loss, gradients, equilibrium) of a student on a batch."""
    student, batch = make(device), random_batch(device=device)
    target = random_teacher(device=device, dtype=teacher)(*batch)
    loss, grads = student.distill_gradients(batch[0], batch[1], target, batch[2], **terms)
    return loss, grads, student.equilibrium(*batch)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_portable_graph(gpu, kind, dtype):
    make = lambda device: random_student(device=device, dtype=dtype, **KINDS[kind])  # noqa: E731
    loss, grads, settled = results(make, dtype, "cuda")
    expected_loss, expected_grads, expected = results(make, dtype, "cpu")
    assert loss == pytest.approx(expected_loss, rel=TOLERANCE[dtype])
    assert settled.rates.keys() == expected.rates.keys()
    for name, rates in expected.rates.items():
        compare(settled.rates[name], rates, dtype, name)
    for i, scores in enumerate(expected.attention_scores):
        compare(settled.attention_scores[i], scores, dtype, f"scores {i}")
    for name, gradient in expected_grads.items():
        compare(grads[name], gradient, dtype, name)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_teacher_equals_the_portable_one(gpu, dtype):
    batch = {device: random_batch(device=device) for device in ("cpu", "cuda")}
    found, expected = (random_teacher(device=d, dtype=dtype)(*batch[d]) for d in ("cuda", "cpu"))
    for name in ("hidden_states", "attention_scores"):
        for i, (a, b) in enumerate(zip(getattr(found, name), getattr(expected, name), strict=True)):
            compare(a, b, dtype, f"{name} {i}")
    compare(found.logits, expected.logits, dtype, "logits")


def test_a_vjp_may_be_called_again(gpu):
    student, batch = random_student(device="cuda"), random_batch(device="cuda")
    network = equilibrium.Network.on(student.tree, student.config, *batch)
    trace = network.sweep(network.rate_neurons())
    rng = np.random.default_rng(0)
    dhidden = [to_device(rng.standard_normal(h.shape), "cuda") for h in trace.hidden_states]
    dscores = [to_device(rng.standard_normal(s.shape), "cuda") for s in trace.attention_scores]
    first = to_host(trace.vjp(list(dhidden), list(dscores), {}))
    assert np.array_equal(first, to_host(trace.vjp(list(dhidden), list(dscores))))
    assert np.abs(first).max() > 0


def test_where_a_twin_serves(gpu):
    def serves(encoder=0, flow=None, x=None, **changes):
        config = replace(student.config, **changes)
        network = equilibrium.Network.on(student.tree, student.config, *random_batch(device=student.device))
        flow = flow or bert.Flow(fire=network.rate_neurons())
        x, name = network.current if x is None else x, f"encoder.{encoder}"
        return twins.encoder(x, student.tree["encoder"]["layer"][encoder], config, flow, name) is not None

    student = random_student(device="cuda", thresholds=("encoder.1.key",))
    assert serves() and not serves(1)  # the second has thresholds that are parameters
    assert serves(flow=bert.Flow())
    assert not serves(flow=bert.Flow(drop=lambda x: (x, lambda dy: dy)))
    assert not serves(flow=bert.Flow(fire=lambda name, x: (x, None)))
    assert not serves(operators="softmax") and not serves(operators="norm") and not serves(operators="query")
    student = random_student()
    assert not serves(x=np.zeros((3, 5, 8)), flow=bert.Flow())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("stacked", [False, True])
def test_products(gpu, dtype, stacked):
    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.standard_normal((3, *shape) if stacked else shape).astype(dtype)  # noqa: E731
    for a, b, flags in (
        (draw(4, 5), draw(5, 6), {}),
        (draw(5, 4), draw(5, 6), {"transpose_a": True}),
        (draw(4, 5), draw(6, 5), {"transpose_b": True}),
    ):
        turned = lambda m, key, flags=flags: m.swapaxes(-1, -2) if flags.get(key) else m  # noqa: E731
        expected, start = turned(a, "transpose_a") @ turned(b, "transpose_b"), draw(4, 6)
        out = to_device(start.copy(), "cuda")
        given = to_device(a, "cuda"), to_device(b, "cuda")
        compare(product(*given, out, **flags), expected, dtype, str(flags))
        out[...] = to_device(start, "cuda")
        compare(product(*given, out, **flags, accumulate=True), start + expected, dtype, str(flags))


def test_joined_matrices_are_a_view(gpu):
    whole = gpu.arange(24, dtype=gpu.float32).reshape(6, 4)
    one = joined([whole[:2], whole[2:3], whole[3:]])
    one[4, 1] = -1
    assert float(whole[4, 1]) == -1 and one.shape == (6, 4)
    assert joined([whole[:2], whole[3:]]) is None
