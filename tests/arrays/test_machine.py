"""What is said of a machine: quotas in both kinds of cgroup, variables that slow it, and the remedy for a GPU."""

import stat

import pytest

from nanospike.arrays import machine
from nanospike.arrays.backend import device_state


@pytest.mark.parametrize(
    "files, quota",
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "200000\n"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": ""}, None),
        ({}, None),
    ],
)
def test_the_quota_of_a_container(files, quota, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(
    "variables, said",
    [
        ({"OPENBLAS_CORETYPE": "Haswell"}, "OPENBLAS_CORETYPE=Haswell"),
        ({"OMP_NUM_THREADS": "9"}, "OMP_NUM_THREADS=9: more threads than the 4 cores"),
        ({"OPENBLAS_NUM_THREADS": "5"}, "OPENBLAS_NUM_THREADS=5"),
        ({"NPY_DISABLE_CPU_FEATURES": "AVX2"}, "NPY_DISABLE_CPU_FEATURES=AVX2"),
        ({"TOKENIZERS_PARALLELISM": "false"}, "TOKENIZERS_PARALLELISM"),
        ({"PYTHONMALLOC": "malloc_debug"}, "PYTHONDEVMODE or PYTHONMALLOC"),
    ],
)
def test_a_variable_that_slows_is_named(variables, said):
    (line,) = machine.slowed_by(variables, 4)
    assert line.startswith(said) and "unset it" in line


def test_variables_that_do_no_harm_are_not_named():
    assert machine.slowed_by({"OMP_NUM_THREADS": "4", "TOKENIZERS_PARALLELISM": "true", "OMP_SCHEDULE": "x"}, 4) == []


LOST = {"usable": False, "problem": "no kernel image"}


@pytest.mark.parametrize(
    "wheels, driver, said",
    [
        ([], None, "no NVIDIA driver answers"),
        ([], (12, 4), "the driver knows CUDA 12.4: pip install 'cupy-cuda12x'"),
        ([], (13, 0), "pip install 'cupy-cuda13x'"),
        ([], (14, 1), "pip install 'cupy-cuda13x'"),
        ([], (11, 8), "pip install 'cupy-cuda11x<14'"),
        ([], (10, 2), "update it"),
        (["cupy-cuda13x"], (12, 4), "does not fit a driver of CUDA 12.4: pip uninstall cupy-cuda13x, then pip install"),
        (["cupy-cuda11x", "cupy-cuda12x"], (12, 4), "in each other's way"),
        (["cupy-cuda12x"], (12, 4), "no kernel image"),
        (["cupy"], (12, 4), "no kernel image"),
    ],
)
def test_the_remedy_for_a_gpu(wheels, driver, said):
    assert said in machine.remedy(wheels, driver, LOST)
    assert machine.remedy(wheels, driver, {"usable": True}) is None


def test_what_the_driver_says_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.driver_cuda() is None
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '| NVIDIA-SMI 570.1  Driver Version: 570.1  CUDA Version: 12.8 |'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert machine.driver_cuda() == (12, 8)
    program.write_text("#!/bin/sh\nexit 9\n")
    assert machine.driver_cuda() is None


def test_the_device_is_usable_or_a_reason_is_given():
    state = device_state()
    assert state["usable"] or state["problem"]
    assert (machine.gpu()["remedy"] is None) == state["usable"]


def test_blas_and_processor_of_this_machine():
    blas, cpu = machine.blas(), machine.processor()
    assert blas["name"] and (blas["threads"] is None or blas["threads"] >= 1)
    assert blas["threads"] is None or blas["kernel"], "an OpenBLAS that has threads has a kernel"
    assert 1 <= cpu["usable"] <= cpu["cores"]
