"""Fixtures: every test with `xp` runs on NumPy and on CuPy, where there is none on its strict stand-in."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is loaded, here and in what tests start: the products
# of tests are too small for more, and threads that wait for one another take the core that another worker needs

import numpy as np
import pytest
import strict_cupy
from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci")


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_disk():
    """Tests write many small files; that they are synchronised is the matter of one (test_cache.py)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def cupy():
    """CuPy if it can be used here (a GPU, or a host emulation), else the stand-in in its place."""
    try:
        import cupy

        if cupy.is_available():
            yield cupy
            return
    except ImportError:
        pass
    with pytest.MonkeyPatch.context() as patch:
        for name, module in strict_cupy.modules().items():
            patch.setitem(sys.modules, name, module)
        yield strict_cupy.cupy


@pytest.fixture(scope="session", params=["numpy", "cupy"])
def xp(request):
    """The array library, numpy or cupy."""
    return np if request.param == "numpy" else request.getfixturevalue("cupy")


@pytest.fixture(scope="session")
def device(xp):
    """The `device` option whose arrays are of `xp`."""
    return "cpu" if xp is np else "cuda"


@pytest.fixture(scope="session")
def data_root():
    """The folder with data/ and teachers/ that is not part of the repository: $NANOSPIKE_DATA, or ../shared."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("NANOSPIKE_DATA") or beside)
    if not folder.is_dir():
        pytest.skip(f"no data: {folder} is not there; set NANOSPIKE_DATA")
    return folder


@pytest.fixture
def compiled():
    """Blocks compiled by numba, where that is installed."""
    from nanospike.model import twins

    pytest.importorskip("numba", reason="the extra `fast` is not installed")
    twins.use_fast(True)
    yield
    twins.use_fast(False)


def check_owner(xp, *results):
    """Every array in `results` (arrays, or dicts and lists of them; None is let through) belongs to `xp`."""
    for result in results:
        if isinstance(result, dict):
            check_owner(xp, *result.values())
        elif isinstance(result, (list, tuple)):
            check_owner(xp, *result)
        elif result is not None:
            owner = type(result).__module__.partition(".")[0]
            assert owner == xp.__name__, f"an array came back as {owner}'s, expected {xp.__name__}'s"
