"""Probes: what chosen neurons do in each time step of a simulation, kept in memory or, if that is too much, on disk."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..arrays.backend import namespace, to_host
from ..config.errors import InputError

WHAT = ("spikes", "membrane", "current", "rate")
LIMIT = 256 * 2**20  # bytes that a recording may take in memory
PART = 32 * 2**20  # bytes of one file, about, before it is compressed


@dataclass(frozen=True)
class Probe:
    """What to record of one population: a name as in `Student.equilibrium(...).rates`, "encoder.0.key" for one.

    what: of "spikes" (int8, -1, 0 or 1), "membrane" (what is left of it after the step's spike), "current" (what
    arrived in the step), "rate" (the ASR so far). examples, neurons: their indices, None for all. every: time steps
    from one record to the next; the first is step `every`. directory: where a recording of more than LIMIT bytes goes,
    as .npz files of bounded size; must be empty or absent.
    """

    population: str
    what: tuple = ("spikes",)
    examples: tuple | None = None
    neurons: tuple | None = None
    every: int = 1
    directory: str | Path | None = None

    def __post_init__(self):
        what = (self.what,) if isinstance(self.what, str) else tuple(self.what)
        object.__setattr__(self, "what", what)
        if not what or any(w not in WHAT for w in what) or len(set(what)) < len(what):
            raise InputError(f"probe {self.population}: what: found {what}, expected some of {', '.join(WHAT)}")
        if not isinstance(self.every, int) or self.every < 1:
            raise InputError(f"probe {self.population}: every: found {self.every!r}, expected at least 1 time step")
        for name in ("examples", "neurons"):
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(int(i) for i in given))


class Recorder:
    """One Probe at work: `saw` is called for every population at every time step, `recording` at the end.

    neurons: the membranes.Neurons that it looks at.
    """

    def __init__(self, probe, neurons):
        if probe.every > neurons.how.time_steps:
            found = f"found {probe.every}, expected at most the {neurons.how.time_steps} time steps of the run"
            raise InputError(f"probe {probe.population}: every: {found}")
        self.probe, self.neurons, self.differential = probe, neurons, neurons.how.drive == "differential"
        self.steps, self.rows, self.parts, self.held = [], {w: [] for w in probe.what}, [], 0
        self.received, self.on_disk = None, False

    def saw(self, population, state, current, step):
        if population != self.probe.population:
            return
        if self.received is None:
            self._begin(current)
        wanted = step % self.probe.every == 0
        if "current" in self.probe.what and self.differential:
            so_far = self._chosen(current) * step
            arrived, self.received = so_far - self.received, so_far
        else:
            arrived = current
        if not wanted:
            return
        self.steps.append(step)
        for what in self.probe.what:
            self.rows[what].append(to_host(self._value(what, state, arrived)))
            self.held += self.rows[what][-1].nbytes
        if self.on_disk and self.held > PART:
            self._write()

    def _begin(self, current):
        """Refuse indices that are not there, and what is too much for memory, before anything runs."""
        probe, shape = self.probe, current.shape
        for name, axis in (("examples", 0), ("neurons", 2)):
            for i in getattr(probe, name) or ():
                if not 0 <= i < shape[axis]:
                    raise InputError(f"probe {probe.population}: {name}: found {i}, expected 0 to {shape[axis] - 1}")
        xp = namespace(current)
        self.index = [slice(None) if i is None else xp.asarray(i) for i in (probe.examples, probe.neurons)]
        self.received = self._chosen(current) * 0
        bytes_each = sum(1 if w == "spikes" else current.dtype.itemsize for w in probe.what)
        size = self.neurons.how.time_steps // probe.every * math.prod(self.received.shape) * bytes_each
        self.on_disk = size > LIMIT
        if self.on_disk and probe.directory is None:
            raise InputError(
                f"probe {probe.population}: {size / 2**20:.0f} MB to record, expected at most {LIMIT // 2**20} without "
                "a directory; give one, or fewer examples, neurons or time steps (every)"
            )
        if self.on_disk:
            directory = Path(probe.directory)
            if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
                raise InputError(f"probe {probe.population}: {directory}: expected an empty directory, or none")
            directory.mkdir(parents=True, exist_ok=True)

    def _chosen(self, array):
        """The examples and neurons of the probe, of an array (B, L, W): a fresh one."""
        return array[self.index[0]][:, :, self.index[1]].copy()

    def _value(self, what, state, arrived):
        if what == "spikes":
            return self._chosen(state.emitted)
        if what == "current":
            return arrived if self.differential else self._chosen(arrived)
        if what == "rate":
            return self._chosen(self.neurons.rate(self.probe.population))
        membrane = self._chosen(state.membrane)
        if self.differential:  # there, it is what a neuron had before it fired
            v_th = self.neurons.firing(self.probe.population).v_th
            own = getattr(v_th, "size", 1) > 1 and self.probe.neurons is not None
            membrane -= self._chosen(state.emitted) * (v_th[self.index[1]] if own else v_th)
        return membrane

    def _write(self):
        path = Path(self.probe.directory) / f"part-{len(self.parts):05d}.npz"
        np.savez_compressed(path, steps=np.array(self.steps), **{w: np.stack(rows) for w, rows in self.rows.items()})
        self.parts.append(str(path))
        self.steps, self.rows, self.held = [], {w: [] for w in self.probe.what}, 0

    def recording(self):
        """{"steps": (n,), each of `what`: (n, examples, tokens, neurons)}; on disk: {"parts": paths of such files}."""
        if not self.on_disk:
            return {"steps": np.array(self.steps), **{w: np.stack(rows) for w, rows in self.rows.items()}}
        if self.steps:
            self._write()
        return {"parts": self.parts}
