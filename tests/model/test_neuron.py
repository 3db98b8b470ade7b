"""Rates against their gradient, membranes against trajectories worked out by hand."""

import numpy as np
import pytest
from check import check_vjp
from hypothesis import given
from hypothesis import strategies as st

from nanospike.arrays.backend import to_device, to_host
from nanospike.model import neuron
from nanospike.model.neuron import Firing


@given(
    seed=st.integers(0, 2**31),
    v_th=st.sampled_from([0.5, 1.0, 2.0]),
    spikes=st.sampled_from(neuron.SPIKES),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_rate_gradient(seed, v_th, spikes, shape):
    rng = np.random.default_rng(seed)
    check_vjp(lambda x, p: neuron.rate(x, v_th, spikes), 2 * rng.standard_normal(shape), {}, rng)


def test_rate_values_and_open_interval(xp, device):
    current = to_device(np.array([-3.0, -1.0, 0.0, 0.5, 1.0, 2.0, 5.0]), device)
    rate, vjp = neuron.rate(current, 2.0)
    np.testing.assert_array_equal(to_host(rate), [0, 0, 0, 0.25, 0.5, 1, 1])
    np.testing.assert_array_equal(to_host(vjp(current * 0 + 1)), [0, 0, 0, 0.5, 0.5, 0, 0])
    signed, vjp = neuron.rate(current, 2.0, "signed")
    np.testing.assert_array_equal(to_host(signed), [-1, -0.5, 0, 0.25, 0.5, 1, 1])
    np.testing.assert_array_equal(to_host(vjp(current * 0 + 1)), [0, 0.5, 0.5, 0.5, 0.5, 0, 0])


def run(currents, start, device="cpu", **options):
    """(spikes, membranes after reset) of one neuron under a sequence of currents."""
    membrane, count = (to_device(np.array([float(v)]), device) for v in (start, 0))
    firing = Firing(**options)
    spikes, membranes = [], []
    for current in currents:
        s = neuron.membrane_step(membrane, to_device(np.array([float(current)]), device), count, firing)
        count += s
        spikes.append(int(to_host(s)[0]))
        membranes.append(float(to_host(membrane)[0]))
    return spikes, membranes


def test_integrate_and_fire_by_hand(xp, device):
    # 0.5 + 0.375 = 0.875 | 1.25 fires, 0.25 left | 0.625 | 1.0 fires (at the threshold), 0 left | 0.375
    spikes, membranes = run([0.375] * 5, 0.5, device)
    assert spikes == [0, 1, 0, 1, 0]
    assert membranes == [0.875, 0.25, 0.625, 0.0, 0.375]


def test_leaky_by_hand(xp, device):
    # u <- 0.5 u + 1.5 with v_th 2: 1.5 | 2.25 fires, 0.25 | 1.625 | 2.3125 fires, 0.3125
    spikes, membranes = run([1.5] * 4, 0.0, device, v_th=2.0, leak=0.5)
    assert spikes == [0, 1, 0, 1]
    assert membranes == [1.5, 0.25, 1.625, 0.3125]


def test_corrective_by_hand(xp, device):
    # start 0.5, lower threshold 0: fires at once; then negative current: a correction only while the count is above 0
    start, upper, lower = neuron.levels(1.0, 0.5)
    assert (start, upper, lower) == (0.5, 1, 0)
    spikes, membranes = run([0.75, -0.25, -0.75, -0.5, -2.0], 0.5, device, spikes="corrective", lower=lower)
    # 1.25 fires, 0.25 | 0.0 corrects, 1.0 | 0.25 | -0.25: count is 0, silent | -2.25 silent
    assert spikes == [1, -1, 0, 0, 0]
    assert membranes == [0.25, 1.0, 0.25, -0.25, -2.25]


def test_signed_by_hand(xp, device):
    spikes, membranes = run([-0.25, -0.375, -0.75, 1.5], 0.5, device, spikes="signed", lower=0.0)
    # 0.25 | -0.125 fires -1, 0.875 | 0.125 | 1.625 fires, 0.625
    assert spikes == [0, -1, 0, 1]
    assert membranes == [0.25, 0.875, 0.125, 0.625]


def test_leaky_with_the_persistent_half_threshold_by_hand(xp, device):
    # u <- 0.5 u + 1 with v_th 2, fires at 1: 1 fires, -1 | 0.5 | 1.25 fires, -0.75 | 0.625 | 1.3125 fires, -0.6875
    start, upper, lower = neuron.levels(2.0, 0.5, leak=0.5)
    assert (start, upper, lower) == (0, 1, -1)
    spikes, membranes = run([1.0] * 5, start, device, v_th=2.0, leak=0.5, upper=upper, lower=lower)
    assert spikes == [1, 0, 1, 0, 1]
    assert membranes == [-1.0, 0.5, -0.75, 0.625, -0.6875]


def test_leaky_signed_by_hand(xp, device):
    # -0.75 fires -1 at -0.5, 0.25 | 0.125 - 0.25 = -0.125 | -0.0625 + 1 = 0.9375 fires, -0.0625
    start, upper, lower = neuron.levels(1.0, 0.5, leak=0.5)
    spikes, membranes = run([-0.75, -0.25, 1.0], start, device, leak=0.5, spikes="signed", upper=upper, lower=lower)
    assert spikes == [-1, 0, 1] and membranes == [0.25, -0.125, -0.0625]


def test_hard_reset_by_hand(xp, device):
    # 0.75 | 1.5 fires, 0 and the half that it had over is lost | 0.75 | 1.5 fires, 0
    spikes, membranes = run([0.75] * 4, 0.0, device, reset="hard")
    assert spikes == [0, 1, 0, 1] and membranes == [0.75, 0.0, 0.75, 0.0]


@pytest.mark.parametrize("leak", [1.0, 0.9])
def test_the_lower_level_lies_as_far_below_the_start_as_the_upper_above(leak):
    for v_th, initial in ((1.0, 0.5), (2.0, 0.5), (1.0, 0.0), (2.0, 0.25)):
        start, upper, lower = neuron.levels(v_th, initial, leak)
        assert lower == pytest.approx(start - (upper - start)) and upper - start == (1 - initial) * v_th


@given(
    current=st.floats(-2, 3),
    v_th=st.sampled_from([0.5, 1.0, 2.0]),
    start=st.sampled_from([0.0, 0.5]),
    spikes=st.sampled_from(neuron.SPIKES),
    steps=st.integers(1, 60),
)
def test_the_mean_of_the_spikes_is_the_rate_within_one_over_t(current, v_th, start, spikes, steps):
    """IF under a constant current: off by at most 1/T, by half of that from v_th / 2 (rounding, not truncation)."""
    fired, _ = run([current] * steps, start * v_th, v_th=v_th, spikes=spikes, lower=neuron.levels(v_th, start)[2])
    wanted = float(neuron.rate(np.array([current]), v_th, spikes)[0][0])
    assert abs(np.mean(fired) - wanted) <= (1 - start) / steps + 1e-9


@pytest.mark.parametrize("leak", [0.9, 0.95, 0.99])
def test_a_leaky_rate_stays_within_one_minus_the_leak(leak):
    """Leak-weighted rate of LIF: (-(1 - leak), 0] from the equilibrium, and not closer for longer runs."""
    currents, steps = np.random.default_rng(0).uniform(0, 1, 300), 1200
    membrane, weighted, norm = currents * 0, currents * 0, 0.0
    for _ in range(steps):
        spikes = neuron.membrane_step(membrane, currents, weighted, Firing(leak=leak))
        weighted, norm = leak * weighted + spikes, leak * norm + 1
    error = weighted / norm - currents
    assert -(1 - leak) - 1e-3 <= error.min() and error.max() <= 1e-3
    assert -0.6 * (1 - leak) < error.mean() < -0.3 * (1 - leak)


@pytest.mark.parametrize("spikes", ["binary", "signed"])
@pytest.mark.parametrize("leak, most", [(0.99, 0.005), (0.95, 0.025), (0.9, 0.05)])
def test_the_persistent_half_threshold_halves_the_residual_and_centres_it(leak, most, spikes):
    currents, steps = np.random.default_rng(0).uniform(-1 if spikes == "signed" else 0, 1, 2000), 1200
    start, upper, lower = neuron.levels(1.0, 0.5, leak)
    firing = Firing(leak=leak, spikes=spikes, upper=upper, lower=lower)
    membrane, weighted, norm = currents * 0 + start, currents * 0, 0.0
    for _ in range(steps):
        emitted = neuron.membrane_step(membrane, currents, weighted, firing)
        weighted, norm = leak * weighted + emitted, leak * norm + 1
    error = weighted / norm - currents
    assert 0.9 * most < np.abs(error).max() <= most + 1e-5 and abs(error.mean()) < 0.03 * most


def test_leaky_corrective_by_hand(xp, device):
    # leak 0.75, fires at 0.5, may correct at -0.5. 1 fires, sum 1 | 1 fires, sum 1.75 | -0.75 with 1.3125 left of the
    # sum corrects: 0.25, sum 0.3125 | -0.5625 with 0.234375: silent, though one spike more was sent than taken back
    start, upper, lower = neuron.levels(1.0, 0.5, leak=0.75)
    leaky = Firing(leak=0.75, spikes="corrective", upper=upper, lower=lower)
    membrane, weighted = (to_device(np.array([v]), device) for v in (start, 0.0))
    emitted = []
    for current in (1.0, 1.0, -0.75, -0.75):
        weighted *= 0.75
        s = neuron.membrane_step(membrane, to_device(np.array([current]), device), weighted, leaky)
        weighted += s
        emitted.append(int(to_host(s)[0]))
    assert emitted == [1, 1, -1, 0]
    assert (float(to_host(weighted)[0]), float(to_host(membrane)[0])) == (0.234375, -0.5625)


@pytest.mark.parametrize("leak", [0.7, 0.8, 0.95])
def test_leaky_corrective_rates_stay_between_0_and_1(leak):
    """And as near to the current as those of leaky neurons without corrections, if it is steady."""
    rng, steps = np.random.default_rng(0), 400
    start, upper, lower = neuron.levels(1.0, 0.5, leak)
    firing = Firing(leak=leak, spikes="corrective", upper=upper, lower=lower)
    for steady in (False, True):
        membrane, weighted, norm, corrected = np.zeros(300) + start, np.zeros(300), 0.0, 0
        current = rng.uniform(0, 1, 300)
        for step in range(steps):
            if not steady:
                current = rng.normal(0.3, 1.5, 300) + 3 * np.sin(step / 9)
            weighted, norm = leak * weighted, leak * norm + 1
            emitted = neuron.membrane_step(membrane, current, weighted, firing)
            weighted += emitted
            corrected += (emitted < 0).sum()
            rates = weighted / norm
            assert rates.min() >= 0 and rates.max() <= 1 + 1e-9
        if not steady:
            assert corrected > 100
    assert np.abs(rates - current).max() <= (1 - leak) / 2 + 1e-5


@given(
    seed=st.integers(0, 2**31),
    spikes=st.sampled_from(neuron.SPIKES),
    single=st.booleans(),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_rate_gradient_of_thresholds(seed, spikes, single, shape):
    """A threshold for all neurons of a population, or one for each, is a parameter."""
    rng = np.random.default_rng(seed)
    params = {"v_th": rng.uniform(0.5, 2, 1 if single else shape[-1])}
    check_vjp(lambda x, p: neuron.rate(x, p["v_th"], spikes), 2 * rng.standard_normal(shape), params, rng)
