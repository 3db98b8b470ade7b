"""Gradients at simulated rates: the sweep that makes the rates of a step gives what one that holds them gives."""

import numpy as np
import pytest
from models import LOOPS, random_batch, random_student, random_teacher

from nanospike.arrays.tree import dense_gradients
from nanospike.config.errors import InputError
from nanospike.model import equilibrium
from nanospike.model.equilibrium import FrozenDropout
from nanospike.model.gradients import Lesson
from nanospike.model.loss import LossWeights, Targets
from nanospike.model.simulate import SpikingRun

KINDS = {
    "float": {},
    "signed shifts, ternary": {"spikes": "signed", "operators": "shift", "weights": "ternary"},
    "own thresholds": {"thresholds": ("encoder.0.query", "encoder.1.output"), "operators": "norm,relu"},
    "window": {"spikes": "corrective", "window": 0.25},
}


def gradients(student, how, dropout=None, spikes=0.1):
    batch = random_batch()
    target = Targets(random_teacher()(*batch), np.array([0, 2, 1]))
    frozen = FrozenDropout(dropout, np.random.default_rng(5)) if dropout else None
    return student.gradients(batch, target, LossWeights(labels=0.5, spikes=spikes), simulation=how, dropout=frozen)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("record, dropout", [((), None), ((1, 2), None), ((2, 4, 5), 0.3)])
def test_a_step_is_linearised_while_it_is_simulated(kind, record, dropout, monkeypatch):
    student, how = random_student(**KINDS[kind]), SpikingRun(time_steps=6, record=record)
    found = gradients(student, how, dropout)
    monkeypatch.setattr(Lesson, "while_simulated", Lesson.at_simulated_rates)
    expected = gradients(student, how, dropout)
    assert found.terms.keys() == expected.terms.keys() and "spikes" in found.terms
    for name, value in expected.terms.items():
        assert found.terms[name] == pytest.approx(value, rel=1e-12)
    ours, theirs = (dense_gradients(g.grads, student.parameters()) for g in (found, expected))
    for name, gradient in theirs.items():
        np.testing.assert_allclose(ours[name], gradient, rtol=1e-9, atol=1e-12, err_msg=name)
    if not dropout:
        settled = student.equilibrium(*random_batch())
        assert all(np.array_equal(found.equilibrium.rates[n], r) for n, r in settled.rates.items())


@pytest.mark.parametrize("record, sweeps", [((1, 2, 4), 4), ((6,), 2), ((2, 6), 4)])
def test_no_sweep_more_than_time_steps(record, sweeps, monkeypatch):
    """Steps before a recorded one are one sweep; the equilibrium is left out until it is asked for."""
    seen, sweep = [], equilibrium.Network.sweep
    monkeypatch.setattr(equilibrium.Network, "sweep", lambda *args, **how: seen.append(1) or sweep(*args, **how))
    result = gradients(random_student(), SpikingRun(time_steps=max(record), record=record))
    assert len(seen) == sweeps
    assert result.equilibrium is result.equilibrium and len(seen) == sweeps + 1


def test_with_a_loop_or_the_instant_drive_rates_are_held():
    """There a sweep starts from what the last step sent, or sends spikes: not what the rates of its step would give."""
    for kind, how in ((LOOPS["full"], {}), ({}, {"drive": "instant"})):
        result = gradients(random_student(**kind), SpikingRun(time_steps=3, record=(2,), **how))
        assert np.isfinite(sum(result.terms.values()))
        assert (result.adjoint is None) == (kind == {})


def test_no_gradient_without_an_equilibrium():
    with pytest.raises(InputError, match="reset hard"):
        gradients(random_student(reset="hard"), SpikingRun(time_steps=3))
