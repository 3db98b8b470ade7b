"""Probes: what they record is what the neurons did, by the equations; what is too much goes to disk or is refused."""

import numpy as np
import pytest
from models import random_batch, random_student

import nanospike
from nanospike.model import probes
from nanospike.model.probes import WHAT, Probe

POPULATION = "encoder.1.attention_output"


def recorded(student, batch, probe, **options):
    return student.simulate(*batch, probes=[probe], **options).probes[probe.population]


@pytest.mark.parametrize("drive", ["differential", "instant"])
@pytest.mark.parametrize("spikes", ["binary", "corrective", "signed"])
def test_membranes_obey_their_equation(drive, spikes):
    """u[t] = u[t-1] + I[t] - v_th s[t] from v_th / 2, and the rate is the mean of the spikes."""
    student, batch = random_student(spikes=spikes, thresholds=[POPULATION]), random_batch()
    seen = recorded(student, batch, Probe(POPULATION, WHAT), time_steps=7, drive=drive)
    v_th = student.parameters()[f"thresholds.{POPULATION}"]
    assert seen["steps"].tolist() == list(range(1, 8)) and seen["spikes"].dtype == np.int8
    assert all(seen[what].shape == (7, 3, 5, 8) for what in WHAT)
    before = np.concatenate([np.broadcast_to(v_th / 2, (1, 3, 5, 8)), seen["membrane"][:-1]])
    np.testing.assert_allclose(seen["membrane"], before + seen["current"] - v_th * seen["spikes"], atol=1e-12)
    means = np.cumsum(seen["spikes"], axis=0) / np.arange(1, 8)[:, None, None, None]
    np.testing.assert_allclose(seen["rate"], means, atol=1e-12)
    assert set(np.unique(seen["spikes"])) <= ({0, 1} if spikes == "binary" else {-1, 0, 1}) and seen["spikes"].any()


def test_leaky_neurons_keep_the_rest_of_their_membrane():
    student, batch = random_student(leak=0.8), random_batch()
    seen = recorded(student, batch, Probe(POPULATION, WHAT), time_steps=5, drive="instant")
    before = np.concatenate([np.zeros((1, 3, 5, 8)), seen["membrane"][:-1]])
    np.testing.assert_allclose(seen["membrane"], 0.8 * before + seen["current"] - seen["spikes"], atol=1e-12)
    weights = 0.8 ** np.arange(4, -1, -1)
    last = np.tensordot(weights, seen["spikes"].astype(float), 1) / weights.sum()
    np.testing.assert_allclose(seen["rate"][-1], last, atol=1e-12)


@pytest.mark.parametrize("thresholds", [[], [POPULATION]])
def test_a_choice_is_a_part_of_the_whole(thresholds):
    student, batch = random_student(spikes="signed", thresholds=thresholds), random_batch()
    whole = recorded(student, batch, Probe(POPULATION, WHAT), time_steps=9)
    part = recorded(student, batch, Probe(POPULATION, WHAT, [2, 0], range(1, 7, 2), every=3), time_steps=9)
    assert part["steps"].tolist() == [3, 6, 9]
    for what in WHAT:
        np.testing.assert_array_equal(part[what], whole[what][2::3][:, [2, 0]][..., [1, 3, 5]])


def test_several_probes_change_nothing():
    student, batch = random_student(), random_batch()
    chosen = [Probe("embedding", "rate"), nanospike.Probe("encoder.0.key", ("spikes", "membrane"), examples=[1])]
    sim = student.simulate(*batch, time_steps=4, probes=chosen)
    np.testing.assert_array_equal(sim.logits[4], student.simulate(*batch, time_steps=4).logits[4])
    np.testing.assert_array_equal(sim.probes["embedding"]["rate"][-1], sim.rates["embedding"])
    assert set(sim.probes["encoder.0.key"]) == {"steps", "spikes", "membrane"}


def test_what_is_too_much_for_memory_goes_to_files_of_bounded_size(tmp_path, monkeypatch):
    student, batch = random_student(), random_batch()
    whole = recorded(student, batch, Probe(POPULATION, WHAT), time_steps=10)
    monkeypatch.setattr(probes, "LIMIT", 10_000)
    monkeypatch.setattr(probes, "PART", 9000)
    with pytest.raises(nanospike.InputError, match="MB to record, expected at most .* without a directory"):
        recorded(student, batch, Probe(POPULATION, WHAT), time_steps=10)
    parts = recorded(student, batch, Probe(POPULATION, WHAT, directory=tmp_path / "p"), time_steps=10)["parts"]
    assert len(parts) > 2 and sorted(p.name for p in (tmp_path / "p").iterdir()) == [p[-14:] for p in parts]
    loaded = [np.load(path) for path in parts]
    for what in ("steps", *WHAT):
        np.testing.assert_array_equal(np.concatenate([part[what] for part in loaded]), whole[what])
    assert max(sum(part[what].nbytes for what in WHAT) for part in loaded) <= 9000 + 3 * 5 * 8 * (3 * 8 + 1)
    with pytest.raises(nanospike.InputError, match="expected an empty directory"):
        recorded(student, batch, Probe(POPULATION, WHAT, directory=tmp_path / "p"), time_steps=10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"what": ("spikes", "voltage")}, "what: found .* expected some of spikes"),
        ({"what": ()}, "what: found"),
        ({"what": ("rate", "rate")}, "what: found"),
        ({"every": 0}, "every: found 0"),
        ({"every": 9}, "every: found 9, expected at most the 4"),
        ({"neurons": [8]}, "neurons: found 8, expected 0 to 7"),
        ({"examples": [-1]}, "examples: found -1, expected 0 to 2"),
        ({"population": "encoder.2.key"}, "probes: found encoder.2.key, expected some of embedding"),
    ],
)
def test_what_is_not_there_is_named(options, words):
    with pytest.raises(nanospike.InputError, match=words):
        recorded(random_student(), random_batch(), Probe(**{"population": POPULATION} | options), time_steps=4)


def test_probes_that_do_not_go_together():
    student, batch = random_student(), random_batch()
    with pytest.raises(nanospike.InputError, match="one for each population"):
        student.simulate(*batch, probes=[Probe(POPULATION), Probe(POPULATION, "rate")])
    with pytest.raises(nanospike.InputError, match="margin"):
        student.simulate(*batch, probes=[Probe(POPULATION)], margin=0.1)
