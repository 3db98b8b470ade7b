"""The state of neurons in a simulation: rates by hand, what they hold in memory, and for how long."""

import gc
import tracemalloc

import numpy as np
from models import random_batch, random_student

from nanospike.model.membranes import Neurons, Population
from nanospike.model.simulate import SpikingRun


def test_neurons_allocate_nothing_from_step_to_step():
    """What a population holds stays in place, and nothing else of its size is made in a step."""
    neurons = Neurons(SpikingRun(spikes="corrective", time_steps=9), random_student().config)
    current = np.random.default_rng(0).uniform(-1, 2, (4, 5, 1000)).astype("f")
    neurons.advance()
    neurons("n", current)
    where = lambda: {k: a.ctypes.data for k, a in vars(neurons.populations["n"]).items() if a is not None}  # noqa: E731
    held = where()
    tracemalloc.start()
    for _ in range(3):
        neurons.advance()
        neurons("n", current)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held == where()
    assert peak < current.nbytes  # masks of bytes for the corrections, no array of floats


def test_more_steps_than_a_short_integer_holds():
    neurons = Neurons(SpikingRun(drive="instant", initial=0.0, time_steps=40_000), random_student().config)
    for _ in range(40_000):
        neurons.advance()
        neurons("n", np.ones((1, 1, 1)))
    assert neurons.rate("n") == 1


def test_the_state_of_a_simulation_goes_when_it_ends():
    """Not when the garbage collector comes, which sees few objects and none of their size."""
    student, inputs = random_student(), random_batch()
    gc.collect()
    gc.disable()
    try:
        student.simulate(*inputs, time_steps=2)
        assert not [o for o in gc.get_objects() if isinstance(o, Population)]
    finally:
        gc.enable()


def test_a_leaky_rate_by_hand():
    by_hand = Neurons(SpikingRun(drive="instant", initial=0.0), random_student(leak=0.5).config)
    for current in (1.0, 0.25, 1.0):  # spikes 1, 0, 1: (0.25 + 1) / (0.25 + 0.5 + 1)
        by_hand.advance()
        by_hand("n", np.array([current]))
    np.testing.assert_allclose(by_hand.rate("n"), 1.25 / 1.75)
