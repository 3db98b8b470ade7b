"""The student spike by spike: definitions, convergence to the equilibrium, options."""

import numpy as np
import pytest
from models import LOOPS, SHAPE, random_batch, random_student

from nanospike.arrays.backend import to_device, to_host
from nanospike.config.errors import InputError
from nanospike.model import equilibrium, neuron
from nanospike.model import simulate as simulate_module
from nanospike.model.neuron import Firing
from nanospike.model.probes import Probe
from nanospike.model.simulate import gap


def wide_student(feedback=False, seed=0, **changes):
    """Wide enough for a mean over neurons to be a smooth function of T."""
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    student = random_student(seed, feedback=feedback, **(shape | changes))
    for name, p in student.parameters().items():
        if p.ndim == 2 and name.startswith("encoder"):
            p *= 2 / np.sqrt(p.shape[1])
    return student


def loop_gain(student, inputs):
    """The largest modulus of an eigenvalue of K = dF/dz at the equilibrium, of any example, by a dense matrix."""
    network = equilibrium.Network.on(student.tree, student.config, *inputs)
    z = network.state(student.equilibrium(*inputs).hidden_states[-1])
    sweep, nowhere = network.sweep(network.rate_neurons(), z), [None] * student.config.num_hidden_layers
    n = z[0].size
    columns = np.empty((len(z), n, n))
    for i in range(n):
        unit = np.zeros((len(z), n))
        unit[:, i] = 1
        dlast = network.state_vjp(unit.reshape(z.shape))
        columns[:, i] = sweep.return_vjp([*nowhere, dlast])[0].reshape(len(z), n)
    return np.abs(np.linalg.eigvals(columns)).max()


def gaps(student, inputs, **options):
    settled = student.equilibrium(*inputs)
    assert settled.converged
    run = student.simulate(*inputs, time_steps=256, record=[32, 256], **options)
    return [float(gap(run.output_rates[t], settled.hidden_states[-1], inputs[1]).mean()) for t in (32, 256)]


@pytest.mark.parametrize("spikes", ["binary", "corrective"])
def test_differential_drive_settles_at_the_equilibrium_and_instant_beside_it(spikes):
    student, inputs = wide_student(), random_batch(1, (6, 4, 5))
    early, late = gaps(student, inputs, drive="differential", spikes=spikes)
    assert late <= 0.2 * early
    early, late = gaps(student, inputs, drive="instant", spikes=spikes)
    assert late > 0.2 * early


GAINS = {  # of weights that give wide_student a loop gain of 0.3 to 0.9, and the seed of its other weights
    "full": (0.8, 0),
    "low rank": (0.8, 0),
    "cls": (0.8, 0),
    "cls, low rank": (0.8, 0),
    "looped": (0.3, 3),
    "looped, one encoder": (0.2, 0),
    "lateral": (0.8, 0),
    "lateral and full": (0.4, 0),
    "lateral and cls": (0.4, 0),
    "lateral and looped": (0.3, 0),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_differential_drive_settles_at_the_solved_equilibrium_of_every_loop(loop):
    gain, seed = GAINS[loop]
    student, inputs = wide_student(seed=seed, feedback_gain=gain, **LOOPS[loop]), random_batch(2, (3, 2))
    assert 0.3 < loop_gain(student, inputs) < 0.9
    early, late = gaps(student, inputs, drive="differential")
    assert late <= 0.2 * early
    early, late = gaps(student, inputs, drive="instant")
    assert late > 0.2 * early


def test_of_several_equilibria_the_spikes_may_find_another_than_the_solver():
    """The gain at the solved equilibrium is 0.05, and yet the spikes settle elsewhere: where F holds still, too."""
    student, inputs = wide_student(feedback_gain=0.3, **LOOPS["looped"]), random_batch(2, (3, 2))
    assert loop_gain(student, inputs) < 0.1
    network = equilibrium.Network.on(student.tree, student.config, *inputs)
    settled = student.equilibrium(*inputs).hidden_states[-1]
    run = student.simulate(*inputs, time_steps=2048, record=[])
    z = network.state(run.output_rates[2048])
    again = network.sweep(network.rate_neurons(), z).hidden_states[-1]
    assert gap(again, z, inputs[1]).max() < 3e-4 and gap(z, settled, inputs[1]).max() > 1e-2


def literal_differential(student, inputs, steps, initial, spikes):
    """The definition, current by current: I[t] = t g(a[t]) - (t-1) g(a[t-1]). Spike counts per population."""
    config = student.config
    network = equilibrium.Network.on(student.tree, config, *inputs)
    membrane, count, sent = {}, {}, {}
    _, _, lower = neuron.levels(config.v_th, initial)

    def fire(name, current):
        if name not in count:
            membrane[name], count[name] = current * 0 + initial * config.v_th, current * 0
            sent[name] = current * 0
        received = step * current
        spike = neuron.membrane_step(
            membrane[name], received - sent[name], count[name], Firing(v_th=config.v_th, spikes=spikes, lower=lower)
        )
        sent[name] = received
        count[name] += spike
        return count[name] / step, None

    fed_back = None
    for step in range(1, steps + 1):  # noqa: B007
        trace = network.sweep(fire, fed_back)
        fed_back = trace.hidden_states[-1] if config.recurrent else None
    return count


@pytest.mark.parametrize("loop", [None, *LOOPS])
@pytest.mark.parametrize("spikes", neuron.SPIKES)
def test_the_telescoped_membrane_is_the_definition(spikes, loop):
    student, inputs = random_student(3, v_th=0.5, **LOOPS.get(loop, {})), random_batch(4)
    run = student.simulate(*inputs, time_steps=20, spikes=spikes)
    for name, count in literal_differential(student, inputs, 20, 0.5, spikes).items():
        np.testing.assert_array_equal(np.rint(run.rates[name] * 20), count, err_msg=name)


@pytest.mark.parametrize("drive", ["differential", "instant"])
@pytest.mark.parametrize("spikes", neuron.SPIKES)
def test_rates_are_counts_and_every_spike_is_counted(drive, spikes, xp, device):
    student, inputs = random_student(5, device=device), random_batch(6, device=device)
    run = student.simulate(*inputs, time_steps=12, drive=drive, spikes=spikes, record=[3])
    real = to_host(inputs[1])[:, :, None]
    for name, rates in run.rates.items():
        counts = to_host(rates) * 12
        np.testing.assert_allclose(counts, np.rint(counts), atol=1e-9)
        low = -12 if spikes == "signed" else 0
        assert counts.min() >= low - 1e-9 and counts.max() <= 12 + 1e-9
        total = (np.abs(counts) * real).sum(axis=(1, 2))
        fired = to_host(run.spike_counts[name])
        assert fired.shape == (3,)
        if spikes == "binary":
            np.testing.assert_allclose(fired, total)
        else:  # +1 and -1 that cancel are two spikes
            assert np.all(fired >= total - 1e-9)
    assert sorted(run.logits) == [3, 12] and run.logits[12].shape == (3, 3)
    assert type(run.logits[12]) is type(xp.zeros(1))


def test_logits_are_read_from_the_rates_so_far():
    student, inputs = random_student(7), random_batch(8)
    run = student.simulate(*inputs, time_steps=10, record=[4])
    shorter = student.simulate(*inputs, time_steps=4, record=[])
    np.testing.assert_array_equal(run.logits[4], shorter.logits[4])
    last = run.rates["encoder.1.output"][:, 0]
    p = student.parameters()
    np.testing.assert_allclose(run.logits[10], last @ p["classifier.weight"].T + p["classifier.bias"], rtol=1e-12)


def test_an_example_alone_spikes_as_in_a_batch():
    student, inputs = random_student(9), random_batch(10)
    whole = student.simulate(*inputs, time_steps=16)
    for i, length in enumerate((5, 3, 4)):
        alone = student.simulate(*(a[i : i + 1, :length] for a in inputs), time_steps=16)
        for name, rates in alone.rates.items():
            np.testing.assert_allclose(rates[0], whole.rates[name][i, :length], atol=1e-12, err_msg=name)


def test_leaky_neurons_weigh_recent_spikes():
    student, inputs = wide_student(leak=0.98), random_batch(11)
    settled = student.equilibrium(*inputs)
    run = student.simulate(*inputs, time_steps=300, drive="instant")
    error = np.abs(run.rates["embedding"] - settled.rates["embedding"]) * inputs[1][:, :, None]
    assert error.max() <= 0.01 + 1e-3  # (1 - leak) / 2
    run = student.simulate(*inputs, time_steps=300, drive="instant", initial=0.0)
    error = np.abs(run.rates["embedding"] - settled.rates["embedding"]) * inputs[1][:, :, None]
    assert 0.015 < error.max() <= 0.02 + 1e-3  # 1 - leak


@pytest.mark.parametrize("leak", [0.7, 0.9])
def test_rates_of_leaky_corrective_neurons_are_rates(leak):
    student, inputs = random_student(2, leak=leak, spikes="corrective", v_th=0.7), random_batch(3)
    for steps in range(1, 25):
        run = student.simulate(*inputs, time_steps=steps, drive="instant")
        for name, rates in run.rates.items():
            assert 0 <= rates.min() and rates.max() <= 1 + 1e-12, (name, steps)
    binary = student.simulate(*inputs, time_steps=steps, drive="instant", spikes="binary")
    took_back = sum(int((run.rates[n] != r).sum()) for n, r in binary.rates.items())
    assert took_back > 10


@pytest.mark.parametrize(
    "options, said",
    [
        ({"drive": "sideways"}, "drive: found 'sideways'"),
        ({"spikes": "ternary"}, "spikes: found 'ternary'"),
        ({"initial": 1.5}, "initial: found 1.5"),
        ({"time_steps": 0}, "time steps: found 0"),
        ({"reset": "none"}, "reset: found 'none'"),
        ({"reset": "hard"}, "reset hard: for the instant drive and binary spikes, found differential and binary"),
        ({"reset": "hard", "drive": "instant", "spikes": "signed"}, "found instant and signed"),
        ({"record": [0, 4]}, "record: found"),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(InputError, match=said):
        random_student().simulate(*random_batch(), **options)


def test_a_hard_reset_is_simulated_but_has_no_equilibrium():
    student, inputs = random_student(5, reset="hard"), random_batch(6)
    current = equilibrium.Network.on(student.tree, student.config, *inputs).current
    run = student.simulate(*inputs, time_steps=840, drive="instant", initial=0.0)
    rate = 1 / np.ceil(1 / np.clip(current, 1e-9, 1))
    np.testing.assert_allclose(run.rates["embedding"], rate, atol=2 / 840)
    with pytest.raises(InputError, match="reset hard: .* no slope; use soft"):
        student.equilibrium(*inputs)


def test_leaky_neurons_refuse_the_differential_drive():
    with pytest.raises(InputError, match="IF neurons only"):
        random_student(leak=0.9).simulate(*random_batch())


def test_wide_student_is_not_degenerate():
    """The convergence tests above mean something only where many neurons are neither silent nor saturated."""
    student, inputs = wide_student(), random_batch(1, (6, 4, 5))
    rates = student.equilibrium(*inputs).hidden_states[-1]
    assert 0.2 < np.mean((rates > 0) & (rates < 1)) < 0.9
    assert SHAPE.hidden_size < rates.shape[2] and to_device(rates, "cpu") is rates


@pytest.mark.parametrize("loop", [None, "full", "cls", "lateral and looped"])
@pytest.mark.parametrize("spikes, decay", [("binary", 0.0), ("corrective", 0.5)])
def test_examples_that_have_decided_leave_the_batch_and_change_nothing_for_the_others(spikes, decay, loop, xp, device):
    student = random_student(12, device=device, **LOOPS.get(loop, {}))
    inputs = random_batch(13, (5, 3, 4, 2, 5, 1), device=device)
    steps = [2, 4, 8, 16]
    options = {"time_steps": 16, "spikes": spikes, "record": steps}
    full = student.simulate(*inputs, **options)
    margins = {t: np.sort(to_host(full.logits[t]), axis=1)[:, -2:] @ [-1, 1] * t**decay for t in steps}
    margin = float(np.max(margins[2])) * (1 - 1e-12)  # some stop at once, others later
    run = student.simulate(*inputs, margin=margin, margin_decay=decay, **options)
    stops = [next((t for t in steps if margins[t][i] >= margin), 16) for i in range(6)]
    assert run.steps.tolist() == stops and len(set(stops)) > 1  # else this shows nothing
    assert full.steps.tolist() == [16] * 6
    for i, stop in enumerate(stops):
        alone = student.simulate(*(a[i : i + 1] for a in inputs), **options | {"time_steps": stop})
        for t in steps:
            np.testing.assert_allclose(to_host(run.logits[t])[i], to_host(full.logits[min(t, stop)])[i], atol=1e-12)
        for name, rates in run.rates.items():
            np.testing.assert_allclose(to_host(rates)[i], to_host(alone.rates[name])[0], atol=1e-12)
            assert int(to_host(run.spike_counts[name])[i]) == int(to_host(alone.spike_counts[name])[0])
        np.testing.assert_allclose(to_host(run.output_rates[16])[i], to_host(alone.output_rates[stop])[0], atol=1e-12)
    assert type(run.logits[16]) is type(xp.zeros(1))


def test_all_may_leave_at_the_first_recorded_step():
    student, inputs = random_student(12), random_batch(13)
    run = student.simulate(*inputs, time_steps=50, record=[3, 10], margin=0.0)
    assert run.steps.tolist() == [3, 3, 3] and sorted(run.logits) == [3, 10, 50]
    np.testing.assert_array_equal(run.logits[50], student.simulate(*inputs, time_steps=3, record=[]).logits[3])


def test_counts_are_integers():
    student, inputs = random_student(12, dtype="float32"), random_batch(13)
    run = student.simulate(*inputs, time_steps=7, spikes="corrective")
    assert all(c.dtype == np.int64 for c in run.spike_counts.values())
    assert all(r.dtype == np.float32 for r in run.rates.values())


STEPS_TOGETHER = {
    "differential": {},
    "corrective": {"spikes": "corrective"},
    "instant": {"drive": "instant"},
    "leaky": {"drive": "instant", "leak": 0.9},
    "hard reset": {"drive": "instant", "reset": "hard"},
    "margins": {"margin": 0.5, "record": (2, 4, 5)},
    "shift operators": {"operators": "shift"},
}


@pytest.mark.parametrize("kind", STEPS_TOGETHER)
def test_several_steps_in_one_sweep_are_those_steps(kind, xp, device, monkeypatch):
    """Spikes, rates, logits, probes and counts, whatever number of steps is one sweep."""
    options = {"time_steps": 9, "record": (4, 6)} | STEPS_TOGETHER[kind]
    config = {n: options.pop(n) for n in ("leak", "operators") if n in options}
    student, batch = random_student(device=device, **config), random_batch(device=device)
    watched = (
        () if "margin" in options else (Probe("encoder.0.intermediate", ("spikes", "membrane", "current", "rate")),)
    )
    found = []
    for numbers in (1, 10**7):
        monkeypatch.setattr(simulate_module, "NUMBERS", numbers)
        monkeypatch.setattr(simulate_module, "DEVICE_NUMBERS", numbers)
        found.append(student.simulate(*batch, probes=watched, count=xp is np, **options))
    one, several = found
    for name in ("rates", "spike_counts", "logits", "output_rates"):
        for key, value in getattr(one, name).items():
            np.testing.assert_allclose(
                to_host(getattr(several, name)[key]), to_host(value), atol=1e-12, err_msg=f"{name} {key}"
            )
    assert one.steps.tolist() == several.steps.tolist() and one.operations == several.operations
    for population, recorded in one.probes.items():
        for what, values in recorded.items():
            np.testing.assert_allclose(several.probes[population][what], values, atol=1e-12, err_msg=what)


def test_how_many_steps_are_one_sweep(monkeypatch):
    batch = random_batch()  # 3 examples of up to 5 tokens
    monkeypatch.setattr(simulate_module, "NUMBERS", 60 * random_student().config.hidden_size)
    steps = lambda student, most=9: simulate_module.steps_at_once(student._network(*batch), most)  # noqa: E731
    assert steps(random_student()) == 4 and steps(random_student(), 2) == 2
    assert steps(random_student(feedback=True)) == 1
