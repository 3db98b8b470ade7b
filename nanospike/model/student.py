"""The spiking student as an object: settle it, differentiate it, run it spike by spike, save it."""

import functools
import math
from dataclasses import asdict, replace

import numpy as np

from ..arrays.backend import library
from ..arrays.tree import dense_gradients, leaves
from ..arrays.workers import ALONE
from ..config.errors import InputError
from ..files.model_files import write_model
from . import bert, equilibrium, loss, settling, twins
from .bert import TeacherOutput
from .counting import Neuron, lines
from .equilibrium import Loop
from .gradients import Lesson, warn_unless
from .integer_run import constants_for, simulate_integer
from .membranes import Neurons
from .operations import in_integers, parts
from .quantise import held, low_bit, low_bit_names, quantised, split
from .simulate import SpikingRun, checked_record, simulate
from .teacher import checked_inputs

ONLY_FOR_TRAINING = ("distill_map.weight", "distill_map.bias")


class Student:
    """A spiking BERT. config: a StudentConfig; directory: where its tokenizer is, if anywhere.

    low_bit: those weights that config says are ternary or binary are so in the tree, and used as they are. Otherwise
    the tree holds their float masters, and every pass computes with what quantise makes of them.
    """

    def __init__(self, config, tree, device="cpu", directory=None, raw_config=None, low_bit=False):
        self.config, self.tree, self.device, self.directory = config, tree, device, directory
        self.raw_config, self.low_bit = raw_config or {}, low_bit

    def parameters(self):
        """{name: the live array}: writing into one changes the model."""
        return dict(leaves(self.tree))

    def save(self, directory, dtype=None, for_training=True):
        """Write config.json, model.safetensors and the tokenizer; dtype "float16" halves what is not packed.

        Low-bit weights are packed (files.packing). for_training=False leaves out distill_map, which only distil needs.
        """
        config = self.raw_config | asdict(self.config) | {"model_type": "nanospike"}
        tensors, patterns = self.parameters(), {}
        for name, kind in low_bit_names(self.config).items():
            patterns[name] = (kind, *split(low_bit(tensors[name], kind)))
        if not for_training:
            tensors = {n: t for n, t in tensors.items() if n not in ONLY_FOR_TRAINING}
        write_model(directory, config, tensors, self.directory, dtype, patterns)

    def computing(self, workers=ALONE):
        """The student with the weights with which it computes, those of the masters as of now; itself if all are so.

        What `gradients` says of it are the gradients of the masters (straight-through).
        """
        if self.low_bit or not low_bit_names(self.config):
            return self
        tree = quantised(self.tree, self.config, workers)
        return Student(self.config, tree, self.device, self.directory, self.raw_config, low_bit=True)

    def held(self):
        """The student with the weights with which it computes, made once, in little memory: not to be trained.

        Itself where it has no low-bit weights. Those are held.PackedRows among its parameters, without distill_map.
        """
        tree = held(self.tree, self.config)
        if tree is self.tree:
            return self
        tree = {part: values for part, values in tree.items() if part != "distill_map"}
        return Student(self.config, tree, self.device, self.directory, self.raw_config, low_bit=True)

    def equilibrium(self, input_ids, attention_mask=None, token_type_ids=None):
        """The equilibrium.Equilibrium of ids (B, L). A loop that does not settle is a warning and in its record."""
        network = self._network(*self._checked(input_ids, attention_mask, token_type_ids))
        result, _ = equilibrium.solve(network, differentiable=False)
        warn_unless(result)
        return result

    def distill_gradients(
        self, input_ids, attention_mask, teacher_out, token_type_ids=None, hidden=1.0, attention=1.0, logits=1.0,
        labels=None, temperature=1.0, layer_map=None,
    ):  # fmt: skip
        """(loss, {name: gradient}) of loss.distillation, exact at the equilibrium. Changes nothing.

        teacher_out: hidden_states (M+1 of (B, L, E)), attention_scores (M of (B, H, L, L)), logits (B, C), each or
        None. labels (B,) int. layer_map: see loss.teacher_layers.
        """
        inputs = self._checked(input_ids, attention_mask, token_type_ids)
        teacher_out = _in_dtype(teacher_out, self.tree["distill_map"]["weight"].dtype)
        self._check_targets(inputs[0].shape, teacher_out, temperature)
        labels = self._checked_labels(labels, len(inputs[0]))
        weights = loss.LossWeights(
            hidden=hidden, attention=attention, logits=logits, temperature=temperature, layer_map=layer_map
        )
        result = self.gradients(inputs, loss.Targets(teacher_out, labels), weights)
        return float(sum(result.terms.values())), dense_gradients(result.grads, self.parameters())

    def gradients(self, inputs, targets, weights=loss.LossWeights(), loop=Loop(), simulation=None, dropout=None):  # noqa: B008
        """Gradients of loss.distillation and spike_penalty, for inputs (ids, mask, segments) known to be right.

        simulation: a SpikingRun; then the loss is taken at simulated ASRs, in equal parts at each of its recorded steps
        and the last, and its cotangents are pulled back through the system linearised there (equilibrium.at_rates).
        dropout: an equilibrium.FrozenDropout, of attention weights and of what the two blocks of an encoder give out.
        """
        network = self._network(*inputs, dropout=dropout)
        times = 1 if simulation is None else len(checked_record(simulation.record, simulation.time_steps))
        shared = weights.shared(times)
        loss_at = lambda states, rates: self._loss_at(states, rates, targets, inputs[1], shared)  # noqa: E731
        lesson = Lesson(network, loss_at, loop, targets.totals or loss.Totals.of(inputs[1]))
        if simulation is None:
            return lesson.at_equilibrium(inner=weights.spikes > 0)
        run = functools.partial(self._simulate, network)
        if self.config.recurrent or simulation.resolved(self.config).drive == "instant":
            return lesson.at_simulated_rates(run, simulation)
        return lesson.while_simulated(run, simulation)

    def _loss_at(self, states, rates, targets, attention_mask, weights):
        """({term: value}, vjp) of loss.distillation at `states` and of loss.spike_penalty at `rates`.

        vjp(grads, shares) -> dhidden, dscores, dlogits, drates, and adds to grads; shares: see loss.distillation.
        """
        values, loss_vjp = loss.distillation(states, targets, attention_mask, self.tree["distill_map"], weights)
        if not weights.spikes:
            return values, lambda grads, shares: (*loss_vjp(grads, shares), None)
        value, spikes_vjp = loss.spike_penalty(rates, attention_mask, weights.spikes, targets.totals)
        return values | {"spikes": value}, lambda grads, shares: (*loss_vjp(grads, shares), spikes_vjp(shares))

    def simulate(
        self, input_ids, attention_mask=None, token_type_ids=None, time_steps=64, drive="differential", spikes=None,
        initial=None, record=(8, 16, 32, 64), margin=None, margin_decay=0.0, reset=None, window=None, count=False,
        probes=(), arithmetic="float",
    ):  # fmt: skip
        """Run `time_steps` steps spike by spike: a simulate.Simulation.

        spikes: "binary", "corrective", "signed" (None: the config's); initial: membranes at the start as a fraction
        of v_th (None: 0.5; of leaky neurons, which forget it, how far below v_th they fire: see neuron.levels); record:
        time steps whose logits are kept, besides the last; margin: an example whose best logit leads by margin /
        t^margin_decay at a recorded step t stops there (anytime inference; None: all run to the end); reset: "soft",
        "hard" (None: the config's); window: how many more spikes a neuron must be short of, or ahead by, than half a
        one to fire (None: the config's); count: count all operations (Simulation.operations); probes: a probes.Probe
        for each population of which more is to be recorded (Simulation.probes); arithmetic: "float", or "integer" where
        all operators are shifts and the layers' weights ternary or binary: whole numbers only from the first step to
        the last (integer_run).
        """
        inputs = self._checked(input_ids, attention_mask, token_type_ids)
        how = SpikingRun(
            time_steps=time_steps, drive=drive, spikes=spikes, initial=initial, reset=reset, window=window,
            record=tuple(record), margin=margin, margin_decay=margin_decay, count=count, probes=tuple(probes),
            arithmetic=arithmetic,
        )  # fmt: skip
        return self.run(inputs, how)

    def require_run(self, how):
        """InputError where a SpikingRun is not for this student, or in integers not for so many time steps."""
        if self.config.activation == "ann" and how.arithmetic == "float":
            return
        how = how.resolved(self.config)
        if how.arithmetic == "integer":
            constants_for(self.computing(), how)

    def run(self, inputs, how):
        """The Simulation of a SpikingRun, for inputs (ids, mask, segments) that are known to be right."""
        known = bert.populations(self.config)
        if unknown := [probe.population for probe in how.probes if probe.population not in known]:
            raise InputError(f"probes: found {', '.join(unknown)}, expected some of {', '.join(known)}")
        return self.prepared(how)(inputs)

    def prepared(self, how):
        """run(inputs) -> Simulation of a SpikingRun, with what no input changes done once, such as low-bit weights and
        integers: whoever changes weights prepares anew. InputError where it is not for this student; see require_run.
        """
        self._require_spikes()
        how, student = how.resolved(self.config), self.computing()
        if how.arithmetic != "integer":
            # on a GPU a whole encoder is fused, which is faster than a part of one that is not
            alone = how.logits_alone and not self.config.recurrent and self.device == "cpu"
            return lambda inputs: student._simulate(replace(student._network(*inputs), first_alone=alone), how)
        constants, network = constants_for(student, how), None
        if twins.integers(self.config):
            from .integer_fused import FusedNetwork as network
        found = lambda inputs: simulate_integer(student, constants, inputs, how, network)  # noqa: E731
        return lambda inputs: _with_lines(found(inputs), self.config, student.tree, how)

    def _require_spikes(self):
        if self.config.activation == "ann":
            raise InputError("simulate: this student is an ordinary BERT (activation ann): it has no spikes")

    def _simulate(self, network, how, learn=None):
        self._require_spikes()
        neurons = Neurons(how, self.config, settling.thresholds(self.tree))
        return _with_lines(simulate(network, neurons, learn), self.config, network.tree, how)

    def _check_targets(self, shape, out, temperature):
        """InputError unless a teacher's output has the shapes that the losses need."""
        width = self.tree["distill_map"]["bias"].shape[0]
        for name, arrays, expected in (
            ("hidden_states", out.hidden_states or (), (*shape, width)),
            ("attention_scores", out.attention_scores or (), (shape[0], None, shape[1], shape[1])),
            ("logits", () if out.logits is None else (out.logits,), (shape[0], self.config.num_labels)),
        ):
            for a in arrays:
                if len(a.shape) != len(expected) or any(
                    e not in (None, n) for n, e in zip(a.shape, expected, strict=True)
                ):
                    raise InputError(f"teacher_out.{name}: found shape {a.shape}, expected {expected}")
        if out.hidden_states and out.attention_scores and len(out.hidden_states) != len(out.attention_scores) + 1:
            found = f"{len(out.hidden_states)} hidden states and {len(out.attention_scores)} attention scores"
            raise InputError(f"teacher_out: found {found}, expected one more of the former")
        if not 0 < temperature < math.inf:
            raise InputError(f"temperature: found {temperature}, expected above 0")

    def _checked_labels(self, labels, batch):
        if labels is None:
            return None
        labels, classes = library(self.device).asarray(labels), self.config.num_labels
        if labels.shape != (batch,):
            raise InputError(f"labels: found shape {labels.shape}, expected ({batch},)")
        if classes > 1 and (labels.dtype.kind not in "iu" or int(labels.min()) < 0 or int(labels.max()) >= classes):
            raise InputError(f"labels: found {labels.dtype} {labels}, expected whole numbers from 0 to {classes - 1}")
        return labels

    def _network(self, *inputs, dropout=None):
        return equilibrium.Network.on(self.computing().tree, self.config, *inputs, dropout)

    def _checked(self, input_ids, attention_mask, token_type_ids):
        return checked_inputs(self.config, library(self.device), input_ids, attention_mask, token_type_ids)


def _with_lines(found, config, tree, how):
    """The Simulation of a SpikingRun, with the operations of its counts, if it has any; tree: what it computed with."""
    if found.counts is None:
        return found
    how = how.resolved(config)
    steps, neuron = None if how.margin is not None else how.time_steps, Neuron.of(how.spikes, config.leak)

    def counted():
        done = parts(config, tree, how.drive)
        return lines(in_integers(done) if how.arithmetic == "integer" else done, found.counts, neuron, steps)

    return replace(found, lines=counted)


def _in_dtype(out, dtype):
    """A teacher's output in the student's dtype: the teacher may have computed in another."""
    cast = lambda arrays: None if arrays is None else [a.astype(dtype, copy=False) for a in arrays]  # noqa: E731
    logits = None if out.logits is None else out.logits.astype(dtype, copy=False)
    return TeacherOutput(cast(out.hidden_states), cast(out.attention_scores), logits)


def mean_rate(equilibrium, attention_mask):
    """Mean firing rate over all neurons of real tokens, a float: spikes per neuron and time step."""
    spikes = sum((abs(rates).sum(axis=2) * attention_mask).sum() for rates in equilibrium.rates.values())
    neurons = attention_mask.sum() * sum(rates.shape[2] for rates in equilibrium.rates.values())
    return float(spikes / neurons)


def fresh_distill_map(shape, config):
    """distill_map's weight or bias to start with: rates times their threshold are what a teacher's layers hand on."""
    v_th = 1.0 if config.activation == "ann" else config.v_th
    return v_th * np.eye(*shape) if len(shape) == 2 else np.zeros(shape)
