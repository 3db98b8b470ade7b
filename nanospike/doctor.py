"""python -m nanospike.doctor: what nanospike finds on this machine, what slows it, and how fast it is."""

import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from . import __version__
from .arrays import machine
from .arrays.backend import DEVICES, library, random_generator
from .arrays.workers import WORKERS_HELP, Workers
from .config.errors import InputError
from .config.options import option, parse, require_at_least
from .data.tasks import find_task, read_split
from .files.bundled import bundled
from .results.classifier import Classifier
from .start import command

NEEDED = ("numpy", "scipy", "tokenizers", "safetensors")
OPTIONAL = ("mpi4py", "matplotlib", "numba", "mkl", "onnx", "onnxruntime")
WIDTH = 768  # of the matrices that are multiplied: BERT-base's
TEXTS, STEPS = 64, 4  # of one reading of predictions


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Versions, BLAS, cores, GPU, what is bundled, and a reading of speed; with a remedy where something is wrong."""

    seconds: float = option("how long speed is measured; 0: not at all", 5.0)
    json: bool = option("print one JSON object instead", False)
    seed: int = option("of the random numbers that are multiplied", 0)
    device: str = option("whose speed is measured", "cpu", choices=DEVICES)
    workers: int = option(WORKERS_HELP, 0)

    def __post_init__(self):
        require_at_least(self, seconds=0, workers=0)


def versions():
    """{package: version, None of one that is not installed}."""
    found = {"nanospike": __version__, "python": platform.python_version()}
    for name in (*NEEDED, *OPTIONAL):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def contents():
    """{what: bytes of its files, None if it is not there} of what comes with the package."""
    found = {}
    for name in ("teacher", "student", "text"):
        try:
            found[name] = sum(p.stat().st_size for p in bundled(name).iterdir())
        except InputError:
            found[name] = None
    return found


def speed(options):
    """{product_gflops: of float32 matrices, texts_per_second: labelled by the bundled student at STEPS time steps}."""
    workers = Workers(options.workers, options.device)
    found = {"product_gflops": round(product_speed(options, workers), 1)}
    try:
        texts = read_split(find_task("opinions"), bundled("text"), "dev").texts[:TEXTS]
        classify = Classifier(bundled("student"), STEPS, options.device, options.workers)
    except InputError:
        return found | {"texts_per_second": None}
    return found | {"texts_per_second": round(len(texts) * repeated(lambda: classify(texts), options.seconds / 2), 1)}


def product_speed(options, workers):
    """GFLOP/s of products of square float32 matrices, one for each worker at a time, as nanospike computes."""
    xp = library(options.device)
    a = random_generator(xp, options.seed).standard_normal((WIDTH, WIDTH), dtype=xp.float32)
    product = lambda _: (a @ a)[0, 0].item()  # noqa: E731
    with workers.one_blas_thread():
        count = repeated(lambda: workers.map(product, range(workers.size)), options.seconds / 2)
    return count * workers.size * 2 * WIDTH**3 / 1e9


def repeated(work, seconds):
    """How often a second `work` can be done: the best tenth of `seconds`, after once that is not counted."""
    work()
    rates, end = [], time.perf_counter() + seconds
    while not rates or time.perf_counter() < end:
        began, count = time.perf_counter(), 0
        while not count or time.perf_counter() - began < seconds / 10:
            work()
            count += 1
        rates.append(count / (time.perf_counter() - began))
    return max(rates)


def examination(options):
    """All that is found, as JSON can hold it."""
    cpu = machine.processor()
    found = {
        "versions": versions(),
        "blas": machine.blas(),
        "processor": cpu,
        "gpu": machine.gpu(),
        "bundled": contents(),
        "warnings": machine.slowed_by(os.environ, cpu["usable"]),
    }
    found["warnings"] += advice(found)
    return found | ({"speed": speed(options)} if options.seconds else {})


def advice(found):
    """Lines about what is wrong with what was found, and what to do."""
    lines, cpu, blas = [], found["processor"], found["blas"]
    if missing := [name for name in NEEDED if found["versions"][name] is None]:
        lines.append(f"not installed: {', '.join(missing)}; pip install {' '.join(missing)}")
    if cpu["quota"] and cpu["quota"] < cpu["usable"]:
        lines.append(
            f"the container may use {cpu['quota']:g} cores' worth of time, {cpu['usable']} are seen: give --workers "
            f"{max(1, int(cpu['quota']))}"
        )
    if blas["threads"] is None:
        lines.append(f"BLAS is {blas['name']}, whose threads cannot be limited: one worker does it all")
    if absent := [name for name, size in found["bundled"].items() if size is None]:
        lines.append(f"not installed: the bundled {', '.join(absent)}; commands need --model, --teacher, --data-dir")
    if len(found["gpu"]["cupy"]) > 1:
        lines.append(f"several CuPy packages: {', '.join(found['gpu']['cupy'])}; keep one")
    return lines


def shown(found):
    """The examination as lines of text."""
    names, blas, cpu, gpu = found["versions"], found["blas"], found["processor"], found["gpu"]
    quota = "no quota" if cpu["quota"] is None else f"a quota of {cpu['quota']:g}"
    device = gpu["device"]
    if device["usable"]:
        graphics = (
            f"{device['name']}, {device['memory'] / 2**30:.0f} GiB, CUDA {device['runtime']}, CuPy {device['cupy']}"
        )
    else:
        graphics = f"none that can be used; {gpu['remedy']}"
    lines = {
        "versions": ", ".join(f"{n} {v}" for n, v in names.items() if v),
        "not installed": ", ".join(n for n, v in names.items() if not v),
        "BLAS": f"{blas['name']} {blas['version']}, kernel {blas['kernel']}, {blas['threads']} threads",
        "processor": f"{platform.machine()}, {cpu['cores']} cores, {cpu['usable']} of them usable, {quota}",
        "GPU": graphics,
        "bundled": ", ".join(f"{n} {s / 1e6:.1f} MB" for n, s in found["bundled"].items() if s is not None),
    }
    if "speed" in found:
        texts = found["speed"]["texts_per_second"]
        lines["speed"] = f"{found['speed']['product_gflops']:g} GFLOP/s in float32 products"
        lines["speed"] += f", {texts:g} texts a second by the bundled student at T = {STEPS}" if texts else ""
    return [f"{name:<14}{text}" for name, text in lines.items() if text] + [f"warning: {w}" for w in found["warnings"]]


def main(argv=None):
    options = parse(Doctor, argv, prog="python -m nanospike.doctor")
    library(options.device)
    found = examination(options)
    print(json.dumps(found, indent=2) if options.json else "\n".join(shown(found)))


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
