"""The student's equilibrium: the map, its fixed point, and the gradient through it.

All neurons settle where their rates reproduce themselves. Where nothing returns, one sweep of the encoders *is* that
equilibrium and one reverse sweep its exact adjoint. With a path on which rates return (recurrence.py), z = F(z), z the
rates that do, the last encoder's, and F one sweep; the gradient needs mu with (I - K^T) mu = b, K = dF/dz, each product
one reverse sweep without parameter gradients (the reduced adjoint; Xiao et al. 2021, arXiv 2109.14247, for the idea).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arrays import ops
from ..arrays.backend import namespace
from ..arrays.tree import child
from ..config.errors import InputError
from ..solvers.adjoint import Code, fixed_point, solve_adjoint
from . import bert, recurrence
from .settling import Inhibited, Recorder, rate_neurons, score_scale, thresholds


@dataclass(frozen=True, kw_only=True)
class Loop:
    """How the loop of a student is solved and kept in order while it trains; without one, nothing here matters.

    forward_solver: a method of fixed_point. adjoint_solver, adjoint_rtol: of solve_adjoint (rtol None: the dtype's).
    drop_failed: an example whose equilibrium was not found adds nothing to the gradient (its cotangents are times 0,
    the means divide by what they did), and one whose adjoint system was not solved adds the gradient at constant
    feedback. jacobian_penalty: weight of penalty.jacobian_penalty, with random directions from `seed`.
    """

    forward_solver: str = "anderson"
    adjoint_solver: str = "gmres"
    adjoint_rtol: float | None = None
    drop_failed: bool = False
    jacobian_penalty: float = 0.0
    seed: Any = 0


FORWARD_RTOL = {"float32": 1e-5, "float64": 1e-13}
ADJOINT_RTOL = {"float32": 1e-4, "float64": 1e-10}


def parameter_shapes(config):
    """{name: shape} of a student's tensors: BERT's without pooler, distill_map, and those of its return paths.

    Thresholds of single populations come on top where a student has them: see settling.threshold_shapes.
    """
    shapes = bert.parameter_shapes(config, labels=config.num_labels)
    target = config.teacher_hidden_size or config.hidden_size
    shapes |= {"distill_map.weight": (target, config.hidden_size), "distill_map.bias": (target,)}
    return shapes | recurrence.parameter_shapes(config)


class FrozenDropout:
    """Dropout of a whole solve: masks drawn in its first sweep and kept for all others, so that F stays one function.

    generator: the library's random generator.
    """

    def __init__(self, probability, generator):
        self.probability, self.generator, self.scales = probability, generator, []

    def sweep(self):
        """The `drop` of one sweep (see bert.encoders): the n-th call of every sweep uses the n-th mask."""
        numbers = itertools.count()

        def drop(x):
            number = next(numbers)
            if number == len(self.scales):
                self.scales.append(ops.dropout_scale(x, self.probability, self.generator))
            return ops.scaled(x, self.scales[number])

        return drop

    def keep(self, rows):
        """That of some examples of the batch, of which it has drawn all masks."""
        kept = FrozenDropout(self.probability, self.generator)
        kept.scales = [scale[rows] for scale in self.scales]
        return kept


@dataclass(frozen=True)
class Sweep(bert.Trace):
    """A bert.Trace with a second vjp, None if nothing was fed back.

    return_vjp(dhidden, dscores=None, grads=None, drates=None) -> cotangents of fed_back and of the embedding current;
    the latter is None where it is not needed: if no path leads to the embedding, and without grads.
    """

    return_vjp: Callable | None = None


@dataclass(frozen=True)
class Network:
    """A student on one batch: what is left to choose is what its neurons do (`fire`) and what is fed back.

    current, embed_vjp: the embedding current e (B, L, D) and its vjp. mask (B, L). dropout: a FrozenDropout.
    first_alone: the last encoder's output is wanted of the first tokens only.
    """

    tree: dict
    config: Any
    current: Any
    embed_vjp: Any
    mask: Any
    dropout: FrozenDropout | None = None
    first_alone: bool = False

    @classmethod
    def on(cls, tree, config, input_ids, attention_mask, token_type_ids, dropout=None):
        current, vjp = bert.embeddings(
            input_ids, token_type_ids, tree["embeddings"], bert.operators(config).embedding_norm
        )
        return cls(tree, config, current, vjp, attention_mask, dropout)

    def sweep(self, fire, fed_back=None, differentiable=True):
        """All populations once: a Sweep. fed_back (B, L, D): activity of the last encoder that returns.

        Its vjp gives the cotangent of the embedding current; it is None if not differentiable, which saves memory.
        """
        current = self.current
        if fed_back is None:
            trace = self._encoders(current, fire, differentiable)
            return Sweep(trace.hidden_states, trace.attention_scores, trace.vjp)
        returned, embedding_vjp = self.return_current(fed_back)
        inhibition, inhibition_vjp = recurrence.to_output(fed_back, self.config, self.tree)
        if returned is not None:
            current = current + returned
        if inhibition is not None:
            fire = Inhibited(fire, self.last, inhibition)
        trace = self._encoders(current, fire, differentiable)

        def return_vjp(dhidden, dscores=None, grads=None, drates=None):
            dz, dcurrent = [], None
            if returned is not None or grads is not None:
                dcurrent = trace.vjp(dhidden, dscores, grads, drates)
            if returned is not None:
                dz.append(embedding_vjp(dcurrent, grads))
            if inhibition is not None and dhidden[-1] is not None:
                dz.append(inhibition_vjp(fire.vjp(dhidden[-1]), grads))
            return sum(dz[1:], dz[0]) if dz else fed_back * 0, dcurrent

        return Sweep(trace.hidden_states, trace.attention_scores, trace.vjp, return_vjp if differentiable else None)

    def _encoders(self, current, fire, differentiable):
        drop = self.dropout.sweep() if self.dropout else ops.identity
        scale = score_scale(self.config, thresholds(self.tree))
        flow = bert.Flow(fire=fire, drop=drop, drop_attention=drop, scale_query=scale)
        layers, of = self.tree["encoder"]["layer"], bert.FIRST if self.first_alone else bert.ALL
        return bert.encoders(current, layers, self.config, self.mask, flow, differentiable, of)

    @property
    def last(self):
        """The population whose activity returns."""
        return f"encoder.{self.config.num_hidden_layers - 1}.output"

    def keep(self, rows):
        """The network on some examples of the batch (rows: their indices); not differentiable."""
        dropout = self.dropout and self.dropout.keep(rows)
        return replace(self, current=self.current[rows], embed_vjp=None, mask=self.mask[rows], dropout=dropout)

    def repeated(self, times):
        """The network on so many copies of the batch, one after the other; not differentiable, without dropout."""
        tile = namespace(self.mask).tile
        current, mask = tile(self.current, (times, 1, 1)), tile(self.mask, (times, 1))
        return replace(self, current=current, embed_vjp=None, mask=mask)

    def rate_neurons(self):
        return rate_neurons(self.config, thresholds(self.tree))

    def state(self, last):
        """z: what returns of the last encoder's activity (B, L, D), padding at 0; (B, 1, D) if one token's alone."""
        tokens = 1 if self.config.feedback_from == "cls" and not self.config.lateral else last.shape[1]
        return last[:, :tokens] * self.mask[:, :tokens].astype(last.dtype)[:, :, None]

    def state_vjp(self, dz):
        """Cotangent of the last encoder's activity (B, L, D) from that of z."""
        dlast = namespace(dz).zeros(self.current.shape, dz.dtype)
        dlast[:, : dz.shape[1]] = dz
        return dlast

    def return_current(self, fed_back):
        """What returns to the embedding neurons, with its vjp."""
        return recurrence.to_embedding(fed_back, self.config, self.tree)

    def pull_back(self, sweep, dhidden, dscores, grads, drates=None):
        """Add to `grads` what one Sweep with constant fed_back owes to the parameters; see Trace.vjp."""
        _, dcurrent = sweep.return_vjp(dhidden, dscores, grads, drates)
        self.embed_vjp(dcurrent, child(grads, "embeddings"))

    def classify(self, last):
        """Logits (B, C) of the last encoder's activity (B, L, D), with the vjp."""
        return bert.classify(last, self.tree)


@dataclass(frozen=True)
class Equilibrium:
    """rates: population -> (B, L, width). hidden_states: N+1 of (B, L, D). attention_scores: N of (B, H, L, L).

    logits (B, C). residual: |F(z) - z| / |F(z)| of the worst example, 0 without feedback; residuals, codes (B,): each
    example's, see solvers.Solution. iterations: sweeps it took.
    """

    rates: dict
    hidden_states: list
    attention_scores: list
    logits: Any
    residual: float
    residuals: np.ndarray
    codes: np.ndarray
    iterations: int
    converged: bool
    message: str


def solve(network, rtol=None, differentiable=True, forward_solver="anderson", inner=False):
    """The equilibrium of a Network: (Equilibrium, vjp). forward_solver: a method of solvers.fixed_point.

    vjp(dhidden, dscores, dlogits, grads, loop=Loop(), drates=None) fills `grads` with the exact gradient and returns
    the adjoint Solution, or None without feedback. drates: {population: cotangent}, which needs inner=True.
    """
    require_soft_reset(network.config)
    settled = network.rate_neurons()
    fire = Recorder((lambda name, current: settled(name, current)) if inner else settled)  # a plain one: no fused twin
    found, fed_back = None, None
    if network.config.recurrent:
        found = _loop(network, rtol, forward_solver)
        fed_back = found.x
    trace = network.sweep(fire, fed_back, differentiable)
    logits, head_vjp = network.classify(trace.hidden_states[-1])
    equilibrium = Equilibrium(
        fire.rates,
        trace.hidden_states,
        trace.attention_scores,
        logits,
        found.residual if found else 0.0,
        found.residuals if found else np.zeros(len(logits)),
        found.codes if found else np.zeros(len(logits), np.int8),
        found.iterations + 1 if found else 1,
        found.converged if found else True,
        found.message if found else "",
    )

    return equilibrium, _pull_back(network, trace, fed_back, head_vjp)


def require_soft_reset(config):
    """InputError for a student that has no equilibrium."""
    if config.reset == "hard":
        raise InputError(
            "reset hard: found a student without an equilibrium to solve for or to train: under a constant current I "
            "its neurons settle at 1 / ceil(v_th / I), which has no slope; use soft (a hard reset can be simulated)"
        )


def at_rates(network, rates):
    """A Network whose populations are held at `rates` {population: array}, such as those of a simulation.

    Returns ((hidden states, attention scores, logits), vjp). vjp is that of `solve`, linearised at these rates: it goes
    straight through what made them, as if each were what its current settles at (the published procedure).
    """
    settled = network.rate_neurons()
    fed_back = network.state(rates[network.last]) if network.config.recurrent else None
    sweep = network.sweep(lambda name, current: (rates[name], settled(name, current)[1]), fed_back)
    return at_sweep(network, sweep, fed_back)


def at_sweep(network, sweep, fed_back=None):
    """What `at_rates` returns, of a Sweep of the network with the slopes of the equilibrium."""
    logits, head_vjp = network.classify(sweep.hidden_states[-1])
    return (sweep.hidden_states, sweep.attention_scores, logits), _pull_back(network, sweep, fed_back, head_vjp)


def _pull_back(network, trace, fed_back, head_vjp):
    """The vjp of `solve` at a Sweep of the network and the vjp of its logits."""

    def vjp(dhidden, dscores, dlogits, grads, loop=Loop(), drates=None):  # noqa: B008
        dhidden, drates = list(dhidden), dict(drates or {})
        for i, name in enumerate(["embedding", *(f"encoder.{i}.output" for i in range(len(dhidden) - 1))]):
            own = drates.pop(name, None)
            if own is not None:
                dhidden[i] = own if dhidden[i] is None else dhidden[i] + own
        if dlogits is not None:
            dlast = head_vjp(dlogits, grads)
            dhidden[-1] = dlast if dhidden[-1] is None else dhidden[-1] + dlast
        if fed_back is None:
            network.embed_vjp(trace.vjp(dhidden, dscores, grads, drates), child(grads, "embeddings"))
            return None
        adjoint = _adjoint(network, trace, (dhidden, dscores, None, drates), loop)
        mu = adjoint.x
        if loop.drop_failed and (adjoint.codes > Code.TRUNCATED).any():
            solved = namespace(mu).asarray(adjoint.codes <= Code.TRUNCATED)
            mu = namespace(mu).where(solved[:, None, None], mu, 0)
        dlast = network.state_vjp(mu)
        dhidden[-1] = dlast if dhidden[-1] is None else dhidden[-1] + dlast
        network.pull_back(trace, dhidden, dscores, grads, drates)
        return adjoint

    return vjp


def _loop(network, rtol, method):
    """z = F(z) by solvers.fixed_point, padding held at 0."""
    fire, config = network.rate_neurons(), network.config
    low = -1 if config.spikes == "signed" else 0
    return fixed_point(
        lambda z: network.state(network.sweep(fire, z, differentiable=False).hidden_states[-1]),
        network.state(network.current * 0),
        rtol=rtol or FORWARD_RTOL[str(network.current.dtype)],
        method=method,
        box=None if config.activation == "ann" else (low, 1),
    )


def _adjoint(network, sweep, cotangents, loop):
    """The Solution mu of (I - K^T) mu = b, b the cotangent with which the loss arrives at z through what returns.

    cotangents: the arguments of Sweep.return_vjp.
    """
    nowhere = [None] * (len(sweep.hidden_states) - 1)

    def jacobian_transposed(mu):
        return masked(sweep.return_vjp([*nowhere, network.state_vjp(mu)])[0])

    def masked(dz):
        return dz * network.mask[:, : dz.shape[1]].astype(dz.dtype)[:, :, None]

    b = masked(sweep.return_vjp(*cotangents)[0])
    rtol = loop.adjoint_rtol or ADJOINT_RTOL[str(b.dtype)]
    return solve_adjoint(jacobian_transposed, b, loop.adjoint_solver, rtol)
