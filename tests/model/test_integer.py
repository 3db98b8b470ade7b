"""A student in integers: the same spikes as in float64 with the same constants, no float in its loop, its bounds."""

import dataclasses
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import exact
import numpy as np
import pytest
from models import random_batch, random_student

import nanospike
from nanospike.arrays.ops_shift import shift_norm
from nanospike.config.errors import InputError
from nanospike.model import integer, integer_load, integer_run, simulate, twins
from nanospike.model.fresh import with_thresholds
from nanospike.model.probes import Probe
from nanospike.model.simulate import SpikingRun

SPIKES = ("binary", "corrective", "signed")


def integer_student(seed=0, own=False, **changes):
    """own: every population has thresholds of its own, each neuron another where the scores allow it."""
    sizes = {"hidden_size": 24, "intermediate_size": 40}
    student = random_student(seed, **{"operators": "shift", "weights": "ternary"} | sizes | changes)
    rng = np.random.default_rng(seed)
    if own:
        student = with_thresholds(student)
        for name in [n for n in student.parameters() if n.startswith("thresholds.")]:
            several = not name.endswith(("query", "key"))
            width = 40 if name.endswith("intermediate") else 24
            *path, last = name.split(".")
            node = student.tree
            for key in path:
                node = node[int(key) if isinstance(node, list) else key]
            node[last] = rng.uniform(0.5, 2, width) if several else rng.uniform(2, 5, 1)  # scores far apart
    return student


def test_the_bits_are_those_of_the_page():
    """docs/integer.md says how wide everything is, for who builds it."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "integer.md").read_text(encoding="utf-8")
    rows = {cells[1].strip(): cells[3] for line in page.splitlines() if len(cells := line.split("|")) == 5}
    found = {part: re.search(r"(\d+) (?:fractional )?bits", cell) for part, cell in rows.items()}
    bits = {part: int(match[1]) for part, match in found.items() if match}
    assert bits.pop("query, key, value, intermediate") == integer_load.ROW_BITS
    assert bits.pop("before a norm") == integer_load.POINT_BITS
    assert bits.pop("behind a norm") == integer_load.NORM_BITS
    assert bits.pop("classifier") == integer_load.CLASSIFIER_BITS
    assert integer.SCORE_BITS == int(re.search(r"32 bits hold it with (\d+) behind the point", page)[1])


def spikes_of(student, inputs, how):
    """({population: (T, B, L, W)} from runs of 1, 2, ... steps, the Simulation of the longest)."""
    runs = [student.run(inputs, dataclasses.replace(how, time_steps=t)) for t in range(1, how.time_steps + 1)]
    counts = {name: np.stack([np.rint(run.rates[name] * t) for t, run in enumerate(runs, 1)]) for name in runs[0].rates}
    return {name: np.diff(c, axis=0, prepend=0 * c[:1]) for name, c in counts.items()}, runs[-1]


@pytest.mark.parametrize("spikes", SPIKES)
@pytest.mark.parametrize("seed", range(4))
def test_the_same_spikes_as_in_float64_with_the_same_constants(seed, spikes):
    options = {"weights": ("ternary", "binary")[seed % 2], "half_steps": seed in (1, 2), "own": seed > 1}
    student = integer_student(seed, spikes=spikes, v_th=(1.0, 0.7)[seed % 2], **options)
    inputs, (initial, window) = random_batch(seed, (7, 1, 4)), ((0.5, 0.0), (0.25, 0.125))[seed // 3]
    how = SpikingRun(time_steps=6, spikes=spikes, initial=initial, window=window, arithmetic="integer")
    found, run = spikes_of(student, inputs, how)
    constants = integer_load.integers(student.computing().tree, student.config)
    expected, logits = exact.spikes_of(student.computing(), constants, inputs, 6, spikes, initial - window)
    assert found.keys() == expected.keys()
    for name, fired in expected.items():
        assert (found[name] == fired).all(), name
    assert any((fired < 0).any() for fired in expected.values()) == (spikes != "binary")
    np.testing.assert_allclose(run.logits[6], logits, rtol=1e-12)


def test_rows_and_gains_of_nothing_leave_the_bias_alone():
    student = integer_student(5, spikes="signed")
    live, inputs = student.parameters(), random_batch(5)
    for name, value in live.items():
        if name.endswith(("key.weight", "intermediate.dense.weight", "output.dense.weight")):
            value[:3] = 0
        if name.endswith("LayerNorm.weight"):
            value[:6] = [0, 4.8e-33, -4.8e-33, -1, 1e-9, 2]
    how = SpikingRun(time_steps=5, arithmetic="integer")
    found, run = spikes_of(student, inputs, how)
    constants = integer_load.integers(student.computing().tree, student.config)
    assert (constants.encoders[0].mixed.live == 0).sum() >= 3
    expected, _ = exact.spikes_of(student.computing(), constants, inputs, 5, "signed")
    for name, fired in expected.items():
        assert (found[name] == fired).all(), name
    floats = student.simulate(*inputs, time_steps=1)
    for name, rates in student.simulate(*inputs, time_steps=1, arithmetic="integer").rates.items():
        assert (rates == floats.rates[name] * inputs[1][:, :, None]).all(), name


@pytest.mark.parametrize("window", [0.0, 0.3])
def test_spikes_are_those_of_the_float_student_but_for_the_last_bits_of_constants(window):
    differing = neurons = ties = 0
    for seed in range(6):
        options = {"spikes": "signed", "dtype": "float32", "half_steps": seed % 2 == 1}
        student, inputs = integer_student(seed, **options), random_batch(seed)
        for steps in (3, 4):
            mine, floats = (
                student.simulate(*inputs, time_steps=steps, window=window, arithmetic=arithmetic)
                for arithmetic in ("integer", "float")
            )
            for name, rates in mine.rates.items():
                other = np.rint(steps * (rates - floats.rates[name] * inputs[1][:, :, None])) != 0
                differing, neurons = differing + other.sum(), neurons + inputs[1].sum() * rates.shape[2]
                ties += other.sum() if name == "encoder.0.attention" and steps == 3 else 0
            assert mine.logits[steps].dtype == np.float32
    assert ties == 0  # sums of thirds times powers of two, exactly half a spike from a count
    assert differing / neurons < 5e-4


@pytest.mark.parametrize("half_steps", [False, True])
def test_a_norm_is_that_of_floats_cut_off_to_its_fractional_bits(half_steps):
    rng = np.random.default_rng(0)
    student = integer_student(0, half_steps=half_steps)
    norm = integer_load.integers(student.computing().tree, student.config).encoders[0].mixed
    gain = np.sign(student.tree["encoder"]["layer"][0]["attention"]["output"]["LayerNorm"]["weight"])
    total = (rng.standard_normal((300, 24)) * 2.0 ** rng.uniform(4, 32, (300, 1))).astype(np.int64)
    for step in (1, 3):
        found = integer_run.normalised(total, norm, np.int32(step))
        rows = total / (step * 2.0**norm.point)
        unit, _ = shift_norm(rows, np.ones(24), np.zeros(24), half_steps)
        inside = abs(rows).mean(axis=1) > 2.0 ** (8 - norm.point)  # the smallest sizes are whole numbers
        assert 150 < inside.sum() < 300
        heard = np.floor(unit * step * 2.0**norm.shift) + norm.after * step
        cut_off = abs(heard) > norm.limit * step
        assert 0 < cut_off[inside].mean() < 0.5
        expected = np.clip(heard, -norm.limit * step, norm.limit * step)
        np.testing.assert_array_equal(found[inside], expected[inside])
    assert (norm.live == -1).all() and (np.sign(norm.residual) == gain).all()


def arrays(thing, seen, where=""):
    """(path, array) of all arrays that can be reached from an object of this package."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, (np.ndarray, np.generic)):
        yield where, thing
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield from arrays(value, seen, f"{where}.{key}")
    elif isinstance(thing, (list, tuple)):
        for i, value in enumerate(thing):
            yield from arrays(value, seen, f"{where}.{i}")
    elif type(thing).__module__.startswith("nanospike"):
        yield from arrays(vars(thing), seen, where)


@pytest.mark.parametrize("spikes", SPIKES)
def test_no_float_array_in_its_loop(monkeypatch, spikes):
    """All arrays of the network and the neurons, and all that a line of the loop's code has in its hands."""
    files = {integer_run.__file__, sys.modules["nanospike.model.simulate"].__file__}
    files.add(sys.modules["nanospike.model.neuron"].__file__)
    seen, kinds = set(), set()

    def look(frame, event, argument):
        if frame.f_code.co_filename not in files:
            return None
        for name, value in {**frame.f_locals, "returned": argument}.items():
            held = value if isinstance(value, (np.ndarray, np.generic, dict, list, tuple)) else None
            for path, array in arrays(held, set(), name):  # what objects hold is looked at after the step
                seen.add(f"{frame.f_code.co_name}.{path}")
                kinds.add((array.dtype.kind, f"{frame.f_code.co_name}.{path}"))
        return look

    sweep = integer_run.IntegerNetwork.sweep

    def watched(network, neurons, *rest, **options):
        before = sys.gettrace()
        sys.settrace(look)
        try:
            return sweep(network, neurons, *rest, **options)
        finally:
            sys.settrace(before)
            kinds.update((a.dtype.kind, path) for path, a in arrays([network, neurons], set(), "state"))

    monkeypatch.setattr(integer_run.IntegerNetwork, "sweep", watched)
    student = integer_student(1, spikes=spikes, half_steps=spikes == "signed")
    student.simulate(*random_batch(1), time_steps=2, record=(1, 2), arithmetic="integer")
    assert not [path for kind, path in kinds if kind not in "iub"]
    assert {"spike.membrane", "_context.scores", "normalised.sizes", "product.spikes"} <= seen
    assert {"state.0.received.0.inward", "state.1.populations.encoder.1.output.count"} <= {path for _, path in kinds}


def test_sums_stay_within_the_bound_that_the_weights_give():
    student = integer_student(2, spikes="signed", v_th=0.6)
    inputs = random_batch(2, (4,))
    constants = integer_load.integers(student.computing().tree, student.config)
    longest, population = constants.longest()
    assert longest >= integer_load.LONGEST
    assert all(cells.cost.dtype == cells.bias.dtype == np.int32 for cells in constants.cells.values())
    how = SpikingRun(time_steps=12, arithmetic="integer").resolved(student.config)
    neurons = integer_run.IntegerNeurons(how, student.config, constants, inputs[1])
    network = integer_run.IntegerNetwork.on(constants, student.computing(), *inputs)
    for step in range(1, 13):
        neurons.advance()
        network.sweep(neurons)
        for name, cells in constants.cells.items():
            most = abs(neurons.populations[name].membrane.astype(np.int64)).max()
            assert 0 < most <= step * cells.growth, name
    with pytest.raises(InputError, match=f"found {longest + 1}, expected at most {longest}.*{population}"):
        student.simulate(*inputs, time_steps=longest + 1, arithmetic="integer")


def test_many_steps_are_exact_too():
    student, inputs = integer_student(3, spikes="corrective"), random_batch(3, (3,))
    constants = integer_load.integers(student.computing().tree, student.config)
    run = student.simulate(*inputs, time_steps=64, spikes="corrective", arithmetic="integer")
    expected, _ = exact.spikes_of(student.computing(), constants, inputs, 64, "corrective")
    for name, fired in expected.items():
        assert (run.rates[name] * 64 == fired.sum(axis=0)).all(), name
        assert run.spike_counts[name] == abs(fired).sum(), name


def test_texts_stop_where_those_of_floats_do_and_are_scaled_by_the_steps_they_ran():
    student, inputs = integer_student(4, spikes="signed"), random_batch(4, (5, 3, 4, 6))
    options = {"time_steps": 8, "record": (1, 2, 4, 8), "arithmetic": "integer"}
    whole = student.simulate(*inputs, **options)
    ordered = {t: np.sort(v, axis=1) for t, v in whole.logits.items()}
    leads = {t: v[:, -1] - v[:, -2] for t, v in ordered.items()}
    margin = float(np.median(leads[2] * 2))
    stopped = student.simulate(*inputs, margin=margin, margin_decay=1.0, **options)
    expected = [next((t for t in (1, 2, 4) if leads[t][i] >= margin / t), 8) for i in range(4)]
    assert list(stopped.steps) == expected and 1 < len(set(expected))
    for i, t in enumerate(expected):
        np.testing.assert_array_equal(stopped.logits[8][i], whole.logits[t][i])
        np.testing.assert_array_equal(stopped.output_rates[8][i], whole.output_rates[t][i])


def same(one, other):
    """Whether two Simulations are the same, number for number."""
    assert one.rates.keys() == other.rates.keys() and (one.steps == other.steps).all()
    for kind in ("logits", "rates", "spike_counts", "output_rates"):
        for name, value in getattr(one, kind).items():
            np.testing.assert_array_equal(value, getattr(other, kind)[name], err_msg=f"{kind} {name}")
    for name, probed in one.probes.items():
        np.testing.assert_array_equal(probed["spikes"], other.probes[name]["spikes"])
    for step, rates in one.rates_at.items():
        for name, value in rates.items():
            np.testing.assert_array_equal(value, other.rates_at[step][name])
    assert one.operations == other.operations


@pytest.mark.parametrize("spikes", SPIKES)
def test_several_steps_in_one_sweep_are_those_steps(monkeypatch, spikes):
    student, inputs = integer_student(2, spikes=spikes, half_steps=True), random_batch(2)
    probes = (Probe("encoder.0.intermediate"), Probe("embedding"))
    how = SpikingRun(time_steps=7, record=(1, 4, 7), arithmetic="integer", count=True, probes=probes)
    sweeps = []
    sweep = integer_run.IntegerNetwork.sweep
    watched = lambda network, neurons, *rest, **more: (  # noqa: E731
        sweeps.append(len(neurons.block)),
        sweep(network, neurons, *rest, **more),
    )
    monkeypatch.setattr(integer_run.IntegerNetwork, "sweep", watched)
    several = student.run(inputs, how)
    assert sweeps == [1, 3, 3]
    monkeypatch.setattr(simulate, "NUMBERS", 1)
    same(several, student.run(inputs, how))
    assert sweeps[3:] == [1] * 7


COMPILED = [  # fields of a SpikingRun; margin "some": one that stops some texts early
    {"record": (1, 2, 6), "count": True},
    {"keep_rates": True, "record": (2,)},
    {"probes": (Probe("encoder.1.intermediate"), Probe("embedding"), Probe("encoder.0.key"))},
    {"margin": "some", "record": (2, 4)},
    {"logits_alone": True, "margin": "some", "record": (2, 4)},
]
SEVERAL_TILES = {"hidden_size": 264, "intermediate_size": 150, "num_attention_heads": 4}


@pytest.mark.parametrize("more", COMPILED, ids=lambda more: ",".join(more))
@pytest.mark.parametrize("spikes", SPIKES)
def test_compiled_encoders_give_the_same_numbers(compiled, spikes, more):
    """Widths that are no multiple of 8 or of a tile, texts of several lengths, thresholds of each neuron, padding
    in front and within, a mask in another order."""
    for seed in range(4):
        sizes = {0: {"hidden_size": 20, "intermediate_size": 150}, 3: SEVERAL_TILES}.get(seed, {})
        options = {"weights": ("ternary", "binary")[seed % 2], "half_steps": seed in (1, 2), "own": 0 < seed < 3}
        student, inputs = integer_student(seed, spikes=spikes, **options, **sizes), random_batch(seed, (7, 1, 4, 9, 5))
        inputs[1][2, [0, 2]] = 0
        inputs = inputs[0], np.asfortranarray(inputs[1]), inputs[2]
        how = SpikingRun(time_steps=6, spikes=spikes, window=0.1 * (seed == 1), arithmetic="integer", record=(2, 4))
        if "margin" in more:
            leads = np.diff(np.sort(student.run(inputs, how).logits[2], axis=1)[:, -2:], axis=1)
            more = more | {"margin": float(np.median(leads))}
        how = dataclasses.replace(how, **more)
        assert twins.integers(student.config)
        found = student.run(inputs, how)
        with twins.portable():
            assert not twins.integers(student.config)
            same(student.run(inputs, how), found)
        assert ("margin" not in more) or 1 < len(set(found.steps))


def test_padding_has_no_weight_where_scores_are_next_to_nothing(compiled):
    """Thresholds of queries and keys so small that every score is within half a power of two of the best."""
    student = with_thresholds(integer_student(0, spikes="signed"))
    for name, value in student.parameters().items():
        if name.endswith(("query", "key")) and name.startswith("thresholds"):
            value[...] = 0.003
    inputs, how = random_batch(0, (1, 9, 4)), SpikingRun(time_steps=64, arithmetic="integer")
    found = student.run(inputs, how)
    with twins.portable():
        same(student.run(inputs, how), found)
    alone = student.run([part[:1, :1] for part in inputs], how)
    np.testing.assert_array_equal(alone.logits[64][0], found.logits[64][0])


@pytest.mark.parametrize("fast", [False, True])
def test_many_threads_may_begin_with_texts_of_several_lengths(fast, request):
    if fast:
        request.getfixturevalue("compiled")
    student = integer_student(1, spikes="signed", max_position_embeddings=64)
    rng, how = np.random.default_rng(0), SpikingRun(time_steps=2, arithmetic="integer", logits_alone=True)
    texts = [np.arange(length)[None] % 40 for length in rng.integers(1, 64, 16)]
    inputs = [(ids, np.ones_like(ids), ids * 0) for ids in texts]
    expected = [student.run(i, how).logits[2] for i in inputs]
    for _ in range(5):
        run, start = student.prepared(how), threading.Barrier(len(inputs))
        begin = lambda i: (start.wait(), run(i))[1].logits[2]  # noqa: B023, E731
        with ThreadPoolExecutor(len(inputs)) as pool:
            for found, logits in zip(pool.map(begin, inputs), expected, strict=True):
                np.testing.assert_array_equal(found, logits)


@pytest.mark.parametrize("arithmetic", ["integer", "float"])
def test_what_is_prepared_is_of_the_weights_that_there_were(arithmetic):
    student, inputs = integer_student(2, spikes="signed"), random_batch(2)
    how = SpikingRun(time_steps=3, arithmetic=arithmetic)
    run, before = student.prepared(how), student.run(inputs, how).logits[3]
    student.parameters()["encoder.layer.0.intermediate.dense.weight"][...] *= -1
    np.testing.assert_array_equal(run(inputs).logits[3], before)
    assert (student.prepared(how)(inputs).logits[3] != before).any()
    with pytest.raises(InputError, match="initial: found 3"):
        student.prepared(dataclasses.replace(how, initial=3.0))


def test_compiled_sums_of_more_events_than_8_bits_hold(compiled):
    """Each of 600 neurons sends the same spike to rows of weights of one sign."""
    from nanospike.arrays import fused_events

    spikes = np.ones(600, np.int8)
    spikes[1::3] = -1
    lists, sizes = np.zeros((2, 608), np.int16), np.zeros(2, np.int64)
    fused_events._events(spikes, lists, sizes)
    assert sizes.tolist() == [400, 200] and (np.sort(lists[0, :400]) == np.flatnonzero(spikes > 0)).all()
    tile = np.random.default_rng(0).integers(-1, 2, (600, fused_events.COLUMNS)).astype(np.int8)
    tile[:, 0], tile[:, 1] = spikes, -spikes
    total = np.arange(100, dtype=np.int32)
    fused_events._add_up(lists, sizes, tile, np.empty(fused_events.COLUMNS, np.int8), total)
    np.testing.assert_array_equal(total, np.arange(100) + (spikes.astype(int) @ tile)[:100])
    assert total[0] == 600 and total[1] == 1 - 600


@pytest.mark.parametrize("arithmetic", ["integer", "float"])
def test_where_logits_alone_are_asked_for_the_last_encoder_runs_for_the_first_tokens(arithmetic, monkeypatch):
    student, inputs = integer_student(3, spikes="signed"), random_batch(3, (5, 2, 7))
    how = SpikingRun(time_steps=4, record=(1, 2, 4), arithmetic=arithmetic)
    whole = student.run(inputs, how)
    widths = {}
    saw = integer_run.IntegerNeurons.__call__
    watched = lambda neurons, population, drives: (  # noqa: E731
        widths.update({population: np.shape(drives)[-2]}) or saw(neurons, population, drives)
    )
    monkeypatch.setattr(integer_run.IntegerNeurons, "__call__", watched)
    alone = student.run(inputs, dataclasses.replace(how, logits_alone=True))
    for step, logits in whole.logits.items():
        np.testing.assert_allclose(alone.logits[step], logits, rtol=1e-12, atol=1e-12)
    assert alone.rates == alone.spike_counts == {}
    assert alone.output_rates[4].shape == (3, 1, 24)
    if arithmetic == "integer":
        assert {name for name, width in widths.items() if width == 1} == {
            f"encoder.1.{name}" for name in ("attention", "attention_output", "intermediate", "output")
        }
    for more in ({"count": True}, {"keep_rates": True}, {"probes": (Probe("embedding"),)}):
        with pytest.raises(InputError, match=f"logits_alone: found {next(iter(more))}"):
            student.run(inputs, dataclasses.replace(how, logits_alone=True, **more))


def test_masters_and_the_file_that_they_are_packed_into_give_the_same(tmp_path):
    student, inputs = (
        integer_student(6, weights="binary", embedding_weights="ternary", dtype="float32"),
        random_batch(6),
    )
    student.save(tmp_path)
    loaded = nanospike.load_student(tmp_path)
    runs = [s.simulate(*inputs, time_steps=3, arithmetic="integer") for s in (student, loaded)]
    np.testing.assert_array_equal(runs[0].logits[3], runs[1].logits[3])
    assert loaded.simulate(*inputs, time_steps=3).logits[3].shape == runs[0].logits[3].shape


def test_what_is_counted_and_watched_is_what_the_float_student_counts_and_shows():
    student, inputs = integer_student(7, spikes="signed"), random_batch(7)
    options = {"time_steps": 2, "count": True, "probes": [Probe("encoder.1.value")]}  # two steps: no spike differs
    mine, floats = (student.simulate(*inputs, arithmetic=a, **options) for a in ("integer", "float"))
    done, before = mine.operations, floats.operations
    pairs = (inputs[1].sum(axis=1) ** 2).sum()
    assert before["constant"] == 2 * 2 * 2 * pairs  # steps, encoders, heads
    assert done["constant"] == 0 and done["comparison"] == before["comparison"] + 5 * before["constant"]
    assert done["addition"] == before["addition"] > 0 and done["shift"] == before["shift"]
    found, expected = (run.probes["encoder.1.value"]["spikes"] for run in (mine, floats))
    real = inputs[1][:, :, None]
    np.testing.assert_array_equal(found, expected * real)
    assert found.any() and mine.operations["float"] == mine.operations["multiply_accumulate"] == 0


@pytest.mark.parametrize(
    "changes, found",
    [
        ({"operators": "query,softmax,norm,relu"}, "operators shift, found query,softmax,norm,relu"),
        ({"weights": "float"}, "ternary or binary weights, found weights float"),
        ({"activation": "ann", "operators": "float", "weights": "float"}, "has no spikes"),
    ],
)
def test_what_cannot_be_run_in_integers(changes, found):
    with pytest.raises(InputError, match=found):
        integer_student(**changes).simulate(*random_batch(), time_steps=2, arithmetic="integer")


def test_options_that_do_not_go_with_integers():
    student = integer_student()
    with pytest.raises(InputError, match="arithmetic: found 'fixed'"):
        student.simulate(*random_batch(), time_steps=2, arithmetic="fixed")
    with pytest.raises(InputError, match="probe embedding: what: found membrane"):
        student.simulate(*random_batch(), time_steps=2, probes=[Probe("embedding", "membrane")], arithmetic="integer")
    with pytest.raises(InputError, match="window: found 1.5, expected at most 1 with arithmetic integer"):
        student.simulate(*random_batch(), time_steps=2, window=1.5, arithmetic="integer")
    with pytest.raises(InputError, match="drive instant"):
        student.simulate(*random_batch(), time_steps=2, drive="instant", arithmetic="integer")
    with pytest.raises(InputError, match="on the cpu only, found device cuda"):
        integer_load.require_integer(student.config, "cuda")
