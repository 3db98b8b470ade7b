"""The fused AdamW of a GPU against the portable one: numbers, clipping, judgement, checkpoints, launches."""

import numpy as np
import pytest

from nanospike import InputError
from nanospike.arrays.backend import has_kernels, to_device, to_host
from nanospike.arrays.tree import RowSum
from nanospike.data.text import Encoded
from nanospike.training.loop import Run, Stage
from nanospike.training.optim import JUDGED, AdamW, Diverged
from nanospike.training.optim_device import DeviceAdamW, optimizer_of
from nanospike.training.options import TrainingOptions

SHAPES = {
    "a.weight": (70, 65),
    "a.bias": (70,),
    "LayerNorm.weight": (5,),
    "big.weight": (129, 130),
    "e.weight": (40, 33),
}
DECAY = {"weight_decay": 0.1}


@pytest.fixture
def gpu(cupy):
    if not has_kernels(cupy):
        pytest.skip("no GPU, and no emulation of one that runs kernels")
    return cupy


def start(dtype, device):
    rng = np.random.default_rng(0)
    return {n: to_device(rng.standard_normal(s).astype(dtype), device) for n, s in SHAPES.items()}


def gradients(seed, dtype, device, names=tuple(SHAPES), scale=1.0):
    """Of some of the parameters; e.weight's in two RowSums with repeated rows."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: to_device((scale * rng.standard_normal(shape)).astype(dtype), device)  # noqa: E731
    grads = {n: draw(*SHAPES[n]) for n in names if n != "e.weight"}
    if "e.weight" in names:
        grads["e.weight"] = RowSum(SHAPES["e.weight"])
        for n in (50, 7):
            grads["e.weight"].add(to_device(rng.integers(0, 20, n), device), draw(n, 33))
    return grads


def host(arrays):
    return {n: to_host(a) for n, a in arrays.items()}


@pytest.mark.parametrize("dtype, rtol", [("float32", 2e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_equals_the_portable_update(gpu, dtype, rtol, clip):
    names = (tuple(SHAPES), ("a.weight", "e.weight"), ("big.weight", "a.bias"))  # what a loss does not touch stays
    one, other = start(dtype, "cuda"), start(dtype, "cpu")
    fused, portable = DeviceAdamW(one, **DECAY), AdamW(other, **DECAY)
    for step in range(6):
        norm = fused.update(gradients(step, dtype, "cuda", names[step % 3]), 1e-2, clip)
        expected = portable.update(gradients(step, dtype, "cpu", names[step % 3]), 1e-2, clip)
        assert float(norm) == pytest.approx(expected, rel=rtol)
    fused.check()
    assert fused.step == 6 and fused.log_norm == pytest.approx(portable.log_norm, rel=1e-5)
    for name, value in host(one).items():
        np.testing.assert_allclose(value, other[name], rtol=rtol, atol=rtol, err_msg=name)
        for mine, theirs in zip(fused.moments[name], portable.moments[name], strict=True):
            np.testing.assert_allclose(to_host(mine), theirs, rtol=rtol, atol=rtol, err_msg=name)


def test_the_same_gradients_give_the_same_bits(gpu):
    runs = []
    for _ in range(2):
        parameters = start("float32", "cuda")
        optimizer = DeviceAdamW(parameters)
        for step in range(3):
            optimizer.update(gradients(step, "float32", "cuda"), 1e-2, 1.0)
        runs.append(host(parameters))
    assert all(np.array_equal(runs[0][n], runs[1][n]) for n in SHAPES)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing_from_then_on(gpu, bad):
    parameters = start("float32", "cuda")
    optimizer = DeviceAdamW(parameters)
    optimizer.update(gradients(0, "float32", "cuda"), 1e-2)
    before, wrong = host(parameters), gradients(1, "float32", "cuda")
    wrong["big.weight"][3, 4] = bad
    optimizer.update(wrong, 1e-2)
    optimizer.update(gradients(2, "float32", "cuda"), 1e-2)
    assert all(np.array_equal(before[n], v) for n, v in host(parameters).items())
    with pytest.raises(Diverged, match="gradient norm is (nan|inf) at update 2"):
        optimizer.check()


def test_an_explosion_is_found_where_the_portable_one_finds_it(gpu):
    parameters, reference = start("float32", "cuda"), start("float32", "cpu")
    fused, portable = DeviceAdamW(parameters), AdamW(reference)
    scales = [1.0] * JUDGED + [1e6] * 6
    message = None
    for step, scale in enumerate(scales):
        fused.update(gradients(step, "float32", "cuda", scale=scale), 1e-3, 1.0)
        try:
            if message is None:
                portable.update(gradients(step, "float32", "cpu", scale=scale), 1e-3, 1.0)
        except Diverged as error:
            message = str(error)
    with pytest.raises(Diverged) as found:
        fused.check()
    assert message and str(found.value).split(" before")[0][-4:] == message.split(" before")[0][-4:]
    assert str(found.value).partition("at update")[2] == message.partition("at update")[2]
    for name, value in host(parameters).items():
        np.testing.assert_allclose(value, reference[name], rtol=1e-4, atol=1e-5)


def test_state_goes_through_a_checkpoint(gpu):
    parameters = start("float32", "cuda")
    optimizer = optimizer_of(parameters)
    assert isinstance(optimizer, DeviceAdamW)
    assert optimizer.log_norm is None and optimizer.step == 0
    optimizer.step, optimizer.log_norm = 7, 0.5
    assert optimizer.step == 7 and optimizer.log_norm == 0.5
    assert isinstance(optimizer_of({n: to_host(p) for n, p in parameters.items()}), AdamW)


def test_an_update_takes_few_launches_and_waits_for_nothing(gpu):
    hostcupy = pytest.importorskip("hostcupy", reason="launches are counted by an emulation of the GPU")
    parameters = start("float32", "cuda")
    optimizer, grads = DeviceAdamW(parameters), gradients(0, "float32", "cuda")
    optimizer.update(grads, 1e-2, 1.0)
    with hostcupy.measure() as counts:
        optimizer.update(grads, 1e-2, 1.0)
    assert counts.launches <= 8 and counts.d2h == 0 and counts.syncs == 0


def test_a_run_stops_at_the_next_line_of_its_log(gpu, tmp_path):
    """Update 4 is wrong, the log is read every 3: nothing moves from 4 on, and it is said after 6."""

    def learn(batches, seed, totals):
        bad = np.nan if seed[2] + 1 == 4 else 1.0
        grads = {"a.weight": gpu.ones((2, 2)), "b.bias": gpu.asarray([1.0, bad, 1.0])}
        return {"toy": gpu.asarray(1.0)}, grads, lambda: {"mean_rate": 0.5}

    parameters = {"a.weight": gpu.ones((2, 2)), "b.bias": gpu.zeros(3)}
    options = TrainingOptions(output_dir=tmp_path, batch_size=2, log_every=3, save_every=0, warmup=0.0, device="cuda")
    data = Encoded([np.array([i]) for i in range(24)], [np.array([0])] * 24)
    with pytest.raises(InputError, match="stage finetune, step 6: gradient norm is nan at update 4"):
        Run(options, parameters).train([Stage("finetune", data, learn, 1.0, 0.1)])
    expected = {"a.weight": np.ones((2, 2)), "b.bias": np.zeros(3)}
    reference = AdamW(expected)
    for step in range(3):
        reference.update({n: np.ones_like(p) for n, p in expected.items()}, 0.1 * (12 - step) / 12, 1.0)
    for name, value in host(parameters).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-12)
