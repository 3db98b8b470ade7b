"""What counted operations would cost in energy, by four accountings that are shown side by side, never one alone.

    sop            accumulates of real spikes, and every other operation by its kind; no memory
    with memory    and 24.96 pJ a byte for weights that spikes fetch, in the bits in which they are stored, for biases,
                   and for membranes read and written in each step: SpikingJelly 2.0's SimpleEnergyProfiler
    bit-matched    the same, over that of an ordinary network with the same weights, whose activations have as many
                   levels as a spiking rate has after T steps (Yan et al. 2024, arXiv 2409.08290, for the idea)
    NeuroBench     the keys of NeuroBench 2.3's SynapticOperations: matrices alone

Energies are models with published constants, not measurements: what they hold for, and what not, is in docs/energy.md.
"""

import math
import tomllib
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..config.errors import InputError
from ..model.counting import dense, lines
from ..model.neuron import spikes_of
from ..model.operations import SPIKE_DRIVEN, in_integers, parts


@dataclass(frozen=True, kw_only=True)
class Constants:
    """Energies in pJ of one operation of each kind, and of a byte of memory. state_bytes: of a membrane.

    bits: of the numbers that multiply_accumulate is for; a narrower activation makes its product cheaper in proportion,
    a ternary or binary weight makes a sum of it.
    """

    name: str
    addition: float
    multiply_accumulate: float
    float: float
    bits: int
    shift: float = 0.1
    comparison: float = 0.1
    constant: float = 3.1
    byte: float = 24.96
    state_bytes: float = 4

    def multiply(self, activation_bits, weight_bits):
        """pJ of a product of an activation and a weight of so many bits, and of adding it up."""
        share = min(1.0, activation_bits / self.bits) if weight_bits >= 2 else 0
        return self.addition + share * (self.multiply_accumulate - self.addition)


# 45 nm, Horowitz 2014 (ISSCC, doi 10.1109/ISSCC.2014.6757323): float32 product 3.7, sum 0.9; float16 1.1, 0.4; int8
# 0.2, 0.03; int32 3.1, 0.1. A shift or a comparison counts as an int32 sum, a product with a constant as an int32 one,
# any other float operation as a float product. 24.96 pJ a byte: STEP's 3.12 pJ a bit (openreview SzwU2XrXIS).
PRESETS = {
    "float32": Constants(name="float32", addition=0.9, multiply_accumulate=4.6, float=3.7, bits=32),
    "float16": Constants(name="float16", addition=0.4, multiply_accumulate=1.5, float=1.1, bits=16),
    "int32": Constants(name="int32", addition=0.1, multiply_accumulate=3.2, float=3.7, bits=32),
    "int8": Constants(name="int8", addition=0.03, multiply_accumulate=0.23, float=3.7, bits=8),
}


def constants_of(name):
    """The preset of this name, or that of a TOML file: names of Constants = numbers, `preset` to start from."""
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if path.suffix != ".toml":
        raise InputError(f"--constants {name}: expected one of {', '.join(PRESETS)}, or a .toml file")
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"--constants {path}: {getattr(error, 'strerror', None) or error}") from None
    preset = given.pop("preset", "float32")
    if preset not in PRESETS:
        raise InputError(f"--constants {path}: preset: found {preset!r}, expected one of {', '.join(PRESETS)}")
    known = [f.name for f in fields(Constants) if f.name != "name"]
    if unknown := sorted(given.keys() - set(known)):
        raise InputError(f"--constants {path}: unknown {', '.join(unknown)}; known: {', '.join(known)}, preset")
    for key, value in given.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0 or (key == "bits" and value < 1):
            raise InputError(f"--constants {path}: {key}: found {value!r}, expected a number of at least 0")
    return replace(PRESETS[preset], name=str(path), **given)


def levels(config, population, spikes, time_steps):
    """How many values a rate of this population can have after T steps."""
    return (2 if spikes_of(population, spikes, config) == "signed" else 1) * time_steps + 1


def activation_bits(config, population, spikes, time_steps):
    return math.ceil(math.log2(levels(config, population, spikes, time_steps)))


@dataclass(frozen=True)
class Model:
    """A network whose operations are costed. tree: the weights with which it computes; bits {tensor: stored bits}; one
    that is not there has default_bits. neuron: a counting.Neuron, drive: as its neurons are driven; None, None of an
    ordinary BERT. arithmetic: "integer" where it runs in integers.
    """

    config: Any
    tree: dict
    bits: dict
    default_bits: float = 32
    neuron: Any = None
    drive: str | None = None
    arithmetic: str = "float"

    @cached_property
    def parts(self):
        found = parts(self.config, self.tree, self.drive)
        return in_integers(found) if self.arithmetic == "integer" else found

    def lines(self, counts, steps=None):
        return lines(self.parts, counts, self.neuron, steps)

    def ordinary(self):
        """The ordinary BERT with these weights."""
        return replace(self, neuron=None, drive=None, arithmetic="float")

    def dense_counts(self, counts):
        """The Counts of an ordinary BERT of this shape on the texts of `counts`."""
        return dense(self.config, int(counts.tokens[0]), int(counts.pairs[0]), int(counts.texts[0]))


def computing_pj(found, constants):
    """Energy of the operations of Lines."""
    return sum(n * getattr(constants, key) for line in found for key, n in line.work.items())


def matched_pj(found, model, constants, spikes, time_steps):
    """That of an ordinary network's Lines where activations have as many bits as rates have levels."""
    weighing = [line for line in found if line.dense]
    total = computing_pj([line for line in found if not line.dense], constants)
    for line in weighing:
        narrow = activation_bits(model.config, line.source, spikes, time_steps)
        (weight, *_) = line.fetched
        total += line.synapses * constants.multiply(narrow, model.bits.get(weight, model.default_bits))
    return total


def memory_bytes(found, model, constants):
    """Bytes of weights and biases fetched, and of what neurons and sums keep from step to step, read and written."""
    weights = sum(n * model.bits.get(t, model.default_bits) / 8 for line in found for t, n in line.fetched.items())
    return weights + 2 * constants.state_bytes * sum(line.states for line in found)


def attention_products(found, texts):
    """Multiply-accumulates between activations, which no matrix of weights has a part in, per text."""
    products = [line for line in found if line.operation.endswith((".scores", ".context"))]
    return sum(line.work.get("multiply_accumulate", 0) for line in products) / texts


def synaptic_operations(found, texts):
    """NeuroBench's numbers: of matrices alone, without biases, padding, or the products of attention.

    An input of -1, 0 and 1 makes accumulates; matrices that read rates (the classifier) multiply.
    """
    matrices = [line for line in found if line.dense]
    total = lambda of: sum(of) / texts  # noqa: E731
    return {
        "Effective_MACs": total(line.synapses for line in matrices if line.kind != SPIKE_DRIVEN),
        "Effective_ACs": total(line.synapses for line in matrices if line.kind == SPIKE_DRIVEN),
        "Dense": total(line.dense for line in matrices),
    }


def spiking_energy(model, counts, spikes, time_steps, constants):
    """The accountings of a run of `time_steps`, per text."""
    texts, found = int(counts.texts[0]), model.lines(counts, time_steps)
    sop, moved = computing_pj(found, constants), memory_bytes(found, model, constants) * constants.byte
    ordinary = model.ordinary()
    matched = ordinary.lines(model.dense_counts(counts))
    against = matched_pj(matched, model, constants, spikes, time_steps)
    against += memory_bytes(matched, ordinary, constants) * constants.byte
    return {
        "t_r": counts.spikes_per_neuron(time_steps),
        "spikes": sum(int(s[:time_steps].sum()) for s in counts.spikes.values()) / texts,
        "sop_pj": sop / texts,
        "memory_pj": (sop + moved) / texts,
        "bit_matched_ratio": (sop + moved) / against,
        "synaptic_operations": synaptic_operations(found, texts),
        "attention_products": attention_products(found, texts),
    }


def ordinary_energy(model, counts, constants, matrices=None):
    """The accountings of an ordinary BERT on the texts of `counts`, per text.

    matrices: other Constants for its products with weights, such as int8's; all else is then still in `constants`.
    """
    own = model.dense_counts(counts)
    texts, found = int(own.texts[0]), model.lines(own)
    weighing = [line for line in found if line.dense]
    rest = [line for line in found if not line.dense]
    sop = computing_pj(weighing, matrices or constants) + computing_pj(rest, constants)
    moved = memory_bytes(found, model, constants) * constants.byte
    return {
        "t_r": None,
        "spikes": None,
        "sop_pj": sop / texts,
        "memory_pj": (sop + moved) / texts,
        "bit_matched_ratio": None,
        "synaptic_operations": synaptic_operations(found, texts),
        "attention_products": attention_products(found, texts),
    }
