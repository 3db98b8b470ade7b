"""What the machine under the arrays is: BLAS and its kernel, cores and quota, the GPU; and what slows them down."""

import ctypes
import os
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, distributions, files
from pathlib import Path

import numpy as np

from .backend import device_state
from .workers import blas_threads, cores, cpu_quota

CORE_NAMES = ("scipy_openblas_get_corename64_", "openblas_get_corename64_", "openblas_get_corename")
WHEELS = {11: "cupy-cuda11x<14", 12: "cupy-cuda12x", 13: "cupy-cuda13x"}  # by the CUDA version that the driver knows


def blas():
    """{name, version, kernel, threads}: kernel and threads of OpenBLAS, None of another."""
    about = np.__config__.show(mode="dicts")["Build Dependencies"]["blas"]
    found = blas_threads()
    return {
        "name": about.get("name", "unknown"),
        "version": about.get("version", "unknown"),
        "kernel": _kernel(),
        "threads": found[0]() if found else None,
    }


def _kernel():
    """The processor that OpenBLAS computes for, such as SkylakeX; None where it cannot be asked."""
    try:
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)
    except (OSError, AttributeError):
        return None
    for name in CORE_NAMES:
        if hasattr(library, name):
            function = getattr(library, name)
            function.restype = ctypes.c_char_p
            return function().decode("ascii", "replace")
    return None


def processor():
    """{cores: of the machine, usable: by this process, quota: see cpu_quota}."""
    return {"cores": os.cpu_count(), "usable": cores(), "quota": cpu_quota()}


def mkl_library():
    """The path of MKL's library where the package `mkl` is installed, on Linux; else None."""
    try:
        listed = files("mkl") or ()
    except PackageNotFoundError:
        return None
    found = (Path(f.locate()) for f in listed if f.name.startswith("libmkl_rt.so"))
    return next((path.resolve() for path in found if path.exists()), None)


def has_amx():
    """Whether the processor multiplies bfloat16 tiles (AMX); None where the system does not say."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def slowed_by(environment, usable):
    """Lines about environment variables that make nanospike slower. usable: cores of this process."""
    found = []
    if kernel := environment.get("OPENBLAS_CORETYPE"):
        found.append(f"OPENBLAS_CORETYPE={kernel}: BLAS computes for that processor, not for this one; unset it")
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "GOTO_NUM_THREADS"):
        value = environment.get(name, "")
        if value.isdigit() and int(value) > usable:
            found.append(f"{name}={value}: more threads than the {usable} cores; they wait for each other; unset it")
    if features := environment.get("NPY_DISABLE_CPU_FEATURES"):
        found.append(f"NPY_DISABLE_CPU_FEATURES={features}: NumPy does without them; unset it")
    if environment.get("TOKENIZERS_PARALLELISM", "").lower() in ("false", "0", "off", "no", "n", "f"):
        found.append("TOKENIZERS_PARALLELISM is off: a corpus is tokenised on one core; unset it")
    if environment.get("PYTHONDEVMODE") or environment.get("PYTHONMALLOC", "").endswith("debug"):
        found.append("PYTHONDEVMODE or PYTHONMALLOC: Python checks every allocation; unset it")
    return found


def gpu():
    """{cupy: [installed wheels], driver_cuda, device: backend.device_state(), remedy}; remedy None: it can be used."""
    wheels = sorted({d.name for d in distributions() if (d.name or "").lower().startswith("cupy")})
    driver, device = driver_cuda(), device_state()
    return {"cupy": wheels, "driver_cuda": driver, "device": device, "remedy": remedy(wheels, driver, device)}


def driver_cuda():
    """The CUDA version that the NVIDIA driver knows, as nvidia-smi says it: (major, minor); None without a driver."""
    if not (program := shutil.which("nvidia-smi")):
        return None
    try:
        said = subprocess.run([program], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"CUDA Version:\s*(\d+)\.(\d+)", said)
    return tuple(map(int, version.groups())) if version else None


def remedy(wheels, driver, device):
    """What to do so that --device cuda works, one line; None if it does."""
    if device.get("usable"):
        return None
    if driver is None:
        return "no NVIDIA driver answers (nvidia-smi): --device cuda needs an NVIDIA GPU and its driver"
    known = [wheel for major, wheel in WHEELS.items() if major <= driver[0]]
    cuda = "CUDA {}.{}".format(*driver)
    if not known:
        return f"the driver knows {cuda}: update it, CuPy needs CUDA 11 at least"
    install = f"pip install '{known[-1]}'"
    if not wheels:
        return f"the driver knows {cuda}: {install}"
    if len(wheels) > 1:
        return f"{', '.join(wheels)} are in each other's way: uninstall all of them, then {install}"
    if wheels[0] not in (known[-1].partition("<")[0], "cupy"):
        return f"{wheels[0]} does not fit a driver of {cuda}: pip uninstall {wheels[0]}, then {install}"
    return f"{wheels[0]} is there, but finds no usable GPU: {device['problem']}"
