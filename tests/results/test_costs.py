"""Energies of counted operations: worked out by hand, by another way, and against SpikingJelly's bytes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models import random_batch, random_student

from nanospike.config.errors import InputError
from nanospike.model.counting import Line, Neuron
from nanospike.results import costs
from nanospike.results.audit import audit, audit_table, by_kind, general
from nanospike.results.costs import PRESETS, Model, constants_of

GOLDEN = Path(__file__).parents[1] / "golden" / "energy.json"
PLAIN = PRESETS["float32"]


def counted(steps=4, **options):
    """(Model, Counts, spikes) of a run of a small student."""
    student = random_student(**{"spikes": "signed"} | options)
    sim = student.simulate(*random_batch(), time_steps=steps, record=range(1, steps + 1), count=True)
    neuron = Neuron.of(student.config.spikes)
    return (
        Model(student.config, student.tree, {}, neuron=neuron, drive="differential"),
        sim.counts,
        student.config.spikes,
    )


def test_every_kind_has_its_price():
    work = {"addition": 10, "shift": 20, "comparison": 30, "constant": 2, "float": 3, "multiply_accumulate": 5}
    line = Line("x", "p", "float", work)
    assert costs.computing_pj([line], PLAIN) == pytest.approx(
        10 * 0.9 + 20 * 0.1 + 30 * 0.1 + 2 * 3.1 + 3 * 3.7 + 5 * 4.6
    )
    assert costs.computing_pj([line, line], PRESETS["int32"]) == pytest.approx(2 * (1 + 2 + 3 + 6.2 + 11.1 + 16))


def test_memory_is_what_spikes_fetch_in_the_bits_that_are_stored():
    lines = [
        Line("m", "p", "spike-driven", {}, {"a": 100, "b": 7}),
        Line("p.membrane", "p", "spike-driven", {}, states=11),
    ]
    model = Model(None, {}, {"a": 1.6}, default_bits=16)
    assert costs.memory_bytes(lines, model, PLAIN) == pytest.approx(100 * 0.2 + 7 * 2 + 2 * 4 * 11)


def test_memory_is_spikingjelly_s():
    """Its weights, biases and membranes of the golden network in float32, read and (membranes) written."""
    theirs = json.loads(GOLDEN.read_text())["binary"]["spikingjelly"]
    lines = [
        Line(
            "m", "p", "spike-driven", {}, {"w": theirs["weight_read_bytes"] // 4, "b": theirs["bias_read_bytes"] // 4}
        ),
        Line("p.membrane", "p", "spike-driven", {}, states=theirs["neuron_state_read_bytes"] // 4),
    ]
    found = costs.memory_bytes(lines, Model(None, {}, {}), PLAIN)
    assert found == theirs["memory_access_bytes"]
    assert found * PLAIN.byte + theirs["ac"] * PLAIN.addition == pytest.approx(theirs["energy_pj"])


def test_levels_of_a_rate():
    config = random_student(spikes="signed").config
    assert [costs.activation_bits(config, "encoder.0.key", "binary", t) for t in (1, 2, 3, 4, 7, 8, 16)] == [
        1, 2, 2, 3, 3, 4, 5,
    ]  # fmt: skip
    assert [costs.activation_bits(config, "encoder.0.key", "signed", t) for t in (1, 2, 4, 8)] == [2, 3, 4, 5]
    shifts = random_student(spikes="signed", operators="relu").config
    assert costs.levels(shifts, "encoder.0.intermediate", "signed", 4) == 5
    assert costs.levels(shifts, "encoder.0.output", "signed", 4) == 9


def test_a_narrow_activation_makes_a_cheaper_product_and_a_ternary_weight_none():
    assert PLAIN.multiply(32, 32) == pytest.approx(4.6) and PLAIN.multiply(8, 16) == pytest.approx(0.9 + 3.7 / 4)
    assert PLAIN.multiply(64, 32) == pytest.approx(4.6) and PLAIN.multiply(8, 1.6) == pytest.approx(0.9)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_spiking_row_by_another_way(steps):
    model, counts, spikes = counted()
    row = costs.spiking_energy(model, counts, spikes, steps, PLAIN)
    texts, tokens, d, f = 3, 12, 8, 12
    fired = {n: s[:steps].sum() for n, s in counts.spikes.items()}
    assert row["spikes"] == pytest.approx(sum(fired.values()) / texts)
    assert row["t_r"] == pytest.approx(sum(fired.values()) / (tokens * (d + 2 * (5 * d + f))))
    weights = biases = acs = 0
    for i in range(2):
        before, own = f"encoder.{i - 1}.output" if i else "embedding", f"encoder.{i}."
        senders = {before: 3 * d, own + "attention": d, own + "attention_output": f, own + "intermediate": d}
        weights += sum(fired[n] * fan_out for n, fan_out in senders.items())
        biases += steps * tokens * (5 * d + f)
    acs = weights
    reads = counts.reading[steps] * 3
    neurons = tokens * steps * (d + 2 * (5 * d + f))
    sums = tokens * steps * 2 * (d + d + f + d)  # of queries, of both norms and of the GELU
    moved = 4 * (weights + biases + reads + texts * 3) + 2 * 4 * (neurons + sums)
    assert row["memory_pj"] - row["sop_pj"] == pytest.approx(moved * 24.96 / texts)
    assert row["synaptic_operations"] == {
        "Effective_MACs": pytest.approx(reads / texts),
        "Effective_ACs": pytest.approx(acs / texts),
        "Dense": pytest.approx((steps * tokens * 2 * (4 * d * d + 2 * d * f) + texts * d * 3) / texts),
    }
    assert row["attention_products"] == pytest.approx(2 * 2 * d * (25 + 9 + 16) * steps / texts)


def test_the_ordinary_network_and_the_ratio():
    """The ratio is 1 where the spiking run is given the ordinary network's energy; int8 changes products and bytes."""
    model, counts, spikes = counted()
    ordinary = costs.ordinary_energy(model.ordinary(), counts, PLAIN)
    macs, pairs = 12 * 2 * (4 * 64 + 2 * 96) + 3 * 8 * 3, 50
    assert ordinary["synaptic_operations"] == {"Effective_MACs": macs / 3, "Effective_ACs": 0, "Dense": macs / 3}
    assert ordinary["attention_products"] == 2 * 2 * 8 * pairs / 3
    biases = 12 * 2 * (5 * 8 + 12) + 3 * 3
    assert ordinary["memory_pj"] - ordinary["sop_pj"] == pytest.approx(4 * 24.96 * (macs + biases) / 3)
    int8 = costs.ordinary_energy(replace(model.ordinary(), default_bits=8), counts, PLAIN, PRESETS["int8"])
    assert ordinary["sop_pj"] - int8["sop_pj"] == pytest.approx(macs * (4.6 - 0.23) / 3)
    assert int8["memory_pj"] - int8["sop_pj"] == pytest.approx((ordinary["memory_pj"] - ordinary["sop_pj"]) / 4)
    row = costs.spiking_energy(model, counts, spikes, 2, PLAIN)
    # 5 levels of signed spikes at T = 2: three bits, for every matrix.
    against = ordinary["memory_pj"] - macs * (3.7 - 3.7 * 3 / 32) / 3
    assert row["bit_matched_ratio"] == pytest.approx(row["memory_pj"] / against)


def test_the_audit_lists_every_operation_once():
    model, counts, _ = counted(steps=2)
    rows = audit(model, counts, PLAIN, 2)
    lines = model.lines(counts, 2)
    assert sum(r["count"] for r in rows) == pytest.approx(sum(sum(line.work.values()) for line in lines) / 3)
    assert sum(r["pj"] for r in rows) == pytest.approx(costs.computing_pj(lines, PLAIN) / 3)
    assert sum(r["share"] for r in rows) == pytest.approx(1)
    assert len({r["operation"] for r in rows}) == len(rows)
    kinds = by_kind(rows)
    assert set(kinds) == {"spike-driven", "shift", "constant", "float"} and kinds["shift"] == (0, 0, 0)
    assert (
        general("encoder.layer.1.attention.self.query") == "attention.self.query"
        and general("membranes") == "membranes"
    )
    text = audit_table(rows)
    assert text.count("attention.self.query") == 1 and "spike-driven" in text


def test_constants_of_one_s_own(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('preset = "float16"\nbyte = 5\naddition = 0.25\n')
    mine = constants_of(str(file))
    assert mine == replace(PRESETS["float16"], name=str(file), byte=5, addition=0.25)
    assert constants_of("int8") is PRESETS["int8"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("additions = 1", "unknown additions; known: addition"),
        ("addition = -1", "addition: found -1, expected a number of at least 0"),
        ("byte = true", "byte: found True"),
        ('byte = "x"', "byte: found 'x'"),
        ("byte = inf", "byte: found inf"),
        ("bits = 0", "bits: found 0"),
        ('preset = "x"', "preset: found 'x', expected one of float32"),
        ("byte", "--constants"),
    ],
)
def test_constants_that_are_none(tmp_path, text, words):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(InputError, match=words):
        constants_of(str(tmp_path / "c.toml"))


def test_constants_that_are_not_there():
    with pytest.raises(InputError, match="No such file"):
        constants_of("nowhere.toml")
    with pytest.raises(InputError, match="expected one of float32, float16, int32, int8, or a .toml file"):
        constants_of("float8")


def test_zeros_of_a_ternary_matrix_are_fetched_but_not_added():
    student = random_student(weights="ternary")
    sim = student.simulate(*random_batch(), time_steps=2, count=True)
    (line,) = [line for line in sim.lines() if line.operation == "encoder.layer.0.output.dense"]
    spikes = sim.counts.spikes["encoder.0.intermediate"].sum()
    assert line.synapses < line.fetched["encoder.layer.0.output.dense.weight"] == spikes * 8
    assert np.isfinite(line.synapses)
