"""--fast and --precision: what they choose, what is said, what is refused."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import run

from nanospike import evaluate, finetune
from nanospike.arrays import backend
from nanospike.arrays.backend import has_kernels, product, set_precision
from nanospike.model import twins
from nanospike.start import accelerate

NUMBA = importlib.util.find_spec("numba") is not None


@pytest.fixture(autouse=True)
def as_before():
    yield
    twins.use_fast(False)
    set_precision("float32")


@pytest.mark.parametrize("fast", [True, False])
def test_fast_is_used_where_numba_is(capsys, fast):
    accelerate(SimpleNamespace(device="cpu", fast=fast, precision="float32"))
    said = capsys.readouterr().err
    assert twins.usable(np.zeros((2, 2), np.float32)) == (fast and NUMBA)
    assert ("compiled by numba" in said) == (fast and NUMBA)
    assert ("NumPy alone" in said) == (not fast) and (
        NUMBA or not fast or not said
    )  # what is not installed, `nanospike doctor` says
    assert not twins.usable(np.zeros((2, 2)))  # float64: portable


@pytest.mark.parametrize("main", [evaluate.main, finetune.main])
def test_a_precision_is_for_a_gpu(capsys, main, tmp_path):
    needed = ["--task", "sst-2", "--data-dir", tmp_path, "--model", tmp_path, "--output-dir", tmp_path / "out"]
    assert run(main, *needed, "--precision", "tf32") == 2
    assert "--precision tf32: for --device cuda, found cpu" in capsys.readouterr().err
    assert run(main, *needed, "--precision", "half") == 2


def test_a_precision_reaches_the_products(cupy, monkeypatch):
    if not has_kernels(cupy):
        pytest.skip("no GPU, and no emulation of one that runs kernels")
    from cupy_backends.cuda.libs import cublas

    asked, gemm = [], cublas.gemmEx
    monkeypatch.setattr(cublas, "gemmEx", lambda *arguments: asked.append(arguments[-2]) or gemm(*arguments))
    a = cupy.ones((3, 3), np.float32)
    for name in backend.PRECISIONS:
        accelerate(SimpleNamespace(device="cuda", fast=True, precision=name))
        product(a, a, cupy.empty_like(a))
    product(a.astype(float), a.astype(float), cupy.empty((3, 3)))
    assert asked == [68, 77, 75, 70]  # CUBLAS_COMPUTE_32F, _32F_FAST_TF32, _32F_FAST_16BF, _64F
